//! Which chunks of a text a run takes: what is skipped, how many at most, which shard of them.

use super::collector::MIN_ROWS;
use super::compute::Options;
use crate::base::error::{Error, Result};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// One of several runs that share the chunks of a text, written `2/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    number: usize,
    count: usize,
}

impl Shard {
    /// The part of `whole` that is this shard's: consecutive chunks, and no shard has more than one chunk
    /// more than another.
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

/// Chunks of a text, numbered from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Chunks that the text fills.
    pub available: usize,
    /// Those that are wanted, by all shards together.
    pub wanted: Range<usize>,
    /// Those that this run takes: its shard, or all that are wanted.
    pub taken: Range<usize>,
}

/// What a run with `options` takes of a text of `tokens` tokens. The tail that fills no chunk is dropped.
///
/// Fails if there is not enough text for one chunk, a chunk is too small, or nothing is left to take.
pub fn select(tokens: usize, options: &Options) -> Result<Selection> {
    let ctx = options.ctx;
    let usage = |text: String| Err(Error::Usage(text));
    if ctx < MIN_ROWS || u32::try_from(ctx).is_err() {
        return usage(format!(
            "a context of {ctx} tokens: an importance matrix needs {MIN_ROWS} or more"
        ));
    }
    if tokens < ctx {
        return usage(format!(
            "the calibration text has {tokens} tokens, which do not fill one context of {ctx}; give more \
             text or a smaller context"
        ));
    }
    let (available, first) = (tokens / ctx, options.from_chunk);
    let limit = options.chunks.unwrap_or(usize::MAX);
    if limit == 0 {
        return usage("no chunks to compute an importance matrix from".into());
    }
    if first >= available {
        return usage(format!(
            "{first} chunks to skip, and the calibration text fills only {available} of {ctx} tokens"
        ));
    }
    let wanted = first..first.saturating_add(limit).min(available);
    let taken = options.shard.map_or(wanted.clone(), |shard| shard.of(&wanted));
    if taken.is_empty() {
        let (shard, chunks) = (options.shard.expect("only a shard can be empty"), wanted.len());
        return usage(format!(
            "shard {shard} of {chunks} chunks is empty; divide them into {chunks} shards at the most"
        ));
    }
    Ok(Selection { available, wanted, taken })
}

/// Cuts the chunks that [`select`] takes from `tokens`; BOS overwrites each chunk's first token where the
/// model has it added. Fails as [`select`] does.
pub fn chunk_tokens(tokens: &[u32], options: &Options) -> Result<Vec<Vec<u32>>> {
    let taken = select(tokens.len(), options)?.taken;
    let chunks = tokens.chunks_exact(options.ctx).skip(taken.start).take(taken.len());
    let mut chunks: Vec<_> = chunks.map(<[u32]>::to_vec).collect();
    if let Some(bos) = options.bos {
        chunks.iter_mut().for_each(|chunk| chunk[0] = bos);
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_drop_the_tail_and_begin_with_bos() {
        let tokens: Vec<u32> = (0..70).collect();
        let mut options = Options { ctx: 32, bos: Some(99), ..Options::default() };
        let chunks = chunk_tokens(&tokens, &options).unwrap();
        assert_eq!(chunks.len(), 2);
        assert_eq!((chunks[0][0], chunks[0][1], chunks[1][0], chunks[1][31]), (99, 1, 99, 63));
        options.bos = None;
        options.chunks = Some(1);
        assert_eq!(chunk_tokens(&tokens, &options).unwrap(), [tokens[..32].to_vec()]);
        options.from_chunk = 1;
        assert_eq!(chunk_tokens(&tokens, &options).unwrap(), [tokens[32..64].to_vec()]);
    }

    #[test]
    fn too_little_text_is_an_error() {
        let with = |ctx| Options { ctx, ..Options::default() };
        assert!(chunk_tokens(&[1; 100], &with(101)).is_err());
        assert!(chunk_tokens(&[1; 100], &with(100)).is_ok());
        assert!(chunk_tokens(&[1; 100], &with(8)).is_err());
        let none = Options { chunks: Some(0), ..with(50) };
        assert!(chunk_tokens(&[1; 100], &none).is_err());
        let skipped = |from_chunk| Options { from_chunk, ..with(50) };
        assert!(chunk_tokens(&[1; 100], &skipped(1)).is_ok());
        let error = chunk_tokens(&[1; 100], &skipped(2)).unwrap_err().to_string();
        assert!(error.contains("2 chunks to skip") && error.contains("only 2 of 50"), "{error}");
    }

    #[test]
    fn shards_divide_what_is_wanted_without_gaps() {
        let shard = |text: &str| text.parse::<Shard>().unwrap();
        let parts: Vec<_> = (1..=4).map(|n| shard(&format!("{n}/4")).of(&(3..13))).collect();
        assert_eq!(parts, [3..5, 5..8, 8..10, 10..13]);
        assert_eq!(shard("1/1").of(&(7..9)), 7..9);
        for wrong in ["0/4", "5/4", "1/0", "1", "a/b", "-1/2", "1/2/3", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
        let with = |text| Options {
            ctx: 16,
            from_chunk: 1,
            chunks: Some(3),
            shard: Some(shard(text)),
            ..Options::default()
        };
        let second = select(100, &with("2/2")).unwrap();
        assert_eq!(second, Selection { available: 6, wanted: 1..4, taken: 2..4 });
        let error = select(100, &with("1/4")).unwrap_err().to_string();
        assert!(error.contains("shard 1/4 of 3 chunks is empty"), "{error}");
    }
}
