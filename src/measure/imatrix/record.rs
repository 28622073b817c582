//! The record of what an importance matrix was computed from, so that only parts of one run are added.
//!
//! A [`Record`] is stored in the GGUF file under keys of this program, which other readers ignore. It has
//! hashes of model, text and settings, and lists the chunks that are in the sums. Not here: paths and dates;
//! shards may be computed on several machines.

use super::options::{Options, Selection};
use super::statistics::split_layer;
use crate::base::error::{Error, Result};
use crate::base::hash::hex;
use crate::formats::gguf::{Array, GgufLayout, GgufModel, Metadata, Value};
use crate::kernels::Precision;
use crate::measure::perplexity::{Likelihood, Perplexity};
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// Counted up when the keys or the meaning of the hashes change.
const VERSION: u32 = 1;
const KEY: &str = "aqueduct.imatrix.";

/// Ranges of chunks, ascending, none empty, and none that touch.
pub type ChunkRanges = Vec<Range<u32>>;

/// What an importance matrix was computed from.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// SHA-256 in hexadecimal, see [`model_hash`].
    pub model: String,
    /// SHA-256 in hexadecimal of all tokens of the text, and of the token that begins each chunk.
    pub text: String,
    /// Settings that the sums depend on, as `name = value`.
    pub settings: Vec<String>,
    /// Number of chunks that the text fills.
    pub text_chunks: u32,
    /// The chunks that all shards together take, numbered from 0 in the text.
    pub wanted: ChunkRanges,
    /// The chunks that are in the sums.
    pub covered: ChunkRanges,
    /// Likelihoods of the covered chunks, in their order.
    pub likelihoods: Vec<Likelihood>,
}

impl Record {
    /// Returns the record of a run that has not taken any chunk yet.
    pub(super) fn new(
        model: &GgufModel,
        tokens: &[u32],
        options: &Options,
        selection: &Selection,
    ) -> Result<Record> {
        let number = |n: usize| {
            let error =
                || Error::Usage(format!("{n} chunks are too many for an importance matrix"));
            u32::try_from(n).map_err(|_| error())
        };
        let precision = match options.precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        };
        Ok(Record {
            model: model_hash(model)?,
            text: text_hash(tokens, options.bos),
            settings: vec![
                format!("ctx = {}", options.ctx),
                format!("process_output = {}", options.process_output),
                format!("precision = {precision}"),
            ],
            text_chunks: number(selection.available)?,
            wanted: one(number(selection.requested.start)?..number(selection.requested.end)?),
            covered: Vec::new(),
            likelihoods: Vec::new(),
        })
    }

    /// Returns the chunks that are not in the sums yet.
    pub fn missing(&self) -> ChunkRanges {
        let mut missing = Vec::new();
        for wanted in &self.wanted {
            let mut at = wanted.start;
            for covered in &self.covered {
                if covered.end <= at || covered.start >= wanted.end {
                    continue;
                }
                if covered.start > at {
                    missing.push(at..covered.start);
                }
                at = covered.end;
            }
            if at < wanted.end {
                missing.push(at..wanted.end);
            }
        }
        missing
    }

    /// Returns the perplexity of the covered chunks; `ctx` is the matrix's chunk size.
    pub fn perplexity(&self, ctx: u32) -> Perplexity {
        Perplexity::of(&self.likelihoods, ctx as usize)
    }

    /// Returns why sums with these two records may not be added, apart from the chunks that they cover:
    /// `the text, ctx = 256 for ctx = 512`. `None` if they may.
    pub fn difference(&self, other: &Record) -> Option<String> {
        let mut parts = Vec::new();
        if self.model != other.model {
            parts.push("the model".to_string());
        }
        if self.text != other.text {
            parts.push("the text".to_string());
        }
        let new = other.settings.iter().filter(|setting| !self.settings.contains(setting));
        let old = self.settings.iter().filter(|setting| !other.settings.contains(setting));
        let joined = |settings: Vec<&String>| {
            // They come from a file, and must not control the terminal.
            let escape = |setting: &&String| setting.escape_debug().to_string();
            settings.iter().map(escape).collect::<Vec<_>>().join(", ")
        };
        let (new, old) = (joined(new.collect()), joined(old.collect()));
        if !(new.is_empty() && old.is_empty()) {
            parts.push(format!("settings ({new} for {old})"));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// Adds the record to `metadata`.
    pub(super) fn put(&self, metadata: &mut Metadata) {
        let ranges = |ranges: &ChunkRanges| {
            let ends = ranges.iter().flat_map(|range| [range.start, range.end]);
            Value::Array(Array::U32(ends.collect()))
        };
        let floats = |part: fn(&Likelihood) -> f64| {
            Value::Array(Array::F64(self.likelihoods.iter().map(part).collect()))
        };
        let mut set = |key: &str, value: Value| metadata.set(format!("{KEY}{key}"), value);
        set("version", VERSION.into());
        set("model", self.model.as_str().into());
        set("text", self.text.as_str().into());
        set("settings", Value::Array(Array::String(self.settings.clone())));
        set("text_chunks", self.text_chunks.into());
        set("wanted", ranges(&self.wanted));
        set("covered", ranges(&self.covered));
        set("nll", floats(|chunk| chunk.nll));
        set("nll_squares", floats(|chunk| chunk.squares));
    }

    /// Returns the record in `metadata` of the file `path`; `None` if there is none, or one of another
    /// version.
    ///
    /// # Errors
    /// If it is damaged.
    pub(super) fn get(
        path: &Path,
        metadata: &Metadata,
        chunk_count: u32,
    ) -> Result<Option<Record>> {
        let get = |key: &str| metadata.get(&format!("{KEY}{key}"));
        if get("version").and_then(Value::as_u64) != Some(VERSION.into()) {
            return Ok(None);
        }
        let record = || -> Option<Record> {
            let hash = |key| get(key)?.as_str().filter(|text| is_hash(text)).map(String::from);
            let floats = |key| match get(key)? {
                Value::Array(Array::F64(values)) => Some(values),
                _ => None,
            };
            let Some(Value::Array(Array::String(settings))) = get("settings") else { return None };
            let likelihood = |(&nll, &squares): (&f64, &f64)| Likelihood { nll, squares };
            let (nll, squares) = (floats("nll")?, floats("nll_squares")?);
            let record = Record {
                model: hash("model")?,
                text: hash("text")?,
                settings: settings.clone(),
                text_chunks: get("text_chunks")?.as_u64()?.try_into().ok()?,
                wanted: ranges(get("wanted")?)?,
                covered: ranges(get("covered")?)?,
                likelihoods: nll.iter().zip(squares).map(likelihood).collect(),
            };
            let chunks = count(&record.covered);
            let fits = chunks == u64::from(chunk_count)
                && chunks == nll.len() as u64
                && chunks == squares.len() as u64
                && nll.iter().chain(squares).all(|value| value.is_finite())
                && within(&record.covered, &record.wanted)
                && record.wanted.last().is_some_and(|last| last.end <= record.text_chunks);
            fits.then_some(record)
        };
        let damaged = || {
            let detail =
                format!("the keys '{KEY}*', which record what it was computed from, are damaged");
            Error::format(path, detail)
        };
        record().map(Some).ok_or_else(damaged)
    }
}

/// Returns a list of one range.
pub(super) fn one(range: Range<u32>) -> ChunkRanges {
    std::iter::once(range).collect()
}

/// Returns ranges as text, counted from 1: `1-5, 9`.
pub fn ranges_text(ranges: &[Range<u32>]) -> String {
    let one = |range: &Range<u32>| match range.end.saturating_sub(range.start) {
        1 => range.end.to_string(),
        _ => format!("{}-{}", u64::from(range.start) + 1, range.end),
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Returns the union of `ranges`, which may have any order.
pub(super) fn union(mut ranges: Vec<Range<u32>>) -> ChunkRanges {
    ranges.sort_by_key(|range| range.start);
    let mut union: ChunkRanges = Vec::new();
    for range in ranges {
        match union.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => union.push(range),
        }
    }
    union
}

/// Returns the number of chunks in `ranges`.
pub(super) fn count(ranges: &[Range<u32>]) -> u64 {
    ranges.iter().map(|range| u64::from(range.end - range.start)).sum()
}

fn within(inner: &[Range<u32>], outer: &[Range<u32>]) -> bool {
    let holds = |range: &Range<u32>| {
        outer.iter().any(|other| other.start <= range.start && range.end <= other.end)
    };
    inner.iter().all(holds)
}

/// Parses ranges that a file stores as pairs of start and end.
fn ranges(value: &Value) -> Option<ChunkRanges> {
    let Value::Array(Array::U32(ends)) = value else { return None };
    let rising = ends.windows(2).all(|pair| pair[0] < pair[1]);
    let ranges = ends.chunks(2).map(|pair| pair[0]..*pair.last().unwrap_or(&0));
    (!ends.is_empty() && ends.len().is_multiple_of(2) && rising).then(|| ranges.collect())
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Returns the SHA-256 that identifies a model, in hexadecimal. It covers names, shapes and types of
/// tensors; metadata, except `general.*` besides the architecture; and the data of vectors (norms) and of
/// the last layer. Other weights are not read, because that takes as long as a run over little text;
/// different models almost always differ in their norms or their last layer.
///
/// # Errors
/// Those of reading tensors.
pub fn model_hash(model: &GgufModel) -> Result<String> {
    let table = model.tensors.table();
    let mut infos: Vec<_> = table.infos().to_vec();
    infos.sort_by(|a, b| a.name.cmp(&b.name));
    let matters = |key: &str| key == "general.architecture" || !key.starts_with("general.");
    let pairs = model.metadata.iter().filter(|(key, _)| matters(key));
    let mut pairs: Vec<_> = pairs.map(|(key, value)| (key.to_string(), value.clone())).collect();
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    let mut metadata = Metadata::new();
    pairs.into_iter().for_each(|(key, value)| metadata.set(key, value));
    let origin = model.tensors.origin();
    let mut hasher = Sha256::new();
    // A file's header serializes exactly these.
    hasher.update(GgufLayout::new(origin, &metadata, &infos)?.header());
    let last = infos.iter().filter_map(|info| Some(split_layer(&info.name)?.0)).max();
    for info in &infos {
        let layer = split_layer(&info.name).map(|(layer, _)| layer);
        if info.shape.len() <= 1 || (layer.is_some() && layer == last) {
            let tensors = model.tensors.as_ref();
            let Some(index) = tensors.table().find(&info.name) else { continue };
            // Detects mistakes, not forgery.
            let mut hash = Xxh3::new();
            for piece in 0..tensors.pieces(index) {
                hash.update(&tensors.read_piece(index, piece)?.bytes);
            }
            hasher.update(hash.digest128().to_le_bytes());
        }
    }
    Ok(hex(hasher.finalize()))
}

fn text_hash(tokens: &[u32], bos: Option<u32>) -> String {
    let mut hasher = Sha256::new();
    // No token has the id -1.
    hasher.update(bos.map_or(-1, i64::from).to_le_bytes());
    tokens.iter().for_each(|token| hasher.update(token.to_le_bytes()));
    hex(hasher.finalize())
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
pub(super) mod tests {
    use super::*;

    /// A record of chunks of 16 tokens, each chunk's likelihood made from its number.
    pub(crate) fn record(text: u8, wanted: Range<u32>, covered: Range<u32>) -> Record {
        let likelihood =
            |chunk: u32| Likelihood { nll: f64::from(chunk) + 0.25, squares: f64::from(chunk) };
        Record {
            model: "0a".repeat(32),
            text: format!("{text:02x}").repeat(32),
            settings: vec!["ctx = 16".into(), "process_output = false".into()],
            text_chunks: 20,
            wanted: one(wanted),
            likelihoods: covered.clone().map(likelihood).collect(),
            covered: one(covered),
        }
    }

    #[test]
    fn what_is_put_among_metadata_is_got_from_them() {
        let record = record(1, 2..18, 4..9);
        let mut metadata = Metadata::new();
        record.put(&mut metadata);
        let path = Path::new("m.gguf");
        assert_eq!(Record::get(path, &metadata, 5).unwrap(), Some(record));
        assert!(Record::get(path, &metadata, 6).is_err(), "the file has another number of chunks");
        assert_eq!(Record::get(path, &Metadata::new(), 5).unwrap(), None);
        let mut newer = metadata.clone();
        newer.set("aqueduct.imatrix.version", 2u32);
        assert_eq!(Record::get(path, &newer, 5).unwrap(), None);
    }

    #[test]
    fn impossible_records_are_refused() {
        let ends = |ends: &[u32]| Value::Array(Array::U32(ends.to_vec()));
        let wrong: Vec<(&str, Value)> = vec![
            ("model", "0a".into()),
            ("text", "no hash".repeat(10).into()),
            ("settings", "ctx = 16".into()),
            ("text_chunks", 17u32.into()),
            ("wanted", ends(&[5, 18])),
            ("wanted", ends(&[2, 18, 18])),
            ("covered", ends(&[])),
            ("covered", ends(&[9, 4])),
            ("covered", ends(&[4, 4, 4, 9])),
            ("covered", ends(&[4, 10])),
            ("covered", ends(&[0, 5])),
            ("nll", Value::Array(Array::F64(vec![1.0; 4]))),
            ("nll_squares", Value::Array(Array::F64(vec![f64::NAN; 5]))),
            ("nll_squares", Value::Array(Array::F32(vec![1.0; 5]))),
        ];
        for (key, value) in wrong {
            let mut metadata = Metadata::new();
            record(1, 2..18, 4..9).put(&mut metadata);
            metadata.set(format!("{KEY}{key}"), value.clone());
            let error = Record::get(Path::new("m.gguf"), &metadata, 5).unwrap_err().to_string();
            assert!(error.contains("damaged"), "{key} {value:?}: {error}");
        }
    }

    #[test]
    fn what_is_missing_is_what_was_wanted_and_is_not_covered() {
        let with = |wanted: &[Range<u32>], covered: &[Range<u32>]| Record {
            wanted: wanted.to_vec(),
            covered: covered.to_vec(),
            ..record(1, 0..1, 0..1)
        };
        assert_eq!(with(&[0..10], &[0..10]).missing(), []);
        assert_eq!(with(&[0..10], &[2..4, 6..8]).missing(), [0..2, 4..6, 8..10]);
        assert_eq!(with(&[0..4, 8..12], &[0..2, 10..12]).missing(), [2..4, 8..10]);
        assert_eq!(ranges_text(&[0..2, 4..5, 9..20]), "1-2, 5, 10-20");
        assert_eq!(union(vec![5..9, 0..2, 2..3, 6..7]), [0..3, 5..9]);
    }

    #[test]
    fn differences_are_named() {
        let a = record(1, 0..4, 0..2);
        assert_eq!(a.difference(&record(1, 0..9, 5..6)), None);
        let mut b = record(2, 0..4, 0..2);
        b.settings[0] = "ctx = 32\u{1b}".into();
        let text = a.difference(&b).unwrap();
        assert_eq!(text, "the text, settings (ctx = 32\\u{1b} for ctx = 16)");
        b.model = "0b".repeat(32);
        assert!(a.difference(&b).unwrap().starts_with("the model, the text"));
    }
}
