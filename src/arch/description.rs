//! What a checkpoint is: the one reader of its configuration and of the names in its table.
//!
//! Merge, conversion and planning call [`Description::of`]; none of them reads the configuration on its own, so they
//! cannot disagree. Not here: shapes of tensors, which conversion and planning check where they use them.

use super::spellings::Settings;
use super::{Architecture, HyperParams, Role};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::source::TensorTable;

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
    /// and where none is stored the embedding serves as one.
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
}
