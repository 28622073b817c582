//! The weights of the forward pass: a model that has been checked against its architecture, and the
//! packed weights of one layer.

use super::attention::Heads;
use super::memory::MemoryNeeds;
use super::rope::RopeTable;
use crate::base::error::{Error, Result};
use crate::base::mmap;
use crate::formats::gguf::{GgufModel, scaled_weight, weight_scale};
use crate::formats::source::{TensorData, TensorSource};
use crate::kernels::{Multiply, NonFinite, PackedMatrix, Precision, Rows, Spare, multiply, scale};
use crate::model::arch::{Architecture, HyperParams, Role, RopeScaling};
use crate::quants;
use std::ops::Range;

const EMBEDDING: &str = "token_embd.weight";
const TOKENS: &str = "tokenizer.ggml.tokens";
const HEAD: &str = "output.weight";
/// The divisors of rotary frequencies: for all texts, for texts within the original context, and
/// for longer texts.
const ROPE_FACTORS: &str = "rope_freqs.weight";
const ROPE_SHORT: &str = "rope_factors_short.weight";
const ROPE_LONG: &str = "rope_factors_long.weight";
/// The name endings of tensors in old files that hold no weights.
const IGNORED: &[&str] = &[".attn_rot_embd.weight", ".attn_rot_embd"];

/// A model that has exactly the tensors of its architecture, in the right shapes.
pub(super) struct CheckedModel<'a> {
    tensors: &'a dyn TensorSource,
    pub arch: &'static Architecture,
    pub hyper: HyperParams,
    /// The precision of products with the weights.
    precision: Precision,
    /// Buffers of dropped layers, for reuse.
    spare: Spare,
}

impl<'a> CheckedModel<'a> {
    /// Checks `model` against its architecture.
    ///
    /// # Errors
    /// If metadata or tensors do not fit.
    pub(super) fn new(model: &'a GgufModel, precision: Precision) -> Result<CheckedModel<'a>> {
        let tensors = model.tensors.as_ref();
        let origin = tensors.origin();
        let hyper = HyperParams::from_gguf(model)?;
        let arch = Architecture::for_metadata(origin, &model.metadata)?;
        let name = arch.gguf_name;
        let count = |suffix: &str| {
            model.metadata.u64(&format!("{name}.{suffix}")).map(|n| n.try_into().unwrap_or(0))
        };
        if count("attention.value_length").is_some_and(|n: usize| n != hyper.head_dim) {
            let detail = "values and keys of different lengths are not supported";
            return Err(Error::model(origin, detail));
        }
        let checked = CheckedModel { tensors, arch, hyper, precision, spare: Spare::default() };
        checked.check_tensors()?;
        checked.check_vocabulary(model)?;
        Ok(checked)
    }

    /// Fails if a tensor of the architecture is missing or has another shape, or if another tensor
    /// may hold weights: ignoring it would make results wrong.
    fn check_tensors(&self) -> Result<()> {
        let (arch, origin, table) = (self.arch, self.origin(), self.tensors.table());
        for decl in arch.tensors {
            let layers = if decl.role == Role::Layer { self.hyper.n_layer } else { 1 };
            let missing = |layer: &usize| table.get(&decl.gguf_name(*layer)).is_none();
            if let Some(layer) = (0..layers).find(missing).filter(|_| !decl.optional) {
                return Err(Error::tensor(origin, decl.gguf_name(layer), "not in the model"));
            }
        }
        for info in table.infos() {
            let expected = match arch.match_gguf(&info.name) {
                Some((_, Some(layer))) if layer >= self.hyper.n_layer => continue,
                Some((decl, _)) => decl.gguf_shape(&self.hyper),
                None if [ROPE_FACTORS, ROPE_SHORT, ROPE_LONG].contains(&info.name.as_str()) => {
                    vec![self.hyper.rope_dims / 2]
                }
                None if scaled_weight(table, &info.name).is_some() => {
                    vec![scaled_weight(table, &info.name).map_or(1, |weight| weight.matrices())]
                }
                None if IGNORED.iter().any(|end| info.name.ends_with(end)) => continue,
                None => {
                    let detail = format!(
                        "architecture '{}' does not know this tensor, so results would be wrong",
                        arch.gguf_name
                    );
                    return Err(Error::tensor(origin, &info.name, detail));
                }
            };
            if info.shape != expected {
                let detail = format!("has shape {:?}, not {expected:?}", info.shape);
                return Err(Error::tensor(origin, &info.name, detail));
            }
            if !quants::can_decode(info.dtype) {
                let detail = format!("type {} cannot be decoded", info.dtype);
                return Err(Error::tensor(origin, &info.name, detail));
            }
        }
        Ok(())
    }

    /// Fails if the embedding does not have one row for each token. llama.cpp does not load such
    /// models.
    fn check_vocabulary(&self, model: &GgufModel) -> Result<()> {
        let tokens = model.metadata.strings(TOKENS).map_or(self.hyper.n_vocab, <[String]>::len);
        if tokens == self.hyper.n_vocab {
            return Ok(());
        }
        let detail = format!(
            "{} rows for the {tokens} tokens of the vocabulary ('{TOKENS}'): embedding and tokenizer \
             belong to different models",
            self.hyper.n_vocab
        );
        Err(Error::tensor(self.origin(), EMBEDDING, detail))
    }

    pub(super) fn origin(&self) -> &str {
        self.tensors.origin()
    }

    /// The memory that a pass needs.
    pub(super) fn memory_needs(&self) -> MemoryNeeds {
        let tensors = self.tensors;
        let working = (0..tensors.table().infos().len()).map(|index| tensors.working_bytes(index));
        let reading = working.max().unwrap_or(0);
        MemoryNeeds::new(&self.hyper, tensors.table(), self.precision, reading)
    }

    /// Frees the buffers that dropped layers have left for later ones.
    pub(super) fn layers_are_done(&self) {
        self.spare.clear();
    }

    /// The attention heads of layers with a window (`windowed`) or without one.
    pub(super) fn heads(&self, windowed: bool) -> Heads {
        let HyperParams { n_head, n_head_kv, head_dim, .. } = self.hyper;
        let (scale, soft_cap) = (self.hyper.score_scale(), self.hyper.attention_soft_cap);
        let window = self.hyper.window.filter(|_| windowed);
        Heads { n_head, n_head_kv, head_dim, scale, soft_cap, window }
    }

    /// The name of the tensor that turns hidden states into logits.
    pub(super) fn head_name(&self) -> &'static str {
        if self.hyper.tied { EMBEDDING } else { HEAD }
    }

    /// Rotary angles for chunks of up to `positions` tokens.
    pub(super) fn ropes(&self, positions: usize) -> Result<RopeTables> {
        let hyper = &self.hyper;
        let by_length = if positions > hyper.original_context { ROPE_LONG } else { ROPE_SHORT };
        let found =
            [ROPE_FACTORS, by_length].into_iter().find(|n| self.tensors.table().get(n).is_some());
        let factors = found.map(|name| self.vector(name)).transpose()?;
        if factors.is_none() && matches!(hyper.rope_scaling, RopeScaling::LongRope { .. }) {
            let detail = "not in the model, although its metadata scale rotary frequencies with it";
            return Err(Error::tensor(self.origin(), by_length, detail));
        }
        let pairing = self.arch.block.pairing;
        let local = hyper
            .local_rope_theta
            .map(|theta| RopeTable::local(hyper.rope_dims, pairing, theta, positions));
        Ok(RopeTables { all: RopeTable::new(hyper, pairing, factors.as_deref(), positions), local })
    }

    /// Passes the embeddings of each of `groups` to `done`: one row for each token of its chunks.
    pub(super) fn embed<'t>(
        &self,
        groups: impl Iterator<Item = &'t [Vec<u32>]>,
        mut done: impl FnMut(usize, Vec<f32>) -> Result<()>,
    ) -> Result<()> {
        let data = self.embedding()?;
        for (group, chunks) in groups.enumerate() {
            let tokens = chunks.iter().map(Vec::len).sum();
            done(group, self.embed_rows(&data, tokens, chunks.iter().flatten())?)?;
        }
        mmap::release_pages(&data.bytes);
        Ok(())
    }

    /// The embeddings of all tokens, for [`CheckedModel::embed_rows`].
    pub(super) fn embedding(&self) -> Result<TensorData<'a>> {
        self.read(EMBEDDING)
    }

    /// The embeddings of `count` tokens, from the embedding tensor `data`.
    pub(super) fn embed_rows<'t>(
        &self,
        data: &TensorData<'_>,
        count: usize,
        tokens: impl Iterator<Item = &'t u32>,
    ) -> Result<Vec<f32>> {
        let n_embd = self.hyper.n_embd;
        let mut out = vec![0.0; count * n_embd];
        for (&token, row) in tokens.zip(out.chunks_exact_mut(n_embd)) {
            self.decode_rows(EMBEDDING, data, token as usize, row)?;
            if self.hyper.embedding_scale != 1.0 {
                scale(row, self.hyper.embedding_scale);
            }
        }
        Ok(out)
    }

    /// The vector `name` in f32.
    pub(super) fn vector(&self, name: &str) -> Result<Vec<f32>> {
        self.read(name)?.to_f32().map_err(|e| Error::tensor(self.origin(), name, e.to_string()))
    }

    /// The matrix `name`, decoded and packed, with its bias if it has one.
    pub(super) fn linear(&self, name: String) -> Result<LinearWeights> {
        let data = self.read(&name)?;
        let outputs = data.shape.first().copied().unwrap_or(0);
        let linear = self.part(&name, &data, 0..outputs)?;
        mmap::release_pages(&data.bytes);
        Ok(linear)
    }

    /// The parts of the fused matrix `name`: consecutive rows, `outputs` of them for each part.
    fn parts<const N: usize>(
        &self,
        name: String,
        outputs: [usize; N],
    ) -> Result<[LinearWeights; N]> {
        let data = self.read(&name)?;
        let mut first = 0;
        let mut parts = Vec::with_capacity(N);
        for count in outputs {
            parts.push(self.part(&name, &data, first..first + count)?);
            first += count;
        }
        mmap::release_pages(&data.bytes);
        Ok(parts.try_into().ok().expect("one part for each count"))
    }

    /// Rows `rows` of the matrix `name`, decoded and packed, with their biases.
    fn part(&self, name: &str, data: &TensorData<'_>, rows: Range<usize>) -> Result<LinearWeights> {
        let factor = weight_scale(self.tensors, name, 0)?;
        let weight = self.pack(name, (data, factor), rows.clone(), self.precision)?;
        let bias_name = name.replace(".weight", ".bias");
        let bias = match self.tensors.table().find(&bias_name) {
            Some(_) => Some(self.vector(&bias_name)?[rows].to_vec()),
            None => None,
        };
        Ok(LinearWeights { name: name.to_string(), weight, bias })
    }

    /// Rows `rows` of the matrix `name`, decoded, multiplied by `factor` and packed.
    fn pack(
        &self,
        name: &str,
        (data, factor): (&TensorData<'_>, f32),
        rows: Range<usize>,
        precision: Precision,
    ) -> Result<PackedMatrix> {
        let [_, inputs] = data.shape[..] else {
            return Err(Error::tensor(self.origin(), name, "is not a matrix"));
        };
        let fill = |part: Range<usize>, buffer: &mut [f32]| {
            self.decode_rows(name, data, rows.start + part.start, buffer)?;
            if factor != 1.0 {
                scale(buffer, factor);
            }
            Ok(())
        };
        PackedMatrix::pack(precision, rows.len(), inputs, &self.spare, fill)
    }

    /// The norm `name`, if the model has it.
    fn norm_if_there(&self, name: String) -> Result<Option<Norm>> {
        match self.tensors.table().get(&name) {
            Some(_) => Ok(Some(Norm { weight: self.vector(&name)?, name })),
            None => Ok(None),
        }
    }

    /// The weights of layer `index`, packed.
    pub(super) fn layer(&self, index: usize) -> Result<LayerWeights> {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let norm = |part: &str| -> Result<Norm> {
            Ok(Norm { name: name(part), weight: self.vector(&name(part))? })
        };
        let has = |part: &str| self.tensors.table().get(&name(part)).is_some();
        let (query, kv) = {
            let HyperParams { n_head, n_head_kv, head_dim, .. } = self.hyper;
            (n_head * head_dim, n_head_kv * head_dim)
        };
        let [attn_q, attn_k, attn_v] = match has("attn_qkv") {
            true => self.parts(name("attn_qkv"), [query, kv, kv])?,
            false => [
                self.linear(name("attn_q"))?,
                self.linear(name("attn_k"))?,
                self.linear(name("attn_v"))?,
            ],
        };
        Ok(LayerWeights {
            windowed: self.hyper.is_windowed(index),
            attn_norm: norm("attn_norm")?,
            attn_q,
            attn_k,
            attn_v,
            attn_q_norm: self.norm_if_there(name("attn_q_norm"))?,
            attn_k_norm: self.norm_if_there(name("attn_k_norm"))?,
            attn_output: self.linear(name("attn_output"))?,
            attn_post_norm: self.norm_if_there(name("post_attention_norm"))?,
            ffn_norm: norm("ffn_norm")?,
            feed_forward: match self.hyper.experts {
                Some(_) => FeedForward::Experts { router: self.router(name("ffn_gate_inp"))? },
                None => FeedForward::Gated(Box::new(self.gated(index)?)),
            },
            ffn_post_norm: self.norm_if_there(name("post_ffw_norm"))?,
        })
    }

    /// The feed-forward weights of layer `index`. If the gate has no tensor, it is the first half
    /// of the up projection.
    fn gated(&self, index: usize) -> Result<GatedWeights> {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let [gate, up] = match self.tensors.table().get(&name("ffn_gate")) {
            Some(_) => [self.linear(name("ffn_gate"))?, self.linear(name("ffn_up"))?],
            None => self.parts(name("ffn_up"), [self.hyper.n_ff; 2])?,
        };
        Ok(GatedWeights { gate, up, down: self.linear(name("ffn_down"))? })
    }

    /// The matrices of expert `expert` of layer `index`. The other experts of the stacks are not
    /// read.
    pub(super) fn expert(&self, index: usize, expert: usize) -> Result<GatedWeights> {
        let matrix = |part: &str| -> Result<LinearWeights> {
            let name = format!("blk.{index}.{part}.weight");
            let Some(place) = self.tensors.table().find(&name) else {
                return Err(Error::tensor(self.origin(), name, "not in the model"));
            };
            let data = self.tensors.read_matrix(place, expert)?;
            let outputs = data.shape[0];
            let factor = weight_scale(self.tensors, &name, expert)?;
            let weight = self.pack(&name, (&data, factor), 0..outputs, self.precision)?;
            mmap::release_pages(&data.bytes);
            Ok(LinearWeights { name, weight, bias: None })
        };
        let [gate, up, down] = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"].map(matrix);
        Ok(GatedWeights { gate: gate?, up: up?, down: down? })
    }

    /// The router of a layer. Its product is always f32: near a tie, rounding would choose other
    /// experts.
    fn router(&self, name: String) -> Result<LinearWeights> {
        let data = self.read(&name)?;
        let outputs = data.shape.first().copied().unwrap_or(0);
        let factor = weight_scale(self.tensors, &name, 0)?;
        let weight = self.pack(&name, (&data, factor), 0..outputs, Precision::F32)?;
        Ok(LinearWeights { name, weight, bias: None })
    }

    /// The norm before the head.
    pub(super) fn output_norm(&self) -> Result<Norm> {
        let name = "output_norm.weight".to_string();
        let weight = self.vector(&name)?;
        Ok(Norm { name, weight })
    }

    fn read(&self, name: &str) -> Result<TensorData<'a>> {
        self.tensors.read_name(name)
    }

    /// Decodes the rows of a matrix from row `first` on that fill `out`.
    fn decode_rows(
        &self,
        name: &str,
        data: &TensorData<'_>,
        first: usize,
        out: &mut [f32],
    ) -> Result<()> {
        let row_len = data.shape.last().copied().unwrap_or(1);
        let row_bytes = data.dtype.row_bytes(row_len);
        let bytes = row_bytes.and_then(|row| {
            let start = first.checked_mul(row)?;
            data.bytes.get(start..start.checked_add(out.len() / row_len * row)?)
        });
        let bytes = bytes.ok_or_else(|| {
            Error::tensor(self.origin(), name, "the data is shorter than its shape says")
        })?;
        quants::decode(data.dtype, bytes, out)
            .map_err(|e| Error::tensor(self.origin(), name, e.to_string()))
    }

    /// The number of values of tensor `name` that are not finite.
    fn non_finite_weights(&self, name: &str) -> Result<usize> {
        let Some(index) = self.tensors.table().find(name) else { return Ok(0) };
        let bad = |data: TensorData<'_>| -> Result<usize> {
            Ok(data.to_f32()?.iter().filter(|v| !v.is_finite()).count())
        };
        let pieces = 0..self.tensors.pieces(index);
        pieces.map(|piece| bad(self.tensors.read_piece(index, piece)?)).sum()
    }

    /// Explains why a result computed with tensor `name` is not finite, from its weights and its
    /// bias.
    pub(super) fn explain_non_finite(&self, name: &str) -> String {
        for name in [name.to_string(), name.replace(".weight", ".bias")] {
            if self.tensors.table().find(&name).is_none() {
                continue;
            }
            match self.non_finite_weights(&name) {
                Ok(0) => {}
                Ok(n) => {
                    return format!(
                        "{n} values of '{name}' are NaN or infinite: the file is damaged"
                    );
                }
                Err(error) => return error.to_string(),
            }
        }
        "the weights are finite, so activations overflow: the model is not usable as it is".into()
    }
}

/// The weights of a norm.
pub(super) struct Norm {
    pub name: String,
    pub weight: Vec<f32>,
}

/// A packed matrix and its bias.
pub(super) struct LinearWeights {
    pub name: String,
    pub weight: PackedMatrix,
    pub bias: Option<Vec<f32>>,
}

impl LinearWeights {
    /// `out = weight . x + bias`, or `out += weight . x + bias` if `accumulate`.
    ///
    /// # Errors
    /// The tensor's name and the place of the first output that is not finite.
    pub(super) fn multiply<'l>(
        &'l self,
        x: Rows<'_>,
        accumulate: bool,
        out: &mut [f32],
    ) -> Result<(), (&'l str, NonFinite)> {
        let how = Multiply { bias: self.bias.as_deref(), accumulate };
        multiply(x, &self.weight, how, out).map_err(|at| (self.name.as_str(), at))
    }
}

/// The weights of one transformer layer. Parts that some architectures lack are optional.
pub(super) struct LayerWeights {
    /// Whether attention is limited to a window.
    pub windowed: bool,
    pub attn_norm: Norm,
    pub attn_q: LinearWeights,
    pub attn_k: LinearWeights,
    pub attn_v: LinearWeights,
    /// The norm of each query head.
    pub attn_q_norm: Option<Norm>,
    /// The norm of each key head.
    pub attn_k_norm: Option<Norm>,
    pub attn_output: LinearWeights,
    /// The norm of attention's output, before it is added to the hidden states.
    pub attn_post_norm: Option<Norm>,
    pub ffn_norm: Norm,
    pub feed_forward: FeedForward,
    /// The norm of the feed-forward output, before it is added to the hidden states.
    pub ffn_post_norm: Option<Norm>,
}

/// The feed-forward part of a layer.
pub(super) enum FeedForward {
    /// One network for all tokens.
    Gated(Box<GatedWeights>),
    /// A mixture of experts, whose matrices are read one expert at a time, see
    /// [`CheckedModel::expert`].
    Experts { router: LinearWeights },
}

/// The weights of a gated feed-forward network: `down . (activation(gate . x) * (up . x))`.
pub(super) struct GatedWeights {
    pub gate: LinearWeights,
    pub up: LinearWeights,
    pub down: LinearWeights,
}

/// The rotary angles of a model's layers.
pub(super) struct RopeTables {
    all: RopeTable,
    /// The angles of layers with a window, if they differ.
    local: Option<RopeTable>,
}

impl RopeTables {
    /// The angles of layers with a window (`windowed`) or without one.
    pub(super) fn of(&self, windowed: bool) -> &RopeTable {
        self.local.as_ref().filter(|_| windowed).unwrap_or(&self.all)
    }
}
