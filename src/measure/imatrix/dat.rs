//! llama.cpp's older imatrix layout, `imatrix.dat`.
//!
//! Little-endian: i32 number of entries; for each of them i32 length and bytes of the name, i32 calls, i32 values and as
//! many f32 (mean times calls); then, optionally, i32 chunks, i32 length and bytes of the text's name.
//! Source: llama.cpp `tools/imatrix/imatrix.cpp` and `common/imatrix-loader.cpp`, October 2026.

use super::{Entry, ImportanceMatrix, check_entry};
use crate::base::error::{Error, Result};
use byteorder::{ByteOrder, LittleEndian};
use std::path::Path;

/// Bytes of the smallest entry: three lengths, a name of one letter and a value.
const MIN_ENTRY: usize = 17;

/// The unread rest of a file. Every length is compared with it before anything is allocated.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn fail<T>(&self, detail: String) -> Result<T> {
        let detail =
            format!("{detail} at offset {}: not an imatrix file, or a damaged one", self.at);
        Err(Error::format(self.path, detail))
    }

    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        match self.bytes[self.at..].get(..n) {
            Some(bytes) => {
                self.at += n;
                Ok(bytes)
            }
            None => self.fail(format!("the file ends within {what}")),
        }
    }

    fn i32(&mut self, what: &str) -> Result<i32> {
        Ok(LittleEndian::read_i32(self.take(4, what)?))
    }

    /// Reads the number of items, each of at least `size` bytes, that follow.
    fn count(&mut self, what: &str, size: usize) -> Result<usize> {
        let n = self.i32(what)?;
        let rest = self.bytes.len() - self.at;
        match usize::try_from(n) {
            Ok(n) if n > 0 && n <= rest / size => Ok(n),
            _ => self.fail(format!("{n} as {what}, with {rest} bytes left,")),
        }
    }

    fn text(&mut self, n: usize, what: &str) -> Result<String> {
        match std::str::from_utf8(self.take(n, what)?) {
            Ok(text) => Ok(text.to_string()),
            Err(_) => self.fail(format!("{what} is not UTF-8")),
        }
    }
}

/// Parses the bytes of the file `path`.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<ImportanceMatrix> {
    let mut cursor = Cursor { path, bytes, at: 0 };
    let mut matrix = ImportanceMatrix::default();
    for _ in 0..cursor.count("the number of entries", MIN_ENTRY)? {
        let len = cursor.count("the length of a name", 1)?;
        let name = cursor.text(len, "a name")?;
        let calls = cursor.i32("the number of calls")?;
        let len = cursor.count("the number of values", 4)?;
        let bytes = cursor.take(len * 4, "the values")?;
        let mut sums = vec![0.0; len];
        LittleEndian::read_f32_into(bytes, &mut sums);
        let entry = Entry { sums, counts: vec![calls.into()] };
        check_entry(path, &name, &entry)?;
        if matrix.entries.insert(name.clone(), entry).is_some() {
            return cursor.fail(format!("a second entry for '{name}'"));
        }
    }
    if cursor.at < bytes.len() {
        let chunks = cursor.i32("the number of chunks")?;
        matrix.chunk_count = match u32::try_from(chunks) {
            Ok(chunks) => chunks,
            Err(_) => return cursor.fail(format!("{chunks} chunks")),
        };
    }
    if cursor.at < bytes.len() {
        let len = cursor.i32("the length of the text's name")?;
        if len != 0 {
            cursor.at -= 4;
            let len = cursor.count("the length of the text's name", 1)?;
            matrix.datasets.push(cursor.text(len, "the text's name")?);
        }
    }
    Ok(matrix)
}

/// Returns the bytes of `matrix`. Values are rounded twice, as llama.cpp writes them: `sum / count`, then
/// times calls. Entries without any count are left out; matrices without a count are written as ones. The
/// layout holds only the last of the texts' names.
pub(super) fn serialize(matrix: &ImportanceMatrix, path: &Path) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let put = |out: &mut Vec<u8>, n: i64, what: &str| match i32::try_from(n) {
        Ok(n) => {
            out.extend_from_slice(&n.to_le_bytes());
            Ok(())
        }
        Err(_) => Err(Error::format(path, format!("{n} {what} do not fit the layout; use gguf"))),
    };
    let stored = matrix.entries.iter().filter(|(_, entry)| entry.counts.iter().any(|n| *n > 0));
    put(&mut out, stored.clone().count() as i64, "entries")?;
    for (name, entry) in stored {
        put(&mut out, name.len() as i64, "bytes of a name")?;
        out.extend_from_slice(name.as_bytes());
        let most = entry.counts.iter().max().copied().unwrap_or(0);
        // Rounded up, so that a part of a chunk counts.
        let calls = match i64::from(matrix.chunk_size) {
            0 => most,
            size => most / size + i64::from(most % size > 0),
        };
        put(&mut out, calls, "calls")?;
        put(&mut out, entry.sums.len() as i64, "values")?;
        let value = |sum: f32, count: i64| match (count, matrix.chunk_size) {
            (0, _) => calls as f32,
            (_, 0) => sum,
            _ => sum / count as f32 * calls as f32,
        };
        let width = entry.sums.len() / entry.counts.len();
        for (sums, &count) in entry.sums.chunks(width).zip(&entry.counts) {
            out.extend(sums.iter().flat_map(|&sum| value(sum, count).to_le_bytes()));
        }
    }
    put(&mut out, matrix.chunk_count.into(), "chunks")?;
    let dataset = matrix.datasets.last().map_or("", String::as_str);
    put(&mut out, dataset.len() as i64, "bytes of a text's name")?;
    out.extend_from_slice(dataset.as_bytes());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn sample() -> ImportanceMatrix {
        let entry = |sums: &[f32], count| Entry { sums: sums.to_vec(), counts: vec![count] };
        ImportanceMatrix {
            entries: BTreeMap::from([
                ("blk.0.a.weight".to_string(), entry(&[1.5, 0.0, 3.25], 1024)),
                ("blk.0.b.weight".to_string(), entry(&[7.0], 1000)),
                ("blk.0.c.weight".to_string(), entry(&[0.0], 0)),
            ]),
            datasets: vec!["first".into(), "last".into()],
            chunk_count: 2,
            chunk_size: 512,
            record: None,
        }
    }

    #[test]
    fn what_is_written_reads_back_in_chunks() {
        let path = Path::new("m.dat");
        let bytes = serialize(&sample(), path).unwrap();
        let matrix = parse(path, &bytes).unwrap();
        assert_eq!((matrix.chunk_count, matrix.chunk_size), (2, 0));
        assert_eq!(matrix.datasets, ["last"]);
        let a = &matrix.entries["blk.0.a.weight"];
        assert_eq!((a.sums[0], a.counts[0]), (1.5 / 1024.0 * 2.0, 2));
        assert_eq!(matrix.entries["blk.0.b.weight"].counts, [2], "rounded up");
        assert!(!matrix.entries.contains_key("blk.0.c.weight"), "nothing was counted");
        assert_eq!(serialize(&matrix, path).unwrap(), bytes);
    }

    #[test]
    fn every_truncation_and_lying_length_is_an_error_or_an_older_file() {
        let path = Path::new("m.dat");
        let bytes = serialize(&sample(), path).unwrap();
        // Without its last parts the file is what still older versions wrote.
        let body = bytes.len() - 4 - 4 - 4;
        for len in 0..bytes.len() {
            let whole = len == body || len == body + 4;
            assert_eq!(parse(path, &bytes[..len]).is_ok(), whole, "{len} bytes");
        }
        for (at, what) in [(0, "entries"), (4, "name"), (22, "calls"), (26, "values")] {
            for lie in [i32::MIN, -1, 0, i32::MAX] {
                let mut bytes = bytes.clone();
                bytes[at..at + 4].copy_from_slice(&lie.to_le_bytes());
                let harmless = what == "calls" && lie >= 0;
                assert_eq!(parse(path, &bytes).is_ok(), harmless, "{what} {lie}");
            }
        }
    }
}
