//! What a merge is made from, as fingerprints: whether a run may use what another one left.
//!
//! They cover the recipe's text, this program's version, and of each member its configuration, its table
//! of tensors, and names, sizes and times of change of its files. Not here: hashes of the weights, which
//! take as long as merging them. So a file that was only touched makes a merge start anew.

use crate::base::resume::{Fingerprint, describe_file};
use crate::formats::checkpoint::{Checkpoint, SideFile};
use crate::recipe::MergePlan;
use std::fmt::Write;

/// Returns the fingerprints of `plan`; `None` if the files of some member are unknown, so that nothing
/// shows whether they have changed.
pub fn fingerprints(plan: &MergePlan) -> Option<Vec<Fingerprint>> {
    let mut fingerprints =
        vec![Fingerprint::of_program(), Fingerprint::new("the recipe", &plan.text)];
    for member in &plan.members {
        let what = format!("member '{}'", member.reference);
        fingerprints.push(Fingerprint::new(what, describe(&member.checkpoint)?));
    }
    Some(fingerprints)
}

/// Describes `model` without reading its weights; `None` if its files are unknown.
pub(crate) fn describe(model: &Checkpoint) -> Option<String> {
    let mut text = model.config.to_json();
    for info in model.tensors.table().infos() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:?} {:?} {}", info.name, info.shape, info.dtype);
    }
    for path in model.tensors.files()? {
        text.push_str(&describe_file(&path)?);
    }
    for file in &model.side_files {
        match file {
            SideFile::File(path) | SideFile::InFolder { path, .. } => {
                text.push_str(&describe_file(path)?)
            }
            // Made from the files above.
            made => text.push_str(&format!("{:?}\n", made.name())),
        }
    }
    Some(text)
}
