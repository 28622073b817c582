//! Texts as models read them: tokenized, joined into one sequence and cut into chunks.
//!
//! Importance matrices and evaluation share these functions, so both count the same tokens.
//! Not here: which chunks a run takes (`imatrix`, `evaluate`).

use crate::base::error::Result;
use crate::model::tokenizer::{TextSequence, Tokenizer};
use std::ops::Range;

/// The tokens of each of `texts`, with BOS before each text where the model adds it. With
/// `parse_special`, control tokens that a text spells out become their ids.
pub(super) fn tokenize(
    tokenizer: &Tokenizer,
    texts: &[String],
    parse_special: bool,
) -> Result<Vec<Vec<u32>>> {
    texts.iter().map(|text| tokenizer.encode_document(text, parse_special)).collect()
}

/// The token that replaces the first one of each chunk: BOS where the model adds it.
pub(super) fn chunk_start(tokenizer: &Tokenizer) -> Option<u32> {
    tokenizer.bos_id().filter(|_| tokenizer.add_bos())
}

/// Joins `texts` into one sequence: one after the other, or in turns of `ctx` tokens where the number
/// of chunks is `limited`, so that each text gets its share of them.
pub(super) fn join(texts: &[Vec<u32>], ctx: usize, limited: bool) -> TextSequence {
    match limited && texts.len() > 1 {
        true => TextSequence::in_turns(texts, ctx),
        false => TextSequence::in_order(texts),
    }
}

/// Cuts `tokens` into chunks of `ctx` and drops the rest. `start` replaces each chunk's first token.
pub(super) fn cut(tokens: &[u32], ctx: usize, start: Option<u32>) -> Vec<Vec<u32>> {
    let mut chunks: Vec<_> = tokens.chunks_exact(ctx).map(<[u32]>::to_vec).collect();
    if let Some(start) = start {
        chunks.iter_mut().for_each(|chunk| chunk[0] = start);
    }
    chunks
}

/// The positions in a chunk of `ctx` tokens whose logits count: those of the second half, which have at
/// least half a chunk before them. The last position is left out; it predicts the next chunk's token.
pub(super) fn counted(ctx: usize) -> Range<usize> {
    ctx / 2..ctx - 1
}
