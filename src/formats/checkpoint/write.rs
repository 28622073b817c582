//! Writing a Hugging Face folder: safetensors shards, index, config and the files beside them.
//!
//! Sizes are known before data: each shard's header is written first, then tensors stream to their
//! places ([`super::parts`]), whatever order they become ready in. The bytes do not depend on it. Where the
//! caller can tell what the output is made from, whole shards survive an interruption ([`super::resume`]).

use super::Checkpoint;
use super::folder::is_file_name;
use super::parts::ShardWriter;
use super::resume::{Journal, PartHashes, Resume, remove_record};
use super::weights::SAFETENSORS;
use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::base::memory;
use crate::base::output::{OutputDir, check_dir_target, check_space};
use crate::base::progress::{Progress, Unit, check_interrupted};
use crate::formats::source::{TensorInfo, TensorSource, TensorTable};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// The usual limit of a shard, 5 GB.
pub const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// What to write besides the checkpoint, and how.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// No shard is larger than this, unless a single tensor is.
    pub max_shard_bytes: u64,
    /// More files for the folder, as names and contents.
    pub extra: Vec<(String, Vec<u8>)>,
    /// Replace the folder if it exists.
    pub force: bool,
    /// Bytes of computed tensors to hold at most; one tensor may take more.
    pub memory: u64,
    /// Continue what an earlier run has left, and leave whole shards to continue from; `None`: leave
    /// nothing unless everything is whole.
    pub resume: Option<Resume>,
}

impl Default for WriteOptions {
    /// Shards of 5 GB, a quarter of the machine's memory; replaces nothing and leaves nothing.
    fn default() -> WriteOptions {
        WriteOptions {
            max_shard_bytes: DEFAULT_SHARD_BYTES,
            extra: Vec::new(),
            force: false,
            memory: memory::total() / 4,
            resume: None,
        }
    }
}

/// What [`write()`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub shards: usize,
    /// How many of them an earlier run had written.
    pub kept_shards: usize,
    pub tensors: usize,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Bytes of all shards.
    pub bytes: u64,
}

/// One safetensors file to be.
#[derive(Clone, Debug)]
pub struct Shard {
    pub name: String,
    /// Its tensors, as indices into the table, in the order of their data.
    pub tensors: Vec<usize>,
    /// Size of the file in bytes.
    pub file_bytes: u64,
    /// Length and JSON, up to the data.
    pub(super) header: Vec<u8>,
    /// Where each tensor's data begin in the file.
    pub(super) starts: Vec<u64>,
}

/// Divides the tensors of `table` among shards of at most `max_shard_bytes`, in the table's order; a
/// larger tensor gets its own. The sizes are exact. Fails for types that safetensors lacks; `origin`
/// names the model in errors.
///
/// The table's order, not that of names: a recipe yields embedding, layers, head, so a shard holds
/// consecutive layers and sources are read from front to back.
pub fn plan_shards(origin: &str, table: &TensorTable, max_shard_bytes: u64) -> Result<Vec<Shard>> {
    let fixed = header_json(&[], &[]).len() as u64 + 8 + HEADER_ALIGNMENT as u64;
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for (index, info) in table.infos().iter().enumerate() {
        dtype_name(origin, info)?;
        let bytes = info.bytes().expect("checked by TensorTable") as u64;
        // Offsets of the largest possible width, so that the real entry is no longer.
        let entry = header_entry(info, u64::MAX, u64::MAX).to_string();
        let name = Value::from(info.name.as_str()).to_string();
        let needed = bytes.saturating_add((name.len() + ":,".len() + entry.len()) as u64);
        match groups.last_mut() {
            Some(group) if needed <= room => group.push(index),
            _ => {
                groups.push(vec![index]);
                room = max_shard_bytes.saturating_sub(fixed);
            }
        }
        room = room.saturating_sub(needed);
    }
    let names = match groups.len() {
        0 | 1 => vec![SAFETENSORS.single.to_string()],
        n => SAFETENSORS.shards("model", n as u32),
    };
    if groups.is_empty() {
        groups.push(Vec::new());
    }
    Ok(names.into_iter().zip(groups).map(|(name, group)| lay_out(name, table, group)).collect())
}

const HEADER_ALIGNMENT: usize = 8;

fn lay_out(name: String, table: &TensorTable, mut tensors: Vec<usize>) -> Shard {
    let infos = table.infos();
    // Wider elements first, as the safetensors crate writes them, so that all are aligned.
    tensors.sort_by_key(|&i| std::cmp::Reverse(infos[i].dtype.block_bytes()));
    let mut ends = Vec::with_capacity(tensors.len());
    let mut end = 0u64;
    for &i in &tensors {
        end += infos[i].bytes().expect("checked by TensorTable") as u64;
        ends.push(end);
    }
    let selected: Vec<_> = tensors.iter().map(|&i| &infos[i]).collect();
    let mut json = header_json(&selected, &ends);
    while !json.len().is_multiple_of(HEADER_ALIGNMENT) {
        json.push(' ');
    }
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    let data_start = header.len() as u64;
    let starts = std::iter::once(0).chain(ends).map(|offset| data_start + offset);
    let starts = starts.take(tensors.len()).collect();
    Shard { name, tensors, file_bytes: data_start + end, header, starts }
}

fn header_entry(info: &TensorInfo, start: u64, end: u64) -> Value {
    json!({ "dtype": info.dtype.name(), "shape": info.shape, "data_offsets": [start, end] })
}

/// The header of tensors whose data end at `ends`.
fn header_json(infos: &[&TensorInfo], ends: &[u64]) -> String {
    let mut map = Map::new();
    // Transformers refuses files that do not say that they come from PyTorch.
    map.insert("__metadata__".to_string(), json!({ "format": "pt" }));
    let mut start = 0;
    for (info, &end) in infos.iter().zip(ends) {
        map.insert(info.name.clone(), header_entry(info, start, end));
        start = end;
    }
    Value::Object(map).to_string()
}

/// Checks that safetensors has the type; its names are the same.
fn dtype_name(origin: &str, info: &TensorInfo) -> Result<&'static str> {
    use DType::{BF16, F16, F32, F64, I8, I16, I32, I64};
    match info.dtype {
        F32 | F16 | BF16 | F64 | I8 | I16 | I32 | I64 => Ok(info.dtype.name()),
        other => {
            let detail = format!("safetensors files cannot hold type {other}");
            Err(Error::tensor(origin, &info.name, detail))
        }
    }
}

/// The index of `shards`, in the form transformers writes it.
fn index_json(table: &TensorTable, shards: &[Shard]) -> String {
    let mut entries: Vec<_> = (shards.iter())
        .flat_map(|s| s.tensors.iter().map(|&i| (table.infos()[i].name.as_str(), s.name.as_str())))
        .collect();
    entries.sort_unstable();
    let map: Map<_, _> =
        entries.into_iter().map(|(name, file)| (name.to_string(), file.into())).collect();
    let total: u64 = table.infos().iter().filter_map(|info| info.bytes()).map(|b| b as u64).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    let mut text = serde_json::to_string_pretty(&index).expect("JSON values serialize");
    text.push('\n');
    text
}

/// Writes `checkpoint` to the new folder `dir`: shards, an index if there is more than one, config.json,
/// the side files byte for byte, and the extra files. Tensors are computed as they are written, a few
/// at a time. The folder appears under its name when all of it is on the disk.
///
/// # Errors
/// Those of the tensors' source, an output that exists or cannot be written, an interruption. Nothing
/// is left then, except the whole shards where [`WriteOptions::resume`] asks for it; `progress` is told
/// where they lie.
pub fn write(
    checkpoint: &Checkpoint,
    dir: &Path,
    options: &WriteOptions,
    progress: &dyn Progress,
) -> Result<Written> {
    let source = checkpoint.tensors.as_ref();
    let table = source.table();
    let shards = plan_shards(source.origin(), table, options.max_shard_bytes)?;
    let small = small_files(checkpoint, options, table, &shards)?;
    let (out, mut journal) = match &options.resume {
        None => (OutputDir::create(dir, options.force)?, None),
        Some(resume) => {
            let out = OutputDir::reopen(dir, options.force)?;
            let journal = Journal::open(&out, resume, &shards, &small, table, progress)?;
            (out, Some(journal))
        }
    };
    let kept_shards = journal.as_ref().map_or(0, Journal::whole_shards);
    let writer = Writer { source, shards: &shards, small: &small, out: &out, options, progress };
    if let Err(error) = writer.write(dir, journal.as_mut()) {
        if let Some(text) = journal.and_then(|journal| journal.report_kept(&out)) {
            progress.warn(&text);
        }
        return Err(error);
    }
    let (target, single) = (out.target().to_path_buf(), kept_shards == 0 && shards.len() == 1);
    let committed = out.commit();
    if journal.is_some() && (committed.is_ok() || single) {
        remove_record(&target)?;
    }
    committed?;
    progress.end();
    let parameters = table.infos().iter().map(|info| info.elements() as u64).sum();
    let bytes = shards.iter().map(|s| s.file_bytes).sum();
    Ok(Written {
        shards: shards.len(),
        kept_shards,
        tensors: table.infos().len(),
        parameters,
        bytes,
    })
}

/// Everything that goes into the folder.
struct Writer<'a> {
    source: &'a dyn TensorSource,
    shards: &'a [Shard],
    small: &'a [(String, Vec<u8>)],
    out: &'a OutputDir,
    options: &'a WriteOptions,
    progress: &'a dyn Progress,
}

impl Writer<'_> {
    /// Writes what `journal` does not have, all but the last rename. `dir` is the folder's name to be.
    fn write(&self, dir: &Path, mut journal: Option<&mut Journal>) -> Result<()> {
        let has = |shard: &Shard, journal: &Option<&mut Journal>| {
            journal.as_ref().is_some_and(|journal| journal.has(shard))
        };
        let missing: Vec<_> = self.shards.iter().filter(|s| !has(s, &journal)).collect();
        let small: u64 = self.small.iter().map(|(_, contents)| contents.len() as u64).sum();
        check_space(dir, missing.iter().map(|s| s.file_bytes).sum::<u64>() + small)?;

        let infos = self.source.table().infos();
        self.progress.begin("write", infos.iter().map(data_bytes).sum(), Unit::Bytes);
        for shard in self.shards.iter().filter(|shard| has(shard, &journal)) {
            self.progress.advance(shard.tensors.iter().map(|&i| data_bytes(&infos[i])).sum());
        }
        for (at, shard) in missing.iter().enumerate() {
            // Nothing that can fail for long comes after the last shard, so it needs no record.
            let journal = journal.as_deref_mut().filter(|_| at + 1 < missing.len());
            self.write_shard(shard, journal)?;
        }
        for (name, contents) in self.small {
            let mut file = self.out.file(name)?;
            file.append(contents)?;
            file.commit()?;
        }
        check_interrupted()?;
        // While all of it can still be continued.
        check_dir_target(dir, self.options.force)?;
        journal.map_or(Ok(()), |journal| journal.close(self.out))
    }

    fn write_shard(&self, shard: &Shard, journal: Option<&mut Journal>) -> Result<()> {
        let mut file = self.out.file(&shard.name)?;
        file.reserve(shard.file_bytes)?;
        file.append(&shard.header)?;
        let table = self.source.table();
        let hashes = journal.is_some().then(|| PartHashes::new(shard, table));
        let (source, memory, progress) = (self.source, self.options.memory, self.progress);
        let hashes = hashes.as_ref();
        ShardWriter { source, shard, file: &file, memory, hashes, progress }.run()?;
        file.commit()?;
        let (Some(journal), Some(hashes)) = (journal, hashes) else { return Ok(()) };
        let whole = hashes.finish(shard).expect("all parts of all tensors have been written");
        journal.record(self.out, shard, whole)
    }
}

fn data_bytes(info: &TensorInfo) -> u64 {
    info.bytes().expect("checked by TensorTable") as u64
}

/// Everything but the shards. Read before any tensor is computed, so that what is wrong with it shows
/// early; tokenizers have a few MB.
fn small_files(
    checkpoint: &Checkpoint,
    options: &WriteOptions,
    table: &TensorTable,
    shards: &[Shard],
) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = vec![("config.json".to_string(), checkpoint.config.to_json().into_bytes())];
    if shards.len() > 1 {
        files.push((SAFETENSORS.index.to_string(), index_json(table, shards).into_bytes()));
    }
    for file in &checkpoint.side_files {
        files.push((file.name().into_owned(), file.read(u64::MAX)?.into_owned()));
    }
    files.extend(options.extra.iter().cloned());
    let mut seen: BTreeSet<&str> = shards.iter().map(|s| s.name.as_str()).collect();
    for (name, _) in &files {
        if !is_file_name(name) {
            return Err(Error::Usage(format!("'{name}' is no plain file name")));
        }
        if !seen.insert(name) {
            return Err(Error::Usage(format!("two files of the output are called '{name}'")));
        }
    }
    Ok(files)
}
