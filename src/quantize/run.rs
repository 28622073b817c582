//! The one pass: each tensor is read and decoded once, quantized once for each type that some file
//! wants of it, and written to every file that wants that type.
//!
//! Rows are quantized in groups on all threads. No state crosses rows, so neither the groups nor the
//! number of threads change a byte. Tensors follow one another; overlapping reading, computing and
//! writing is deliberately absent so far.

use super::importance::Importance;
use super::plan::{PlannedTensor, QuantPlan};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::gguf::{GgufModel, GgufWriter};
use crate::progress::{Progress, Unit, check_interrupted};
use crate::quants;
use crate::source::{TensorData, TensorInfo};
use rayon::prelude::*;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Elements that a thread quantizes at a time: enough to make the hand-over cheap, few enough to keep
/// all threads busy on small tensors.
const GROUP_ELEMENTS: usize = 1 << 15;

/// A file to be made.
pub struct Output {
    pub plan: QuantPlan,
    pub path: PathBuf,
}

/// A file that was made.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Written {
    pub path: PathBuf,
    /// Name of the whole-file type.
    pub ftype: String,
    pub bytes: u64,
    pub bits_per_weight: f64,
    /// Time spent on this file's own types; what several files share counts for each of them.
    pub seconds: f64,
}

/// Quantizes `model` into all `outputs` in one pass over its tensors.
///
/// The importance weights must be those that the plans were made with. With `force`, existing files
/// are replaced. Nothing appears under its final name before all of it is written.
///
/// # Errors
/// Whatever reading a tensor fails with; a value that is no finite number, named with its tensor and
/// index; a value too large for F16; output that cannot be written.
pub fn run(
    model: &GgufModel,
    outputs: Vec<Output>,
    importance: Option<&Importance>,
    force: bool,
    progress: &dyn Progress,
) -> Result<Vec<Written>> {
    let mut files = outputs
        .into_iter()
        .map(|output| OpenFile::create(output, force))
        .collect::<Result<Vec<_>>>()?;
    let table = model.tensors.table();
    let order: Vec<usize> = match files.first() {
        Some(file) => file.plan.tensors.iter().map(|t| t.source).collect(),
        None => return Ok(Vec::new()),
    };
    let total = table.infos().iter().map(|t| t.bytes().unwrap_or(0) as u64).sum();
    progress.begin("quantize", total, Unit::Bytes);
    for (index, &source) in order.iter().enumerate() {
        check_interrupted()?;
        let info = &table.infos()[source];
        progress.detail(&info.name);
        let mut tensor = Decoded::read(model, source)?;
        let mut made: Vec<(DType, Duration)> = Vec::new();
        for target in wanted_types(&files, index) {
            let start = Instant::now();
            let weights = importance.and_then(|i| i.get(&info.name));
            let planned = files.iter().map(|f| &f.plan.tensors[index]);
            let weighted = planned.clone().any(|t| t.info.dtype == target && t.weighted);
            let bytes = tensor.as_type(target, weights.filter(|_| weighted))?;
            for file in files.iter().filter(|f| f.plan.tensors[index].info.dtype == target) {
                file.writer.write_tensor(index, bytes)?;
            }
            made.push((target, start.elapsed()));
        }
        for file in &mut files {
            let target = file.plan.tensors[index].info.dtype;
            file.spent += made.iter().find(|m| m.0 == target).map_or(Duration::ZERO, |m| m.1);
        }
        progress.advance(info.bytes().unwrap_or(0) as u64);
    }
    progress.end();
    files.into_iter().map(|file| file.finish(progress)).collect()
}

/// The distinct types that the files want of tensor `index`, in the files' order.
fn wanted_types(files: &[OpenFile], index: usize) -> Vec<DType> {
    let mut types = Vec::new();
    for file in files {
        let PlannedTensor { info, .. } = &file.plan.tensors[index];
        if !types.contains(&info.dtype) {
            types.push(info.dtype);
        }
    }
    types
}

/// A file on its way.
struct OpenFile {
    plan: QuantPlan,
    path: PathBuf,
    writer: GgufWriter,
    spent: Duration,
}

impl OpenFile {
    fn create(output: Output, force: bool) -> Result<OpenFile> {
        let Output { plan, path } = output;
        let writer = GgufWriter::create(&path, force, &plan.metadata, plan.infos())?;
        Ok(OpenFile { plan, path, writer, spent: Duration::ZERO })
    }

    fn finish(self, progress: &dyn Progress) -> Result<Written> {
        let written = Written {
            ftype: self.plan.ftype.to_string(),
            bytes: self.writer.layout().file_bytes(),
            bits_per_weight: self.plan.bits_per_weight(),
            seconds: self.spent.as_secs_f64(),
            path: self.path,
        };
        self.writer.finish()?;
        progress.note(&format!("wrote {}", written.path.display()));
        Ok(written)
    }
}

/// One tensor, as it came and, once some file needs them, as f32 values.
struct Decoded<'a> {
    origin: &'a str,
    info: &'a TensorInfo,
    data: TensorData<'a>,
    values: Option<Vec<f32>>,
    encoded: Vec<u8>,
}

impl<'a> Decoded<'a> {
    /// Reads tensor `source` and checks that its values are numbers.
    fn read(model: &'a GgufModel, source: usize) -> Result<Decoded<'a>> {
        let info = &model.tensors.table().infos()[source];
        let data = model.tensors.read(source)?;
        let origin = model.tensors.origin();
        let mut decoded = Decoded { origin, info, data, values: None, encoded: Vec::new() };
        if quants::can_decode(info.dtype) {
            let values = decoded.decode()?;
            if let Some(index) = quants::first_non_finite(&values) {
                let detail = format!("weight {index} is {}", values[index]);
                return Err(Error::tensor(origin, &info.name, detail));
            }
            decoded.values = Some(values);
        }
        Ok(decoded)
    }

    fn fail(&self, error: impl std::fmt::Display) -> Error {
        Error::tensor(self.origin, &self.info.name, error.to_string())
    }

    /// All values, decoded in groups of rows on all threads.
    fn decode(&self) -> Result<Vec<f32>> {
        let row = self.info.row_len();
        let row_bytes = self.info.dtype.row_bytes(row).unwrap_or(0);
        let rows = rows_per_group(row);
        let mut values = vec![0f32; self.info.elements()];
        if values.is_empty() {
            return Ok(values);
        }
        let groups =
            values.par_chunks_mut(rows * row).zip(self.data.bytes.par_chunks(rows * row_bytes));
        groups
            .map(|(values, bytes)| quants::decode(self.info.dtype, bytes, values))
            .collect::<Result<()>>()
            .map_err(|e| self.fail(e))?;
        Ok(values)
    }

    /// The tensor's bytes in type `target`; untouched if that is the type it has.
    fn as_type(&mut self, target: DType, weights: Option<&[f32]>) -> Result<&[u8]> {
        if target == self.info.dtype {
            return Ok(&self.data.bytes);
        }
        let mut encoded = std::mem::take(&mut self.encoded);
        let bytes = TensorInfo { dtype: target, ..self.info.clone() }.bytes();
        encoded.resize(bytes.ok_or_else(|| self.fail("rows are no whole blocks"))?, 0);
        let values = self.values.as_deref().ok_or_else(|| self.fail("cannot be decoded"))?;
        if !values.is_empty() {
            self.encode(target, values, weights, &mut encoded)?;
        }
        self.encoded = encoded;
        Ok(&self.encoded)
    }

    /// Encodes `values` matrix by matrix: each expert has importance weights of its own.
    fn encode(
        &self,
        target: DType,
        values: &[f32],
        weights: Option<&[f32]>,
        encoded: &mut [u8],
    ) -> Result<()> {
        let row = self.info.row_len();
        let matrices = weights.map_or(1, |w| w.len() / row);
        let row_bytes = target.row_bytes(row).unwrap_or(0);
        let (per_matrix, bytes_per_matrix) = (values.len() / matrices, encoded.len() / matrices);
        let rows = rows_per_group(row);
        for matrix in 0..matrices {
            let weights = weights.map(|w| &w[matrix * row..][..row]);
            let values = &values[matrix * per_matrix..][..per_matrix];
            let out = &mut encoded[matrix * bytes_per_matrix..][..bytes_per_matrix];
            out.par_chunks_mut(rows * row_bytes)
                .zip(values.par_chunks(rows * row))
                .map(|(out, values)| {
                    quants::quantize(target, values, row, weights, out)
                        .map_err(|e| self.fail(e))?;
                    self.check_blocks(target, out, values)
                })
                .collect::<Result<()>>()?;
        }
        Ok(())
    }

    /// Refuses blocks that hold an infinity: finite weights can be too large for F16 numbers and
    /// scales.
    fn check_blocks(&self, target: DType, encoded: &[u8], values: &[f32]) -> Result<()> {
        let Some(block) = quants::first_invalid_block(target, encoded) else { return Ok(()) };
        let block = &values[block * target.block_len()..][..target.block_len()];
        let largest = block.iter().fold(0f32, |a, v| a.max(v.abs()));
        Err(self.fail(format!("weights as large as {largest} do not fit {target}; try BF16")))
    }
}

/// Rows in a group of about [`GROUP_ELEMENTS`]; at least one.
fn rows_per_group(row: usize) -> usize {
    (GROUP_ELEMENTS / row.max(1)).max(1)
}
