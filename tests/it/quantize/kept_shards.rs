//! `quantize --keep-split` and `--max-shard-size`: which shard each tensor goes to, against llama.cpp's
//! files by hash. tests/data/quantize/README.md says what made the hashes.

use crate::support::program::{Place, shipped};
use aqueduct::base::dtype::DType;
use aqueduct::base::progress::Silent;
use aqueduct::formats::gguf::{self, GgufFile, GgufWriter, Metadata, Value, shard_name};
use aqueduct::quantize::{self, Ftype, Output, PlanOptions, QuantPlan, RunOptions, Sharding};
use sha2::{Digest, Sha256};
use std::fs;

/// Tensors in each shard of the model that the hashes were made of, their names sorted backwards.
const SHARDS: &[usize] = &[0, 10, 12, 8];

/// A place with a model `clerk.gguf` in F16, an importance matrix for it, and the same model as
/// `split-0000N-of-0000M.gguf` with `sizes` tensors in its shards, their names sorted backwards.
fn place_with_shards(sizes: &[usize]) -> Place {
    let place = Place::new();
    let imatrix = shipped("tests/data/quantize/clerk-imatrix.gguf");
    fs::copy(imatrix, place.path("clerk-imatrix.gguf")).unwrap();
    place.ok("convert @recipes/demo/clerk --type f16 -o clerk.gguf");
    let model = gguf::open(place.path("clerk.gguf")).unwrap();
    let mut infos = model.tensors.table().infos().to_vec();
    infos.sort_by(|a, b| b.name.cmp(&a.name));
    assert_eq!(sizes.iter().sum::<usize>(), infos.len());
    let mut rest = infos.as_slice();
    for (no, &size) in sizes.iter().enumerate() {
        let (group, others) = rest.split_at(size);
        rest = others;
        let mut metadata = if no == 0 { model.metadata.clone() } else { Metadata::new() };
        metadata.set("split.no", Value::U16(no as u16));
        metadata.set("split.count", Value::U16(sizes.len() as u16));
        metadata.set("split.tensors.count", Value::I32(infos.len() as i32));
        let path = place.path(&shard_name("split", no as u64, sizes.len() as u64));
        let writer = GgufWriter::create(path, false, &metadata, group.to_vec()).unwrap();
        for (index, info) in group.iter().enumerate() {
            let data = model.tensors.read_name(&info.name).unwrap();
            writer.write_tensor(index, &data.bytes).unwrap();
        }
        writer.finish().unwrap();
    }
    place
}

/// The names of the tensors of the file `name`, and their types.
fn tensors(place: &Place, name: &str) -> Vec<(String, DType)> {
    let file = GgufFile::open(place.path(name)).unwrap();
    file.header().tensors.iter().map(|info| (info.name.clone(), info.dtype)).collect()
}

/// What differs between the shards `STEM-0000N-of-0000M.gguf` and llama.cpp's, which are named `kept`.
fn differing(place: &Place, stem: &str, golden: &serde_json::Value) -> Vec<String> {
    let golden = golden.as_object().unwrap();
    let mut found = Vec::new();
    for (kept, expected) in golden {
        let name = kept.replace("kept", stem);
        let sha256 = Sha256::digest(place.read(&name));
        let ours: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        if ours != expected["sha256"].as_str().unwrap() {
            let types = &expected["tensors"];
            found.push(format!("{name}: {:?}, llama.cpp {types:?}", tensors(place, &name)));
        }
    }
    found
}

#[test]
fn kept_shards_equal_llama_cpps() {
    let text = fs::read_to_string(shipped("tests/data/quantize/keep-split.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let place = place_with_shards(SHARDS);
    let mut problems = Vec::new();
    let split = golden["split"].as_object().unwrap();
    assert!(split.len() >= 5, "{}", split.len());
    let options = "--imatrix clerk-imatrix.gguf --keep-split --quiet";
    // All types of the whole model in one pass.
    let (whole, pruned): (Vec<_>, Vec<_>) = split.keys().partition(|a| !a.contains(' '));
    let types = whole.iter().map(|t| t.as_str()).collect::<Vec<_>>().join(" ");
    let first = "split-00001-of-00004.gguf";
    let ran = place.ok(&format!("quantize {first} {options} -o out {types} --json")).json();
    let ran = &ran["files"];
    assert_eq!(ran.as_array().unwrap().len(), whole.len());
    for name in whole {
        problems.extend(differing(&place, &format!("out/split-{name}"), &split[name]));
    }
    assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 4 * ran.as_array().unwrap().len());
    assert_eq!((&ran[0]["shards"], ran[0]["bytes"].is_u64()), (&4.into(), true));
    // The source may be named by any of its shards.
    for (number, arguments) in pruned.into_iter().enumerate() {
        let source = "split-00003-of-00004.gguf";
        let stem = format!("p{number}");
        let ran = place.ok(&format!("quantize {source} {options} -o {stem}.gguf {arguments}"));
        assert_eq!(ran.stderr, "");
        problems.extend(differing(&place, &stem, &split[arguments]));
        let made = place.entries().iter().filter(|n| n.starts_with(&format!("{stem}-"))).count();
        assert_eq!(made, split[arguments].as_object().unwrap().len(), "{arguments}");
    }
    // A model that is not split is one file, in the order that its tensors have.
    let ran = place.ok(&format!("quantize clerk.gguf {options} -o one.gguf Q4_K_M"));
    assert!(ran.stderr.contains("clerk.gguf: all tensors are in one file"), "{}", ran.stderr);
    fs::rename(place.path("one.gguf"), place.path("one-00001-of-00001.gguf")).unwrap();
    problems.extend(differing(&place, "one", &golden["clerk"]["Q4_K_M"]));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn kept_shards_have_the_sources_tensors_and_the_mix_goes_by_their_order() {
    let place = place_with_shards(SHARDS);
    let quantize = "quantize split-00001-of-00004.gguf Q4_K_M --quiet";
    place.ok(&format!("{quantize} -o kept.gguf --keep-split"));
    place.ok(&format!("{quantize} -o whole.gguf"));
    let whole = tensors(&place, "whole.gguf");
    let mut kept = Vec::new();
    for no in 0..4 {
        let made = tensors(&place, &shard_name("kept", no, 4));
        let source = tensors(&place, &shard_name("split", no, 4));
        assert_eq!((made.len(), source.len()), (SHARDS[no as usize], SHARDS[no as usize]));
        assert!(made.iter().map(|t| &t.0).eq(source.iter().map(|t| &t.0)), "shard {no}");
        let file = GgufFile::open(place.path(&shard_name("kept", no, 4))).unwrap();
        assert_eq!(file.split(), Some((no, 4)));
        assert_eq!(file.header().metadata.len() == 3, no > 0, "metadata are the first shard's");
        kept.extend(made);
    }
    // The last of three layers has more bits, and backwards that is another.
    let dtype = |tensors: &[(String, DType)], name: &str| {
        tensors.iter().find(|t| t.0 == name).unwrap_or_else(|| panic!("{name}")).1
    };
    let down = |tensors, layer| dtype(tensors, &format!("blk.{layer}.ffn_down.weight"));
    assert_eq!([down(&whole, 0), down(&whole, 2)], [DType::Q4_K, DType::Q6_K]);
    assert_eq!([down(&kept, 0), down(&kept, 2)], [DType::Q6_K, DType::Q4_K]);

    place.fails(2, &format!("{quantize} -o kept.gguf --keep-split"), &["kept-00001", "exists"]);
}

#[test]
fn a_shard_that_pruning_empties_goes_unless_it_is_the_first() {
    // The first has what is in no layer, the others a layer each: 2, 1, 0.
    let place = place_with_shards(&[3, 9, 9, 9]);
    let quantize = "quantize split-00001-of-00004.gguf F16 --quiet --keep-split";
    place.ok(&format!("{quantize} -o p.gguf --prune-layers 1"));
    let names: Vec<_> = place.entries().into_iter().filter(|n| n.starts_with("p-")).collect();
    assert_eq!(names, [0, 1, 2].map(|no| shard_name("p", no, 3)));
    let pruned = gguf::open(place.path(&names[0])).unwrap();
    let source = gguf::open(place.path("clerk.gguf")).unwrap();
    let up = |model: &gguf::GgufModel, layer| {
        let name = format!("blk.{layer}.ffn_up.weight");
        model.tensors.read_name(&name).unwrap().bytes.into_owned()
    };
    assert!(up(&pruned, 0) == up(&source, 0) && up(&pruned, 1) == up(&source, 2));
    assert!(tensors(&place, &names[1]).iter().all(|t| t.0.starts_with("blk.1.")));

    let place = place_with_shards(&[0, 3, 18, 9]);
    place.ok(&format!("{quantize} -o p.gguf --prune-layers 1,2"));
    let sizes = [0, 1, 2].map(|no| tensors(&place, &shard_name("p", no, 3)).len());
    assert_eq!(sizes, [0, 3, 9]);
}

#[test]
fn a_dry_run_tells_the_shards_that_a_run_makes() {
    let place = place_with_shards(SHARDS);
    let before = place.entries();
    for (how, sizes) in [("--keep-split", Some(SHARDS)), ("--max-shard-size 100kB", None)] {
        let quantize = format!("quantize split-00002-of-00004.gguf Q8_0 Q4_0 {how} --quiet");
        let told = place.ok(&format!("{quantize} --dry-run --json")).json();
        let table = place.ok(&format!("{quantize} --dry-run")).stdout;
        assert_eq!(place.entries(), before);
        place.ok(&format!("{quantize} -o out --force"));
        for (told, ftype) in told.as_array().unwrap().iter().zip(["Q8_0", "Q4_0"]) {
            let count = told["shards"].as_u64().unwrap();
            assert!(count >= 3 && sizes.is_none_or(|s| s.len() as u64 == count), "{count}");
            let mut at = told["tensors"].as_array().unwrap().iter();
            let mut total = 0;
            for no in 0..count {
                let name = shard_name(&format!("out/split-{ftype}"), no, count);
                let bytes = place.read(&name).len();
                assert_eq!(told["shard_bytes"][no as usize], bytes, "{name}");
                assert!(table.contains(&bytes.to_string()), "{table}");
                total += bytes;
                let made = tensors(&place, &name);
                assert!(sizes.is_none_or(|s| s[no as usize] == made.len()), "{name}");
                for (name, dtype) in made {
                    let tensor = at.next().unwrap();
                    assert_eq!(
                        (&tensor["name"], &tensor["shard"]),
                        (&name.into(), &(no + 1).into())
                    );
                    assert_eq!(tensor["type"], dtype.name());
                }
            }
            assert!(at.next().is_none());
            assert_eq!(told["bytes"], total);
        }
        fs::remove_dir_all(place.path("out")).unwrap();
    }
}

#[test]
fn shards_are_kept_of_gguf_files_only_and_not_divided_anew() {
    let place = place_with_shards(SHARDS);
    let before = place.entries();
    let quantize = "Q8_0 -o y.gguf --keep-split";
    for source in ["@recipes/demo/clerk", "@recipes/demo.yml"] {
        let parts = ["is no GGUF file", "--keep-split", "--max-shard-size"];
        place.fails(2, &format!("quantize {source} {quantize}"), &parts);
    }
    let both = format!("quantize split-00001-of-00004.gguf {quantize} --max-shard-size 1MB");
    place.fails(2, &both, &["--keep-split", "cannot be used with", "--max-shard-size"]);
    fs::remove_file(place.path("split-00002-of-00004.gguf")).unwrap();
    let line = format!("quantize split-00001-of-00004.gguf {quantize}");
    place.fails(1, &line, &["split-00002-of-00004.gguf' is missing"]);
    assert_eq!(place.entries().len(), before.len() - 1);
}

#[test]
#[should_panic(expected = "plans differ")]
fn plans_with_other_orders_do_not_mix() {
    let place = place_with_shards(SHARDS);
    let model = gguf::open(place.path("split-00001-of-00004.gguf")).unwrap();
    let output = |name: &str, sharding| {
        let options = PlanOptions { sharding, ..PlanOptions::default() };
        let plan = QuantPlan::new(&model, Ftype::Q8_0, None, &options).unwrap();
        Output { plan, path: place.path(name) }
    };
    let outputs = vec![output("a.gguf", Sharding::Keep), output("b.gguf", Sharding::OneFile)];
    let _ = quantize::run(&model, outputs, None, RunOptions::default(), None, &Silent);
}
