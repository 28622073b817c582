//! The tensors of a checkpoint under GGUF names, shapes and types: a source over a source.

use super::blocks::Kept;
use super::cast;
use super::experts::Stacks;
use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::Checkpoint;
use crate::formats::source::{PART_BYTES, TensorData, TensorInfo, TensorSource, TensorTable};
use crate::model::arch::{Architecture, HyperParams, Parameters, Role, RopeScaling, TensorDecl};
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// The divisors of rotary frequencies, tensors no checkpoint has: for all texts, for long and short ones.
const ROPE_FREQS: &str = "rope_freqs.weight";
const ROPE_LONG: &str = "rope_factors_long.weight";
const ROPE_SHORT: &str = "rope_factors_short.weight";

/// Where a tensor's data come from.
enum Origin {
    /// Tensor `index` of the checkpoint, its rows reordered within this many heads if any, or its values
    /// plus one.
    Checkpoint { index: usize, heads: Option<usize>, plus_one: bool },
    /// These tensors of the checkpoint one after the other, each converted when its piece is read.
    Experts(Vec<usize>),
    /// Computed once from the hyperparameters.
    Computed(Vec<u8>),
}

/// A checkpoint's tensors as GGUF has them, converted when they are read.
pub(super) struct ConvertedSource {
    inner: Arc<dyn TensorSource>,
    table: TensorTable,
    origins: Vec<Origin>,
}

/// The tensors of a conversion while they are planned.
struct Outputs<'a> {
    inner: &'a dyn TensorSource,
    arch: &'static Architecture,
    hyper: &'a HyperParams,
    /// The type of the matrices.
    dtype: DType,
    /// Whether matrices that are stored in blocks of a GGUF type keep them.
    keep_blocks: bool,
    /// Tensors that keep their blocks, and the scales of these; they come first in the file.
    kept: Vec<(TensorInfo, Origin)>,
    converted: Vec<(TensorInfo, Origin)>,
    /// GGUF names of the tensors that the checkpoint has.
    found: HashSet<String>,
    problems: Vec<String>,
}

impl Outputs<'_> {
    /// Adds what becomes of tensor `index` of the checkpoint: a tensor, or a part of a stack of experts.
    fn add(&mut self, index: usize, info: &TensorInfo, stacks: &mut Stacks) {
        if self.arch.ignores(&info.name) {
            return;
        }
        let Some((decl, layer)) = self.arch.match_hf(&info.name) else {
            let problem = format!("'{}' is not a tensor of this architecture", info.name);
            self.problems.push(problem);
            return;
        };
        let expert = decl.expert_in(&info.name);
        if let Some(problem) = misfit(info, decl, (layer, expert), self.hyper) {
            self.problems.push(problem);
            return;
        }
        if let (Some(layer), Some(expert)) = (layer, expert) {
            let declared = self.arch.tensors;
            let place = declared.iter().position(|other| std::ptr::eq(other, decl));
            let matrix = (place.unwrap_or(0), layer, expert);
            for (place, tensors) in stacks.add(declared, matrix, decl.copies(self.hyper), index) {
                let decl = &declared[place];
                let shape = decl.gguf_shape(self.hyper);
                let info = TensorInfo::new(decl.gguf_name(layer), shape, self.dtype);
                let origin = Origin::Experts(tensors.clone());
                self.push(decl, &tensors, info, origin);
            }
            return;
        }
        let name = decl.gguf_name(layer.unwrap_or(0));
        let shape = info.shape.clone();
        let target = if stays_f32(&name, shape.len()) { DType::F32 } else { self.dtype };
        let (heads, plus_one) = (decl.permute.heads(self.hyper), decl.plus_one);
        let origin = Origin::Checkpoint { index, heads, plus_one };
        self.push(decl, &[index], TensorInfo::new(name, shape, target), origin);
    }

    /// Adds a tensor made from the tensors `indices` of the checkpoint, in their blocks if it keeps them.
    fn push(&mut self, decl: &TensorDecl, indices: &[usize], info: TensorInfo, origin: Origin) {
        self.found.insert(info.name.clone());
        let blocks = self.keep_blocks.then(|| Kept::of(self.inner, decl, indices)).flatten();
        let Some(blocks) = blocks else { return self.converted.push((info, origin)) };
        let scales = blocks.scales(&info.name).into_iter();
        let scales = scales.map(|(info, bytes)| (info, Origin::Computed(bytes)));
        let scales: Vec<_> = scales.collect();
        self.kept.push((TensorInfo { dtype: blocks.dtype, ..info }, origin));
        self.kept.extend(scales);
    }

    /// Returns all tensors in the order of the file.
    ///
    /// # Errors
    /// All problems, missing tensors included.
    fn into_tensors(mut self) -> Result<Vec<(TensorInfo, Origin)>> {
        // A tensor that is present but wrong has been reported and does not count as missing.
        let present = |name: &str| self.inner.table().find(name).is_some();
        for (hf, gguf) in required(self.arch, self.hyper) {
            if !self.found.contains(&gguf) && !present(&hf) {
                self.problems.push(format!("'{hf}' is missing"));
            }
        }
        if !self.problems.is_empty() {
            return Err(Error::model(self.inner.origin(), list(&self.problems)));
        }
        self.kept.append(&mut self.converted);
        Ok(self.kept)
    }
}

impl ConvertedSource {
    /// Plans the conversion of matrices to `dtype`; reads no data. With `keep_blocks`, matrices that are
    /// stored in blocks of a GGUF type keep them. The order is the checkpoint's, as in llama.cpp's
    /// converter, after the kept blocks and the tensors that are computed.
    ///
    /// # Errors
    /// One that names every tensor that is missing, unexpected or of the wrong shape.
    pub(super) fn new(
        checkpoint: &Checkpoint,
        arch: &'static Architecture,
        hyper: &HyperParams,
        dtype: DType,
        keep_blocks: bool,
    ) -> Result<ConvertedSource> {
        let inner = Arc::clone(&checkpoint.tensors);
        let mut outputs = Outputs {
            inner: &*inner,
            arch,
            hyper,
            dtype,
            keep_blocks,
            kept: Vec::new(),
            converted: Vec::new(),
            found: HashSet::new(),
            problems: Vec::new(),
        };
        for (name, factors) in rope_tensors(hyper) {
            let bytes = factors.iter().flat_map(|f| f.to_le_bytes()).collect();
            let info = TensorInfo::new(name, vec![factors.len()], DType::F32);
            outputs.converted.push((info, Origin::Computed(bytes)));
        }
        let mut stacks = Stacks::default();
        for (index, info) in inner.table().infos().iter().enumerate() {
            outputs.add(index, info, &mut stacks);
        }
        let tensors = outputs.into_tensors()?;
        let (infos, origins) = tensors.into_iter().unzip();
        let table = TensorTable::new(inner.origin(), infos)?;
        Ok(ConvertedSource { inner, table, origins })
    }

    /// The type of the blocks that are kept, if any are.
    pub(super) fn block_type(&self) -> Option<DType> {
        let types = || self.table.infos().iter().map(|info| info.dtype);
        [DType::NVFP4, DType::MXFP4].into_iter().find(|&kept| types().any(|dtype| dtype == kept))
    }

    /// Parameters in all tensors.
    pub(super) fn parameters(&self, hyper: &HyperParams) -> Parameters {
        Parameters::of(&self.table, hyper)
    }

    /// Tensor `index` of the checkpoint, of shape `shape`, as `dtype`, with rows in order within `heads`.
    fn converted(
        &self,
        index: usize,
        shape: Vec<usize>,
        dtype: DType,
        (heads, plus_one): (Option<usize>, bool),
    ) -> Result<TensorData<'_>> {
        let (origin, name) = (self.inner.origin(), &self.inner.table().infos()[index].name);
        if self.streams(index) && !plus_one && !dtype.is_quantized() {
            let mut bytes = self.cast_in_parts(index, dtype)?;
            if let Some(heads) = heads {
                bytes = cast::interleave_heads(&bytes, shape[0], heads);
            }
            return Ok(TensorData { dtype, shape, bytes: Cow::Owned(bytes) });
        }
        let data = match dtype.is_quantized() {
            true => self.inner.read_blocks(index)?,
            false => self.inner.read(index)?,
        };
        if TensorInfo::new(name, shape.clone(), data.dtype).bytes() != Some(data.bytes.len()) {
            let detail = format!("{} bytes do not fill shape {shape:?}", data.bytes.len());
            return Err(Error::tensor(origin, name, detail));
        }
        let mut bytes = data.bytes;
        if dtype.is_quantized() {
            data_are(dtype, data.dtype, origin, name)?;
        } else if plus_one {
            bytes = Cow::Owned(cast::plus_one(origin, name, data.dtype, &bytes, dtype)?);
        } else if data.dtype == dtype {
            cast::check_finite(origin, name, data.dtype, &bytes)?;
        } else {
            bytes = Cow::Owned(cast::cast(origin, name, data.dtype, (0, &bytes), dtype)?);
        }
        if let Some(heads) = heads {
            bytes = Cow::Owned(cast::interleave_heads(&bytes, shape[0], heads));
        }
        Ok(TensorData { dtype, shape, bytes })
    }
}

impl ConvertedSource {
    /// Whether tensor `index` of the checkpoint is made part by part, so that it need not be held whole.
    fn streams(&self, index: usize) -> bool {
        self.inner.stream_bytes(index) < self.inner.working_bytes(index)
    }

    /// Tensor `index` of the checkpoint as `dtype`; of its own type there are only parts in memory.
    fn cast_in_parts(&self, index: usize, dtype: DType) -> Result<Vec<u8>> {
        let info = &self.inner.table().infos()[index];
        let width = info.dtype.block_bytes();
        let mut bytes = vec![0u8; info.elements() * dtype.block_bytes()];
        let parts: Vec<Mutex<&mut [u8]>> =
            bytes.chunks_mut(PART_BYTES / width * dtype.block_bytes()).map(Mutex::new).collect();
        self.inner.stream(index, &|offset, part| {
            let (origin, first) = (self.inner.origin(), offset / width);
            let made = cast::cast(origin, &info.name, info.dtype, (first, part), dtype)?;
            if let Some(place) = parts.get(offset / PART_BYTES) {
                let mut place = place.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if place.len() == made.len() {
                    place.copy_from_slice(&made);
                    return Ok(());
                }
            }
            let detail = format!("a part of {} bytes came at offset {offset}", part.len());
            Err(Error::tensor(origin, &info.name, detail))
        })?;
        drop(parts);
        Ok(bytes)
    }
}

/// Fails unless the blocks that were read are of the type that was announced.
fn data_are(announced: DType, found: DType, origin: &str, name: &str) -> Result<()> {
    match announced == found {
        true => Ok(()),
        false => {
            let detail = format!("{found} came where {announced} was announced");
            Err(Error::tensor(origin, name, detail))
        }
    }
}

/// Why `info` is not the tensor that `decl` stands for, of that layer and expert, under `hyper`.
fn misfit(
    info: &TensorInfo,
    decl: &TensorDecl,
    (layer, expert): (Option<usize>, Option<usize>),
    hyper: &HyperParams,
) -> Option<String> {
    let (name, has, shape) = (&info.name, &info.shape, decl.shape(hyper));
    if layer.is_some_and(|layer| layer >= hyper.n_layer) {
        return Some(format!("'{name}' is beyond the {} layers", hyper.n_layer));
    }
    if expert.is_some_and(|expert| expert >= decl.copies(hyper)) {
        return Some(format!("'{name}' is beyond the {} experts", decl.copies(hyper)));
    }
    if *has != shape {
        return Some(format!("'{name}' has shape {has:?}, the configuration says {shape:?}"));
    }
    let detail = "only F32, F16 and BF16 can be converted";
    (!info.dtype.is_float()).then(|| format!("'{name}' is {}; {detail}", info.dtype))
}

/// The divisors of rotary frequencies that GGUF holds as tensors, in llama.cpp's order.
fn rope_tensors(hyper: &HyperParams) -> Vec<(&'static str, Vec<f32>)> {
    if let RopeScaling::LongRope { factors: Some([short, long]), .. } = &hyper.rope_scaling {
        return vec![(ROPE_LONG, long.clone()), (ROPE_SHORT, short.clone())];
    }
    hyper.rope_factors().into_iter().map(|factors| (ROPE_FREQS, factors)).collect()
}

/// The names, in the checkpoint and in GGUF, of every tensor that the model cannot lack.
fn required(arch: &'static Architecture, hyper: &HyperParams) -> Vec<(String, String)> {
    let mut names = Vec::new();
    for decl in arch.tensors {
        // Where no head is stored, the embedding serves as one ([`Description`]).
        if decl.optional {
            continue;
        }
        let layers = if decl.role == Role::Layer { hyper.n_layer } else { 1 };
        let experts = decl.copies(hyper);
        let both = |layer, expert| (decl.hf_name_of(layer, expert), decl.gguf_name(layer));
        let of_layer = |layer| (0..experts).map(move |expert| both(layer, expert));
        names.extend((0..layers).flat_map(of_layer));
    }
    names
}

/// Whether a tensor is F32 whatever the file's type. Source: llama.cpp `conversion/base.py`
/// (`prepare_tensors`), October 2026.
fn stays_f32(name: &str, dims: usize) -> bool {
    dims < 2
        || name.ends_with("_norm.weight")
        || name.ends_with("ffn_gate_inp.weight")
        || !name.ends_with(".weight")
}

/// All problems, one a line; a checkpoint of another architecture would else fill screens.
fn list(problems: &[String]) -> String {
    const SHOWN: usize = 40;
    let mut text = format!("{} tensors do not fit the configuration:", problems.len());
    for problem in problems.iter().take(SHOWN) {
        text.push_str("\n  ");
        text.push_str(problem);
    }
    if problems.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", problems.len() - SHOWN));
    }
    text
}

impl TensorSource for ConvertedSource {
    fn origin(&self) -> &str {
        self.inner.origin()
    }

    fn table(&self) -> &TensorTable {
        &self.table
    }

    fn working_bytes(&self, index: usize) -> u64 {
        let Origin::Checkpoint { index: source, heads, plus_one } = &self.origins[index] else {
            return 0;
        };
        let info = &self.table.infos()[index];
        if self.streams(*source) && !plus_one {
            let copies = 1 + usize::from(heads.is_some());
            let bytes = (copies * info.bytes().unwrap_or(0)) as u64;
            return self.inner.stream_bytes(*source) + bytes;
        }
        // A copy where the type or the values change, and one where rows are reordered.
        let cast = self.inner.table().infos()[*source].dtype != info.dtype;
        let copies = usize::from(cast || *plus_one) + usize::from(heads.is_some());
        self.inner.working_bytes(*source) + (copies * info.bytes().unwrap_or(0)) as u64
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        let info = &self.table.infos()[index];
        let (dtype, shape) = (info.dtype, info.shape.clone());
        match &self.origins[index] {
            Origin::Computed(bytes) => {
                Ok(TensorData { dtype, shape, bytes: Cow::Borrowed(&bytes[..]) })
            }
            Origin::Checkpoint { index, heads, plus_one } => {
                self.converted(*index, shape, dtype, (*heads, *plus_one))
            }
            Origin::Experts(experts) => {
                let mut bytes = Vec::with_capacity(info.bytes().unwrap_or(0));
                for piece in 0..experts.len() {
                    bytes.extend_from_slice(&self.read_piece(index, piece)?.bytes);
                }
                Ok(TensorData { dtype, shape, bytes: Cow::Owned(bytes) })
            }
        }
    }

    fn pieces(&self, index: usize) -> usize {
        match &self.origins[index] {
            Origin::Experts(experts) => experts.len(),
            Origin::Checkpoint { .. } | Origin::Computed(_) => 1,
        }
    }

    fn read_piece(&self, index: usize, piece: usize) -> Result<TensorData<'_>> {
        let Origin::Experts(experts) = &self.origins[index] else { return self.read(index) };
        let info = &self.table.infos()[index];
        let data =
            self.converted(experts[piece], info.shape[1..].to_vec(), info.dtype, (None, false))?;
        let shape = [&[1], &data.shape[..]].concat();
        Ok(TensorData { shape, ..data })
    }
}
