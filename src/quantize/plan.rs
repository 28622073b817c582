//! The plan of one quantized file: every tensor's type, the metadata, and whether it can be made.
//!
//! A plan that exists has passed every check that needs no weights: the types can be written, the
//! importance matrix covers what must have it, nothing is requantized by accident.

use super::eligible::{allows_quantization, requires_imatrix};
use super::facts::{Family, ModelFacts};
use super::ftype::Ftype;
use super::importance::Importance;
use super::mix::{Mix, layer_of};
use super::options::{PlanOptions, Sharding};
use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::formats::gguf::{GgufModel, Metadata, Shards, Value};
use crate::formats::source::{TensorInfo, TensorSource};
use crate::model::arch::Category;
use crate::quants;
use std::collections::BTreeMap;

/// `general.quantization_version` of files that this program writes: llama.cpp `ggml.h`,
/// `GGML_QNT_VERSION`, October 2026.
const QUANTIZATION_VERSION: u32 = 2;

/// One tensor of a planned file.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    /// Index in the source's table.
    pub source: usize,
    /// Name, shape and target type.
    pub info: TensorInfo,
    /// The type that the rules wanted where the row length did not allow it.
    pub fallback_from: Option<DType>,
    /// Whether the imatrix has an entry that serves this tensor.
    pub weighted: bool,
}

/// One quantized file, ready to be made.
#[derive(Clone, Debug)]
pub struct QuantPlan {
    pub ftype: Ftype,
    pub metadata: Metadata,
    /// In file order.
    pub tensors: Vec<PlannedTensor>,
    /// The file that each of the tensors goes to.
    pub shards: Shards,
    /// What the user should know before the work starts.
    pub warnings: Vec<String>,
}

/// Tensors outside the layers first, by name; then by layer, then by name. Source: llama.cpp
/// `src/llama-model-loader.h` (`weight_name_comparer`), October 2026.
fn file_order(infos: &[TensorInfo]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..infos.len()).collect();
    order.sort_by_cached_key(|&i| (layer_of(&infos[i].name), infos[i].name.clone()));
    order
}

/// The shard of each tensor, if they are to be kept.
fn kept_shards(source: &dyn TensorSource, sharding: Sharding) -> Result<Option<Vec<usize>>> {
    if sharding != Sharding::Keep {
        return Ok(None);
    }
    let numbers: Option<_> = (0..source.table().infos().len()).map(|i| source.shard(i)).collect();
    let detail = "is no GGUF file whose shards --keep-split could keep; --max-shard-size divides \
                  any model into several files";
    let none = || Error::Usage(format!("{}: {detail}", source.origin()));
    numbers.ok_or_else(none).map(Some)
}

impl QuantPlan {
    /// Plans a file of type `ftype` from `model`.
    ///
    /// # Errors
    /// Names every tensor that requires an importance matrix and has none, an entry of the wrong
    /// length, or a source tensor that cannot be read or is quantized already. Shards can be kept of
    /// GGUF files only.
    pub fn new(
        model: &GgufModel,
        ftype: Ftype,
        importance: Option<&Importance>,
        options: &PlanOptions,
    ) -> Result<QuantPlan> {
        let (mut plan, notes) =
            QuantPlan::choose(model, ftype, importance, importance.is_some(), options)?;
        notes.refuse_missing(model.origin(), ftype)?;
        plan.warnings = notes.warnings(ftype);
        Ok(plan)
    }

    /// The plan for showing sizes only: that tensors require an importance matrix and have none is a
    /// warning. It cannot be carried out then.
    pub fn dry_run(
        model: &GgufModel,
        ftype: Ftype,
        importance: Option<&Importance>,
        options: &PlanOptions,
    ) -> Result<QuantPlan> {
        let (mut plan, notes) =
            QuantPlan::choose(model, ftype, importance, importance.is_some(), options)?;
        plan.warnings = notes.warnings(ftype);
        if !notes.missing.is_empty() {
            plan.warnings.push(notes.missing_text(ftype));
        }
        Ok(plan)
    }

    /// The plan as it will be once there is an importance matrix that covers everything: for sizes
    /// known, and problems found, before the matrix is computed.
    pub fn expecting_imatrix(
        model: &GgufModel,
        ftype: Ftype,
        options: &PlanOptions,
    ) -> Result<QuantPlan> {
        let (mut plan, notes) = QuantPlan::choose(model, ftype, None, true, options)?;
        plan.warnings = notes.warnings(ftype);
        Ok(plan)
    }

    fn choose(
        model: &GgufModel,
        ftype: Ftype,
        importance: Option<&Importance>,
        has_imatrix: bool,
        options: &PlanOptions,
    ) -> Result<(QuantPlan, Notes)> {
        let origin = model.tensors.origin();
        let infos = model.tensors.table().infos();
        let facts = ModelFacts::new(origin, &known_to_rules(model, options), infos)?;
        let mut mix = Mix::new(ftype, facts, has_imatrix, options);
        let mut notes = Notes::new(facts.family);
        if let Some(importance) = importance {
            notes.entries(model, importance)?;
        }
        let mut tensors = Vec::with_capacity(infos.len());
        let kept = kept_shards(&*model.tensors, options.sharding)?;
        // A source's table has its shards one after the other.
        let order = if kept.is_some() { (0..infos.len()).collect() } else { file_order(infos) };
        for source in order {
            let from = &infos[source];
            let choice = mix.choose(from);
            let info = TensorInfo { dtype: choice.dtype, ..from.clone() };
            let changes = info.dtype != from.dtype;
            if changes {
                check_conversion(origin, from, info.dtype, options)?;
            }
            let weighted = changes && info.dtype.is_quantized();
            let weighted = weighted && notes.weights(origin, &info, ftype, importance)?;
            if let Some(wanted) = choice.fallback_from {
                *notes.fallbacks.entry((wanted, info.dtype, info.row_len())).or_default() += 1;
            }
            tensors.push(PlannedTensor {
                source,
                info,
                fallback_from: choice.fallback_from,
                weighted,
            });
        }
        let metadata = metadata(model, ftype, importance, options);
        let infos = || tensors.iter().map(|t: &PlannedTensor| &t.info);
        let shards = match (kept, options.sharding) {
            (Some(numbers), _) => Shards::preserving(origin, &numbers),
            (None, Sharding::MaxBytes(max)) => Shards::by_size(origin, infos(), max),
            (None, _) => Ok(Shards::single(tensors.len())),
        }?;
        Ok((QuantPlan { ftype, metadata, tensors, shards, warnings: Vec::new() }, notes))
    }

    /// Index in the source's table of each tensor, in file order.
    pub fn order(&self) -> impl Iterator<Item = usize> {
        self.tensors.iter().map(|t| t.source)
    }

    /// The tensors' infos in file order.
    pub fn infos(&self) -> Vec<TensorInfo> {
        self.tensors.iter().map(|t| t.info.clone()).collect()
    }

    /// Size of the file, or of all shards, in bytes, exact but for the few bytes by which the record of
    /// an imatrix that is still to come may differ.
    pub fn file_bytes(&self) -> Result<u64> {
        Ok(self.shard_bytes()?.iter().sum())
    }

    /// Size of each file in bytes, in order.
    pub fn shard_bytes(&self) -> Result<Vec<u64>> {
        let layouts = self.shards.layouts(self.ftype.name(), &self.metadata, self.infos())?;
        Ok(layouts.iter().map(|layout| layout.file_bytes()).collect())
    }

    /// Number of weights in the file.
    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(|t| t.info.elements() as u64).sum()
    }

    /// Mean bits that a weight takes, metadata and padding not counted.
    pub fn bits_per_weight(&self) -> f64 {
        let bytes = self.tensors.iter().filter_map(|t| t.info.bytes()).sum::<usize>();
        bytes as f64 * 8.0 / self.elements() as f64
    }
}

/// The metadata that the rules of the mix go by: the model's, with the numbers that the user set and
/// the depth before pruning.
fn known_to_rules(model: &GgufModel, options: &PlanOptions) -> Metadata {
    let mut metadata = model.metadata.clone();
    if let (Some(before), Some(key)) = (options.pruned_from, block_count_key(model)) {
        metadata.set(key, Value::U64(before as u64));
    }
    // Another type than the key has counts for nothing here, as in llama-quantize.
    let fits = |key: &str, value: &Value| match value {
        Value::U32(_) => true,
        Value::String(_) => key == "general.architecture",
        _ => false,
    };
    for (key, value) in options.override_kv.iter().filter(|(key, value)| fits(key, value)) {
        metadata.set(key.as_str(), value.clone());
    }
    metadata
}

/// The key of the model's number of layers.
fn block_count_key(model: &GgufModel) -> Option<String> {
    model.architecture().ok().map(|arch| format!("{arch}.block_count"))
}

/// The input's keys, less what describes the input's own types and splits, then the new ones.
fn metadata(
    model: &GgufModel,
    ftype: Ftype,
    importance: Option<&Importance>,
    options: &PlanOptions,
) -> Metadata {
    let mut metadata = model.metadata.clone();
    metadata.remove_if(|key| {
        matches!(key, "general.quantization_version" | "general.file_type")
            || key.starts_with("split.")
    });
    metadata.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    metadata.set("general.file_type", Value::U32(ftype.id()));
    for (key, value) in &options.override_kv {
        metadata.remove_if(|existing| existing == key);
        metadata.set(key.as_str(), value.clone());
    }
    if let Some(importance) = importance {
        metadata.remove_if(|key| key.starts_with("quantize.imatrix."));
        importance.describe(&mut metadata);
    }
    if let (Some(_), Some(key)) = (options.pruned_from, block_count_key(model)) {
        let count = model.metadata.get(&key).cloned();
        metadata.remove_if(|existing| existing == key);
        count.into_iter().for_each(|count| metadata.set(key.as_str(), count));
    }
    metadata
}

/// Whether `from` can be turned into `target` at all, and may be.
fn check_conversion(
    origin: &str,
    from: &TensorInfo,
    target: DType,
    options: &PlanOptions,
) -> Result<()> {
    if !quants::can_decode(from.dtype) {
        let detail = format!("type {} cannot be decoded yet", from.dtype);
        return Err(Error::tensor(origin, &from.name, detail));
    }
    if !quants::can_quantize(target) {
        let detail = format!("type {target} cannot be written yet");
        return Err(Error::tensor(origin, &from.name, detail));
    }
    // What the rules choose fits; requested types of embedding and head may not.
    if !from.row_len().is_multiple_of(target.block_len()) {
        let (row, block) = (from.row_len(), target.block_len());
        let detail = format!(
            "its rows of {row} cannot be {target}, in blocks of {block}; ask for another type"
        );
        return Err(Error::tensor(origin, &from.name, detail));
    }
    if from.dtype.is_quantized() && !options.allow_requantize {
        let detail = format!(
            "is {} already; quantize from F16, BF16 or F32, or accept the loss with \
             --allow-requantize",
            from.dtype
        );
        return Err(Error::tensor(origin, &from.name, detail));
    }
    Ok(())
}

/// What comes up on the way over the tensors.
struct Notes {
    family: Family,
    /// Tensors that go without importance weights though there is a matrix.
    unweighted: Vec<String>,
    /// Tensors that must have importance weights and have none.
    missing: Vec<String>,
    /// Entries of the matrix that are no tensors of the model.
    foreign: Vec<String>,
    /// (wanted, taken, row length) -> tensors.
    fallbacks: BTreeMap<(DType, DType, usize), usize>,
}

impl Notes {
    fn new(family: Family) -> Notes {
        let (unweighted, missing, foreign, fallbacks) = Default::default();
        Notes { family, unweighted, missing, foreign, fallbacks }
    }

    /// Looks for entries that are of another model. Fails if all are, in a matrix that has any.
    fn entries(&mut self, model: &GgufModel, importance: &Importance) -> Result<()> {
        let table = model.tensors.table();
        let foreign = importance.names().filter(|name| table.get(name).is_none());
        self.foreign = foreign.map(String::from).collect();
        if self.foreign.is_empty() || self.foreign.len() < importance.names().count() {
            return Ok(());
        }
        let names = listed(&self.foreign);
        let detail = format!(
            "the importance matrix has entries for {names}, and none of them is a tensor of this model; \
             it was computed for another model"
        );
        Err(Error::model(model.tensors.origin(), detail))
    }

    /// Looks up the importance weights for `info`; whether there are any.
    fn weights(
        &mut self,
        origin: &str,
        info: &TensorInfo,
        ftype: Ftype,
        importance: Option<&Importance>,
    ) -> Result<bool> {
        let Some(weights) = importance.and_then(|i| i.get(&info.name)) else {
            if requires_imatrix(&info.name, info.dtype, ftype)
                || quants::requires_importance(info.dtype)
            {
                self.missing.push(info.name.clone());
            } else if importance.is_some() && self.expects_entry(info) {
                self.unweighted.push(info.name.clone());
            }
            return Ok(false);
        };
        let expected = info.row_len() * info.matrices();
        if weights.len() == expected {
            return Ok(true);
        }
        // The peer passes over a wrong entry for the embedding, which never has a useful one.
        if Category::of(&info.name) == Category::TokenEmbedding {
            return Ok(false);
        }
        let detail = format!(
            "the importance matrix has {} values where {expected} are needed; it was made for \
             another model",
            weights.len()
        );
        Err(Error::tensor(origin, &info.name, detail))
    }

    /// Matrices that an imatrix ought to cover: those inside the layers. Embedding and head are left
    /// out of it by default.
    fn expects_entry(&self, info: &TensorInfo) -> bool {
        allows_quantization(info, self.family)
            && layer_of(&info.name).is_some()
            && info.dtype != DType::Q8_0
    }

    /// What is to be done about the tensors without importance weights that they require.
    fn missing_text(&self, ftype: Ftype) -> String {
        // A matrix seldom has entries for embedding and head, so that advice would not help there.
        let apart = |name: &String| {
            matches!(Category::of(name), Category::Output | Category::TokenEmbedding)
        };
        let advice = match self.missing.iter().any(apart) {
            true => {
                "give embedding and head another type (--token-embedding-type, --output-tensor-type)"
            }
            false => "make one with 'aqueduct imatrix'",
        };
        let names = listed(&self.missing);
        format!("{ftype} needs an importance matrix (--imatrix) for {names}; {advice}")
    }

    fn refuse_missing(&self, origin: &str, ftype: Ftype) -> Result<()> {
        match self.missing.is_empty() {
            true => Ok(()),
            false => Err(Error::model(origin, self.missing_text(ftype))),
        }
    }

    fn warnings(&self, ftype: Ftype) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.unweighted.is_empty() {
            let names = listed(&self.unweighted);
            warnings.push(format!("{ftype}: the importance matrix has no entry for {names}"));
        }
        if !self.foreign.is_empty() {
            let names = listed(&self.foreign);
            warnings.push(format!(
                "{ftype}: the importance matrix has entries for {names}, which are no tensors of this model"
            ));
        }
        for ((wanted, taken, row), &tensors) in &self.fallbacks {
            let plural = if tensors == 1 { "tensor" } else { "tensors" };
            warnings.push(format!(
                "{ftype}: {tensors} {plural} with rows of {row} get {taken}, for {wanted} needs a \
                 multiple of {}",
                wanted.block_len()
            ));
        }
        warnings
    }
}

/// At most eight names, and how many more there are.
fn listed(names: &[String]) -> String {
    let shown = names.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(8) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::source::MemorySource;
    use std::sync::Arc;

    /// A model of one layer whose tensors have `row` columns.
    fn model(row: usize) -> GgufModel {
        let tensor = |name: &str| {
            let info = TensorInfo::new(name, vec![2, row], DType::F16);
            let bytes = info.bytes().unwrap();
            (info, vec![0; bytes])
        };
        let names = ["token_embd.weight", "output.weight", "blk.0.attn_q.weight"];
        let tensors = MemorySource::new("test", names.map(tensor).to_vec()).unwrap();
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", "llama");
        metadata.set("llama.block_count", 1u32);
        GgufModel { metadata, tensors: Arc::new(tensors), warnings: Vec::new() }
    }

    #[test]
    fn what_does_not_fit_the_rows_is_refused_before_the_work() {
        let options = PlanOptions { output_tensor_type: Some(DType::Q6_K), ..Default::default() };
        assert!(QuantPlan::new(&model(512), Ftype::Q4_K_M, None, &options).is_ok());
        let error = QuantPlan::new(&model(576), Ftype::Q4_K_M, None, &options).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("'output.weight': its rows of 576 cannot be Q6_K"), "{text}");
    }

    #[test]
    fn a_missing_matrix_stops_a_plan_but_no_dry_run() {
        let (model, options) = (model(512), PlanOptions::default());
        let error = QuantPlan::new(&model, Ftype::IQ2_XS, None, &options).unwrap_err();
        assert!(error.to_string().contains("importance matrix"), "{error}");
        let plan = QuantPlan::dry_run(&model, Ftype::IQ2_XS, None, &options).unwrap();
        assert_eq!(plan.warnings.len(), 1);
        assert_eq!(plan.tensors[2].info.dtype, DType::IQ2_XS);
    }

    #[test]
    fn embedding_and_head_too_need_importance_in_types_that_require_it() {
        let options = PlanOptions { pure: true, ..PlanOptions::default() };
        let importance = Importance::default();
        for (ftype, dtype) in [(Ftype::IQ2_XXS, DType::IQ2_XXS), (Ftype::IQ1_S, DType::IQ1_S)] {
            let error = QuantPlan::new(&model(512), ftype, Some(&importance), &options);
            let text = error.unwrap_err().to_string();
            let names = "token_embd.weight, blk.0.attn_q.weight";
            assert!(text.contains("output.weight") && text.contains(names), "{dtype}: {text}");
        }
        let options = PlanOptions { output_tensor_type: Some(DType::IQ2_XS), ..Default::default() };
        let error = QuantPlan::new(&model(512), Ftype::Q8_0, None, &options).unwrap_err();
        assert!(error.to_string().contains("for output.weight;"), "{error}");
    }

    #[test]
    fn overrides_count_for_the_mix_and_pruning_has_the_last_word() {
        let override_kv = vec![("llama.block_count".to_string(), Value::U32(80))];
        let options = PlanOptions { override_kv, pruned_from: Some(5), ..Default::default() };
        assert_eq!(known_to_rules(&model(512), &options).u64("llama.block_count"), Some(80));
        let plan = QuantPlan::new(&model(512), Ftype::Q8_0, None, &options).unwrap();
        assert_eq!(plan.metadata.iter().last(), Some(("llama.block_count", &Value::U32(1))));
        let options = PlanOptions { override_kv: Vec::new(), ..options };
        assert_eq!(known_to_rules(&model(512), &options).u64("llama.block_count"), Some(5));
    }
}
