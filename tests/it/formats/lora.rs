//! LoRA adapters merged on the fly: PEFT's own results, values by hand, and adapters that do not
//! fit.

use crate::support::program::Place;
use crate::support::pytorch_file as pytorch;
use aqueduct::base::dtype::DType;
use aqueduct::base::progress::Silent;
use aqueduct::formats::checkpoint::{self, Checkpoint, WriteOptions, with_adapter};
use aqueduct::formats::source::{MemorySource, TensorInfo};
use aqueduct::quants;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A tensor's name, shape and values.
type Tensor = (String, Vec<usize>, Vec<f32>);

const Q: &str = "model.layers.0.self_attn.q_proj";
const UP: &str = "model.layers.0.mlp.up_proj";

fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.block_bytes()];
    quants::encode_float(dtype, values, &mut bytes).unwrap();
    bytes
}

/// Values that need all bits of an f32.
fn made(seed: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + seed * 101) % 97) as f32 / 97.0 - 0.5).collect()
}

/// A base of hidden size 4 with 5 tokens.
fn base(dtype: DType) -> Checkpoint {
    let tensor = |(seed, (name, shape)): (usize, (&str, Vec<usize>))| {
        let info = TensorInfo::new(name, shape, dtype);
        let bytes = encode(dtype, &made(seed, info.elements()));
        (info, bytes)
    };
    let tensors = [
        ("model.embed_tokens.weight", vec![5, 4]),
        ("model.layers.0.self_attn.q_proj.weight", vec![4, 4]),
        ("model.layers.0.mlp.up_proj.weight", vec![6, 4]),
        ("model.norm.weight", vec![4]),
        ("lm_head.weight", vec![5, 4]),
    ];
    let tensors = tensors.into_iter().enumerate().map(tensor).collect();
    Checkpoint {
        name: "base".to_string(),
        config: checkpoint::Config::parse("base/config.json", "{}").unwrap(),
        tensors: Arc::new(MemorySource::new("base", tensors).unwrap()),
        side_files: Vec::new(),
        card: None,
        warnings: Vec::new(),
    }
}

fn config(more: Value) -> Value {
    let mut config = json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["q_proj"], "bias": "none",
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn pair(module: &str, rank: usize, rows: usize, columns: usize) -> Vec<Tensor> {
    let name = |part: &str| format!("base_model.model.{module}.lora_{part}.weight");
    vec![
        (name("A"), vec![rank, columns], made(11, rank * columns)),
        (name("B"), vec![rows, rank], made(12, rows * rank)),
    ]
}

/// Writes an adapter of F32 tensors into `dir`.
fn write_adapter(dir: &Path, config: &Value, tensors: &[Tensor]) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, _, v)| encode(DType::F32, v)).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let dtype = safetensors::Dtype::F32;
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    let file = safetensors::serialize(views, None).unwrap();
    fs::write(dir.join("adapter_model.safetensors"), file).unwrap();
}

fn merged(dtype: DType, config: &Value, tensors: &[Tensor]) -> aqueduct::Result<Checkpoint> {
    let dir = tempfile::tempdir().unwrap();
    write_adapter(dir.path(), config, tensors);
    with_adapter(&base(dtype), dir.path())
}

fn read(model: &Checkpoint, name: &str) -> Vec<f32> {
    model.tensors.read_name(name).unwrap().to_f32().unwrap()
}

/// `w + scale * (b a)`, term by term.
fn expected(w: &[f32], scale: f32, a: &[f32], b: &[f32], rank: usize) -> Vec<f32> {
    let columns = a.len() / rank;
    let delta = |i: usize| {
        let (row, column) = (i / columns, i % columns);
        (0..rank).fold(0f32, |sum, k| sum + b[row * rank + k] * a[k * columns + column])
    };
    w.iter().enumerate().map(|(i, w)| w + scale * delta(i)).collect()
}

#[test]
fn weights_are_the_base_plus_the_scaled_product_rounded_once() {
    let tensors = pair(Q, 2, 4, 4);
    for (more, scale) in [
        (json!({}), 1.5),
        (json!({"use_rslora": true}), (3.0 / 2f64.sqrt()) as f32),
        (json!({"alpha_pattern": {"q_proj": 5}}), 2.5),
        (json!({"target_modules": ".*q_proj"}), 1.5),
        (json!({"target_modules": "all-linear"}), 1.5),
        (json!({"r": 8, "lora_alpha": 16, "rank_pattern": {"0.self_attn.q_proj": 2}}), 8.0),
    ] {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let model = merged(dtype, &config(more.clone()), &tensors).unwrap();
            let name = format!("{Q}.weight");
            let w = read(&base(dtype), &name);
            let values = expected(&w, scale, &tensors[0].2, &tensors[1].2, 2);
            let data = model.tensors.read_name(&name).unwrap();
            assert_eq!(
                (data.dtype, &data.bytes[..]),
                (dtype, &encode(dtype, &values)[..]),
                "{more}"
            );
            let untouched = format!("{UP}.weight");
            assert_eq!(read(&model, &untouched), read(&base(dtype), &untouched));
        }
    }
}

#[test]
fn wide_matrices_are_cut_without_a_trace() {
    let (rows, columns, rank) = (3, 2500, 3);
    let info = TensorInfo::new("w.weight", vec![rows, columns], DType::F32);
    let w = made(1, rows * columns);
    let source = MemorySource::new("base", vec![(info, encode(DType::F32, &w))]).unwrap();
    let base = Checkpoint { tensors: Arc::new(source), ..base(DType::F32) };
    let tensors = pair("w", rank, rows, columns);
    let dir = tempfile::tempdir().unwrap();
    write_adapter(dir.path(), &config(json!({"r": rank, "target_modules": ["w"]})), &tensors);
    let model = with_adapter(&base, dir.path()).unwrap();
    assert_eq!(read(&model, "w.weight"), expected(&w, 1.0, &tensors[0].2, &tensors[1].2, rank));
}

#[test]
fn embeddings_have_their_matrices_the_other_way_round() {
    let name = |part: &str| format!("base_model.model.model.embed_tokens.lora_embedding_{part}");
    let (a, b) = (made(3, 2 * 5), made(4, 4 * 2));
    let tensors = [(name("A"), vec![2, 5], a.clone()), (name("B"), vec![4, 2], b.clone())];
    let config = config(json!({"target_modules": ["embed_tokens"]}));
    let model = merged(DType::F32, &config, &tensors).unwrap();
    let w = read(&base(DType::F32), "model.embed_tokens.weight");
    let got = read(&model, "model.embed_tokens.weight");
    for token in 0..5 {
        for column in 0..4 {
            let delta = b[column * 2] * a[token] + b[column * 2 + 1] * a[5 + token];
            assert_eq!(got[token * 4 + column], w[token * 4 + column] + 1.5 * delta);
        }
    }
}

#[test]
fn modules_that_were_trained_whole_replace_the_base() {
    let head = ("base_model.model.lm_head.weight".to_string(), vec![5, 4], made(9, 20));
    let mut tensors = pair(Q, 2, 4, 4);
    tensors.push(head.clone());
    let config = config(json!({"modules_to_save": ["lm_head"]}));
    let model = merged(DType::BF16, &config, &tensors).unwrap();
    let rounded = encode(DType::BF16, &head.2);
    assert_eq!(&model.tensors.read_name("lm_head.weight").unwrap().bytes[..], &rounded[..]);
}

#[test]
fn pytorch_files_of_adapters_are_read_too() {
    let tensors = pair(Q, 2, 4, 4);
    let dir = tempfile::tempdir().unwrap();
    write_adapter(dir.path(), &config(json!({})), &tensors);
    let safe = with_adapter(&base(DType::F16), dir.path()).unwrap();
    let name = format!("{Q}.weight");
    let expected = read(&safe, &name);
    let bytes: Vec<_> = tensors.iter().map(|(_, _, v)| encode(DType::F32, v)).collect();
    let listed: Vec<pytorch::Tensor<'_>> = (tensors.iter().zip(&bytes))
        .map(|((name, shape, _), bytes)| (name.as_str(), DType::F32, &shape[..], &bytes[..]))
        .collect();
    let file = pytorch::zip(&pytorch::archive(&listed), false);
    drop(safe);
    fs::remove_file(dir.path().join("adapter_model.safetensors")).unwrap();
    fs::write(dir.path().join("adapter_model.bin"), file).unwrap();
    assert_eq!(read(&with_adapter(&base(DType::F16), dir.path()).unwrap(), &name), expected);
}

/// PEFT's own merge of an adapter that it saved: see the data's README.
#[test]
fn merges_equal_those_of_peft() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/lora");
    let model = with_adapter(&Checkpoint::open(data.join("base")).unwrap(), &data.join("adapter"));
    let model = model.unwrap();
    let bytes = fs::read(data.join("merged.safetensors")).unwrap();
    let golden = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut changed = 0;
    let base = Checkpoint::open(data.join("base")).unwrap();
    for (name, view) in golden.iter() {
        let expected: Vec<f32> =
            view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        let actual = read(&model, name);
        let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
        let worst = actual.iter().zip(&expected).fold(0f32, |m, (a, e)| m.max((a - e).abs()));
        assert!(worst <= 1e-6 * largest, "{name}: off by {worst} of {largest}");
        changed += usize::from(read(&base, name) != actual);
    }
    assert_eq!(golden.len(), model.tensors.table().infos().len());
    assert_eq!(changed, 8, "q_proj, v_proj and down_proj of two layers, embedding and head");
}

/// Asserts that an adapter is refused with a message that has all of `parts`.
#[track_caller]
fn refused(config: &Value, tensors: &[Tensor], parts: &[&str]) {
    let text = merged(DType::F32, config, tensors).err().expect("must be refused").to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text:?} lacks some of {parts:?}");
}

#[test]
fn adapters_that_do_not_fit_are_refused_with_both_sides() {
    let good = config(json!({}));
    let safetensors = "adapter_model.safetensors";
    let a_name = format!("'base_model.model.{Q}.lora_A.weight'");
    // Another rank than the configuration's, and another width than the base's.
    refused(&good, &pair(Q, 3, 4, 4), &[safetensors, &a_name, "[3, 4]", "rank 2", "[2, 4]"]);
    refused(
        &good,
        &pair(Q, 2, 4, 8),
        &[&a_name, "[2, 8]", "q_proj.weight' of shape [4, 4] in base"],
    );
    refused(&good, &pair(Q, 2, 6, 4), &["lora_B", "[6, 2]", "need [4, 2]"]);
    // Half a pair.
    refused(&good, &pair(Q, 2, 4, 4)[..1], &["'target_modules' includes", Q, "complete pair"]);
    let loose = config(json!({"target_modules": ".*"}));
    refused(&loose, &pair(Q, 2, 4, 4)[..1], &[&a_name, "has no lora_B"]);
    refused(&loose, &pair(Q, 2, 4, 4)[1..], &["lora_B.weight'", "has no lora_A"]);
    // A target that the file lacks, a tensor that is no target, a module that the base lacks.
    let both = config(json!({"target_modules": ["q_proj", "up_proj"]}));
    refused(&both, &pair(Q, 2, 4, 4), &["adapter_config.json", UP, "base", safetensors]);
    let some = config(json!({"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0]}));
    assert!(merged(DType::F32, &some, &pair(Q, 2, 4, 4)).is_ok());
    refused(&good, &[pair(Q, 2, 4, 4), pair(UP, 2, 6, 4)].concat(), &[UP, "'target_modules'"]);
    let absent = "model.layers.1.self_attn.q_proj";
    refused(
        &good,
        &[pair(Q, 2, 4, 4), pair(absent, 2, 4, 4)].concat(),
        &[absent, "which base lacks"],
    );
    refused(
        &config(json!({"target_modules": ".*norm"})),
        &pair("model.norm", 2, 4, 4),
        &["'model.norm.weight' of shape [4]"],
    );
    // What is saved whole.
    let whole = |shape: Vec<usize>| {
        let n = shape.iter().product();
        let head = ("base_model.model.lm_head.weight".to_string(), shape, made(1, n));
        [pair(Q, 2, 4, 4), vec![head]].concat()
    };
    refused(&good, &whole(vec![7, 4]), &[safetensors, "embedding of base 5 tokens", "its head 7"]);
    let saved = config(json!({"modules_to_save": ["lm_head"]}));
    refused(&saved, &pair(Q, 2, 4, 4), &["'modules_to_save' names 'lm_head'", safetensors]);
    let other = ("base_model.model.model.norm.weight".to_string(), vec![4], made(1, 4));
    let stray = [pair(Q, 2, 4, 4), vec![other]].concat();
    refused(&good, &stray, &["'model.norm' is not among 'modules_to_save'"]);
    // Names that are none of PEFT's.
    let bias = ("base_model.model.x.lora_B.bias".to_string(), vec![4], made(1, 4));
    refused(&good, &[bias], &["x.lora_B.bias", "'lora_bias'"]);
    refused(&good, &[], &["without tensors"]);
    refused(
        &config(json!({"use_dora": true})),
        &pair(Q, 2, 4, 4),
        &["use_dora", "no lora_magnitude_vector"],
    );
}

#[test]
fn folders_that_are_no_adapters() {
    let dir = tempfile::tempdir().unwrap();
    let text = |dir: &Path| with_adapter(&base(DType::F32), dir).err().unwrap().to_string();
    assert!(text(dir.path()).contains("no adapter_config.json"));
    fs::write(dir.path().join("adapter_config.json"), config(json!({})).to_string()).unwrap();
    assert!(text(dir.path()).contains("without weights"));
}

/// A recipe beside a base model, the demo's, and an adapter for it.
fn place_with_adapter() -> (Place, PathBuf) {
    let place = Place::new();
    let base = Checkpoint::open(crate::support::program::shipped("recipes/demo/clerk")).unwrap();
    let folder = place.path("clerk");
    checkpoint::write(&base, &folder, &WriteOptions::default(), &Silent).unwrap();
    let info = base.tensors.table().get(&format!("{Q}.weight")).unwrap().clone();
    let layers = base.config.usize("num_hidden_layers").unwrap();
    let tensors: Vec<Tensor> = (0..layers)
        .flat_map(|i| pair(&Q.replace('0', &i.to_string()), 2, info.shape[0], info.shape[1]))
        .collect();
    write_adapter(&place.path("adapter"), &config(json!({})), &tensors);
    (place, folder)
}

#[test]
fn recipes_name_adapters_in_both_forms() {
    let (place, folder) = place_with_adapter();
    let stack = |model: &str| format!("merge_method: passthrough\nmodels: [{{model: {model}}}]\n");
    for (name, model) in [
        ("short", "clerk+adapter"),
        ("long", "{model: {path: clerk, revision: main}, lora: {path: adapter}}"),
        ("mixed", "{model: clerk, lora: adapter}"),
    ] {
        fs::write(place.path("recipe.yml"), stack(model)).unwrap();
        place.ok(&format!("merge recipe.yml -o {name}"));
    }
    let [short, long, mixed] = ["short", "long", "mixed"].map(|name| {
        let path = place.path(name).join("model.safetensors");
        fs::read(path).unwrap()
    });
    assert!(short == long && short == mixed);
    let (model, base) =
        (Checkpoint::open(place.path("short")).unwrap(), Checkpoint::open(&folder).unwrap());
    let expected = with_adapter(&base, &place.path("adapter")).unwrap();
    let name = format!("{Q}.weight");
    assert_eq!(read(&model, &name), read(&expected, &name));
    assert_ne!(read(&model, &name), read(&base, &name));
    let card = String::from_utf8(place.read("short/README.md")).unwrap();
    assert!(card.contains("clerk+adapter"), "{card}");
    // The adapter's own names do not matter to a plan of shapes.
    fs::write(place.path("recipe.yml"), stack("clerk+adapter")).unwrap();
    place.ok("plan recipe.yml --no-members");
}

#[test]
fn wrong_adapters_are_reported_where_the_recipe_names_them() {
    let (place, _) = place_with_adapter();
    let fails = |model: &str, parts: &[&str]| {
        let text = format!("merge_method: passthrough\nmodels: [{{model: {model}}}]\n");
        fs::write(place.path("recipe.yml"), text).unwrap();
        let mut all = vec!["recipe.yml:2:18"];
        all.extend_from_slice(parts);
        place.fails(1, "plan recipe.yml", &all);
    };
    fails("clerk+gone", &["adapter 'gone' is not on disk", "put its folder"]);
    fails("clerk+clerk", &["model 'clerk+clerk' cannot be used", "no adapter_config.json"]);
    fails("adapter", &["model 'adapter' cannot be used", "BASE+ADAPTER"]);
    fails("clerk+adapter+adapter", &["one '+' may set off an adapter"]);
    fs::write(
        place.path("adapter/adapter_config.json"),
        config(json!({"use_qalora": true})).to_string(),
    )
    .unwrap();
    fails("clerk+adapter", &["'use_qalora'", "merge_and_unload"]);
    let staged = "name: first\nmerge_method: passthrough\nmodels: [{model: clerk}]\n---\n\
                  merge_method: passthrough\nmodels: [{model: first+adapter}]\n";
    fs::write(place.path("recipe.yml"), staged).unwrap();
    place.fails(
        1,
        "plan recipe.yml",
        &["adapter 'adapter' cannot be merged into the stage 'first'"],
    );
}

#[test]
fn names_of_the_hub_are_found_in_its_cache() {
    let (place, folder) = place_with_adapter();
    let repository = place.path("hub/models--org--clerk");
    fs::create_dir_all(repository.join("snapshots")).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "0a1b").unwrap();
    fs::rename(&folder, repository.join("snapshots/0a1b")).unwrap();
    let run = |model: &str| {
        let text = format!("merge_method: passthrough\nmodels: [{{model: {model}}}]\n");
        fs::write(place.path("recipe.yml"), text).unwrap();
        let mut command = place.command("merge recipe.yml -o out --force");
        command.env("HF_HUB_CACHE", place.path("hub")).env("HF_HUB_OFFLINE", "1").output().unwrap()
    };
    for model in ["org/clerk", "org/clerk@main", "org/clerk@0a1b+adapter"] {
        let ran = run(model);
        assert!(ran.status.success(), "{model}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    let missing = String::from_utf8(run("org/clerk@v2").stderr).unwrap();
    assert!(missing.contains("hf download org/clerk --revision v2"), "{missing}");
    fs::remove_file(repository.join("snapshots/0a1b/model.safetensors")).unwrap();
    let partial = String::from_utf8(run("org/clerk").stderr).unwrap();
    assert!(
        partial.contains("no weights") && partial.contains("hf download org/clerk"),
        "{partial}"
    );
}
