//! Tensor types: ids, names and block sizes of every type that a GGUF file may hold.
//!
//! Safetensors types are the subset without blocks. Not here: what a type's bytes mean
//! ([`crate::quants`]).

use std::fmt;
use std::str::FromStr;

/// The type of a tensor's elements. Variants have the names that llama.cpp gives them.
///
/// Ids, block lengths and block sizes: llama.cpp `ggml/include/ggml.h` (`enum ggml_type`) and
/// `ggml/src/ggml.c` (`type_traits`), October 2026.
#[allow(non_camel_case_types)] // The field's own spelling of the types.
#[allow(missing_docs, reason = "the names are the field's own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
    Q2_0,
}

/// A row of the table: type, name, id in GGUF files, elements in a block, bytes in a block.
struct Geometry(DType, &'static str, u32, usize, usize);

#[rustfmt::skip]
const TABLE: &[Geometry] = &[
    Geometry(DType::F32, "F32", 0, 1, 4),
    Geometry(DType::F16, "F16", 1, 1, 2),
    Geometry(DType::BF16, "BF16", 30, 1, 2),
    Geometry(DType::F64, "F64", 28, 1, 8),
    Geometry(DType::I8, "I8", 24, 1, 1),
    Geometry(DType::I16, "I16", 25, 1, 2),
    Geometry(DType::I32, "I32", 26, 1, 4),
    Geometry(DType::I64, "I64", 27, 1, 8),
    Geometry(DType::Q4_0, "Q4_0", 2, 32, 18),
    Geometry(DType::Q4_1, "Q4_1", 3, 32, 20),
    Geometry(DType::Q5_0, "Q5_0", 6, 32, 22),
    Geometry(DType::Q5_1, "Q5_1", 7, 32, 24),
    Geometry(DType::Q8_0, "Q8_0", 8, 32, 34),
    Geometry(DType::Q8_1, "Q8_1", 9, 32, 36),
    Geometry(DType::Q2_K, "Q2_K", 10, 256, 84),
    Geometry(DType::Q3_K, "Q3_K", 11, 256, 110),
    Geometry(DType::Q4_K, "Q4_K", 12, 256, 144),
    Geometry(DType::Q5_K, "Q5_K", 13, 256, 176),
    Geometry(DType::Q6_K, "Q6_K", 14, 256, 210),
    Geometry(DType::Q8_K, "Q8_K", 15, 256, 292),
    Geometry(DType::IQ1_S, "IQ1_S", 19, 256, 50),
    Geometry(DType::IQ1_M, "IQ1_M", 29, 256, 56),
    Geometry(DType::IQ2_XXS, "IQ2_XXS", 16, 256, 66),
    Geometry(DType::IQ2_XS, "IQ2_XS", 17, 256, 74),
    Geometry(DType::IQ2_S, "IQ2_S", 22, 256, 82),
    Geometry(DType::IQ3_XXS, "IQ3_XXS", 18, 256, 98),
    Geometry(DType::IQ3_S, "IQ3_S", 21, 256, 110),
    Geometry(DType::IQ4_NL, "IQ4_NL", 20, 32, 18),
    Geometry(DType::IQ4_XS, "IQ4_XS", 23, 256, 136),
    Geometry(DType::TQ1_0, "TQ1_0", 34, 256, 54),
    Geometry(DType::TQ2_0, "TQ2_0", 35, 256, 66),
    Geometry(DType::MXFP4, "MXFP4", 39, 32, 17),
    Geometry(DType::NVFP4, "NVFP4", 40, 64, 36),
    Geometry(DType::Q1_0, "Q1_0", 41, 128, 18),
    Geometry(DType::Q2_0, "Q2_0", 42, 64, 18),
];

impl DType {
    fn geometry(self) -> &'static Geometry {
        TABLE.iter().find(|row| row.0 == self).expect("every type has a row in TABLE")
    }

    /// Returns every type that GGUF files may hold.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|row| row.0)
    }

    /// Returns the type's id in a GGUF file.
    pub fn id(self) -> u32 {
        self.geometry().2
    }

    /// Returns the type with the GGUF id `id`, if there is one.
    pub fn from_id(id: u32) -> Option<DType> {
        TABLE.iter().find(|row| row.2 == id).map(|row| row.0)
    }

    /// Returns the type's usual name, for example `Q4_K`.
    pub fn name(self) -> &'static str {
        self.geometry().1
    }

    /// Returns the number of elements in a block: 1 for plain numbers.
    pub fn block_len(self) -> usize {
        self.geometry().3
    }

    /// Returns the number of bytes in a block.
    pub fn block_bytes(self) -> usize {
        self.geometry().4
    }

    /// Returns the bytes that a row of `elements` takes, or `None` if it is not a whole number of blocks,
    /// or the result overflows.
    pub fn row_bytes(self, elements: usize) -> Option<usize> {
        let geometry = self.geometry();
        if !elements.is_multiple_of(geometry.3) {
            return None;
        }
        (elements / geometry.3).checked_mul(geometry.4)
    }

    /// Whether the type stores blocks with shared scales instead of plain numbers.
    pub fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// Whether this is F32, F16 or BF16.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = String;

    /// Parses a type's usual name, in any case.
    fn from_str(text: &str) -> Result<DType, String> {
        TABLE
            .iter()
            .find(|row| row.1.eq_ignore_ascii_case(text))
            .map(|row| row.0)
            .ok_or_else(|| format!("unknown tensor type '{text}'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_are_unique_and_round_trip() {
        for dtype in DType::all() {
            assert_eq!(DType::from_id(dtype.id()), Some(dtype));
            assert_eq!(dtype.name().to_lowercase().parse::<DType>(), Ok(dtype));
        }
        assert_eq!(DType::from_id(4), None, "Q4_2 was removed from the format");
    }

    #[test]
    fn row_bytes_refuses_partial_blocks_and_overflow() {
        assert_eq!(DType::Q4_K.row_bytes(512), Some(288));
        assert_eq!(DType::Q4_K.row_bytes(500), None);
        assert_eq!(DType::F32.row_bytes(usize::MAX), None);
    }
}
