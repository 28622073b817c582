//! The one pass: each tensor is read once, decoded once, quantized once for each type that some file
//! wants of it, and written to every file that wants that type.
//!
//! A tensor is worked on in groups of rows: a thread decodes a group, makes all types of it while its
//! values are in the cache, and writes them to their places. So a tensor never exists as f32, groups of
//! several tensors keep any number of threads busy, and reading the next tensors (which may mean
//! computing them) overlaps with quantizing and writing these. No state crosses rows, so neither the
//! groups nor the number of threads change a byte.
//!
//! What is held is the data of the tensors in flight, as the source gave them: nothing for a memory
//! map, and for computed tensors no more than [`RunOptions::memory`] or one tensor. A mixture's experts come
//! piece by piece where the source makes them so (`TensorSource::pieces`). Deliberately absent: reading smaller
//! parts of a tensor, which a merge could not give.

use super::groups::{Group, groups_of, matrices};
use super::importance::Importance;
use super::plan::QuantPlan;
use super::resume::{self, Begun, Saver, TensorJournal, TensorProgress};
use crate::base::budget::{Budget, FirstError, Permit};
use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::base::memory;
use crate::base::progress::{Progress, Unit, check_interrupted};
use crate::formats::gguf::{GgufModel, SplitWriter, shard_name, shard_paths};
use crate::formats::source::{TensorData, TensorInfo};
use crate::quants;
use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Source bytes of tensors in flight beyond which no more are read: enough to keep many threads busy,
/// whatever the tensors' sizes.
pub const AHEAD_BYTES: u64 = 256 << 20;

/// A file to be made.
pub struct Output {
    pub plan: QuantPlan,
    pub path: PathBuf,
}

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// Replace files that exist.
    pub force: bool,
    /// Bytes of computed tensors to hold at most; one tensor may take more.
    pub memory: u64,
}

impl Default for RunOptions {
    /// Replaces nothing and holds a quarter of the machine's memory.
    fn default() -> RunOptions {
        RunOptions { force: false, memory: memory::total() / 4 }
    }
}

/// A file that was made.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Written {
    /// The file, or the first of several.
    pub path: PathBuf,
    /// Number of files.
    pub shards: usize,
    /// Name of the whole-file type.
    pub ftype: String,
    pub bytes: u64,
    pub bits_per_weight: f64,
    /// Time that all threads together spent on this file's own types, by the number of threads; what
    /// several files share counts for each of them.
    pub seconds: f64,
}

impl Written {
    /// The result of a run that writes `plan` to `path`, without its time.
    ///
    /// # Errors
    /// Those of [`QuantPlan::file_bytes`].
    pub fn of(plan: &QuantPlan, path: &Path) -> Result<Written> {
        let paths = shard_paths(path, &plan.shards);
        Ok(Written {
            ftype: plan.ftype.to_string(),
            bytes: plan.file_bytes()?,
            shards: paths.len(),
            bits_per_weight: plan.bits_per_weight(),
            seconds: 0.0,
            path: paths[0].clone(),
        })
    }

    /// All files of the model, in order.
    pub fn paths(&self) -> Vec<PathBuf> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let count = self.shards as u64;
        match name.strip_suffix(&shard_name("", 0, count)) {
            Some(stem) if count > 1 => {
                (0..count).map(|no| self.path.with_file_name(shard_name(stem, no, count))).collect()
            }
            _ => vec![self.path.clone()],
        }
    }
}

/// Quantizes `model` into all `outputs` in one pass over its tensors.
///
/// The importance weights must be those that the plans were made with. Nothing appears under its final
/// name before all of it is written. With a `journal`, the pass takes over the tensors that an earlier one
/// has recorded there, records its own, and leaves the files, whole, under their hidden names
/// ([`crate::base::output::part_path`]).
///
/// # Errors
/// Whatever reading a tensor fails with; a value that is no finite number, named with its tensor and
/// index; a block of the source or of a target type whose scale is no finite number, named with its
/// tensor, weights and row; output that cannot be written. Of several errors, the one in the
/// tensor that comes first. Whole tensors have been saved to the journal where that was possible.
///
/// # Panics
/// If the plans have their tensors in different orders, as those of different models have, or those
/// that keep the source's shards and those that do not.
pub fn run(
    model: &GgufModel,
    outputs: Vec<Output>,
    importance: Option<&Importance>,
    options: RunOptions,
    journal: Option<&dyn TensorJournal>,
    progress: &dyn Progress,
) -> Result<Vec<Written>> {
    let Some(journal) = journal else {
        let open = |output| OpenFile::create(output, options);
        let files = outputs.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        pass(model, &files, importance, options, None, progress)?;
        return files.into_iter().map(|file| file.finish(progress)).collect();
    };
    let opened = outputs.into_iter().map(OpenFile::reopen).collect::<Result<Vec<_>>>()?;
    let (files, there): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
    let begun = files.iter().zip(there).enumerate().map(|(n, (file, there))| {
        let OpenFile { plan, writer, whole, .. } = file;
        let earlier = journal.earlier(n);
        if !earlier.is_empty() {
            let (path, n, all) = (writer.paths()[0].display(), earlier.len(), plan.tensors.len());
            progress.note(&format!("continuing {path}: {n} of {all} tensors are whole"));
        }
        Begun { plan, writer, whole, there, earlier }
    });
    resume::verify(&begun.collect::<Vec<_>>(), model, importance, progress)?;
    let saved = files.iter().map(|file| (&file.plan, &file.writer, &file.whole));
    let saver = Saver::new(journal, saved.collect());
    let done = pass(model, &files, importance, options, Some(&saver), progress);
    let saved = saver.save();
    done?;
    saved?;
    files.into_iter().map(OpenFile::seal).collect()
}

/// Reads every tensor of `model` that some of `files` lacks, and writes it to those.
fn pass(
    model: &GgufModel,
    files: &[OpenFile],
    importance: Option<&Importance>,
    options: RunOptions,
    saver: Option<&Saver<'_>>,
    progress: &dyn Progress,
) -> Result<()> {
    let Some(first) = files.first() else { return Ok(()) };
    let infos = model.tensors.table().infos();
    let order: Vec<usize> = first.plan.order().collect();
    assert!(files.iter().all(|file| file.plan.order().eq(order.iter().copied())), "plans differ");
    let wanted = order.iter().enumerate();
    let wanted: Vec<_> =
        wanted.filter(|(index, _)| files.iter().any(|file| !file.whole.has(*index))).collect();
    let total = wanted.iter().map(|(_, source)| infos[**source].bytes().unwrap_or(0) as u64).sum();
    progress.begin("quantize", total, Unit::Bytes);
    let pass = Pass::new(progress, options.memory, saver, &wanted, infos);
    rayon::in_place_scope(|scope| {
        for &(index, &source) in &wanted {
            let info = &infos[source];
            progress.detail(&info.name);
            let pieces = model.tensors.pieces(source);
            let rows = info.elements() / info.row_len().max(1) / pieces;
            for piece in 0..pieces {
                let rows = piece * rows..(piece + 1) * rows;
                let saved = saver.map_or(Ok(()), Saver::save_if_due);
                match saved.and_then(|()| pass.read(model, source, piece)) {
                    Ok(held) => Tensor::new(model, index, info, (held, rows), files, importance)
                        .spawn_groups(scope, &pass),
                    Err(error) => pass.error.record((index, rows.start), error),
                }
                if pass.error.is_some() {
                    return;
                }
            }
        }
    });
    pass.error.into_result()?;
    progress.end();
    Ok(())
}

/// What all threads share.
struct Pass<'a> {
    progress: &'a dyn Progress,
    /// Bytes of computed tensors in flight, which take memory.
    computed: Budget,
    /// Bytes of all tensors in flight, mapped ones too.
    ahead: Budget,
    saver: Option<&'a Saver<'a>>,
    /// Rows that are still to be written, by the tensor's place in the files' order.
    remaining: Vec<AtomicUsize>,
    /// By (tensor, row).
    error: FirstError<(usize, usize)>,
}

/// Data of a piece of a tensor in flight.
struct Held<'a> {
    data: TensorData<'a>,
    _permits: [Permit<'a>; 2],
}

impl<'a> Pass<'a> {
    /// A pass over the tensors `wanted`, of which the place in the files' order and the index in the table are given.
    fn new(
        progress: &'a dyn Progress,
        limit: u64,
        saver: Option<&'a Saver<'a>>,
        wanted: &[(usize, &usize)],
        infos: &[TensorInfo],
    ) -> Pass<'a> {
        let count = wanted.last().map_or(0, |(index, _)| index + 1);
        let remaining: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        for &(index, &source) in wanted {
            let rows = infos[source].elements() / infos[source].row_len().max(1);
            remaining[index].store(rows, Ordering::Relaxed);
            if let Some(saver) = saver.filter(|_| rows == 0) {
                saver.finished(index);
            }
        }
        let (computed, ahead) = (Budget::new(limit), Budget::new(AHEAD_BYTES));
        Pass { progress, computed, ahead, saver, remaining, error: FirstError::default() }
    }

    /// `rows` more of the tensor that is `index` in the files' order are written to all files.
    fn written(&self, index: usize, rows: usize) {
        // Whoever takes the last rows sees all that was written before.
        if self.remaining[index].fetch_sub(rows, Ordering::AcqRel) == rows
            && let Some(saver) = self.saver
        {
            saver.finished(index);
        }
    }

    /// Reads a piece of tensor `source` once there is room for it.
    fn read(&'a self, model: &'a GgufModel, source: usize, piece: usize) -> Result<Held<'a>> {
        let needed = model.tensors.table().infos()[source].bytes().unwrap_or(0);
        // Any size fits once no more than AHEAD_BYTES are in flight.
        self.ahead.wait_for(0);
        self.computed.wait_for((needed / model.tensors.pieces(source)) as u64);
        let data = model.tensors.read_piece(source, piece)?;
        let computed = match &data.bytes {
            Cow::Borrowed(_) => 0,
            Cow::Owned(bytes) => bytes.len() as u64,
        };
        let ahead = self.ahead.take(data.bytes.len() as u64);
        Ok(Held { _permits: [self.computed.take(computed), ahead], data })
    }
}

/// A file on its way.
struct OpenFile {
    plan: QuantPlan,
    writer: SplitWriter,
    whole: TensorProgress,
    /// Nanoseconds, summed over threads.
    spent: AtomicU64,
}

impl OpenFile {
    fn create(output: Output, options: RunOptions) -> Result<OpenFile> {
        let Output { plan, path } = output;
        let QuantPlan { metadata, shards, .. } = &plan;
        let writer = SplitWriter::create(&path, options.force, metadata, plan.infos(), shards)?;
        Ok(OpenFile::new(plan, writer))
    }

    /// As [`OpenFile::create`], under the hidden name. Also returns, for each tensor, whether its file is
    /// one that an earlier pass has begun.
    fn reopen(output: Output) -> Result<(OpenFile, Vec<bool>)> {
        let Output { plan, path } = output;
        let (writer, begun) =
            SplitWriter::reopen(&path, &plan.metadata, plan.infos(), &plan.shards)?;
        Ok((OpenFile::new(plan, writer), begun))
    }

    fn new(plan: QuantPlan, writer: SplitWriter) -> OpenFile {
        let whole = TensorProgress::new(plan.tensors.len());
        OpenFile { plan, writer, whole, spent: AtomicU64::new(0) }
    }

    fn written(&self) -> Result<Written> {
        let spent = Duration::from_nanos(self.spent.load(Ordering::Relaxed));
        let seconds = spent.as_secs_f64() / rayon::current_num_threads() as f64;
        let path = self.writer.paths()[0].clone();
        let (shards, bytes) = (self.writer.paths().len(), self.writer.total_bytes());
        Ok(Written {
            path,
            shards,
            bytes,
            seconds,
            ..Written::of(&self.plan, Path::new("m.gguf"))?
        })
    }

    fn finish(self, progress: &dyn Progress) -> Result<Written> {
        let (written, paths) = (self.written()?, self.writer.paths().to_vec());
        self.writer.finish()?;
        paths.iter().for_each(|path| progress.note(&format!("wrote {}", path.display())));
        Ok(written)
    }

    fn seal(self) -> Result<Written> {
        let written = self.written()?;
        self.writer.seal()?;
        Ok(written)
    }
}

/// A type to make of a tensor, with or without importance weights, and the files that want it.
struct TargetType<'a> {
    dtype: DType,
    weighted: bool,
    files: Vec<&'a OpenFile>,
}

/// One tensor in flight, or a piece of it, shared by the tasks of its groups.
struct Tensor<'a> {
    origin: &'a str,
    /// Place in the files' order.
    index: usize,
    info: &'a TensorInfo,
    held: Held<'a>,
    /// The rows that are held, of those of all matrices.
    rows: Range<usize>,
    targets: Vec<TargetType<'a>>,
    /// `[matrices * row_len]`: each expert has importance weights of its own.
    weights: Option<&'a [f32]>,
}

impl<'a> Tensor<'a> {
    fn new(
        model: &'a GgufModel,
        index: usize,
        info: &'a TensorInfo,
        (held, rows): (Held<'a>, Range<usize>),
        files: &'a [OpenFile],
        importance: Option<&'a Importance>,
    ) -> Tensor<'a> {
        let mut targets: Vec<TargetType<'_>> = Vec::new();
        for file in files.iter().filter(|file| !file.whole.has(index)) {
            let planned = &file.plan.tensors[index];
            let (dtype, weighted) = (planned.info.dtype, planned.weighted);
            match targets.iter_mut().find(|t| (t.dtype, t.weighted) == (dtype, weighted)) {
                Some(target) => target.files.push(file),
                None => targets.push(TargetType { dtype, weighted, files: vec![file] }),
            }
        }
        let weights = importance.and_then(|i| i.get(&info.name));
        Tensor { origin: model.tensors.origin(), index, info, held, rows, targets, weights }
    }

    /// Gives every group to the pool. The tensor's data go with its last group.
    fn spawn_groups(self, scope: &rayon::Scope<'a>, pass: &'a Pass<'a>) {
        let tensor = Arc::new(self);
        let matrices = matrices(tensor.info, tensor.weights);
        for group in groups_of(tensor.info, matrices, tensor.rows.clone()) {
            let tensor = Arc::clone(&tensor);
            scope.spawn(move |_| {
                let at = (tensor.index, group.first_row);
                if pass.error.is_before(&at) {
                    return;
                }
                match check_interrupted().and_then(|()| tensor.make(&group, pass.saver.is_some())) {
                    Ok(()) => pass.written(tensor.index, group.rows),
                    Err(error) => pass.error.record(at, error),
                }
                let row_bytes = tensor.info.dtype.row_bytes(tensor.info.row_len()).unwrap_or(0);
                pass.progress.advance((group.rows * row_bytes) as u64);
            });
        }
    }

    fn fail(&self, error: impl std::fmt::Display) -> Error {
        Error::tensor(self.origin, &self.info.name, error.to_string())
    }

    /// Decodes `group`, makes every type of it and writes them; with `keep`, hashes what they became.
    fn make(&self, group: &Group, keep: bool) -> Result<()> {
        let row = self.info.row_len();
        let row_bytes = self.info.dtype.row_bytes(row).unwrap_or(0);
        let start = (group.first_row - self.rows.start) * row_bytes;
        let bytes = self.held.data.bytes.get(start..start + group.rows * row_bytes);
        let bytes = bytes.ok_or_else(|| self.fail("fewer bytes than its shape needs"))?;
        let values = self.decode(group, bytes)?;
        let mut encoded = Vec::new();
        for target in &self.targets {
            let started = Instant::now();
            let made = if target.dtype == self.info.dtype {
                bytes
            } else {
                self.encode(target, group, &values, &mut encoded)?;
                &encoded
            };
            let hash = if keep { resume::hash(made) } else { 0 };
            let offset = (made.len() / group.rows * group.first_row) as u64;
            for file in &target.files {
                file.writer.write_part(self.index, offset, made)?;
                if keep {
                    file.whole.add(self.index, group.first_row, hash);
                }
                file.spent.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// The values of `group`, known to be numbers. None for types that cannot be decoded, which are
    /// only ever copied.
    fn decode(&self, group: &Group, bytes: &[u8]) -> Result<Vec<f32>> {
        let dtype = self.info.dtype;
        if !quants::can_decode(dtype) {
            return Ok(Vec::new());
        }
        // Not every scale that is no number shows in the values.
        if dtype.is_quantized()
            && let Some(block) = quants::first_invalid_block(dtype, bytes)
        {
            let weights = self.weights_of(group, dtype, block);
            return Err(self.fail(format!(
                "{weights} have a {dtype} scale that is no finite number; the file is damaged"
            )));
        }
        let row = self.info.row_len();
        let mut values = vec![0f32; group.rows * row];
        quants::decode(dtype, bytes, &mut values).map_err(|e| self.fail(e))?;
        match quants::first_non_finite(&values) {
            None => Ok(values),
            Some(at) => {
                let index = group.first_row * row + at;
                Err(self.fail(format!("weight {index} is {}", values[at])))
            }
        }
    }

    /// Fills `encoded` with `values` in the type of `target`.
    fn encode(
        &self,
        target: &TargetType<'_>,
        group: &Group,
        values: &[f32],
        encoded: &mut Vec<u8>,
    ) -> Result<()> {
        let row = self.info.row_len();
        let row_bytes = target.dtype.row_bytes(row);
        let row_bytes = row_bytes.ok_or_else(|| self.fail("rows are no whole blocks"))?;
        encoded.resize(group.rows * row_bytes, 0);
        let weights = self.weights.filter(|_| target.weighted);
        let weights = weights.map(|w| &w[group.matrix * row..][..row]);
        quants::quantize(target.dtype, values, row, weights, encoded).map_err(|e| self.fail(e))?;
        self.check_blocks(target.dtype, group, encoded, values)
    }

    /// Refuses blocks whose scale is no finite number: finite weights can be too large for F16 numbers
    /// and scales, or so large or so small that the search for a scale overflows.
    fn check_blocks(
        &self,
        target: DType,
        group: &Group,
        encoded: &[u8],
        values: &[f32],
    ) -> Result<()> {
        let Some(block) = quants::first_invalid_block(target, encoded) else { return Ok(()) };
        let weights = self.weights_of(group, target, block);
        let values = &values[block * target.block_len()..][..target.block_len()];
        let largest = values.iter().fold(0f32, |a, v| a.max(v.abs()));
        let problem = match values {
            [value] => format!("{weights} is {value:e}, too large for {target}"),
            _ => format!("{weights}, up to {largest:e}, have no finite scale in {target}"),
        };
        let advice = "give the tensor another type, such as BF16 (--tensor-type)";
        Err(self.fail(format!("{problem}; {advice}")))
    }

    /// Which weights of the tensor block `block` of a group in `dtype` holds, in words.
    fn weights_of(&self, group: &Group, dtype: DType, block: usize) -> String {
        let (row, len) = (self.info.row_len(), dtype.block_len());
        let first = group.first_row * row + block * len;
        match len {
            1 => format!("weight {first} (row {})", first / row),
            _ => format!("weights {first} to {} (row {})", first + len - 1, first / row),
        }
    }
}
