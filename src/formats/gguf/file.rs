//! GGUF files as tensor sources: one memory-mapped file, or all shards of a split model.

use super::header::{GgufHeader, MAGIC};
use super::model::GgufModel;
use super::split::names::{MAX_SHARDS, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, shard_name};
use crate::base::error::{Error, Result};
use crate::base::mmap::Mmap;
use crate::formats::file_kind::refuse_foreign_bytes;
use crate::formats::source::{TensorData, TensorInfo, TensorSource, TensorTable};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One GGUF file, mapped and validated: a whole model, or a shard with part of its tensors.
pub struct GgufFile {
    map: Mmap,
    header: GgufHeader,
}

impl GgufFile {
    /// Maps `path` and checks its header and the place of every tensor.
    ///
    /// # Errors
    /// A file that cannot be read or is not a valid GGUF file; the message names the offset.
    pub fn open(path: impl AsRef<Path>) -> Result<GgufFile> {
        let map = Mmap::open(path.as_ref())?;
        refuse_foreign_bytes(map.path(), &map, map.len() as u64)?;
        let header = GgufHeader::parse(map.path(), &map)?;
        Ok(GgufFile { map, header })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// Size of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The parsed header.
    pub fn header(&self) -> &GgufHeader {
        &self.header
    }

    /// The bytes of tensor `index`.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn tensor_bytes(&self, index: usize) -> &[u8] {
        let bytes = self.header.tensors[index].bytes().expect("checked at opening");
        let start = self.header.offsets[index] as usize; // within the map, so within usize
        &self.map[start..start + bytes]
    }

    /// The number of this shard, from 0, and the number of all shards; `None` if the model is in
    /// one file.
    pub fn split(&self) -> Option<(u64, u64)> {
        let count = self.header.metadata.u64(SPLIT_COUNT)?;
        (count > 1).then(|| (self.header.metadata.u64(SPLIT_NO).unwrap_or(0), count))
    }
}

/// Whether the file at `path` begins like a GGUF file.
///
/// # Errors
/// A file that cannot be read.
pub fn is_gguf(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(Error::io(path, "open"))?;
    file.take(4).read_to_end(&mut head).map_err(Error::io(path, "read"))?;
    Ok(head == MAGIC)
}

/// Opens the model in `path`: a single GGUF file, or any shard of a split model whose other shards
/// are in the same folder. The metadata are those of the first shard, without the `split.` keys.
///
/// # Errors
/// Those of [`GgufFile::open`]; shards that are missing or do not belong together.
pub fn open(path: impl AsRef<Path>) -> Result<GgufModel> {
    let path = path.as_ref();
    let file = GgufFile::open(path)?;
    let shards = match file.split() {
        None => vec![file],
        Some((no, count)) => open_shards(file, no, count)?,
    };
    let mut metadata = shards[0].header.metadata.clone();
    metadata.remove_if(|key| key.starts_with("split."));
    let tensors = Arc::new(GgufSource::new(&path.display().to_string(), shards)?);
    Ok(GgufModel { metadata, tensors, warnings: Vec::new() })
}

/// Opens all shards of a model, of which `file` is number `no` of `count`, in order.
fn open_shards(file: GgufFile, no: u64, count: u64) -> Result<Vec<GgufFile>> {
    let path = file.path().to_path_buf();
    if no >= count || count > MAX_SHARDS {
        return Err(Error::format(&path, format!("claims to be shard {no} (from 0) of {count}")));
    }
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let Some(stem) = name.strip_suffix(&shard_name("", no, count)) else {
        let detail = format!(
            "holds shard {} of {count}, so its name must end in '{}'; otherwise the other shards cannot be \
             found",
            no + 1,
            shard_name("", no, count)
        );
        return Err(Error::format(&path, detail));
    };
    let sibling = |i: u64| path.with_file_name(shard_name(stem, i, count));
    check_siblings(&path, (0..count).map(sibling))?;
    let mut own = Some(file);
    let mut shards = Vec::new();
    for i in 0..count {
        let shard = match own.take_if(|_| i == no) {
            Some(own) => own,
            None => GgufFile::open(sibling(i))?,
        };
        if shard.split() != Some((i, count)) {
            let detail = match shard.split() {
                Some((no, of)) => format!("holds shard {} of {of}", no + 1),
                None => "is not a shard".to_string(),
            };
            let path = shard.path();
            return Err(Error::format(
                path,
                format!("is named {} of {count}, but {detail}", i + 1),
            ));
        }
        shards.push(shard);
    }
    check_tensor_count(&shards)?;
    Ok(shards)
}

fn check_siblings(path: &Path, names: impl Iterator<Item = PathBuf>) -> Result<()> {
    let missing: Vec<_> = names.filter(|p| !p.exists()).collect();
    match missing.first() {
        None => Ok(()),
        Some(first) => {
            let name = first.file_name().unwrap_or_default().to_string_lossy();
            let more = match missing.len() {
                1 => String::new(),
                n => format!(" (and {} more)", n - 1),
            };
            Err(Error::format(path, format!("shard '{name}'{more} is missing")))
        }
    }
}

fn check_tensor_count(shards: &[GgufFile]) -> Result<()> {
    let found: usize = shards.iter().map(|s| s.header.tensors.len()).sum();
    match shards[0].header.metadata.u64(SPLIT_TENSORS) {
        Some(expected) if expected != found as u64 => Err(Error::format(
            shards[0].path(),
            format!("states that the shards hold {expected} tensors, but they hold {found}"),
        )),
        _ => Ok(()),
    }
}

/// The tensors of a model in one or more GGUF files, in file order.
struct GgufSource {
    origin: String,
    table: TensorTable,
    shards: Vec<GgufFile>,
    /// For each tensor of the table: the shard, and the index within it.
    places: Vec<(usize, usize)>,
}

impl GgufSource {
    fn new(origin: &str, shards: Vec<GgufFile>) -> Result<GgufSource> {
        let places = (shards.iter().enumerate())
            .flat_map(|(s, shard)| (0..shard.header.tensors.len()).map(move |i| (s, i)))
            .collect();
        let infos = shards.iter().flat_map(|shard| shard.header.tensors.iter().cloned()).collect();
        let table = TensorTable::new(origin, infos)?;
        Ok(GgufSource { origin: origin.to_string(), table, shards, places })
    }
}

impl TensorSource for GgufSource {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn table(&self) -> &TensorTable {
        &self.table
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        let (shard, within) = self.places[index];
        let shard = &self.shards[shard];
        let TensorInfo { shape, dtype, .. } = &shard.header.tensors[within];
        Ok(TensorData {
            dtype: *dtype,
            shape: shape.clone(),
            bytes: Cow::Borrowed(shard.tensor_bytes(within)),
        })
    }

    fn shard(&self, index: usize) -> Option<usize> {
        Some(self.places[index].0)
    }

    fn files(&self) -> Option<Vec<PathBuf>> {
        Some(self.shards.iter().map(|shard| shard.path().to_path_buf()).collect())
    }
}
