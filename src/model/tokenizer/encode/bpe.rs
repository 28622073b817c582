//! Byte-level byte-pair encoding of one word after another, as GPT-2's kind of vocabulary needs it.
//!
//! Words come from [`super::pretokenizer`]. Within a word the pair with the lowest merge rank is
//! joined first, the leftmost of equal ones, until no pair has a rank. Semantics: llama.cpp
//! `src/llama-vocab.cpp` (`llm_tokenizer_bpe_session`), October 2026.

use crate::base::error::{Error, Result};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// A string that a merge can join or make: an index into `BytePairEncoder::tokens`.
type Symbol = u32;

/// Words longer than this are not remembered; they hardly come again.
const CACHED_WORD: usize = 64;
/// A session forgets its words when it has this many, which bounds its memory.
const CACHED_WORDS: usize = 1 << 18;

/// Vocabulary and merges, indexed for encoding.
pub(super) struct BytePairEncoder {
    /// The token of each symbol. Symbols that only occur inside merges may have none.
    tokens: Vec<Option<u32>>,
    texts: HashMap<Box<str>, Symbol>,
    chars: [char; 256],
    /// The symbols of `chars`.
    bytes: [Symbol; 256],
    /// Rank and result of joining two symbols.
    merges: HashMap<(Symbol, Symbol), (u32, Symbol)>,
    whole_words_first: bool,
}

/// The printable stand-in that byte-level vocabularies write for each byte: itself where it is
/// printable in Latin-1, else the next code point from 256 up.
/// Source: GPT-2's `bytes_to_unicode`.
pub(super) fn byte_chars() -> [char; 256] {
    let mut next = 256u32;
    std::array::from_fn(|byte| {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable {
            byte as u32
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).expect("code points below 512 are characters")
    })
}

impl BytePairEncoder {
    /// `merges` are pairs with a space between, best first. With `whole_words_first` a word that is a
    /// token is that token, whatever the merges say.
    pub(super) fn new(
        origin: &str,
        tokens: &[String],
        merges: &[String],
        whole_words_first: bool,
    ) -> Result<BytePairEncoder> {
        let mut encoder = BytePairEncoder {
            tokens: Vec::with_capacity(tokens.len()),
            texts: HashMap::with_capacity(tokens.len()),
            chars: byte_chars(),
            bytes: [0; 256],
            merges: HashMap::with_capacity(merges.len()),
            whole_words_first,
        };
        for (id, text) in tokens.iter().enumerate() {
            let symbol = encoder.intern(text);
            encoder.tokens[symbol as usize] = Some(id as u32);
        }
        for (byte, char) in encoder.chars.into_iter().enumerate() {
            encoder.bytes[byte] = encoder.intern(char.encode_utf8(&mut [0; 4]));
        }
        for (rank, merge) in merges.iter().enumerate() {
            // The first character may itself be a space.
            let first = merge.chars().next().map_or(0, char::len_utf8);
            let Some(at) = merge[first..].find(' ').map(|at| first + at) else {
                let detail = format!("merge {rank} '{merge}' is no pair with a space between");
                return Err(Error::model(origin, detail));
            };
            let (left, right) = (&merge[..at], &merge[at + 1..]);
            let joined = encoder.intern(&format!("{left}{right}"));
            let pair = (encoder.intern(left), encoder.intern(right));
            encoder.merges.entry(pair).or_insert((rank as u32, joined));
        }
        Ok(encoder)
    }

    fn intern(&mut self, text: &str) -> Symbol {
        if let Some(&symbol) = self.texts.get(text) {
            return symbol;
        }
        let symbol = self.tokens.len() as Symbol;
        self.tokens.push(None);
        self.texts.insert(text.into(), symbol);
        symbol
    }

    /// An encoder with a memory of words; use one for a whole text.
    pub(super) fn session(&self) -> Session<'_> {
        let words = HashMap::new();
        Session { encoder: self, words, remembered: Vec::new(), merging: Merging::default() }
    }

    /// The token that is `word` itself in the printable spelling, if such words come first.
    fn whole_word(&self, word: &str) -> Option<u32> {
        if !self.whole_words_first {
            return None;
        }
        let text: String = word.bytes().map(|b| self.chars[b as usize]).collect();
        self.texts.get(text.as_str()).and_then(|&symbol| self.tokens[symbol as usize])
    }
}

/// Encodes words and remembers the short ones.
pub(super) struct Session<'a> {
    encoder: &'a BytePairEncoder,
    /// Where in `remembered` the ids of a word lie.
    words: HashMap<Box<str>, (u32, u32)>,
    remembered: Vec<u32>,
    merging: Merging,
}

impl Session<'_> {
    /// Appends the ids of `word` to `ids`.
    pub(super) fn encode_word(&mut self, word: &str, ids: &mut Vec<u32>) {
        if let Some(&(start, end)) = self.words.get(word) {
            ids.extend_from_slice(&self.remembered[start as usize..end as usize]);
            return;
        }
        let first = ids.len();
        match self.encoder.whole_word(word) {
            Some(id) => ids.push(id),
            None => self.merging.run(self.encoder, word, ids),
        }
        if word.len() <= CACHED_WORD {
            if self.words.len() >= CACHED_WORDS {
                self.words.clear();
                self.remembered.clear();
            }
            let start = self.remembered.len() as u32;
            self.remembered.extend_from_slice(&ids[first..]);
            self.words.insert(word.into(), (start, self.remembered.len() as u32));
        }
    }
}

const NONE: u32 = u32::MAX;

/// A symbol in the chain of a word that is being merged.
struct Link {
    /// `None` once it was joined to its left neighbour.
    symbol: Option<Symbol>,
    prev: u32,
    next: u32,
}

/// A pair that could be joined: rank, index of the left link, the symbols it was found for, and the
/// index of the right link. Ordered so that the lowest rank, then the leftmost, comes first.
type Candidate = Reverse<(u32, u32, (Symbol, Symbol), u32)>;

/// Buffers of the merge loop, kept between words.
#[derive(Default)]
struct Merging {
    links: Vec<Link>,
    queue: BinaryHeap<Candidate>,
}

impl Merging {
    fn run(&mut self, encoder: &BytePairEncoder, word: &str, ids: &mut Vec<u32>) {
        self.links.clear();
        self.queue.clear();
        let n = word.len() as u32;
        for (at, byte) in word.bytes().enumerate() {
            let at = at as u32;
            let (prev, next) = (at.wrapping_sub(1), if at + 1 == n { NONE } else { at + 1 });
            let symbol = Some(encoder.bytes[byte as usize]);
            self.links.push(Link { symbol, prev, next });
        }
        for left in 0..n.saturating_sub(1) {
            self.consider(encoder, left, left + 1);
        }
        while let Some(Reverse((_, left, pair, right))) = self.queue.pop() {
            let (l, r) = (&self.links[left as usize], &self.links[right as usize]);
            if (l.symbol, r.symbol) != (Some(pair.0), Some(pair.1)) {
                continue; // One of the two was joined with another neighbour meanwhile.
            }
            let (prev, next) = (l.prev, r.next);
            self.links[left as usize].symbol = Some(encoder.merges[&pair].1);
            self.links[left as usize].next = next;
            self.links[right as usize].symbol = None;
            if next != NONE {
                self.links[next as usize].prev = left;
                self.consider(encoder, left, next);
            }
            if prev != NONE {
                self.consider(encoder, prev, left);
            }
        }
        for symbol in self.links.iter().filter_map(|link| link.symbol) {
            // A symbol without a token stands for bytes the vocabulary lacks. Byte-level vocabularies
            // have all bytes; where one does not, its training dropped them too.
            ids.extend(encoder.tokens[symbol as usize]);
        }
    }

    fn consider(&mut self, encoder: &BytePairEncoder, left: u32, right: u32) {
        let symbols = (self.links[left as usize].symbol, self.links[right as usize].symbol);
        if let (Some(l), Some(r)) = symbols
            && let Some(&(rank, _)) = encoder.merges.get(&(l, r))
        {
            self.queue.push(Reverse((rank, left, (l, r), right)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|t| t.to_string()).collect()
    }

    fn encode(encoder: &BytePairEncoder, word: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        encoder.session().encode_word(word, &mut ids);
        ids
    }

    #[test]
    fn lower_ranks_merge_first_and_leftmost_of_equals() {
        let tokens = strings(&["a", "b", "ab", "ba", "aba", "Ġ", "Ġa"]);
        let merges = strings(&["a b", "Ġ a", "b a"]);
        let encoder = BytePairEncoder::new("test", &tokens, &merges, false).unwrap();
        assert_eq!(encode(&encoder, "abab"), [2, 2]);
        assert_eq!(encode(&encoder, " ab"), [5, 2], "'a b' ranks before 'Ġ a'");
        assert_eq!(encode(&encoder, "aba"), [2, 0]);
        let whole = BytePairEncoder::new("test", &tokens, &merges, true).unwrap();
        assert_eq!(encode(&whole, "aba"), [4]);
    }

    #[test]
    fn remembered_words_encode_alike() {
        let tokens = strings(&["a", "b", "ab"]);
        let encoder = BytePairEncoder::new("test", &tokens, &strings(&["a b"]), false).unwrap();
        let (mut session, mut ids) = (encoder.session(), Vec::new());
        for _ in 0..3 {
            session.encode_word("abb", &mut ids);
        }
        assert_eq!(ids, [2, 1, 2, 1, 2, 1]);
    }

    #[test]
    fn a_merge_without_a_space_is_refused() {
        let merges = strings(&["ab"]);
        let error = BytePairEncoder::new("m.gguf", &[], &merges, false).err().unwrap().to_string();
        assert!(error.contains("m.gguf") && error.contains("merge 0"), "{error}");
    }

    #[test]
    fn byte_stand_ins_are_the_known_ones() {
        let chars = byte_chars();
        assert_eq!((chars[b' ' as usize], chars[b'\n' as usize]), ('Ġ', 'Ċ'));
        assert_eq!((chars[b'a' as usize], chars[0xad]), ('a', 'Ń'));
    }
}
