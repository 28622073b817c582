//! Writing a Hugging Face folder: safetensors shards, index, config and the files beside them.
//!
//! Sizes are known before data: each shard's header is written first, then tensors stream to their
//! places, a few at a time, whatever order they become ready in. The bytes do not depend on it.

use super::Checkpoint;
use super::folder::is_plain_name;
use super::weights::SAFETENSORS;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::output::{OutputDir, OutputFile, check_space};
use crate::progress::{Progress, Unit, check_interrupted};
use crate::source::{TensorInfo, TensorSource, TensorTable};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The usual limit of a shard, 5 GB.
pub const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// Tensors in flight at most. More would only cost memory: computing a tensor is itself parallel.
const MAX_IN_FLIGHT: usize = 4;

/// What to write besides the checkpoint, and how.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// No shard is larger than this, unless a single tensor is.
    pub max_shard_bytes: u64,
    /// More files for the folder, as names and contents.
    pub extra: Vec<(String, Vec<u8>)>,
    /// Replace the folder if it exists.
    pub force: bool,
}

impl Default for WriteOptions {
    fn default() -> WriteOptions {
        WriteOptions { max_shard_bytes: DEFAULT_SHARD_BYTES, extra: Vec::new(), force: false }
    }
}

/// What [`write`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub shards: usize,
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
    header: Vec<u8>,
    /// Where each tensor's data begin in the file.
    starts: Vec<u64>,
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
    let out = OutputDir::create(dir, options.force)?;
    let bytes: u64 = shards.iter().map(|s| s.file_bytes).sum();
    check_space(dir, bytes + small.iter().map(|(_, b)| b.len() as u64).sum::<u64>())?;

    progress.begin("write", table.infos().iter().map(data_bytes).sum(), Unit::Bytes);
    for shard in &shards {
        let mut file = out.file(&shard.name)?;
        file.reserve(shard.file_bytes)?;
        file.append(&shard.header)?;
        write_tensors(source, shard, &file, progress)?;
        file.commit()?;
    }
    for (name, contents) in &small {
        let mut file = out.file(name)?;
        file.append(contents)?;
        file.commit()?;
    }
    check_interrupted()?;
    out.commit()?;
    progress.end();
    let parameters = table.infos().iter().map(|info| info.elements() as u64).sum();
    Ok(Written { shards: shards.len(), tensors: table.infos().len(), parameters, bytes })
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
        if !is_plain_name(name) {
            return Err(Error::Usage(format!("'{name}' is no plain file name")));
        }
        if !seen.insert(name) {
            return Err(Error::Usage(format!("two files of the output are called '{name}'")));
        }
    }
    Ok(files)
}

/// Reads the tensors of `shard` and writes them to their places in `file`.
///
/// Own threads, not a parallel iterator: a rayon worker that waits inside the computation of one tensor
/// would begin the next one, and the number in flight, so memory, would not be bounded.
fn write_tensors(
    source: &dyn TensorSource,
    shard: &Shard,
    file: &OutputFile,
    progress: &dyn Progress,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let Some(&index) = shard.tensors.get(position) else { break };
            if let Err(e) = write_tensor(source, index, shard.starts[position], file, progress) {
                stop.store(true, Ordering::Relaxed);
                let mut first = failure.lock().expect("no holder panics");
                // The earliest in the shard's order, so that errors repeat.
                if first.as_ref().is_none_or(|(at, _)| position < *at) {
                    *first = Some((position, e));
                }
            }
        }
    };
    let workers = rayon::current_num_threads().clamp(1, MAX_IN_FLIGHT);
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    match failure.into_inner().expect("no holder panics") {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

fn write_tensor(
    source: &dyn TensorSource,
    index: usize,
    start: u64,
    file: &OutputFile,
    progress: &dyn Progress,
) -> Result<()> {
    check_interrupted()?;
    let info = &source.table().infos()[index];
    progress.detail(&info.name);
    let data = source.read(index)?;
    if data.dtype != info.dtype || data.bytes.len() as u64 != data_bytes(info) {
        let detail = format!(
            "{} bytes of {} came where {:?} in {} was announced",
            data.bytes.len(),
            data.dtype,
            info.shape,
            info.dtype
        );
        return Err(Error::tensor(source.origin(), &info.name, detail));
    }
    file.write_at(start, &data.bytes)?;
    progress.advance(data.bytes.len() as u64);
    Ok(())
}
