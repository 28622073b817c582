//! The way back: `tokenizer.*` metadata as the files that a Hugging Face folder has.
//!
//! A byte-level vocabulary becomes a `tokenizer.json`, one with scores a `tokenizer.model`, which keeps the
//! scores; both get a `tokenizer_config.json` with the special tokens and the chat template. What conversion
//! makes of these files is the metadata again, but for keys that no file of a folder can say (end of turn).

use super::pretokenizer_name;
use super::sentencepiece::{ModelProto, NormalizerSpec, SentencePiece, TrainerSpec};
use crate::base::error::{Error, Result};
use crate::formats::gguf::{Metadata, escape_invalid_utf8, is_utf8};
use crate::model::tokenizer::encode::{ByteChars, pretokenizer};
use crate::model::tokenizer::gguf::{TokenKind, padding_token, scores, token_kinds};
use crate::model::tokenizer::{ChatTemplates, SPACE_MARK, SPECIAL_TOKEN_KEYS};
use prost::Message;
use serde_json::{Map, Value, json};

/// The score that conversion gives to tokens that are added to a model.
const ADDED_SCORE: f32 = -1000.0;

/// Names and contents of the tokenizer's files; `origin` names the model in errors.
///
/// # Errors
/// If the metadata lack a tokenizer or contradict themselves, or if its kind or its pre-tokenizer has no
/// counterpart that these files could hold.
pub fn restore(origin: &str, metadata: &Metadata) -> Result<Vec<(String, Vec<u8>)>> {
    let fail =
        |detail: String| Error::model(origin, format!("no tokenizer files can be made: {detail}"));
    let model = metadata.str("tokenizer.ggml.model");
    let model = model.ok_or_else(|| fail("the file has no tokenizer".into()))?;
    let tokens = metadata.strings("tokenizer.ggml.tokens");
    let tokens = tokens.ok_or_else(|| fail("'tokenizer.ggml.tokens' is missing".into()))?;
    if let Some(id) = tokens.iter().position(|token| !is_utf8(token)) {
        let token = escape_invalid_utf8(&tokens[id]);
        let detail = format!("token {id}, '{token}', is not UTF-8, which these files must be");
        return Err(fail(detail));
    }
    let vocabulary =
        Vocab { metadata, tokens, kinds: token_kinds(origin, metadata, tokens.len())? };
    let (name, bytes, added) = match model {
        "gpt2" => {
            let pre = metadata.str("tokenizer.ggml.pre").unwrap_or("default");
            let steps = pretokenizer_name::structure(pre).ok_or_else(|| {
                fail(format!("the pre-tokenizer '{pre}' has no form that is known"))
            })?;
            let merges = metadata.strings("tokenizer.ggml.merges");
            let merges = merges.ok_or_else(|| fail("'tokenizer.ggml.merges' is missing".into()))?;
            let chars = ByteChars::new();
            let added = vocabulary.added(|_| true, |text| chars.text(text) != text);
            let ignore_merges = pretokenizer::takes_whole_words(pre);
            let json = vocabulary.tokenizer_json(steps, ignore_merges, merges, &added);
            ("tokenizer.json", pretty(&json), added)
        }
        "llama" => {
            let scores = scores(origin, metadata)?;
            if scores.len() != tokens.len() {
                return Err(fail(format!("{} scores for {} tokens", scores.len(), tokens.len())));
            }
            // Control tokens of the SentencePiece model itself have scores of their own there.
            let added = vocabulary.added(|id| scores[id] == ADDED_SCORE, |_| false);
            ("tokenizer.model", vocabulary.sentencepiece(scores), added)
        }
        other => return Err(fail(format!("tokenizers of kind '{other}' are not known"))),
    };
    let class = if name == "tokenizer.json" { "PreTrainedTokenizerFast" } else { "LlamaTokenizer" };
    let config = pretty(&vocabulary.config(class, &added));
    Ok(vec![(name.to_string(), bytes), ("tokenizer_config.json".to_string(), config)])
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_string_pretty(value).expect("JSON values serialize");
    text.push('\n');
    text.into_bytes()
}

struct Vocab<'a> {
    metadata: &'a Metadata,
    tokens: &'a [String],
    kinds: Vec<TokenKind>,
}

impl Vocab<'_> {
    /// Tokens that are found in the text before it is tokenized, as the files list them. `control` says
    /// which control tokens count, `normalized` which texts conversion would decode unless they are called so.
    fn added(
        &self,
        control: impl Fn(usize) -> bool,
        normalized: impl Fn(&str) -> bool,
    ) -> Vec<Value> {
        let token = |(id, (text, kind)): (usize, (&String, &TokenKind))| {
            let special = *kind == TokenKind::Control;
            if *kind != TokenKind::UserDefined && !(special && control(id)) {
                return None;
            }
            Some(json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": normalized(text), "special": special,
            }))
        };
        self.tokens.iter().zip(&self.kinds).enumerate().filter_map(token).collect()
    }

    /// The text of the token whose id `key` holds.
    fn named(&self, key: &str) -> Option<&str> {
        let id = usize::try_from(self.metadata.u64(key)?).ok()?;
        self.tokens.get(id).map(String::as_str)
    }

    fn tokenizer_json(
        &self,
        steps: Vec<Value>,
        ignore_merges: bool,
        merges: &[String],
        added: &[Value],
    ) -> Value {
        // Rows that only fill the embedding have no token; conversion fills them again.
        let fills = |id: usize, text: &str| {
            self.kinds[id] == TokenKind::Unused && text == padding_token(id)
        };
        let ids = self.tokens.iter().enumerate().filter(|(id, text)| !fills(*id, text));
        let vocab: Map<String, Value> = ids.map(|(id, text)| (text.clone(), id.into())).collect();
        let byte_level = json!({
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        });
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": steps },
            "post_processor": self.post_processor(),
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": ignore_merges,
                "vocab": vocab,
                "merges": merges,
            },
        })
    }

    /// Puts BOS before and EOS after a text, where the model wants that.
    fn post_processor(&self) -> Value {
        let wanted = |kind: &str| {
            let add = self.metadata.bool(&format!("tokenizer.ggml.add_{kind}_token"))?;
            self.named(&format!("tokenizer.ggml.{kind}_token_id")).filter(|_| add)
        };
        let (bos, eos) = (wanted("bos"), wanted("eos"));
        if bos.is_none() && eos.is_none() {
            return Value::Null;
        }
        let special = |text: &str| json!({ "SpecialToken": { "id": text, "type_id": 0 } });
        let sequence = |id: &str, kind: u8| json!({ "Sequence": { "id": id, "type_id": kind } });
        let around = |inner: Vec<Value>| -> Vec<Value> {
            bos.map(special).into_iter().chain(inner).chain(eos.map(special)).collect()
        };
        let mut tokens = Map::new();
        for text in bos.into_iter().chain(eos) {
            let id = self.tokens.iter().position(|token| token == text);
            tokens.insert(text.to_string(), json!({ "id": text, "ids": [id], "tokens": [text] }));
        }
        json!({
            "type": "TemplateProcessing",
            "single": around(vec![sequence("A", 0)]),
            "pair": around(vec![sequence("A", 0), sequence("B", 1)]),
            "special_tokens": tokens,
        })
    }

    fn sentencepiece(&self, scores: &[f32]) -> Vec<u8> {
        let id = |kind: &str| {
            let id = self.metadata.u64(&format!("tokenizer.ggml.{kind}_token_id"));
            id.and_then(|id| i32::try_from(id).ok()).filter(|&id| (id as usize) < self.tokens.len())
        };
        let unknown = self.kinds.iter().position(|kind| *kind == TokenKind::Unknown);
        let unk = id("unknown").or(unknown.map(|id| id as i32)).or(Some(0));
        let pieces = (self.tokens.iter().zip(&self.kinds).zip(scores).enumerate())
            .map(|(at, ((text, kind), score))| {
                // SentencePiece loads nothing without one; tokenizer_config.json says that it is a control token.
                let stands_in = unknown.is_none() && unk == Some(at as i32);
                let kind = if stands_in { &TokenKind::Unknown } else { kind };
                let user = *kind == TokenKind::UserDefined;
                let piece = if user { text.replace(' ', SPACE_MARK) } else { text.clone() };
                let kind = if *kind == TokenKind::Undefined { TokenKind::Normal } else { *kind };
                let (piece, score, kind) = (Some(piece), Some(*score), Some(kind as i32));
                SentencePiece { piece, score, kind }
            })
            .collect();
        let text = |id: Option<i32>| id.map(|id| self.tokens[id as usize].clone());
        let (bos, eos, pad) = (id("bos"), id("eos"), id("padding"));
        let trainer = TrainerSpec {
            model_type: Some(TrainerSpec::BPE),
            vocab_size: i32::try_from(self.tokens.len()).ok(),
            byte_fallback: Some(self.kinds.contains(&TokenKind::Byte)),
            unk_id: unk,
            bos_id: bos.or(Some(-1)),
            eos_id: eos.or(Some(-1)),
            pad_id: pad.or(Some(-1)),
            unk_piece: text(unk.filter(|&id| (id as usize) < self.tokens.len())),
            bos_piece: text(bos),
            eos_piece: text(eos),
            pad_piece: text(pad),
        };
        let prefix = self.metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
        let normalizer = NormalizerSpec {
            name: Some("identity".to_string()),
            add_dummy_prefix: Some(prefix),
            remove_extra_whitespaces: Some(false),
            escape_whitespaces: Some(true),
        };
        let model =
            ModelProto { pieces, trainer_spec: Some(trainer), normalizer_spec: Some(normalizer) };
        model.encode_to_vec()
    }

    fn config(&self, class: &str, added: &[Value]) -> Value {
        let mut config = Map::new();
        for (key, gguf) in [
            ("add_bos_token", "tokenizer.ggml.add_bos_token"),
            ("add_eos_token", "tokenizer.ggml.add_eos_token"),
            ("add_sep_token", "tokenizer.ggml.add_sep_token"),
            ("add_prefix_space", "tokenizer.ggml.add_space_prefix"),
        ] {
            if let Some(add) = self.metadata.bool(gguf) {
                config.insert(key.to_string(), add.into());
            }
        }
        let by_id = |token: &Value| {
            let mut token = token.as_object().cloned().unwrap_or_default();
            let id = token.shift_remove("id").unwrap_or_default();
            (id.to_string(), Value::Object(token))
        };
        let decoder: Map<String, Value> = added.iter().map(by_id).collect();
        config.insert("added_tokens_decoder".to_string(), decoder.into());
        for (key, gguf) in SPECIAL_TOKEN_KEYS {
            if let Some(text) = self.named(gguf) {
                config.insert(key.to_string(), text.into());
            }
        }
        if let Some(template) = self.chat_template() {
            config.insert("chat_template".to_string(), template);
        }
        config.insert("clean_up_tokenization_spaces".to_string(), false.into());
        let arch = self.metadata.str("general.architecture").unwrap_or_default();
        if let Some(length) = self.metadata.u64(&format!("{arch}.context_length")) {
            config.insert("model_max_length".to_string(), length.into());
        }
        config.insert("tokenizer_class".to_string(), class.into());
        Value::Object(config)
    }

    /// One template, or a list of named ones.
    fn chat_template(&self) -> Option<Value> {
        let templates = ChatTemplates::of_metadata(self.metadata);
        if templates.named.is_empty() {
            return templates.default.map(Value::from);
        }
        let default = templates.default.map(|text| ("default".to_string(), text));
        let all = default.into_iter().chain(templates.named);
        Some(all.map(|(name, text)| json!({ "name": name, "template": text })).collect())
    }
}
