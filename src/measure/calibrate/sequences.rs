//! The order in which sequences are generated.
//!
//! Sequences have numbers. A free slot gets the next one as long as those begun may not have enough tokens.
//! The result is the sequences in the order of their numbers, cut off after the requested number of tokens,
//! so it does not depend on the number of slots. Not here: drawing a token (`sampler`).

use super::Options;
use super::sampler::Sampler;
use crate::base::error::{Error, Result};
use crate::model::forward::Feed;
use crate::model::tokenizer::Role;
use rayon::prelude::*;

/// Number of tokens before a sequence may end, so that no model generates only empty sequences.
const MIN_LENGTH: usize = 16;

pub(super) struct Sequences {
    /// By number.
    all: Vec<Sequence>,
    /// Slot and number of each sequence of the current step, in the order of feeds.
    fed: Vec<(usize, usize)>,
    roles: Vec<Role>,
    /// Tokens that a sequence may begin with where there is no BOS.
    starts: Vec<u32>,
    bos: Option<u32>,
    options: Options,
}

struct Sequence {
    sampler: Sampler,
    /// Without BOS.
    tokens: Vec<u32>,
    finished: bool,
}

impl Sequences {
    /// Sequences that begin with `bos`, or with a random token that is text. `roles` has the role of each
    /// token of the vocabulary.
    pub(super) fn new(options: &Options, roles: Vec<Role>, bos: Option<u32>) -> Result<Sequences> {
        let text = (0u32..).zip(&roles).filter(|(_, role)| **role == Role::Text);
        let starts: Vec<u32> = text.map(|(id, _)| id).collect();
        if starts.is_empty() {
            return Err(Error::Usage("the vocabulary has no token that stands for text".into()));
        }
        let (all, fed, options) = (Vec::new(), Vec::new(), options.clone());
        Ok(Sequences { all, fed, roles, starts, bos, options })
    }

    /// Returns the feeds of the first step.
    pub(super) fn begin(&mut self, slots: usize) -> Vec<Feed> {
        (0..slots).filter_map(|slot| self.start(slot)).collect()
    }

    /// Begins a new sequence in `slot`, if one is needed.
    fn start(&mut self, slot: usize) -> Option<Feed> {
        if self.promised() >= self.options.tokens {
            return None;
        }
        let number = self.all.len();
        let mut sampler = Sampler::new(self.options.sampling, self.options.seed, number as u64);
        let (token, tokens) = match self.bos {
            Some(bos) => (bos, Vec::new()),
            None => {
                let token = self.starts[sampler.index(self.starts.len())];
                (token, vec![token])
            }
        };
        self.all.push(Sequence { sampler, tokens, finished: false });
        self.fed.push((slot, number));
        Some(Feed { slot, token, begins: true })
    }

    /// Takes the logits of the tokens fed last and returns what to feed next; nothing once there are enough
    /// tokens.
    pub(super) fn step(&mut self, logits: &[f32]) -> Vec<Feed> {
        let fed = std::mem::take(&mut self.fed);
        let mut rows: Vec<Option<&[f32]>> = vec![None; self.all.len()];
        for (&(_, number), row) in fed.iter().zip(logits.chunks_exact(self.roles.len())) {
            rows[number] = Some(row);
        }
        let (roles, limit) = (&self.roles, self.options.length);
        self.all.par_iter_mut().zip(rows).for_each(|(sequence, row)| {
            if let Some(row) = row {
                sequence.grow(row, roles, limit);
            }
        });
        if self.covered() >= self.options.tokens {
            return Vec::new();
        }
        let mut feeds = Vec::with_capacity(fed.len());
        for (slot, number) in fed {
            let sequence = &self.all[number];
            match sequence.tokens.last() {
                Some(&token) if !sequence.finished => {
                    feeds.push(Feed { slot, token, begins: false });
                    self.fed.push((slot, number));
                }
                _ => feeds.extend(self.start(slot)),
            }
        }
        feeds
    }

    /// Returns the number of tokens of all sequences.
    pub(super) fn written(&self) -> usize {
        self.all.iter().map(|sequence| sequence.tokens.len()).sum()
    }

    /// Returns the number of tokens once the sequences begun are finished, if none ends early.
    fn promised(&self) -> usize {
        let full = |s: &Sequence| if s.finished { s.tokens.len() } else { self.options.length };
        self.all.iter().map(full).sum()
    }

    /// Returns the number of tokens of the sequences up to and including the first unfinished one.
    fn covered(&self) -> usize {
        let done = self.all.iter().take_while(|sequence| sequence.finished).count();
        self.all.iter().take(done + 1).map(|sequence| sequence.tokens.len()).sum()
    }

    /// Returns the tokens of each sequence, cut off after the requested number.
    pub(super) fn finish(self) -> Vec<Vec<u32>> {
        let mut left = self.options.tokens;
        let mut kept = Vec::new();
        for mut sequence in self.all {
            sequence.tokens.truncate(left);
            left -= sequence.tokens.len();
            kept.push(sequence.tokens);
            if left == 0 {
                break;
            }
        }
        kept
    }
}

impl Sequence {
    /// Draws the next token; one that is not text ends the sequence.
    fn grow(&mut self, logits: &[f32], roles: &[Role], limit: usize) {
        let may_end = self.tokens.len() >= MIN_LENGTH;
        let token = self.sampler.pick(logits, |id| match roles[id as usize] {
            Role::Text => true,
            Role::Control => may_end,
            Role::Nothing => false,
        });
        if roles[token as usize] == Role::Text {
            self.tokens.push(token);
        } else {
            self.finished = true;
        }
        self.finished |= self.tokens.len() >= limit;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Sampling;
    use super::*;
    use crate::kernels::Precision;

    /// Ten tokens of text, and one that ends.
    fn roles() -> Vec<Role> {
        let mut roles = vec![Role::Text; 10];
        roles.push(Role::Control);
        roles
    }

    fn written(slots: usize, tokens: usize, end: f32, bos: Option<u32>) -> Vec<Vec<u32>> {
        let (sampling, precision) = (Sampling::default(), Precision::F32);
        let options = Options { tokens, length: 40, seed: 5, sampling, precision, memory: 0 };
        let mut sequences = Sequences::new(&options, roles(), bos).unwrap();
        let mut feeds = sequences.begin(slots);
        while !feeds.is_empty() {
            assert!(feeds.len() <= slots);
            // What comes next depends on the token before, as with a model.
            let row = |feed: &Feed| {
                let mut row = vec![0.0; 11];
                row[(feed.token as usize + 1) % 10] = 2.0;
                row[10] = end;
                row
            };
            let logits: Vec<f32> = feeds.iter().flat_map(row).collect();
            feeds = sequences.step(&logits);
        }
        sequences.finish()
    }

    #[test]
    fn what_is_written_does_not_depend_on_the_slots() {
        for (end, bos) in [(1.0, None), (-20.0, None), (0.5, Some(10))] {
            let one = written(1, 333, end, bos);
            assert_eq!(one.iter().map(Vec::len).sum::<usize>(), 333);
            for slots in [2, 7, 64] {
                assert_eq!(written(slots, 333, end, bos), one, "{slots} slots, end {end}");
            }
            let (last, others) = one.split_last().unwrap();
            assert!(
                !last.is_empty() && others.iter().all(|s| (MIN_LENGTH..=40).contains(&s.len()))
            );
            assert!(others.iter().any(|s| s.len() < 40) != (end < -1.0));
        }
    }

    #[test]
    fn a_vocabulary_without_text_is_refused() {
        let (sampling, precision) = (Sampling::default(), Precision::F32);
        let options = Options { tokens: 9, length: 9, seed: 0, sampling, precision, memory: 0 };
        assert!(Sequences::new(&options, vec![Role::Control, Role::Nothing], None).is_err());
    }
}
