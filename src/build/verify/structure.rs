//! Checks of a GGUF file without its source. Opening it has checked the header, and that every tensor's data are
//! where they must be and within the file; here are the bytes between them, and the blocks.

use super::{CheckedFile, Problem, Report};
use crate::base::error::Result;
use crate::base::mmap;
use crate::base::progress::{Progress, Unit, check_interrupted};
use crate::formats::gguf::GgufFile;
use crate::quants;
use rayon::prelude::*;

/// Blocks that a thread looks at in one go.
const BLOCKS: usize = 1 << 13;

/// Checks padding and blocks of all `files`.
pub(super) fn check(
    files: &[GgufFile],
    report: &mut Report,
    progress: &dyn Progress,
) -> Result<()> {
    progress.begin("examine", files.iter().map(GgufFile::file_bytes).sum(), Unit::Bytes);
    for file in files {
        let (path, bytes) = (file.path().to_path_buf(), file.file_bytes());
        report.files.push(CheckedFile { path, bytes, tensors: file.header().tensors.len() });
        padding(file, &mut report.problems);
        let mut seen = 0;
        for (index, info) in file.header().tensors.iter().enumerate() {
            check_interrupted()?;
            progress.detail(&info.name);
            report.problems.extend(block(file, index));
            mmap::release_pages(file.tensor_bytes(index));
            let bytes = file.tensor_bytes(index).len() as u64;
            progress.advance(bytes);
            seen += bytes;
        }
        progress.advance(bytes - seen.min(bytes));
    }
    progress.end();
    Ok(())
}

/// Bytes between the header and the tensors' data must be zero, as readers expect and writers make them; what
/// comes after the last tensor is padding, if anything.
fn padding(file: &GgufFile, problems: &mut Vec<Problem>) {
    let header = file.header();
    let mut at = header.end;
    let starts = header.offsets.iter().copied().enumerate();
    for (index, start) in starts {
        zeros(
            file,
            at,
            start,
            &format!("before tensor '{}'", header.tensors[index].name),
            problems,
        );
        at = start + file.tensor_bytes(index).len() as u64;
    }
    let end = at.next_multiple_of(header.alignment);
    zeros(file, at, end.min(file.file_bytes()), "at the end of the file", problems);
    if file.file_bytes() > end {
        let bytes = file.file_bytes() - end;
        let detail = format!("{bytes} bytes follow the last tensor's data and belong to nothing");
        problems.push(Problem { offset: Some(end), ..Problem::new(file.path(), detail) });
    }
}

fn zeros(file: &GgufFile, from: u64, to: u64, place: &str, problems: &mut Vec<Problem>) {
    let bytes = &file.bytes()[from as usize..to as usize]; // within the map, so within usize
    if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
        let detail = format!("the padding {place} is not zero");
        let offset = Some(from + at as u64);
        problems.push(Problem { offset, ..Problem::new(file.path(), detail) });
    }
}

/// The first block of tensor `index` whose scale, or value, is no finite number.
fn block(file: &GgufFile, index: usize) -> Option<Problem> {
    let info = &file.header().tensors[index];
    let (dtype, len) = (info.dtype, info.dtype.block_len());
    let chunk = dtype.block_bytes() * BLOCKS;
    let chunks = file.tensor_bytes(index).par_chunks(chunk).enumerate();
    let block = chunks.find_map_first(|(number, bytes)| {
        quants::first_invalid_block(dtype, bytes).map(|block| number * BLOCKS + block)
    })?;
    let offset = file.header().offsets[index] + (block * dtype.block_bytes()) as u64;
    let first = block * len;
    let row = first / info.row_len().max(1);
    let detail = match len {
        1 => format!("weight {first} (row {row}) is no finite number"),
        _ => {
            let last = first + len - 1;
            format!(
                "weights {first} to {last} (row {row}) have a {dtype} scale that is no finite number"
            )
        }
    };
    Some(Problem::tensor(file.path(), &info.name, offset, detail))
}
