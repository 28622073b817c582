//! What the forward pass reads: a model checked against its architecture, and one layer's weights.

use super::attention::Heads;
use super::memory::Needs;
use super::rope::RopeTable;
use crate::arch::{Architecture, HyperParams, Role};
use crate::error::{Error, Result};
use crate::gguf::GgufModel;
use crate::kernels::{PackedMatrix, Precision, Spare};
use crate::mmap;
use crate::quants;
use crate::source::{TensorData, TensorSource};
use std::ops::Range;

const EMBEDDING: &str = "token_embd.weight";
const TOKENS: &str = "tokenizer.ggml.tokens";
const HEAD: &str = "output.weight";
const ROPE_FACTORS: &str = "rope_freqs.weight";
/// Ends of names of tensors that old files carry and that hold no weights.
const IGNORED: &[&str] = &[".attn_rot_embd.weight", ".attn_rot_embd"];

/// A model whose tensors are all there, known and of the right shape.
pub(super) struct Checked<'a> {
    tensors: &'a dyn TensorSource,
    pub hyper: HyperParams,
    /// Elements of a head that rotary embedding turns.
    rope_dims: usize,
    /// Of products with the weights.
    precision: Precision,
    /// Memory of the layers before.
    spare: Spare,
}

impl<'a> Checked<'a> {
    pub fn new(model: &'a GgufModel, precision: Precision) -> Result<Checked<'a>> {
        let tensors = model.tensors.as_ref();
        let origin = tensors.origin();
        let tied = tensors.table().get(HEAD).is_none();
        let hyper = HyperParams::from_metadata(origin, &model.metadata, tied)?;
        let name = model.metadata.str("general.architecture").unwrap_or_default();
        let arch = Architecture::for_gguf_name(origin, name)?;
        let count = |suffix: &str| {
            model.metadata.u64(&format!("{name}.{suffix}")).map(|n| n.try_into().unwrap_or(0))
        };
        let rope_dims = count("rope.dimension_count").unwrap_or(hyper.head_dim);
        if rope_dims == 0 || rope_dims > hyper.head_dim || rope_dims % 2 != 0 {
            let detail = format!("{rope_dims} rotary dimensions of {} cannot be", hyper.head_dim);
            return Err(Error::model(origin, detail));
        }
        if count("attention.value_length").is_some_and(|n: usize| n != hyper.head_dim) {
            let detail = "values and keys of different lengths are not supported";
            return Err(Error::model(origin, detail));
        }
        let checked = Checked { tensors, hyper, rope_dims, precision, spare: Spare::default() };
        checked.check_tensors(arch)?;
        checked.check_vocabulary(model)?;
        Ok(checked)
    }

    /// Every tensor of the architecture is there in its shape, and every other is known to hold
    /// nothing: an unknown weight would make the pass silently wrong.
    fn check_tensors(&self, arch: &'static Architecture) -> Result<()> {
        let (origin, table) = (self.origin(), self.tensors.table());
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
                Some((decl, _)) => decl.shape(&self.hyper),
                None if info.name == ROPE_FACTORS => vec![self.rope_dims / 2],
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

    pub fn origin(&self) -> &str {
        self.tensors.origin()
    }

    /// What a pass takes of memory.
    pub fn needs(&self) -> Needs {
        let tensors = self.tensors;
        let working = (0..tensors.table().infos().len()).map(|index| tensors.working_bytes(index));
        let reading = working.max().unwrap_or(0);
        Needs::new(&self.hyper, tensors.table(), self.precision, reading)
    }

    /// Frees what layers that are gone have left for those to come.
    pub fn layers_are_done(&self) {
        self.spare.clear();
    }

    pub fn heads(&self) -> Heads {
        let HyperParams { n_head, n_head_kv, head_dim, .. } = self.hyper;
        Heads { n_head, n_head_kv, head_dim }
    }

    /// The tensor that turns hidden states into logits.
    pub fn head_name(&self) -> &'static str {
        if self.hyper.tied { EMBEDDING } else { HEAD }
    }

    /// Rotary angles for chunks of up to `positions` tokens.
    pub fn rope(&self, positions: usize) -> Result<RopeTable> {
        let factors = match self.tensors.table().find(ROPE_FACTORS) {
            Some(_) => Some(self.vector(ROPE_FACTORS)?),
            None => None,
        };
        Ok(RopeTable::new(&self.hyper, self.rope_dims, factors.as_deref(), positions))
    }

    /// Gives `done` the embeddings of each of `groups`: one row for each token of its chunks.
    pub fn embed<'t>(
        &self,
        groups: impl Iterator<Item = &'t [Vec<u32>]>,
        mut done: impl FnMut(usize, Vec<f32>) -> Result<()>,
    ) -> Result<()> {
        let data = self.read(EMBEDDING)?;
        let n_embd = self.hyper.n_embd;
        for (group, chunks) in groups.enumerate() {
            let tokens: usize = chunks.iter().map(Vec::len).sum();
            let mut out = vec![0.0; tokens * n_embd];
            for (&token, row) in chunks.iter().flatten().zip(out.chunks_exact_mut(n_embd)) {
                self.decode_rows(EMBEDDING, &data, token as usize, row)?;
            }
            done(group, out)?;
        }
        mmap::let_go(&data.bytes);
        Ok(())
    }

    /// A whole tensor in f32; for vectors.
    pub fn vector(&self, name: &str) -> Result<Vec<f32>> {
        self.read(name)?.to_f32().map_err(|e| Error::tensor(self.origin(), name, e.to_string()))
    }

    /// A matrix of the model, decoded and packed, with its bias if it has one.
    pub fn linear(&self, name: String) -> Result<Linear> {
        let data = self.read(&name)?;
        let [outputs, inputs] = data.shape[..] else {
            return Err(Error::tensor(self.origin(), &name, "no matrix"));
        };
        let fill = |rows: Range<usize>, buffer: &mut [f32]| {
            self.decode_rows(&name, &data, rows.start, buffer)
        };
        let weight = PackedMatrix::pack(self.precision, outputs, inputs, &self.spare, fill)?;
        mmap::let_go(&data.bytes);
        let bias_name = name.replace(".weight", ".bias");
        let bias = match self.tensors.table().find(&bias_name) {
            Some(_) => Some(self.vector(&bias_name)?),
            None => None,
        };
        Ok(Linear { name, weight, bias })
    }

    /// Layer `index`, ready to multiply with.
    pub fn layer(&self, index: usize) -> Result<LayerWeights> {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let norm = |part: &str| -> Result<Norm> {
            Ok(Norm { name: name(part), weight: self.vector(&name(part))? })
        };
        Ok(LayerWeights {
            attn_norm: norm("attn_norm")?,
            attn_q: self.linear(name("attn_q"))?,
            attn_k: self.linear(name("attn_k"))?,
            attn_v: self.linear(name("attn_v"))?,
            attn_output: self.linear(name("attn_output"))?,
            ffn_norm: norm("ffn_norm")?,
            ffn_gate: self.linear(name("ffn_gate"))?,
            ffn_up: self.linear(name("ffn_up"))?,
            ffn_down: self.linear(name("ffn_down"))?,
        })
    }

    /// The norm before the head.
    pub fn output_norm(&self) -> Result<Norm> {
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

    /// Why a result computed with tensor `name` may not be finite: what its weights and its bias hold.
    pub fn explain_non_finite(&self, name: &str) -> String {
        for name in [name.to_string(), name.replace(".weight", ".bias")] {
            if self.tensors.table().find(&name).is_none() {
                continue;
            }
            match self.vector(&name).map(|w| w.iter().filter(|v| !v.is_finite()).count()) {
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

/// One transformer layer of the llama family.
pub(super) struct LayerWeights {
    pub attn_norm: Norm,
    pub attn_q: Linear,
    pub attn_k: Linear,
    pub attn_v: Linear,
    pub attn_output: Linear,
    pub ffn_norm: Norm,
    pub ffn_gate: Linear,
    pub ffn_up: Linear,
    pub ffn_down: Linear,
}
