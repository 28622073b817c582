//! Checkpoints whose tensors are stored otherwise than the architectures declare them, brought to the declared form.
//!
//! Transformers 5 holds the experts' matrices of a layer in two tensors, and saves them so where it is asked not to
//! restore the original format (`save_original_format=False`). Here each expert's matrices become tensors of their own
//! again, read expert by expert, so that merging, converting and restoring know one form. Names: transformers 5.24
//! `conversion_mapping.py`. Of multimodal models the text model is read, see `wrapper`.

use super::{Architecture, HyperParams, Settings, TensorDecl, match_pattern, wrapper};
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::{Checkpoint, Config};
use crate::formats::source::{TensorData, TensorInfo, TensorSource, TensorTable};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names under which transformers 5 holds what a declaration lists under others.
#[derive(Debug)]
pub struct Stored {
    /// The stored name, with `{}` for the layer's number.
    pub name: &'static str,
    /// The Hugging Face names of the declarations whose matrices follow each other in it: of all experts where those
    /// have `{e}`, the tensor itself where one has not.
    pub parts: &'static [&'static str],
}

impl Checkpoint {
    /// Opens the Hugging Face folder `dir` with its tensors as its architecture declares them.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`] and [`declared_form`].
    pub fn open_declared(dir: &Path) -> Result<Checkpoint> {
        declared_form(Checkpoint::open(dir)?)
    }
}

/// `config`, or that of the text model where it is a multimodal model's.
///
/// # Errors
/// It is not readable.
pub fn declared_config(config: Config) -> Result<Config> {
    Ok(wrapper::text_config(&config, false)?.unwrap_or(config))
}

/// `checkpoint` with its tensors as its architecture declares them; of a multimodal model the text model. Reads no data.
/// A checkpoint of an unknown architecture stays as it is.
///
/// # Errors
/// The configuration cannot be read, or a tensor of experts has a shape that does not go with it.
pub fn declared_form(mut checkpoint: Checkpoint) -> Result<Checkpoint> {
    let table = checkpoint.tensors.table();
    let has_head = table.infos().iter().any(|info| info.name.ends_with("lm_head.weight"));
    let text = wrapper::text_config(&checkpoint.config, has_head)?;
    let multimodal = text.is_some();
    let whole = checkpoint.config.architecture().unwrap_or("a multimodal model").to_string();
    if let Some(text) = text {
        checkpoint.config = text;
    }
    let Ok(settings) = Settings::of(&checkpoint.config) else { return Ok(checkpoint) };
    let arch = settings.arch();
    let stored = |info: &TensorInfo| arch.stored_as(&info.name).is_some();
    if !multimodal && !table.infos().iter().any(stored) {
        return Ok(checkpoint);
    }
    let hyper = HyperParams::from_settings(&settings)?;
    let class = settings.class();
    let inner = Arc::clone(&checkpoint.tensors);
    let (tensors, left_out) = DeclaredSource::new(inner, arch, &hyper, multimodal)?;
    if multimodal {
        let others = match &left_out[..] {
            [] => "no other tensors are stored".to_string(),
            [first, ..] => {
                format!("{} other tensors are left out, '{first}' for one", left_out.len())
            }
        };
        let message = format!(
            "{}: of the multimodal model {whole} its text model is read, as {class}, and what is written is that alone; \
             {others}",
            checkpoint.config.origin()
        );
        checkpoint.warnings.push(message);
    }
    Ok(Checkpoint { tensors: Arc::new(tensors), ..checkpoint })
}

impl Architecture {
    /// How the tensor `name` is stored and of which layer it is, if it is one that is declared otherwise.
    fn stored_as(&self, name: &str) -> Option<(&'static Stored, usize)> {
        let name = name.strip_suffix(".weight").unwrap_or(name);
        let fits = |stored: &'static Stored| Some((stored, match_pattern(stored.name, name)??));
        self.stored.iter().find_map(fits)
    }
}

/// The tensors of a checkpoint as they are declared: a source over a source.
struct DeclaredSource {
    inner: Arc<dyn TensorSource>,
    table: TensorTable,
    places: Vec<Place>,
}

/// Where a tensor is in the inner source.
#[derive(Clone, Copy)]
struct Place {
    index: usize,
    /// Of a stack of experts, where the matrix is.
    matrix: Option<Matrix>,
}

/// The rows of one expert's matrix that are a tensor.
#[derive(Clone, Copy)]
struct Matrix {
    expert: usize,
    first_row: usize,
    /// The stack holds the matrix transposed, its rows as columns.
    transposed: bool,
}

impl DeclaredSource {
    /// Plans the source; of a multimodal model's tensors those of the text model. With it come the names of the others.
    fn new(
        inner: Arc<dyn TensorSource>,
        arch: &'static Architecture,
        hyper: &HyperParams,
        multimodal: bool,
    ) -> Result<(DeclaredSource, Vec<String>)> {
        let (mut infos, mut places, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        for (index, info) in inner.table().infos().iter().enumerate() {
            let name = match multimodal {
                true => wrapper::plain_name(&info.name),
                false => Some(info.name.clone()),
            };
            let Some(name) = name else {
                left_out.push(info.name.clone());
                continue;
            };
            let Some((stored, layer)) = arch.stored_as(&name) else {
                infos.push(TensorInfo { name, ..info.clone() });
                places.push(Place { index, matrix: None });
                continue;
            };
            let decls: Vec<&TensorDecl> = (stored.parts.iter())
                .filter_map(|part| arch.tensors.iter().find(|decl| decl.hf == *part))
                .collect();
            if let [decl] = decls[..]
                && !decl.is_stacked()
            {
                infos.push(TensorInfo { name: decl.hf_name(layer), ..info.clone() });
                places.push(Place { index, matrix: None });
                continue;
            }
            let (count, transposed) = layout(inner.origin(), info, &decls, hyper)?;
            for expert in 0..count {
                let mut first_row = 0;
                for decl in &decls {
                    let shape = decl.shape(hyper);
                    let matrix = Some(Matrix { expert, first_row, transposed });
                    first_row += shape[0];
                    infos.push(TensorInfo::new(decl.hf_name_of(layer, expert), shape, info.dtype));
                    places.push(Place { index, matrix });
                }
            }
        }
        let table = TensorTable::new(inner.origin(), infos)?;
        Ok((DeclaredSource { inner, table, places }, left_out))
    }

    /// The rows of `info` from `matrix` of tensor `index`.
    fn rows(&self, index: usize, matrix: Matrix, info: &TensorInfo) -> Result<TensorData<'_>> {
        let data = self.inner.read_matrix(index, matrix.expert)?;
        let (rows, columns) = (info.shape[0], info.shape[1]);
        let fail = || {
            let detail = "the data are shorter than the shape says";
            Error::tensor(self.origin(), &info.name, detail)
        };
        let bytes = if matrix.transposed {
            let element = data.dtype.block_bytes();
            let width = data.shape[1] * element;
            let mut out = Vec::with_capacity(rows * columns * element);
            for row in matrix.first_row..matrix.first_row + rows {
                for column in 0..columns {
                    let at = column * width + row * element;
                    out.extend_from_slice(data.bytes.get(at..at + element).ok_or_else(fail)?);
                }
            }
            Cow::Owned(out)
        } else {
            let row_bytes = data.dtype.row_bytes(columns).ok_or_else(fail)?;
            let range = matrix.first_row * row_bytes..(matrix.first_row + rows) * row_bytes;
            match data.bytes {
                Cow::Borrowed(all) => Cow::Borrowed(all.get(range).ok_or_else(fail)?),
                Cow::Owned(all) if range == (0..all.len()) => Cow::Owned(all),
                Cow::Owned(all) => Cow::Owned(all.get(range).ok_or_else(fail)?.to_vec()),
            }
        };
        Ok(TensorData { dtype: data.dtype, shape: info.shape.clone(), bytes })
    }
}

/// How many experts the stack `info` has, and whether their matrices are transposed; the declarations `decls` follow each
/// other in each of them.
fn layout(
    origin: &str,
    info: &TensorInfo,
    decls: &[&TensorDecl],
    hyper: &HyperParams,
) -> Result<(usize, bool)> {
    let shapes: Vec<Vec<usize>> = decls.iter().map(|decl| decl.shape(hyper)).collect();
    let rows: usize = shapes.iter().map(|shape| shape[0]).sum();
    let columns = shapes[0][1];
    let experts = hyper.experts.map_or(0, |experts| experts.count);
    match info.shape[..] {
        [count, a, b] if count == experts && (a, b) == (rows, columns) => Ok((count, false)),
        [count, a, b] if count == experts && (a, b) == (columns, rows) && info.dtype.is_float() => {
            Ok((count, true))
        }
        _ => {
            let detail = format!(
                "shape {:?} holds no {experts} experts of {rows} x {columns}, as the configuration says",
                info.shape
            );
            Err(Error::tensor(origin, &info.name, detail))
        }
    }
}

impl TensorSource for DeclaredSource {
    fn origin(&self) -> &str {
        self.inner.origin()
    }

    fn table(&self) -> &TensorTable {
        &self.table
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        let Place { index: source, matrix } = self.places[index];
        match matrix {
            Some(matrix) => self.rows(source, matrix, &self.table.infos()[index]),
            None => self.inner.read(source),
        }
    }

    fn working_bytes(&self, index: usize) -> u64 {
        let Place { index: source, matrix } = self.places[index];
        let pieces = if matrix.is_some() { self.inner.pieces(source).max(1) as u64 } else { 1 };
        let own = self.table.infos()[index].bytes().unwrap_or(0) as u64;
        let copy = matrix.is_some_and(|matrix| matrix.transposed);
        self.inner.working_bytes(source) / pieces + if copy { own } else { 0 }
    }

    fn files(&self) -> Option<Vec<PathBuf>> {
        self.inner.files()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::DType;
    use crate::formats::source::MemorySource;

    /// Two experts of 2 x 3 matrices whose elements are numbered.
    fn fused(shapes: [Vec<usize>; 2]) -> Result<Checkpoint> {
        let text = r#"{"architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 4, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 2, "intermediate_size": 8, "moe_intermediate_size": 3,
            "num_hidden_layers": 1, "vocab_size": 8, "num_experts": 2, "num_experts_per_tok": 1}"#;
        let names = ["gate_up_proj", "down_proj"];
        let tensors = names.iter().zip(shapes).map(|(name, shape)| {
            let name = format!("model.layers.0.mlp.experts.{name}");
            let values: Vec<f32> = (0..shape.iter().product()).map(|n| n as f32).collect();
            let bytes = TensorData::from_f32(shape.clone(), &values).bytes.into_owned();
            (TensorInfo::new(name, shape, DType::F32), bytes)
        });
        declared_form(Checkpoint {
            name: "m".into(),
            config: Config::parse("m", text).unwrap(),
            tensors: Arc::new(MemorySource::new("m", tensors.collect()).unwrap()),
            side_files: Vec::new(),
            card: None,
            warnings: Vec::new(),
        })
    }

    fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
        let name = format!("model.layers.0.mlp.experts.{name}.weight");
        checkpoint.tensors.read_name(&name).unwrap().to_f32().unwrap()
    }

    #[test]
    fn stacks_come_apart_in_either_layout() {
        let plain = fused([vec![2, 6, 4], vec![2, 4, 3]]).unwrap();
        assert_eq!(plain.tensors.table().infos().len(), 6);
        let count = |range: std::ops::Range<usize>| range.map(|n| n as f32).collect::<Vec<_>>();
        assert_eq!(values(&plain, "0.gate_proj"), count(0..12));
        assert_eq!(values(&plain, "1.up_proj"), count(36..48));
        assert_eq!(values(&plain, "1.down_proj"), count(12..24));
        let turned = fused([vec![2, 4, 6], vec![2, 3, 4]]).unwrap();
        // Element [row, column] is [column, row] of the stack's matrix.
        let at = |row: usize, column: usize, width: usize| (24 + column * width + row) as f32;
        let up: Vec<f32> = (3..6).flat_map(|row| (0..4).map(move |c| at(row, c, 6))).collect();
        assert_eq!(values(&turned, "1.up_proj"), up);
        assert_eq!(values(&turned, "0.down_proj")[..4], [0.0, 4.0, 8.0, 1.0]);
    }

    #[test]
    fn stacks_of_other_shapes_are_named() {
        for shape in [vec![3, 6, 4], vec![2, 5, 4], vec![12, 4]] {
            let error = fused([shape, vec![2, 4, 3]]).err().unwrap().to_string();
            assert!(error.contains("gate_up_proj") && error.contains("6 x 4"), "{error}");
        }
    }
}
