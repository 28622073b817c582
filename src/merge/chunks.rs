//! Going over tensors chunk by chunk: decode the inputs, compute, check, encode.
//!
//! Chunks have a fixed length, so that neither the number of threads nor the machine changes a byte,
//! and so small that the f32 values of all inputs stay in the cache. Methods never see encoded bytes.

use super::buffers;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::mmap;
use crate::quants;
use crate::recipe::TensorPlan;
use crate::source::{PART_BYTES, TensorData, TensorInfo, in_parts};
use rayon::prelude::*;

/// Elements of a chunk. A multiple of every block length.
pub const CHUNK: usize = 1 << 15;

/// One tensor to be computed: what a method gets.
pub struct Job<'a> {
    pub plan: &'a TensorPlan,
    pub inputs: &'a [JobInput<'a>],
    /// Name, shape and type of the result.
    pub info: &'a TensorInfo,
    /// What the result belongs to, for errors.
    pub origin: &'a str,
}

/// One input of a [`Job`].
pub struct JobInput<'a> {
    pub data: TensorData<'a>,
    /// Whose tensor it is, and its name there, for errors.
    pub origin: String,
    pub tensor: String,
    /// Members' values are checked for NaN and infinity; stages' have been.
    pub check: bool,
}

impl JobInput<'_> {
    /// Elements `start..start + out.len()` as f32. `start` must be a multiple of the block length.
    fn decode(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let dtype = self.data.dtype;
        let range = dtype.row_bytes(start).zip(dtype.row_bytes(out.len()));
        let bytes = range.and_then(|(from, len)| self.data.bytes.get(from..from.checked_add(len)?));
        let Some(bytes) = bytes else {
            return Err(Error::tensor(
                &self.origin,
                &self.tensor,
                "fewer bytes than its shape needs",
            ));
        };
        quants::decode(dtype, bytes, out)
            .map_err(|e| Error::tensor(&self.origin, &self.tensor, e.to_string()))?;
        self.let_go(start * dtype.block_bytes() / dtype.block_len(), bytes.len());
        match quants::first_non_finite(out) {
            Some(at) if self.check => Err(self.not_finite(start + at, out[at])),
            _ => Ok(()),
        }
    }

    fn not_finite(&self, element: usize, value: f32) -> Error {
        let detail = format!(
            "element {element} is {value}; a model with such weights cannot be merged: get it again \
             or leave it out"
        );
        Error::tensor(&self.origin, &self.tensor, detail)
    }

    /// After `len` bytes from `start` on have been read: gives back the pages of the part of the tensor
    /// that ends there, so that a tensor that is read from front to back never counts whole as memory.
    /// Other threads may still be reading in the part; they only fetch its pages once more.
    fn let_go(&self, start: usize, len: usize) {
        let first = start / PART_BYTES * PART_BYTES;
        let end = start + len;
        if end / PART_BYTES > start / PART_BYTES || end == self.data.bytes.len() {
            mmap::let_go(&self.data.bytes[first..end]);
        }
    }

    /// Fails at the first NaN or infinity.
    pub fn check_finite(&self, elements: usize) -> Result<()> {
        if !self.check {
            return Ok(());
        }
        if self.data.dtype.is_float() {
            return in_parts(&self.data.bytes, &|offset, part| self.check_part(offset, part));
        }
        let results: Vec<Result<()>> = (0..elements.div_ceil(CHUNK))
            .into_par_iter()
            .map(|chunk| {
                let start = chunk * CHUNK;
                let mut values = vec![0.0; CHUNK.min(elements - start)];
                self.decode(start, &mut values)
            })
            .collect();
        results.into_iter().collect()
    }

    /// Fails at the first NaN or infinity among `part`, floats that begin `offset` bytes into the data.
    pub fn check_part(&self, offset: usize, part: &[u8]) -> Result<()> {
        let dtype = self.data.dtype;
        let Some(at) = quants::first_invalid_block(dtype, part).filter(|_| self.check) else {
            return Ok(());
        };
        let mut value = [f32::NAN];
        let width = dtype.block_bytes();
        quants::decode(dtype, &part[at * width..(at + 1) * width], &mut value)?;
        Err(self.not_finite(offset / width + at, value[0]))
    }
}

/// The decoded values of all inputs, kept from chunk to chunk for their memory.
type Buffers = Vec<Vec<f32>>;

impl Job<'_> {
    /// Decodes chunk `chunk` of all inputs.
    fn load(&self, chunk: usize, into: &mut Buffers) -> Result<()> {
        let start = chunk * CHUNK;
        let len = CHUNK.min(self.info.elements() - start);
        into.resize_with(self.inputs.len(), Vec::new);
        for (input, values) in self.inputs.iter().zip(into) {
            values.resize(len, 0.0);
            input.decode(start, values)?;
        }
        Ok(())
    }

    /// Computes the result elementwise: `combine` gets the same elements of every input, in the order
    /// of the plan, and fills those of the result. Rounds once, to the result's type.
    pub fn map(&self, combine: impl Fn(&[Vec<f32>], &mut [f32]) + Sync) -> Result<Vec<u8>> {
        let dtype = self.info.dtype;
        let bytes = self.info.bytes().filter(|_| dtype.is_float()).ok_or_else(|| {
            Error::tensor(self.origin, &self.info.name, format!("cannot be written as {dtype}"))
        })?;
        let mut out = buffers::take(bytes);
        let chunk_bytes = CHUNK * dtype.block_bytes();
        let results: Vec<Result<()>> = out
            .par_chunks_mut(chunk_bytes)
            .enumerate()
            .map_init(
                Default::default,
                |(inputs, values): &mut (Buffers, Vec<f32>), (chunk, out)| {
                    self.load(chunk, inputs)?;
                    values.clear();
                    values.resize(out.len() / dtype.block_bytes(), 0.0);
                    combine(inputs, values);
                    self.check_range(chunk * CHUNK, values)?;
                    quants::encode_float(dtype, values, out)
                },
            )
            .collect();
        // The first error in index order, whichever thread met one first.
        results.into_iter().collect::<Result<()>>()?;
        Ok(out)
    }

    /// Sums `partial` over all chunks, in index order.
    pub fn sum<const N: usize>(
        &self,
        partial: impl Fn(&[Vec<f32>]) -> [f64; N] + Sync,
    ) -> Result<[f64; N]> {
        let chunks = self.info.elements().div_ceil(CHUNK);
        let partials: Vec<Result<[f64; N]>> = (0..chunks)
            .into_par_iter()
            .map_init(Buffers::new, |inputs, chunk| {
                self.load(chunk, inputs)?;
                Ok(partial(inputs))
            })
            .collect();
        let mut total = [0.0; N];
        for values in partials {
            for (sum, value) in total.iter_mut().zip(values?) {
                *sum += value;
            }
        }
        Ok(total)
    }

    /// A value that the result's type cannot hold would become infinity there and poison everything
    /// after it, so it is an error here.
    fn check_range(&self, start: usize, values: &[f32]) -> Result<()> {
        let limit = overflow_limit(self.info.dtype);
        // NaN fails the comparison too.
        let holds = |v: &f32| v.abs() < limit;
        // All of them first: a search that may stop at any element does not vectorize.
        if values.iter().fold(true, |all, v| all & holds(v)) {
            return Ok(());
        }
        let Some(at) = values.iter().position(|v| !holds(v)) else { return Ok(()) };
        let detail = format!(
            "element {} becomes {}, which {} cannot hold; set 'out_dtype: bfloat16' or 'float32' in \
             the recipe, or look for the member or weight that makes it so large",
            start + at,
            values[at],
            self.info.dtype
        );
        Err(Error::tensor(self.origin, &self.info.name, detail))
    }
}

/// Magnitudes from which on rounding to `dtype` gives infinity: halfway between the greatest finite
/// value and the next power of two.
fn overflow_limit(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => 65520.0,
        DType::BF16 => f32::from_bits(0x7F7F_8000),
        _ => f32::INFINITY,
    }
}
