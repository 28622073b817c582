//! What the user may change of a file's mix, with llama-quantize's words for it.

use crate::base::dtype::DType;
use crate::formats::gguf::Value;
use regex::Regex;
use std::str::FromStr;

/// What a plan may do, and what it must.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Accept a source that is quantized already, though quality suffers twice.
    pub allow_requantize: bool,
    /// Give every tensor the whole-file type's own type: no mix.
    pub pure: bool,
    /// Keep `output.weight` as it is.
    pub leave_output_tensor: bool,
    /// Type of `output.weight`, or of an embedding that serves as one.
    pub output_tensor_type: Option<DType>,
    /// Type of the token embedding.
    pub token_embedding_type: Option<DType>,
    /// Types of tensors by name. The first pattern that fits decides. Without effect where the
    /// whole-file type is F32, F16 or BF16, as in llama-quantize.
    pub tensor_types: Vec<TensorType>,
    /// Metadata keys to set. A key that is there moves to the end, as in llama-quantize.
    /// The rules of the mix go by them, too.
    pub override_kv: Vec<(String, Value)>,
    /// Layers that the model had before some were pruned, see [`super::Pruning`]. The rules of the mix
    /// go by them, and the new number of layers is recorded last, as llama-quantize does it.
    pub pruned_from: Option<usize>,
    /// How many files the model goes to.
    pub sharding: Sharding,
}

/// How many files a model goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharding {
    #[default]
    OneFile,
    /// As many as it takes to have at most so many bytes of tensor data in each.
    MaxBytes(u64),
    /// As many as the GGUF source has, each with the tensors that it has there, in the same order.
    /// The rules of the mix count in that order, as in llama-quantize.
    Keep,
}

impl PlanOptions {
    /// Returns the requested type of the tensor `name`.
    pub fn tensor_type(&self, name: &str) -> Option<DType> {
        self.tensor_types.iter().find(|t| t.pattern.is_match(name)).map(|t| t.dtype)
    }
}

/// `PATTERN=TYPE`: the type of the tensors whose name a regular expression finds something in.
#[derive(Clone, Debug)]
pub struct TensorType {
    pattern: Regex,
    dtype: DType,
}

impl FromStr for TensorType {
    type Err = String;

    /// Parses `PATTERN=TYPE`. Names are matched in lower case, as llama-quantize does it.
    fn from_str(text: &str) -> Result<TensorType, String> {
        let (pattern, dtype) = text
            .trim()
            .rsplit_once('=')
            .ok_or_else(|| format!("'{text}' is no PATTERN=TYPE, such as 'ffn_down=q6_k'"))?;
        if pattern.is_empty() {
            return Err(format!("'{text}' has no pattern before '='"));
        }
        let pattern = Regex::new(&pattern.to_lowercase()).map_err(|e| {
            // The last of several lines says what is wrong; the others draw the pattern.
            let text = e.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("'{pattern}' is no regular expression: {reason}")
        })?;
        Ok(TensorType { pattern, dtype: writable(dtype)? })
    }
}

/// A tensor type that can be written.
pub fn writable(text: &str) -> Result<DType, String> {
    let dtype: DType = text.trim().parse()?;
    match crate::quants::can_quantize(dtype) {
        true => Ok(dtype),
        false => Err(format!("tensor type {dtype} cannot be written")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_that_fits_decides() {
        let tensor_types =
            ["blk\\.[01]\\.ffn=Q6_K", "FFN_DOWN=q8_0"].map(|t| t.parse().unwrap()).into();
        let options = PlanOptions { tensor_types, ..PlanOptions::default() };
        assert_eq!(options.tensor_type("blk.1.ffn_down.weight"), Some(DType::Q6_K));
        assert_eq!(options.tensor_type("blk.2.ffn_down.weight"), Some(DType::Q8_0));
        assert_eq!(options.tensor_type("blk.2.ffn_up.weight"), None);
    }

    #[test]
    fn what_is_no_pattern_or_type_is_refused() {
        for (text, part) in [
            ("ffn_down", "is no PATTERN=TYPE"),
            ("=q8_0", "no pattern"),
            ("a(=q8_0", "no regular expression"),
            ("a=q9_0", "unknown tensor type"),
            ("a=i32", "cannot be written"),
        ] {
            let error = text.parse::<TensorType>().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
