//! What the names of an adapter's tensors mean.
//!
//! Layouts: PEFT `src/peft/utils/save_and_load.py` (`get_peft_model_state_dict`), 0.21, and what
//! older versions and other programs save: the adapter's own name (`default`) is left out or left
//! in.

/// What PEFT puts before the names of a model's modules.
const PREFIX: &str = "base_model.model.";

/// Which part of a module's change an adapter's tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdapterPart {
    A {
        embedding: bool,
    },
    B {
        embedding: bool,
    },
    /// Is added to the module's bias, scaled as the product of the matrices.
    BiasOfB,
    /// DoRA's lengths of rows, of columns for an embedding.
    Magnitude,
    /// Rows of tokens that were trained alone.
    Tokens,
    /// The tensor itself, trained whole: under `modules_to_save`, or saved because the module was
    /// changed.
    Whole {
        nested: bool,
    },
}

/// A tensor's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TensorRole<'n> {
    /// The module that it changes.
    pub module: &'n str,
    /// `weight` or `bias`.
    pub kind: &'n str,
    pub part: AdapterPart,
}

/// The meaning of `name`; `Ok(None)` for a copy of the base's own tensor, which changes nothing.
pub(super) fn parse(name: &str) -> Result<Option<TensorRole<'_>>, ()> {
    let rest = name.strip_prefix(PREFIX).ok_or(())?;
    if let Some(meaning) = of_lora(rest) {
        return usable(meaning).map(Some);
    }
    // Deeper names than `weight` and `bias` are those of modules within one that was saved whole.
    if let Some((module, inner)) = rest.split_once(".modules_to_save.") {
        let inner = inner.strip_prefix("default.").unwrap_or(inner);
        return match inner.rsplit_once('.') {
            None => whole(module, inner, true).map(Some),
            Some(_) => Err(()),
        };
    }
    if rest.contains(".original_module.") {
        return Ok(None);
    }
    let (path, kind) = rest.rsplit_once('.').ok_or(())?;
    for end in [".token_adapter.base_layer", ".base_layer"] {
        if let Some(module) = path.strip_suffix(end) {
            return whole(module, kind, false).map(Some);
        }
    }
    whole(path, kind, false).map(Some)
}

fn whole<'n>(module: &'n str, kind: &'n str, nested: bool) -> Result<TensorRole<'n>, ()> {
    usable(TensorRole { module, kind, part: AdapterPart::Whole { nested } })
}

/// The parts of LoRA and its kin; `None` for names of other parts.
fn of_lora(rest: &str) -> Option<TensorRole<'_>> {
    const PARTS: &[(&str, AdapterPart)] = &[
        (".lora_embedding_A", AdapterPart::A { embedding: true }),
        (".lora_embedding_B", AdapterPart::B { embedding: true }),
        (".lora_A", AdapterPart::A { embedding: false }),
        (".lora_B", AdapterPart::B { embedding: false }),
        (".lora_magnitude_vector", AdapterPart::Magnitude),
        (".token_adapter.trainable_tokens_delta", AdapterPart::Tokens),
        (".trainable_tokens_delta", AdapterPart::Tokens),
    ];
    let (at, mark, part) = PARTS.iter().find_map(|(mark, part)| {
        let at = rest.rfind(mark)?;
        let after = &rest[at + mark.len()..];
        (after.is_empty() || after.starts_with('.')).then_some((at, *mark, *part))
    })?;
    // What is left is the adapter's name, if it was kept, and `weight` or `bias`.
    let after = rest[at + mark.len()..].trim_start_matches('.');
    let last = after.rsplit('.').next().unwrap_or_default();
    let tensor = match last {
        "weight" | "bias" => last,
        _ => "",
    };
    let name = after[..after.len() - tensor.len()].trim_end_matches('.');
    if name.contains('.') {
        return None;
    }
    let module = &rest[..at];
    match (part, tensor) {
        (AdapterPart::A { embedding: false } | AdapterPart::B { embedding: false }, "weight")
        | (
            AdapterPart::A { embedding: true }
            | AdapterPart::B { embedding: true }
            | AdapterPart::Tokens,
            "",
        )
        | (AdapterPart::Magnitude, "" | "weight") => {
            Some(TensorRole { module, kind: "weight", part })
        }
        (AdapterPart::B { embedding: false }, "bias") => {
            Some(TensorRole { module, kind: "bias", part: AdapterPart::BiasOfB })
        }
        _ => None,
    }
}

fn usable(meaning: TensorRole<'_>) -> Result<TensorRole<'_>, ()> {
    let strange = |piece: &str| piece.is_empty() || piece.starts_with("lora_");
    let plain = !meaning.module.split('.').any(strange);
    (plain && ["weight", "bias"].contains(&meaning.kind)).then_some(meaning).ok_or(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(rest: &str) -> Option<(String, String, AdapterPart)> {
        let name = format!("base_model.model.{rest}");
        let found = parse(&name).ok().flatten()?;
        Some((found.module.to_string(), found.kind.to_string(), found.part))
    }

    #[test]
    fn names_give_modules_and_parts() {
        let q = "model.layers.0.self_attn.q_proj";
        let of =
            |module: &str, kind: &str, part| Some((module.to_string(), kind.to_string(), part));
        for end in ["lora_A.weight", "lora_A.default.weight", "lora_A.my-adapter.weight"] {
            let expected = of(q, "weight", AdapterPart::A { embedding: false });
            assert_eq!(meaning(&format!("{q}.{end}")), expected, "{end}");
        }
        assert_eq!(meaning(&format!("{q}.lora_B.bias")), of(q, "bias", AdapterPart::BiasOfB));
        for end in ["", ".default", ".weight", ".default.weight"] {
            let name = format!("{q}.lora_magnitude_vector{end}");
            assert_eq!(meaning(&name), of(q, "weight", AdapterPart::Magnitude));
        }
        let embedding = "model.embed_tokens";
        assert_eq!(
            meaning("model.embed_tokens.lora_embedding_B"),
            of(embedding, "weight", AdapterPart::B { embedding: true })
        );
        assert_eq!(
            meaning("model.embed_tokens.token_adapter.trainable_tokens_delta"),
            of(embedding, "weight", AdapterPart::Tokens)
        );
        for (end, nested) in [
            ("weight", false),
            ("base_layer.weight", false),
            ("token_adapter.base_layer.weight", false),
            ("modules_to_save.weight", true),
            ("modules_to_save.default.weight", true),
        ] {
            let expected = of(embedding, "weight", AdapterPart::Whole { nested });
            assert_eq!(meaning(&format!("{embedding}.{end}")), expected, "{end}");
        }
        assert_eq!(
            meaning(&format!("{q}.base_layer.bias")),
            of(q, "bias", AdapterPart::Whole { nested: false })
        );
        assert_eq!(parse("base_model.model.lm_head.original_module.weight"), Ok(None));
    }

    #[test]
    fn other_names_are_refused() {
        for bad in [
            "model.layers.0.q_proj.lora_A.weight",
            "base_model.model.q_proj.lora_A",
            "base_model.model.q_proj.lora_A.bias",
            "base_model.model.q_proj.lora_A.a.b.weight",
            "base_model.model..weight",
            "base_model.model.weight",
            "base_model.model.q_proj.scale",
        ] {
            assert_eq!(parse(bad), Err(()), "{bad}");
        }
    }
}
