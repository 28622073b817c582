//! Whole builds, their documents, verification and publishing.

pub mod documents;
#[cfg(feature = "hub")]
pub mod hub_members;
#[cfg(feature = "hub")]
pub mod hub_publish;
pub mod hub_sources;
pub mod interrupted_builds;
pub mod publish_folder;
pub mod verify;
pub mod whole_builds;
