//! One PyTorch weights file (`pytorch_model.bin`), as `torch.save` writes it since PyTorch 1.6: a
//! zip archive with a pickle that describes the tensors, and an entry of raw elements for each
//! storage.
//!
//! The file is mapped; a tensor is a range of it, or gathered from one if its elements are not in
//! the order of its shape (a transposed view). No code of the file runs: see [`super::pickle`].
//! Deliberately absent: the format before 1.6, TorchScript, big-endian files, and tensors that
//! repeat elements.

mod pickle;
mod zip;

use self::pickle::{Refused, TensorView};
use self::zip::{ZipDirectory, looks_like_zip};
use crate::base::error::{Error, Result};
use crate::base::mmap::Mmap;
use crate::formats::file_kind::refuse_foreign_bytes;
use safetensors::Dtype;
use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

/// The magic number of the format before 1.6, itself a pickle.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// A tensor of a PyTorch file.
#[derive(Clone, Debug)]
pub(crate) struct PytorchEntry {
    pub name: String,
    pub dtype: Dtype,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    data: Data,
}

/// Where a tensor's elements are.
#[derive(Clone, Debug)]
enum Data {
    /// One after the other in these bytes of the file.
    Whole(Range<usize>),
    /// `strides` bytes apart, from byte `start` of the file.
    Strided { start: usize, strides: Vec<usize> },
}

/// A mapped PyTorch file.
pub(crate) struct PytorchFile {
    map: Mmap,
    entries: Vec<PytorchEntry>,
}

/// Whether `head`, the first bytes of a file, may begin a PyTorch file, of the present format or
/// the old.
pub fn looks_like_pytorch(head: &[u8]) -> bool {
    looks_like_zip(head) || head.starts_with(LEGACY)
}

impl PytorchFile {
    /// Maps `path`, and checks that every tensor lies within its storage and every storage within
    /// the file.
    pub(crate) fn open(path: impl AsRef<Path>) -> Result<PytorchFile> {
        let map = Mmap::open(path.as_ref())?;
        let path = map.path();
        refuse_foreign_bytes(path, &map, map.len() as u64)?;
        if map.starts_with(LEGACY) {
            let detail = "written in PyTorch's format before 1.6, which is not read here; load it with \
                          PyTorch and torch.save it again, or get the model as safetensors";
            return Err(Error::format(path, detail));
        }
        if !looks_like_zip(&map) {
            return Err(Error::format(path, "not a PyTorch file: it is no zip archive"));
        }
        let directory = ZipDirectory::parse(path, &map)?;
        let root = find_root(path, &directory)?;
        if let Some(order) = directory.get(&format!("{root}/byteorder"))
            && &map[order.clone()] != b"little"
        {
            let order =
                String::from_utf8_lossy(&map[order.clone()][..order.len().min(16)]).into_owned();
            let detail = format!("its byte order is {order:?}; only little-endian files are read");
            return Err(Error::format(path, detail));
        }
        let pickled = directory.get(&format!("{root}/data.pkl")).expect("the root was found by it");
        if pickled.len() > pickle::MAX_BYTES {
            let detail = format!("a pickle of {} bytes describes no model", pickled.len());
            return Err(Error::format(path, detail));
        }
        let views =
            pickle::tensors(&map[pickled.clone()]).map_err(|Refused { offset, detail }| {
                Error::format(
                    path,
                    format!("at offset {} (in data.pkl): {detail}", pickled.start + offset),
                )
            })?;
        let mut seen = HashSet::new();
        let mut entries = Vec::with_capacity(views.len());
        for (name, view) in views {
            let fail = |detail| Err(Error::tensor(path.display().to_string(), &name, detail));
            if !seen.insert(name.clone()) {
                return fail("occurs twice".to_string());
            }
            let key = format!("{root}/data/{}", view.storage.key);
            let Some(storage) = directory.get(&key) else {
                return fail(format!("its storage '{}' is not in the file", view.storage.key));
            };
            match locate(&view, storage) {
                Ok(data) => {
                    let TensorView { storage, shape, .. } = view;
                    entries.push(PytorchEntry { name, dtype: storage.dtype, shape, data });
                }
                Err(detail) => return fail(detail),
            }
        }
        Ok(PytorchFile { map, entries })
    }

    pub(crate) fn path(&self) -> &Path {
        self.map.path()
    }

    /// The tensors, in the order of the pickle.
    pub(crate) fn entries(&self) -> &[PytorchEntry] {
        &self.entries
    }

    /// Whether the elements of tensor `index` lie in the file in the order of its shape.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub(crate) fn is_whole(&self, index: usize) -> bool {
        matches!(self.entries[index].data, Data::Whole(_))
    }

    /// The elements of tensor `index`, row after row.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub(crate) fn tensor_bytes(&self, index: usize) -> Cow<'_, [u8]> {
        let entry = &self.entries[index];
        match &entry.data {
            Data::Whole(range) => Cow::Borrowed(&self.map[range.clone()]),
            Data::Strided { start, strides } => Cow::Owned(gather(
                &self.map[*start..],
                entry.dtype.bitsize() / 8,
                &entry.shape,
                strides,
            )),
        }
    }
}

/// The folder in the archive that everything is in: a name of the writer's choosing.
fn find_root(path: &Path, directory: &ZipDirectory) -> Result<String> {
    let mut roots = directory.names().filter_map(|name| name.strip_suffix("/data.pkl"));
    match (roots.next(), roots.next()) {
        (Some(root), None) if directory.get(&format!("{root}/constants.pkl")).is_some() => {
            let detail = "a TorchScript program, not weights; get the model as safetensors";
            Err(Error::format(path, detail))
        }
        (Some(root), None) => Ok(root.to_string()),
        (None, _) => {
            Err(Error::format(path, "a zip archive, but no PyTorch file: it has no data.pkl"))
        }
        (Some(_), Some(_)) => Err(Error::format(path, "has more than one data.pkl")),
    }
}

/// Where the elements of `view` are, given the bytes of its storage.
fn locate(view: &TensorView, storage: &Range<usize>) -> std::result::Result<Data, String> {
    let size = view.storage.dtype.bitsize() / 8;
    let needed = view.storage.elements.checked_mul(size);
    if needed.is_none_or(|needed| needed != storage.len()) {
        let (has, elements) = (storage.len(), view.storage.elements);
        return Err(format!(
            "its storage '{}' has {has} bytes, not {elements} elements of {}",
            view.storage.key, view.storage.dtype
        ));
    }
    let impossible = || format!("shape {:?} is not possible", view.shape);
    let elements =
        view.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(impossible)?;
    if elements == 0 {
        return Ok(Data::Whole(storage.start..storage.start));
    }
    // One past the last element, counted from the storage's first.
    let end = view.shape.iter().zip(&view.strides).try_fold(view.offset, |end, (&dim, &stride)| {
        end.checked_add((dim - 1).checked_mul(stride)?)
    });
    let end = end.and_then(|last| last.checked_add(1));
    if end.is_none_or(|end| end > view.storage.elements) {
        return Err(format!(
            "shape {:?} with strides {:?} at offset {} runs past the {} elements of its storage",
            view.shape, view.strides, view.offset, view.storage.elements
        ));
    }
    let start = storage.start + view.offset * size;
    let mut expected = 1;
    let mut whole = true;
    for (&dim, &stride) in view.shape.iter().zip(&view.strides).rev() {
        whole &= dim == 1 || stride == expected;
        expected *= dim;
    }
    if whole {
        return Ok(Data::Whole(start..start + elements * size));
    }
    // A view with stride 0 shows one element many times: a few bytes would claim any amount of
    // memory.
    if elements > view.storage.elements {
        return Err(format!(
            "shape {:?} repeats the {} elements of its storage; save a contiguous copy",
            view.shape, view.storage.elements
        ));
    }
    Ok(Data::Strided { start, strides: view.strides.iter().map(|stride| stride * size).collect() })
}

/// Elements of `size` bytes that are `strides` bytes apart, in the order of `shape`.
fn gather(bytes: &[u8], size: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let elements: usize = shape.iter().product();
    let mut out = Vec::with_capacity(elements * size);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..elements {
        out.extend_from_slice(&bytes[at..at + size]);
        // The next index, innermost dimension first.
        for dim in (0..shape.len()).rev() {
            index[dim] += 1;
            at += strides[dim];
            if index[dim] < shape[dim] {
                break;
            }
            at -= index[dim] * strides[dim];
            index[dim] = 0;
        }
    }
    out
}
