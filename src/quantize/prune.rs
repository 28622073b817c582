//! A model without some of its layers: a source over a source that drops tensors and renames others.
//!
//! Layers that stay are numbered anew without gaps. Everything later sees a model that simply has
//! fewer layers; only [`super::PlanOptions::pruned_from`] remembers that there were more, for the rules
//! of the mix go by the depth that the model had. Source: llama.cpp `src/llama-quant.cpp`
//! (`remap_layer`, `remap_imatrix`, `llama_model_quantize_impl`), October 2026. As there, metadata
//! that have a value for each layer stay as they are.

use super::importance::Importance;
use crate::base::error::{Error, Result};
use crate::formats::gguf::{GgufModel, Value};
use crate::formats::source::{TensorData, TensorInfo, TensorSource, TensorTable};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Which layers of a model go, and what becomes of the others.
#[derive(Clone, Debug)]
pub struct Pruning {
    /// New number of each layer that stays.
    kept: BTreeMap<usize, usize>,
    /// The metadata key of the number of layers.
    key: String,
    /// Layers before and after.
    before: usize,
    after: usize,
}

impl Pruning {
    /// Plans to drop `layers` of `model`, numbered from 0.
    ///
    /// # Errors
    /// A layer that the model does not have, or all that it has.
    pub fn new(model: &GgufModel, layers: &[usize]) -> Result<Pruning> {
        let key = format!("{}.block_count", model.architecture()?);
        let before = model.metadata.require_usize(model.origin(), &key)?;
        let infos = model.tensors.table().infos();
        let mut present: Vec<usize> = infos.iter().filter_map(|i| layer(&i.name)).collect();
        present.sort_unstable();
        present.dedup();
        if let Some(missing) = layers.iter().find(|l| present.binary_search(l).is_err()) {
            let last = present.last().map_or("none".into(), |last| format!("0 to {last}"));
            let detail = format!("no layer {missing} to prune; layers are {last}");
            return Err(Error::Usage(format!("{}: {detail}", model.origin())));
        }
        let first = layers.iter().copied().min().unwrap_or(usize::MAX);
        let mut kept = BTreeMap::new();
        let mut after = 0;
        for old in present.into_iter().filter(|old| !layers.contains(old)) {
            // Below the first that goes, numbers stay even if the model has gaps.
            let new = if old < first { old } else { after };
            kept.insert(old, new);
            after = new + 1;
        }
        if kept.is_empty() {
            return Err(Error::Usage(format!("{}: no layer would stay", model.origin())));
        }
        Ok(Pruning { kept, key, before, after })
    }

    /// Layers that the model had.
    pub fn layers_before(&self) -> usize {
        self.before
    }

    /// `model` without the layers, its number of layers set.
    pub fn model(&self, model: &GgufModel) -> Result<GgufModel> {
        let mut metadata = model.metadata.clone();
        metadata.set(self.key.as_str(), Value::U32(self.after as u32));
        let tensors = Arc::new(PrunedSource::new(model.tensors.clone(), self)?);
        Ok(GgufModel { metadata, tensors, warnings: model.warnings.clone() })
    }

    /// Gives the weights in `importance`, which were collected from the whole model, the names that the
    /// tensors have now.
    pub fn rename(&self, importance: &mut Importance) {
        importance.rename(|name| self.new_name(name));
    }

    /// What the tensor `name` is called afterwards; `None` if it goes.
    fn new_name(&self, name: &str) -> Option<String> {
        let Some((digits, old)) = layer_at(name) else { return Some(name.to_string()) };
        let new = self.kept.get(&old)?;
        Some(format!("{}{new}{}", &name[..digits.start], &name[digits.end..]))
    }
}

/// The layer that the tensor `name` belongs to.
fn layer(name: &str) -> Option<usize> {
    layer_at(name).map(|(_, layer)| layer)
}

/// The number in `blk.N.`, which encoder and decoder prefix, and where its digits are.
fn layer_at(name: &str) -> Option<(Range<usize>, usize)> {
    name.match_indices("blk.").find_map(|(at, prefix)| {
        let start = at + prefix.len();
        let len = name[start..].find('.')?;
        let digits = &name[start..start + len];
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten().map(|n| (start..start + len, n))
    })
}

/// The tensors that stay, under their new names.
struct PrunedSource {
    inner: Arc<dyn TensorSource>,
    table: TensorTable,
    /// Index in the inner table of each tensor.
    places: Vec<usize>,
}

impl PrunedSource {
    fn new(inner: Arc<dyn TensorSource>, pruning: &Pruning) -> Result<PrunedSource> {
        let mut infos = Vec::new();
        let mut places = Vec::new();
        for (place, info) in inner.table().infos().iter().enumerate() {
            if let Some(name) = pruning.new_name(&info.name) {
                infos.push(TensorInfo { name, ..info.clone() });
                places.push(place);
            }
        }
        let table = TensorTable::new(inner.origin(), infos)?;
        Ok(PrunedSource { inner, table, places })
    }
}

impl TensorSource for PrunedSource {
    fn origin(&self) -> &str {
        self.inner.origin()
    }

    fn table(&self) -> &TensorTable {
        &self.table
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        self.inner.read(self.places[index])
    }

    fn pieces(&self, index: usize) -> usize {
        self.inner.pieces(self.places[index])
    }

    fn read_piece(&self, index: usize, piece: usize) -> Result<TensorData<'_>> {
        self.inner.read_piece(self.places[index], piece)
    }

    fn shard(&self, index: usize) -> Option<usize> {
        self.inner.shard(self.places[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::DType;
    use crate::formats::gguf::Metadata;
    use crate::formats::source::MemorySource;

    /// A model of `n` layers; the tensor of layer `i` holds the byte `i`.
    fn model(n: u8) -> GgufModel {
        let tensor =
            |name: String, byte| (TensorInfo::new(name, vec![1], DType::F32), vec![byte; 4]);
        let mut tensors = vec![tensor("token_embd.weight".into(), 99)];
        tensors.extend((0..n).map(|i| tensor(format!("blk.{i}.ffn_up.weight"), i)));
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", "llama");
        metadata.set("llama.block_count", u32::from(n));
        let tensors = Arc::new(MemorySource::new("test", tensors).unwrap());
        GgufModel { metadata, tensors, warnings: Vec::new() }
    }

    #[test]
    fn layers_that_stay_close_the_gap() {
        let whole = model(12);
        let pruning = Pruning::new(&whole, &[9, 1, 1]).unwrap();
        assert_eq!(pruning.layers_before(), 12);
        let pruned = pruning.model(&whole).unwrap();
        assert_eq!(pruned.metadata.u64("llama.block_count"), Some(10));
        let first = |name: &str| pruned.tensors.read_name(name).unwrap().bytes[0];
        assert_eq!(first("token_embd.weight"), 99);
        let layers: Vec<u8> = (0..10).map(|i| first(&format!("blk.{i}.ffn_up.weight"))).collect();
        assert_eq!(layers, [0, 2, 3, 4, 5, 6, 7, 8, 10, 11]);
        assert!(pruned.tensors.read_name("blk.10.ffn_up.weight").is_err());
    }

    #[test]
    fn what_cannot_go_is_refused() {
        let error = |layers: &[usize]| Pruning::new(&model(3), layers).unwrap_err().to_string();
        assert_eq!(error(&[1, 3]), "test: no layer 3 to prune; layers are 0 to 2");
        assert_eq!(error(&[0, 1, 2]), "test: no layer would stay");
    }

    #[test]
    fn the_layer_is_found_in_names() {
        assert_eq!(layer_at("blk.12.attn_q.weight"), Some((4..6, 12)));
        assert_eq!(layer("enc.blk.3.attn_q.weight"), Some(3));
        for other in ["output.weight", "blk.x.y", "blk..y", "blk.7", "blk.+1.y"] {
            assert_eq!(layer(other), None, "{other}");
        }
    }
}
