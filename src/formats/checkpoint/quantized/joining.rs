//! What a method's reader works with: the stored tensors, those already used, and the tensors made
//! of them.

use super::settings::QuantSettings;
use super::source::{Decoder, FolderSource, TensorOrigin};
use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::weights::{StoredKind, StoredTensor, StoredTensors};
use crate::formats::source::{TensorInfo, TensorTable};

/// What runtimes keep beside quantized weights and plain weights do not need: the scales of
/// activations and of the cache.
const NOT_NEEDED: &[&str] = &[
    "input_scale",
    "input_zero_point",
    "input_global_scale",
    "input_scale_ub",
    "output_scale",
    "output_zero_point",
    "activation_scale",
    "qscale_act",
    "q_scale",
    "k_scale",
    "v_scale",
    "k_zero_point",
    "v_zero_point",
    "prob_scale",
    "kv_scale",
];

/// A tensor to be made of stored ones.
pub(super) struct Joined {
    /// Its plain Hugging Face name, such as `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// The stored tensors whose bytes the decoder gets, in this order. The first one gives the
    /// place in the order of tensors.
    pub parts: Vec<usize>,
    pub decoder: Box<dyn Decoder>,
}

/// The tensors of a folder while they are joined.
pub(super) struct Joining<'a> {
    stored: &'a StoredTensors,
    /// By stored tensor: whether it was used or is not needed.
    used: Vec<bool>,
    joined: Vec<Joined>,
    /// Whether scales of activations may be there, to be left out.
    quantized: bool,
    /// Stored tensors that cannot be joined, with why.
    problems: Vec<(String, String)>,
}

impl<'a> Joining<'a> {
    /// Nothing joined yet. `quantized`: whether the folder has or once had quantized weights.
    pub(super) fn new(stored: &'a StoredTensors, quantized: bool) -> Joining<'a> {
        let used = vec![false; stored.tensors().len()];
        Joining { stored, used, joined: Vec::new(), quantized, problems: Vec::new() }
    }

    /// All stored tensors with their indices.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (usize, &'a StoredTensor)> + use<'a> {
        self.stored.tensors().iter().enumerate()
    }

    /// The index of the stored tensor called `name`.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.stored.find(name)
    }

    pub(super) fn tensor(&self, index: usize) -> &'a StoredTensor {
        &self.stored.tensors()[index]
    }

    /// The data of a stored tensor, for small ones that decide what the others mean (shapes,
    /// indices).
    pub(super) fn bytes(&self, index: usize) -> std::borrow::Cow<'a, [u8]> {
        self.stored.bytes(index)
    }

    /// Whether the stored tensor was used already.
    pub(super) fn is_used(&self, index: usize) -> bool {
        self.used[index]
    }

    /// Adds a tensor; its parts are used from now on.
    pub(super) fn add(&mut self, joined: Joined) {
        joined.parts.iter().for_each(|&part| self.used[part] = true);
        self.joined.push(joined);
    }

    /// Leaves out a stored tensor that plain weights do not need.
    pub(super) fn leave_out(&mut self, index: usize) {
        self.used[index] = true;
    }

    /// Takes note that the weights stored as tensor `index` cannot be joined, and why. All of them
    /// become one error.
    pub(super) fn problem(&mut self, index: usize, why: impl Into<String>) {
        self.used[index] = true;
        self.problems.push((self.stored.tensors()[index].name.clone(), why.into()));
    }

    /// How many tensors have been made.
    pub(super) fn count(&self) -> usize {
        self.joined.len()
    }

    /// The source of the joined tensors and of all plain ones.
    ///
    /// # Errors
    /// One for all tensors that cannot be joined or have no place in plain weights.
    pub(super) fn finish(
        mut self,
        stored_origin: &str,
        settings: Option<&QuantSettings>,
    ) -> Result<JoinedTensors> {
        let (mut plain, mut packed) = (Vec::new(), Vec::new());
        for (index, tensor) in self.stored.tensors().iter().enumerate() {
            if self.used[index] || self.quantized && is_not_needed(&tensor.name) {
                continue;
            }
            match tensor.kind() {
                StoredKind::Float => plain.push(index),
                StoredKind::Buffer => {}
                StoredKind::Packed => packed.push(index),
            }
        }
        for index in packed {
            let dtype = self.stored.tensors()[index].dtype;
            self.problem(index, format!("type {dtype} cannot be read"));
        }
        if let Some((first, why)) = self.problems.first() {
            let method = match settings {
                Some(settings) => format!("weights quantized with {}", settings.describe()),
                None => "packed weights, of which config.json has no quantization_config,".into(),
            };
            let count = match self.problems.len() {
                1 => "1 tensor".to_string(),
                n => format!("{n} tensors"),
            };
            let detail = format!(
                "{method} cannot be read ({count}; '{first}': {why}); use the model's F32, F16 or \
                 BF16 weights"
            );
            return Err(Error::model(stored_origin, detail));
        }
        Ok(JoinedTensors { joined: self.joined, plain })
    }
}

/// Whether a tensor is one of [`NOT_NEEDED`] by the last part of its name: `k_scale`,
/// `gate_up_proj_input_scale`.
fn is_not_needed(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    NOT_NEEDED.iter().any(|suffix| {
        last.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
    })
}

/// What joining yields.
pub(super) struct JoinedTensors {
    joined: Vec<Joined>,
    /// Stored tensors that are plain weights.
    plain: Vec<usize>,
}

impl JoinedTensors {
    /// The source, in the order in which the data are stored. `quantization`: see
    /// [`crate::formats::source::TensorSource::quantization`].
    pub(super) fn into_source(
        self,
        stored: StoredTensors,
        quantization: Option<String>,
    ) -> Result<FolderSource> {
        let mut entries: Vec<(usize, TensorInfo, TensorOrigin)> = Vec::new();
        for index in self.plain {
            let info = stored.tensors()[index].info().expect("a float type");
            entries.push((index, info, TensorOrigin::Plain(index)));
        }
        for Joined { name, shape, parts, decoder } in self.joined {
            let place = parts.first().copied().unwrap_or(usize::MAX);
            let info = TensorInfo::new(name, shape, DType::F32);
            entries.push((place, info, TensorOrigin::Joined { parts, decoder }));
        }
        entries.sort_by_key(|(place, ..)| *place);
        let (mut infos, mut origins) = (Vec::new(), Vec::new());
        for (_, info, origin) in entries {
            infos.push(info);
            origins.push(origin);
        }
        let table = TensorTable::new(stored.origin(), infos)?;
        Ok(FolderSource::new(stored, table, origins, quantization))
    }
}
