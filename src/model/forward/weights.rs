//! What the forward pass reads: a model checked against its architecture, and one layer's weights.

use super::attention::Heads;
use super::memory::Needs;
use super::rope::RopeTable;
use crate::base::error::{Error, Result};
use crate::base::mmap;
use crate::formats::gguf::{GgufModel, scaled_weight, weight_scale};
use crate::formats::source::{TensorData, TensorSource};
use crate::kernels::{PackedMatrix, Precision, Spare, scale};
use crate::model::arch::{Architecture, HyperParams, Role, RopeScaling};
use crate::quants;
use std::ops::Range;

const EMBEDDING: &str = "token_embd.weight";
const TOKENS: &str = "tokenizer.ggml.tokens";
const HEAD: &str = "output.weight";
/// Divisors of rotary frequencies: for all texts; for those within the original context, and for longer ones.
const ROPE_FACTORS: &str = "rope_freqs.weight";
const ROPE_SHORT: &str = "rope_factors_short.weight";
const ROPE_LONG: &str = "rope_factors_long.weight";
/// Ends of names of tensors that old files carry and that hold no weights.
const IGNORED: &[&str] = &[".attn_rot_embd.weight", ".attn_rot_embd"];

/// A model whose tensors are all there, known and of the right shape.
pub(super) struct Checked<'a> {
    tensors: &'a dyn TensorSource,
    pub arch: &'static Architecture,
    pub hyper: HyperParams,
    /// Of products with the weights.
    precision: Precision,
    /// Memory of the layers before.
    spare: Spare,
}

impl<'a> Checked<'a> {
    pub(super) fn new(model: &'a GgufModel, precision: Precision) -> Result<Checked<'a>> {
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
        let checked = Checked { tensors, arch, hyper, precision, spare: Spare::default() };
        checked.check_tensors()?;
        checked.check_vocabulary(model)?;
        Ok(checked)
    }

    /// Every tensor of the architecture is there in its shape, and every other is known to hold
    /// nothing: an unknown weight would make the pass silently wrong.
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
                        "the forward pass of architecture '{}' does not know it, so results would \
                         be wrong",
                        arch.gguf_name
                    );
                    return Err(Error::tensor(origin, &info.name, detail));
                }
            };
            if info.shape != expected {
                let detail = format!("shape {:?}, where {expected:?} is needed", info.shape);
                return Err(Error::tensor(origin, &info.name, detail));
            }
            if !quants::can_decode(info.dtype) {
                let detail = format!("cannot compute with type {} yet", info.dtype);
                return Err(Error::tensor(origin, &info.name, detail));
            }
        }
        Ok(())
    }

    /// The embedding, whose shape is known to be right, has a row for each token. llama.cpp does not load
    /// models without.
    fn check_vocabulary(&self, model: &GgufModel) -> Result<()> {
        let tokens = model.metadata.strings(TOKENS).map_or(self.hyper.n_vocab, <[String]>::len);
        if tokens == self.hyper.n_vocab {
            return Ok(());
        }
        let detail = format!(
            "{} rows for the {tokens} tokens of the vocabulary ('{TOKENS}'): embedding and tokenizer are not \
             of one model",
            self.hyper.n_vocab
        );
        Err(Error::tensor(self.origin(), EMBEDDING, detail))
    }

    pub(super) fn origin(&self) -> &str {
        self.tensors.origin()
    }

    /// What a pass takes of memory.
    pub(super) fn needs(&self) -> Needs {
        let tensors = self.tensors;
        let working = (0..tensors.table().infos().len()).map(|index| tensors.working_bytes(index));
        let reading = working.max().unwrap_or(0);
        Needs::new(&self.hyper, tensors.table(), self.precision, reading)
    }

    /// Frees what layers that are gone have left for those to come.
    pub(super) fn layers_are_done(&self) {
        self.spare.clear();
    }

    /// The attention heads of a layer with a window, or of one without.
    pub(super) fn heads(&self, windowed: bool) -> Heads {
        let HyperParams { n_head, n_head_kv, head_dim, .. } = self.hyper;
        let (scale, soft_cap) = (self.hyper.score_scale(), self.hyper.attention_soft_cap);
        let window = self.hyper.window.filter(|_| windowed);
        Heads { n_head, n_head_kv, head_dim, scale, soft_cap, window }
    }

    /// The tensor that turns hidden states into logits.
    pub(super) fn head_name(&self) -> &'static str {
        if self.hyper.tied { EMBEDDING } else { HEAD }
    }

    /// Rotary angles for chunks of up to `positions` tokens.
    pub(super) fn ropes(&self, positions: usize) -> Result<Ropes> {
        let hyper = &self.hyper;
        let by_length = if positions > hyper.original_context { ROPE_LONG } else { ROPE_SHORT };
        let found =
            [ROPE_FACTORS, by_length].into_iter().find(|n| self.tensors.table().get(n).is_some());
        let factors = found.map(|name| self.vector(name)).transpose()?;
        if factors.is_none() && matches!(hyper.rope_scaling, RopeScaling::LongRope { .. }) {
            let detail = "not in the model, which scales rotary frequencies by it";
            return Err(Error::tensor(self.origin(), by_length, detail));
        }
        let pairing = self.arch.block.pairing;
        let local = hyper
            .local_rope_theta
            .map(|theta| RopeTable::local(hyper.rope_dims, pairing, theta, positions));
        Ok(Ropes { all: RopeTable::new(hyper, pairing, factors.as_deref(), positions), local })
    }

    /// Gives `done` the embeddings of each of `groups`: one row for each token of its chunks.
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

    /// The embeddings of all tokens, for [`Checked::embed_rows`].
    pub(super) fn embedding(&self) -> Result<TensorData<'a>> {
        self.read(EMBEDDING)
    }

    /// Rows of `data`, the embeddings, for `count` tokens.
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

    /// A whole tensor in f32; for vectors.
    pub(super) fn vector(&self, name: &str) -> Result<Vec<f32>> {
        self.read(name)?.to_f32().map_err(|e| Error::tensor(self.origin(), name, e.to_string()))
    }

    /// A matrix of the model, decoded and packed, with its bias if it has one.
    pub(super) fn linear(&self, name: String) -> Result<Linear> {
        let data = self.read(&name)?;
        let outputs = data.shape.first().copied().unwrap_or(0);
        let linear = self.part(&name, &data, 0..outputs)?;
        mmap::release_pages(&data.bytes);
        Ok(linear)
    }

    /// Consecutive rows of the fused matrix `name`, as many as `outputs` says for each part.
    fn parts<const N: usize>(&self, name: String, outputs: [usize; N]) -> Result<[Linear; N]> {
        let data = self.read(&name)?;
        let mut first = 0;
        let mut parts = Vec::with_capacity(N);
        for count in outputs {
            parts.push(self.part(&name, &data, first..first + count)?);
            first += count;
        }
        mmap::release_pages(&data.bytes);
        Ok(parts.try_into().ok().expect("one for each count"))
    }

    /// Rows `rows` of a matrix, decoded and packed, with their biases.
    fn part(&self, name: &str, data: &TensorData<'_>, rows: Range<usize>) -> Result<Linear> {
        let factor = weight_scale(self.tensors, name, 0)?;
        let weight = self.pack(name, (data, factor), rows.clone(), self.precision)?;
        let bias_name = name.replace(".weight", ".bias");
        let bias = match self.tensors.table().find(&bias_name) {
            Some(_) => Some(self.vector(&bias_name)?[rows].to_vec()),
            None => None,
        };
        Ok(Linear { name: name.to_string(), weight, bias })
    }

    /// Rows `rows` of a matrix, decoded, multiplied by `factor` and packed.
    fn pack(
        &self,
        name: &str,
        (data, factor): (&TensorData<'_>, f32),
        rows: Range<usize>,
        precision: Precision,
    ) -> Result<PackedMatrix> {
        let [_, inputs] = data.shape[..] else {
            return Err(Error::tensor(self.origin(), name, "no matrix"));
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

    /// Layer `index`, ready to multiply with.
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

    /// The gated feed-forward part of layer `index`; without a tensor of its own the gate is the first half
    /// of the up projection.
    fn gated(&self, index: usize) -> Result<Gated> {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let [gate, up] = match self.tensors.table().get(&name("ffn_gate")) {
            Some(_) => [self.linear(name("ffn_gate"))?, self.linear(name("ffn_up"))?],
            None => self.parts(name("ffn_up"), [self.hyper.n_ff; 2])?,
        };
        Ok(Gated { gate, up, down: self.linear(name("ffn_down"))? })
    }

    /// The matrices of expert `expert` of layer `index`; nothing else of their stacks is read.
    pub(super) fn expert(&self, index: usize, expert: usize) -> Result<Gated> {
        let matrix = |part: &str| -> Result<Linear> {
            let name = format!("blk.{index}.{part}.weight");
            let Some(place) = self.tensors.table().find(&name) else {
                return Err(Error::tensor(self.origin(), name, "not in the model"));
            };
            let data = self.tensors.read_matrix(place, expert)?;
            let outputs = data.shape[0];
            let factor = weight_scale(self.tensors, &name, expert)?;
            let weight = self.pack(&name, (&data, factor), 0..outputs, self.precision)?;
            mmap::release_pages(&data.bytes);
            Ok(Linear { name, weight, bias: None })
        };
        let [gate, up, down] = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"].map(matrix);
        Ok(Gated { gate: gate?, up: up?, down: down? })
    }

    /// The router of a layer. Its product is never rounded: near a tie that would send tokens to other
    /// experts.
    fn router(&self, name: String) -> Result<Linear> {
        let data = self.read(&name)?;
        let outputs = data.shape.first().copied().unwrap_or(0);
        let factor = weight_scale(self.tensors, &name, 0)?;
        let weight = self.pack(&name, (&data, factor), 0..outputs, Precision::F32)?;
        Ok(Linear { name, weight, bias: None })
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

    /// Decodes rows of a matrix from row `first` on, as many as `out` takes.
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
            Error::tensor(self.origin(), name, "the data is shorter than its shape")
        })?;
        quants::decode(data.dtype, bytes, out)
            .map_err(|e| Error::tensor(self.origin(), name, e.to_string()))
    }

    /// How many values of tensor `name` are not finite.
    fn non_finite_weights(&self, name: &str) -> Result<usize> {
        let Some(index) = self.tensors.table().find(name) else { return Ok(0) };
        let bad = |data: TensorData<'_>| -> Result<usize> {
            Ok(data.to_f32()?.iter().filter(|v| !v.is_finite()).count())
        };
        let pieces = 0..self.tensors.pieces(index);
        pieces.map(|piece| bad(self.tensors.read_piece(index, piece)?)).sum()
    }

    /// Why a result computed with tensor `name` may not be finite: what its weights and its bias hold.
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

/// A matrix, ready to multiply with, and its bias.
pub(super) struct Linear {
    pub name: String,
    pub weight: PackedMatrix,
    pub bias: Option<Vec<f32>>,
}

/// One transformer layer. Optional parts are those that its architecture lacks.
pub(super) struct LayerWeights {
    /// Attention sees a window only.
    pub windowed: bool,
    pub attn_norm: Norm,
    pub attn_q: Linear,
    pub attn_k: Linear,
    pub attn_v: Linear,
    /// Of each head.
    pub attn_q_norm: Option<Norm>,
    pub attn_k_norm: Option<Norm>,
    pub attn_output: Linear,
    /// Between the part and the sum that it is added to.
    pub attn_post_norm: Option<Norm>,
    pub ffn_norm: Norm,
    pub feed_forward: FeedForward,
    pub ffn_post_norm: Option<Norm>,
}

/// The feed-forward part of a layer.
pub(super) enum FeedForward {
    /// One network for all tokens.
    Gated(Box<Gated>),
    /// A mixture; the experts' matrices are read one expert at a time, see [`Checked::expert`].
    Experts { router: Linear },
}

/// `down . (activation(gate . x) * (up . x))`.
pub(super) struct Gated {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

/// Rotary angles of a model's layers.
pub(super) struct Ropes {
    all: RopeTable,
    /// Of layers with a window, where they differ.
    local: Option<RopeTable>,
}

impl Ropes {
    /// The angles of a layer with a window, or of one without.
    pub(super) fn of(&self, windowed: bool) -> &RopeTable {
        self.local.as_ref().filter(|_| windowed).unwrap_or(&self.all)
    }
}
