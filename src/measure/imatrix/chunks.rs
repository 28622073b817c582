//! From texts to the chunks of tokens that a run takes: what is skipped, how many at most, which
//! shard of them.

use super::collector::MIN_ROWS;
use super::options::{Options, Selection};
use crate::base::error::{Error, Result};
use crate::measure::tokens;
use crate::model::tokenizer::Tokenizer;

/// The tokens of `texts` one after the other, each with BOS before it where the model adds it, and the
/// token for [`Options::bos`]. With `parse_special`, control tokens that a text spells out become their
/// ids.
///
/// # Errors
/// Those of the tokenizer.
pub fn tokenize(
    tokenizer: &Tokenizer,
    texts: &[String],
    parse_special: bool,
) -> Result<(Vec<u32>, Option<u32>)> {
    let texts = tokens::tokenize(tokenizer, texts, parse_special)?;
    Ok((texts.concat(), tokens::chunk_start(tokenizer)))
}

/// The tokens of a text, and its name.
#[derive(Clone, Debug)]
pub struct NamedTokens {
    /// The name that the importance matrix records.
    pub name: String,
    /// The tokens of the whole text.
    pub tokens: Vec<u32>,
}

/// Tokenizes each text separately, under its name; otherwise as [`tokenize`].
///
/// # Errors
/// Those of the tokenizer.
pub fn named_tokens(
    tokenizer: &Tokenizer,
    names: &[String],
    texts: &[String],
    parse_special: bool,
) -> Result<(Vec<NamedTokens>, Option<u32>)> {
    let texts = tokens::tokenize(tokenizer, texts, parse_special)?;
    let named = |(name, tokens): (&String, _)| NamedTokens { name: name.clone(), tokens };
    let named = names.iter().zip(texts).map(named).collect();
    Ok((named, tokens::chunk_start(tokenizer)))
}

/// Joins `texts` into one sequence, and sets [`Options::datasets`] to the names of those that a run with
/// `options` reads.
///
/// Texts follow one another. Where the number of chunks is limited they take turns, so that each has its
/// share of the chunks.
///
/// # Errors
/// As [`chunk_tokens`].
pub fn arrange(texts: Vec<NamedTokens>, options: &mut Options) -> Result<Vec<u32>> {
    let (names, tokens): (Vec<_>, Vec<_>) =
        texts.into_iter().map(|text| (text.name, text.tokens)).unzip();
    let sequence = tokens::join(&tokens, options.ctx, options.chunks.is_some());
    let requested = select(sequence.tokens.len(), options)?.requested;
    let read = sequence.texts_within(requested.start * options.ctx..requested.end * options.ctx);
    options.datasets = read.into_iter().map(|number| names[number].clone()).collect();
    Ok(sequence.tokens)
}

/// Selects the chunks that a run with `options` takes of a text of `tokens` tokens. The rest of the text
/// that does not fill a chunk is dropped.
///
/// # Errors
/// If the text does not fill one chunk, a chunk is too small, or nothing is left to take.
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
    let requested = first..first.saturating_add(limit).min(available);
    let taken = options.shard.map_or(requested.clone(), |shard| shard.of(&requested));
    if taken.is_empty() {
        let (shard, chunks) = (options.shard.expect("only a shard can be empty"), requested.len());
        return usage(format!(
            "shard {shard} of {chunks} chunks is empty; divide them into {chunks} shards at the most"
        ));
    }
    Ok(Selection { available, requested, taken })
}

/// Cuts the chunks that [`select`] takes from `tokens`; [`Options::bos`] replaces each chunk's first
/// token.
///
/// # Errors
/// As [`select`].
pub fn chunk_tokens(tokens: &[u32], options: &Options) -> Result<Vec<Vec<u32>>> {
    let taken = select(tokens.len(), options)?.taken;
    let taken = &tokens[taken.start * options.ctx..taken.end * options.ctx];
    Ok(tokens::cut(taken, options.ctx, options.bos))
}

#[cfg(test)]
mod tests {
    use super::super::options::Shard;
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
    fn shards_divide_the_chunks_without_gaps() {
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
        assert_eq!(second, Selection { available: 6, requested: 1..4, taken: 2..4 });
        let error = select(100, &with("1/4")).unwrap_err().to_string();
        assert!(error.contains("shard 1/4 of 3 chunks is empty"), "{error}");
    }
}
