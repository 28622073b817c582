//! The library's public interface, as a program that depends on it uses it.

pub(crate) mod interface;
