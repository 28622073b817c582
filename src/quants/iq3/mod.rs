//! IQ3 types: four weights at a time are a point of a grid with eight levels, and signs.

pub(crate) mod iq3_s;
pub(crate) mod iq3_xxs;
