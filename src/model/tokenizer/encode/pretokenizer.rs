//! Cutting text into words before byte-pair encoding: the rules behind `tokenizer.ggml.pre`.
//!
//! A rule is a list of patterns. Each cuts every piece that the previous one left into its matches and
//! the stretches between them. Patterns: llama.cpp `src/llama-vocab.cpp` (`llm_tokenizer_bpe`),
//! October 2026, where they were taken from the tokenizer.json files of the models named.
//!
//! The originals use the look-ahead `\s+(?!\S)`: white space, but not its last character if something
//! follows. The `regex` crate has no look-ahead and is linear in return, so the patterns here end in a
//! plain `\s+` and [`Whitespace`] says what to give back.

use crate::base::error::{Error, Result};
use regex::Regex;

/// What happens to a match that is white space only and is followed by something else.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Whitespace {
    /// It stays whole.
    Whole,
    /// Its last character is given back to the text that follows.
    LeaveLast,
    /// The same, unless it ends a line: it is then the match of `\s*[\r\n]+`.
    LeaveLastInLine,
}
use Whitespace::*;

type Split = (&'static str, Whitespace);

/// A pre-tokenizer and the settings that come with its name.
struct Rule {
    names: &'static [&'static str],
    splits: &'static [Split],
    /// A word that is a token is taken whole, without merging.
    whole_words_first: bool,
    /// BOS is added unless the metadata says otherwise.
    add_bos: bool,
}

const GPT2: Split =
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", LeaveLast);
const LLAMA3: Split = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    LeaveLastInLine,
);
const QWEN2: Split = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    LeaveLastInLine,
);
const QWEN35: Split = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    LeaveLastInLine,
);
// The peer approximates the upper and lower case classes of the original by "letter, but not a-z"
// and "letter, but not A-Z".
const TEKKEN: Split = (
    r"[^\r\n\p{L}\p{N}]?[\p{L}--a-z]*[\p{L}--A-Z]+|[^\r\n\p{L}\p{N}]?[\p{L}--a-z]+[\p{L}--A-Z]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    LeaveLastInLine,
);
const GPT4O: Split = (
    r"[^\r\n\p{L}\p{N}]?[\p{L}--a-z]*[\p{L}--A-Z]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{L}--a-z]+[\p{L}--A-Z]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    LeaveLastInLine,
);
const DEEPSEEK3: Split = (
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"##,
    LeaveLastInLine,
);
const BAILING: Split = (
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+",
    LeaveLastInLine,
);
const SEED_CODER: Split = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+",
    LeaveLastInLine,
);
const DEEPSEEK_LETTERS: Split = (
    r"\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+",
    Whole,
);
const CJK_HANGUL: Split = (r"[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+", Whole);
const CJK_KANA: Split = (r"[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+", Whole);
const BLOOM: Split =
    (r" ?[^(\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+", Whole);
const NUMBER: Split = (r"\p{N}", Whole);
const NUMBERS: Split = (r"\p{N}+", Whole);
const THREE_NUMBERS: Split = (r"\p{N}{1,3}", Whole);
const THREE_DIGITS: Split = (r"[0-9][0-9][0-9]", Whole);
const LINE_END: Split = (r"[\r\n]", Whole);

const fn rule(names: &'static [&'static str], splits: &'static [Split]) -> Rule {
    Rule { names, splits, whole_words_first: false, add_bos: false }
}

static RULES: &[Rule] = &[
    rule(&["default"], &[(r"[\p{P}$+<=>^~|]+", Whole), GPT2, NUMBERS, THREE_DIGITS]),
    Rule {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        splits: &[LLAMA3],
        whole_words_first: true,
        add_bos: true,
    },
    rule(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3]),
    Rule { whole_words_first: true, ..rule(&["glm4", "glm5"], &[LLAMA3]) },
    rule(
        &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        &[NUMBER, GPT2],
    ),
    rule(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
        &[GPT2],
    ),
    rule(
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        &[QWEN2],
    ),
    rule(&["qwen35"], &[QWEN35]),
    Rule { whole_words_first: true, add_bos: true, ..rule(&["tekken"], &[TEKKEN]) },
    rule(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT4O]),
    rule(
        &["deepseek-llm"],
        &[
            LINE_END,
            DEEPSEEK_LETTERS,
            (
                r"\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+",
                Whole,
            ),
            (r"\s+$", Whole),
            CJK_HANGUL,
            NUMBERS,
        ],
    ),
    rule(
        &["deepseek-coder"],
        &[LINE_END, (r"\s?\p{L}+", Whole), (r"\s?\p{P}+", Whole), CJK_HANGUL, NUMBER],
    ),
    rule(
        &["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"],
        &[THREE_NUMBERS, CJK_KANA, DEEPSEEK3],
    ),
    rule(&["falcon"], &[(r"[\p{P}$+<=>^~|`]+", Whole), GPT2, THREE_DIGITS]),
    rule(&["poro-chat", "bloom", "gpt3-finnish"], &[BLOOM]),
    rule(&["viking"], &[BLOOM, NUMBER]),
    rule(&["bailingmoe", "bailingmoe2", "llada-moe"], &[BAILING]),
    rule(&["seed-coder"], &[SEED_CODER]),
];

/// Cuts text into the words that are encoded one by one.
pub(super) struct PreTokenizer {
    splits: Vec<(Regex, Whitespace)>,
    whole_words_first: bool,
    add_bos: bool,
}

/// The names of the rule called `name`, itself included; none if it is not known.
pub(crate) fn same_rule(name: &str) -> &'static [&'static str] {
    RULES.iter().find(|rule| rule.names.contains(&name)).map_or(&[], |rule| rule.names)
}

/// Whether the rule called `name` takes words that are tokens whole, without merging.
pub(crate) fn takes_whole_words(name: &str) -> bool {
    RULES.iter().any(|rule| rule.names.contains(&name) && rule.whole_words_first)
}

/// Every name that [`PreTokenizer::named`] accepts.
pub(crate) fn names() -> Vec<&'static str> {
    RULES.iter().flat_map(|rule| rule.names).copied().collect()
}

impl PreTokenizer {
    /// The rule called `name`, or the default one; `origin` names the model in the error.
    pub(super) fn named(origin: &str, name: Option<&str>) -> Result<PreTokenizer> {
        let name = name.unwrap_or("default");
        let rule = RULES.iter().find(|rule| rule.names.contains(&name)).ok_or_else(|| {
            let known = names().join(", ");
            let detail = format!("pre-tokenizer '{name}' is not supported; known are {known}");
            Error::model(origin, detail)
        })?;
        let compile = |&(pattern, whitespace): &Split| {
            (Regex::new(pattern).expect("the patterns of RULES are valid"), whitespace)
        };
        Ok(PreTokenizer {
            splits: rule.splits.iter().map(compile).collect(),
            whole_words_first: rule.whole_words_first,
            add_bos: rule.add_bos,
        })
    }

    /// Whether a word that is a token is taken whole, without merging.
    pub(super) fn whole_words_first(&self) -> bool {
        self.whole_words_first
    }

    /// Whether BOS is added unless the metadata says otherwise.
    pub(super) fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Calls `visit` with the words of `text`, in order; together they are the text.
    pub(super) fn for_each_word(&self, text: &str, mut visit: impl FnMut(&str)) {
        cut(&self.splits, text, &mut visit);
    }
}

/// Cuts `text` by the first split, and the pieces by the rest.
fn cut(splits: &[(Regex, Whitespace)], text: &str, visit: &mut dyn FnMut(&str)) {
    let Some(((regex, whitespace), rest)) = splits.split_first() else {
        if !text.is_empty() {
            visit(text);
        }
        return;
    };
    let mut at = 0;
    while let Some(found) = regex.find_at(text, at) {
        if found.start() > at {
            cut(rest, &text[at..found.start()], visit);
        }
        let end = found.start() + kept(found.as_str(), *whitespace, found.end() < text.len());
        cut(rest, &text[found.start()..end], visit);
        at = end;
    }
    if at < text.len() {
        cut(rest, &text[at..], visit);
    }
}

/// Bytes of `found` that stay in the match, at least one character; `followed` says whether text
/// follows it.
fn kept(found: &str, whitespace: Whitespace, followed: bool) -> usize {
    let ends_line = found.ends_with(['\r', '\n']);
    let whole = whitespace == Whole || (whitespace == LeaveLastInLine && ends_line);
    if whole || !followed || !found.chars().all(char::is_whitespace) {
        return found.len();
    }
    match found.char_indices().next_back() {
        Some((0, _)) | None => found.len(),
        Some((last, _)) => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        let split = PreTokenizer::named("test", Some(name)).unwrap();
        split.for_each_word(text, |word| words.push(word.to_string()));
        words
    }

    #[test]
    fn all_rules_compile_and_lose_nothing() {
        let text =
            "It's  12345 o'clock,\n\n \u{e9}t\u{e9}\t\u{4f60}\u{597d}!? \u{1f600}  x\r\n end  ";
        for name in names() {
            assert_eq!(words(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn gpt2_leaves_the_last_space_to_the_word() {
        assert_eq!(words("gpt-2", "a   b\n\nc  "), ["a", "  ", " b", "\n", "\n", "c", "  "]);
        assert_eq!(words("gpt-2", "We'll go 123!"), ["We", "'ll", " go", " 123", "!"]);
    }

    #[test]
    fn smollm_isolates_digits_first() {
        assert_eq!(words("smollm", "in 1984."), ["in", " ", "1", "9", "8", "4", "."]);
    }

    #[test]
    fn llama3_groups_digits_and_line_ends() {
        let expected = ["DON", "'T", " ", "123", "456", "7", "  \n\n", " ", " x", "!\n"];
        assert_eq!(words("llama-bpe", "DON'T 1234567  \n\n  x!\n"), expected);
    }

    #[test]
    fn tekken_cuts_before_capitals() {
        assert_eq!(words("tekken", "camelCase 12"), ["camel", "Case", " ", "1", "2"]);
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        let error = PreTokenizer::named("m.gguf", Some("foo")).err().unwrap().to_string();
        assert!(error.contains("'foo'") && error.contains("llama-bpe"), "{error}");
    }
}
