//! The outputs of a build: where each goes, and the fingerprints of all that it is made from.
//!
//! Deliberately absent: whether they are there, which the state of the folder knows.

use super::Stages;
use crate::base::error::Result;
use crate::base::resume::Fingerprint;
use crate::build::checksums::SUMS_FILE;
use crate::build::documents;
use crate::build::file_names::name_of;
use crate::build::prepare::Prepared;
use crate::build::provenance::Inputs;
use crate::build::source::Source;
use crate::build::state::Target;
use crate::formats::gguf::{GgufLayout, Metadata, shard_paths};
use crate::formats::source::TensorInfo;
use crate::measure::imatrix;
use crate::quantize::QuantPlan;
use std::path::{Path, PathBuf};

impl Stages<'_> {
    pub(crate) fn target(&self, path: PathBuf, fingerprints: Vec<Fingerprint>) -> Target {
        Target { name: name_of(&path), paths: vec![path], fingerprints }
    }

    pub(crate) fn stack(&self, inputs: &Inputs) -> Option<Target> {
        let max_shard_bytes = self.options.keep_stack?;
        self.source.checkpoint()?;
        let mut fingerprints = inputs.fingerprints();
        // The recipe travels with the stack as it is written.
        if let Source::Recipe { plan, .. } = self.source {
            fingerprints.push(Fingerprint::new("the recipe's text", &plan.text));
        }
        fingerprints.push(Fingerprint::new("the size of shards", max_shard_bytes.to_le_bytes()));
        Some(self.target(self.dir.join(format!("{}-stack", self.name)), fingerprints))
    }

    pub(crate) fn imatrix(&self, inputs: &Inputs, calibration: &Prepared) -> Result<Target> {
        let mut fingerprints = inputs.fingerprints();
        let matters = |key: &str| key == "general.architecture" || !key.starts_with("general.");
        let (what, infos) =
            ("the configuration or the tokenizer", self.model.tensors.table().infos());
        let terms = self.header(&self.model.metadata, infos, matters)?;
        fingerprints.push(Fingerprint::new(what, terms));
        let imatrix::Options { ctx, chunks, bos, precision, datasets, .. } = &calibration.options;
        let tokens = calibration.tokens.iter().flat_map(|token| token.to_le_bytes());
        let text = format!("{bos:?} {datasets:?}").into_bytes().into_iter().chain(tokens);
        fingerprints.push(Fingerprint::new("the calibration text", text.collect::<Vec<u8>>()));
        let settings = format!("{ctx} {chunks:?} {precision:?}");
        fingerprints
            .push(Fingerprint::new("--ctx, --chunks or the precision of products", settings));
        Ok(self.target(self.dir.join(format!("{}-imatrix.gguf", self.name)), fingerprints))
    }

    /// The quantized files that `plans` make, but for what they are made from.
    pub(crate) fn quant_paths<'p>(
        &self,
        plans: &'p [QuantPlan],
    ) -> impl Iterator<Item = (&'p QuantPlan, PathBuf)> {
        let path = |plan: &QuantPlan| self.dir.join(format!("{}-{}.gguf", self.name, plan.ftype));
        plans.iter().map(move |plan| (plan, path(plan)))
    }

    /// The quantized file that `plan` makes.
    pub(crate) fn quant(
        &self,
        inputs: &Inputs,
        plan: &QuantPlan,
        path: &Path,
        imatrix: &str,
    ) -> Result<Target> {
        let mut fingerprints = inputs.fingerprints();
        fingerprints.push(Fingerprint::new("the importance matrix", imatrix));
        fingerprints.extend(plan.fingerprints(self.model.origin())?);
        Ok(Target { name: name_of(path), paths: shard_paths(path, &plan.shards), fingerprints })
    }

    /// A GGUF header, which serializes just these.
    pub(crate) fn header(
        &self,
        metadata: &Metadata,
        infos: &[TensorInfo],
        matters: impl Fn(&str) -> bool,
    ) -> Result<Vec<u8>> {
        let mut metadata = metadata.clone();
        metadata.remove_if(|key| !matters(key));
        Ok(GgufLayout::new(self.model.origin(), &metadata, infos)?.header().to_vec())
    }

    pub(crate) fn document_paths(&self) -> impl Iterator<Item = PathBuf> {
        let sums = self.dir.join(SUMS_FILE);
        documents::targets(self.source, self.dir).into_iter().chain([sums])
    }
}
