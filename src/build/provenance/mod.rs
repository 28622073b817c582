//! Where a build's model comes from: hashes of the files that it is read from, names and licences
//! on the hub, and the metadata keys that record them in the quantized files.

mod inputs;
mod metadata;
mod origins;

pub(super) use inputs::Inputs;
pub(super) use metadata::record;
pub(super) use origins::Origins;
