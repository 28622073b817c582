//! Writing one GGUF file of version 3: header first, then tensors in any order from any thread.

use super::layout::GgufLayout;
use super::metadata::Metadata;
use crate::base::error::{Error, Result};
use crate::base::output::OutputFile;
use crate::formats::source::TensorInfo;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// A GGUF file that is being written. It has a hidden name until [`GgufWriter::finish`]; dropping
/// the writer earlier removes it.
pub struct GgufWriter {
    file: OutputFile,
    layout: GgufLayout,
    tensors: Vec<TensorInfo>,
    /// The number of bytes written of each tensor.
    written: Vec<AtomicU64>,
}

impl GgufWriter {
    /// Begins the file `path`: reserves its size on the disk and writes the header.
    ///
    /// # Errors
    /// Those of [`GgufLayout::new`] and [`OutputFile::create`]; a disk without enough space.
    pub fn create(
        path: impl AsRef<Path>,
        force: bool,
        metadata: &Metadata,
        tensors: Vec<TensorInfo>,
    ) -> Result<GgufWriter> {
        let path = path.as_ref();
        let layout = GgufLayout::new(&path.display().to_string(), metadata, &tensors)?;
        let mut file = OutputFile::create(path, force)?;
        file.reserve(layout.file_bytes())?;
        file.append(layout.header())?;
        let written = tensors.iter().map(|_| AtomicU64::new(0)).collect();
        Ok(GgufWriter { file, layout, tensors, written })
    }

    /// Begins the file `path` under the hidden name that a later run finds again
    /// ([`OutputFile::reopen`]), to be completed by [`GgufWriter::seal`]. The result is true if an
    /// earlier run began a file with the same header: its tensors are then still there, and
    /// [`GgufWriter::mark_written`] accepts those that are complete.
    ///
    /// # Errors
    /// Those of [`GgufWriter::create`].
    pub fn reopen(
        path: impl AsRef<Path>,
        metadata: &Metadata,
        tensors: Vec<TensorInfo>,
    ) -> Result<(GgufWriter, bool)> {
        let path = path.as_ref();
        let layout = GgufLayout::new(&path.display().to_string(), metadata, &tensors)?;
        let mut file = OutputFile::reopen(path)?;
        let begun = file.bytes()? == layout.file_bytes() && {
            let mut header = vec![0; layout.header().len()];
            file.read_at(0, &mut header)?;
            header == layout.header()
        };
        if !begun {
            file.clear()?;
            file.reserve(layout.file_bytes())?;
            file.append(layout.header())?;
        }
        let written = tensors.iter().map(|_| AtomicU64::new(0)).collect();
        Ok((GgufWriter { file, layout, tensors, written }, begun))
    }

    /// Accepts tensor `index` as an earlier run has written it.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn mark_written(&self, index: usize) {
        self.written[index].store(self.layout.data_ranges()[index].bytes, Ordering::Relaxed);
    }

    /// Reads `bytes` from offset `offset` of tensor `index`, in a file that was reopened.
    ///
    /// # Errors
    /// A file that cannot be read.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn read_part(&self, index: usize, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_at(self.layout.data_ranges()[index].start + offset, bytes)
    }

    /// Flushes everything written so far to the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data()
    }

    /// The layout of the file.
    pub fn layout(&self) -> &GgufLayout {
        &self.layout
    }

    /// The tensors, as given to [`GgufWriter::create`].
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Writes all data of tensor `index`. Threads may write different tensors at the same time.
    ///
    /// # Errors
    /// Data of another length than the tensor's; a tensor that was written before.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn write_tensor(&self, index: usize, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 != self.layout.data_ranges()[index].bytes {
            return self.fail(
                index,
                format!("{} bytes given for shape {:?}", bytes.len(), self.tensors[index].shape),
            );
        }
        self.write_part(index, 0, bytes)
    }

    /// Writes a part of tensor `index` that begins `offset` bytes into its data. The parts must
    /// cover the tensor exactly once.
    ///
    /// # Errors
    /// A part beyond the end of the tensor; more bytes than the tensor has.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn write_part(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let range = self.layout.data_ranges()[index];
        let len = bytes.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > range.bytes) {
            return self.fail(index, format!("a part ends past its {} bytes", range.bytes));
        }
        if self.written[index].fetch_add(len, Ordering::Relaxed) + len > range.bytes {
            return self.fail(index, "was written twice".to_string());
        }
        self.file.write_at(range.start + offset, bytes)
    }

    fn fail(&self, index: usize, detail: String) -> Result<()> {
        let origin = self.file.target().display().to_string();
        Err(Error::tensor(origin, &self.tensors[index].name, detail))
    }

    /// Checks that all tensors are written, flushes the file to the disk and renames it to its
    /// target. Padding is zero because the file was created with its full size.
    ///
    /// # Errors
    /// A tensor that is not complete; a file that cannot be written or renamed.
    pub fn finish(self) -> Result<()> {
        self.check_complete()?;
        self.file.commit()
    }

    /// Like [`GgufWriter::finish`], but leaves the file under its hidden name.
    ///
    /// # Errors
    /// Those of [`GgufWriter::finish`].
    pub fn seal(self) -> Result<()> {
        self.check_complete()?;
        self.file.seal()
    }

    fn check_complete(&self) -> Result<()> {
        for (index, range) in self.layout.data_ranges().iter().enumerate() {
            let written = self.written[index].load(Ordering::Relaxed);
            if written != range.bytes {
                let detail = format!("only {written} of its {} bytes were written", range.bytes);
                return self.fail(index, detail);
            }
        }
        Ok(())
    }
}
