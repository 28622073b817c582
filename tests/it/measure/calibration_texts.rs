//! The calibration corpus: its manifest, and the parts of it that runs can ask for.

use crate::support::program::{Place, shipped};
use aqueduct::base::progress::Silent;
use aqueduct::build::{Calibration, CorpusPart, Source, calibration_parts};
use aqueduct::formats::gguf::GgufModel;
use aqueduct::measure::imatrix::{self, ImportanceMatrix};
use aqueduct::model::tokenizer::Tokenizer;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;

#[test]
fn the_manifest_lists_every_file_with_its_size_and_hash() {
    let mut files: BTreeSet<String> = fs::read_dir(shipped("calibration"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".txt"))
        .collect();
    let parts = calibration_parts();
    for part in &parts {
        let name = format!("{}.txt", part.name);
        let bytes = fs::read(shipped("calibration").join(&name)).unwrap();
        assert_eq!(bytes.len(), part.bytes, "{name}");
        let hash: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hash, part.sha256, "{name}");
        assert!(!part.note.is_empty() && !part.language.is_empty(), "{name}");
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.ends_with('\n') && !text.contains(['\r', '\u{fffd}', '\0']), "{name}");
        assert!(files.remove(&name), "{name} is listed twice");
    }
    assert!(files.is_empty(), "{files:?} are not in the manifest");
    let total = |parts: &[CorpusPart]| parts.iter().map(|part| part.bytes).sum::<usize>();
    assert!(total(&parts) >= 200_000);
    let code = parts.iter().filter(|part| part.group == "code");
    assert!(code.map(|part| &part.language).collect::<BTreeSet<_>>().len() >= 8);
}

#[test]
fn the_first_text_of_the_project_never_changes() {
    let v1 = calibration_parts().into_iter().find(|part| part.name == "aqueduct-v1").unwrap();
    let hash = "93eba62233dbdada6043122bac2cef67758c65366dc1b31be4b0caeb41d5d259";
    assert_eq!((v1.bytes, v1.sha256.as_str()), (66_638, hash));
    assert!(v1.is_intact());
}

#[test]
#[ignore = "needs models/SmolLM2-135M-Instruct (scripts/fetch-smollm2)"]
fn the_manifest_counts_tokens_as_the_tokenizer_does() {
    let source = Source::open(&shipped("models/SmolLM2-135M-Instruct")).unwrap();
    let model: GgufModel = source.to_gguf(&Default::default(), &Silent).unwrap();
    let tokenizer = Tokenizer::from_metadata(model.origin(), &model.metadata).unwrap();
    for part in calibration_parts() {
        let tokens = tokenizer.encode(part.text(), false).unwrap();
        assert_eq!(tokens.len(), part.tokens, "{}", part.name);
    }
}

#[test]
fn runs_take_the_parts_that_are_asked_for() {
    let place = Place::new();
    fs::write(place.path("own.txt"), "The heron waited. ".repeat(400)).unwrap();
    let collect = |options: &str| -> ImportanceMatrix {
        place
            .ok(&format!("imatrix @recipes/demo/clerk --ctx 64 --chunks 2 {options} -o m --force"));
        ImportanceMatrix::read(place.path("m")).unwrap()
    };
    let default = collect("");
    assert_eq!(default.datasets, ["aqueduct-v2"]);
    assert_eq!(collect("--calibration all"), default);
    let code = collect("--calibration code");
    assert_eq!(code.datasets, ["aqueduct-v2 (code)"]);
    assert_ne!(code.entries, default.entries);
    let v1 = collect("--calibration aqueduct-v1");
    assert_eq!(v1.datasets, ["aqueduct-v1.txt"]);
    assert_eq!(v1.entries, collect("-f @calibration/aqueduct-v1.txt").entries);
    let both = collect("--calibration general,code-rust -f own.txt");
    assert_eq!(both.datasets, ["aqueduct-v2 (general, code-rust)", "own.txt"]);
    // Of two chunks the parts have one and the file has the other.
    assert_ne!(both.entries, collect("--calibration code-rust,general").entries);
    assert_ne!(both.entries, collect("-f own.txt").entries);
}

#[test]
fn unknown_parts_are_refused_before_any_work() {
    let place = Place::new();
    let parts = ["'cobol'", "general", "languages", "code-rust", "aqueduct-v1", "-f"];
    let source = "@recipes/demo/clerk --calibration general,cobol";
    place.fails(2, &format!("imatrix {source} -o m"), &parts);
    place.fails(2, &format!("build {source} -o out"), &parts);
    assert_eq!(place.entries(), [""; 0]);
}

#[test]
fn a_build_records_its_parts() {
    let place = Place::new();
    let line = "build @recipes/demo.yml --types Q8_0 --chunks 2 --calibration maths,markup -o out";
    place.ok(line);
    let matrix = ImportanceMatrix::read(place.path("out/demo-imatrix.gguf")).unwrap();
    assert_eq!(matrix.datasets, ["aqueduct-v2 (maths, markup)"]);
    assert_eq!(matrix.chunk_count, 2);
}

#[test]
fn a_few_chunks_see_most_kinds_of_text() {
    let source = Source::open(&shipped("recipes/demo/clerk")).unwrap();
    let model = source.to_gguf(&Default::default(), &Silent).unwrap();
    let tokenizer = Tokenizer::from_metadata(model.origin(), &model.metadata).unwrap();
    let text = &Calibration::built_in().texts[0];
    let (tokens, _) = imatrix::tokenize(&tokenizer, std::slice::from_ref(text), false).unwrap();
    // The share of the text that the first 24 chunks of its 200 or so hold.
    let beginning = &text[..text.floor_char_boundary(text.len() * 24 * 512 / tokens.len())];
    let parts = calibration_parts();
    let groups: BTreeSet<_> = parts.iter().map(|part| &part.group).collect();
    let seen = parts.iter().filter(|part| {
        let line = part.text().lines().find(|line| line.len() > 40).unwrap();
        beginning.contains(line)
    });
    assert_eq!(seen.map(|part| &part.group).collect::<BTreeSet<_>>(), groups);
}
