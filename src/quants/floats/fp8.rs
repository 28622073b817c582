//! Floats of eight bits, as FP8 checkpoints and their scales hold them, decoded exactly to f32.
//!
//! GGUF has no type for them, so they are not in the registry. Layouts: OCP 8-bit Floating Point
//! Specification (OFP8), E4M3 without infinities (torch's `float8_e4m3fn`), E5M2; OCP Microscaling
//! Formats (MX), E8M0.

/// The value of each code of E4M3.
pub const E4M3: [f32; 256] = table(4);
/// The value of each code of E5M2.
pub const E5M2: [f32; 256] = table(5);

/// The value of a code of E8M0: a power of two; NaN for 255.
pub fn e8m0(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22), // 2^-127, below the smallest normal number.
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

const fn table(exponent_bits: u32) -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = value(code as u32, exponent_bits);
        code += 1;
    }
    values
}

const fn value(code: u32, exponent_bits: u32) -> f32 {
    let mantissa_bits = 7 - exponent_bits;
    let bias = (1 << (exponent_bits - 1)) - 1;
    let sign = (code >> 7) << 31;
    let exponent = code >> mantissa_bits & ((1 << exponent_bits) - 1);
    let mantissa = code & ((1 << mantissa_bits) - 1);
    let all_ones = exponent == (1 << exponent_bits) - 1;
    let fraction = mantissa << (23 - mantissa_bits);
    if all_ones && exponent_bits == 5 {
        return f32::from_bits(sign | 0xff << 23 | fraction);
    }
    if all_ones && mantissa == 7 {
        return f32::from_bits(sign | 0x7fc0_0000);
    }
    if exponent == 0 {
        // The mantissa in units of the smallest subnormal number.
        let unit = f32::from_bits((127 + 1 - bias - mantissa_bits) << 23);
        let magnitude = mantissa as f32 * unit;
        return f32::from_bits(sign | magnitude.to_bits());
    }
    f32::from_bits(sign | (exponent + 127 - bias) << 23 | fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_codes_have_their_values() {
        for (code, value) in [
            (0x00, 0.0),
            (0x01, 0.001953125),
            (0x07, 0.013671875),
            (0x08, 0.015625),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xb9, -1.125),
        ] {
            assert_eq!(E4M3[code], value, "{code:#x}");
        }
        assert!(E4M3[0x7f].is_nan() && E4M3[0xff].is_nan());
        assert_eq!(E4M3[0x80].to_bits(), 1 << 31);
        for (code, value) in [
            (0x01, f32::powi(2.0, -16)),
            (0x04, f32::powi(2.0, -14)),
            (0x3c, 1.0),
            (0x7b, 57344.0),
            (0x7c, f32::INFINITY),
            (0xfc, f32::NEG_INFINITY),
        ] {
            assert_eq!(E5M2[code], value, "{code:#x}");
        }
        assert!(E5M2[0x7d].is_nan() && E5M2[0xff].is_nan());
        assert_eq!(
            [e8m0(0), e8m0(1), e8m0(127), e8m0(254)].map(f32::log2),
            [-127., -126., 0., 127.]
        );
        assert!(e8m0(255).is_nan());
    }

    #[test]
    fn e5m2_is_the_upper_half_of_f16() {
        for code in 0..=255u8 {
            let mut half = [0f32];
            crate::quants::decode(crate::base::dtype::DType::F16, &[0, code], &mut half).unwrap();
            let value = E5M2[usize::from(code)];
            assert!(value.to_bits() == half[0].to_bits() || value.is_nan() && half[0].is_nan());
        }
    }
}
