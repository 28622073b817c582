//! IQ3 types: the magnitudes of four weights are a point of a grid, their signs are separate bits.

pub(crate) mod iq3_s;
pub(crate) mod iq3_xxs;
