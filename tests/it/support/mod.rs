//! Helpers of the tests: the program run in a folder of its own, small models, servers.

pub(crate) mod folders;
pub(crate) mod hostile_files;
#[cfg(feature = "hub")]
pub(crate) mod http;
#[cfg(feature = "hub")]
pub(crate) mod hub_server;
pub(crate) mod program;
pub(crate) mod stress;
