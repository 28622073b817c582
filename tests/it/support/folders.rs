//! Small Hugging Face folders.

use aqueduct::base::dtype::DType;
use aqueduct::base::progress::Silent;
use aqueduct::formats::checkpoint::{self, Checkpoint, Config, WriteOptions};
use aqueduct::formats::source::{MemorySource, TensorInfo, TensorSource};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model of mixed types in memory, with names that sort differently from their order.
pub(crate) fn model() -> Checkpoint {
    let mut tensors = vec![("model.embed_tokens.weight".to_string(), vec![10, 6], DType::F16)];
    for layer in [0, 1, 2, 10] {
        let name = |rest: &str| format!("model.layers.{layer}.{rest}");
        tensors.push((name("self_attn.q_proj.weight"), vec![6, 6], DType::BF16));
        tensors.push((name("input_layernorm.weight"), vec![3], DType::F32));
    }
    tensors.push(("a \"quoted\" näme".to_string(), vec![5], DType::F16));
    let tensors = tensors.into_iter().enumerate().map(|(seed, (name, shape, dtype))| {
        let info = TensorInfo::new(name, shape, dtype);
        let data = (0..info.bytes().unwrap()).map(|i| (i * 5 + seed * 11) as u8).collect();
        (info, data)
    });
    let config = r#"{"architectures": ["LlamaForCausalLM"], "zeta": 1, "alpha": [1.5, null]}"#;
    Checkpoint {
        name: "model".to_string(),
        config: Config::parse("memory", config).unwrap(),
        tensors: Arc::new(MemorySource::new("memory", tensors.collect()).unwrap()),
        side_files: Vec::new(),
        card: None,
        warnings: Vec::new(),
    }
}

pub(crate) fn write(model: &Checkpoint, dir: &Path, max_shard_bytes: u64) -> checkpoint::Written {
    let options = WriteOptions { max_shard_bytes, ..WriteOptions::default() };
    checkpoint::write(model, dir, &options, &Silent).unwrap()
}

pub(crate) fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

pub(crate) fn assert_equal(left: &dyn TensorSource, right: &dyn TensorSource) {
    assert_eq!(left.table().infos().len(), right.table().infos().len());
    for (index, info) in left.table().infos().iter().enumerate() {
        assert_eq!(right.table().get(&info.name), Some(info));
        let (a, b) = (left.read(index).unwrap(), right.read_name(&info.name).unwrap());
        assert_eq!((a.dtype, a.shape, a.bytes), (b.dtype, b.shape, b.bytes), "{}", info.name);
    }
}

/// A good sharded folder.
pub(crate) fn sharded() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("model");
    assert!(write(&model(), &dir, 700).shards >= 2);
    (temp, dir)
}
