//! The parts of a model's name: base name, size, fine-tune, version.
//!
//! Heuristics, not a grammar; they follow llama.cpp's `gguf-py/gguf/metadata.py`
//! (`get_model_id_components`) of October 2026, so that converted files are labelled alike.

use crate::model::arch::Parameters;

/// The parts of a name such as `org/Mistral-7B-Instruct-v0.3`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NameParts {
    /// The name without the organization.
    pub full_name: String,
    pub organization: Option<String>,
    pub basename: Option<String>,
    pub finetune: Option<String>,
    pub version: Option<String>,
    pub size_label: Option<String>,
}

/// What a part of the name was taken for. A part may be several things.
#[derive(Clone, Copy, Default)]
struct Marks {
    basename: bool,
    size_label: bool,
    finetune: bool,
    version: bool,
    encoding: bool,
}

impl Marks {
    fn count(self) -> usize {
        [self.basename, self.size_label, self.finetune, self.version, self.encoding]
            .into_iter()
            .filter(|&mark| mark)
            .count()
    }
}

impl NameParts {
    /// Takes `id` apart. `parameters` is the model's own count, which distinguishes a size from a context
    /// length (`-32k`).
    pub(super) fn parse(id: &str, parameters: u64) -> NameParts {
        if id.contains(' ') {
            // A title for people, not an identifier.
            return NameParts { full_name: id.to_string(), ..NameParts::default() };
        }
        let (organization, name) = match id.split_once('/') {
            Some((organization, name)) => (Some(organization), name),
            None => (None, id),
        };
        let organization = organization.filter(|o| !o.starts_with('.')).map(str::to_string);
        let mut parts: Vec<String> =
            name.split('-').filter(|part| !part.is_empty()).map(str::to_string).collect();
        let mut marks = vec![Marks::default(); parts.len()];
        for (index, part) in parts.iter_mut().enumerate() {
            marks[index] = annotate(part, index, parameters);
        }
        drop_word_sizes(&parts, &mut marks);
        mark_basename(&parts, &mut marks);
        let joined = |wanted: &dyn Fn(&Marks) -> bool| {
            let chosen: Vec<&str> = parts
                .iter()
                .zip(&marks)
                .filter(|(_, marks)| wanted(marks))
                .map(|(part, _)| part.as_str())
                .collect();
            (!chosen.is_empty()).then_some(chosen)
        };
        let sizes = joined(&|m| m.size_label).map(|mut sizes| {
            let mut seen = Vec::new();
            sizes.retain(|size| {
                !seen.contains(size) && {
                    seen.push(*size);
                    true
                }
            });
            sizes.join("-")
        });
        let finetune = joined(&|m| m.finetune).map(|p| p.join("-"));
        let version = joined(&|m| m.version && !m.basename).map(|p| p.join("-"));
        let basename = joined(&|m| m.basename).map(|p| p.join("-"));
        // A lone base name is too ambiguous to be recognised.
        let telling = sizes.is_some() || finetune.is_some() || version.is_some();
        NameParts {
            full_name: name.to_string(),
            organization,
            basename: basename.filter(|_| telling),
            finetune,
            version,
            size_label: sizes,
        }
    }
}

/// Tells what `part` is and brings it to the usual spelling.
fn annotate(part: &mut String, index: usize, parameters: u64) -> Marks {
    let mut marks = Marks::default();
    let lower = part.to_lowercase();
    if is_version(&lower) {
        marks.version = true;
    } else if is_encoding(&lower) {
        marks.encoding = true;
        *part = part.to_uppercase();
    } else if index > 0 && is_size(&lower) {
        *part = spell_size(part);
        match labelled_parameters(part) {
            // Far from the model's own size: a context length, most likely.
            Some(labelled) if parameters > 0 && is_far(labelled, parameters) => {
                marks.finetune = true;
                let suffix = part.pop().map(|c| c.to_ascii_lowercase());
                part.extend(suffix);
            }
            _ => marks.size_label = true,
        }
    } else if index > 0 && matches!(lower.as_str(), "chat" | "instruct" | "vision" | "lora") {
        marks.finetune = true;
    }
    marks
}

fn is_far(labelled: f64, parameters: u64) -> bool {
    (labelled - parameters as f64).abs() > (7 * parameters as u128 / 8) as f64
}

/// Digits at the start of `text`, and the rest.
fn digits(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    (rest.len() < text.len()).then_some(rest)
}

/// `v1.5`, `2`, `iter3`.
fn is_version(lower: &str) -> bool {
    let numbers = lower.strip_prefix("iter").or(lower.strip_prefix('v')).unwrap_or(lower);
    numbers.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// `q4_k_m`, `iq2_xs`, `bf16`, `fp32`: an encoding, which base models should not carry.
fn is_encoding(lower: &str) -> bool {
    let quant = lower.strip_prefix('i').unwrap_or(lower).strip_prefix('q');
    let quantized = quant.is_some_and(|rest| {
        let mut chars = rest.chars();
        let pairs: Vec<char> = chars.by_ref().skip(1).collect();
        rest.starts_with(|c: char| c.is_ascii_digit())
            && pairs.len().is_multiple_of(2)
            && pairs
                .chunks(2)
                .all(|pair| pair[0] == '_' && (pair[1].is_alphanumeric() || pair[1] == '_'))
    });
    quantized
        || matches!(lower, "f16" | "f32" | "fp16" | "fp32" | "bf16" | "bf32" | "bfp16" | "bfp32")
}

/// `7b`, `8x7b`, `a3b`, `1.5b`, `7b1`, `mini`, `xxl`.
fn is_size(lower: &str) -> bool {
    if matches!(lower, "small" | "mini" | "medium" | "large" | "xl" | "xxl") {
        return true;
    }
    let experts = digits(lower).and_then(|rest| rest.strip_prefix('x'));
    let number = lower.strip_prefix('a').or(experts).unwrap_or(lower);
    let Some(mut rest) = digits(number) else { return false };
    if let Some(fraction) = rest.strip_prefix(['.', '_']) {
        match digits(fraction) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    match rest.strip_prefix(['k', 'm', 'b', 't']) {
        Some(after) => after.is_empty() || (after.len() == 1 && digits(after).is_some()),
        None => false,
    }
}

/// `7b` -> `7B`, `1_5b` -> `1.5B`, `7b1` -> `7.1B`.
fn spell_size(part: &str) -> String {
    let mut chars: Vec<char> = part.replace('_', ".").chars().collect();
    if chars.last().is_some_and(char::is_ascii_digit) && chars.len() >= 2 {
        let (fraction, suffix) = (chars.pop(), chars.pop());
        chars.push('.');
        chars.extend(fraction);
        chars.extend(suffix);
    }
    if let [.., before, suffix] = &mut chars[..]
        && before.is_ascii_digit()
        && matches!(suffix, 'k' | 'm' | 'b' | 't')
    {
        *suffix = suffix.to_ascii_uppercase();
    }
    chars.into_iter().collect()
}

/// The count that a label such as `7B` names; `None` where it is no plain number.
fn labelled_parameters(label: &str) -> Option<f64> {
    let suffix = label.chars().last()?;
    let power = "KMBT".find(suffix)? as i32 + 1;
    let number: f64 = label[..label.len() - suffix.len_utf8()].parse().ok()?;
    Some(number * 1000f64.powi(power))
}

/// A word such as `mini` is no size label where a number is one.
fn drop_word_sizes(parts: &[String], marks: &mut [Marks]) {
    let numbered = |(part, marks): (&String, &Marks)| {
        marks.size_label && part.contains(|c: char| c.is_ascii_digit())
    };
    if parts.iter().zip(marks.iter()).any(numbered) {
        for (part, marks) in parts.iter().zip(marks) {
            marks.size_label &= !part.chars().all(char::is_alphabetic);
        }
    }
}

/// The base name is what stands at the start, less trailing versions; what has no mark after it is
/// taken for the fine-tune's name.
fn mark_basename(parts: &[String], marks: &mut [Marks]) {
    let mut at_start = true;
    for (part, marks) in parts.iter().zip(marks.iter_mut()) {
        let unmarked = marks.count() == 0;
        at_start &= (unmarked && part.starts_with(char::is_alphabetic)) || marks.version;
        if at_start {
            marks.basename = true;
        } else if unmarked {
            marks.finetune = true;
        }
    }
    for marks in marks.iter_mut().rev() {
        if !marks.basename || marks.count() == 1 {
            break;
        }
        marks.basename = false;
    }
}

/// `smollm2-135m` -> `Smollm2 135m`: words in lower case get capitals, except versions and sizes.
pub(super) fn title(id: &str) -> String {
    let words = id.trim().replace('-', " ");
    let words: Vec<String> = words.split_whitespace().map(title_word).collect();
    words.join(" ")
}

fn title_word(word: &str) -> String {
    let lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
    let version = word.strip_prefix('v').is_some_and(is_version);
    if !lower || version || word.starts_with(|c: char| c.is_ascii_digit()) {
        return word.to_string();
    }
    let mut after_letter = false;
    let mut out = String::with_capacity(word.len());
    for c in word.chars() {
        if c.is_alphabetic() && !after_letter {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        after_letter = c.is_alphabetic();
    }
    out
}

/// A parameter count with at least two digits: `135M`, `1.1B`, `18B`. Of a mixture, the number of experts
/// and the count with one of them: `8x7.2B`.
/// Source: llama.cpp `gguf-py/gguf/utility.py` (`size_label`).
pub(super) fn size_label(parameters: Parameters) -> String {
    match parameters.experts {
        0 => rounded(parameters.total),
        experts => format!("{experts}x{}", rounded(parameters.with_one_expert())),
    }
}

fn rounded(parameters: u64) -> String {
    let scales = [(1e12, "T"), (1e9, "B"), (1e6, "M")];
    let n = parameters as f64;
    let (scale, suffix) = scales.into_iter().find(|(s, _)| n > *s).unwrap_or((1e3, "K"));
    let scaled = n * (1.0 / scale);
    let whole = scaled.round_ties_even();
    let shown = if whole == 0.0 { 0 } else { format!("{whole:.0}").len() };
    format!("{scaled:.*}{suffix}", 2usize.saturating_sub(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// basename, finetune, version, size label, joined for a short comparison.
    fn parts(id: &str, parameters: u64) -> [String; 4] {
        let parts = NameParts::parse(id, parameters);
        [parts.basename, parts.finetune, parts.version, parts.size_label]
            .map(Option::unwrap_or_default)
    }

    // Expectations: llama.cpp `gguf-py/tests/test_metadata.py`, October 2026.
    #[test]
    fn names_fall_into_their_parts() {
        assert_eq!(parts("Mistral-7B-Instruct-v0.2", 0), ["Mistral", "Instruct", "v0.2", "7B"]);
        assert_eq!(
            parts("mistralai/Mixtral-8x7B-Instruct-v0.1", 0),
            ["Mixtral", "Instruct", "v0.1", "8x7B"]
        );
        assert_eq!(parts("Phi-3-mini-4k-instruct", 0), ["Phi-3-mini", "instruct", "", "4K"]);
        assert_eq!(
            parts("Phi-3-mini-4k-instruct", 3_800_000_000),
            ["Phi-3", "4k-instruct", "", "mini"]
        );
        assert_eq!(parts("Llama-2-7b-hf", 0), ["Llama-2", "hf", "", "7B"]);
        assert_eq!(parts("bloom-7b1-petals", 0), ["bloom", "petals", "", "7.1B"]);
        assert_eq!(parts("Qwen1.5-MoE-A2.7B-Chat", 0), ["Qwen1.5-MoE", "Chat", "", "A2.7B"]);
        assert_eq!(parts("SOLAR-10.7B-Instruct-v1.0", 0), ["SOLAR", "Instruct", "v1.0", "10.7B"]);
        assert_eq!(parts("smollm2-135m-hf", 134_515_008), ["smollm2", "hf", "", "135M"]);
        assert_eq!(parts("Stheno", 0), ["", "", "", ""], "a lone word is no base name");
    }

    #[test]
    fn sentences_and_organizations_are_told() {
        let sentence = NameParts::parse("A model of mine", 0);
        assert_eq!((sentence.full_name.as_str(), sentence.basename), ("A model of mine", None));
        let named = NameParts::parse("crestf411/daybreak-kunoichi-2dpo-7b", 0);
        assert_eq!(named.organization.as_deref(), Some("crestf411"));
        assert_eq!(named.finetune.as_deref(), Some("2dpo"));
        assert_eq!(NameParts::parse("./here", 0).organization, None);
    }

    #[test]
    fn titles_keep_versions_and_capitals() {
        assert_eq!(title("smollm2-135m-hf"), "Smollm2 135m Hf");
        assert_eq!(title("Mistral-7B-instruct-v0.2"), "Mistral 7B Instruct v0.2");
    }

    #[test]
    fn counts_have_two_digits() {
        let labels = [134_515_008, 1_100_048_384, 17_700_000_000, 7_241_732_096, 62_000, 999_000]
            .map(|n| size_label(Parameters::total(n)));
        assert_eq!(labels, ["135M", "1.1B", "18B", "7.2B", "62K", "999K"]);
        let mixtral = Parameters { total: 46_702_792_704, of_expert: 5_637_144_576, experts: 8 };
        assert_eq!(size_label(mixtral), "8x7.2B");
    }
}
