//! What the formats of packed integers share: the parts of a module, and small integers in words of
//! 32 bits.

use super::joining::{Joined, Joining};
use super::settings::QuantSettings;
use crate::base::dtype::DType;
use crate::formats::checkpoint::weights::StoredTensor;
use safetensors::Dtype;
use serde_json::Value;

/// Joins every module that has a tensor `qweight` with `join_module`, which gets the index of that tensor and
/// the module's name. Reports a problem for each module that cannot be joined, or for all if the options are
/// an error.
pub(super) fn join_modules<O: Clone>(
    joining: &mut Joining<'_>,
    options: &Result<O, String>,
    join_module: impl Fn(&Joining<'_>, usize, &str, O) -> Result<Joined, String>,
) {
    for (index, tensor) in joining.tensors() {
        let Some(module) = tensor.name.strip_suffix(".qweight") else { continue };
        let joined =
            options.clone().and_then(|options| join_module(joining, index, module, options));
        match joined {
            Ok(joined) => {
                joining.add(joined);
                leave_out_zero_bias(joining, module);
            }
            Err(why) => joining.problem(index, why),
        }
    }
}

/// The stored tensor `name`.
///
/// # Errors
/// If it is missing.
pub(super) fn part(joining: &Joining<'_>, name: &str) -> Result<usize, String> {
    joining.find(name).ok_or_else(|| format!("'{name}' is missing"))
}

/// The float type of a tensor.
///
/// # Errors
/// If it has another one.
pub(super) fn float_type(tensor: &StoredTensor) -> Result<DType, String> {
    let dtype = tensor.info().map(|info| info.dtype).filter(|dtype| dtype.is_float());
    dtype.ok_or_else(|| {
        format!("'{}' is {}, where F16, BF16 or F32 is needed", tensor.name, tensor.dtype)
    })
}

/// # Errors
/// If a tensor is not of type `dtype`.
pub(super) fn expect_type(tensor: &StoredTensor, dtype: Dtype) -> Result<(), String> {
    match tensor.dtype == dtype {
        true => Ok(()),
        false => Err(format!("'{}' is {}, where {dtype} is needed", tensor.name, tensor.dtype)),
    }
}

/// An option that counts inputs to a group; -1, or none, is all of them.
///
/// # Errors
/// If it is another number.
pub(super) fn group_size(settings: &QuantSettings) -> Result<Option<usize>, String> {
    match settings.options.get("group_size") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_i64() {
            Some(-1) => Ok(None),
            Some(size) if size > 0 => Ok(Some(size as usize)),
            _ => Err(format!("a group_size of {value} is not possible")),
        },
    }
}

/// Leaves out the bias of `module` if it is all zeros: AutoGPTQ writes one for modules that have
/// none.
pub(super) fn leave_out_zero_bias(joining: &mut Joining<'_>, module: &str) {
    if let Some(bias) = joining.find(&format!("{module}.bias"))
        && joining.bytes(bias).iter().all(|&byte| byte == 0)
    {
        joining.leave_out(bias);
    }
}

/// The word at `index`, of data that are known to hold it.
pub(super) fn word(bytes: &[u8], index: usize) -> u32 {
    let four = bytes[4 * index..4 * index + 4].try_into();
    u32::from_le_bytes(four.expect("four bytes"))
}

/// Where field `index` of `bits` bits is in a stream of words: the word, and the shift within it. A
/// field of 3 bits may go on in the next word.
pub(super) fn place(index: usize, bits: usize) -> (usize, usize) {
    (index * bits / 32, index * bits % 32)
}

/// The field of `bits` bits at `shift` of `low`, which may go on in `high`.
pub(super) fn field(low: u32, high: impl FnOnce() -> u32, shift: usize, bits: usize) -> u32 {
    let mut value = low >> shift;
    if shift + bits > 32 {
        value |= high() << (32 - shift);
    }
    value & ((1 << bits) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_three_bits_cross_words() {
        // The numbers 0, 1, 2, ... mod 8, one after the other in 96 bits.
        let mut stream = 0u128;
        (0..32).for_each(|i| stream |= (i as u128 % 8) << (3 * i));
        let bytes = stream.to_le_bytes();
        for i in 0..32 {
            let (at, shift) = place(i, 3);
            let value = field(word(&bytes, at), || word(&bytes, at + 1), shift, 3);
            assert_eq!(value as usize, i % 8, "{i}");
        }
    }
}
