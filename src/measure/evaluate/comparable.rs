//! Checks that models can be compared token by token: the same vocabulary, and the same tokens of the text.

use super::{Options, Reference, Subject, Text};
use crate::base::error::{Error, Result};
use crate::base::progress::Progress;
use crate::kernels::Precision;
use crate::measure::tokens::{chunk_start, join, tokenize};
use crate::model::forward;
use crate::model::tokenizer::{TextSequence, Tokenizer};

/// A model that can be evaluated.
pub(super) struct Prepared<'a> {
    pub subject: &'a Subject,
    pub tokenizer: Tokenizer,
    /// Number of logits at a position.
    pub n_vocab: usize,
    /// Precision of products with weights.
    pub precision: Precision,
    /// Bytes of memory that the whole process may take.
    pub memory: u64,
}

impl Prepared<'_> {
    pub(super) fn new<'s>(subject: &'s Subject, options: &Options) -> Result<Prepared<'s>> {
        let model = &subject.model;
        let n_vocab = forward::check(model)?;
        let tokenizer = Tokenizer::from_metadata(model.origin(), &model.metadata)?;
        if tokenizer.n_vocab() > n_vocab {
            let detail = format!(
                "{} tokens, and logits of {n_vocab}: the vocabulary is not the embedding's",
                tokenizer.n_vocab()
            );
            return Err(Error::model(model.origin(), detail));
        }
        let Options { precision, memory, .. } = *options;
        Ok(Prepared { subject, tokenizer, n_vocab, precision, memory })
    }

    /// Returns the token that begins each chunk, if the model adds one.
    pub(super) fn bos(&self) -> Option<u32> {
        chunk_start(&self.tokenizer)
    }

    /// Returns the text as this model reads it.
    pub(super) fn text(&self, options: &Options) -> Result<Text> {
        let texts = tokenize(&self.tokenizer, &options.texts, false)?;
        let ctx = options.ctx.unwrap_or(super::DEFAULT_CTX);
        let sequence = join(&texts, ctx, options.chunks.is_some());
        Text::new(sequence.tokens, ctx, options.chunks)
    }

    fn origin(&self) -> &str {
        self.subject.model.origin()
    }

    fn tokens(&self) -> &[String] {
        self.subject.model.metadata.strings("tokenizer.ggml.tokens").unwrap_or_default()
    }

    fn check_size(&self, reference: &str, n_vocab: usize) -> Result<()> {
        if self.n_vocab == n_vocab {
            return Ok(());
        }
        let detail = format!(
            "logits of {} tokens, where the reference, {reference}, has {n_vocab}; only models with one \
             vocabulary can be compared",
            self.n_vocab
        );
        Err(Error::model(self.origin(), detail))
    }

    /// Fails unless this model's tokens of the texts begin with `expected`, in order or in turns of `ctx` tokens.
    fn check_text(
        &self,
        reference: &str,
        texts: &[String],
        expected: &[u32],
        ctx: Option<usize>,
    ) -> Result<()> {
        let texts = tokenize(&self.tokenizer, texts, false)?;
        let in_turns = ctx.map(|ctx| TextSequence::in_turns(&texts, ctx).tokens);
        if in_turns.is_some_and(|tokens| tokens.starts_with(expected)) {
            return Ok(());
        }
        let tokens = texts.concat();
        let Some(at) = expected.iter().enumerate().position(|(i, t)| tokens.get(i) != Some(t))
        else {
            return Ok(());
        };
        let show = |token: &u32| match self.tokens().get(*token as usize) {
            Some(text) => format!("{token} ({text:?})"),
            None => token.to_string(),
        };
        let here = tokens.get(at).map_or("missing".to_string(), show);
        let detail = format!(
            "token {at} of the text is {here}, for the reference, {reference}, it is {}; give the text \
             that the reference read, to models with one tokenizer",
            show(&expected[at])
        );
        Err(Error::model(self.origin(), detail))
    }
}

/// Fails if a model cannot be compared with `base` on the text. Warns of differences that may be intended.
pub(super) fn check_with_model(
    prepared: &[Prepared<'_>],
    base: &Prepared<'_>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<()> {
    let name = &base.subject.name;
    let tokens = tokenize(&base.tokenizer, &options.texts, false)?.concat();
    for one in prepared {
        one.check_size(name, base.n_vocab)?;
        one.check_text(name, &options.texts, &tokens, None)?;
        if let Some((differing, example)) = differing_tokens(one, base) {
            progress.warn(&format!(
                "{}: {differing} tokens are spelled differently than in {name}, {example}; their \
                 probabilities are compared nevertheless",
                one.subject.name
            ));
        }
        if one.bos() != base.bos() {
            let say = |bos: Option<u32>| bos.map_or("no BOS".into(), |id| format!("BOS {id}"));
            progress.warn(&format!(
                "{}: chunks begin with {}, those of {name} with {}",
                one.subject.name,
                say(one.bos()),
                say(base.bos())
            ));
        }
    }
    Ok(())
}

/// Fails if a model cannot be compared with a file of log-probabilities.
pub(super) fn check_with_file(
    prepared: &[Prepared<'_>],
    reference: &Reference,
    text: &Text,
    texts: &[String],
) -> Result<()> {
    let name = reference.origin();
    for one in prepared {
        one.check_size(&name, reference.n_vocab())?;
        if !texts.is_empty() {
            one.check_text(&name, texts, text.tokens(), Some(text.ctx()))?;
        }
    }
    Ok(())
}

/// Warns if perplexities, which are for each token, belong to different tokens.
pub(super) fn warn_of_vocabularies(prepared: &[Prepared<'_>], progress: &dyn Progress) {
    let Some((first, rest)) = prepared.split_first() else { return };
    for other in rest.iter().filter(|other| other.tokens() != first.tokens()) {
        progress.warn(&format!(
            "{} and {} have different vocabularies: perplexities, which are per token, do not show \
             which of them is better",
            first.subject.name, other.subject.name
        ));
    }
}

/// Returns how many tokens differ between two vocabularies, and the first that does.
fn differing_tokens(one: &Prepared<'_>, base: &Prepared<'_>) -> Option<(usize, String)> {
    let pairs = one.tokens().iter().zip(base.tokens()).enumerate();
    let mut differing = pairs.filter(|(_, (a, b))| a != b);
    let (id, (a, b)) = differing.next()?;
    Some((differing.count() + 1, format!("token {id} {a:?} for {b:?}")))
}
