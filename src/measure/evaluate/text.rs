//! The tokens that a model is evaluated on, in chunks.

use crate::base::error::{Error, Result};
use crate::measure::tokens;
use std::ops::Range;

/// The smallest chunk in which a token counts: one before, one that predicts, one that is predicted.
const MIN_CTX: usize = 3;

/// Whole chunks of tokens. The tokens in the second half of each chunk count, which have at least half a
/// chunk before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    ctx: usize,
    /// `ctx` tokens for each chunk, as the tokenizer made them.
    tokens: Vec<u32>,
}

impl Text {
    /// Cuts `tokens` into at most `limit` chunks of `ctx`; the rest is dropped.
    ///
    /// # Errors
    /// If there is not enough text for one chunk, or a chunk is too small.
    pub fn new(mut tokens: Vec<u32>, ctx: usize, limit: Option<usize>) -> Result<Text> {
        check_ctx(ctx)?;
        let chunks = (tokens.len() / ctx).min(limit.unwrap_or(usize::MAX));
        if tokens.len() < ctx {
            let n = tokens.len();
            return Err(Error::Usage(format!(
                "the text has {n} tokens, which do not fill one chunk of {ctx}; give more text or a \
                 smaller context"
            )));
        }
        if chunks == 0 {
            return Err(Error::Usage("no chunks to evaluate on".into()));
        }
        tokens.truncate(chunks * ctx);
        Ok(Text { ctx, tokens })
    }

    /// Returns the number of tokens in a chunk.
    pub fn ctx(&self) -> usize {
        self.ctx
    }

    /// Returns all tokens: whole chunks.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Returns the number of chunks.
    pub fn n_chunks(&self) -> usize {
        self.tokens.len() / self.ctx
    }

    /// Returns the positions in a chunk whose logits count; each predicts the token after it. The last
    /// position is left out, because that token belongs to the next chunk.
    pub fn counted(&self) -> Range<usize> {
        tokens::counted(self.ctx)
    }

    /// Returns the chunks as models read them: `bos` replaces each chunk's first token.
    pub fn chunks(&self, bos: Option<u32>) -> Vec<Vec<u32>> {
        tokens::cut(&self.tokens, self.ctx, bos)
    }

    /// Returns the tokens that `count` positions of a chunk from `position` on predict.
    pub(super) fn targets(&self, chunk: usize, position: usize, count: usize) -> &[u32] {
        &self.tokens[chunk * self.ctx + position + 1..][..count]
    }
}

fn check_ctx(ctx: usize) -> Result<()> {
    if ctx < MIN_CTX || i32::try_from(ctx).is_err() {
        return Err(Error::Usage(format!(
            "a context of {ctx} tokens; evaluation needs {MIN_CTX} or more"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_drop_the_tail_and_count_the_second_half() {
        let text = Text::new((0..70).collect(), 32, None).unwrap();
        assert_eq!((text.n_chunks(), text.tokens().len()), (2, 64));
        assert_eq!(text.counted(), 16..31);
        assert_eq!(text.targets(1, 30, 1), [63], "the last token of the chunk");
        let chunks = text.chunks(Some(99));
        assert_eq!((chunks[0][0], chunks[0][1], chunks[1][0], chunks[1][31]), (99, 1, 99, 63));
        assert_eq!(text.tokens()[32], 32, "the text itself keeps what BOS takes the place of");
        assert_eq!(Text::new((0..70).collect(), 32, Some(1)).unwrap().n_chunks(), 1);
        assert_eq!(Text::new((0..9).collect(), 3, None).unwrap().counted(), 1..2);
    }

    #[test]
    fn too_little_text_is_an_error() {
        let error = |ctx, limit| Text::new(vec![1; 100], ctx, limit).unwrap_err().to_string();
        assert!(error(101, None).contains("100 tokens"));
        assert!(error(2, None).contains("3 or more"));
        assert!(error(50, Some(0)).contains("no chunks"));
        assert!(Text::new(vec![1; 100], 100, None).is_ok());
    }
}
