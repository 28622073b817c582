//! Tables, pictures and pages.

pub mod inspect;
pub mod pictures;
pub mod rendered;
