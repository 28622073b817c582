//! How two models differ: metadata, tensors, and the error of each tensor's values.
//!
//! Both models are in GGUF terms, whatever they were read from. Tensors follow one another, each in groups
//! of rows on all threads; memory holds one piece of each side. Sums are in f64 and added in the order of
//! the groups, so figures do not depend on threads. Not here: the effect of errors on predictions
//! (`evaluate`).

mod rows;
mod sums;

pub use sums::Sums;

use crate::base::error::Result;
use crate::base::progress::{Progress, Unit, check_interrupted};
use crate::formats::gguf::{GgufModel, Metadata, Value};
use crate::formats::source::TensorInfo;

/// How a second model differs from a first.
#[derive(Clone, Debug)]
pub struct ModelComparison {
    /// Keys whose values differ, or that only one has, in the first's order and then the second's.
    pub metadata: Vec<KeyDifference>,
    /// Tensors that both have, in the first's order.
    pub tensors: Vec<ComparedTensor>,
    /// Tensors that only the first model has.
    pub only_first: Vec<TensorInfo>,
    /// Tensors that only the second model has.
    pub only_second: Vec<TensorInfo>,
}

/// A metadata key whose values differ.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyDifference {
    /// The key.
    pub key: String,
    /// The first model's value, if it has the key.
    pub first: Option<Value>,
    /// The second model's value, if it has the key.
    pub second: Option<Value>,
}

/// A tensor that both models have.
#[derive(Clone, Debug)]
pub struct ComparedTensor {
    /// Name, shape and type in the first model.
    pub first: TensorInfo,
    /// Name, shape and type in the second model.
    pub second: TensorInfo,
    /// The result of comparing the values.
    pub values: Values,
}

/// The result of comparing the values of a tensor.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// The shapes differ, apart from outer dimensions of 1.
    OtherShape,
    /// A type that cannot be decoded.
    Opaque {
        /// Whether type and bytes are equal.
        identical: bool,
    },
    /// Numbers.
    Numbers {
        /// Whether type and bytes are equal.
        identical: bool,
        /// Sums over the pairs of values.
        sums: Sums,
    },
}

/// Compares `second` with `first`.
///
/// # Errors
/// Those of reading a tensor.
pub fn models(
    first: &GgufModel,
    second: &GgufModel,
    progress: &dyn Progress,
) -> Result<ModelComparison> {
    let (a, b) = (first.tensors.table(), second.tensors.table());
    let common = a.infos().iter().enumerate();
    let common: Vec<_> = common.filter_map(|(i, info)| Some((i, b.find(&info.name)?))).collect();
    let bytes = |index: usize| a.infos()[index].bytes().unwrap_or(0) as u64;
    progress.begin("compare", common.iter().map(|(i, _)| bytes(*i)).sum(), Unit::Bytes);
    let mut tensors = Vec::with_capacity(common.len());
    for (index, other) in common {
        check_interrupted()?;
        let (first_info, second_info) = (a.infos()[index].clone(), b.infos()[other].clone());
        progress.detail(&first_info.name);
        let values = match same_shape(&first_info, &second_info) {
            true => rows::compare((&*first.tensors, index), (&*second.tensors, other))?,
            false => Values::OtherShape,
        };
        tensors.push(ComparedTensor { first: first_info, second: second_info, values });
        progress.advance(bytes(index));
    }
    progress.end();
    let lacks = |infos: &[TensorInfo], table: &crate::formats::source::TensorTable| {
        infos.iter().filter(|info| table.get(&info.name).is_none()).cloned().collect()
    };
    Ok(ModelComparison {
        metadata: metadata(&first.metadata, &second.metadata),
        tensors,
        only_first: lacks(a.infos(), b),
        only_second: lacks(b.infos(), a),
    })
}

/// Whether shapes are equal apart from outer dimensions of 1, which GGUF files may omit.
pub fn same_shape(a: &TensorInfo, b: &TensorInfo) -> bool {
    let inner = |info: &TensorInfo| {
        info.shape.iter().copied().skip_while(|&d| d == 1).collect::<Vec<usize>>()
    };
    inner(a) == inner(b)
}

/// Returns the keys that differ: in their values, the elements of arrays, or the type of a number. NaN
/// equals NaN.
pub fn metadata(first: &Metadata, second: &Metadata) -> Vec<KeyDifference> {
    let difference = |key: &str| {
        let (a, b) = (first.get(key), second.get(key));
        // Debug text shows type and value completely, and equal NaNs as equal.
        let equal = a == b || format!("{a:?}") == format!("{b:?}");
        let (first, second) = (a.cloned(), b.cloned());
        (!equal).then(|| KeyDifference { key: key.to_string(), first, second })
    };
    let keys = first.iter().map(|(key, _)| key);
    let more = second.iter().map(|(key, _)| key).filter(|key| first.get(key).is_none());
    keys.chain(more).filter_map(difference).collect()
}
