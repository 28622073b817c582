//! Writing a Hugging Face folder: safetensors shards, index, config and the files beside them.
//!
//! Sizes are known before data: each shard's header is written first, then tensors stream to their
//! places ([`super::parts`]) in any order. The bytes do not depend on that order. Where the caller knows
//! what the output is made from, whole shards survive an interruption ([`super::resume`]).

use super::Checkpoint;
use super::folder::is_file_name;
use super::parts::ShardWriter;
use super::resume::{ShardJournal, remove_record};
use super::shards::{PartHashes, Shard, index_json, plan_shards};
use super::weights::SAFETENSORS;
use crate::base::error::{Error, Result};
use crate::base::memory;
use crate::base::output::{OutputDir, check_dir_target, check_space};
use crate::base::progress::{Progress, Unit, check_interrupted};
use crate::base::resume::Checkpointing;
use crate::formats::source::{TensorInfo, TensorSource, TensorTable};
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
    /// Resume what an earlier run has left, and leave whole shards to resume from. With `None`, an
    /// interrupted run leaves nothing.
    pub checkpointing: Option<Checkpointing>,
}

impl Default for WriteOptions {
    /// Shards of 5 GB, a quarter of the machine's memory; replaces nothing and leaves nothing.
    fn default() -> WriteOptions {
        WriteOptions {
            max_shard_bytes: DEFAULT_SHARD_BYTES,
            extra: Vec::new(),
            force: false,
            memory: memory::total() / 4,
            checkpointing: None,
        }
    }
}

/// What [`write()`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Number of shards.
    pub shards: usize,
    /// Number of shards that an earlier run had written.
    pub kept_shards: usize,
    /// Number of tensors.
    pub tensors: usize,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Bytes of all shards.
    pub bytes: u64,
}

/// Writes `checkpoint` to the new folder `dir`: shards, an index if there is more than one, config.json,
/// the side files byte for byte, and the extra files. Tensors are computed as they are written, a few
/// at a time. The folder appears under its name when all of it is on the disk.
///
/// # Errors
/// Those of the tensors' source, an output that exists or cannot be written, an interruption. Nothing
/// is left then, except whole shards with [`WriteOptions::checkpointing`]; a warning says where they are.
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
    let (out, mut journal) = match &options.checkpointing {
        None => (OutputDir::create(dir, options.force)?, None),
        Some(checkpointing) => {
            let out = OutputDir::reopen(dir, options.force)?;
            let journal =
                ShardJournal::open(&out, checkpointing, &shards, &small, table, progress)?;
            (out, Some(journal))
        }
    };
    let kept_shards = journal.as_ref().map_or(0, ShardJournal::whole_shards);
    let writer = Writer { source, shards: &shards, small: &small, out: &out, options, progress };
    if let Err(error) = writer.write(dir, journal.as_mut()) {
        if let Some(journal) = journal {
            journal.report_kept(&out, progress);
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
    /// Writes what `journal` does not have; only the last rename remains. `dir` is the final folder.
    fn write(&self, dir: &Path, mut journal: Option<&mut ShardJournal>) -> Result<()> {
        let has = |shard: &Shard, journal: &Option<&mut ShardJournal>| {
            journal.as_ref().is_some_and(|journal| journal.has(&shard.name))
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
            // Little can fail after the last shard, so it needs no record.
            let journal = journal.as_deref_mut().filter(|_| at + 1 < missing.len());
            self.write_shard(shard, journal)?;
        }
        for (name, contents) in self.small {
            let mut file = self.out.file(name)?;
            file.append(contents)?;
            file.commit()?;
        }
        check_interrupted()?;
        // Before the journal leaves the folder, so that everything can still be resumed.
        check_dir_target(dir, self.options.force)?;
        journal.map_or(Ok(()), |journal| journal.close(self.out))
    }

    fn write_shard(&self, shard: &Shard, journal: Option<&mut ShardJournal>) -> Result<()> {
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

/// Returns the files besides the shards, by name. They are read before any tensor is computed, so that
/// errors show early; tokenizers have a few MB.
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
            return Err(Error::Usage(format!("'{name}' is not a plain file name")));
        }
        if !seen.insert(name) {
            return Err(Error::Usage(format!("two files of the output are named '{name}'")));
        }
    }
    Ok(files)
}
