//! The tensors of a GGUF model under Hugging Face's names, in its order of rows: a source over a source.

use crate::base::dtype::DType;
use crate::base::error::{Error, Result};
use crate::formats::gguf::{GgufModel, scale_tensor, scaled_weight, weight_scale};
use crate::formats::source::{TensorData, TensorInfo, TensorSource, TensorTable};
use crate::model::arch::{Architecture, HyperParams};
use crate::quants;
use rayon::prelude::*;
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

/// Elements that one task decodes. Fixed, and a multiple of every block length.
const CHUNK: usize = 1 << 18;

/// The divisors of rotary frequencies, which config.json holds as numbers: those of Llama 3, and lists for
/// texts within the original context and for longer ones.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";
pub(super) const ROPE_SHORT: &str = "rope_factors_short.weight";
pub(super) const ROPE_LONG: &str = "rope_factors_long.weight";

pub(super) struct RestoredSource {
    inner: Arc<dyn TensorSource>,
    table: TensorTable,
    origins: Vec<Origin>,
}

/// Where a tensor comes from, and what conversion did to it.
struct Origin {
    /// Its index in the file.
    index: usize,
    /// The heads within which its rows are reordered, if they are.
    heads: Option<usize>,
    /// The file has its values plus one.
    plus_one: bool,
    /// Of a stack of experts, the one.
    expert: Option<usize>,
}

impl RestoredSource {
    /// Plans the way back; reads no data. The order is the file's.
    pub(super) fn new(
        model: &GgufModel,
        arch: &'static Architecture,
        hyper: &HyperParams,
    ) -> Result<RestoredSource> {
        let inner = Arc::clone(&model.tensors);
        let (mut infos, mut origins, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for (index, info) in inner.table().infos().iter().enumerate() {
            let name = &info.name;
            if [ROPE_FREQS, ROPE_SHORT, ROPE_LONG].contains(&name.as_str()) {
                continue;
            }
            if scaled_weight(inner.table(), name).is_some() {
                continue;
            }
            let Some((decl, layer)) = arch.match_gguf(name) else {
                problems
                    .push(format!("'{name}' is not a tensor of architecture {}", arch.gguf_name));
                continue;
            };
            let shape = decl.gguf_shape(hyper);
            if info.shape != shape {
                problems.push(format!("'{name}' has shape {:?}, not {shape:?}", info.shape));
                continue;
            }
            let dtype = match info.dtype {
                dtype if dtype.is_float() && scale_tensor(inner.table(), name).is_none() => dtype,
                dtype if quants::can_decode(dtype) => DType::F32,
                dtype => {
                    problems.push(format!("'{name}' is {dtype}, which cannot be decoded"));
                    continue;
                }
            };
            let (heads, plus_one) = (decl.permute.heads(hyper), decl.plus_one);
            for expert in 0..decl.copies(hyper) {
                let name = decl.hf_name_of(layer.unwrap_or(0), expert);
                infos.push(TensorInfo::new(name, decl.shape(hyper), dtype));
                let expert = decl.is_stacked().then_some(expert);
                origins.push(Origin { index, heads, plus_one, expert });
            }
        }
        if let Some(first) = problems.first() {
            let more = match problems.len() - 1 {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            let detail = format!("cannot be a member of a merge: {first}{more}");
            return Err(Error::model(inner.origin(), detail));
        }
        let table = TensorTable::new(inner.origin(), infos)?;
        Ok(RestoredSource { inner, table, origins })
    }
}

impl TensorSource for RestoredSource {
    fn origin(&self) -> &str {
        self.inner.origin()
    }

    fn table(&self) -> &TensorTable {
        &self.table
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        let info = &self.table.infos()[index];
        let Origin { index: source, heads, plus_one, expert } = self.origins[index];
        let data = match expert {
            Some(expert) => self.inner.read_matrix(source, expert)?,
            None => self.inner.read(source)?,
        };
        let mut bytes = data.bytes;
        if data.dtype != info.dtype {
            bytes = Cow::Owned(decode(data.dtype, &bytes)?);
        }
        let name = &self.inner.table().infos()[source].name;
        let factor = weight_scale(&*self.inner, name, expert.unwrap_or(0))?;
        if factor != 1.0 {
            bytes = Cow::Owned(times(factor, &bytes)?);
        }
        if plus_one {
            bytes = Cow::Owned(minus_one(info.dtype, &bytes)?);
        }
        if let Some(heads) = heads {
            bytes = Cow::Owned(separate_halves(&bytes, info.shape[0], heads));
        }
        Ok(TensorData { dtype: info.dtype, shape: info.shape.clone(), bytes })
    }

    fn working_bytes(&self, index: usize) -> u64 {
        let info = &self.table.infos()[index];
        let Origin { index: source, heads, plus_one, .. } = self.origins[index];
        let decoded = self.inner.table().infos()[source].dtype != info.dtype;
        let scaled = scale_tensor(self.inner.table(), &self.inner.table().infos()[source].name);
        let copies = usize::from(decoded) + usize::from(heads.is_some()) + usize::from(plus_one);
        let copies = copies + 2 * usize::from(scaled.is_some());
        self.inner.working_bytes(source) + (copies * info.bytes().unwrap_or(0)) as u64
    }

    fn files(&self) -> Option<Vec<PathBuf>> {
        self.inner.files()
    }
}

/// F32 data times `factor`.
fn times(factor: f32, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut values = vec![0f32; bytes.len() / size_of::<f32>()];
    quants::decode(DType::F32, bytes, &mut values)?;
    values.iter_mut().for_each(|v| *v *= factor);
    let mut out = vec![0u8; bytes.len()];
    quants::encode_float(DType::F32, &values, &mut out)?;
    Ok(out)
}

/// Quantized data as F32.
fn decode(dtype: DType, bytes: &[u8]) -> Result<Vec<u8>> {
    let elements = bytes.len() / dtype.block_bytes() * dtype.block_len();
    let chunk = CHUNK / dtype.block_len() * dtype.block_bytes();
    let mut out = vec![0u8; elements * size_of::<f32>()];
    let outcomes: Vec<Result<()>> = (bytes.par_chunks(chunk))
        .zip(out.par_chunks_mut(CHUNK * size_of::<f32>()))
        .map(|(input, output)| {
            let mut values = vec![0f32; output.len() / size_of::<f32>()];
            quants::decode(dtype, input, &mut values)?;
            quants::encode_float(DType::F32, &values, output)
        })
        .collect();
    outcomes.into_iter().collect::<Result<()>>()?;
    Ok(out)
}

/// `bytes` of float type `dtype` minus one in each element.
fn minus_one(dtype: DType, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut values = vec![0f32; bytes.len() / dtype.block_bytes()];
    quants::decode(dtype, bytes, &mut values)?;
    values.iter_mut().for_each(|v| *v -= 1.0);
    let mut out = vec![0u8; bytes.len()];
    quants::encode_float(dtype, &values, &mut out)?;
    Ok(out)
}

/// The rows of `bytes` with the pairs of each of `heads` heads taken apart into halves: row
/// `h*d + k*d/2 + j` of the result is row `h*d + 2*j + k`, for `d` rows a head. Undoes what conversion
/// does to rows that the rotary embedding turns.
fn separate_halves(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let (row_bytes, dim) = (bytes.len() / rows, rows / heads);
    let mut out = Vec::with_capacity(bytes.len());
    for head in 0..heads {
        for k in 0..2 {
            for j in 0..dim / 2 {
                let row = head * dim + 2 * j + k;
                out.extend_from_slice(&bytes[row * row_bytes..][..row_bytes]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_heads_become_halves() {
        let rows: Vec<u8> = (0..8).collect();
        assert_eq!(separate_halves(&rows, 8, 2), [0, 2, 1, 3, 4, 6, 5, 7]);
        let rows: Vec<u8> = vec![0, 3, 1, 4, 2, 5];
        assert_eq!(separate_halves(&rows, 6, 1), [0, 1, 2, 3, 4, 5]);
    }
}
