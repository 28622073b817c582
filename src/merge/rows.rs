//! Gathering the rows of an embedding or a head for the result's vocabulary, as [`RowArrangement`] says.
//!
//! A gathered tensor keeps its models' type where rows are only copied; means, of rows or for padding,
//! make it f32, so that nothing is rounded but once, at the end. Sums run in the order of the rows, those
//! of padding in f64. Values are checked for NaN and infinity on the way.

use super::chunks::JobInput;
use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::formats::source::TensorData;
use crate::quants;
use crate::recipe::{ArrangedRow, RowArrangement, RowRef};
use rayon::prelude::*;

/// Rows that one task gathers.
const BLOCK: usize = 256;

/// The rows `rows` of `arranged`, as one matrix with rows of `row_len` elements. `sources` are the tensors
/// of `arranged.sources`.
pub(super) fn gather(
    arranged: &RowArrangement,
    rows: &[ArrangedRow],
    sources: &[JobInput<'_>],
    row_len: usize,
) -> Result<TensorData<'static>> {
    let gathering = Gathering { arranged, sources, row_len };
    let shape = vec![rows.len(), row_len];
    match gathering.shared_type(rows) {
        Some(dtype) => {
            let bytes = gathering.copy(rows, dtype)?;
            Ok(TensorData { dtype, shape, bytes: bytes.into() })
        }
        None => Ok(TensorData::from_f32(shape, &gathering.compute(rows)?)),
    }
}

struct Gathering<'a> {
    arranged: &'a RowArrangement,
    sources: &'a [JobInput<'a>],
    row_len: usize,
}

impl Gathering<'_> {
    /// The type of all sources of `rows`, if none is computed and zeros are all-zero bytes in it.
    fn shared_type(&self, rows: &[ArrangedRow]) -> Option<DType> {
        let mut shared = None;
        for row in rows {
            match row {
                ArrangedRow::Zero => {}
                ArrangedRow::Copy(at) => {
                    let dtype = self.sources[at.source as usize].data.dtype;
                    if *shared.get_or_insert(dtype) != dtype {
                        return None;
                    }
                }
                ArrangedRow::Mean(_) | ArrangedRow::Padding => return None,
            }
        }
        shared.filter(|dtype| matches!(dtype, DType::F32 | DType::F16 | DType::BF16))
    }

    fn copy(&self, rows: &[ArrangedRow], dtype: DType) -> Result<Vec<u8>> {
        let row_bytes = self.row_len * dtype.block_bytes();
        let mut out = vec![0u8; rows.len() * row_bytes];
        let blocks = out.par_chunks_mut((BLOCK * row_bytes).max(1)).zip(rows.par_chunks(BLOCK));
        let results: Vec<Result<()>> = blocks
            .map(|(out, rows)| {
                let mut values = vec![0.0; self.row_len];
                for (out, row) in out.chunks_mut(row_bytes.max(1)).zip(rows) {
                    if let ArrangedRow::Copy(at) = row {
                        out.copy_from_slice(self.decode(*at, &mut values)?);
                    }
                }
                Ok(())
            })
            .collect();
        results.into_iter().collect::<Result<()>>()?;
        Ok(out)
    }

    fn compute(&self, rows: &[ArrangedRow]) -> Result<Vec<f32>> {
        let used = rows.iter().position(|row| *row == ArrangedRow::Padding).unwrap_or(rows.len());
        let mut out = vec![0.0f32; rows.len() * self.row_len];
        let (tokens, padding) = out.split_at_mut(used * self.row_len);
        let blocks =
            tokens.par_chunks_mut((BLOCK * self.row_len).max(1)).zip(rows.par_chunks(BLOCK));
        let results: Vec<Result<()>> = blocks
            .map(|(out, rows)| {
                let rows = out.chunks_mut(self.row_len.max(1)).zip(rows);
                rows.into_iter().try_for_each(|(out, row)| self.row(*row, out))
            })
            .collect();
        results.into_iter().collect::<Result<()>>()?;
        if !padding.is_empty() && used > 0 {
            let mut sum = vec![0f64; self.row_len];
            for row in tokens.chunks(self.row_len) {
                sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
            for row in padding.chunks_mut(self.row_len) {
                row.iter_mut().zip(&sum).for_each(|(out, &sum)| *out = (sum / used as f64) as f32);
            }
        }
        Ok(out)
    }

    /// One row that is no padding.
    fn row(&self, row: ArrangedRow, out: &mut [f32]) -> Result<()> {
        match row {
            ArrangedRow::Zero | ArrangedRow::Padding => {}
            ArrangedRow::Copy(at) => drop(self.decode(at, out)?),
            ArrangedRow::Mean(mean) => {
                let of = &self.arranged.means[mean as usize];
                let mut values = vec![0.0; self.row_len];
                for at in of {
                    self.decode(*at, &mut values)?;
                    out.iter_mut().zip(&values).for_each(|(out, value)| *out += value);
                }
                out.iter_mut().for_each(|out| *out /= of.len() as f32);
            }
        }
        Ok(())
    }

    /// Decodes a row of a source to `out`; the row's bytes are returned.
    fn decode(&self, at: RowRef, out: &mut [f32]) -> Result<&[u8]> {
        let source = &self.sources[at.source as usize];
        let fail = |detail: String| Err(Error::tensor(&source.origin, &source.tensor, detail));
        let row = at.row as usize;
        let dtype = source.data.dtype;
        let range = dtype.row_bytes(self.row_len).and_then(|n| Some((row.checked_mul(n)?, n)));
        let bytes = range.and_then(|(from, n)| source.data.bytes.get(from..from.checked_add(n)?));
        let Some(bytes) = bytes else {
            return fail(format!("fewer bytes than row {row} needs"));
        };
        if let Err(e) = quants::decode(dtype, bytes, out) {
            return fail(e.to_string());
        }
        match quants::first_non_finite(out) {
            Some(column) if source.check => fail(format!(
                "element {} is {}; a model with such weights cannot be merged: get it again or leave \
                 it out",
                row * self.row_len + column,
                out[column]
            )),
            _ => Ok(bytes),
        }
    }
}
