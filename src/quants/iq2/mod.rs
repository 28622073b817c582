//! IQ2 types: eight weights at a time are a point of a grid with three levels, and signs.

pub(crate) mod iq2_s;
pub(crate) mod iq2_xs;
pub(crate) mod iq2_xxs;
