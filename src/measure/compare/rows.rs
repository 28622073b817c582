//! Compares two tensors of one shape, row by row, whatever pieces their sources return them in.

use super::{Sums, Values};
use crate::base::error::{Error, Result};
use crate::base::mmap;
use crate::base::progress::check_interrupted;
use crate::formats::source::{TensorData, TensorInfo, TensorSource};
use crate::quants;
use rayon::prelude::*;

/// Elements of a group of rows: both sides' values fit a core's second-level cache.
const GROUP_ELEMENTS: usize = 1 << 16;

/// One side: its tensor, and the current piece of it.
struct Side<'a> {
    source: &'a dyn TensorSource,
    index: usize,
    info: &'a TensorInfo,
    row_bytes: usize,
    next: usize,
    data: Option<TensorData<'a>>,
    /// Bytes of `data` that have been compared.
    used: usize,
}

impl<'a> Side<'a> {
    fn new((source, index): (&'a dyn TensorSource, usize)) -> Side<'a> {
        let info = &source.table().infos()[index];
        let row_bytes = info.dtype.row_bytes(info.row_len()).unwrap_or(0);
        Side { source, index, info, row_bytes, next: 0, data: None, used: 0 }
    }

    /// Returns the number of rows left in the piece; reads the next piece if none is left.
    fn rows_left(&mut self) -> Result<usize> {
        let left = self.data.as_ref().map_or(0, |data| data.bytes.len() - self.used);
        if left == 0 {
            if self.next >= self.source.pieces(self.index) {
                return Err(self.fail("has fewer rows than its shape says"));
            }
            // Frees the old piece before the next one is read.
            self.release_pages();
            self.data = Some(self.source.read_piece(self.index, self.next)?);
            (self.next, self.used) = (self.next + 1, 0);
        }
        let left = self.data.as_ref().map_or(0, |data| data.bytes.len() - self.used);
        Ok(left / self.row_bytes)
    }

    /// Frees the piece, and the pages of its file: a model may be larger than memory.
    fn release_pages(&mut self) {
        if let Some(data) = self.data.take() {
            mmap::release_pages(&data.bytes);
        }
    }

    fn fail(&self, detail: impl std::fmt::Display) -> Error {
        Error::tensor(self.source.origin(), &self.info.name, detail.to_string())
    }

    fn decode(&self, bytes: &[u8], values: &mut Vec<f32>) -> Result<()> {
        values.resize(bytes.len() / self.row_bytes * self.info.row_len(), 0.0);
        quants::decode(self.info.dtype, bytes, values).map_err(|e| self.fail(e))
    }
}

/// Compares two tensors of one shape.
pub(super) fn compare(
    first: (&dyn TensorSource, usize),
    second: (&dyn TensorSource, usize),
) -> Result<Values> {
    let (mut a, mut b) = (Side::new(first), Side::new(second));
    let numbers = quants::can_decode(a.info.dtype) && quants::can_decode(b.info.dtype);
    let mut identical = a.info.dtype == b.info.dtype;
    let mut sums = Sums::default();
    let row = a.info.row_len();
    let mut rows = a.info.elements().checked_div(row).unwrap_or(0);
    while rows > 0 {
        check_interrupted()?;
        let now = a.rows_left()?.min(b.rows_left()?).min(rows);
        if now == 0 {
            return Err(a.fail("a piece is not a whole number of rows"));
        }
        let (equal, group_sums) = piece(&a, &b, now, numbers)?;
        identical &= equal;
        sums = sums.plus(group_sums);
        a.used += now * a.row_bytes;
        b.used += now * b.row_bytes;
        rows -= now;
    }
    a.release_pages();
    b.release_pages();
    Ok(if numbers { Values::Numbers { identical, sums } } else { Values::Opaque { identical } })
}

/// Compares the next `rows` rows, which both sides hold. Returns whether the bytes are equal, and the sums.
fn piece(a: &Side<'_>, b: &Side<'_>, rows: usize, numbers: bool) -> Result<(bool, Sums)> {
    let (Some(a_data), Some(b_data)) = (&a.data, &b.data) else {
        return Err(a.fail("no piece is held"));
    };
    let per_group = (GROUP_ELEMENTS / a.info.row_len()).max(1);
    let a_groups = a_data.bytes[a.used..][..rows * a.row_bytes].par_chunks(per_group * a.row_bytes);
    let b_groups = b_data.bytes[b.used..][..rows * b.row_bytes].par_chunks(per_group * b.row_bytes);
    let same_type = a.info.dtype == b.info.dtype;
    let groups = a_groups.zip(b_groups).map_init(
        || (Vec::new(), Vec::new()),
        |(a_values, b_values), (a_bytes, b_bytes)| {
            let equal = same_type && a_bytes == b_bytes;
            if !numbers {
                return Ok((equal, Sums::default()));
            }
            a.decode(a_bytes, a_values)?;
            if equal {
                return Ok((true, Sums::of(a_values, a_values)));
            }
            b.decode(b_bytes, b_values)?;
            Ok((false, Sums::of(a_values, b_values)))
        },
    );
    let groups: Vec<Result<(bool, Sums)>> = groups.collect();
    groups.into_iter().try_fold((true, Sums::default()), |(equal, sums), group| {
        let (same, more) = group?;
        Ok((equal && same, sums.plus(more)))
    })
}
