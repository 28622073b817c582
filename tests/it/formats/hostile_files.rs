//! Files that lie: one clear error each, no panic. The hostile bytes are built here.

use crate::support::files::{assert_error, entries};
use crate::support::folders;
use crate::support::folders::sharded;
use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::{Checkpoint, SafetensorsFile};
use aqueduct::formats::gguf;
use std::fs;
use std::path::Path;

/// Builds GGUF bytes piece by piece, without any check.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn new(version: u32, n_tensors: u64, n_entries: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(version).u64(n_tensors).u64(n_entries)
    }

    fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(self, v: u32) -> Raw {
        self.bytes(&v.to_le_bytes())
    }

    fn u64(self, v: u64) -> Raw {
        self.bytes(&v.to_le_bytes())
    }

    fn string(self, text: &str) -> Raw {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    fn tensor(self, name: &str, ne: &[u64], type_id: u32, offset: u64) -> Raw {
        let raw = self.string(name).u32(ne.len() as u32);
        ne.iter().fold(raw, |raw, &d| raw.u64(d)).u32(type_id).u64(offset)
    }

    /// Pads to 32 bytes and appends `len` bytes of data.
    fn data(mut self, len: usize) -> Raw {
        self.0.resize(self.0.len().next_multiple_of(32) + len, 7);
        self
    }

    #[track_caller]
    fn assert_refused(&self, parts: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hostile.gguf");
        fs::write(&path, &self.0).unwrap();
        let parts: Vec<_> = ["hostile.gguf"].iter().chain(parts).copied().collect();
        assert_error(gguf::open(&path), &parts);
    }
}

/// A good file with one entry of each kind.
fn good_gguf() -> Raw {
    Raw::new(3, 2, 3)
        .string("general.architecture")
        .u32(8)
        .string("llama")
        .string("tokens")
        .u32(9)
        .u32(8)
        .u64(2)
        .string("<s>")
        .string("")
        .string("eps")
        .u32(6)
        .bytes(&1e-5f32.to_le_bytes())
        .tensor("a", &[8, 2], 0, 0)
        .tensor("b", &[32], 2, 64)
        .data(64 + 18)
}

#[test]
fn truncated_gguf_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("short.gguf");
    let good = good_gguf().0;
    fs::write(&path, &good).unwrap();
    gguf::open(&path).unwrap();
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).unwrap();
        assert_error(gguf::open(&path), &["short.gguf"]);
    }
}

#[test]
fn mutated_gguf_never_panics() {
    // A fixed sequence (xorshift64), so that a failure repeats.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let good = good_gguf().0;
    let (mut refused, mut accepted) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] ^= 1 << random(8),
                2 => bytes[at] = 0xff,
                _ => bytes.truncate(at.max(1)),
            }
        }
        match gguf::GgufHeader::parse(Path::new("mutated.gguf"), &bytes) {
            Ok(header) => {
                for (info, offset) in header.tensors.iter().zip(&header.offsets) {
                    assert!(offset + info.bytes().unwrap() as u64 <= bytes.len() as u64);
                }
                accepted += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 5_000 && accepted > 1_000, "{refused} refused, {accepted} accepted");
}

#[test]
fn gguf_versions_and_magic() {
    for (version, part) in
        [(0, "version 0"), (1, "version 1"), (4, "version 4"), (3 << 24, "big-endian")]
    {
        Raw::new(version, 0, 0).assert_refused(&[part]);
    }
    Raw(b"GGML\x03\0\0\0".to_vec()).assert_refused(&["not a GGUF file"]);
    Raw(Vec::new()).assert_refused(&["the file is empty"]);
}

#[test]
fn gguf_absurd_lengths() {
    let huge = u64::MAX;
    Raw::new(3, huge, 0).data(99).assert_refused(&["tensors cannot be", "offset"]);
    Raw::new(3, 0, huge).data(99).assert_refused(&["entries cannot be"]);
    Raw::new(3, 0, 1 << 40).data(99).assert_refused(&["entries cannot be"]);
    let entry = || Raw::new(3, 0, 1).string("key");
    Raw::new(3, 0, 1).u64(huge).data(64).assert_refused(&["more than a string may have"]);
    Raw::new(3, 0, 1).u64(1 << 20).data(64).assert_refused(&["truncated"]);
    entry().u32(8).u64(huge).data(64).assert_refused(&["'key'", "more than a string may have"]);
    for element in [0, 6, 7, 8, 12] {
        let array = entry().u32(9).u32(element);
        array.clone().u64(huge).data(64).assert_refused(&["'key'", "more than an array may have"]);
        array.u64(1 << 30).data(64).assert_refused(&["'key'", "truncated"]);
    }
}

#[test]
fn gguf_metadata_that_no_reader_takes() {
    let one = || Raw::new(3, 0, 1);
    one().string("").u32(4).u32(0).data(9).assert_refused(&["empty"]);
    one().string("k").u32(13).u64(0).data(9).assert_refused(&["'k'", "unknown type 13"]);
    one().string("k").u32(9).u32(13).u64(1).data(9).assert_refused(&["'k'", "unknown type 13"]);
    one().string("k").u32(9).u32(9).u64(1).data(9).assert_refused(&["'k'", "array of arrays"]);
    one().string("k").u32(7).bytes(&[2]).data(9).assert_refused(&["not a boolean"]);
    one().u64(2).bytes(b"\xff\xfe").u32(4).u32(0).data(9).assert_refused(&["UTF-8"]);
    let twice = Raw::new(3, 0, 2).string("k").u32(4).u32(0).string("k").u32(4).u32(0);
    twice.data(9).assert_refused(&["'k'", "twice"]);
    for alignment in [0, 3, 48] {
        let raw = one().string("general.alignment").u32(4).u32(alignment).data(64);
        raw.assert_refused(&["general.alignment", "power of two"]);
    }
}

#[test]
fn gguf_tensors_that_cannot_be() {
    let one = |name: &str, ne: &[u64], type_id| Raw::new(3, 1, 0).tensor(name, ne, type_id, 0);
    let refuse = |raw: Raw, parts: &[&str]| raw.data(4096).assert_refused(parts);
    refuse(one(&"n".repeat(64), &[8], 0), &["64 bytes"]);
    refuse(one("t", &[1, 1, 1, 1, 1], 0), &["'t'", "5 dimensions"]);
    refuse(one("t", &[u64::MAX], 0), &["'t'", "negative"]);
    refuse(one("t", &[1 << 32, 1 << 32], 0), &["'t'", "does not fit"]);
    refuse(one("t", &[1 << 31, 1 << 31], 0), &["'t'", "does not fit"]);
    refuse(one("t", &[1 << 40], 0), &["'t'", "truncated"]);
    refuse(one("t", &[33], 2), &["'t'", "does not fit type Q4_0"]);
    refuse(one("t", &[8], 4), &["'t'", "unknown type 4"]);
    refuse(one("t", &[8], u32::MAX), &["'t'", "unknown type"]);
    let twice = Raw::new(3, 2, 0).tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32);
    refuse(twice, &["'t'", "twice"]);
}

#[test]
fn gguf_offsets_that_overlap_or_leave_holes() {
    for offset in [0, 31, 33, 96, u64::MAX, u64::MAX - 31] {
        let raw = Raw::new(3, 2, 0).tensor("a", &[16], 0, 0).tensor("b", &[8], 0, offset);
        raw.data(4096).assert_refused(&["'b'", &offset.to_string(), "where 64 is required"]);
    }
    let short = Raw::new(3, 1, 0).tensor("a", &[16], 0, 0).data(63);
    short.assert_refused(&["'a'", "64 bytes", "truncated"]);
}

#[test]
fn gguf_shards_that_claim_nonsense() {
    for (no, count) in [(5u64, 3u64), (0, 100_000), (0, u64::MAX)] {
        let raw = Raw::new(3, 0, 2).string("split.no").u32(10).u64(no).string("split.count");
        raw.u32(10).u64(count).data(0).assert_refused(&["claims to be shard"]);
    }
}

#[test]
fn gguf_of_an_undecodable_type_lists_and_only_decoding_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let raw = Raw::new(3, 1, 0).tensor("t", &[256], DType::Q8_K.id(), 0).data(292);
    fs::write(&path, raw.0).unwrap();
    let model = gguf::open(&path).unwrap();
    assert_eq!(model.tensors.table().infos()[0].dtype, DType::Q8_K);
    assert_eq!(model.tensors.read(0).unwrap().bytes.len(), 292);
    assert!(model.tensors.read(0).unwrap().to_f32().is_err());
}

// --- safetensors ---

fn raw_safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 1);
    bytes
}

#[track_caller]
fn assert_safetensors_refused(bytes: &[u8], parts: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.safetensors");
    fs::write(&path, bytes).unwrap();
    let parts: Vec<_> = ["hostile.safetensors"].iter().chain(parts).copied().collect();
    assert_error(SafetensorsFile::open(&path), &parts);
}

const GOOD_HEADER: &str = r#"{"__metadata__":{"format":"pt"},
    "a":{"dtype":"F16","shape":[2,4],"data_offsets":[0,16]},
    "b":{"dtype":"F32","shape":[4],"data_offsets":[16,32]}}"#;

#[test]
fn truncated_safetensors_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("short.safetensors");
    let good = raw_safetensors(GOOD_HEADER, 32);
    fs::write(&path, &good).unwrap();
    SafetensorsFile::open(&path).unwrap();
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).unwrap();
        assert_error(SafetensorsFile::open(&path), &["short.safetensors"]);
    }
    assert_safetensors_refused(&good[..good.len() - 1], &["'b'", "truncated"]);
}

#[test]
fn safetensors_absurd_lengths() {
    for len in [u64::MAX, u64::MAX - 7, 1 << 40, 100_000_001] {
        let mut bytes = raw_safetensors(GOOD_HEADER, 32);
        bytes[..8].copy_from_slice(&len.to_le_bytes());
        assert_safetensors_refused(&bytes, &[&len.to_string(), "header"]);
    }
    let header = |shape: &str, offsets: &str| {
        format!(r#"{{"t":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let refuse = |shape, offsets, parts: &[&str]| {
        assert_safetensors_refused(&raw_safetensors(&header(shape, offsets), 32), parts);
    };
    refuse("[4294967296,4294967296]", "[0,32]", &["'t'", "not possible"]);
    refuse("[4611686018427387904]", "[0,32]", &["'t'", "not possible"]);
    refuse("[1000000]", "[0,4000000]", &["'t'", "truncated"]);
    refuse("[1000000]", "[0,32]", &["'t'", "do not hold"]);
    refuse("[8]", "[32,0]", &["'t'", "do not hold"]);
    refuse("[8]", "[18446744073709551615,0]", &["'t'", "do not hold"]);
    refuse("[-8]", "[0,32]", &["header is not valid"]);
    refuse("[99999999999999999999999]", "[0,32]", &["header is not valid"]);
}

#[test]
fn safetensors_offsets_that_overlap_or_leave_holes() {
    let header = |b: &str| GOOD_HEADER.replace("[16,32]", b);
    let refuse = |header: String, data, parts: &[&str]| {
        assert_safetensors_refused(&raw_safetensors(&header, data), parts);
    };
    refuse(header("[8,24]"), 24, &["'b'", "offset 8", "overlap"]);
    refuse(header("[0,16]"), 16, &["'b'", "offset 0", "overlap"]);
    refuse(header("[20,36]"), 36, &["'b'", "4 bytes before"]);
    refuse(GOOD_HEADER.to_string(), 40, &["8 bytes at the end"]);
}

#[test]
fn safetensors_headers_that_are_no_headers() {
    let refuse = |header: &str, parts: &[&str]| {
        assert_safetensors_refused(&raw_safetensors(header, 32), parts);
    };
    refuse("", &["header is not valid"]);
    refuse("[]", &["header is not valid"]);
    refuse("{\"a\":1}", &["header is not valid"]);
    refuse(&GOOD_HEADER.replace("F16", "F17"), &["header is not valid", "F17"]);
    refuse(&GOOD_HEADER.replace("\"b\"", "\"a\""), &["'a' occurs twice"]);
    refuse(&"[".repeat(100_000), &["header is not valid"]);
    let mut not_text = raw_safetensors(GOOD_HEADER, 32);
    not_text[12] = 0xff;
    assert_safetensors_refused(&not_text, &["header is not valid"]);
}

#[test]
fn safetensors_of_other_programs_quantized_weights() {
    let dir = tempfile::tempdir().unwrap();
    folders::write(&folders::model(), &dir.path().join("m"), 1 << 20);
    for (dtype, name) in [("U8", "q.weight"), ("F8_E8M0", "q"), ("I32", "q.qweight")] {
        let bytes = if dtype == "I32" { 32 } else { 8 };
        let header =
            format!(r#"{{"{name}":{{"dtype":"{dtype}","shape":[8],"data_offsets":[0,{bytes}]}}}}"#);
        let path = dir.path().join("m/model.safetensors");
        fs::write(path, raw_safetensors(&header, bytes)).unwrap();
        assert_error(Checkpoint::open(dir.path().join("m")), &[name, dtype, "cannot be read"]);
    }
}

// --- folders ---

fn edit_index(dir: &Path, edit: impl FnOnce(String) -> String) {
    let path = dir.join("model.safetensors.index.json");
    let text = fs::read_to_string(&path).unwrap();
    let edited = edit(text.clone());
    assert_ne!(text, edited, "the edit must change something");
    fs::write(&path, edited).unwrap();
}

#[test]
fn shard_names_that_lead_elsewhere() {
    let outside = "model-00001-of-00002.safetensors";
    for bad in ["../", "/etc/", "a/../../", "sub/", "..\\\\", "C:"] {
        let (_temp, dir) = sharded();
        // What the name points to exists where it can: the name alone must be refused.
        fs::copy(dir.join(entries(&dir)[1].as_str()), dir.with_file_name(outside)).unwrap();
        edit_index(&dir, |text| text.replacen("\"model-00001", &format!("\"{bad}model-00001"), 1));
        assert_error(
            Checkpoint::open(&dir),
            &["index.json", "not a plain file name", "model-00001"],
        );
    }
    let (_temp, dir) = sharded();
    edit_index(&dir, |text| text.replacen(": \"model-0", ": \"..\", \"x\": \"model-0", 1));
    assert_error(Checkpoint::open(&dir), &["'..'", "not a plain file name"]);
}

#[test]
fn missing_shards_are_named() {
    let (_temp, dir) = sharded();
    let shard = entries(&dir).into_iter().find(|n| n.starts_with("model-00002")).unwrap();
    fs::remove_file(dir.join(&shard)).unwrap();
    assert_error(Checkpoint::open(&dir), &[&shard, "missing"]);
    fs::remove_file(dir.join("model.safetensors.index.json")).unwrap();
    assert_error(Checkpoint::open(&dir), &[&shard, "missing"]);
}

#[test]
fn an_index_that_lies() {
    let (_temp, dir) = sharded();
    let shard = entries(&dir)[1].clone();
    edit_index(&dir, |text| {
        text.replace("\"weight_map\": {", &format!("\"weight_map\": {{\"ghost\": \"{shard}\","))
    });
    let model = Checkpoint::open(&dir).unwrap();
    assert!(model.warnings.iter().any(|w| w.contains("index.json") && w.contains("ghost")));

    let (_temp, dir) = sharded();
    edit_index(&dir, |text| {
        let line = text.lines().find(|l| l.contains("layers.2.input")).unwrap();
        text.replace(line, &format!("{line}{}\n{line}", if line.ends_with(',') { "" } else { "," }))
    });
    assert_error(Checkpoint::open(&dir), &["index.json", "layers.2.input", "twice"]);

    let (_temp, dir) = sharded();
    for (text, part) in
        [("{", "not a valid index"), ("{\"weight_map\":{}}", "empty"), ("{}", "index")]
    {
        fs::write(dir.join("model.safetensors.index.json"), text).unwrap();
        assert_error(Checkpoint::open(&dir), &["index.json", part]);
    }
}

#[test]
fn one_tensor_in_two_shards() {
    let (_temp, dir) = sharded();
    let names: Vec<_> = entries(&dir).into_iter().filter(|n| n.ends_with("safetensors")).collect();
    fs::remove_file(dir.join("model.safetensors.index.json")).unwrap();
    fs::copy(dir.join(&names[0]), dir.join(&names[1])).unwrap();
    assert_error(Checkpoint::open(&dir), &[&names[0], &names[1], "overwritten by a copy"]);
}

#[test]
fn folders_that_are_no_models() {
    let (_temp, dir) = sharded();
    assert_error(Checkpoint::open(dir.join("nowhere")), &["nowhere"]);
    assert_error(Checkpoint::open(dir.join("config.json")), &["not a folder"]);
    fs::write(dir.join("config.json"), "{").unwrap();
    assert_error(Checkpoint::open(&dir), &["config.json", "JSON"]);
    fs::remove_file(dir.join("config.json")).unwrap();
    assert_error(Checkpoint::open(&dir), &["no config.json"]);
    fs::write(dir.join("adapter_config.json"), "{}").unwrap();
    assert_error(Checkpoint::open(&dir), &["adapter"]);

    let empty = dir.with_file_name("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("config.json"), "{}").unwrap();
    assert_error(Checkpoint::open(&empty), &["no weights", "neither safetensors nor"]);
    fs::write(empty.join("pytorch_model-00001-of-00002.bin"), "x").unwrap();
    assert_error(Checkpoint::open(&empty), &["pytorch_model-00002-of-00002.bin", "missing"]);
}
