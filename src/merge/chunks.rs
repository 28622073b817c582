//! Going over tensors chunk by chunk: decode the inputs, compute, check, encode.
//!
//! Chunks have a fixed length (or that of whole rows), so that neither the number of threads nor the machine changes a byte,
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
    /// What random methods draw from.
    pub seed: u64,
}

/// One input of a [`Job`].
pub struct JobInput<'a> {
    pub data: TensorData<'a>,
    /// Whose tensor it is, and its name there, for errors.
    pub origin: String,
    pub tensor: String,
    /// What the recipe calls the model, which keys what is drawn at random for it.
    pub model: String,
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

/// The decoded values of some inputs, kept from chunk to chunk for their memory.
type Buffers = Vec<Vec<f32>>;

/// Elements of a chunk of whole rows of `row` elements: as many as fit into [`CHUNK`], one at least.
pub fn step_of_rows(row: usize) -> usize {
    let row = row.max(1);
    row * (CHUNK / row).max(1)
}

impl Job<'_> {
    /// Length of the last dimension.
    pub fn row(&self) -> usize {
        self.info.shape.last().copied().unwrap_or(1)
    }

    /// All inputs, for passes that want a list.
    pub fn all(&self) -> Vec<usize> {
        (0..self.inputs.len()).collect()
    }

    /// The base model's input; only for methods whose plans have one.
    ///
    /// # Panics
    /// If there is none.
    pub fn base(&self) -> usize {
        self.plan.base.expect("the plan has a base for a method that requires one")
    }

    /// The inputs that are not the base model's, in the order of the plan.
    pub fn tuned(&self) -> Vec<usize> {
        (0..self.inputs.len()).filter(|&at| self.plan.base != Some(at)).collect()
    }

    /// Decodes the elements from `start` on, `step` of them or what is left, of the inputs `which`.
    fn load(&self, which: &[usize], start: usize, step: usize, into: &mut Buffers) -> Result<()> {
        let len = step.min(self.info.elements() - start);
        into.resize_with(which.len(), Vec::new);
        for (&at, values) in which.iter().zip(into) {
            values.resize(len, 0.0);
            self.inputs[at].decode(start, values)?;
        }
        Ok(())
    }

    /// Computes the result elementwise: `combine` gets the same elements of every input, in the order
    /// of the plan, and fills those of the result, which are 0 before. Rounds once, to the result's type.
    pub fn map(&self, combine: impl Fn(&[Vec<f32>], &mut [f32]) + Sync) -> Result<Vec<u8>> {
        self.map_at(CHUNK, |_, inputs, out| combine(inputs, out))
    }

    /// As [`Job::map`], over chunks of `step` elements; `combine` also gets the index of the first
    /// element, and may change the inputs' values, which are its own.
    pub fn map_at(
        &self,
        step: usize,
        combine: impl Fn(usize, &mut [Vec<f32>], &mut [f32]) + Sync,
    ) -> Result<Vec<u8>> {
        let dtype = self.info.dtype;
        let bytes = self.info.bytes().filter(|_| dtype.is_float()).ok_or_else(|| {
            Error::tensor(self.origin, &self.info.name, format!("cannot be written as {dtype}"))
        })?;
        let mut out = buffers::take(bytes);
        let which = self.all();
        let results: Vec<Result<()>> = out
            .par_chunks_mut(step * dtype.block_bytes())
            .enumerate()
            .map_init(
                Default::default,
                |(inputs, values): &mut (Buffers, Vec<f32>), (chunk, out)| {
                    let start = chunk * step;
                    self.load(&which, start, step, inputs)?;
                    values.clear();
                    values.resize(out.len() / dtype.block_bytes(), 0.0);
                    combine(start, inputs, values);
                    self.check_range(start, values)?;
                    quants::encode_float(dtype, values, out)
                },
            )
            .collect();
        // The first error in index order, whichever thread met one first.
        results.into_iter().collect::<Result<()>>()?;
        Ok(out)
    }

    /// What `partial` makes of each chunk of `step` elements of the inputs `which`, in index order. It
    /// gets the index of the chunk's first element, and values that it may change.
    pub fn each<T: Send>(
        &self,
        which: &[usize],
        step: usize,
        partial: impl Fn(usize, &mut [Vec<f32>]) -> T + Sync,
    ) -> Result<Vec<T>> {
        let results: Vec<Result<T>> = (0..self.info.elements().div_ceil(step))
            .into_par_iter()
            .map_init(Buffers::new, |inputs, chunk| {
                self.load(which, chunk * step, step, inputs)?;
                Ok(partial(chunk * step, inputs))
            })
            .collect();
        results.into_iter().collect()
    }

    /// Adds all chunks up: `add` adds one to a tally, `merge` one tally to another. How many tallies
    /// there are depends on the number of threads, so the order must not matter to them: integers.
    pub fn tally<T: Send>(
        &self,
        which: &[usize],
        step: usize,
        new: impl Fn() -> T + Sync,
        add: impl Fn(&mut T, usize, &[Vec<f32>]) + Sync,
        merge: impl Fn(&mut T, T),
    ) -> Result<T> {
        let chunks = self.info.elements().div_ceil(step);
        let group = chunks.div_ceil(2 * rayon::current_num_threads()).max(1);
        let results: Vec<Result<T>> = (0..chunks.div_ceil(group))
            .into_par_iter()
            .map(|index| {
                let (mut tally, mut inputs) = (new(), Buffers::new());
                for chunk in index * group..((index + 1) * group).min(chunks) {
                    self.load(which, chunk * step, step, &mut inputs)?;
                    add(&mut tally, chunk * step, &inputs);
                }
                Ok(tally)
            })
            .collect();
        let mut total = new();
        for tally in results {
            merge(&mut total, tally?);
        }
        Ok(total)
    }

    /// Sums `partial` over all chunks of `step` elements of the inputs `which`, in index order.
    pub fn sums<const N: usize>(
        &self,
        which: &[usize],
        step: usize,
        partial: impl Fn(usize, &mut [Vec<f32>]) -> [f64; N] + Sync,
    ) -> Result<[f64; N]> {
        let mut total = [0.0; N];
        for values in self.each(which, step, partial)? {
            for (sum, value) in total.iter_mut().zip(values) {
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
