//! The directory of a zip archive with stored entries, as PyTorch writes it: names and byte ranges.
//!
//! Tensors are ranges of a memory map, so entries are never copied or unpacked. Repeated names,
//! overlapping entries and directories that disagree with the local headers are refused. Layout:
//! PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3. Not here: compression, encryption, archives in
//! several files, and checksums, which would require reading every weight.

use crate::base::error::{Error, Result};
use byteorder::{ByteOrder, LittleEndian as LE};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

const LOCAL: &[u8; 4] = b"PK\x03\x04";
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const END: &[u8; 4] = b"PK\x05\x06";
const END_64: &[u8; 4] = b"PK\x06\x06";
const LOCATOR_64: &[u8; 4] = b"PK\x06\x07";

// Sizes of the fixed parts of the records above, in bytes.
const LOCAL_LEN: usize = 30;
const CENTRAL_LEN: usize = 46;
const END_LEN: usize = 22;
const END_64_LEN: usize = 56;
const LOCATOR_64_LEN: usize = 20;

/// The largest number of entries, ten times that of large models.
const MAX_ENTRIES: u64 = 1 << 20;

/// Whether a file that begins with `head` may be a zip archive.
pub(super) fn looks_like_zip(head: &[u8]) -> bool {
    head.starts_with(LOCAL)
}

/// The entries of an archive, with their ranges in the file.
pub(super) struct ZipDirectory {
    entries: BTreeMap<String, Range<usize>>,
}

impl ZipDirectory {
    /// Reads the directory of the archive `file`; `path` names it in errors. The ranges are within
    /// the file, before the directory, and do not overlap.
    ///
    /// # Errors
    /// An archive that violates these rules, with the offset.
    pub(super) fn parse(path: &Path, file: &[u8]) -> Result<ZipDirectory> {
        let reader = ZipReader { path, file };
        let (directory, count) = reader.find_directory()?;
        let mut entries = BTreeMap::new();
        let mut position = directory.start;
        for _ in 0..count {
            let (name, data, next) = reader.entry(position, &directory)?;
            if entries.insert(name.clone(), data).is_some() {
                return reader.fail(position, format!("entry '{name}' occurs twice"));
            }
            position = next;
        }
        if position != directory.end {
            let left = directory.end - position;
            return reader
                .fail(position, format!("{left} bytes of the directory are not an entry"));
        }
        let mut ranges: Vec<(&Range<usize>, &str)> =
            entries.iter().map(|(name, range)| (range, name.as_str())).collect();
        ranges.sort_by_key(|(range, _)| (range.start, range.end));
        for pair in ranges.windows(2) {
            if pair[1].0.start < pair[0].0.end {
                let detail = format!("entries '{}' and '{}' overlap", pair[0].1, pair[1].1);
                return reader.fail(pair[1].0.start, detail);
            }
        }
        Ok(ZipDirectory { entries })
    }

    /// The range of the entry `name` in the file.
    pub(super) fn get(&self, name: &str) -> Option<&Range<usize>> {
        self.entries.get(name)
    }

    /// All names, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }
}

struct ZipReader<'a> {
    path: &'a Path,
    file: &'a [u8],
}

impl<'a> ZipReader<'a> {
    fn fail<T>(&self, offset: usize, detail: impl std::fmt::Display) -> Result<T> {
        Err(Error::format(self.path, format!("at offset {offset}: {detail}")))
    }

    /// The `len` bytes at `offset`, which must begin with `signature`.
    fn record(
        &self,
        offset: usize,
        len: usize,
        signature: &[u8; 4],
        what: &str,
    ) -> Result<&'a [u8]> {
        let end = offset.checked_add(len);
        match end.and_then(|end| self.file.get(offset..end)) {
            Some(record) if record.starts_with(signature) => Ok(record),
            Some(_) => self
                .fail(offset, format!("no {what} at this offset, though the archive refers to it")),
            None => {
                self.fail(offset, format!("the {what} runs past the end; the file is truncated"))
            }
        }
    }

    /// Finds the directory: its range and number of entries.
    fn find_directory(&self) -> Result<(Range<usize>, u64)> {
        // The file ends with the end record and a comment of up to 65535 bytes.
        let first = self.file.len().saturating_sub(END_LEN + usize::from(u16::MAX));
        let ends = |at: &usize| {
            let record = &self.file[*at..];
            record.starts_with(END)
                && END_LEN + LE::read_u16(&record[20..]) as usize == record.len()
        };
        let last = self.file.len().checked_sub(END_LEN);
        let Some(at) = last.and_then(|last| (first..=last).rev().find(ends)) else {
            let detail = "no zip directory at its end; the file is truncated";
            return Err(Error::format(self.path, detail));
        };
        let record = &self.file[at..];
        let (disk, disk_of_directory) = (LE::read_u16(&record[4..]), LE::read_u16(&record[6..]));
        let mut count = u64::from(LE::read_u16(&record[10..]));
        let mut size = u64::from(LE::read_u32(&record[12..]));
        let mut start = u64::from(LE::read_u32(&record[16..]));
        let mut limit = at;
        let locator =
            at.checked_sub(LOCATOR_64_LEN).filter(|&l| self.file[l..].starts_with(LOCATOR_64));
        if let Some(locator) = locator {
            limit = to_usize(LE::read_u64(&self.file[locator + 8..]));
            let record = self.record(limit, END_64_LEN, END_64, "zip64 end record")?;
            count = LE::read_u64(&record[32..]);
            size = LE::read_u64(&record[40..]);
            start = LE::read_u64(&record[48..]);
        } else if disk != 0 || disk_of_directory != 0 {
            return self.fail(at, "an archive in several files, which is not supported");
        }
        let end = start.checked_add(size).filter(|&end| end <= limit as u64);
        let Some(end) = end else {
            let detail =
                format!("a directory of {size} bytes at offset {start} runs into its own end");
            return self.fail(at, detail);
        };
        if count > MAX_ENTRIES || count * CENTRAL_LEN as u64 > size {
            return self
                .fail(at, format!("{count} entries cannot be in {size} bytes of directory"));
        }
        Ok((to_usize(start)..to_usize(end), count))
    }

    /// The name and data of the entry at `offset` of the directory, and the offset of the next
    /// entry.
    fn entry(
        &self,
        offset: usize,
        directory: &Range<usize>,
    ) -> Result<(String, Range<usize>, usize)> {
        let record = self.record(offset, CENTRAL_LEN, CENTRAL, "directory entry")?;
        let field = |at: usize| LE::read_u16(&record[at..]) as usize;
        let (name_len, extra_len, comment_len) = (field(28), field(30), field(32));
        let name_start = offset + CENTRAL_LEN;
        let next = name_start + name_len + extra_len + comment_len;
        if next > directory.end {
            return self.fail(offset, "the directory entry runs past the directory");
        }
        let name_bytes = &self.file[name_start..name_start + name_len];
        let Ok(name) = std::str::from_utf8(name_bytes) else {
            return self.fail(offset, "the entry's name is not UTF-8");
        };
        let (flags, method) = (field(8), field(10));
        if flags & 1 != 0 {
            return self.fail(offset, format!("entry '{name}' is encrypted"));
        }
        let extra = &self.file[name_start + name_len..][..extra_len];
        let sizes = [20, 24, 42].map(|at| LE::read_u32(&record[at..]));
        let Some([stored, size, local]) = widen(sizes, extra) else {
            return self.fail(offset, format!("entry '{name}' lacks its zip64 sizes"));
        };
        if method != 0 || stored != size {
            let detail = format!(
                "entry '{name}' is compressed, unlike in files of PyTorch; save the file again with torch.save"
            );
            return self.fail(offset, detail);
        }
        let header = self.record(to_usize(local), LOCAL_LEN, LOCAL, "header of an entry")?;
        let field = |at: usize| LE::read_u16(&header[at..]) as usize;
        let local_name = to_usize(local) + LOCAL_LEN;
        // No overflow: the header is within the file, and lengths have 16 bits.
        let data = local_name + field(26) + field(28);
        if self.file.get(local_name..local_name + field(26)) != Some(name_bytes) {
            return self.fail(to_usize(local), format!("entry '{name}' has another name here"));
        }
        let end = data.checked_add(to_usize(size)).filter(|&end| end <= directory.start);
        match end {
            Some(end) => Ok((name.to_string(), data..end, next)),
            None => self.fail(
                to_usize(local),
                format!("the {size} bytes of entry '{name}' run into the directory"),
            ),
        }
    }
}

/// Converts an offset. One that does not fit usize becomes the largest, which callers refuse as
/// past the end.
fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Stored size, size and offset of an entry. Those that 32 bits cannot hold are in the extra field
/// with the id 1: the size, the stored size and the offset, in this order.
fn widen(short: [u32; 3], mut extra: &[u8]) -> Option<[u64; 3]> {
    let mut wide = short.map(u64::from);
    if !short.contains(&u32::MAX) {
        return Some(wide);
    }
    while extra.len() >= 4 {
        let (id, len) = (LE::read_u16(extra), LE::read_u16(&extra[2..]) as usize);
        let mut body = extra.get(4..4 + len)?;
        extra = &extra[4 + len..];
        if id != 1 {
            continue;
        }
        for field in [1, 0, 2] {
            if short[field] == u32::MAX {
                wide[field] = LE::read_u64(body.get(..8)?);
                body = &body[8..];
            }
        }
        return Some(wide);
    }
    None
}
