//! What a checkpoint is: the one reader of its configuration and of the names in its table.
//!
//! Merge, conversion and planning call [`Description::of`] or [`Description::of_checkpoint`]; none of them reads the
//! configuration on its own, so they cannot disagree. Not here: shapes of tensors, which conversion and planning
//! check where they use them.

use super::spellings::Settings;
use super::tensor::{EMBEDDING, HEAD};
use super::{Architecture, HyperParams, Role};
use crate::base::error::Result;
use crate::formats::checkpoint::{Checkpoint, Config};
use crate::formats::source::{TensorSource, TensorTable};

/// The architecture and sizes of a checkpoint, and what its reader should hear about.
#[derive(Clone, Debug)]
pub struct Description {
    pub arch: &'static Architecture,
    /// With `tied` as the tensors have it: true exactly where no output head is stored.
    pub hyper: HyperParams,
    /// Contradictions that were decided, each a sentence that names both sides.
    pub warnings: Vec<String>,
}

impl Description {
    /// Describes the checkpoint of `config` whose tensors are `table`'s.
    ///
    /// Whether the head is tied is decided by the tensors: a stored head is used, whatever `tie_word_embeddings` says,
    /// and where none is stored the embedding serves as one. A stored copy of the embedding counts as a head:
    /// llama.cpp's converter writes it too, and telling would need the data.
    ///
    /// # Errors
    /// Those of [`HyperParams::from_config`].
    pub fn of(config: &Config, table: &TensorTable) -> Result<Description> {
        let settings = Settings::of(config)?;
        let arch = settings.arch();
        let mut hyper = HyperParams::from_settings(&settings)?;
        let mut warnings: Vec<String> = settings.warnings().map(str::to_string).collect();
        let head = arch.with_role(Role::Head).find(|head| table.find(head.hf).is_some());
        let origin = config.origin();
        match head {
            Some(head) if hyper.tied => warnings.push(format!(
                "{origin} ties the output head to the embedding, but the checkpoint stores '{}'; the stored head is \
                 used, and the output is untied",
                head.hf
            )),
            None if !hyper.tied => warnings.push(format!(
                "{origin} does not tie the output head to the embedding, but the checkpoint stores no head; the \
                 embedding is used as the head, and the output is tied"
            )),
            _ => {}
        }
        hyper.tied = head.is_none();
        Ok(Description { arch, hyper, warnings })
    }

    /// Describes `checkpoint`, as [`Description::of`] does, and warns of a head that its architecture has no place
    /// for: the only thing that needs a look at the data, at the ends of two tensors.
    ///
    /// # Errors
    /// Those of [`Description::of`].
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Description> {
        let tensors = checkpoint.tensors.as_ref();
        let mut description = Description::of(&checkpoint.config, tensors.table())?;
        description.warnings.extend(lost_head(tensors, description.arch));
        Ok(description)
    }
}

/// What to say of a stored head that is left out because GGUF's architecture always uses the embedding, unless
/// it is a copy of the embedding.
fn lost_head(tensors: &dyn TensorSource, arch: &Architecture) -> Option<String> {
    /// Bytes compared at each end: copies are equal in all, heads of their own differ in the first few.
    const COMPARED: usize = 1 << 20;
    let (head, embedding) = (HEAD.hf, EMBEDDING.hf);
    let index = tensors.table().find(head).filter(|_| arch.ignores(head))?;
    let (head, embedding) = (tensors.read(index).ok()?, tensors.read_name(embedding).ok()?);
    let ends = |bytes: &[u8]| {
        let n = bytes.len().min(COMPARED);
        [bytes[..n].to_vec(), bytes[bytes.len() - n..].to_vec()]
    };
    let copy = head.dtype == embedding.dtype
        && head.bytes.len() == embedding.bytes.len()
        && ends(&head.bytes) == ends(&embedding.bytes);
    (!copy).then(|| {
        format!(
            "{} stores '{}', which differs from the embedding; GGUF's architecture {} has no head of its own, so \
             it is left out and logits differ from those of transformers",
            tensors.origin(),
            HEAD.hf,
            arch.gguf_name
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::DType;
    use crate::formats::source::{MemorySource, TensorInfo};
    use std::sync::Arc;

    fn gemma2(head: Option<u8>) -> Vec<String> {
        let tensor =
            |name: &str, fill: u8| (TensorInfo::new(name, vec![4, 8], DType::F16), vec![fill; 64]);
        let mut tensors = vec![tensor(EMBEDDING.hf, 1)];
        tensors.extend(head.map(|fill| tensor(HEAD.hf, fill)));
        let config = r#"{"architectures": ["Gemma2ForCausalLM"], "hidden_size": 8, "num_attention_heads": 1,
            "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 4}"#;
        let checkpoint = Checkpoint {
            name: "gemma".to_string(),
            config: Config::parse("config.json", config).unwrap(),
            tensors: Arc::new(MemorySource::new("gemma", tensors).unwrap()),
            side_files: Vec::new(),
            card: None,
            warnings: Vec::new(),
        };
        Description::of_checkpoint(&checkpoint).unwrap().warnings
    }

    #[test]
    fn a_head_that_has_no_place_is_told_unless_it_is_a_copy() {
        assert!(gemma2(None).is_empty() && gemma2(Some(1)).is_empty());
        let warnings = gemma2(Some(2));
        assert!(
            warnings.len() == 1 && warnings[0].contains("differs from the embedding"),
            "{warnings:?}"
        );
    }
}
