//! PyTorch's weights files: a real one, folders of them, and a corpus of hostile ones. The files
//! are made by the small writer at the top, which knows no more of zip and pickle than PyTorch
//! writes.

use crate::support::files::assert_error;
use crate::support::folders;
use crate::support::program::Place;
use crate::support::pytorch_file::{Entries, Pickle, Tensor, archive, zip};
use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::Checkpoint;
use std::fs;
use std::path::{Path, PathBuf};

/// Opens a folder whose only weights are `bytes`.
fn open(bytes: &[u8]) -> aqueduct::Result<Checkpoint> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    fs::write(dir.path().join("pytorch_model.bin"), bytes).unwrap();
    Checkpoint::open(dir.path())
}

/// Opens an archive with `pickle` and one storage of 6 F32.
fn open_pickle(pickle: Vec<u8>) -> aqueduct::Result<Checkpoint> {
    let mut values = Vec::new();
    (0..6).for_each(|i| values.extend_from_slice(&(i as f32).to_le_bytes()));
    let entries = [("m/data.pkl".to_string(), pickle), ("m/data/0".to_string(), values)];
    open(&zip(&entries, false))
}

/// Asserts that a pickle is refused, where and why.
#[track_caller]
fn refused(pickle: Vec<u8>, parts: &[&str]) {
    let mut all = vec!["pytorch_model.bin", "offset"];
    all.extend_from_slice(parts);
    assert_error(open_pickle(pickle), &all);
}

/// A pickle of one tensor over the storage of 6 F32.
fn one_tensor(offset: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let storage = |p: Pickle| p.storage("FloatStorage", "0", 6);
    Pickle::new().dict().text("w").tensor(storage, offset, shape, strides).raw(b"s").done()
}

#[test]
fn a_file_of_torch_save_reads_as_it_was_saved() {
    let bytes =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pytorch/small.bin"));
    let model = open(&bytes.unwrap()).unwrap();
    let embedding: Vec<f32> = (0..12).map(|i| i as f32 - 5.5).collect();
    let expected: &[(&str, DType, &[usize], &[f32])] = &[
        ("embed.weight", DType::F32, &[3, 4], &embedding),
        ("head.weight", DType::F32, &[3, 4], &embedding),
        ("half", DType::F16, &[2, 3], &[0.0, 0.25, 0.5, 0.75, 1.0, 1.25]),
        ("brain", DType::BF16, &[6], &[-3.0, -2.0, -1.0, 0.0, 1.0, 2.0]),
        ("turned", DType::F32, &[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
        ("slice", DType::F32, &[2, 3], &[3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
        ("column", DType::F32, &[4], &[1.0, 4.0, 7.0, 10.0]),
        ("parameter", DType::F32, &[2], &[1.5, -2.5]),
        ("scalar", DType::F32, &[], &[0.75]),
        ("none", DType::F32, &[0, 4], &[]),
    ];
    // position_ids, of integers, is a buffer and left out.
    assert_eq!(model.tensors.table().infos().len(), expected.len());
    for (name, dtype, shape, values) in expected {
        let data = model.tensors.read_name(name).unwrap();
        assert_eq!((data.dtype, data.shape.as_slice()), (*dtype, *shape), "{name}");
        assert_eq!(data.to_f32().unwrap(), *values, "{name}");
    }
}

/// Writes the tensors of `model` as PyTorch files into `dir`: one, or shards with an index.
fn write_folder(model: &Checkpoint, dir: &Path, shards: usize, wide: bool) {
    let infos = model.tensors.table().infos();
    let read: Vec<_> = (0..infos.len()).map(|i| model.tensors.read(i).unwrap()).collect();
    let tensors: Vec<Tensor<'_>> = (infos.iter().zip(&read))
        .map(|(info, data)| (info.name.as_str(), info.dtype, &info.shape[..], &data.bytes[..]))
        .collect();
    let mut weight_map = serde_json::Map::new();
    for (i, part) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
        let name = match shards {
            1 => "pytorch_model.bin".to_string(),
            n => format!("pytorch_model-{:05}-of-{n:05}.bin", i + 1),
        };
        fs::write(dir.join(&name), zip(&archive(part), wide)).unwrap();
        weight_map.extend(part.iter().map(|t| (t.0.to_string(), name.clone().into())));
    }
    if shards > 1 {
        let index = serde_json::json!({ "metadata": {}, "weight_map": weight_map });
        fs::write(dir.join("pytorch_model.bin.index.json"), index.to_string()).unwrap();
    }
    fs::write(dir.join("config.json"), model.config.to_json()).unwrap();
}

#[test]
fn folders_of_pytorch_files_equal_those_of_safetensors() {
    let model = folders::model();
    for (shards, wide, index) in
        [(1, false, true), (1, true, true), (3, false, true), (3, true, false)]
    {
        let dir = tempfile::tempdir().unwrap();
        write_folder(&model, dir.path(), shards, wide);
        // What trainers leave in such folders is no weights.
        fs::write(dir.path().join("training_args.bin"), "x").unwrap();
        if !index {
            fs::remove_file(dir.path().join("pytorch_model.bin.index.json")).unwrap();
        }
        let opened = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(opened.tensors.table().infos(), model.tensors.table().infos());
        for info in model.tensors.table().infos() {
            let read = |c: &Checkpoint| c.tensors.read_name(&info.name).unwrap().bytes.into_owned();
            assert_eq!(read(&opened), read(&model), "{}", info.name);
        }
        if shards > 1 {
            fs::remove_file(dir.path().join("pytorch_model-00002-of-00003.bin")).unwrap();
            assert_error(
                Checkpoint::open(dir.path()),
                &["pytorch_model-00002-of-00003.bin", "missing"],
            );
        }
    }
}

#[test]
fn safetensors_win_where_both_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let model = folders::model();
    let path = dir.path().join("model");
    folders::write(&model, &path, u64::MAX);
    fs::write(path.join("pytorch_model.bin"), "never looked at").unwrap();
    Checkpoint::open(&path).unwrap();
}

#[test]
fn nothing_but_data_can_be_built() {
    let call = |module: &str, name: &str| {
        Pickle::new().global(module, name).raw(b"(").text("touch /tmp/pwned").raw(b"tR.").0
    };
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "getattr"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch.hub", "load"),
    ] {
        let shown = format!("'{module}.{name}'");
        refused(call(module, name), &["at offset", "data.pkl", &shown, "do not trust"]);
    }
    // The offset is that of the byte in the file: its header takes 40 bytes and the padding 6.
    assert_error(open_pickle(call("os", "system")), &["at offset 48 (in data.pkl)"]);
    refused(call("os\u{1b}[31m", "x"), &["os\\u{1b}[31m.x"]);
    // Calls of what is allowed, with what is not.
    refused(call("collections", "OrderedDict"), &["dictionary from arguments"]);
    refused(call("torch", "FloatStorage"), &["without an archive entry"]);
    refused(Pickle::new().text("x").raw(b")R").done(), &["calls a text"]);
    refused(
        Pickle::new().global("torch._utils", "_rebuild_tensor_v2").raw(b")R").done(),
        &["too few"],
    );
    refused(
        Pickle::new().global("torch._utils", "_rebuild_parameter").raw(b"(N\x89NtR").done(),
        &["parameter that is not a tensor"],
    );
    // Opcodes that make or change objects.
    refused(
        Pickle::new().global("collections", "OrderedDict").raw(b")\x81").done(),
        &["opcode 0x81"],
    );
    for opcode in [b'i', b'o', b'P', 0x82, 0x93, 0x95, 0x97] {
        refused(vec![0x80, 2, opcode, b'x', b'\n'], &[&format!("opcode 0x{opcode:02x}")]);
    }
    let storage = |p: Pickle| p.storage("FloatStorage", "0", 6);
    let tensor = Pickle::new().tensor(storage, 0, &[6], &[1]);
    refused(tensor.clone().raw(b"}b").done(), &["sets the state of a tensor"]);
    refused(Pickle::new().dict().raw(b"Nb").done(), &["sets the state of a dictionary"]);
    refused(tensor.text("x").raw(b"Ns").done(), &["sets items of a tensor"]);
    refused(Pickle::new().raw(b"}Na").done(), &["appends to a dictionary"]);
    refused(Pickle::new().raw(b"(N\x89tQ").done(), &["not a storage"]);
}

#[test]
fn machines_that_go_wrong() {
    refused(vec![0x80, 4, b'}', b'.'], &["protocol 4"]);
    refused(vec![0x80], &["truncated"]);
    refused(Vec::new(), &["truncated"]);
    refused(Pickle::new().raw(b"X\xff\xff\xff\x7f").done(), &["2147483647 bytes"]);
    refused(Pickle::new().raw(b"X\x05\0\0\0ab").done(), &["truncated"]);
    refused(Pickle::new().raw(b"U\x02\xff\xfe").done(), &["UTF-8"]);
    refused(Pickle::new().raw(b"c").raw(&[b'a'; 1 << 17]).done(), &["a name without an end"]);
    refused(Pickle::new().done(), &["more values than there are"]);
    refused(Pickle::new().raw(b"(").done(), &["more values than there are"]);
    refused(Pickle::new().raw(b"N(t\x87").done(), &["more values than there are"]);
    refused(Pickle::new().raw(b"t").done(), &["without a beginning"]);
    refused(Pickle::new().raw(b"R").done(), &["more values"]);
    refused(Pickle::new().raw(b"}(Nu").done(), &["a key without a value"]);
    refused(Pickle::new().raw(b"h\x07").done(), &["value 7", "not stored"]);
    refused(Pickle::new().raw(b"Nr\xff\xff\xff\xff").done(), &["4294967295"]);
    refused(Pickle::new().raw(b"\x8a\xff").raw(&[1; 255]).done(), &["255 bytes"]);
    refused(Pickle::new().raw(&vec![b'('; (1 << 20) + 1]).done(), &["nested too deeply"]);
    refused(Pickle::new().raw(&vec![b'N'; (1 << 20) + 1]).done(), &["on the stack"]);
    // Endless growth by one tuple in another costs what it takes in the file, and no recursion.
    refused(
        Pickle::new().raw(b")").raw(&vec![0x85; 1 << 20]).done(),
        &["a tuple, not a dictionary"],
    );
    // A dictionary that holds itself is no tensor either.
    let circle = Pickle::new().raw(b"}q\x00").text("me").raw(b"h\x00s").done();
    refused(circle, &["'me' is a dictionary"]);
}

#[test]
fn dictionaries_that_are_no_model() {
    refused(Pickle::new().raw(b"N").done(), &["holds None"]);
    refused(
        Pickle::new().raw(b"}").text("epoch").raw(b"K\x03s").done(),
        &["'epoch' is an integer"],
    );
    refused(Pickle::new().raw(b"}K\x01Ns").done(), &["name is an integer"]);
    let nested = Pickle::new().raw(b"}").text("state_dict").raw(b"}s").done();
    refused(nested, &["'state_dict' is a dictionary", "training checkpoint"]);
}

#[test]
fn views_are_checked_against_their_storage() {
    let read = |offset, shape: &[usize], strides: &[usize]| {
        let model = open_pickle(one_tensor(offset, shape, strides)).unwrap();
        model.tensors.read_name("w").unwrap().to_f32().unwrap()
    };
    assert_eq!(read(1, &[2, 2], &[2, 1]), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(read(0, &[3, 2], &[1, 3]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(
        read(1, &[1, 2, 1], &[99, 3, 77]),
        [1.0, 4.0],
        "strides of single elements mean nothing"
    );
    for (offset, shape, strides) in [
        (1, &[6][..], &[1][..]),
        (6, &[1], &[1]),
        (0, &[2, 3], &[4, 1]),
        (usize::MAX >> 1, &[2], &[1]),
        (0, &[2, 2], &[usize::MAX >> 1, usize::MAX >> 1]),
    ] {
        let error = open_pickle(one_tensor(offset, shape, strides));
        assert_error(error, &["'w'", "runs past the 6 elements"]);
    }
    let huge = 1usize << 40;
    assert_error(open_pickle(one_tensor(0, &[huge, huge], &[0, 0])), &["'w'", "not possible"]);
    assert_error(open_pickle(one_tensor(0, &[huge], &[0])), &["'w'", "repeats the 6 elements"]);
    refused(one_tensor(0, &[1; 9], &[1; 9]), &["unusable offset, shape or strides"]);
    refused(one_tensor(0, &[2, 3], &[1]), &["unusable offset, shape or strides"]);
    let negative =
        Pickle::new().dict().text("w").global("torch._utils", "_rebuild_tensor_v2").raw(b"(");
    let negative = negative.storage("FloatStorage", "0", 6).raw(b"J\xff\xff\xff\xff))\x89NtRs");
    refused(negative.done(), &["unusable offset"]);

    let storage = |key: &'static str, elements: usize| {
        let storage = move |p: Pickle| p.storage("FloatStorage", key, elements);
        Pickle::new().dict().text("w").tensor(storage, 0, &[1], &[1]).raw(b"s").done()
    };
    assert_error(open_pickle(storage("1", 6)), &["'w'", "storage '1' is not in the file"]);
    assert_error(open_pickle(storage("../../etc/passwd", 6)), &["'w'", "is not in the file"]);
    assert_error(open_pickle(storage("0", 7)), &["'w'", "24 bytes, not 7 elements"]);
    assert_error(open_pickle(storage("0", usize::MAX >> 1)), &["'w'", "24 bytes"]);
    let twice = |p: Pickle| {
        p.text("w").tensor(|p| p.storage("FloatStorage", "0", 6), 0, &[6], &[1]).raw(b"s")
    };
    assert_error(open_pickle(twice(twice(Pickle::new().dict())).done()), &["'w'", "occurs twice"]);
}

/// An archive of one tensor.
fn small_archive() -> Entries {
    archive(&[("w", DType::F32, &[2], &[0; 8])])
}

#[test]
fn archives_that_lie() {
    let good = zip(&small_archive(), false);
    open(&good).unwrap();
    assert_error(open(b"PK\x03\x04"), &["truncated"]);
    assert_error(open(b"hello"), &["not a zip archive"]);
    for cut in [1, 10, 60, good.len() / 2] {
        assert_error(open(&good[..good.len() - cut]), &["pytorch_model.bin", "truncated"]);
    }
    let broken = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        edit(&mut bytes);
        open(&bytes)
    };
    let end = good.len() - 22;
    let set = |at: usize, value: &'static [u8]| {
        move |bytes: &mut Vec<u8>| bytes[at..at + value.len()].copy_from_slice(value)
    };
    let directory = u32::from_le_bytes(good[end + 16..end + 20].try_into().unwrap()) as usize;
    assert_error(broken(&set(end + 10, b"\xff\xff")), &["65535 entries cannot be in"]);
    assert_error(broken(&set(end + 10, b"\x01\x00")), &["are not an entry"]);
    assert_error(broken(&set(end + 12, b"\xff\xff\xff\x7f")), &["runs into its own end"]);
    assert_error(broken(&set(end + 16, b"\x00\x00\x00\x00")), &["no directory entry"]);
    assert_error(broken(&set(directory + 8, b"\x01")), &["encrypted"]);
    assert_error(broken(&set(directory + 10, b"\x08")), &["compressed", "torch.save"]);
    assert_error(broken(&set(directory + 20, b"\xff\xff\xff\xff")), &["lacks its zip64 sizes"]);
    assert_error(
        broken(&set(directory + 20, b"\xff\xff\xff\x00\xff\xff\xff\x00")),
        &["run into the directory"],
    );
    assert_error(broken(&set(directory + 28, b"\xff\xff")), &["runs past the directory"]);
    assert_error(broken(&set(directory + 42, b"\xff\xff\xff\x7f")), &["truncated"]);
    assert_error(broken(&set(directory + 42, b"\x01\x00\x00\x00")), &["no header of an entry"]);
    assert_error(broken(&set(directory + 46, b"M")), &["another name here"]);
    assert_error(broken(&set(directory + 46, b"\xff")), &["not UTF-8"]);

    let wide = zip(&small_archive(), true);
    open(&wide).unwrap();
    let mut bytes = wide.clone();
    let locator = wide.len() - 22 - 20;
    bytes[locator + 8..locator + 16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_error(open(&bytes), &["zip64 end record", "truncated"]);
}

#[test]
fn archives_with_the_wrong_entries() {
    let edited = |edit: &dyn Fn(&mut Entries)| {
        let mut entries = small_archive();
        edit(&mut entries);
        open(&zip(&entries, false))
    };
    assert_error(edited(&|e| e.push(e[1].clone())), &["'model/data/0' occurs twice"]);
    assert_error(edited(&|e| e.truncate(0)), &["not a zip archive"]);
    assert_error(edited(&|e| drop(e.remove(0))), &["no data.pkl"]);
    assert_error(edited(&|e| e.push(("b/data.pkl".into(), vec![]))), &["more than one data.pkl"]);
    assert_error(
        edited(&|e| e[2].1 = b"big".to_vec()),
        &["byte order is \"big\"", "little-endian"],
    );
    assert_error(edited(&|e| e.push(("model/constants.pkl".into(), vec![]))), &["TorchScript"]);
    // An entry that reaches into the next one.
    let mut overlapping = zip(&small_archive(), false);
    let start = overlapping.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let first_size = u32::from_le_bytes(overlapping[start + 24..start + 28].try_into().unwrap());
    for at in [start + 20, start + 24] {
        overlapping[at..at + 4].copy_from_slice(&(first_size + 60).to_le_bytes());
    }
    assert_error(open(&overlapping), &["'model/data.pkl' and 'model/data/0' overlap"]);
}

#[test]
fn other_formats_are_told_apart() {
    let legacy = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    assert_error(open(legacy), &["before 1.6", "torch.save it again"]);
    let place = Place::new();
    fs::write(place.path("model.bin"), legacy).unwrap();
    place.fails(1, "plan model.bin", &["a file of weights alone", "name the folder"]);
    fs::write(place.path("model.bin"), zip(&small_archive(), false)).unwrap();
    place.fails(1, "quantize model.bin -o out Q8_0", &["a file of weights alone"]);
}

#[test]
fn no_byte_of_a_file_can_make_it_panic() {
    let good = zip(&small_archive(), true);
    for at in 0..good.len() {
        for change in [0x01, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= change;
            if let Ok(model) = open(&bytes) {
                let infos = model.tensors.table().infos();
                (0..infos.len()).for_each(|i| drop(model.tensors.read(i).unwrap()));
            }
        }
    }
}

#[test]
fn recipes_take_them_like_any_folder() {
    let place = Place::new();
    let source: PathBuf = crate::support::program::shipped("recipes/demo/clerk");
    let model = Checkpoint::open(&source).unwrap();
    let (torch, safe) = (place.path("torch/clerk"), place.path("safe/clerk"));
    fs::create_dir_all(&torch).unwrap();
    fs::create_dir_all(safe.parent().unwrap()).unwrap();
    write_folder(&model, &torch, 2, false);
    folders::write(&model, &safe, u64::MAX);
    for file in fs::read_dir(&safe).unwrap().map(|e| e.unwrap().path()) {
        if file.extension().is_none_or(|e| e != "safetensors") {
            fs::copy(&file, torch.join(file.file_name().unwrap())).unwrap();
        }
    }
    for (recipe, member) in [("one", "torch"), ("two", "safe")] {
        let text =
            format!("merge_method: passthrough\nmodels: [{{model: {member}/clerk}}]\nname: same\n");
        fs::write(place.path(&format!("{recipe}.yml")), text).unwrap();
        place.ok(&format!("convert {recipe}.yml -o {recipe}.gguf"));
    }
    assert!(place.read("one.gguf") == place.read("two.gguf"));
}
