//! Whole-file types: the names a user asks for, their numbers in `general.file_type`, and the tensor
//! type that most of the file's weights get.
//!
//! Which tensors get something else is the business of [`super::mix`]. Numbers and base types:
//! llama.cpp `include/llama.h` (`enum llama_ftype`) and `src/llama-quant.cpp`
//! (`llama_ftype_get_default_type`), October 2026.

use crate::base::dtype::DType;
use crate::base::spelling::edits;
use std::fmt;
use std::str::FromStr;

/// A whole-file type, `Q4_K_M` for example.
#[allow(non_camel_case_types)] // The field's own spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // The names are llama.cpp's; docs/reference/types.md describes them.
pub enum Ftype {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q2_K_S,
    Q3_K_S,
    Q3_K_M,
    Q3_K_L,
    Q4_K_S,
    Q4_K_M,
    Q5_K_S,
    Q5_K_M,
    Q6_K,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ2_M,
    IQ3_XXS,
    IQ3_XS,
    IQ3_S,
    IQ3_M,
    IQ4_XS,
    IQ4_NL,
    TQ1_0,
    TQ2_0,
    MXFP4_MOE,
    NVFP4,
    Q1_0,
    Q2_0,
    /// The publishers' variants: embedding and head at Q8_0.
    Q2_K_L,
    Q3_K_XL,
    Q4_K_L,
    Q5_K_L,
    Q6_K_L,
}

/// One row of the table of whole-file types: name, number, tensor type of the bulk.
struct Row(Ftype, &'static str, u32, DType);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    Row(Ftype::Q1_0, "Q1_0", 40, DType::Q1_0),
    Row(Ftype::IQ1_S, "IQ1_S", 24, DType::IQ1_S),
    Row(Ftype::IQ1_M, "IQ1_M", 31, DType::IQ1_M),
    Row(Ftype::TQ1_0, "TQ1_0", 36, DType::TQ1_0),
    Row(Ftype::TQ2_0, "TQ2_0", 37, DType::TQ2_0),
    Row(Ftype::IQ2_XXS, "IQ2_XXS", 19, DType::IQ2_XXS),
    Row(Ftype::IQ2_XS, "IQ2_XS", 20, DType::IQ2_XS),
    Row(Ftype::Q2_0, "Q2_0", 41, DType::Q2_0),
    Row(Ftype::IQ2_S, "IQ2_S", 28, DType::IQ2_XS),
    Row(Ftype::IQ2_M, "IQ2_M", 29, DType::IQ2_S),
    Row(Ftype::Q2_K_S, "Q2_K_S", 21, DType::Q2_K),
    Row(Ftype::Q2_K, "Q2_K", 10, DType::Q2_K),
    Row(Ftype::Q2_K_L, "Q2_K_L", 10, DType::Q2_K),
    Row(Ftype::IQ3_XXS, "IQ3_XXS", 23, DType::IQ3_XXS),
    Row(Ftype::IQ3_XS, "IQ3_XS", 22, DType::IQ3_S),
    Row(Ftype::Q3_K_S, "Q3_K_S", 11, DType::Q3_K),
    Row(Ftype::IQ3_S, "IQ3_S", 26, DType::IQ3_S),
    Row(Ftype::IQ3_M, "IQ3_M", 27, DType::IQ3_S),
    Row(Ftype::Q3_K_M, "Q3_K_M", 12, DType::Q3_K),
    Row(Ftype::Q3_K_L, "Q3_K_L", 13, DType::Q3_K),
    Row(Ftype::Q3_K_XL, "Q3_K_XL", 13, DType::Q3_K),
    Row(Ftype::MXFP4_MOE, "MXFP4_MOE", 38, DType::MXFP4),
    Row(Ftype::IQ4_XS, "IQ4_XS", 30, DType::IQ4_XS),
    Row(Ftype::NVFP4, "NVFP4", 39, DType::NVFP4),
    Row(Ftype::IQ4_NL, "IQ4_NL", 25, DType::IQ4_NL),
    Row(Ftype::Q4_0, "Q4_0", 2, DType::Q4_0),
    Row(Ftype::Q4_1, "Q4_1", 3, DType::Q4_1),
    Row(Ftype::Q4_K_S, "Q4_K_S", 14, DType::Q4_K),
    Row(Ftype::Q4_K_M, "Q4_K_M", 15, DType::Q4_K),
    Row(Ftype::Q4_K_L, "Q4_K_L", 15, DType::Q4_K),
    Row(Ftype::Q5_0, "Q5_0", 8, DType::Q5_0),
    Row(Ftype::Q5_1, "Q5_1", 9, DType::Q5_1),
    Row(Ftype::Q5_K_S, "Q5_K_S", 16, DType::Q5_K),
    Row(Ftype::Q5_K_M, "Q5_K_M", 17, DType::Q5_K),
    Row(Ftype::Q5_K_L, "Q5_K_L", 17, DType::Q5_K),
    Row(Ftype::Q6_K, "Q6_K", 18, DType::Q6_K),
    Row(Ftype::Q6_K_L, "Q6_K_L", 18, DType::Q6_K),
    Row(Ftype::Q8_0, "Q8_0", 7, DType::Q8_0),
    Row(Ftype::F16, "F16", 1, DType::F16),
    Row(Ftype::BF16, "BF16", 32, DType::BF16),
    Row(Ftype::F32, "F32", 0, DType::F32),
];

/// Other names that people use, and what they mean.
const ALIASES: &[(&str, Ftype)] =
    &[("Q3_K", Ftype::Q3_K_M), ("Q4_K", Ftype::Q4_K_M), ("Q5_K", Ftype::Q5_K_M)];

impl Ftype {
    fn row(self) -> &'static Row {
        TABLE.iter().find(|row| row.0 == self).expect("every ftype has a row in TABLE")
    }

    /// Every whole-file type, smaller ones first.
    pub fn all() -> impl Iterator<Item = Ftype> {
        TABLE.iter().map(|row| row.0)
    }

    /// The usual name.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The number in `general.file_type`.
    pub fn id(self) -> u32 {
        self.row().2
    }

    /// Whether weights that a checkpoint stores in this type's blocks are to keep them.
    pub fn keeps_blocks(self) -> bool {
        matches!(self, Ftype::MXFP4_MOE | Ftype::NVFP4)
    }

    /// The tensor type of the bulk of the weights.
    pub fn base(self) -> DType {
        self.row().3
    }

    /// The whole-file type with this `general.file_type`, if it is one that can be written.
    pub fn from_id(id: u32) -> Option<Ftype> {
        TABLE.iter().find(|row| row.2 == id && row.0.mixed_as() == row.0).map(|row| row.0)
    }

    /// The type whose rules choose the tensors' types: another than this one for the publishers'
    /// variants, which llama.cpp does not know, and whose files carry that type's number.
    pub fn mixed_as(self) -> Ftype {
        match self {
            Ftype::Q2_K_L => Ftype::Q2_K,
            Ftype::Q3_K_XL => Ftype::Q3_K_L,
            Ftype::Q4_K_L => Ftype::Q4_K_M,
            Ftype::Q5_K_L => Ftype::Q5_K_M,
            Ftype::Q6_K_L => Ftype::Q6_K,
            other => other,
        }
    }

    /// The type of embedding and head, where it is fixed: Q8_0 in the publishers' variants.
    pub fn ends(self) -> Option<DType> {
        (self.mixed_as() != self).then_some(DType::Q8_0)
    }
}

impl fmt::Display for Ftype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Ftype {
    type Err = String;

    /// Parses a name in any case; an unknown one is answered with the nearest.
    fn from_str(text: &str) -> Result<Ftype, String> {
        let name = text.trim().to_ascii_uppercase();
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name).map(|&(_, ftype)| ftype);
        if let Some(ftype) = alias.or(TABLE.iter().find(|row| row.1 == name).map(|row| row.0)) {
            return Ok(ftype);
        }
        let nearest =
            TABLE.iter().min_by_key(|row| edits(&name, row.1)).map_or("Q4_K_M", |row| row.1);
        let all: Vec<_> = TABLE.iter().map(|row| row.1).collect();
        Err(format!(
            "unknown quant type '{text}'; did you mean {nearest}? Known are {}",
            all.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_in_any_case_and_aliases_resolve() {
        for ftype in Ftype::all() {
            assert_eq!(ftype.name().to_lowercase().parse(), Ok(ftype));
            assert_eq!(Ftype::from_id(ftype.id()), Some(ftype.mixed_as()));
        }
        assert_eq!("q4_k".parse(), Ok(Ftype::Q4_K_M));
    }

    #[test]
    fn an_unknown_name_suggests_the_nearest() {
        let error = "Q4_KM".parse::<Ftype>().unwrap_err();
        assert!(error.contains("did you mean Q4_K_M?"), "{error}");
    }
}
