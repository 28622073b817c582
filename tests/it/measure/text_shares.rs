//! Several texts under `--chunks`: each gets its share, and only texts that were read are named.

use crate::support::program::Place;
use aqueduct::formats::gguf;
use aqueduct::measure::imatrix::ImportanceMatrix;
use std::fs;

/// A long text, a shorter one and a short one; the longest has dozens of chunks of 16 tokens.
fn place() -> Place {
    let place = Place::new();
    let text = |words: &str, times: usize| words.repeat(times);
    fs::write(place.path("long.txt"), text("The house by the sea was quiet. ", 120)).unwrap();
    fs::write(place.path("short.txt"), text("Pages, letters and small lamps. ", 60)).unwrap();
    fs::write(place.path("tiny.txt"), text("He walked. ", 24)).unwrap();
    place
}

const ALL: &str = "-f long.txt -f short.txt -f tiny.txt";

fn datasets(place: &Place, file: &str) -> Vec<String> {
    ImportanceMatrix::read(place.path(file)).unwrap().datasets
}

#[test]
fn each_text_gets_chunks_and_credit_where_it_was_read() {
    let place = place();
    let imatrix = "imatrix @recipes/demo/clerk --ctx 16 --quiet";
    place.ok(&format!("{imatrix} {ALL} --chunks 3 -o three.gguf"));
    assert_eq!(datasets(&place, "three.gguf"), ["long.txt", "short.txt", "tiny.txt"]);
    // Fewer chunks than texts: the first of them.
    place.ok(&format!("{imatrix} {ALL} --chunks 2 -o two.gguf"));
    assert_eq!(datasets(&place, "two.gguf"), ["long.txt", "short.txt"]);
    // Two chunks are the first of each text, which can be had one by one.
    for (text, name) in [("long.txt", "a"), ("short.txt", "b")] {
        place.ok(&format!("{imatrix} -f {text} --chunks 1 -o {name}.gguf"));
    }
    place.ok("imatrix merge a.gguf b.gguf -o sum.gguf --unchecked --quiet");
    let entries = |file: &str| ImportanceMatrix::read(place.path(file)).unwrap().entries;
    let (two, sum) = (entries("two.gguf"), entries("sum.gguf"));
    assert_eq!(two.keys().collect::<Vec<_>>(), sum.keys().collect::<Vec<_>>());
    for (name, entry) in &two {
        let pairs = entry.sums.iter().zip(&sum[name].sums);
        assert!(pairs.clone().count() > 0);
        for (a, b) in pairs {
            assert!((a - b).abs() <= 1e-4 * a.abs().max(1.0), "{name}: {a} {b}");
        }
    }
}

#[test]
fn shards_and_later_chunks_belong_to_the_same_sequence() {
    let place = place();
    let imatrix = "imatrix @recipes/demo/clerk --ctx 16 --quiet --precision f32";
    place.ok(&format!("{imatrix} {ALL} --chunks 8 -o whole.gguf"));
    for n in 1..=3 {
        place.ok(&format!("{imatrix} {ALL} --chunks 8 --shard {n}/3 -o {n}.gguf"));
    }
    place.ok("imatrix merge 1.gguf 2.gguf 3.gguf -o merged.gguf --quiet");
    let chunks = |file: &str| ImportanceMatrix::read(place.path(file)).unwrap().chunk_count;
    assert_eq!((chunks("merged.gguf"), datasets(&place, "merged.gguf").len()), (8, 3));
    // Other limits of the same texts continue it.
    place.ok(&format!("{imatrix} {ALL} --from-chunk 8 --chunks 4 -o later.gguf"));
    place.ok("imatrix merge later.gguf whole.gguf -o twelve.gguf --quiet");
    assert_eq!(chunks("twelve.gguf"), 12);
    // Saving the state does not change the bytes.
    place.ok(&format!("{imatrix} {ALL} --chunks 8 --save-every 0 -o saved.gguf"));
    assert_eq!(place.read("saved.gguf"), place.read("whole.gguf"));
}

#[test]
fn without_a_limit_texts_stand_one_after_the_other() {
    let place = place();
    let joined = ["long.txt", "short.txt"].map(|name| place.read(name)).concat();
    fs::write(place.path("joined.txt"), joined).unwrap();
    let eval = "eval @recipes/demo/clerk --ctx 16 --json";
    let perplexity = |texts: &str| {
        let ran = place.ok(&format!("{eval} {texts}")).json();
        (
            ran["models"][0]["perplexity"]["value"].as_f64().unwrap(),
            ran["models"][0]["chunks"].clone(),
        )
    };
    let (several, one) = (perplexity("-f long.txt -f short.txt"), perplexity("-f joined.txt"));
    assert!((several.0 / one.0 - 1.0).abs() < 0.05, "{several:?} {one:?}");
    // With one, both texts are measured; the first alone is another figure.
    let limited = perplexity("-f long.txt -f short.txt --chunks 2");
    let first = perplexity("-f long.txt --chunks 2");
    assert_ne!(limited.0, first.0);
    // A text that lies beyond what is read gets no credit.
    let imatrix = "imatrix @recipes/demo/clerk --ctx 16 --quiet";
    place.ok(&format!("{imatrix} -f long.txt -o long.gguf"));
    let beyond = ImportanceMatrix::read(place.path("long.gguf")).unwrap().chunk_count + 1;
    place.ok(&format!("{imatrix} {ALL} --from-chunk {beyond} -o late.gguf"));
    assert!(!datasets(&place, "late.gguf").contains(&"long.txt".to_string()));
}

#[test]
fn a_saved_reference_in_turns_is_compared_with() {
    let place = place();
    let eval = "eval @recipes/demo/clerk -f long.txt -f short.txt --ctx 16 --chunks 6 --quiet";
    place.ok(&format!("{eval} --save-logits kept"));
    place.ok(&format!("{eval} --against-logits kept"));
    let line = "eval @recipes/demo/clerk -f short.txt -f long.txt --ctx 16 --against-logits kept";
    place.fails(1, line, &["of the text is"]);
}

#[test]
fn the_card_of_a_build_names_the_texts_that_were_read() {
    let place = place();
    place.ok(&format!(
        "build @recipes/demo/clerk {ALL} --ctx 16 --chunks 2 --types Q8_0 -o b --quiet"
    ));
    let card = String::from_utf8(place.read("b/README.md")).unwrap();
    assert!(card.contains("long.txt") && card.contains("short.txt"), "{card}");
    assert!(!card.contains("tiny.txt"), "{card}");
    let file = crate::support::files::entries(&place.path("b"))
        .into_iter()
        .find(|name| name.ends_with("Q8_0.gguf"))
        .unwrap();
    let metadata = gguf::open(place.path(&format!("b/{file}"))).unwrap().metadata;
    assert_eq!(metadata.u64("aqueduct.calibration.count"), Some(2));
}
