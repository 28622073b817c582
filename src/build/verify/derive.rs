//! Whether a file's tensors are what its source gives: each is made again, with the type that it has in the file
//! and the importance weights that the file's metadata name, and compared bit for bit.
//!
//! Each tensor of the source is read once for all files, by pieces where it has them, and decoded and quantized
//! in groups of rows on all threads, as `quantize::run` does it. Which tensors are taken depends on their
//! names and the seed alone.

use super::{Model, Problem, Report};
use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::base::mmap;
use crate::base::progress::{Progress, Unit, check_interrupted};
use crate::formats::gguf::{GgufModel, Metadata};
use crate::formats::source::{TensorData, TensorInfo};
use crate::measure::compare;
use crate::measure::imatrix::ImportanceMatrix;
use crate::quantize::{Group, Importance, Pruning, groups_of};
use crate::quants;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What to compare with, and how much of it.
pub struct Derive<'a> {
    pub source: &'a GgufModel,
    /// What was done to get `source`, so that the importance matrix, which is the whole model's, goes with it.
    pub pruning: Option<&'a Pruning>,
    /// The importance matrix to use instead of the one that the metadata name.
    pub imatrix: Option<&'a Path>,
    /// How many tensors to take; all if `None`.
    pub sample: Option<usize>,
    /// Chooses them.
    pub seed: u64,
}

/// What was compared.
#[derive(Clone, Debug, Serialize)]
pub struct Derivation {
    pub source: String,
    /// Tensors of the source that were made again, and how many it has.
    pub tensors: usize,
    pub of: usize,
    /// Tensors of all files that were compared.
    pub compared: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// A tensor of a file that is to be made again.
struct CheckedTensor<'a> {
    file: &'a Path,
    /// Of its data in the file, in bytes.
    offset: u64,
    dtype: DType,
    data: TensorData<'a>,
    /// Weights to try, one after the other; `None` is to do without.
    tries: Vec<Option<&'a [f32]>>,
}

/// Where what was made differs from what is there.
#[derive(Clone, Copy)]
struct Mismatch {
    /// Bytes from the beginning of the tensor.
    at: usize,
    /// Rows that differ.
    rows: usize,
}

impl Derive<'_> {
    pub(super) fn check(
        &self,
        models: &[Model],
        report: &mut Report,
        progress: &dyn Progress,
    ) -> Result<Derivation> {
        let infos = self.source.tensors.table().infos();
        let mut importances = BTreeMap::new();
        for model in models {
            self.compare_tables(model, report);
            if let Some(path) = self.imatrix_of(model, report)
                && !importances.contains_key(&path)
            {
                let matrix = ImportanceMatrix::read(&path)?;
                let name = path.display().to_string();
                let mut importance = Importance::new(&matrix, &name)?;
                if let Some(pruning) = self.pruning {
                    pruning.rename(&mut importance);
                }
                importances.insert(path, importance);
            }
        }
        let chosen = self.choose();
        let bytes = |index: &usize| infos[*index].bytes().unwrap_or(0) as u64;
        progress.begin("derive", chosen.iter().map(bytes).sum(), Unit::Bytes);
        let mut compared = 0;
        for index in &chosen {
            check_interrupted()?;
            let info = &infos[*index];
            progress.detail(&info.name);
            let mut targets = Vec::new();
            for model in models {
                let importance = self.imatrix_path(model).and_then(|p| importances.get(&p));
                targets.extend(target(model, info, importance, report)?);
            }
            compared += targets.len();
            if !targets.is_empty() {
                let problems = self.make(*index, &targets)?;
                report.problems.extend(problems);
            }
            progress.advance(bytes(index));
        }
        progress.end();
        Ok(Derivation {
            source: self.source.origin().to_string(),
            tensors: chosen.len(),
            of: infos.len(),
            compared,
            seed: (chosen.len() < infos.len()).then_some(self.seed),
        })
    }

    /// The tensors of the source to make again, in its order.
    fn choose(&self) -> Vec<usize> {
        let infos = self.source.tensors.table().infos();
        let mut order: Vec<usize> = (0..infos.len()).collect();
        let Some(sample) = self.sample else { return order };
        let key = |index: &usize| xxh3_64_with_seed(infos[*index].name.as_bytes(), self.seed);
        order.sort_by_cached_key(|index| (key(index), *index));
        order.truncate(sample);
        order.sort_unstable();
        order
    }

    /// Compares names, shapes and metadata.
    fn compare_tables(&self, model: &Model, report: &mut Report) {
        let (ours, theirs) = (model.model.tensors.table(), self.source.tensors.table());
        let path = &model.path;
        for (info, (file, offset)) in ours.infos().iter().zip(&model.places) {
            let detail = match theirs.get(&info.name) {
                None => "the source has no such tensor".to_string(),
                Some(source) if !compare::same_shape(source, info) => {
                    format!("its shape is {:?}, in the source {:?}", info.shape, source.shape)
                }
                Some(_) => continue,
            };
            report.problems.push(Problem::tensor(file, &info.name, *offset, detail));
        }
        for info in theirs.infos().iter().filter(|info| ours.get(&info.name).is_none()) {
            let problem = Problem::new(path, "the source has this tensor, the file does not");
            report.problems.push(Problem { tensor: Some(info.name.clone()), ..problem });
        }
        // What names and describes a model may change on the way; what the model computes must not.
        let computes = |key: &str| {
            key == "general.architecture"
                || !["general.", "quantize.", "split.", "aqueduct."]
                    .iter()
                    .any(|p| key.starts_with(p))
        };
        let differences = compare::metadata(&self.source.metadata, &model.model.metadata);
        for difference in differences.into_iter().filter(|d| computes(&d.key)) {
            let detail = format!("metadata key '{}' is not the source's", difference.key);
            report.problems.push(Problem::new(path, detail));
        }
    }

    /// The importance matrix that `model` was made with, if its metadata name one; a problem if that is not
    /// found.
    fn imatrix_of(&self, model: &Model, report: &mut Report) -> Option<PathBuf> {
        let recorded = recorded_imatrix(&model.model.metadata)?;
        let found = self.imatrix_path(model);
        if found.is_none() {
            let detail = format!(
                "was made with the importance matrix '{recorded}', which is not there; name it with --imatrix"
            );
            report.problems.push(Problem::new(&model.path, detail));
        }
        found
    }

    fn imatrix_path(&self, model: &Model) -> Option<PathBuf> {
        let recorded = recorded_imatrix(&model.model.metadata)?;
        if let Some(path) = self.imatrix {
            return Some(path.to_path_buf());
        }
        // Beside the file first: what a file that came from elsewhere names need not be here what it was there.
        let name = Path::new(recorded).file_name()?;
        let candidates = [model.path.with_file_name(name), PathBuf::from(recorded)];
        candidates.into_iter().find(|path| path.is_file())
    }

    /// Makes tensor `index` of the source again for all `targets`, and returns which differ.
    fn make(&self, index: usize, targets: &[CheckedTensor<'_>]) -> Result<Vec<Problem>> {
        let source = &*self.source.tensors;
        let info = &source.table().infos()[index];
        let rows = info.elements() / info.row_len().max(1);
        let row_bytes = info.dtype.row_bytes(info.row_len()).unwrap_or(0);
        let mut found: Vec<Vec<Option<Mismatch>>> =
            targets.iter().map(|target| vec![None; target.tries.len()]).collect();
        let mut first_row = 0;
        for piece in 0..source.pieces(index) {
            let data = source.read_piece(index, piece)?;
            if row_bytes == 0 || rows == 0 {
                continue;
            }
            let rows_here = first_row..first_row + data.bytes.len() / row_bytes;
            let groups = groups_of(info, info.matrices().max(1), rows_here);
            let outcomes = groups.par_iter().map(|group| -> Result<_> {
                check_interrupted()?;
                let start = (group.first_row - first_row) * row_bytes;
                let bytes = &data.bytes[start..start + group.rows * row_bytes];
                make_group(source.origin(), info, bytes, group, targets)
            });
            let outcomes: Vec<Result<Vec<Vec<Option<Mismatch>>>>> = outcomes.collect();
            for outcome in outcomes {
                for (all, more) in found.iter_mut().zip(outcome?) {
                    all.iter_mut().zip(more).for_each(|(all, more)| *all = joined(*all, more));
                }
            }
            first_row += data.bytes.len() / row_bytes;
            mmap::release_pages(&data.bytes);
        }
        targets.iter().for_each(|target| mmap::release_pages(&target.data.bytes));
        let problems = targets.iter().zip(found).filter_map(|(target, found)| {
            let mismatch = found.iter().copied().collect::<Option<Vec<_>>>()?;
            Some(target.problem(info, *mismatch.first()?, rows))
        });
        Ok(problems.collect())
    }
}

/// The name of the importance matrix in `metadata`.
fn recorded_imatrix(metadata: &Metadata) -> Option<&str> {
    metadata.str("quantize.imatrix.file")
}

/// The tensor of `model` that `info`, of the source, is to become. `None` where there is none to compare, which
/// is reported.
fn target<'a>(
    model: &'a Model,
    info: &TensorInfo,
    importance: Option<&'a Importance>,
    report: &mut Report,
) -> Result<Option<CheckedTensor<'a>>> {
    let tensors = &model.model.tensors;
    let Some(index) = tensors.table().find(&info.name) else { return Ok(None) };
    let own = &tensors.table().infos()[index];
    if !compare::same_shape(own, info) {
        return Ok(None);
    }
    let (file, offset) = &model.places[index];
    let mut fail = |detail: String| {
        report.problems.push(Problem::tensor(file, &info.name, *offset, detail));
        Ok(None)
    };
    let changes = own.dtype != info.dtype;
    if changes && !(quants::can_quantize(own.dtype) && quants::can_decode(info.dtype)) {
        return fail(format!("{} cannot be made of {} here", own.dtype, info.dtype));
    }
    let weights = importance.filter(|_| changes && own.dtype.is_quantized());
    let weights = weights.and_then(|all| all.get(&info.name));
    let weights = weights.filter(|weights| weights.len() == info.row_len() * info.matrices());
    let mut tries = vec![weights];
    // Fewer entries than the matrix has: some were left out of use, and the file does not tell which.
    let recorded = model.model.metadata.u64("quantize.imatrix.entries_count");
    let partly = recorded.is_some() && recorded != importance.map(|all| all.entries() as u64);
    if weights.is_some() && partly {
        tries.push(None);
    }
    tries
        .retain(|weights| weights.is_some() || !quants::requires_importance(own.dtype) || !changes);
    if tries.is_empty() {
        return fail(format!("{} cannot be made without importance weights", own.dtype));
    }
    let data = tensors.read(index)?;
    Ok(Some(CheckedTensor { file, offset: *offset, dtype: own.dtype, data, tries }))
}

impl CheckedTensor<'_> {
    fn problem(&self, info: &TensorInfo, mismatch: Mismatch, rows: usize) -> Problem {
        let block = mismatch.at / self.dtype.block_bytes();
        let first = block * self.dtype.block_len();
        let row = first / info.row_len().max(1);
        let how = match (self.dtype == info.dtype, self.tries[0].is_some()) {
            (true, _) => "copied from the source".to_string(),
            (false, true) => format!("{} of the source with the importance matrix", self.dtype),
            (false, false) => format!("{} of the source", self.dtype),
        };
        let detail = format!(
            "is not {how}: {} of {rows} rows differ, first at weight {first} (row {row})",
            mismatch.rows
        );
        Problem::tensor(self.file, &info.name, self.offset + mismatch.at as u64, detail)
    }
}

/// Makes the rows of `group`, whose source has `bytes`, for all targets; by target and try, where they differ.
fn make_group(
    origin: &str,
    info: &TensorInfo,
    bytes: &[u8],
    group: &Group,
    targets: &[CheckedTensor<'_>],
) -> Result<Vec<Vec<Option<Mismatch>>>> {
    let fail = |error: Error| Error::tensor(origin, &info.name, error.to_string());
    let row = info.row_len();
    let rows = group.first_row..group.first_row + group.rows;
    let mut values = Vec::new();
    if targets.iter().any(|target| target.dtype != info.dtype) {
        values.resize(rows.len() * row, 0f32);
        quants::decode(info.dtype, bytes, &mut values).map_err(fail)?;
    }
    let matrix = group.matrix;
    let mut made = Vec::new();
    let outcomes = targets.iter().map(|target| {
        let row_bytes = target.dtype.row_bytes(row).unwrap_or(0);
        let start = rows.start * row_bytes;
        let there = target.data.bytes.get(start..rows.end * row_bytes).unwrap_or(&[]);
        let tries = target.tries.iter().map(|weights| {
            if target.dtype == info.dtype {
                return Ok(mismatch(bytes, there, row_bytes, start));
            }
            made.resize(rows.len() * row_bytes, 0);
            let weights = weights.map(|weights| &weights[matrix * row..][..row]);
            quants::quantize(target.dtype, &values, row, weights, &mut made).map_err(fail)?;
            Ok(mismatch(&made, there, row_bytes, start))
        });
        tries.collect()
    });
    outcomes.collect()
}

/// Where `there`, which begins `start` bytes into its tensor, differs from `made`.
fn mismatch(made: &[u8], there: &[u8], row_bytes: usize, start: usize) -> Option<Mismatch> {
    if made == there {
        return None;
    }
    let same = made.iter().zip(there).take_while(|(a, b)| a == b).count();
    let rows = made.chunks(row_bytes).zip(there.chunks(row_bytes));
    let rows = rows.filter(|(made, there)| made != there).count();
    Some(Mismatch { at: start + same, rows })
}

/// Both together; `first` comes first.
fn joined(first: Option<Mismatch>, second: Option<Mismatch>) -> Option<Mismatch> {
    match (first, second) {
        (Some(first), Some(second)) => Some(Mismatch { rows: first.rows + second.rows, ..first }),
        (first, second) => first.or(second),
    }
}
