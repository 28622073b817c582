//! Settings of a run that computes an importance matrix, and the chunks that it takes.
//!
//! Not here: choosing the chunks (`chunks`).

use crate::kernels::Precision;
use crate::model::forward;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// How [`super::compute`] works. The defaults are llama-imatrix's, except for the precision.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tokens in a chunk, 16 or more.
    pub ctx: usize,
    /// Number of chunks to skip at the beginning of the text.
    pub from_chunk: usize,
    /// Use at most this many chunks.
    pub chunks: Option<usize>,
    /// Take only this part of the chunks that are left.
    pub shard: Option<Shard>,
    /// Collect for the output head too: for `output.weight`, or for `token_embd.weight` where the
    /// embeddings are tied.
    pub process_output: bool,
    /// The token that replaces each chunk's first: BOS where the model adds it.
    pub bos: Option<u32>,
    /// Precision of products with weights; by default the fastest on this processor.
    pub precision: Precision,
    /// Bytes of memory that the whole process may take.
    pub memory: u64,
    /// Names of the texts, which are written to the file.
    pub datasets: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            ctx: super::DEFAULT_CHUNK as usize,
            from_chunk: 0,
            chunks: None,
            shard: None,
            process_output: false,
            bos: None,
            precision: Precision::fastest(),
            memory: forward::default_memory(),
            datasets: Vec::new(),
        }
    }
}

/// One of several runs that share the chunks of a text, written `2/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    number: usize,
    count: usize,
}

impl Shard {
    /// This shard's part of `whole`: consecutive chunks. The sizes of shards differ by one chunk at most.
    pub fn of(&self, whole: &Range<usize>) -> Range<usize> {
        let cut = |n: usize| {
            let chunks = whole.len() as u128 * n as u128 / self.count as u128;
            whole.start + chunks as usize
        };
        cut(self.number - 1)..cut(self.number)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let parts = text.split_once('/').and_then(|(number, count)| {
            Some(Shard { number: number.parse().ok()?, count: count.parse().ok()? })
        });
        match parts {
            Some(shard) if (1..=shard.count).contains(&shard.number) => Ok(shard),
            _ => Err("expected a shard's number and the number of shards: 1/4 to 4/4".to_string()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

/// The chunks of a text that a run takes, numbered from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Number of chunks that the text fills.
    pub available: usize,
    /// Chunks that all shards together take.
    pub requested: Range<usize>,
    /// Chunks that this run takes: its shard, or all requested ones.
    pub taken: Range<usize>,
}
