//! The quantization methods that can be read, one file each.
//!
//! A method's `accepts` recognizes the settings of a folder. Its `join` finds the quantized weights
//! among the stored tensors, checks types, shapes and counts, and adds a
//! [`Joined`](super::joining::Joined) tensor for each: name, shape, parts and a
//! [`Decoder`](super::source::Decoder). It reports weights that it cannot join with
//! [`Joining::problem`].

mod awq;
mod bitnet;
mod bitsandbytes;
mod compressed;
mod fp4;
mod fp8;
mod gptq;
mod integers;

use super::joining::Joining;
use super::settings::QuantSettings;
use crate::base::error::Result;

pub(super) use fp8::join_unnamed;

/// A quantization method that can be read.
pub(super) struct QuantMethod {
    /// Returns whether the settings name this method. The first one that accepts reads the folder.
    accepts: fn(&QuantSettings) -> bool,
    /// Joins all weights of this method and describes them for people: `FP8 E4M3 (blocks of
    /// 128x128)`.
    pub join: fn(&QuantSettings, &mut Joining<'_>) -> Result<String>,
}

/// Every method that can be read, in the order in which they are tried.
const METHODS: &[QuantMethod] = &[
    QuantMethod { accepts: fp4::accepts, join: fp4::join },
    QuantMethod { accepts: fp8::accepts, join: fp8::join },
    QuantMethod { accepts: compressed::accepts, join: compressed::join },
    QuantMethod { accepts: gptq::accepts, join: gptq::join },
    QuantMethod { accepts: awq::accepts, join: awq::join },
    QuantMethod { accepts: bitsandbytes::accepts, join: bitsandbytes::join },
    QuantMethod { accepts: bitnet::accepts, join: bitnet::join },
];

/// The method that reads weights with these settings.
pub(super) fn find(settings: &QuantSettings) -> Option<&'static QuantMethod> {
    METHODS.iter().find(|method| (method.accepts)(settings))
}
