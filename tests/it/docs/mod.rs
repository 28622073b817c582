//! The documentation: commands in README.md and the guide run, links lead somewhere, and the reference of
//! commands is up to date.

pub(crate) mod commands;
#[cfg(unix)]
pub(crate) mod guide;
pub(crate) mod links;
pub(crate) mod reference;
