//! The demo: its recipe merges, converts, and the stack reads what its members were trained to read.

use aqueduct::base::dtype::DType;
use aqueduct::base::progress::Silent;
use aqueduct::formats::checkpoint::Checkpoint;
use aqueduct::measure::imatrix::{self, Options};
use aqueduct::merge;
use aqueduct::model::convert::{ConvertOptions, convert};
use aqueduct::model::tokenizer::Tokenizer;
use aqueduct::recipe::Folders;
use std::path::{Path, PathBuf};

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn stack() -> Checkpoint {
    let path = shipped("recipes/demo.yml");
    merge::open(merge::plan(&path, &Folders::beside(&path, &[])).unwrap())
}

#[test]
fn the_ends_are_both_members_and_the_layers_five() {
    let stack = stack();
    assert_eq!(stack.config.usize("num_hidden_layers"), Some(5));
    let read = |model: &Checkpoint, name: &str| {
        model.tensors.read_name(name).and_then(|data| data.to_f32()).unwrap()
    };
    let members = ["storyteller", "clerk"]
        .map(|n| Checkpoint::open(shipped("recipes/demo").join(n)).unwrap());
    for name in ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"] {
        let [a, b] = [0, 1].map(|i| read(&members[i], name));
        assert_ne!(a, b, "{name}");
        for ((ours, a), b) in read(&stack, name).iter().zip(&a).zip(&b) {
            let mean = (a + b) / 2.0;
            assert!((ours - mean).abs() <= mean.abs() / 1024.0 + 6e-8, "{name}: {ours} for {mean}");
        }
    }
    let rows = |name: &str| stack.tensors.table().get(name).unwrap().clone();
    assert_eq!(rows("model.layers.4.mlp.down_proj.weight").dtype, DType::F16);
    assert!(stack.tensors.table().infos().iter().all(|info| info.row_len() % 256 == 0));
}

#[test]
fn the_stack_reads_held_out_text_as_the_training_script_computes() {
    let model = convert(&stack(), &ConvertOptions::default()).unwrap();
    assert_eq!(model.metadata.str("tokenizer.ggml.pre"), Some("gpt-2"));
    let tokenizer = Tokenizer::from_metadata("demo", &model.metadata).unwrap();
    let text = std::fs::read_to_string(shipped("tests/data/demo/held-out.txt")).unwrap();
    let (tokens, bos) = imatrix::tokenize(&tokenizer, &[text], false).unwrap();
    assert_eq!((tokens.len(), bos), (578, Some(0)));
    let options = Options { ctx: 128, bos, ..Options::default() };
    let computed = imatrix::compute(&model, &tokens, &options, None, &Silent).unwrap();
    let expected = [1.32057, 1.43505, 1.35994, 1.40932];
    assert_eq!(computed.perplexity.running.len(), expected.len());
    for (ours, expected) in computed.perplexity.running.iter().zip(expected) {
        assert!((ours / expected - 1.0).abs() < 1e-3, "{ours} for {expected}");
    }
}
