//! Writing one GGUF file of version 3: header first, then tensors in any order from any thread.

use super::layout::GgufLayout;
use super::metadata::Metadata;
use crate::base::error::{Error, Result};
use crate::base::output::OutputFile;
use crate::formats::source::TensorInfo;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// A GGUF file being written: beside its target until [`GgufWriter::finish`], removed if dropped
/// before.
pub struct GgufWriter {
    file: OutputFile,
    layout: GgufLayout,
    tensors: Vec<TensorInfo>,
    /// Bytes written of each tensor.
    written: Vec<AtomicU64>,
}

impl GgufWriter {
    /// Begins the file `path`: takes its whole size on the disk and writes the header. Fails as
    /// [`GgufLayout::new`] and [`OutputFile::create`] do, and on a disk that is too small.
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

    /// As [`GgufWriter::create`], under the hidden name that a later run finds again ([`OutputFile::reopen`]), for
    /// [`GgufWriter::seal`]. Tells whether an earlier run has begun just this file: then what it has written is
    /// there, and [`GgufWriter::mark_written`] takes a tensor as written.
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

    /// Takes tensor `index` as written, as an earlier run has left it.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn mark_written(&self, index: usize) {
        self.written[index].store(self.layout.data_ranges()[index].bytes, Ordering::Relaxed);
    }

    /// Fills `bytes` with what is at `offset` of tensor `index`, in a file that was reopened.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn read_part(&self, index: usize, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_at(self.layout.data_ranges()[index].start + offset, bytes)
    }

    /// Brings what has been written so far to the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data()
    }

    pub fn layout(&self) -> &GgufLayout {
        &self.layout
    }

    /// The tensors, as given to [`GgufWriter::create`].
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Writes all data of tensor `index`. Any number of threads may write different tensors at once.
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

    /// Writes a part of tensor `index`, which begins `offset` bytes into its data. Together the parts
    /// must cover the tensor once.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn write_part(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let place = self.layout.data_ranges()[index];
        let len = bytes.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > place.bytes) {
            return self.fail(index, format!("a part ends past its {} bytes", place.bytes));
        }
        if self.written[index].fetch_add(len, Ordering::Relaxed) + len > place.bytes {
            return self.fail(index, "was written twice".to_string());
        }
        self.file.write_at(place.start + offset, bytes)
    }

    fn fail(&self, index: usize, detail: String) -> Result<()> {
        let origin = self.file.target().display().to_string();
        Err(Error::tensor(origin, &self.tensors[index].name, detail))
    }

    /// Checks that all tensors were written, brings the file to the disk and gives it its name.
    /// Padding, after the last tensor too, is zero since the file was created.
    pub fn finish(self) -> Result<()> {
        self.check_whole()?;
        self.file.commit()
    }

    /// As [`GgufWriter::finish`], but leaves the file under its hidden name.
    pub fn seal(self) -> Result<()> {
        self.check_whole()?;
        self.file.seal()
    }

    fn check_whole(&self) -> Result<()> {
        for (index, place) in self.layout.data_ranges().iter().enumerate() {
            let written = self.written[index].load(Ordering::Relaxed);
            if written != place.bytes {
                let detail = format!("{written} of its {} bytes were written", place.bytes);
                return self.fail(index, detail);
            }
        }
        Ok(())
    }
}
