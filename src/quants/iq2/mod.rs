//! IQ2 types: the magnitudes of eight weights are a point of a grid, their signs are separate bits.

pub(crate) mod iq2_s;
pub(crate) mod iq2_xs;
pub(crate) mod iq2_xxs;

/// The magnitude of each level. A grid has three; the fourth entry is there because levels have two
/// bits.
const LEVELS: [f32; 4] = [8.0, 25.0, 43.0, 43.0];
