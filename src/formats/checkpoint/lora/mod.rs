//! LoRA adapters: a checkpoint whose weights are those of a base model with an adapter merged into
//! it.
//!
//! A source over a source: `W + scale * (B A)` is computed when the tensor is read, in f32, and
//! rounded once to the base's type, as if the adapter had been merged and the model written. For an
//! embedding, whose matrices stand the other way round, it is the transposed product. Tensors that
//! were trained whole, DoRA's lengths, biases and rows of tokens follow in the order in which PEFT
//! applies them.
//!
//! Reads what PEFT saves: `adapter_config.json`, `adapter_model.safetensors` or `.bin`, and the
//! tokenizer. `fan_in_fan_out` means nothing where all matrices are linear layers, as PEFT has it
//! too. Not here: adapters over adapters, and methods other than LoRA and DoRA, which are refused.

mod config;
mod merge;
mod names;
mod plan;

use super::folder::side_files;
use super::weights::WeightsFile;
use super::{Checkpoint, Config, SideFile};
use crate::base::error::{Error, Result};
use crate::formats::source::{TensorData, TensorInfo, TensorSource, TensorTable};
use crate::quants;
use config::LoraConfig;
use merge::CHUNK;
use plan::{AdapterPlan, AdapterPlanner, TensorChange};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that tells how to apply an adapter.
const CONFIG: &str = "adapter_config.json";

/// Merges the adapter in the folder `dir` into `base`. Everything is checked now; weights are
/// computed when they are read. The result's configuration, tokenizer and warnings follow the
/// adapter.
///
/// # Errors
/// If the adapter is of a kind that is not supported, if its tensors and its configuration
/// disagree, or if it does not fit the base model; the messages name both sides.
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
    let plan = AdapterPlanner::new(base.tensors.as_ref(), &file, &config).plan()?;
    let mut merged = base.clone();
    follow(&mut merged, &plan, dir);
    take_tokenizer(&mut merged, dir)?;
    merged.tensors = Arc::new(LoraSource::new(Arc::clone(&base.tensors), file, plan)?);
    Ok(merged)
}

/// Lets the configuration follow what the adapter makes of the model's ends.
fn follow(merged: &mut Checkpoint, plan: &AdapterPlan, dir: &Path) {
    let (base, adapter) = (merged.tensors.origin().to_string(), dir.display());
    if plan.untied {
        merged.config.set("tie_word_embeddings", false);
        merged.warnings.push(format!(
            "{adapter} was trained on embedding or head alone of {base}, whose head is its embedding; the output \
             gets a head of its own and is untied (PEFT's merge_and_unload adds matrices to both)"
        ));
    }
    if let Some(rows) = plan.rows {
        merged.config.set("vocab_size", rows);
        merged.warnings.push(format!(
            "{adapter} holds an embedding of {rows} rows, which {base} has not; 'vocab_size' follows it"
        ));
    }
}

/// Takes the adapter's tokenizer, if it has one that is not the base's: the model was trained with
/// it.
fn take_tokenizer(merged: &mut Checkpoint, dir: &Path) -> Result<()> {
    /// A tokenizer's file has less.
    const LIMIT: u64 = 512 << 20;
    let own: Vec<SideFile> =
        side_files(dir)?.into_iter().filter(|file| file.name() != GENERATION).collect();
    let has = |name: &str| own.iter().any(|file| file.name() == name);
    if !(has("tokenizer.json") || has("tokenizer.model") || has("vocab.json") && has("merges.txt"))
    {
        return Ok(());
    }
    let mut same = true;
    for file in &own {
        same &= match merged.side_file(&file.name()) {
            Some(base) => {
                base.read(LIMIT).is_ok_and(|base| file.read(LIMIT).is_ok_and(|f| f == base))
            }
            None => false,
        };
    }
    if same {
        return Ok(());
    }
    let base = merged.tensors.origin().to_string();
    merged.warnings.push(format!(
        "{} holds a tokenizer that differs from that of {base}; the adapter's is used",
        dir.display()
    ));
    merged.side_files.retain(|file| file.name() == GENERATION);
    merged.side_files.extend(own);
    Ok(())
}

/// Travels with the base: what to generate with is no part of a tokenizer.
const GENERATION: &str = "generation_config.json";

struct LoraSource {
    origin: String,
    base: Arc<dyn TensorSource>,
    table: TensorTable,
    file: WeightsFile,
    /// By index of the table.
    changes: HashMap<usize, TensorChange>,
}

impl LoraSource {
    fn new(
        base: Arc<dyn TensorSource>,
        file: WeightsFile,
        plan: AdapterPlan,
    ) -> Result<LoraSource> {
        let origin = format!("{} + {}", base.origin(), file.path().display());
        let table = TensorTable::new(&origin, plan.infos)?;
        Ok(LoraSource { origin, base, table, file, changes: plan.changes })
    }

    /// The adapter's tensor `index` as f32.
    fn adapter(&self, index: usize) -> Result<Vec<f32>> {
        let info = self.file.entries()[index].info().expect("checked at opening");
        let mut out = vec![0.0; info.elements()];
        quants::decode(info.dtype, &self.file.tensor_bytes(index), &mut out)?;
        Ok(out)
    }

    fn compute(&self, info: &TensorInfo, change: &TensorChange) -> Result<Vec<u8>> {
        let (rows, columns) = (info.elements() / info.row_len().max(1), info.row_len());
        let mut values = match change.whole {
            Some(whole) => self.adapter(whole)?,
            None => self.base.read(change.base)?.to_f32()?,
        };
        if let Some(delta) = &change.delta {
            let (mut a, mut b) = (self.adapter(delta.a)?, self.adapter(delta.b)?);
            if delta.transposed {
                // (B A)^T = A^T B^T
                let left = merge::transpose(&a, delta.rank, rows);
                (a, b) = (merge::transpose(&b, columns, delta.rank), left);
            }
            merge::add_product(&mut values, columns, (&b, &a), (delta.rank, delta.scale));
            match change.magnitude.map(|vector| self.adapter(vector)).transpose()? {
                Some(vector) if delta.transposed => merge::scale_columns(&mut values, &vector),
                Some(vector) => merge::scale_rows(&mut values, columns, &vector),
                None => {}
            }
        }
        if let Some((tokens, indices)) = &change.tokens {
            merge::replace_rows(&mut values, columns, indices, &self.adapter(*tokens)?);
        }
        if let Some((bias, scale)) = change.bias {
            let bias = self.adapter(bias)?;
            values.iter_mut().zip(&bias).for_each(|(value, bias)| *value += bias * scale);
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

impl TensorSource for LoraSource {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn table(&self) -> &TensorTable {
        &self.table
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        let Some(change) = self.changes.get(&index) else { return self.base.read(index) };
        let info = &self.table().infos()[index];
        let bytes = Cow::Owned(self.compute(info, change)?);
        Ok(TensorData { dtype: info.dtype, shape: info.shape.clone(), bytes })
    }

    fn quantization(&self) -> Option<&str> {
        self.base.quantization()
    }

    fn working_bytes(&self, index: usize) -> u64 {
        let Some(change) = self.changes.get(&index) else { return self.base.working_bytes(index) };
        // The tensor as f32, its matrices, and the result.
        let info = &self.table().infos()[index];
        let rank = change.delta.map_or(0, |delta| delta.rank);
        let sides = info.elements() / info.row_len().max(1) + info.row_len();
        let matrices = 2 * rank * sides * size_of::<f32>();
        let own = info.elements() * (size_of::<f32>() + info.dtype.block_bytes()) + matrices;
        self.base.working_bytes(change.base) + own as u64
    }

    fn files(&self) -> Option<Vec<PathBuf>> {
        let mut files = self.base.files()?;
        files.push(self.file.path().with_file_name(CONFIG));
        files.push(self.file.path().to_path_buf());
        Some(files)
    }
}
