//! Helpers of the tests: the program run in a folder of its own, small models, servers.

pub mod folders;
pub mod hostile_files;
#[cfg(feature = "hub")]
pub mod http;
#[cfg(feature = "hub")]
pub mod hub_server;
pub mod program;
pub mod stress;
