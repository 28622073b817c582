//! Evaluation: the peer's files and figures met, every type of file evaluated, and what is refused.

use crate::support::program::{Place, arguments, finished, one_error, shipped};
use aqueduct::base::dtype::DType;
use aqueduct::base::progress::Silent;
use aqueduct::formats::checkpoint::Checkpoint;
use aqueduct::formats::gguf;
use aqueduct::measure::evaluate::{Against, Evaluation, Keep, Options, Subject, evaluate};
use aqueduct::model::convert::{ConvertOptions, convert};
use aqueduct::quantize::Ftype;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const CLERK: &str = "@recipes/demo/clerk";
const TEXT: &str = "@tests/data/demo/held-out.txt";
const LOGITS: &str = "tests/data/evaluate/clerk.logits";
const IMATRIX: &str = "@tests/data/quantize/clerk-imatrix.gguf";
/// Tokens of the vocabulary, tokens in a chunk, chunks, and records in a chunk of the peer's file.
const SHAPE: [usize; 4] = [512, 128, 2, 63];
/// Where its records begin, and the length of one.
const START: usize = 20 + 4 * 128 * 2;
const RECORD: usize = 8 + 2 * 512;

fn clerk() -> Subject {
    let folder = shipped("recipes/demo/clerk");
    let model = convert(&Checkpoint::open(folder).unwrap(), &ConvertOptions::default()).unwrap();
    Subject { name: "clerk".into(), model }
}

fn held_out() -> Vec<String> {
    vec![fs::read_to_string(shipped("tests/data/demo/held-out.txt")).unwrap()]
}

fn models(place: &Place, line: &str) -> Vec<Json> {
    place.ok(line).json()["models"].as_array().unwrap().clone()
}

fn number(value: &Json) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The mean divergence of each model.
fn klds(models: &[Json]) -> Vec<f64> {
    models.iter().map(|m| number(&m["divergence"]["kld"]["mean"]["value"])).collect()
}

// --- The peer ---

/// The figures of `model` under the peer's labels, in its units.
fn figures(model: &Json) -> Vec<(String, Vec<f64>)> {
    let d = &model["divergence"];
    let both =
        |e: &Json, scale: f64| vec![scale * number(&e["value"]), scale * number(&e["error"])];
    let mut found = vec![
        ("Mean PPL(Q)".to_string(), both(&model["perplexity"], 1.0)),
        ("Mean PPL(base)".into(), both(&d["reference_perplexity"], 1.0)),
        ("Cor(ln(PPL(Q)), ln(PPL(base)))".into(), vec![100.0 * number(&d["correlation"])]),
        ("Mean ln(PPL(Q)/PPL(base))".into(), both(&d["log_perplexity_ratio"], 1.0)),
        ("Mean PPL(Q)/PPL(base)".into(), both(&d["perplexity_ratio"], 1.0)),
        ("Mean PPL(Q)-PPL(base)".into(), both(&d["perplexity_difference"], 1.0)),
        ("RMS \u{394}p".into(), both(&d["probability_change_rms"], 100.0)),
        ("Same top p".into(), both(&d["same_top"], 100.0)),
    ];
    for (part, label, scale) in
        [(&d["kld"], "KLD", 1.0), (&d["probability_change"], "\u{394}p", 100.0)]
    {
        found.push((format!("Mean {label}"), both(&part["mean"], scale)));
        for (word, key) in [("Maximum", "maximum"), ("Minimum", "minimum")] {
            found.push((format!("{word} {label}"), vec![scale * number(&part[key])]));
        }
        for p in part["percentiles"].as_array().unwrap() {
            let percent = number(&p["percent"]);
            let name = if percent == 50.0 { "Median".into() } else { format!("{percent:.1}%") };
            found.push((format!("{name} {label}"), vec![scale * number(&p["value"])]));
        }
    }
    found
}

#[test]
fn every_figure_of_the_peer_is_met() {
    let place = Place::new();
    place.ok(&format!("quantize {CLERK} Q3_K_M --imatrix {IMATRIX} -o q.gguf"));
    let model = &models(&place, &format!("eval q.gguf --against-logits @{LOGITS} --json"))[0];
    assert_eq!((model["chunks"].as_u64(), model["tokens"].as_u64()), (Some(2), Some(126)));
    let text = fs::read_to_string(shipped("tests/data/evaluate/clerk-Q3_K_M.json")).unwrap();
    let peer: serde_json::Map<String, Json> = serde_json::from_str(&text).unwrap();
    let ours = figures(model);
    assert_eq!((ours.len(), peer.len()), (34, 34));
    for (label, values) in ours {
        let theirs = peer[&label].as_array().unwrap();
        assert_eq!(values.len(), theirs.len(), "{label}");
        // Half of the last digit that is printed: of per cent three, otherwise six.
        let digit = match label.as_str() {
            label if label.starts_with("Cor") => 5e-3,
            label if label.ends_with("\u{394}p") || label.ends_with("top p") => 5e-4,
            _ => 5e-7,
        };
        for (ours, theirs) in values.iter().zip(theirs) {
            let theirs = number(theirs);
            let close = (ours - theirs).abs() < digit + 2e-6 + 2e-4 * theirs.abs();
            assert!(close, "{label}: {ours}, the peer has {theirs}");
        }
    }
}

#[test]
fn log_probabilities_are_written_as_the_peer_writes_them() {
    let place = Place::new();
    let line = format!("eval {CLERK} -f {TEXT} --ctx 128 --chunks 2 --save-logits out/our.logits");
    place.ok(&line);
    let (ours, peer) = (place.read("out/our.logits"), fs::read(shipped(LOGITS)).unwrap());
    assert_eq!(ours.len(), peer.len());
    assert_eq!(ours[..START], peer[..START], "header and tokens");
    let [n_vocab, _, chunks, rows] = SHAPE;
    assert_eq!(peer.len(), START + chunks * rows * RECORD);
    let float = |record: &[u8], at| f32::from_le_bytes(record[at..at + 4].try_into().unwrap());
    let value = |record: &[u8], i: usize| i32::from(u16::from_le_bytes([record[i], record[i + 1]]));
    let mut equal = 0;
    for (a, b) in ours[START..].chunks(RECORD).zip(peer[START..].chunks(RECORD)) {
        for at in [0, 4] {
            let (a, b) = (float(a, at), float(b, at));
            assert!((a / b - 1.0).abs() < 1e-5, "{a} for {b}");
        }
        for i in (8..RECORD).step_by(2) {
            assert!((value(a, i) - value(b, i)).abs() <= 1, "a step is 0.0002 of a logit");
            equal += usize::from(value(a, i) == value(b, i));
        }
    }
    assert!(equal as f64 > 0.95 * (chunks * rows * n_vocab) as f64, "{equal} equal");

    // The file stays unless told otherwise, and stands for the model that made it.
    place.fails(2, &line, &["out/our.logits", "--force"]);
    place.ok(&format!("{line} --force"));
    let from_file = models(&place, &format!("eval {CLERK} --against-logits out/our.logits --json"));
    let from_model = models(
        &place,
        &format!("eval {CLERK} -f {TEXT} --ctx 128 --chunks 2 --against {CLERK} --json"),
    );
    assert_eq!(from_file, from_model);
    assert_eq!(place.entries(), ["out"]);
}

// --- What can be evaluated ---

#[test]
fn a_model_is_not_far_from_itself() {
    let options = Options {
        texts: held_out(),
        ctx: Some(100),
        against: Some(Against::Model(clerk())),
        ..Options::default()
    };
    let results = evaluate(&[clerk()], &options, &Silent).unwrap();
    assert_eq!((results.ctx, results.reference.as_deref()), (100, Some("clerk")));
    let Evaluation { chunks, tokens, divergence, .. } = &results.models[0];
    assert_eq!((*chunks, *tokens), (5, 5 * 49));
    let divergence = divergence.as_ref().unwrap();
    // Half a step of the 16 bits, where a token is all but certain.
    let step = 16.0 / 65535.0 / 2.0;
    assert!(divergence.kld.maximum < step && divergence.kld.minimum > -step, "{divergence:?}");
    assert!(divergence.kld.mean.value.abs() < 3e-6, "{divergence:?}");
    assert!(divergence.same_top.value > 0.99 && divergence.correlation.unwrap() > 0.999_99);
    assert!(divergence.log_perplexity_ratio.value.abs() < 1e-5, "{divergence:?}");
    assert_eq!(divergence.running_kld.len(), 5);
}

#[test]
fn every_type_of_file_is_evaluated_and_less_is_worse() {
    let place = Place::new();
    let types: Vec<String> = Ftype::all().map(|ftype| ftype.to_string()).collect();
    let quantize = format!("quantize {CLERK} --imatrix {IMATRIX} --quiet");
    place.ok(&format!("{quantize} -o q {}", types.join(" ")));
    // Only experts get it by themselves.
    place.ok(&format!("{quantize} Q8_0 --tensor-type ffn_=mxfp4 -o q/clerk-MXFP4.gguf"));
    let files = crate::support::files::entries(&place.path("q"));
    assert_eq!(files.len(), types.len() + 1);
    let dtypes: BTreeSet<DType> = files
        .iter()
        .flat_map(|file| {
            let model = gguf::open(place.path("q").join(file)).unwrap();
            model.tensors.table().infos().iter().map(|info| info.dtype).collect::<Vec<_>>()
        })
        .collect();
    let writable = DType::all().filter(|dtype| aqueduct::quants::can_quantize(*dtype));
    let missing: Vec<DType> = writable.filter(|dtype| !dtypes.contains(dtype)).collect();
    assert_eq!(missing, [], "types that no file has");

    let sources: Vec<String> = files.iter().map(|file| format!("q/{file}")).collect();
    let sources = sources.join(" ");
    let line = format!("eval {sources} --against {CLERK} -f {TEXT} --ctx 128 --quiet --json");
    let models = models(&place, &line);
    let klds = klds(&models);
    let kld = |name: &str| {
        let file = format!("clerk-{name}.gguf");
        klds[files.iter().position(|f| *f == file).unwrap_or_else(|| panic!("no {file}"))]
    };
    assert!(klds.iter().all(|kld| kld.is_finite() && *kld > -1e-6), "{klds:?}");
    assert!(kld("F32") < 1e-6 && kld("F16") < 1e-6, "the model is in F16");
    for (better, worse) in [
        ("F16", "BF16"),
        ("BF16", "Q8_0"),
        ("Q8_0", "Q6_K"),
        ("Q6_K", "Q5_K_M"),
        ("Q5_K_M", "Q4_K_M"),
        ("Q4_K_M", "Q3_K_M"),
        ("Q3_K_M", "Q2_K"),
        ("Q2_K", "IQ1_S"),
        ("IQ4_NL", "IQ3_XXS"),
        ("IQ3_XXS", "IQ2_XXS"),
        ("Q8_0", "NVFP4"),
        ("Q8_0", "MXFP4"),
    ] {
        assert!(kld(better) < kld(worse), "{better} {}, {worse} {}", kld(better), kld(worse));
    }
}

#[test]
fn sources_of_every_kind_give_the_same_at_any_number_of_threads() {
    let place = Place::new();
    place.ok(&format!("convert {CLERK} --type f16 -o clerk.gguf"));
    place.ok("merge @recipes/demo.yml -o stack");
    let line = "eval clerk.gguf @recipes/demo/clerk stack @recipes/demo.yml \
                --against @recipes/demo/storyteller -f @tests/data/demo/held-out.txt --ctx 64 --json";
    let one = models(&place, &format!("{line} --threads 1"));
    let names = ["clerk.gguf", "clerk", "stack", "demo.yml"];
    assert_eq!(one.iter().map(|m| m["name"].as_str().unwrap()).collect::<Vec<_>>(), names);
    assert_eq!(one, models(&place, &format!("{line} --threads 3")));
    let without_name = |model: &Json| {
        let mut model = model.clone();
        model.as_object_mut().unwrap().remove("name");
        model
    };
    let same = |a: usize, b: usize| without_name(&one[a]) == without_name(&one[b]);
    assert!(same(0, 1) && same(2, 3) && !same(0, 2));
    assert!(klds(&one).iter().all(|&kld| kld > 0.01), "another model: {:?}", klds(&one));
}

#[test]
fn perplexity_alone_needs_no_reference() {
    let place = Place::new();
    let line = format!("eval {CLERK} @recipes/demo/storyteller -f {TEXT} --ctx 128");
    let ran = place.ok(&line);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 5, "{}", ran.stdout);
    assert!(lines[3].is_empty() && lines[4].starts_with("total    "), "{}", ran.stdout);
    assert!(lines[1].starts_with("clerk ") && lines[1].contains("+-"), "{}", ran.stdout);
    assert!(ran.stderr.contains("[4]") && ran.stderr.contains("Final estimate"), "{}", ran.stderr);
    let models = models(&place, &format!("{line} --json"));
    assert!(models[0].get("divergence").is_none());
    // As `imatrix` has it.
    let imatrix = place
        .ok(&format!("imatrix {CLERK} -f {TEXT} --ctx 128 --precision f32 -o i.gguf --json"))
        .json();
    let close = |a: &Json, b: &Json| (number(a) / number(b) - 1.0).abs() < 1e-9;
    assert!(close(&models[0]["perplexity"]["value"], &imatrix["perplexity"]));
    assert!(close(&models[0]["perplexity"]["error"], &imatrix["perplexity_error"]));
    let running = models[0]["running_perplexity"].as_array().unwrap();
    let theirs = imatrix["running_perplexity"].as_array().unwrap();
    assert_eq!(running.len(), 4);
    assert!(running.iter().zip(theirs).all(|(a, b)| close(a, b)));

    // With a reference: a column for each model, whose names are told apart.
    let ran = place.ok(&format!("{line} {CLERK} --against {CLERK} --quiet"));
    let head = ran.stdout.lines().next().unwrap();
    assert!(
        head.contains("storyteller") && head.matches("recipes/demo/clerk").count() == 2,
        "{head}"
    );
    for label in ["KL divergence", "  99.9 %", "  median", "same top token", "  root mean square"] {
        assert!(ran.stdout.lines().any(|l| l.starts_with(label)), "{label}: {}", ran.stdout);
    }
    assert!(ran.stdout.contains("\ncompared with clerk\n"), "{}", ran.stdout);
}

// --- What is refused ---

#[test]
fn requests_that_contradict_themselves_are_usage_errors() {
    let place = Place::new();
    let logits = format!("--against-logits @{LOGITS}");
    for (line, parts) in [
        (format!("eval {CLERK}"), &["--file"][..]),
        (format!("eval -f {TEXT}"), &["SOURCE"]),
        (format!("eval {CLERK} -f {TEXT} --ctx 2"), &["3 or more"]),
        (format!("eval {CLERK} -f {TEXT} --ctx 0"), &["1 or more"]),
        (
            format!("eval {CLERK} -f {TEXT}  --ctx 600"),
            &["578 tokens", "chunk of 600", "more text"],
        ),
        (format!("eval {CLERK} -f {TEXT} --against {CLERK} {logits}"), &["cannot be used"]),
        (format!("eval {CLERK} {logits} --save-logits x"), &["cannot be used"]),
        (format!("eval {CLERK} {logits} --ctx 64"), &["chunks of 128", "not 64"]),
        (
            format!("eval {CLERK} {CLERK} -f {TEXT} --ctx 64 --save-logits x"),
            &["several models", "reference"],
        ),
    ] {
        place.fails(2, &line, parts);
    }
    let few = place.ok(&format!("eval {CLERK} {logits} --chunks 1 --quiet"));
    assert!(few.stderr.contains("warning: only 63 tokens"), "{}", few.stderr);
    assert!(place.entries().is_empty(), "{:?}", place.entries());
}

/// A copy of the demo's clerk with a changed tokenizer.
fn changed_clerk(place: &Place, name: &str, change: impl Fn(&mut Json)) {
    let to = place.path(name);
    fs::create_dir(&to).unwrap();
    let from = shipped("recipes/demo/clerk");
    for file in crate::support::files::entries(&from) {
        fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
    let path = to.join("tokenizer.json");
    let mut json: Json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(&path, json.to_string()).unwrap();
}

#[test]
fn vocabularies_that_differ_cannot_be_compared() {
    let place = Place::new();
    let (clerk, storyteller) = (shipped("recipes/demo/clerk"), shipped("recipes/demo/storyteller"));
    let recipe = format!(
        "merge_method: linear\nbase_model: {0}\nmodels:\n  - model: {0}\n    parameters: {{weight: 1}}\n  \
         - model: {1}\n    parameters: {{weight: 0}}\ndtype: float16\ntokenizer:\n  source: base\n  \
         pad_to_multiple_of: 1000\n",
        clerk.display(),
        storyteller.display()
    );
    fs::write(place.path("padded.yml"), recipe).unwrap();
    let parts = ["512 tokens", "1000", "one vocabulary"];
    place.fails(1, &format!("eval {CLERK} --against padded.yml -f {TEXT} --ctx 64"), &parts);
    let parts = ["padded.yml", "1000 tokens", "512", "clerk.logits"];
    place.fails(1, &format!("eval padded.yml --against-logits @{LOGITS}"), &parts);

    // The same tokens, of which a text makes other use.
    changed_clerk(&place, "other", |json| {
        let merges = json["model"]["merges"].as_array_mut().unwrap();
        merges.truncate(merges.len() / 2);
    });
    let parts = ["other", "of the text", "reference", "clerk"];
    place.fails(1, &format!("eval other --against {CLERK} -f {TEXT} --ctx 64"), &parts);
    place.fails(1, &format!("eval other -f {TEXT} --against-logits @{LOGITS}"), &parts);
    place.ok(&format!("eval {CLERK} -f {TEXT} --against-logits @{LOGITS}"));
    // Without its text nothing tells.
    place.ok(&format!("eval other --against-logits @{LOGITS}"));

    // A token that the text does not use is spelled differently: a warning, and compared.
    changed_clerk(&place, "renamed", |json| {
        let text = json.to_string().replace("<|endoftext|>", "<|end_text|>");
        *json = serde_json::from_str(&text).unwrap();
    });
    let files = ["special_tokens_map.json", "tokenizer_config.json"];
    for file in files.map(|file| place.path("renamed").join(file)) {
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("<|endoftext|>", "<|end_text|>")).unwrap();
    }
    let ran = place.ok(&format!("eval renamed --against {CLERK} -f {TEXT} --ctx 64 --quiet"));
    let warning = "warning: renamed: 1 tokens are spelled differently than in clerk, token 0";
    assert!(ran.stderr.contains(warning), "{}", ran.stderr);
    let ran = place.ok(&format!("eval renamed {CLERK} -f {TEXT} --ctx 64 --quiet"));
    assert!(ran.stderr.contains("renamed and clerk have different vocabularies"), "{}", ran.stderr);
}

#[test]
fn files_of_log_probabilities_that_lie_are_refused() {
    let place = Place::new();
    let good = fs::read(shipped(LOGITS)).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let int = |at: usize, value: i32| with(at, &value.to_le_bytes());
    let none = &["not a file of log-probabilities"][..];
    let wrong_size = &["bytes", "make it again"][..];
    let all_large =
        [good[..8].to_vec(), [i32::MAX; 3].iter().flat_map(|n| n.to_le_bytes()).collect()].concat();
    let nan = with(START + RECORD, &f32::NAN.to_le_bytes());
    let cases: &[(&str, Vec<u8>, &[&str])] = &[
        ("empty", Vec::new(), none),
        ("short", good[..19].to_vec(), none),
        ("magic", with(0, b"_logics_"), none),
        ("no tokens", int(8, 2), none),
        ("negative", int(12, -512), none),
        ("no chunks", int(16, 0), none),
        ("large", all_large, &["more than a file can hold"]),
        ("many chunks", int(16, i32::MAX), wrong_size),
        ("cut", good[..good.len() - 1].to_vec(), &["1 chunks are whole", "make it again"]),
        ("long", [&good[..], b"x"].concat(), wrong_size),
        ("token", int(20 + 4 * 7, 512), &["token 7 is 512", "vocabulary of 512"]),
        ("sign", int(20 + 4 * 9, -1), &["token 9", "vocabulary of 512"]),
        ("scale", nan, &["chunk 1, position 65", "NaN", "make the file again"]),
    ];
    for (name, bytes, parts) in cases {
        let file = format!("{}.logits", name.replace(' ', "-"));
        fs::write(place.path(&file), bytes).unwrap();
        let parts = [&[file.as_str()], *parts].concat();
        place.fails(1, &format!("eval {CLERK} --against-logits {file} --quiet"), &parts);
    }
    place.fails(1, &format!("eval {CLERK} --against-logits gone"), &["gone: cannot open"]);
    place.fails(1, &format!("eval {CLERK} --against-logits @recipes"), &["recipes"]);
}

#[test]
fn a_full_disk_leaves_nothing() {
    let place = Place::new();
    let eval = format!("eval {CLERK} -f {TEXT} --ctx 128 --against {CLERK}");
    fs::create_dir(place.path("tmp")).unwrap();
    for (line, part, left) in [
        (eval.clone(), "temporary file", vec!["tmp"]),
        (format!("{eval} --save-logits x"), "no larger file", vec!["tmp"]),
    ] {
        let output = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""])
            .arg(env!("CARGO_BIN_EXE_aqueduct"))
            .args(arguments(&line))
            .env("TMPDIR", place.path("tmp"))
            .current_dir(place.path("."))
            .output()
            .unwrap();
        let ran = finished(&line, 1, output);
        assert_eq!(ran.stdout, "", "{line}");
        one_error(&line, &ran.stderr, &[part]);
        assert_eq!(place.entries(), left);
        assert!(crate::support::files::entries(&place.path("tmp")).is_empty());
    }
    let mut command = place.command(&eval);
    let output = command.env("TMPDIR", place.path("nowhere")).output().unwrap();
    let ran = finished(&eval, 1, output);
    one_error(&eval, &ran.stderr, &["nowhere", "temporary file"]);
}

// --- A real model ---

/// Get the model with `scripts/fetch-smollm2`, then
/// `cargo test --release --test it smollm2 -- --ignored --nocapture`.
#[test]
#[ignore = "needs SmolLM2-135M-Instruct in F16, 270 MB"]
fn smollm2_has_the_peers_perplexity() {
    let folder = std::env::var("AQUEDUCT_SMOLLM2")
        .unwrap_or_else(|_| "models/SmolLM2-135M-Instruct".to_string());
    let model = convert(&Checkpoint::open(&folder).unwrap(), &ConvertOptions::default()).unwrap();
    let text = fs::read_to_string(shipped("tests/data/smollm2/gpl-3.txt")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("logits");
    let subjects = [Subject { name: "SmolLM2".into(), model }];
    let keep = Some(Keep { path: path.clone(), force: false });
    let options = Options { texts: vec![text], keep, ..Options::default() };
    let alone = evaluate(&subjects, &options, &Silent).unwrap();
    let estimate = alone.models[0].perplexity;
    println!("perplexity {:.4} +- {:.4}", estimate.value, estimate.error);
    assert!((estimate.value / 18.3022 - 1.0).abs() < 0.002, "{estimate:?}");
    assert!((estimate.error / 0.8597 - 1.0).abs() < 0.005, "{estimate:?}");

    let against = Some(Against::Logits(path));
    let options = Options { chunks: Some(3), against, ..Options::default() };
    let same = evaluate(&subjects, &options, &Silent).unwrap();
    assert_eq!(same.models[0].running_perplexity, alone.models[0].running_perplexity[..3]);
    let divergence = same.models[0].divergence.as_ref().unwrap();
    println!("KLD {:?}, same top {:?}", divergence.kld.mean, divergence.same_top);
    assert!(divergence.kld.mean.value.abs() < 1e-5, "{:?}", divergence.kld);
    assert!(divergence.same_top.value > 0.99);
}
