//! One file of PyTorch weights (`pytorch_model.bin`), as `torch.save` writes it since PyTorch 1.6:
//! a zip archive with a pickle that describes the tensors and an entry of raw elements for each
//! storage.
//!
//! The file is mapped. A tensor is a range of it, or is gathered if its elements are in another
//! order (a transposed view). No code of the file runs, see [`pickle`]. Not here: the format before
//! 1.6, TorchScript, big-endian files, and tensors that repeat elements.

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

/// The magic number of the format before PyTorch 1.6, which is a pickle.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// A tensor of a PyTorch file.
#[derive(Clone, Debug)]
pub(crate) struct PytorchEntry {
    /// Name, unique in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    data: Data,
}

/// The place of the elements of a tensor.
#[derive(Clone, Debug)]
enum Data {
    /// In the order of the shape, in this range of the file.
    Whole(Range<usize>),
    /// In steps of `strides` bytes for each dimension, from offset `start` of the file.
    Strided { start: usize, strides: Vec<usize> },
}

/// A mapped PyTorch file.
pub(crate) struct PytorchFile {
    map: Mmap,
    entries: Vec<PytorchEntry>,
}

/// Whether a file that begins with `head` may be a PyTorch file, in the current format or that
/// before 1.6.
pub fn looks_like_pytorch(head: &[u8]) -> bool {
    looks_like_zip(head) || head.starts_with(LEGACY)
}

impl PytorchFile {
    /// Maps `path` and checks that every tensor is within its storage and every storage within the
    /// file.
    ///
    /// # Errors
    /// A file that cannot be read or violates the format, with the offset or tensor.
    pub(crate) fn open(path: impl AsRef<Path>) -> Result<PytorchFile> {
        let map = Mmap::open(path.as_ref())?;
        let path = map.path();
        refuse_foreign_bytes(path, &map, map.len() as u64)?;
        if map.starts_with(LEGACY) {
            let detail = "written in PyTorch's format before 1.6, which is not supported; load it with \
                          PyTorch and torch.save it again, or download the model as safetensors";
            return Err(Error::format(path, detail));
        }
        if !looks_like_zip(&map) {
            return Err(Error::format(path, "not a PyTorch file: it is not a zip archive"));
        }
        let directory = ZipDirectory::parse(path, &map)?;
        let root = find_root(path, &directory)?;
        if let Some(order) = directory.get(&format!("{root}/byteorder"))
            && &map[order.clone()] != b"little"
        {
            let order =
                String::from_utf8_lossy(&map[order.clone()][..order.len().min(16)]).into_owned();
            let detail =
                format!("its byte order is {order:?}; only little-endian files are supported");
            return Err(Error::format(path, detail));
        }
        let pickled = directory.get(&format!("{root}/data.pkl")).expect("the root was found by it");
        if pickled.len() > pickle::MAX_BYTES {
            let detail = format!(
                "its pickle has {} bytes, too many for the tensors of a model",
                pickled.len()
            );
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

    /// The path of the file.
    pub(crate) fn path(&self) -> &Path {
        self.map.path()
    }

    /// The tensors, in the order of the pickle.
    pub(crate) fn entries(&self) -> &[PytorchEntry] {
        &self.entries
    }

    /// Whether the elements of tensor `index` are in the file in the order of its shape.
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

/// The name of the folder in the archive that contains everything. The writer may choose any name.
fn find_root(path: &Path, directory: &ZipDirectory) -> Result<String> {
    let mut roots = directory.names().filter_map(|name| name.strip_suffix("/data.pkl"));
    match (roots.next(), roots.next()) {
        (Some(root), None) if directory.get(&format!("{root}/constants.pkl")).is_some() => {
            let detail = "a TorchScript program, not weights; download the model as safetensors";
            Err(Error::format(path, detail))
        }
        (Some(root), None) => Ok(root.to_string()),
        (None, _) => {
            Err(Error::format(path, "a zip archive, but not a PyTorch file: it has no data.pkl"))
        }
        (Some(_), Some(_)) => Err(Error::format(path, "has more than one data.pkl")),
    }
}

/// Locates the elements of `view` in the range of its storage.
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
    // A view with stride 0 repeats elements, so that a few bytes could claim any amount of memory.
    if elements > view.storage.elements {
        return Err(format!(
            "shape {:?} repeats the {} elements of its storage; save a contiguous copy",
            view.shape, view.storage.elements
        ));
    }
    Ok(Data::Strided { start, strides: view.strides.iter().map(|stride| stride * size).collect() })
}

/// Copies elements of `size` bytes, `strides` bytes apart, into the order of `shape`.
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
