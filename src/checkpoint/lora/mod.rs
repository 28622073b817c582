//! LoRA adapters: a checkpoint whose weights are those of a base model with an adapter merged into it.
//!
//! A source over a source: `W + scale * (B A)` is computed when the tensor is read, in f32, and rounded
//! once to the base's type, as if the adapter had been merged and the model written. In `B A` the terms of
//! each element are added in the order of the rank, and the sum is scaled before it is added. For an
//! embedding, whose matrices stand the other way round, it is the transposed product.
//!
//! Reads what PEFT saves: `adapter_config.json` and `adapter_model.safetensors` or `.bin`. Formula and
//! layout: arXiv:2106.09685; PEFT `src/peft/tuners/lora/layer.py` (`get_delta_weight`) and
//! `src/peft/utils/save_and_load.py`, 0.18. `fan_in_fan_out` means nothing where all matrices are linear
//! layers, as PEFT has it too. Deliberately absent: DoRA, biases, adapters over adapters, and vocabularies
//! that an adapter enlarges; all are refused.

mod config;

use super::weights::{WeightsEntry, WeightsFile};
use super::{Checkpoint, Config};
use crate::error::{Error, Result};
use crate::quants;
use crate::source::{TensorData, TensorInfo, TensorSource, TensorTable};
use config::{LoraConfig, Targets, is_called};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that tells how to apply an adapter.
const CONFIG: &str = "adapter_config.json";

/// What PEFT puts before the names of a model's modules.
const PREFIX: &str = "base_model.model.";

/// Elements that one task computes. Fixed, so that the work is cut alike at any number of threads.
const CHUNK: usize = 1 << 18;
/// Columns computed at a time: so many columns of all rows of A stay in the cache.
const COLUMNS: usize = 1024;

/// Which of a module's tensors an adapter's tensor is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    A {
        embedding: bool,
    },
    B {
        embedding: bool,
    },
    /// The module's own weight, trained whole.
    Whole,
}

/// What an adapter has for one base tensor: indices into its file.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    a: Option<usize>,
    b: Option<usize>,
    whole: Option<usize>,
    embedding: bool,
}

/// What becomes of one base tensor. Indices are into the adapter's file.
struct Change {
    whole: Option<usize>,
    delta: Option<Delta>,
}

struct Delta {
    a: usize,
    b: usize,
    rank: usize,
    scale: f32,
    /// A is `[rank, rows]` and B `[columns, rank]`, not `[rank, columns]` and `[rows, rank]`.
    transposed: bool,
}

/// Merges the adapter in the folder `dir` into `base`. Everything is checked now; weights are computed
/// when they are read.
///
/// # Errors
/// If the adapter is of a kind that is not supported, if its tensors and its configuration disagree, or
/// if it does not fit the base model; the messages name both sides.
pub fn with_adapter(base: &Checkpoint, dir: &Path) -> Result<Checkpoint> {
    let config_path = dir.join(CONFIG);
    if !config_path.is_file() {
        return Err(Error::format(
            dir,
            "no adapter_config.json in this folder, so it is no adapter",
        ));
    }
    let config = LoraConfig::read(&Config::read(&config_path)?)?;
    let names = ["adapter_model.safetensors", "adapter_model.bin"];
    let Some(path) = names.iter().map(|name| dir.join(name)).find(|path| path.is_file()) else {
        let detail = format!("an adapter without weights: neither {} nor {}", names[0], names[1]);
        return Err(Error::format(dir, detail));
    };
    let file = WeightsFile::open(path)?;
    let tensors = LoraSource::new(Arc::clone(&base.tensors), file, &config)?;
    Ok(Checkpoint { tensors: Arc::new(tensors), ..base.clone() })
}

struct LoraSource {
    origin: String,
    base: Arc<dyn TensorSource>,
    file: WeightsFile,
    /// By index of the base's table.
    changes: HashMap<usize, Change>,
}

impl LoraSource {
    fn new(
        base: Arc<dyn TensorSource>,
        file: WeightsFile,
        config: &LoraConfig,
    ) -> Result<LoraSource> {
        let origin = format!("{} + {}", base.origin(), file.path().display());
        let check = Check { base: base.as_ref(), file: &file, config };
        let found = check.collect()?;
        check.complete(&found)?;
        let mut changes = HashMap::new();
        for (module, found) in &found {
            let (index, change) = check.change(module, found)?;
            changes.insert(index, change);
        }
        Ok(LoraSource { origin, base, file, changes })
    }

    /// The adapter's tensor `index` as f32.
    fn adapter(&self, index: usize) -> Result<Vec<f32>> {
        let info = self.file.entries()[index].info().expect("checked at opening");
        let mut out = vec![0.0; info.elements()];
        quants::decode(info.dtype, &self.file.tensor_bytes(index), &mut out)?;
        Ok(out)
    }

    fn compute(&self, info: &TensorInfo, index: usize, change: &Change) -> Result<Vec<u8>> {
        let (rows, columns) = (info.elements() / info.row_len().max(1), info.row_len());
        let mut values = match change.whole {
            Some(whole) => self.adapter(whole)?,
            None => self.base.read(index)?.to_f32()?,
        };
        if let Some(delta) = &change.delta {
            let (mut a, mut b) = (self.adapter(delta.a)?, self.adapter(delta.b)?);
            if delta.transposed {
                // (B A)^T = A^T B^T
                let left = transpose(&a, delta.rank, rows);
                (a, b) = (transpose(&b, columns, delta.rank), left);
            }
            add_product(&mut values, columns, &b, &a, delta);
        }
        let mut out = vec![0u8; info.bytes().expect("checked by TensorTable")];
        let size = info.dtype.block_bytes();
        let outcomes: Vec<Result<()>> = (out.par_chunks_mut(CHUNK * size))
            .zip(values.par_chunks(CHUNK))
            .map(|(out, values)| quants::encode_float(info.dtype, values, out))
            .collect();
        outcomes.into_iter().collect::<Result<()>>()?;
        Ok(out)
    }
}

/// Adds `scale * (b a)` to the rows of `values`.
fn add_product(values: &mut [f32], columns: usize, b: &[f32], a: &[f32], delta: &Delta) {
    if columns == 0 {
        return;
    }
    let (rank, scale) = (delta.rank, delta.scale);
    let rows = (CHUNK / columns).max(1);
    values.par_chunks_mut(rows * columns).enumerate().for_each(|(chunk, values)| {
        let mut sums = [0f32; COLUMNS];
        for start in (0..columns).step_by(COLUMNS) {
            let end = columns.min(start + COLUMNS);
            let sums = &mut sums[..end - start];
            for (row, values) in values.chunks_exact_mut(columns).enumerate() {
                sums.fill(0.0);
                let row = chunk * rows + row;
                for (k, &factor) in b[row * rank..(row + 1) * rank].iter().enumerate() {
                    let line = &a[k * columns + start..k * columns + end];
                    sums.iter_mut().zip(line).for_each(|(sum, a)| *sum += factor * a);
                }
                values[start..end].iter_mut().zip(&*sums).for_each(|(v, sum)| *v += scale * sum);
            }
        }
    });
}

/// `values`, a matrix of `rows` rows, with rows and columns exchanged.
fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

impl TensorSource for LoraSource {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn table(&self) -> &TensorTable {
        self.base.table()
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        let Some(change) = self.changes.get(&index) else { return self.base.read(index) };
        let info = &self.table().infos()[index];
        let bytes = Cow::Owned(self.compute(info, index, change)?);
        Ok(TensorData { dtype: info.dtype, shape: info.shape.clone(), bytes })
    }

    fn quantization(&self) -> Option<&str> {
        self.base.quantization()
    }

    fn working_bytes(&self, index: usize) -> u64 {
        let base = self.base.working_bytes(index);
        if !self.changes.contains_key(&index) {
            return base;
        }
        // The base's tensor as f32, and the result.
        let info = &self.table().infos()[index];
        base + (info.elements() * (size_of::<f32>() + info.dtype.block_bytes())) as u64
    }

    fn files(&self) -> Option<Vec<PathBuf>> {
        let mut files = self.base.files()?;
        files.push(self.file.path().with_file_name(CONFIG));
        files.push(self.file.path().to_path_buf());
        Some(files)
    }
}

/// An adapter against its configuration and its base.
struct Check<'a> {
    base: &'a dyn TensorSource,
    file: &'a WeightsFile,
    config: &'a LoraConfig,
}

impl Check<'_> {
    fn fail<T>(&self, tensor: &str, detail: String) -> Result<T> {
        Err(Error::tensor(self.file.path().display().to_string(), tensor, detail))
    }

    /// The adapter's tensors by the module of the base that they change.
    fn collect(&self) -> Result<BTreeMap<String, Found>> {
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        for (index, entry) in self.file.entries().into_iter().enumerate() {
            if entry.info().is_none_or(|info| !info.dtype.is_float()) {
                let detail = format!("type {} cannot be read; use F32, F16 or BF16", entry.dtype);
                return self.fail(entry.name, detail);
            }
            let Some((module, part)) = parse_name(entry.name) else {
                let detail = "is no part of a LoRA adapter as PEFT names them \
                              (base_model.model.MODULE.lora_A.weight)";
                return self.fail(entry.name, detail.to_string());
            };
            let (expected, whole) = (self.config.is_target(module), part == Part::Whole);
            if whole && !self.may_be_whole(module) || !whole && !expected {
                let key = if whole { "modules_to_save" } else { "target_modules" };
                let detail =
                    format!("module '{module}' is not among '{key}' of {}", self.config.origin);
                return self.fail(entry.name, detail);
            }
            let slot = found.entry(module.to_string()).or_default();
            let place = match part {
                Part::A { .. } => &mut slot.a,
                Part::B { .. } => &mut slot.b,
                Part::Whole => &mut slot.whole,
            };
            if place.replace(index).is_some() {
                return self.fail(entry.name, format!("module '{module}' has this part twice"));
            }
            if let Part::A { embedding } | Part::B { embedding } = part {
                slot.embedding = embedding;
            }
        }
        if found.is_empty() {
            let path = self.file.path();
            return Err(Error::format(path, "an adapter without tensors"));
        }
        Ok(found)
    }

    /// Whole modules: those that the configuration names, and the ends of a model, which PEFT saves
    /// unasked where it thinks they were changed.
    fn may_be_whole(&self, module: &str) -> bool {
        let ends = ["embed_tokens", "lm_head"];
        let named = self.config.saved.iter().map(String::as_str);
        named.chain(ends).any(|name| is_called(module, name))
    }

    /// Every module that the configuration names must be there, unless it says that some are not.
    fn complete(&self, found: &BTreeMap<String, Found>) -> Result<()> {
        for name in &self.config.saved {
            if !found.iter().any(|(module, f)| f.whole.is_some() && is_called(module, name)) {
                let path = self.file.path().display();
                let detail = format!("'modules_to_save' names '{name}', which {path} lacks");
                return Err(Error::model(&self.config.origin, detail));
            }
        }
        let Targets::Names(names) = &self.config.targets else { return Ok(()) };
        if self.config.limited {
            return Ok(());
        }
        let modules = self.base.table().infos().iter().filter(|info| info.shape.len() == 2);
        let modules = modules.filter_map(|info| info.name.strip_suffix(".weight"));
        for module in modules.filter(|module| names.iter().any(|name| is_called(module, name))) {
            if !found.get(module).is_some_and(|f| f.a.is_some() && f.b.is_some()) {
                let path = self.file.path().display();
                let detail = format!(
                    "'target_modules' includes '{module}' of {}, for which {path} has no complete pair of \
                     lora_A and lora_B",
                    self.base.origin()
                );
                return Err(Error::model(&self.config.origin, detail));
            }
        }
        Ok(())
    }

    /// The base tensor that `module` is, and what becomes of it.
    fn change(&self, module: &str, found: &Found) -> Result<(usize, Change)> {
        let entries = self.file.entries();
        let any = found.a.or(found.b).or(found.whole).expect("made for a tensor");
        let name = format!("{module}.weight");
        let table = self.base.table();
        let Some(index) = table.find(&name) else {
            let tied = if module == "lm_head" { ": its head is the embedding" } else { "" };
            let detail = format!("changes '{name}', which {} lacks{tied}", self.base.origin());
            return self.fail(entries[any].name, detail);
        };
        let base = &table.infos()[index];
        if !base.dtype.is_float() {
            let detail =
                format!("changes '{name}', which is {} in {}", base.dtype, self.base.origin());
            return self.fail(entries[any].name, detail);
        }
        if let Some(whole) = found.whole.map(|whole| entries[whole])
            && whole.shape != base.shape
        {
            return self.fail(whole.name, self.misfit(whole.shape, "replaces", base));
        }
        let delta = match (found.a, found.b) {
            (Some(a), Some(b)) => {
                Some(self.delta(module, found.embedding, base, (a, entries[a]), (b, entries[b]))?)
            }
            (None, None) => None,
            (a, _) => {
                let missing = if a.is_some() { "lora_B" } else { "lora_A" };
                let detail = format!("module '{module}' has no {missing} to go with it");
                return self.fail(entries[any].name, detail);
            }
        };
        Ok((index, Change { whole: found.whole, delta }))
    }

    fn delta(
        &self,
        module: &str,
        embedding: bool,
        base: &TensorInfo,
        (a_index, a): (usize, WeightsEntry),
        (b_index, b): (usize, WeightsEntry),
    ) -> Result<Delta> {
        let &[rows, columns] = &base.shape[..] else {
            return self.fail(a.name, self.misfit(a.shape, "changes", base));
        };
        let rank = self.config.rank(module);
        let (outer, inner) = if embedding { (columns, rows) } else { (rows, columns) };
        for (entry, expected) in [(a, [rank, inner]), (b, [outer, rank])] {
            if entry.shape != expected {
                let detail = format!(
                    "has shape {:?}; rank {rank} ({}) and '{}' of shape {:?} in {} need {expected:?}",
                    entry.shape,
                    self.config.origin,
                    base.name,
                    base.shape,
                    self.base.origin()
                );
                return self.fail(entry.name, detail);
            }
        }
        let scale = self.config.scale(module);
        Ok(Delta { a: a_index, b: b_index, rank, scale, transposed: embedding })
    }

    fn misfit(&self, shape: &[usize], verb: &str, base: &TensorInfo) -> String {
        let vocabulary = match (shape, &base.shape[..]) {
            ([rows, width], [_, same]) if width == same => {
                format!(
                    "; an adapter that makes the vocabulary {rows} tokens long cannot be merged"
                )
            }
            _ => String::new(),
        };
        format!(
            "has shape {shape:?} and {verb} '{}' of shape {:?} in {}{vocabulary}",
            base.name,
            base.shape,
            self.base.origin()
        )
    }
}

/// The module and the part that a name means. PEFT leaves the adapter's own name out of what it saves;
/// other programs leave `default` in.
fn parse_name(name: &str) -> Option<(&str, Part)> {
    const PARTS: &[(&str, Part)] = &[
        (".lora_A", Part::A { embedding: false }),
        (".lora_B", Part::B { embedding: false }),
        (".lora_embedding_A", Part::A { embedding: true }),
        (".lora_embedding_B", Part::B { embedding: true }),
        (".modules_to_save", Part::Whole),
        (".base_layer", Part::Whole),
        ("", Part::Whole),
    ];
    let name = name.strip_prefix(PREFIX)?;
    let weight = name.strip_suffix(".weight");
    let rest = weight.unwrap_or(name);
    let rest = rest.strip_suffix(".default").unwrap_or(rest);
    let (module, part) =
        PARTS.iter().find_map(|(end, part)| Some((rest.strip_suffix(end)?, *part)))?;
    let embedding = matches!(part, Part::A { embedding: true } | Part::B { embedding: true });
    let usable = !module.is_empty()
        && (weight.is_some() || embedding)
        && !module.split('.').any(|piece| piece.starts_with("lora_"));
    usable.then_some((module, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_modules_and_parts() {
        let a = Part::A { embedding: false };
        let module = "model.layers.0.self_attn.q_proj";
        for end in ["lora_A.weight", "lora_A.default.weight"] {
            assert_eq!(parse_name(&format!("base_model.model.{module}.{end}")), Some((module, a)));
        }
        assert_eq!(
            parse_name("base_model.model.model.embed_tokens.lora_embedding_B"),
            Some(("model.embed_tokens", Part::B { embedding: true }))
        );
        for end in ["", ".modules_to_save", ".modules_to_save.default", ".base_layer"] {
            let name = format!("base_model.model.lm_head{end}.weight");
            assert_eq!(parse_name(&name), Some(("lm_head", Part::Whole)), "{name}");
        }
        for bad in [
            "model.layers.0.q_proj.lora_A.weight",
            "base_model.model.q_proj.lora_A",
            "base_model.model.q_proj.bias",
            "base_model.model.q_proj.lora_magnitude_vector.weight",
            "base_model.model..weight",
        ] {
            assert_eq!(parse_name(bad), None, "{bad}");
        }
    }
}
