//! Files in and out: what is written is read back, in every form files come in.

use aqueduct::base::dtype::DType;
use aqueduct::formats::gguf::{
    self, Array, GgufFile, GgufLayout, GgufModel, GgufWriter, Metadata, Value,
};
use aqueduct::formats::source::TensorInfo;
use std::path::Path;

/// Metadata with a value and an array of every type.
fn every_value() -> Metadata {
    let mut m = Metadata::new();
    m.set("general.architecture", "llama");
    m.set("u8", Value::U8(200));
    m.set("i8", Value::I8(-100));
    m.set("u16", Value::U16(60_000));
    m.set("i16", Value::I16(-30_000));
    m.set("u32", Value::U32(4_000_000_000));
    m.set("i32", Value::I32(-2_000_000_000));
    m.set("f32", Value::F32(1.0e-5));
    m.set("bool", true);
    m.set("string", "naïve ▁token");
    m.set("u64", Value::U64(u64::MAX));
    m.set("i64", Value::I64(i64::MIN));
    m.set("f64", Value::F64(std::f64::consts::PI));
    m.set("a.u8", Value::Array(Array::U8(vec![1, 2, 255])));
    m.set("a.i8", Value::Array(Array::I8(vec![-1, 2])));
    m.set("a.u16", Value::Array(Array::U16(vec![1, 65_535])));
    m.set("a.i16", Value::Array(Array::I16(vec![-1, 2])));
    m.set("a.u32", Value::Array(Array::U32(vec![1, u32::MAX])));
    m.set("a.i32", Value::Array(Array::I32(vec![-1, 2])));
    m.set("a.f32", Value::Array(Array::F32(vec![-0.5, 2.25])));
    m.set("a.bool", Value::Array(Array::Bool(vec![true, false, true])));
    m.set("a.string", Value::Array(Array::String(vec!["".into(), "<s>".into()])));
    m.set("a.u64", Value::Array(Array::U64(vec![1, u64::MAX])));
    m.set("a.i64", Value::Array(Array::I64(vec![i64::MIN])));
    m.set("a.f64", Value::Array(Array::F64(vec![])));
    m
}

/// Tensors of awkward sizes, so that padding matters, with bytes that depend on name and place.
fn tensors() -> Vec<(TensorInfo, Vec<u8>)> {
    let infos = [
        TensorInfo::new("token_embd.weight", vec![5, 64], DType::Q4_0),
        TensorInfo::new("blk.0.attn_norm.weight", vec![3], DType::F32),
        TensorInfo::new("blk.0.ffn_down.weight", vec![2, 256], DType::IQ2_XS),
        TensorInfo::new("blk.0.ffn_up_exps.weight", vec![2, 3, 4], DType::F16),
        TensorInfo::new("empty", vec![0], DType::F32),
        TensorInfo::new("output_norm.weight", vec![7], DType::BF16),
    ];
    let fill = |info: &TensorInfo| {
        let seed = info.name.len();
        (0..info.bytes().unwrap()).map(|i| (i * 7 + seed) as u8).collect()
    };
    infos.into_iter().map(|info| (info.clone(), fill(&info))).collect()
}

fn write(path: &Path, metadata: &Metadata, tensors: &[(TensorInfo, Vec<u8>)]) -> GgufFile {
    let infos = tensors.iter().map(|(info, _)| info.clone()).collect();
    let writer = GgufWriter::create(path, false, metadata, infos).unwrap();
    // Backwards, the largest in two parts: the order of writing must not matter.
    for (index, (_, bytes)) in tensors.iter().enumerate().rev() {
        let half = bytes.len() / 2;
        if index == 0 {
            writer.write_part(index, half as u64, &bytes[half..]).unwrap();
            writer.write_part(index, 0, &bytes[..half]).unwrap();
        } else {
            writer.write_tensor(index, bytes).unwrap();
        }
    }
    writer.finish().unwrap();
    GgufFile::open(path).unwrap()
}

fn assert_holds(model: &GgufModel, tensors: &[(TensorInfo, Vec<u8>)]) {
    let infos: Vec<_> = tensors.iter().map(|(info, _)| info.clone()).collect();
    assert_eq!(model.tensors.table().infos(), infos);
    for (index, (info, bytes)) in tensors.iter().enumerate() {
        let data = model.tensors.read(index).unwrap();
        assert_eq!((data.dtype, &data.shape), (info.dtype, &info.shape));
        assert_eq!(data.bytes, *bytes, "{}", info.name);
        assert_eq!(model.tensors.read_name(&info.name).unwrap().bytes, *bytes);
    }
}

#[test]
fn gguf_round_trips_every_value_and_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let file = write(&path, &every_value(), &tensors());
    assert_eq!((file.header().version, file.header().alignment), (3, 32));
    assert_eq!(file.header().metadata, every_value());
    assert!(gguf::is_gguf(&path).unwrap());
    let model = gguf::open(&path).unwrap();
    assert_eq!(model.metadata, every_value());
    assert_holds(&model, &tensors());
}

#[test]
fn gguf_layout_tells_the_size_and_pads_every_tensor() {
    let dir = tempfile::tempdir().unwrap();
    for alignment in [None, Some(8u32), Some(1024)] {
        let mut metadata = every_value();
        if let Some(alignment) = alignment {
            metadata.set(gguf::ALIGNMENT_KEY, alignment);
        }
        let path = dir.path().join(format!("{alignment:?}.gguf"));
        let file = write(&path, &metadata, &tensors());
        let infos: Vec<_> = tensors().into_iter().map(|(info, _)| info).collect();
        let layout = GgufLayout::new("test", &metadata, &infos).unwrap();
        let alignment = u64::from(alignment.unwrap_or(32));
        assert_eq!(layout.file_bytes(), std::fs::metadata(&path).unwrap().len());
        assert_eq!(layout.file_bytes() % alignment, 0, "the last tensor is padded too");
        assert!(file.header().offsets.iter().all(|offset| offset % alignment == 0));
        assert_holds(&gguf::open(&path).unwrap(), &tensors());
        // Between the last tensor's 14 bytes and the end is padding, which is zero.
        let bytes = std::fs::read(&path).unwrap();
        let end = *file.header().offsets.last().unwrap() as usize + 14;
        assert!(bytes[end..].iter().all(|&b| b == 0));
    }
}

#[test]
fn gguf_version_2_reads_as_version_3_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v3.gguf");
    write(&path, &every_value(), &tensors());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4..8].copy_from_slice(&2u32.to_le_bytes());
    let path = dir.path().join("v2.gguf");
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(GgufFile::open(&path).unwrap().header().version, 2);
    assert_holds(&gguf::open(&path).unwrap(), &tensors());
}

#[test]
fn gguf_drops_outer_ones_and_gives_scalars_a_dimension() {
    let dir = tempfile::tempdir().unwrap();
    let one = |name: &str, shape| (TensorInfo::new(name, shape, DType::F32), vec![0; 4]);
    let tensors = [
        one("scalar", vec![]),
        one("ones", vec![1, 1, 1, 1, 1]),
        (TensorInfo::new("row", vec![1, 1, 8], DType::F32), vec![0; 32]),
        (TensorInfo::new("column", vec![8, 1], DType::F32), vec![0; 32]),
    ];
    let file = write(&dir.path().join("x.gguf"), &Metadata::new(), &tensors);
    let shapes: Vec<_> = file.header().tensors.iter().map(|t| t.shape.clone()).collect();
    assert_eq!(shapes, [vec![1], vec![1], vec![8], vec![8, 1]]);
}

/// Writes `tensors` as three shards and gives the folder.
fn split(dir: &Path) -> Vec<std::path::PathBuf> {
    let all = tensors();
    let ranges = [0..1, 1..4, 4..6];
    (ranges.into_iter().enumerate())
        .map(|(no, range)| {
            let mut metadata = if no == 0 { every_value() } else { Metadata::new() };
            metadata.set("split.no", Value::U16(no as u16));
            metadata.set("split.count", Value::U16(3));
            metadata.set("split.tensors.count", Value::I32(6));
            let path = dir.join(gguf::shard_name("model", no as u64, 3));
            write(&path, &metadata, &all[range]);
            path
        })
        .collect()
}

#[test]
fn gguf_splits_open_through_any_shard() {
    let dir = tempfile::tempdir().unwrap();
    let paths = split(dir.path());
    assert_eq!(paths[1].file_name().unwrap(), "model-00002-of-00003.gguf");
    for path in &paths {
        let model = gguf::open(path).unwrap();
        assert_eq!(model.metadata, every_value(), "the first shard's, without split.*");
        assert_holds(&model, &tensors());
    }
}

#[test]
fn gguf_missing_and_misnamed_shards_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let paths = split(dir.path());
    let error = |path: &Path| gguf::open(path).err().expect("must fail").to_string();

    let kept = std::fs::read(&paths[2]).unwrap();
    std::fs::remove_file(&paths[2]).unwrap();
    let text = error(&paths[0]);
    assert!(text.contains("'model-00003-of-00003.gguf' is missing"), "{text}");

    std::fs::copy(&paths[1], &paths[2]).unwrap();
    let text = error(&paths[0]);
    assert!(text.contains("is named 3 of 3, but holds shard 2 of 3"), "{text}");

    std::fs::write(&paths[2], &kept).unwrap();
    let other = dir.path().join("other.gguf");
    std::fs::rename(&paths[0], &other).unwrap();
    let text = error(&other);
    assert!(text.contains("must end in '-00001-of-00003.gguf'"), "{text}");
}

#[test]
fn gguf_writer_refuses_what_is_incomplete_or_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let infos =
        vec![TensorInfo::new("a", vec![8], DType::F32), TensorInfo::new("b", vec![8], DType::F32)];
    let create = || GgufWriter::create(&path, false, &Metadata::new(), infos.clone()).unwrap();

    let writer = create();
    assert!(writer.write_tensor(0, &[0; 31]).is_err());
    assert!(writer.write_part(0, 16, &[0; 17]).is_err());
    assert!(writer.write_part(0, u64::MAX, &[0; 17]).is_err());
    writer.write_tensor(0, &[0; 32]).unwrap();
    let text = writer.finish().unwrap_err().to_string();
    assert!(text.contains("'b'") && text.contains("0 of its 32 bytes"), "{text}");

    let writer = create();
    writer.write_tensor(0, &[0; 32]).unwrap();
    let text = writer.write_tensor(0, &[0; 32]).unwrap_err().to_string();
    assert!(text.contains("'a'") && text.contains("twice"), "{text}");
    assert!(writer.finish().is_err());

    drop(create());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");

    let long = TensorInfo::new("n".repeat(64), vec![8], DType::F32);
    let deep = TensorInfo::new("deep", vec![2; 5], DType::F32);
    let broken = TensorInfo::new("broken", vec![2, 33], DType::Q4_0);
    for bad in [long, deep, broken] {
        assert!(GgufLayout::new("test", &Metadata::new(), &[bad]).is_err());
    }
}
