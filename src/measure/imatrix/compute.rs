//! From a text to an importance matrix, with the perplexity of the text on the way.
//!
//! Chunks go through the model all at once, or, where the state is to be saved, so many at a time. Every
//! chunk's share is added in the order of the chunks either way, so the sums are the same to the bit.

use super::chunks::{chunk_tokens, select};
use super::collector::Collector;
use super::layers::{LayerKeeping, Loaded};
use super::options::{Options, Selection};
use super::record::{self, Record};
use super::saving::Saving;
use super::{Entry, ImportanceMatrix};
use crate::base::error::Result;
use crate::base::progress::Progress;
use crate::formats::gguf::GgufModel;
use crate::measure::perplexity::{Likelihood, Perplexity, losses, running_text};
use crate::measure::tokens::counted;
use crate::model::forward::{self, Activations, Logits, Observer, Resumed, Snapshot};
use std::collections::BTreeMap;
use std::ops::Range;

/// What [`compute`] returns.
#[derive(Clone, Debug)]
pub struct Computed {
    pub imatrix: ImportanceMatrix,
    pub perplexity: Perplexity,
    /// How many of the chunks an earlier run had computed.
    pub kept_chunks: usize,
}

/// Takes `tokens` through `model` and returns the importance matrix and the perplexity.
///
/// Reports running perplexity by [`Progress::note`] as llama-imatrix prints it. As layers are the outer
/// loop, the figures come together at the end. Fails as [`chunk_tokens`] and
/// [`forward::run`] do.
pub fn compute(
    model: &GgufModel,
    tokens: &[u32],
    options: &Options,
    progress: &dyn Progress,
) -> Result<Computed> {
    compute_saving(model, tokens, options, None, progress)
}

/// As [`compute`]; the state is kept between layers, and an earlier run's is continued, as `keeping` tells. The result
/// is the same, bit for bit.
///
/// Fails too if the state cannot be written.
pub fn compute_keeping(
    model: &GgufModel,
    tokens: &[u32],
    options: &Options,
    keeping: &LayerKeeping<'_>,
    progress: &dyn Progress,
) -> Result<Computed> {
    let (selection, chunks, record) = prepare(model, tokens, options, progress)?;
    let place = (selection.taken.start as u32, chunks.len());
    progress.stage("imatrix", 1);
    let mut loaded = keeping.load(&record, place, progress)?;
    let entries = loaded.as_mut().map(|loaded| std::mem::take(&mut loaded.entries));
    let mut run =
        Run::new(model, options, &chunks, &selection, record, entries.unwrap_or_default());
    run.take(0..chunks.len(), Some(Layers { keeping, place, loaded, progress }), progress)?;
    Ok(run.end(0, progress))
}

/// The chunks that the options select, and what a run over them is of.
fn prepare(
    model: &GgufModel,
    tokens: &[u32],
    options: &Options,
    progress: &dyn Progress,
) -> Result<(Selection, Vec<Vec<u32>>, Record)> {
    let selection = select(tokens.len(), options)?;
    if selection.available < 2 {
        progress.warn("the calibration text fills only one chunk; means over so little are poor");
    }
    let chunks = chunk_tokens(tokens, options)?;
    let record = Record::new(model, tokens, options, &selection)?;
    Ok((selection, chunks, record))
}

/// As [`compute`]; the state is saved on the way, and an earlier run's is continued, as `saving` tells. The
/// result is the same, bit for bit.
///
/// Fails too if the state cannot be written, or something else has its name. What has been saved stays.
pub fn compute_saving(
    model: &GgufModel,
    tokens: &[u32],
    options: &Options,
    saving: Option<&Saving>,
    progress: &dyn Progress,
) -> Result<Computed> {
    let (selection, chunks, record) = prepare(model, tokens, options, progress)?;
    let first = selection.taken.start as u32;
    let earlier = match saving {
        Some(saving) => saving.load(&record, first, chunks.len(), progress)?,
        None => None,
    };
    let (entries, earlier) = match earlier {
        Some(matrix) => (matrix.entries, matrix.record),
        None => Default::default(),
    };
    let record = earlier.unwrap_or(record);
    let mut run = Run::new(model, options, &chunks, &selection, record, entries);
    let kept_chunks = run.done();
    let group = saving.and_then(Saving::every).unwrap_or(chunks.len());
    progress.stage("imatrix", chunks.len().saturating_sub(kept_chunks).div_ceil(group));
    while run.done() < chunks.len() {
        let next = run.done()..chunks.len().min(run.done().saturating_add(group));
        let step = run.take(next, None, progress).and_then(|()| match saving {
            Some(saving) if saving.every().is_some() => saving.save(&run.matrix()),
            _ => Ok(()),
        });
        if let (Err(_), Some(saving)) = (&step, saving) {
            saving.report_kept(chunks.len(), progress);
        }
        step?;
    }
    Ok(run.end(kept_chunks, progress))
}

/// The sums over the chunks taken so far.
struct Run<'a> {
    model: &'a GgufModel,
    options: &'a Options,
    chunks: &'a [Vec<u32>],
    collector: Collector,
    /// What has been taken.
    record: Record,
    /// Number of the run's first chunk in the text.
    first: usize,
}

impl<'a> Run<'a> {
    fn new(
        model: &'a GgufModel,
        options: &'a Options,
        chunks: &'a [Vec<u32>],
        selection: &Selection,
        record: Record,
        entries: BTreeMap<String, Entry>,
    ) -> Run<'a> {
        Run {
            model,
            options,
            chunks,
            collector: Collector::new(options.process_output, entries),
            record,
            first: selection.taken.start,
        }
    }

    /// Chunks in the sums.
    fn done(&self) -> usize {
        self.record.likelihoods.len()
    }

    /// Adds the chunks `next`, which follow those that are done, and notes their running perplexities.
    fn take(
        &mut self,
        next: Range<usize>,
        layers: Option<Layers<'_>>,
        progress: &dyn Progress,
    ) -> Result<()> {
        self.collector.first_chunk = self.first + next.start;
        let mut observer = Calibration {
            collector: &mut self.collector,
            chunks: &self.chunks[next.clone()],
            likelihoods: vec![Likelihood::default(); next.len()],
            layers,
            record: &self.record,
        };
        let run = forward::Options {
            logits: counted(self.options.ctx),
            precision: self.options.precision,
            memory: self.options.memory,
            first_chunk: self.first + next.start,
        };
        forward::run(self.model, &self.chunks[next.clone()], &mut observer, &run, progress)?;
        let likelihoods = observer.likelihoods;
        self.record.likelihoods.extend(likelihoods);
        // Fits: the record's count of the text's chunks did.
        self.record.covered = record::one(self.first as u32..(self.first + next.end) as u32);
        let perplexity = Perplexity::of(&self.record.likelihoods, self.options.ctx);
        progress.note(&running_text(&perplexity.running, next.start));
        Ok(())
    }

    /// Tells the perplexity of all chunks, and gives the result.
    fn end(self, kept_chunks: usize, progress: &dyn Progress) -> Computed {
        let perplexity = Perplexity::of(&self.record.likelihoods, self.options.ctx);
        let (estimate, error) = (perplexity.estimate, perplexity.error);
        progress.note(&format!("Final estimate: PPL = {estimate:.4} +/- {error:.5}"));
        let imatrix = self.matrix();
        if let Some(warning) = imatrix.unseen_experts() {
            progress.warn(&warning);
        }
        Computed { imatrix, perplexity, kept_chunks }
    }

    fn matrix(&self) -> ImportanceMatrix {
        ImportanceMatrix {
            entries: self.collector.entries(),
            datasets: self.options.datasets.clone(),
            chunk_count: self.done() as u32,
            chunk_size: self.options.ctx as u32,
            record: Some(self.record.clone()),
        }
    }
}

/// How a pass keeps its state between layers.
struct Layers<'a> {
    keeping: &'a LayerKeeping<'a>,
    /// The pass's first chunk in the text, and how many it takes.
    place: (u32, usize),
    loaded: Option<Loaded>,
    progress: &'a dyn Progress,
}

/// Collects activations and likelihoods in one pass.
struct Calibration<'a> {
    collector: &'a mut Collector,
    chunks: &'a [Vec<u32>],
    /// One for each chunk.
    likelihoods: Vec<Likelihood>,
    layers: Option<Layers<'a>>,
    /// What the run is of.
    record: &'a Record,
}

impl Observer for Calibration<'_> {
    fn activations(&mut self, input: &Activations<'_>) -> Result<()> {
        self.collector.add(input)
    }

    fn resume(&mut self) -> Result<Option<Resumed>> {
        Ok(self.layers.as_mut().and_then(|layers| layers.loaded.take()).map(Loaded::resume))
    }

    fn layers_done(&mut self, done: usize, snapshot: &mut Snapshot<'_>) -> Result<()> {
        match &self.layers {
            Some(Layers { keeping, place, progress, .. }) if keeping.is_due() => {
                let (run, entries) = (self.record, self.collector.entries());
                keeping.save_if_possible(run, *place, done, &entries, snapshot, *progress)
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
