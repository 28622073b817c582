//! Arguments that change a quantized file's mix, with llama-quantize's names.

use crate::Error;
use crate::Result;
use crate::base::dtype::DType;
use crate::formats::gguf::{GgufModel, Value};
use crate::quantize::{Importance, PlanOptions, Pruning, Sharding, TensorType, writable};
use clap::Args;
use std::path::PathBuf;

/// What types the tensors get, and which importance weights count.
#[derive(Args)]
pub(super) struct MixArguments {
    /// Accept a source that is quantized already, though quality suffers twice.
    #[arg(long)]
    allow_requantize: bool,
    /// Give all tensors the same type, instead of more bits to some.
    #[arg(long)]
    pure: bool,
    /// Leave output.weight as it is.
    #[arg(long)]
    leave_output_tensor: bool,
    /// The type of output.weight.
    #[arg(long, value_name = "TYPE", value_parser = writable)]
    output_tensor_type: Option<DType>,
    /// The type of the token embedding.
    #[arg(long, value_name = "TYPE", value_parser = writable)]
    token_embedding_type: Option<DType>,
    /// The type of tensors whose names a regular expression fits; of several, the first that fits
    /// decides. Example: 'blk\.[0-3]\.ffn_down=q8_0'.
    #[arg(long, value_name = "PATTERN=TYPE")]
    tensor_type: Vec<TensorType>,
    /// A file of such patterns, with spaces or line breaks between them; they come after those
    /// given with --tensor-type.
    #[arg(long, value_name = "FILE")]
    tensor_type_file: Vec<PathBuf>,
    /// Use only the importance weights of tensors whose names contain this; may be given several
    /// times.
    #[arg(long, value_name = "NAME", requires = "imatrix")]
    include_weights: Vec<String>,
    /// Do not use the importance weights of tensors whose names contain this; may be given several
    /// times.
    #[arg(long, value_name = "NAME", requires = "imatrix", conflicts_with = "include_weights")]
    exclude_weights: Vec<String>,
    /// Set a metadata key; types are int, float, bool and str. Example:
    /// general.author=str:someone.
    #[arg(long, value_name = "KEY=TYPE:VALUE", value_parser = override_kv)]
    override_kv: Vec<(String, Value)>,
    /// Drop these layers, counted from 0 with commas between them; the others are numbered anew.
    #[arg(long, value_name = "LAYERS", value_delimiter = ',')]
    prune_layers: Vec<usize>,
}

impl MixArguments {
    /// The options. Fails if the file of patterns cannot be read or has a line that is none.
    pub(super) fn options(&self) -> Result<PlanOptions> {
        let mut tensor_types = self.tensor_type.clone();
        for path in &self.tensor_type_file {
            let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
            for (number, line) in text.lines().enumerate() {
                let at = |e| Error::Usage(format!("{}:{}: {e}", path.display(), number + 1));
                for word in line.split_whitespace() {
                    tensor_types.push(word.parse().map_err(at)?);
                }
            }
        }
        Ok(PlanOptions {
            allow_requantize: self.allow_requantize,
            pure: self.pure,
            leave_output_tensor: self.leave_output_tensor,
            output_tensor_type: self.output_tensor_type,
            token_embedding_type: self.token_embedding_type,
            tensor_types,
            override_kv: self.override_kv.clone(),
            pruned_from: None,
            sharding: Sharding::default(),
        })
    }

    /// `model` without the layers to prune; `importance` and `options` are made to go with it.
    pub(super) fn prune(
        &self,
        model: GgufModel,
        importance: Option<&mut Importance>,
        options: &mut PlanOptions,
    ) -> Result<GgufModel> {
        if self.prune_layers.is_empty() {
            return Ok(model);
        }
        let pruning = Pruning::new(&model, &self.prune_layers)?;
        if let Some(importance) = importance {
            pruning.rename(importance);
        }
        options.pruned_from = Some(pruning.layers_before());
        pruning.model(&model)
    }

    /// `importance` less the weights that are not to be used; `None` if none are left, which is as if
    /// there were no matrix.
    pub(super) fn filter(&self, mut importance: Importance) -> Option<Importance> {
        let contains = |name: &str, parts: &[String]| parts.iter().any(|part| name.contains(part));
        importance.retain(|name| {
            !contains(name, &self.exclude_weights)
                && (self.include_weights.is_empty() || contains(name, &self.include_weights))
        });
        (!importance.is_empty()).then_some(importance)
    }
}

/// Parses `KEY=TYPE:VALUE` as llama.cpp does; its integers become u32.
pub(super) fn override_kv(text: &str) -> std::result::Result<(String, Value), String> {
    let fail = || format!("'{text}' is no KEY=TYPE:VALUE with a type of int, float, bool or str");
    let (key, rest) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(fail)?;
    let (kind, value) = rest.split_once(':').ok_or_else(fail)?;
    let value = match kind {
        "int" => Value::U32(value.parse().map_err(|_| fail())?),
        "float" => Value::F32(value.parse().map_err(|_| fail())?),
        "bool" => Value::Bool(value.parse().map_err(|_| fail())?),
        "str" if value.len() < 128 => Value::String(value.to_string()),
        "str" => return Err(format!("the value of '{key}' has more than 127 bytes")),
        _ => return Err(fail()),
    };
    Ok((key.to_string(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_have_a_type() {
        assert_eq!(override_kv("a.b=int:7"), Ok(("a.b".to_string(), Value::U32(7))));
        assert_eq!(override_kv("a=str:x=y:z"), Ok(("a".to_string(), Value::from("x=y:z"))));
        assert_eq!(override_kv("a=bool:true"), Ok(("a".to_string(), Value::Bool(true))));
        for bad in ["a", "=int:1", "a=int", "a=int:x", "a=long:1", "a=bool:1"] {
            assert!(override_kv(bad).is_err(), "{bad}");
        }
    }
}
