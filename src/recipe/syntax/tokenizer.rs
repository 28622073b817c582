//! The keys `tokenizer_source`, `tokenizer` and `chat_template` of a recipe.
//!
//! Whether the models they name have tokenizers, and the tokens they name exist, is decided in
//! [`crate::recipe::plan::vocabulary`]. Forms and defaults: mergekit `tokenizer/config.py` and `merge.py`
//! (`_set_chat_template`), version 0.1.5.

use super::diagnostics::Diagnostics;
use super::model_ref::ModelRef;
use super::schema::{Mapping, model_ref, scalar_text};
use super::yaml::{Located, Node, Pos, YamlValue};
use crate::base::spelling::nearest;
use crate::model::tokenizer::{chat_template_names, named_chat_template};

/// Rows are padded to a multiple of at most this: hardware asks for 8 to 256.
const LARGEST_MULTIPLE: usize = 1 << 16;

/// What a stage's tokenizer shall be.
#[derive(Clone, Debug)]
pub(crate) struct TokenizerSpec {
    /// Where the recipe says it.
    pub pos: Pos,
    pub source: TokenizerSource,
    /// What is said of single tokens, in the order of the text.
    pub tokens: Vec<(Located<String>, TokenSpec)>,
    /// The number of rows is brought to a multiple of this; at least 1.
    pub multiple: usize,
}

/// Where the tokenizer comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TokenizerSource {
    /// `base`: the base model.
    Base(Pos),
    Model(Located<ModelRef>),
    /// The base model's or the first model's, and the tokens of all others.
    Union,
}

/// What a recipe says of one token.
#[derive(Clone, Debug)]
pub(crate) struct TokenSpec {
    /// Where the row of models without the token comes from; `None` for the usual rule.
    pub source: Option<TokenRowSource>,
    /// Whether models that have the token get that row too.
    pub force: bool,
}

/// Where a row comes from.
#[derive(Clone, Debug)]
pub(crate) enum TokenRowSource {
    /// That token's row in a model.
    Model(Located<ModelRef>),
    Zero,
    /// Another row of a model.
    Token {
        model: Located<ModelRef>,
        token: WhichToken,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum WhichToken {
    Text(Located<String>),
    Id(Located<usize>),
}

impl TokenizerSpec {
    /// Every model that is named.
    pub(crate) fn references(&self) -> impl Iterator<Item = &Located<ModelRef>> {
        let source = match &self.source {
            TokenizerSource::Model(model) => Some(model),
            TokenizerSource::Base(_) | TokenizerSource::Union => None,
        };
        let rows = self.tokens.iter().filter_map(|(_, spec)| match spec.source.as_ref()? {
            TokenRowSource::Model(model) | TokenRowSource::Token { model, .. } => Some(model),
            TokenRowSource::Zero => None,
        });
        source.into_iter().chain(rows)
    }
}

/// `tokenizer_source` or `tokenizer`, whichever is there.
pub(crate) fn tokenizer(map: &Mapping<'_>, problems: &mut Diagnostics) -> Option<TokenizerSpec> {
    if let (Some((key, _)), Some(_)) = (map.given("tokenizer"), map.given("tokenizer_source")) {
        let remedy = "keep one of them";
        problems.error(key.pos, "both 'tokenizer' and 'tokenizer_source' are given", remedy);
        return None;
    }
    if let Some(node) = map.get("tokenizer_source") {
        let source = tokenizer_name(node, problems)?;
        return Some(TokenizerSpec { pos: node.pos, source, tokens: Vec::new(), multiple: 1 });
    }
    let node = map.get("tokenizer")?;
    const KEYS: &[&str] = &["source", "tokens", "pad_to_multiple_of"];
    let remedy = "write 'tokenizer: {source: union}', 'base', or name a model";
    let inner = Mapping::read(node, "'tokenizer'", remedy, KEYS, problems)?;
    let source = match inner.get("source") {
        Some(node) => tokenizer_name(node, problems),
        None => Some(TokenizerSource::Union),
    };
    let tokens = inner.get("tokens").map_or(Some(Vec::new()), |node| tokens(node, problems));
    let multiple = inner.get("pad_to_multiple_of").map_or(Some(1), |n| multiple(n, problems));
    Some(TokenizerSpec { pos: node.pos, source: source?, tokens: tokens?, multiple: multiple? })
}

fn tokenizer_name(node: &Node, problems: &mut Diagnostics) -> Option<TokenizerSource> {
    match &node.value {
        YamlValue::Str(s) if s == "union" => Some(TokenizerSource::Union),
        YamlValue::Str(s) if s == "base" => Some(TokenizerSource::Base(node.pos)),
        _ => model_ref(node, problems).map(TokenizerSource::Model),
    }
}

fn multiple(node: &Node, problems: &mut Diagnostics) -> Option<usize> {
    let number = scalar_text(&node.value).and_then(|text| text.trim().parse::<usize>().ok());
    let multiple = number.filter(|n| (1..=LARGEST_MULTIPLE).contains(n));
    if multiple.is_none() {
        let message = format!(
            "'pad_to_multiple_of' is {}, not a whole number from 1 to {LARGEST_MULTIPLE}",
            node.value.describe()
        );
        problems.error(node.pos, message, "64 suits most hardware");
    }
    multiple
}

fn tokens(node: &Node, problems: &mut Diagnostics) -> Option<Vec<(Located<String>, TokenSpec)>> {
    let YamlValue::Map(entries) = &node.value else {
        let message = format!("'tokens' is {}, not a mapping", node.value.describe());
        problems.error(node.pos, message, "write 'tokens: {\"<|im_start|>\": {source: MODEL}}'");
        return None;
    };
    let entries = super::schema::last_of_each(entries, problems);
    let mut ok = true;
    let mut list = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        if key.value.is_empty() {
            problems.error(key.pos, "a token without text", "write the token's text as the key");
            ok = false;
            continue;
        }
        match token(value, problems) {
            Some(spec) => list.push((key.clone(), spec)),
            None => ok = false,
        }
    }
    ok.then_some(list)
}

const TOKEN_REMEDY: &str = "write '{source: MODEL}', '{source: {kind: zero}}' or \
                            '{source: {kind: model_token, model: MODEL, token: TEXT}}'";

fn token(node: &Node, problems: &mut Diagnostics) -> Option<TokenSpec> {
    if node.value == YamlValue::Null {
        return Some(TokenSpec { source: None, force: false });
    }
    let map = Mapping::read(node, "a token", TOKEN_REMEDY, &["source", "force"], problems)?;
    let source = match map.get("source") {
        Some(node) => Some(row_source(node, problems)?),
        None => None,
    };
    let force = match map.get("force") {
        None => false,
        Some(node) => flag(node, problems)?,
    };
    if force && source.is_none() {
        let message = "'force' needs a 'source' whose row all models shall get";
        problems.error(node.pos, message, TOKEN_REMEDY);
        return None;
    }
    Some(TokenSpec { source, force })
}

fn flag(node: &Node, problems: &mut Diagnostics) -> Option<bool> {
    match scalar_text(&node.value).unwrap_or_default().to_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => {
            let message = format!("'force' is {}", node.value.describe());
            problems.error(node.pos, message, "write true or false");
            None
        }
    }
}

fn row_source(node: &Node, problems: &mut Diagnostics) -> Option<TokenRowSource> {
    let kind = match &node.value {
        YamlValue::Map(entries) => entries.iter().rev().find(|(key, _)| key.value == "kind"),
        _ => None,
    };
    let Some((_, kind)) = kind else { return model_ref(node, problems).map(TokenRowSource::Model) };
    match scalar_text(&kind.value).as_deref() {
        Some("zero") => {
            Mapping::read(node, "a token's source", TOKEN_REMEDY, &["kind"], problems)?;
            Some(TokenRowSource::Zero)
        }
        Some("model_token") => model_token(node, problems),
        _ => {
            let message = format!("unknown kind of source: {}", kind.value.describe());
            problems.error(kind.pos, message, "it is 'zero' or 'model_token'");
            None
        }
    }
}

fn model_token(node: &Node, problems: &mut Diagnostics) -> Option<TokenRowSource> {
    const KEYS: &[&str] = &["kind", "model", "token", "token_id"];
    let map = Mapping::read(node, "a token's source", TOKEN_REMEDY, KEYS, problems)?;
    let Some(model) = map.get("model") else {
        problems.error(node.pos, "the source of the token has no 'model'", TOKEN_REMEDY);
        return None;
    };
    let model = model_ref(model, problems)?;
    let token = match (map.get("token"), map.get("token_id")) {
        (Some(text), None) => {
            scalar_text(&text.value).map(|t| WhichToken::Text(Located::new(t, text.pos)))
        }
        (None, Some(id)) => {
            let number = scalar_text(&id.value).and_then(|text| text.trim().parse().ok());
            number.map(|n| WhichToken::Id(Located::new(n, id.pos)))
        }
        _ => None,
    };
    let Some(token) = token else {
        let message =
            "the source of the token needs one of 'token' (a text) and 'token_id' (a number)";
        problems.error(node.pos, message, TOKEN_REMEDY);
        return None;
    };
    Some(TokenRowSource::Token { model, token })
}

/// `chat_template`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ChatTemplateChoice {
    /// That which most of the models have.
    Auto,
    /// A known one's or the recipe's own text.
    Text(String),
}

pub(crate) fn chat_template(
    map: &Mapping<'_>,
    problems: &mut Diagnostics,
) -> Option<Located<ChatTemplateChoice>> {
    let node = map.get("chat_template")?;
    let text = scalar_text(&node.value).unwrap_or_default();
    let name = text.trim();
    let template = if name == "auto" {
        ChatTemplateChoice::Auto
    } else if let Some(known) = named_chat_template(name) {
        ChatTemplateChoice::Text(known.to_string())
    } else if text.contains("{{") || text.contains("{%") {
        ChatTemplateChoice::Text(text)
    } else {
        let names: Vec<&str> = ["auto"].into_iter().chain(chat_template_names()).collect();
        let remedy = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean '{near}'?"),
            None => {
                format!("known are {}; or write the template itself in Jinja", names.join(", "))
            }
        };
        let message = match &node.value {
            YamlValue::Str(_) => format!("unknown chat template '{name}'"),
            other => format!("'chat_template' is {}", other.describe()),
        };
        problems.error(node.pos, message, remedy);
        return None;
    };
    Some(Located::new(template, node.pos))
}
