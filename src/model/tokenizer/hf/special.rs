//! Special token ids of a checkpoint, and whether BOS and EOS are added.
//!
//! The rules and the order of the resulting keys are those of llama.cpp's `gguf-py/gguf/vocab.py`
//! (`SpecialVocab`), October 2026: the post-processor of `tokenizer.json` decides what is added,
//! `tokenizer_config.json` names the tokens, config.json fills in ids that are still missing.

use super::files::TokenizerFiles;
use super::sentencepiece_json;
use super::tokenizer_json::AddedToken;
use crate::formats::checkpoint::Config;
use crate::model::tokenizer::gguf::SpecialTokens;
use serde_json::Value as Json;

/// The special tokens' texts while the files are being read.
struct Texts {
    kinds: Vec<&'static str>,
    texts: Vec<(&'static str, String)>,
}

impl Texts {
    fn get(&self, kind: &str) -> Option<&str> {
        self.texts.iter().find(|(k, _)| *k == kind).map(|(_, text)| text.as_str())
    }

    fn set(&mut self, kind: &'static str, text: &str) {
        self.texts.retain(|(k, _)| *k != kind);
        self.texts.push((kind, text.to_string()));
    }

    fn is(&self, text: &str, kinds: &[&str]) -> bool {
        kinds.iter().any(|kind| self.get(kind) == Some(text))
    }
}

/// Reads the special tokens; ids of `n_vocab` and above are left out.
pub(super) fn read(files: &TokenizerFiles, model_config: &Config, n_vocab: usize) -> SpecialTokens {
    let mut special = SpecialTokens::default();
    let kinds = vec!["bos", "eos", "unk", "sep", "pad", "cls", "mask"];
    let mut texts = Texts { kinds, texts: Vec::new() };
    for kind in texts.kinds.clone() {
        if let Some(text) = files.named_token(kind) {
            texts.set(kind, text);
        }
    }
    for (main, alias) in [("bos", "cls"), ("eos", "sep")] {
        if texts.get(main).is_none()
            && let Some(text) = texts.get(alias).map(str::to_string)
        {
            texts.set(main, &text);
        }
    }
    // Of a folder without tokenizer.json llama.cpp takes ids from config.json alone.
    let json = files.json.as_ref().filter(|_| files.made_specials.is_none());
    let added = json.map(|(_, _, json)| json.added_tokens.as_slice());
    if let Some((_, _, json)) = &files.json {
        read_post_processor(&mut special, &json.post_processor, &mut texts);
    }
    if let Some(config) = &files.config {
        read_tokenizer_config(&mut special, config, &texts, added.unwrap_or_default(), n_vocab);
        complete_adds(&mut special, config, files);
    }
    for kind in &texts.kinds {
        let id = model_config.get(&format!("{kind}_token_id"));
        // Chat models list several ends; the first is the usual one.
        let id = id.and_then(|id| id.as_u64().or_else(|| id.as_array()?.first()?.as_u64()));
        special.set_id(kind, id, n_vocab);
    }
    for (kind, text) in files.made_specials.iter().flatten() {
        let tokens = files.json.iter().flat_map(|(_, _, json)| &json.added_tokens);
        let id = { tokens }.find(|token| token.content == *text).map(|token| token.id.into());
        special.set_id(kind, id, n_vocab);
    }
    special
}

fn read_post_processor(special: &mut SpecialTokens, processor: &Json, texts: &mut Texts) {
    let single = std::slice::from_ref(processor);
    let processors = processor.get("processors").and_then(Json::as_array);
    for processor in processors.map_or(single, Vec::as_slice) {
        match processor.get("type").and_then(Json::as_str) {
            Some("ByteLevel") => {
                for kind in ["bos", "eos"] {
                    special.set_add_default(kind, false);
                }
            }
            Some("RobertaProcessing") => {
                for kind in ["bos", "eos", "sep"] {
                    special.set_add(kind, true);
                }
                for kind in ["cls", "sep"] {
                    let text = processor.get(kind).and_then(|v| v.get(0)?.as_str());
                    if let (None, Some(text)) = (texts.get(kind), text) {
                        texts.set(kind, text);
                    }
                }
            }
            Some("TemplateProcessing") => read_template(special, processor, texts),
            _ => {}
        }
    }
}

/// `TemplateProcessing`: a special token that begins or ends the single sequence is added.
fn read_template(tokens: &mut SpecialTokens, processor: &Json, texts: &mut Texts) {
    let items = |key: &str| processor.get(key).and_then(Json::as_array);
    let special = |item: &'_ Json| -> Option<String> {
        Some(item.get("SpecialToken")?.get("id")?.as_str()?.to_string())
    };
    let single = items("single").map_or(&[][..], Vec::as_slice);
    let (mut first, mut last) = (None, None);
    if single.len() > 1 {
        first = single.first().and_then(special);
        last = single.last().and_then(special);
    }
    if let Some(first) = &first {
        if !texts.is(first, &["bos", "cls"]) {
            for kind in ["bos", "cls"] {
                if texts.get(kind).is_none() {
                    texts.set(kind, first);
                }
            }
        }
        tokens.set_add("bos", texts.is(first, &["bos", "cls"]));
    }
    if let Some(last) = &last {
        if let Some(old) = texts.get("eos").filter(|old| old != last).map(str::to_string) {
            // The old end of sequence lives on as end of turn, or of message.
            if let Some(kind) = ["eot", "eom"].into_iter().find(|k| !texts.kinds.contains(k)) {
                texts.kinds.push(kind);
                texts.set(kind, &old);
            }
        }
        texts.set("eos", last);
        tokens.set_add("eos", true);
    }
    let mut pair = items("pair").map_or(&[][..], Vec::as_slice);
    if first.is_some() && pair.first().and_then(special) == first {
        pair = &pair[1..];
    }
    if last.is_some() && pair.last().and_then(special) == last {
        pair = &pair[..pair.len() - 1];
    }
    let sequence = |item: Option<&Json>, id: &str| {
        item.and_then(|v| v.get("Sequence")?.get("id")?.as_str()) == Some(id)
    };
    if pair.len() > 2 && sequence(pair.first(), "A") && sequence(pair.last(), "B") {
        read_separator(tokens, &pair[1..pair.len() - 1], last.is_some(), texts);
    }
}

/// What stands between the two sequences of a pair.
fn read_separator(tokens: &mut SpecialTokens, between: &[Json], ends: bool, texts: &mut Texts) {
    let separates = |item: Option<&Json>| {
        let text = item.and_then(|v| v.get("SpecialToken")?.get("id")?.as_str());
        text.is_some_and(|text| texts.is(text, &["sep", "eos"]))
    };
    let second = between.len() == 2 && separates(between.get(1));
    let add = (separates(between.first()) && !ends) || second;
    tokens.set_add("sep", add);
    if add
        && texts.get("sep").is_none()
        && let Some(eos) = texts.get("eos").map(str::to_string)
    {
        texts.set("sep", &eos);
    }
}

fn read_tokenizer_config(
    special: &mut SpecialTokens,
    config: &Config,
    texts: &Texts,
    added: &[AddedToken],
    n_vocab: usize,
) {
    for &kind in &texts.kinds {
        let add = config.bool(&format!("add_{kind}_token"));
        if let Some(add) = add {
            special.set_add_default(kind, add);
        }
        let text = texts.get(kind);
        let id = added.iter().find(|token| Some(token.content.as_str()) == text);
        special.set_id(kind, id.map(|token| token.id.into()), n_vocab);
    }
}

/// Transformers 5 does not write `add_bos_token` and `add_eos_token`, which these classes had in version 4: there the
/// post-processor alone decides, so what it does not add is not added.
fn complete_adds(special: &mut SpecialTokens, config: &Config, files: &TokenizerFiles) {
    let of_json = files.json.as_ref().map(|(_, _, json)| json);
    let kinds: &[&'static str] = match config.str("tokenizer_class") {
        _ if config.str("backend") != Some("tokenizers") => return,
        _ if of_json.is_some_and(sentencepiece_json::is_sentencepiece) => &["bos", "eos"],
        Some("Qwen2Tokenizer") => &["bos"],
        _ => return,
    };
    for kind in kinds {
        special.set_add_default(kind, false);
    }
}
