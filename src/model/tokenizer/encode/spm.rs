//! SentencePiece-style encoding by scores, for vocabularies of GGUF's kind `llama`.
//!
//! Adjacent pieces are joined while their concatenation is a token, the highest score first, the
//! leftmost of equal ones; what stays without a token falls back to byte tokens. Semantics: llama.cpp
//! `src/llama-vocab.cpp` (`llm_tokenizer_spm_session`), October 2026.
//!
//! Long texts are cut where two neighbouring characters occur side by side in no token at all: no
//! merge can ever cross such a place, so the pieces are independent and the ids stay the same. With
//! usual vocabularies that is at nearly every space.

use crate::base::error::{Error, Result};
use crate::model::tokenizer::gguf::TokenKind;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, HashSet};

const CACHED_WORD: usize = 64;
const CACHED_WORDS: usize = 1 << 18;

/// Tokens and scores, indexed for encoding.
pub(super) struct ScoreEncoder {
    origin: String,
    ids: HashMap<Box<str>, u32>,
    scores: Vec<f32>,
    byte_ids: [Option<u32>; 256],
    unknown: Option<u32>,
    /// Characters that stand side by side within some token.
    neighbours: HashSet<(char, char)>,
}

impl ScoreEncoder {
    /// `scores` may be empty, which makes all of them zero.
    pub(super) fn new(
        origin: &str,
        tokens: &[String],
        scores: &[f32],
        kinds: &[TokenKind],
    ) -> Result<ScoreEncoder> {
        if !scores.is_empty() && scores.len() < tokens.len() {
            let detail = format!("{} token scores for {} tokens", scores.len(), tokens.len());
            return Err(Error::model(origin, detail));
        }
        if let Some(id) = scores.iter().position(|s| s.is_nan()) {
            return Err(Error::model(origin, format!("the score of token {id} is not a number")));
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        let mut neighbours = HashSet::new();
        for (id, text) in tokens.iter().enumerate() {
            ids.insert(text.as_str().into(), id as u32);
            neighbours.extend(text.chars().zip(text.chars().skip(1)));
        }
        let byte_id = |byte: usize| -> Option<u32> {
            let named = ids.get(format!("<0x{byte:02X}>").as_str());
            let char = char::from_u32(byte as u32).filter(char::is_ascii);
            named.or_else(|| ids.get(char?.to_string().as_str())).copied()
        };
        let byte_ids = std::array::from_fn(byte_id);
        let scores = if scores.is_empty() {
            vec![0.0; tokens.len()]
        } else {
            scores[..tokens.len()].to_vec()
        };
        let unknown = kinds.iter().position(|k| *k == TokenKind::Unknown).map(|id| id as u32);
        Ok(ScoreEncoder { origin: origin.to_string(), ids, scores, byte_ids, unknown, neighbours })
    }

    /// An encoder with a memory of pieces; use one for a whole text.
    pub(super) fn session(&self) -> Session<'_> {
        let (pieces, remembered) = (HashMap::new(), Vec::new());
        Session { encoder: self, pieces, remembered, merging: Merging::default() }
    }
}

/// Encodes text and remembers short pieces.
pub(super) struct Session<'a> {
    encoder: &'a ScoreEncoder,
    pieces: HashMap<Box<str>, (u32, u32)>,
    remembered: Vec<u32>,
    merging: Merging,
}

impl Session<'_> {
    /// Appends the ids of `text`, whose spaces are already written as U+2581.
    pub(super) fn encode(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let mut start = 0;
        let mut previous: Option<char> = None;
        for (at, char) in text.char_indices() {
            if let Some(previous) = previous
                && !self.encoder.neighbours.contains(&(previous, char))
            {
                self.encode_piece(&text[start..at], ids)?;
                start = at;
            }
            previous = Some(char);
        }
        if start < text.len() {
            self.encode_piece(&text[start..], ids)?;
        }
        Ok(())
    }

    fn encode_piece(&mut self, piece: &str, ids: &mut Vec<u32>) -> Result<()> {
        if let Some(&(start, end)) = self.pieces.get(piece) {
            ids.extend_from_slice(&self.remembered[start as usize..end as usize]);
            return Ok(());
        }
        let first = ids.len();
        self.merging.run(self.encoder, piece, ids)?;
        if piece.len() <= CACHED_WORD {
            if self.pieces.len() >= CACHED_WORDS {
                self.pieces.clear();
                self.remembered.clear();
            }
            let start = self.remembered.len() as u32;
            self.remembered.extend_from_slice(&ids[first..]);
            self.pieces.insert(piece.into(), (start, self.remembered.len() as u32));
        }
        Ok(())
    }
}

const NONE: usize = usize::MAX;

/// A stretch of the text in the chain that is being merged; empty once joined to its left neighbour.
struct Link {
    start: usize,
    end: usize,
    prev: usize,
    next: usize,
}

/// A pair whose concatenation is a token.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both when the pair was found; a different length now means it is outdated.
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Candidate) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

#[derive(Default)]
struct Merging {
    links: Vec<Link>,
    queue: BinaryHeap<Candidate>,
}

impl Merging {
    fn run(&mut self, encoder: &ScoreEncoder, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        self.links.clear();
        self.queue.clear();
        for (at, (start, char)) in text.char_indices().enumerate() {
            let end = start + char.len_utf8();
            let next = if end == text.len() { NONE } else { at + 1 };
            self.links.push(Link { start, end, prev: at.wrapping_sub(1), next });
        }
        for right in 1..self.links.len() {
            self.consider(encoder, text, right - 1, right);
        }
        while let Some(Candidate { left, right, len, .. }) = self.queue.pop() {
            let (l, r) = (&self.links[left], &self.links[right]);
            if l.start == l.end || r.start == r.end || r.end - l.start != len {
                continue;
            }
            let (prev, next, end) = (l.prev, r.next, r.end);
            self.links[left].end = end;
            self.links[left].next = next;
            self.links[right].end = self.links[right].start;
            if next != NONE {
                self.links[next].prev = left;
                self.consider(encoder, text, left, next);
            }
            if prev != NONE {
                self.consider(encoder, text, prev, left);
            }
        }
        for link in self.links.iter().filter(|link| link.start < link.end) {
            let piece = &text[link.start..link.end];
            match encoder.ids.get(piece) {
                Some(&id) => ids.push(id),
                None => push_bytes(encoder, piece, ids)?,
            }
        }
        Ok(())
    }

    fn consider(&mut self, encoder: &ScoreEncoder, text: &str, left: usize, right: usize) {
        let (start, end) = (self.links[left].start, self.links[right].end);
        if let Some(&id) = encoder.ids.get(&text[start..end]) {
            let score = encoder.scores[id as usize];
            // Both zeros are one score, as in a plain comparison of floats.
            let score = if score == 0.0 { 0.0 } else { score };
            self.queue.push(Candidate { score, left, right, len: end - start });
        }
    }
}

/// A character that is no token becomes its bytes, or the unknown token where bytes are no tokens.
fn push_bytes(encoder: &ScoreEncoder, piece: &str, ids: &mut Vec<u32>) -> Result<()> {
    for byte in piece.bytes() {
        match encoder.byte_ids[byte as usize].or(encoder.unknown) {
            Some(id) => ids.push(id),
            None => {
                let detail = format!("the vocabulary has no token for the byte {byte:#04x}");
                return Err(Error::model(&encoder.origin, detail));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoder(tokens: &[(&str, f32)]) -> ScoreEncoder {
        let texts: Vec<String> = tokens.iter().map(|(t, _)| t.to_string()).collect();
        let scores: Vec<f32> = tokens.iter().map(|(_, s)| *s).collect();
        ScoreEncoder::new("test", &texts, &scores, &vec![TokenKind::Normal; texts.len()]).unwrap()
    }

    fn encode(encoder: &ScoreEncoder, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        encoder.session().encode(text, &mut ids).unwrap();
        ids
    }

    #[test]
    fn higher_scores_merge_first_and_leftmost_of_equals() {
        let tokens = [("a", 0.0), ("b", 0.0), ("ab", -2.0), ("ba", -1.0), ("aba", -3.0)];
        assert_eq!(encode(&encoder(&tokens), "aba"), [4], "'ba' first, then 'a' + 'ba'");
        assert_eq!(encode(&encoder(&tokens), "abab"), [4, 1]);
        let equal = [("a", 0.0), ("aa", -1.0)];
        assert_eq!(encode(&encoder(&equal), "aaa"), [1, 0]);
    }

    #[test]
    fn characters_without_a_token_fall_back_to_bytes() {
        let tokens = [("a", 0.0), ("<0xC3>", 0.0), ("<0xA9>", 0.0)];
        assert_eq!(encode(&encoder(&tokens), "aéa"), [0, 1, 2, 0]);
        let bare = encoder(&[("a", 0.0)]);
        let error = bare.session().encode("é", &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("0xc3"), "{error}");
    }

    #[test]
    fn cutting_where_no_token_reaches_changes_nothing() {
        let tokens = [
            ("a", 0.0),
            ("b", 0.0),
            ("\u{2581}", 0.0),
            ("\u{2581}a", -1.0),
            ("ab", -2.0),
            ("ba", -3.0),
        ];
        let mut whole = encoder(&tokens);
        let text = "\u{2581}abba\u{2581}\u{2581}ab\u{2581}baab";
        let cut = encode(&whole, text);
        let all: Vec<char> = text.chars().collect();
        whole.neighbours.extend(all.iter().flat_map(|&a| all.iter().map(move |&b| (a, b))));
        assert_eq!(cut, encode(&whole, text));
    }
}
