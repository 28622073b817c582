//! Tables, pictures and pages.

pub(crate) mod inspect;
pub(crate) mod pictures;
pub(crate) mod rendered;
