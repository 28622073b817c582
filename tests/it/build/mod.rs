//! Whole builds, their documents, verification and publishing.

pub(crate) mod documents;
#[cfg(feature = "hub")]
pub(crate) mod hub_members;
#[cfg(feature = "hub")]
pub(crate) mod hub_publish;
pub(crate) mod hub_sources;
pub(crate) mod interrupted_builds;
pub(crate) mod publish_folder;
pub(crate) mod verify;
pub(crate) mod whole_builds;
