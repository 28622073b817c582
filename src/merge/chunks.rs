//! Going over tensors chunk by chunk: decode the inputs, compute, check, encode.
//!
//! Chunks have a fixed length (or that of whole rows), so that neither the number of threads nor the machine changes a byte,
//! and so small that the f32 values of all inputs stay in the cache. Methods never see encoded bytes.

use super::buffers;
use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::base::mmap;
use crate::base::simd::{Level, Work};
use crate::formats::source::{PART_BYTES, PartSink, TensorData, TensorInfo, send_parts};
use crate::quants;
use crate::recipe::TensorPlan;
use rayon::prelude::*;

/// Elements of a chunk. A multiple of every block length.
pub(super) const CHUNK: usize = 1 << 15;
/// Elements that are decoded, combined and encoded at once where elements do not depend on each other: three
/// arrays of them stay in a first-level cache. A multiple of every block length.
const PIECE: usize = 1 << 11;
/// Where the inputs of a tensor have no more bytes than this, the pages of those that lie in files stay mapped
/// from one pass to the next.
const KEPT_BYTES: usize = 256 << 20;

/// The encoded result of a method.
pub enum MergedTensor {
    Whole(Vec<u8>),
    /// Part by part to the [`Job`]'s sink.
    Sent,
}

/// Whether the inputs will be read again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReadPass {
    Early,
    Last,
}

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
    /// Takes the result part by part, as [`TensorSource::stream`](crate::formats::source::TensorSource::stream) does, so that
    /// it need not be held. Methods that make it otherwise than by chunks that fill parts return it whole.
    pub sink: Option<&'a PartSink<'a>>,
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
    /// `release_pages`: they are not read again.
    fn decode(&self, start: usize, out: &mut [f32], release_pages: bool) -> Result<()> {
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
        let bad = match self.check {
            false => None,
            true if dtype.is_float() => quants::first_invalid_block(dtype, bytes),
            true => quants::first_non_finite(out),
        };
        if release_pages {
            self.release_pages(start * dtype.block_bytes() / dtype.block_len(), bytes.len());
        }
        bad.map_or(Ok(()), |at| Err(self.not_finite(start + at, out[at])))
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
    fn release_pages(&self, start: usize, len: usize) {
        let first = start / PART_BYTES * PART_BYTES;
        let end = start + len;
        if end / PART_BYTES > start / PART_BYTES || end == self.data.bytes.len() {
            mmap::release_pages(&self.data.bytes[first..end]);
        }
    }

    /// Fails at the first NaN or infinity.
    pub fn check_finite(&self, elements: usize) -> Result<()> {
        if !self.check {
            return Ok(());
        }
        if self.data.dtype.is_float() {
            return send_parts(&self.data.bytes, &|offset, part| self.check_part(offset, part));
        }
        let results: Vec<Result<()>> = (0..elements.div_ceil(CHUNK))
            .into_par_iter()
            .map(|chunk| {
                let start = chunk * CHUNK;
                let mut values = vec![0.0; CHUNK.min(elements - start)];
                self.decode(start, &mut values, true)
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
type ChunkValues = Vec<Vec<f32>>;

/// Elements of a chunk of whole rows of `row` elements: as many as fit into [`CHUNK`], one at least.
pub(super) fn step_of_rows(row: usize) -> usize {
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

    /// Whether the inputs' pages stay from one pass to the next.
    fn keeps_pages(&self) -> bool {
        self.inputs.iter().map(|input| input.data.bytes.len()).sum::<usize>() <= KEPT_BYTES
    }

    /// Decodes the elements from `start` on, `step` of them or what is left, of the inputs `which`.
    fn load(
        &self,
        which: &[usize],
        start: usize,
        step: usize,
        pass: ReadPass,
        into: &mut ChunkValues,
    ) -> Result<()> {
        let release_pages = pass == ReadPass::Last || !self.keeps_pages();
        let len = step.min(self.info.elements() - start);
        into.resize_with(which.len(), Vec::new);
        for (&at, values) in which.iter().zip(into) {
            values.resize(len, 0.0);
            self.inputs[at].decode(start, values, release_pages)?;
        }
        Ok(())
    }

    /// Computes the result elementwise: `combine` gets the same elements of every input, in the order
    /// of the plan, and fills those of the result, which are 0 before. Rounds once, to the result's type.
    /// Runs at the CPU's SIMD level, in pieces that stay in the nearest cache.
    pub fn map(&self, combine: impl Fn(&[Vec<f32>], &mut [f32]) + Sync) -> Result<MergedTensor> {
        self.map_pieces(CHUNK, PIECE, |_, inputs, out| {
            Level::current().run(Combine { combine: &combine, inputs, out });
        })
    }

    /// As [`Job::map`], over chunks of `step` elements; `combine` also gets the index of the first
    /// element, and may change the inputs' values, which are its own.
    pub fn map_at(
        &self,
        step: usize,
        combine: impl Fn(usize, &mut [Vec<f32>], &mut [f32]) + Sync,
    ) -> Result<MergedTensor> {
        self.map_pieces(step, step, combine)
    }

    /// Hands chunks of `step` elements to the threads, or parts of whole chunks where there is a sink for
    /// them, and `piece` elements at once to `combine`.
    fn map_pieces(
        &self,
        step: usize,
        piece: usize,
        combine: impl Fn(usize, &mut [Vec<f32>], &mut [f32]) + Sync,
    ) -> Result<MergedTensor> {
        let dtype = self.info.dtype;
        let bytes = self.info.bytes().filter(|_| dtype.is_float()).ok_or_else(|| {
            Error::tensor(self.origin, &self.info.name, format!("cannot be written as {dtype}"))
        })?;
        let width = dtype.block_bytes();
        let which = self.all();
        let fill =
            |(inputs, values): &mut (ChunkValues, Vec<f32>), start: usize, out: &mut [u8]| {
                for (number, out) in out.chunks_mut(piece * width).enumerate() {
                    let start = start + number * piece;
                    self.load(&which, start, piece, ReadPass::Last, inputs)?;
                    values.clear();
                    values.resize(out.len() / width, 0.0);
                    combine(start, inputs, values);
                    self.check_range(start, values)?;
                    quants::encode_float(dtype, values, out)?;
                }
                Ok(())
            };
        // Of several errors, that of the first in index order, whichever thread met one first.
        if let Some(sink) = self.sink.filter(|_| PART_BYTES.is_multiple_of(step * width)) {
            let part = |(scratch, part): &mut (_, Vec<u8>), number: usize| {
                let offset = number * PART_BYTES;
                part.resize(PART_BYTES.min(bytes - offset), 0);
                fill(scratch, offset / width, part)?;
                sink(offset, part)
            };
            let parts = (0..bytes.div_ceil(PART_BYTES)).into_par_iter();
            let results: Vec<Result<()>> = parts.map_init(Default::default, part).collect();
            return results.into_iter().collect::<Result<()>>().map(|()| MergedTensor::Sent);
        }
        let mut out = buffers::take(bytes);
        let chunks = out.par_chunks_mut(step * width).enumerate();
        let results: Vec<Result<()>> = chunks
            .map_init(Default::default, |scratch, (chunk, out)| fill(scratch, chunk * step, out))
            .collect();
        results.into_iter().collect::<Result<()>>()?;
        Ok(MergedTensor::Whole(out))
    }

    /// Goes over the inputs `which` elementwise, at the CPU's SIMD level: `add` adds elements to the state of their
    /// chunk of [`CHUNK`], which `new` makes, in order. All states, in order.
    pub fn fold<T: Send>(
        &self,
        which: &[usize],
        new: impl Fn() -> T + Sync,
        add: impl Fn(&mut T, &[Vec<f32>]) + Sync,
    ) -> Result<Vec<T>> {
        let elements = self.info.elements();
        let results: Vec<Result<T>> = (0..elements.div_ceil(CHUNK))
            .into_par_iter()
            .map_init(ChunkValues::new, |inputs, chunk| {
                let mut state = new();
                let end = elements.min((chunk + 1) * CHUNK);
                for start in (chunk * CHUNK..end).step_by(PIECE) {
                    self.load(which, start, PIECE, ReadPass::Early, inputs)?;
                    Level::current().run(Add { add: &add, state: &mut state, inputs });
                }
                Ok(state)
            })
            .collect();
        results.into_iter().collect()
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
            .map_init(ChunkValues::new, |inputs, chunk| {
                self.load(which, chunk * step, step, ReadPass::Early, inputs)?;
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
                let (mut tally, mut inputs) = (new(), ChunkValues::new());
                for chunk in index * group..((index + 1) * group).min(chunks) {
                    self.load(which, chunk * step, step, ReadPass::Early, &mut inputs)?;
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
        if Level::current().run(Within { values, limit }) {
            return Ok(());
        }
        let Some(at) = values.iter().position(|v| !within(v, limit)) else { return Ok(()) };
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

/// Whether `value` rounds to a finite one; NaN does not.
#[inline(always)]
fn within(value: &f32, limit: f32) -> bool {
    value.abs() < limit
}

/// Whether all of `values` are [`within`] the limit.
struct Within<'a> {
    values: &'a [f32],
    limit: f32,
}

impl Work for Within<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        // No early end: a search that may stop at any element does not vectorize.
        self.values.iter().fold(true, |all, v| all & within(v, self.limit))
    }
}

/// What [`Job::map`] does with a piece.
struct Combine<'a, F> {
    combine: &'a F,
    inputs: &'a [Vec<f32>],
    out: &'a mut [f32],
}

impl<F: Fn(&[Vec<f32>], &mut [f32])> Work for Combine<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        (self.combine)(self.inputs, self.out);
    }
}

/// What [`Job::fold`] does with a piece.
struct Add<'a, F, T> {
    add: &'a F,
    state: &'a mut T,
    inputs: &'a [Vec<f32>],
}

impl<T, F: Fn(&mut T, &[Vec<f32>])> Work for Add<'_, F, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        (self.add)(self.state, self.inputs);
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
