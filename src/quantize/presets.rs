//! Lists of whole-file types with names: what publishers of quants usually offer, and a line of advice for
//! each type. Data only; adding a list or a type is a line here.
//!
//! Deliberately absent: types that one publisher makes by hand for one model.

use super::Ftype;

/// A list of types with a name.
pub struct Preset {
    pub name: &'static str,
    /// Whose list it is, for people.
    pub about: &'static str,
    /// The largest first.
    pub types: &'static [Ftype],
}

use Ftype::*;

/// All presets. The publishers' lists are those of their model pages on the Hugging Face hub, 2025.
#[rustfmt::skip]
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "small",
        about: "four types that suit most machines",
        types: &[Q8_0, Q6_K, Q5_K_M, Q4_K_M],
    },
    Preset {
        name: "publisher",
        about: "the list of bartowski's pages, all with an importance matrix",
        types: &[
            Q8_0, Q6_K_L, Q6_K, Q5_K_L, Q5_K_M, Q5_K_S, Q4_1, Q4_K_L, Q4_K_M, Q4_K_S, Q4_0, IQ4_NL, IQ4_XS,
            Q3_K_XL, Q3_K_L, Q3_K_M, IQ3_M, Q3_K_S, IQ3_XS, IQ3_XXS, Q2_K_L, Q2_K, IQ2_M, IQ2_S, IQ2_XS, IQ2_XXS,
        ],
    },
    Preset {
        name: "i1",
        about: "mradermacher's weighted list (i1)",
        types: &[
            Q6_K, Q5_K_M, Q5_K_S, Q4_1, Q4_K_M, Q4_K_S, Q4_0, IQ4_NL, IQ4_XS, Q3_K_L, Q3_K_M, IQ3_M, IQ3_S,
            Q3_K_S, IQ3_XS, IQ3_XXS, Q2_K, Q2_K_S, IQ2_M, IQ2_S, IQ2_XS, IQ2_XXS, IQ1_M, IQ1_S,
        ],
    },
    Preset {
        name: "static",
        about: "the types of mradermacher's static list",
        types: &[Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q4_K_M, Q4_K_S, IQ4_XS, Q3_K_L, Q3_K_M, Q3_K_S, Q2_K],
    },
    Preset {
        name: "full",
        about: "every type for ordinary models",
        types: &[
            Q8_0, Q6_K_L, Q6_K, Q5_K_L, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_L, Q4_K_M, Q4_K_S, Q4_1, Q4_0, IQ4_NL,
            IQ4_XS, Q3_K_XL, Q3_K_L, Q3_K_M, IQ3_M, IQ3_S, Q3_K_S, IQ3_XS, IQ3_XXS, Q2_K_L, Q2_K, Q2_K_S, IQ2_M,
            IQ2_S, IQ2_XS, IQ2_XXS, IQ1_M, IQ1_S,
        ],
    },
];

/// The types that `text` asks for: names of presets and of types with commas between them, each type once,
/// in the order given.
///
/// # Errors
/// A text for the user, if a name is neither.
pub fn types(text: &str) -> Result<Vec<Ftype>, String> {
    let mut found: Vec<Ftype> = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let preset = PRESETS.iter().find(|preset| preset.name.eq_ignore_ascii_case(name));
        let more = match preset {
            Some(preset) => preset.types.to_vec(),
            None => vec![name.parse::<Ftype>().map_err(|error| {
                let presets: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
                format!("'{name}' is no preset ({}), and no type: {error}", presets.join(", "))
            })?],
        };
        for ftype in more {
            if !found.contains(&ftype) {
                found.push(ftype);
            }
        }
    }
    match found.is_empty() {
        true => Err("no preset and no type is named".to_string()),
        false => Ok(found),
    }
}

/// Advice to people who choose a file.
pub fn advice(ftype: Ftype) -> &'static str {
    match ftype {
        F32 => "Full precision; for conversion only.",
        F16 | BF16 => "All that the model has; for quantizing again and for comparison.",
        Q8_0 => "As good as the original to all practical purposes; more than most people need.",
        Q6_K_L => "Q6_K with embedding and head in Q8_0. Very near the original.",
        Q6_K => "Very near the original; recommended where there is room.",
        Q5_K_L => "Q5_K_M with embedding and head in Q8_0. High quality.",
        Q5_K_M => "Hard to distinguish from the original in most uses; recommended.",
        Q5_K_S => "High quality, a little smaller than Q5_K_M.",
        Q5_0 | Q5_1 => "An older layout; Q5_K_S is better at the same size.",
        Q4_K_L => "Q4_K_M with embedding and head in Q8_0. Good quality.",
        Q4_K_M => "The usual choice: little is lost, and most machines hold it.",
        Q4_K_S => "A little smaller and a little worse than Q4_K_M.",
        Q4_1 => "An older layout, near Q4_K_S; economical on Apple silicon.",
        Q4_0 => "An older layout; llama.cpp repacks it for fast CPU inference.",
        IQ4_NL => "Near IQ4_XS, a little larger; llama.cpp repacks it for fast ARM inference.",
        IQ4_XS => "Smaller than Q4_K_S at about the same quality; recommended.",
        Q3_K_XL => "Q3_K_L with embedding and head in Q8_0, for little memory.",
        Q3_K_L => "Lower quality, for little memory.",
        Q3_K_M => "Low quality.",
        Q3_K_S => "Low quality; IQ3_XS is better at this size.",
        IQ3_M => "Medium to low quality, near Q3_K_M at a smaller size.",
        IQ3_S => "Better than Q3_K_S at the same size.",
        IQ3_XS => "Low quality, a little better than Q3_K_S and smaller.",
        IQ3_XXS => "Low quality, near the smallest 3-bit types in size.",
        Q2_K_L => "Q2_K with embedding and head in Q8_0. Very low quality.",
        Q2_K => "Very low quality; often IQ3_XXS is better.",
        Q2_K_S => "Very low quality, the smallest K-quant.",
        IQ2_M => "Low quality, kept usable by the importance matrix.",
        IQ2_S | IQ2_XS => "Very low quality, for memory that holds nothing larger.",
        IQ2_XXS => "Very low quality; for large models only.",
        IQ1_M | IQ1_S => "Barely usable; only where nothing larger fits.",
        TQ1_0 | TQ2_0 => "For models that were trained with ternary weights.",
        MXFP4_MOE => "For mixtures of experts that were trained in MXFP4.",
        NVFP4 => "For hardware that computes in NVFP4.",
        Q1_0 | Q2_0 => "For models that were trained with weights of one or two bits.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_and_types_are_united() {
        assert_eq!(types("small, iq4_xs,Q6_K").unwrap(), [Q8_0, Q6_K, Q5_K_M, Q4_K_M, IQ4_XS]);
        assert_eq!(types("Q4_K_M").unwrap(), [Q4_K_M]);
        for (wrong, part) in [("smal", "is no preset (small, publisher"), (" ,", "no preset")] {
            assert!(types(wrong).unwrap_err().contains(part));
        }
    }

    #[test]
    fn no_preset_has_a_type_twice_and_full_has_all_others() {
        let full = types("full").unwrap();
        for preset in PRESETS {
            assert_eq!(types(preset.name).unwrap().len(), preset.types.len(), "{}", preset.name);
            assert!(preset.types.iter().all(|ftype| full.contains(ftype)), "{}", preset.name);
        }
    }
}
