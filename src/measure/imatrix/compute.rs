//! From a text to an importance matrix, and to the perplexity of the text.
//!
//! All chunks go through the model together, layer by layer, so every weight is read once. Each chunk's
//! share is added in the order of the chunks, so the sums do not depend on threads or interruptions.

use super::chunks::{chunk_tokens, select};
use super::collector::Collector;
use super::layers::{LayerCheckpoints, Loaded, Run};
use super::options::Options;
use super::record::{self, Record};
use super::{Entry, ImportanceMatrix};
use crate::base::error::Result;
use crate::base::progress::Progress;
use crate::formats::gguf::GgufModel;
use crate::measure::perplexity::{Likelihood, Perplexity, losses, running_text};
use crate::measure::tokens::counted;
use crate::model::forward::{self, Activations, Logits, Observer, Resumed, Snapshot};
use std::collections::BTreeMap;

/// What [`compute`] returns.
#[derive(Clone, Debug)]
pub struct Computed {
    /// The importance matrix.
    pub imatrix: ImportanceMatrix,
    /// The perplexity of the text.
    pub perplexity: Perplexity,
    /// Number of layers that an earlier run had computed.
    pub kept_layers: usize,
}

/// Takes `tokens` through `model` and returns the importance matrix and the perplexity.
///
/// Notes the running perplexity as llama-imatrix prints it. Layers are the outer loop, so all figures come
/// at the end. With `checkpoints` the state is saved between layers, and that of an earlier run resumed;
/// the result is the same, bit for bit.
///
/// # Errors
/// Those of [`chunk_tokens`] and [`forward::run`]; if the state cannot be written, or something else has
/// its name. What has been saved stays.
pub fn compute(
    model: &GgufModel,
    tokens: &[u32],
    options: &Options,
    checkpoints: Option<&LayerCheckpoints<'_>>,
    progress: &dyn Progress,
) -> Result<Computed> {
    let selection = select(tokens.len(), options)?;
    if selection.available < 2 {
        progress.warn("the calibration text fills only one chunk; means over so little are poor");
    }
    let chunks = chunk_tokens(tokens, options)?;
    let mut record = Record::new(model, tokens, options, &selection)?;
    // Both fit: the record's count of the text's chunks did.
    let (first, end) = (selection.taken.start as u32, selection.taken.end as u32);
    let run = Run { record: &record, first, chunks: chunks.len() };
    progress.stage("imatrix", 1);
    let mut loaded = match checkpoints {
        Some(checkpoints) => checkpoints.load(run, progress)?,
        None => None,
    };
    let kept_layers = loaded.as_ref().map_or(0, |loaded| loaded.layers);
    let entries = loaded.as_mut().map(|loaded| std::mem::take(&mut loaded.entries));

    let mut collector = Collector::new(options.process_output, entries.unwrap_or_default());
    collector.first_chunk = selection.taken.start;
    let mut observer = Calibration {
        collector: &mut collector,
        chunks: &chunks,
        likelihoods: vec![Likelihood::default(); chunks.len()],
        checkpoints,
        loaded,
        run,
        progress,
    };
    let pass = forward::Options {
        logits: counted(options.ctx),
        precision: options.precision,
        memory: options.memory,
        first_chunk: selection.taken.start,
    };
    forward::run(model, &chunks, &mut observer, &pass, progress)?;
    let likelihoods = observer.likelihoods;

    record.likelihoods = likelihoods;
    record.covered = record::one(first..end);
    let perplexity = Perplexity::of(&record.likelihoods, options.ctx);
    progress.note(&running_text(&perplexity.running, 0));
    let (estimate, error) = (perplexity.estimate, perplexity.error);
    progress.note(&format!("Final estimate: PPL = {estimate:.4} +/- {error:.5}"));
    let imatrix = matrix(collector.entries(), options, record);
    if let Some(warning) = imatrix.unseen_experts() {
        progress.warn(&warning);
    }
    Ok(Computed { imatrix, perplexity, kept_layers })
}

fn matrix(entries: BTreeMap<String, Entry>, options: &Options, record: Record) -> ImportanceMatrix {
    ImportanceMatrix {
        entries,
        datasets: options.datasets.clone(),
        chunk_count: record.likelihoods.len() as u32,
        chunk_size: options.ctx as u32,
        record: Some(record),
    }
}

/// Collects activations and likelihoods in one pass.
struct Calibration<'a> {
    collector: &'a mut Collector,
    chunks: &'a [Vec<u32>],
    /// One for each chunk.
    likelihoods: Vec<Likelihood>,
    checkpoints: Option<&'a LayerCheckpoints<'a>>,
    /// What an earlier run had done.
    loaded: Option<Loaded>,
    run: Run<'a>,
    progress: &'a dyn Progress,
}

impl Observer for Calibration<'_> {
    fn activations(&mut self, input: &Activations<'_>) -> Result<()> {
        self.collector.add(input)
    }

    fn resume(&mut self) -> Result<Option<Resumed>> {
        Ok(self.loaded.take().map(Loaded::resume))
    }

    fn layers_done(&mut self, done: usize, snapshot: &mut Snapshot<'_>) -> Result<()> {
        match self.checkpoints {
            Some(checkpoints) if checkpoints.is_due() => {
                let entries = self.collector.entries();
                checkpoints.save(self.run, done, &entries, snapshot, self.progress)
            }
            _ => Ok(()),
        }
    }

    fn logits(&mut self, logits: &Logits<'_>) -> Result<()> {
        let targets = &self.chunks[logits.chunk][logits.position + 1..];
        self.likelihoods[logits.chunk].add(&losses(logits, targets));
        Ok(())
    }
}
