//! [`FolderSource`]: the tensors of a folder. Plain ones are read as they are stored, packed ones
//! with their scales as F32, decoded in groups of rows when they are read.

use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::weights::StoredTensors;
use crate::formats::source::{
    Blocks, PART_BYTES, PartSink, TensorData, TensorInfo, TensorSource, TensorTable,
};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;

const F32_BYTES: usize = 4;

/// Makes rows of one tensor from the bytes of its parts.
pub(super) trait Decoder: Send + Sync {
    /// Decodes whole rows from row `first` on into `out`: as many as it holds. Rows are those of
    /// all matrices of a stack, one after the other. `parts` are the bytes of the stored tensors,
    /// of the length that their types and shapes need.
    ///
    /// # Errors
    /// What is wrong with the data; the caller adds the tensor's name.
    fn rows(&self, parts: &[&[u8]], first: usize, out: &mut [f32]) -> Result<(), String>;

    /// The blocks of GGUF that hold the tensor as it is; `None` for most formats.
    fn blocks(&self) -> Option<Blocks> {
        None
    }

    /// The bytes of these blocks, all of them.
    ///
    /// # Errors
    /// A scale that they cannot hold.
    fn encode(&self, _parts: &[&[u8]]) -> Result<Vec<u8>, String> {
        Err("has no blocks".to_string())
    }
}

/// Where a tensor's data come from.
pub(super) enum TensorOrigin {
    /// A stored tensor as it is.
    Plain(usize),
    Joined {
        parts: Vec<usize>,
        decoder: Box<dyn Decoder>,
    },
}

/// The tensors of a folder under their plain names.
pub(super) struct FolderSource {
    stored: StoredTensors,
    table: TensorTable,
    /// Of each tensor of the table.
    origins: Vec<TensorOrigin>,
    quantization: Option<String>,
}

impl FolderSource {
    pub(super) fn new(
        stored: StoredTensors,
        table: TensorTable,
        origins: Vec<TensorOrigin>,
        quantization: Option<String>,
    ) -> FolderSource {
        FolderSource { stored, table, origins, quantization }
    }

    fn info(&self, index: usize) -> &TensorInfo {
        &self.table.infos()[index]
    }

    /// The bytes of each part of a tensor.
    fn parts(&self, parts: &[usize]) -> Vec<Cow<'_, [u8]>> {
        parts.iter().map(|&part| self.stored.bytes(part)).collect()
    }

    /// Elements `range` of a tensor, as bytes. Rows that the range cuts are decoded whole.
    fn elements(
        &self,
        info: &TensorInfo,
        decoder: &dyn Decoder,
        parts: &[&[u8]],
        range: Range<usize>,
    ) -> Result<Vec<u8>> {
        let columns = info.row_len().max(1);
        let (first, end) = (range.start / columns, range.end.div_ceil(columns));
        let mut values = vec![0f32; (end - first) * columns];
        decoder
            .rows(parts, first, &mut values)
            .map_err(|why| Error::tensor(self.stored.origin(), &info.name, why))?;
        let skipped = range.start - first * columns;
        let values = &values[skipped..skipped + range.len()];
        Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Gives a joined tensor to `take` in parts of [`PART_BYTES`], on all threads.
    fn decode_in_parts(
        &self,
        index: usize,
        (parts, decoder): (&[usize], &dyn Decoder),
        take: &PartSink<'_>,
    ) -> Result<()> {
        const ELEMENTS: usize = PART_BYTES / F32_BYTES;
        let info = self.info(index);
        let bytes = self.parts(parts);
        let parts: Vec<&[u8]> = bytes.iter().map(|bytes| &bytes[..]).collect();
        let count = info.elements();
        let results: Vec<Result<()>> = (0..count.div_ceil(ELEMENTS))
            .into_par_iter()
            .map(|part| {
                let start = part * ELEMENTS;
                let range = start..count.min(start + ELEMENTS);
                take(start * F32_BYTES, &self.elements(info, decoder, &parts, range)?)
            })
            .collect();
        // The first failure in the order of the tensor.
        results.into_iter().collect()
    }
}

impl TensorSource for FolderSource {
    fn origin(&self) -> &str {
        self.stored.origin()
    }

    fn table(&self) -> &TensorTable {
        &self.table
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        let info = self.info(index);
        let (dtype, shape) = (info.dtype, info.shape.clone());
        match &self.origins[index] {
            TensorOrigin::Plain(stored) => {
                Ok(TensorData { dtype, shape, bytes: self.stored.bytes(*stored) })
            }
            TensorOrigin::Joined { parts, decoder } => {
                let stored = self.parts(parts);
                let stored: Vec<&[u8]> = stored.iter().map(|bytes| &bytes[..]).collect();
                let mut bytes = vec![0u8; info.bytes().unwrap_or(0)];
                let results: Vec<Result<()>> = (bytes.par_chunks_mut(PART_BYTES).enumerate())
                    .map(|(part, out)| {
                        let start = part * (PART_BYTES / F32_BYTES);
                        let range = start..start + out.len() / F32_BYTES;
                        out.copy_from_slice(&self.elements(info, &**decoder, &stored, range)?);
                        Ok(())
                    })
                    .collect();
                results.into_iter().collect::<Result<()>>()?;
                Ok(TensorData { dtype, shape, bytes: Cow::Owned(bytes) })
            }
        }
    }

    fn stream(&self, index: usize, sink: &PartSink<'_>) -> Result<()> {
        match &self.origins[index] {
            TensorOrigin::Plain(_) => {
                crate::formats::source::send_parts(&self.read(index)?.bytes, sink)
            }
            TensorOrigin::Joined { parts, decoder } => {
                self.decode_in_parts(index, (parts, &**decoder), sink)
            }
        }
    }

    fn working_bytes(&self, index: usize) -> u64 {
        match &self.origins[index] {
            TensorOrigin::Plain(stored) => self.stored.working_bytes(*stored),
            TensorOrigin::Joined { .. } => {
                debug_assert_eq!(self.info(index).dtype, DType::F32);
                self.info(index).bytes().unwrap_or(0) as u64
            }
        }
    }

    fn blocks(&self, index: usize) -> Option<Blocks> {
        match &self.origins[index] {
            TensorOrigin::Plain(_) => None,
            TensorOrigin::Joined { decoder, .. } => decoder.blocks(),
        }
    }

    fn read_blocks(&self, index: usize) -> Result<TensorData<'_>> {
        let info = self.info(index);
        let TensorOrigin::Joined { parts, decoder } = &self.origins[index] else {
            return Err(Error::tensor(self.origin(), &info.name, "has no blocks"));
        };
        let dtype = decoder.blocks().map_or(info.dtype, |blocks| blocks.dtype);
        let parts = self.parts(parts);
        let parts: Vec<&[u8]> = parts.iter().map(|bytes| &bytes[..]).collect();
        let bytes = decoder.encode(&parts);
        let bytes = bytes.map_err(|why| Error::tensor(self.origin(), &info.name, why))?;
        Ok(TensorData { dtype, shape: info.shape.clone(), bytes: Cow::Owned(bytes) })
    }

    fn stream_bytes(&self, index: usize) -> u64 {
        // A part, as values and as bytes, on each thread.
        let parts = 2 * PART_BYTES * rayon::current_num_threads();
        self.working_bytes(index).min(parts as u64)
    }

    fn quantization(&self) -> Option<&str> {
        self.quantization.as_deref()
    }

    fn files(&self) -> Option<Vec<PathBuf>> {
        Some(self.stored.paths())
    }
}
