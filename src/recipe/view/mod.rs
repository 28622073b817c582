//! A plan as plain data for tables, pictures and JSON.
//!
//! `summary` lists stages, members and layers; `shares` computes how much each member contributes.
//!
//! Not here: how the data is printed or drawn, which is in [`crate::report`].

mod shares;
mod summary;

pub use shares::MemberShare;
pub use summary::*;
