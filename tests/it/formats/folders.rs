//! Hugging Face folders: what is written is read back, by this library and by the safetensors crate.

use crate::support::folders::{assert_equal, model, names, write};
use aqueduct::base::dtype::DType;
use aqueduct::base::progress::Silent;
use aqueduct::formats::checkpoint::{self, Checkpoint, SafetensorsFile, WriteOptions};
use aqueduct::formats::source::{MemorySource, TensorInfo};
use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

#[test]
fn one_file_when_it_fits() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("out");
    let written = write(&model(), &dir, checkpoint::DEFAULT_SHARD_BYTES);
    assert_eq!((written.shards, written.tensors, written.parameters), (1, 10, 60 + 4 * 39 + 5));
    let expected = ["config.json", "model.safetensors"].map(String::from);
    assert_eq!(names(&dir), expected.into());
    assert_eq!(fs::metadata(dir.join("model.safetensors")).unwrap().len(), written.bytes);

    let back = Checkpoint::open(&dir).unwrap();
    assert_eq!(back.name, "out");
    assert_eq!(back.config.map(), model().config.map());
    assert_equal(model().tensors.as_ref(), back.tensors.as_ref());
}

#[test]
fn shards_keep_to_their_size_and_the_index_names_them() {
    let temp = tempfile::tempdir().unwrap();
    let (mut counts, model) = (BTreeSet::new(), model());
    for max in [1, 300, 500, 700, 1000, 2000] {
        let dir = temp.path().join(max.to_string());
        let written = write(&model, &dir, max);
        counts.insert(written.shards);
        let back = Checkpoint::open(&dir).unwrap();
        assert_equal(model.tensors.as_ref(), back.tensors.as_ref());
        let plan = checkpoint::plan_shards("memory", model.tensors.table(), max).unwrap();
        for shard in &plan {
            let file_bytes = fs::metadata(dir.join(&shard.name)).unwrap().len();
            assert_eq!(file_bytes, shard.file_bytes);
            assert!(file_bytes <= max || shard.tensors.len() == 1, "{max}: {file_bytes}");
        }
        if written.shards > 1 {
            let last = format!("model-{0:05}-of-{0:05}.safetensors", written.shards);
            assert_eq!(plan.last().unwrap().name, last);
            let index = fs::read_to_string(dir.join("model.safetensors.index.json")).unwrap();
            let index: serde_json::Value = serde_json::from_str(&index).unwrap();
            assert_eq!(index["metadata"]["total_size"], 120 + 4 * 84 + 10);
            assert_eq!(index["weight_map"].as_object().unwrap().len(), 10);
        }
    }
    assert!(counts.contains(&10) && counts.contains(&1) && counts.len() >= 4, "{counts:?}");
}

#[test]
fn the_safetensors_crate_reads_our_shards() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("out");
    let model = model();
    write(&model, &dir, 700);
    let mut found = 0;
    for name in names(&dir).iter().filter(|n| n.ends_with(".safetensors")) {
        let bytes = fs::read(dir.join(name)).unwrap();
        let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(header_len % 8, 0);
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        for (name, view) in safetensors::SafeTensors::deserialize(&bytes).unwrap().iter() {
            assert_eq!(view.data(), &*model.tensors.read_name(name).unwrap().bytes);
            found += 1;
        }
        let ours = SafetensorsFile::open(dir.join(name)).unwrap();
        assert_eq!(ours.metadata()["format"], "pt");
        let width = |e: &checkpoint::SafetensorsEntry| e.info().unwrap().dtype.block_bytes();
        assert!(ours.entries().iter().all(|e| e.range.start % width(e) == 0), "aligned");
    }
    assert_eq!(found, 10);
}

#[test]
fn side_files_travel_unchanged_and_others_stay() {
    let temp = tempfile::tempdir().unwrap();
    let (first, second) = (temp.path().join("first"), temp.path().join("second"));
    write(&model(), &first, 5000);
    let tokenizer = b"{\"not\":  \"reformatted\"}\r\n\xff";
    fs::write(first.join("tokenizer.json"), tokenizer).unwrap();
    fs::write(first.join("chat_template.jinja"), b"{{ bos }}").unwrap();
    fs::write(first.join("README.md"), b"# about the first").unwrap();
    let source = Checkpoint::open(&first).unwrap();
    assert!(
        source.side_file("tokenizer.json").is_some() && source.side_file("README.md").is_none()
    );

    let extra = vec![("README.md".to_string(), b"# about the second".to_vec())];
    let options = WriteOptions { extra, ..WriteOptions::default() };
    checkpoint::write(&source, &second, &options, &Silent).unwrap();
    assert_eq!(fs::read(second.join("tokenizer.json")).unwrap(), tokenizer);
    assert_eq!(fs::read(second.join("chat_template.jinja")).unwrap(), b"{{ bos }}");
    assert_eq!(fs::read(second.join("README.md")).unwrap(), b"# about the second");

    for bad in ["config.json", "../README.md", "model.safetensors"] {
        let extra = vec![(bad.to_string(), Vec::new())];
        let options = WriteOptions { extra, ..WriteOptions::default() };
        let third = temp.path().join("third");
        assert!(checkpoint::write(&source, &third, &options, &Silent).is_err(), "{bad}");
        assert!(!third.exists());
    }
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let temp = tempfile::tempdir().unwrap();
    let bytes = [1, 4].map(|threads| {
        let dir = temp.path().join(threads.to_string());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| write(&model(), &dir, 700));
        names(&dir).iter().map(|n| fs::read(dir.join(n)).unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(bytes[0], bytes[1]);
}

#[test]
fn folders_without_an_index_open_if_it_is_plain_what_belongs_to_them() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("out");
    write(&model(), &dir, 700);
    fs::remove_file(dir.join("model.safetensors.index.json")).unwrap();
    let back = Checkpoint::open(&dir).unwrap();
    assert_equal(model().tensors.as_ref(), back.tensors.as_ref());

    let dir = temp.path().join("named");
    write(&model(), &dir, 5000);
    fs::rename(dir.join("model.safetensors"), dir.join("weights.safetensors")).unwrap();
    assert_equal(model().tensors.as_ref(), Checkpoint::open(&dir).unwrap().tensors.as_ref());
    fs::copy(dir.join("weights.safetensors"), dir.join("more.safetensors")).unwrap();
    let text = Checkpoint::open(&dir).err().unwrap().to_string();
    assert!(text.contains("2 safetensors files"), "{text}");
}

#[test]
fn integer_buffers_are_passed_over() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("out");
    let mut with_buffer = model();
    let info = TensorInfo::new("model.position_ids", vec![4], DType::I64);
    let weight = TensorInfo::new("w", vec![1], DType::F32);
    let tensors = vec![(info, vec![0; 32]), (weight, vec![0; 4])];
    with_buffer.tensors = Arc::new(MemorySource::new("memory", tensors).unwrap());
    write(&with_buffer, &dir, 5000);
    let names: Vec<_> = Checkpoint::open(&dir).unwrap().tensors.table().infos().to_vec();
    assert_eq!(names.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["w"]);
}
