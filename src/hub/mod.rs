//! Models on the Hugging Face hub: found in the shared cache, downloaded into it, and uploaded.
//!
//! [`HubReference`] parses what a person writes, [`HubCache`] finds it on disk. Downloads and
//! uploads are built with the feature `hub` only.
//! Not here: removing anything from the cache, and asking the hub whether a cached model is up to
//! date.

mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod digest;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod lfs;
#[cfg(feature = "hub")]
mod local_file;
mod name;
#[cfg(feature = "hub")]
mod origin;
mod reference;
#[cfg(feature = "hub")]
mod token;
#[cfg(feature = "hub")]
mod upload;

pub use cache::{HubCache, is_offline};
#[cfg(feature = "hub")]
pub use download::download;
#[cfg(feature = "hub")]
pub use local_file::LocalFile;
pub use name::HubName;
pub use reference::HubReference;
#[cfg(feature = "hub")]
pub use upload::{Upload, UploadOutcome, UploadReport, UploadedFile, upload};
