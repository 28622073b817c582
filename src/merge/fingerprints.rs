//! What a merge is made from, as hashes: whether a run may continue what another one left.
//!
//! The recipe's text, this program's version, and of each member its configuration, its table of
//! tensors, and names, sizes and times of change of its files. Not the weights: hashing them would take
//! as long as merging them. A file that was only touched so makes a merge start anew, which is safe.

use crate::formats::checkpoint::{Checkpoint, Fingerprint, SideFile};
use crate::recipe::MergePlan;
use std::fmt::Write;
use std::path::Path;
use std::time::SystemTime;

/// The fingerprints of `plan`; `None` if some member's files are not known, for then nobody can tell whether
/// they are what they were.
pub fn fingerprints(plan: &MergePlan) -> Option<Vec<Fingerprint>> {
    let mut fingerprints = vec![
        Fingerprint::new("this program's version", env!("CARGO_PKG_VERSION")),
        Fingerprint::new("the recipe", &plan.text),
    ];
    for member in &plan.members {
        let what = format!("member '{}'", member.reference);
        fingerprints.push(Fingerprint::new(what, describe(&member.checkpoint)?));
    }
    Some(fingerprints)
}

/// All that can be told of a member without reading its weights.
fn describe(member: &Checkpoint) -> Option<String> {
    let mut text = member.config.to_json();
    for info in member.tensors.table().infos() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:?} {:?} {}", info.name, info.shape, info.dtype);
    }
    for path in member.tensors.files()? {
        text.push_str(&describe_file(&path)?);
    }
    for file in &member.side_files {
        match file {
            SideFile::File(path) | SideFile::InFolder { path, .. } => {
                text.push_str(&describe_file(path)?)
            }
            // Made of the files above.
            made => text.push_str(&format!("{:?}\n", made.name())),
        }
    }
    Some(text)
}

fn describe_file(path: &Path) -> Option<String> {
    let meta = std::fs::metadata(path).ok()?;
    let changed = meta.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(format!("{:?} {} {}\n", path.file_name()?, meta.len(), changed.as_nanos()))
}
