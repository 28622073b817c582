//! Writes PyTorch weight files: just as much of zip and pickle as PyTorch uses.

use aqueduct::base::dtype::DType;

/// The name of the storage of a type.
pub(crate) fn storage_of(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "FloatStorage",
        DType::F16 => "HalfStorage",
        DType::BF16 => "BFloat16Storage",
        DType::I64 => "LongStorage",
        other => panic!("no storage of {other}"),
    }
}

/// A pickle in the making.
#[derive(Clone, Default)]
pub(crate) struct Pickle(pub(crate) Vec<u8>);

impl Pickle {
    pub(crate) fn new() -> Pickle {
        Pickle(b"\x80\x02".to_vec())
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Pickle {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Pickle {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    pub(crate) fn int(self, n: usize) -> Pickle {
        match i32::try_from(n) {
            Ok(n) => self.raw(b"J").raw(&n.to_le_bytes()),
            Err(_) => self.raw(b"\x8a\x08").raw(&(n as u64).to_le_bytes()),
        }
    }

    pub(crate) fn ints(self, numbers: &[usize]) -> Pickle {
        numbers.iter().fold(self.raw(b"("), |p, &n| p.int(n)).raw(b"t")
    }

    pub(crate) fn global(self, module: &str, name: &str) -> Pickle {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    /// An empty OrderedDict.
    pub(crate) fn dict(self) -> Pickle {
        self.global("collections", "OrderedDict").raw(b")R")
    }

    /// A persistent storage.
    pub(crate) fn storage(self, kind: &str, key: &str, elements: usize) -> Pickle {
        self.raw(b"(")
            .text("storage")
            .global("torch", kind)
            .text(key)
            .text("cpu")
            .int(elements)
            .raw(b"tQ")
    }

    /// A call of `_rebuild_tensor_v2` on the storage that `storage` writes.
    pub(crate) fn tensor(
        self,
        storage: impl FnOnce(Pickle) -> Pickle,
        offset: usize,
        shape: &[usize],
        strides: &[usize],
    ) -> Pickle {
        let begun = self.global("torch._utils", "_rebuild_tensor_v2").raw(b"(");
        storage(begun).int(offset).ints(shape).ints(strides).raw(b"\x89").dict().raw(b"tR")
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

pub(crate) fn contiguous(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|d| shape[d + 1..].iter().product()).collect()
}

/// A tensor to be written: name, type, shape, bytes.
pub(crate) type Tensor<'a> = (&'a str, DType, &'a [usize], &'a [u8]);

/// Names and contents of an archive's entries.
pub(crate) type Entries = Vec<(String, Vec<u8>)>;

/// The entries of an archive that holds `tensors`, each with a storage of its own.
pub(crate) fn archive(tensors: &[Tensor<'_>]) -> Entries {
    let mut pickle = Pickle::new().dict().raw(b"q\x00(");
    let mut entries = Vec::new();
    for (i, (name, dtype, shape, bytes)) in tensors.iter().enumerate() {
        let elements = bytes.len() / dtype.block_bytes();
        let storage = |p: Pickle| p.storage(storage_of(*dtype), &i.to_string(), elements);
        pickle = pickle.text(name).tensor(storage, 0, shape, &contiguous(shape));
        entries.push((format!("model/data/{i}"), bytes.to_vec()));
    }
    // `_metadata`, as a module's state has it.
    let pickle = pickle.raw(b"u}").text("_metadata").dict().raw(b"sb");
    entries.insert(0, ("model/data.pkl".to_string(), pickle.done()));
    entries.push(("model/byteorder".to_string(), b"little".to_vec()));
    entries.push(("model/version".to_string(), b"3\n".to_vec()));
    entries
}

/// A zip archive of stored entries; with `wide`, one that uses zip64 throughout.
pub(crate) fn zip(entries: &[(String, Vec<u8>)], wide: bool) -> Vec<u8> {
    let u16s = |out: &mut Vec<u8>, values: &[u16]| {
        values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
    };
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let (len, start) = (data.len() as u64, file.len() as u64);
        let short = |n: u64| if wide { u32::MAX } else { n as u32 }.to_le_bytes();
        file.extend_from_slice(b"PK\x03\x04");
        u16s(&mut file, &[0, 0, 0, 0, 0]);
        file.extend_from_slice(&[0; 4]);
        file.extend_from_slice(&short(len));
        file.extend_from_slice(&short(len));
        // Padding in an extra field, with which PyTorch aligns its data.
        u16s(&mut file, &[name.len() as u16, 6]);
        file.extend_from_slice(name.as_bytes());
        file.extend_from_slice(b"FB\x02\x00ZZ");
        file.extend_from_slice(data);

        directory.extend_from_slice(b"PK\x01\x02");
        u16s(&mut directory, &[0, 0, 0, 0, 0, 0]);
        directory.extend_from_slice(&[0; 4]);
        directory.extend_from_slice(&short(len));
        directory.extend_from_slice(&short(len));
        u16s(&mut directory, &[name.len() as u16, if wide { 28 } else { 0 }, 0, 0, 0]);
        directory.extend_from_slice(&[0; 4]);
        directory.extend_from_slice(&short(start));
        directory.extend_from_slice(name.as_bytes());
        if wide {
            u16s(&mut directory, &[1, 24]);
            [len, len, start].iter().for_each(|n| directory.extend_from_slice(&n.to_le_bytes()));
        }
    }
    let (start, size) = (file.len() as u64, directory.len() as u64);
    file.extend_from_slice(&directory);
    let count = entries.len() as u64;
    if wide {
        let end = file.len() as u64;
        file.extend_from_slice(b"PK\x06\x06");
        file.extend_from_slice(&44u64.to_le_bytes());
        file.extend_from_slice(&[0; 12]);
        [count, count, size, start].iter().for_each(|n| file.extend_from_slice(&n.to_le_bytes()));
        file.extend_from_slice(b"PK\x06\x07\0\0\0\0");
        file.extend_from_slice(&end.to_le_bytes());
        file.extend_from_slice(&1u32.to_le_bytes());
    }
    file.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    let count = if wide { u16::MAX } else { count as u16 };
    u16s(&mut file, &[count, count]);
    let short = |n: u64| if wide { u32::MAX } else { n as u32 }.to_le_bytes();
    file.extend_from_slice(&short(size));
    file.extend_from_slice(&short(start));
    u16s(&mut file, &[0]);
    file
}
