//! Block formats: what the bytes of each tensor type mean, and how to write them.

use crate::dtype::DType;
use crate::error::{Error, Result};

/// Decodes `bytes` of type `dtype` into `out`. Placeholder signature: see the quants work.
pub fn decode(dtype: DType, _bytes: &[u8], _out: &mut [f32]) -> Result<()> {
    Err(Error::Usage(format!("cannot decode {dtype}")))
}
