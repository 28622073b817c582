//! `adapter_config.json`: what an adapter says of itself, and what it may not say.
//!
//! Keys and their defaults: PEFT `src/peft/tuners/lora/config.py`, 0.21. Patterns match as in
//! `src/peft/utils/other.py` (`get_pattern_key`) and `src/peft/tuners/tuners_utils.py`
//! (`check_target_module_exists`).

use super::super::Config;
use crate::base::error::{Error, Result};
use regex::{Regex, RegexBuilder};
use serde_json::Value;

/// Patterns of adapters are short; a long one could be made to take memory.
const MAX_PATTERN_BYTES: usize = 1 << 20;
const MAX_RANK: u64 = 1 << 20;

/// Which modules have an adapter.
pub(super) enum Targets {
    /// Modules that are called so, or whose names end so after a dot.
    Names(Vec<String>),
    Pattern(Regex),
    /// Every linear layer.
    All,
}

/// The part of a configuration that decides what is added to which weight.
pub(super) struct LoraConfig {
    pub origin: String,
    rank: usize,
    alpha: f64,
    rank_stabilized: bool,
    rank_pattern: Vec<(Regex, usize)>,
    alpha_pattern: Vec<(Regex, f64)>,
    pub targets: Targets,
    /// Modules that were trained whole.
    pub saved: Vec<String>,
    /// Only some layers or modules of those that `targets` names have an adapter.
    pub limited: bool,
    /// DoRA: the lengths of rows are trained apart.
    pub dora: bool,
    /// Biases of the base were trained.
    pub biases: bool,
    /// The second matrix has a bias.
    pub bias_of_b: bool,
    /// Tokens whose rows were trained alone, by the end of a module's name.
    pub tokens: Vec<(String, Vec<usize>)>,
    /// Embedding and head were kept tied while they were trained.
    pub stays_tied: bool,
}

impl LoraConfig {
    /// Reads the configuration.
    ///
    /// # Errors
    /// If it is no LoRA, lacks a key, or uses something beyond it whose effect is not computed
    /// here.
    pub(super) fn read(config: &Config) -> Result<LoraConfig> {
        let origin = config.origin();
        refuse_unsupported(config)?;
        let rank = config.get("r").and_then(Value::as_u64).filter(|r| (1..=MAX_RANK).contains(r));
        let Some(rank) = rank else {
            return Err(Error::model(origin, "'r' is missing or no usable rank"));
        };
        let alpha = number(config, "lora_alpha", config.get("lora_alpha"))?;
        let rank_pattern = patterns(config, "rank_pattern", |value| {
            let rank = value.as_u64().filter(|r| (1..=MAX_RANK).contains(r));
            rank.map(|r| r as usize)
                .ok_or_else(|| Error::model(origin, "'rank_pattern' holds no rank"))
        })?;
        let alpha_pattern = patterns(config, "alpha_pattern", |value| {
            number(config, "alpha_pattern", Some(value))
        })?;
        let given = |key: &str| match config.get(key) {
            None => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(_) => true,
        };
        Ok(LoraConfig {
            origin: origin.to_string(),
            rank: rank as usize,
            alpha,
            rank_stabilized: config.bool("use_rslora").unwrap_or(false),
            rank_pattern,
            alpha_pattern,
            targets: targets(config)?,
            saved: names(config, "modules_to_save")?,
            limited: given("layers_to_transform") || given("exclude_modules"),
            dora: config.bool("use_dora").unwrap_or(false),
            biases: config.str("bias").is_some_and(|bias| bias != "none"),
            bias_of_b: config.bool("lora_bias").unwrap_or(false),
            tokens: tokens(config)?,
            stays_tied: config.bool("ensure_weight_tying").unwrap_or(false),
        })
    }

    /// The tokens of `module` whose rows were trained alone.
    pub(super) fn tokens_of(&self, module: &str) -> Option<&[usize]> {
        let found = self.tokens.iter().find(|(name, _)| module.ends_with(name.as_str()));
        found.map(|(_, tokens)| tokens.as_slice())
    }

    /// Whether `module`, or one that it is part of, was trained whole.
    pub(super) fn is_saved(&self, module: &str) -> bool {
        self.saved.iter().any(|name| is_within(module, name))
    }

    /// The rank of module `module`'s matrices.
    pub(super) fn rank(&self, module: &str) -> usize {
        let own = self.rank_pattern.iter().find(|(pattern, _)| pattern.is_match(module));
        own.map_or(self.rank, |(_, rank)| *rank)
    }

    /// What the product of module `module`'s matrices is multiplied by: `alpha / r`, or
    /// `alpha / sqrt(r)` if the rank was stabilized (arXiv:2312.03732).
    pub(super) fn scale(&self, module: &str) -> f32 {
        let own = self.alpha_pattern.iter().find(|(pattern, _)| pattern.is_match(module));
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = self.rank(module) as f64;
        (alpha / if self.rank_stabilized { rank.sqrt() } else { rank }) as f32
    }

    /// Whether `module` is to have an adapter.
    pub(super) fn is_target(&self, module: &str) -> bool {
        match &self.targets {
            Targets::All => true,
            Targets::Pattern(pattern) => pattern.is_match(module),
            Targets::Names(names) => names.iter().any(|name| is_called(module, name)),
        }
    }
}

/// Whether `module` is called `name`, or its name ends so after a dot.
pub(super) fn is_called(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether the name of `module`, or of one that it is part of, ends in `name`: how PEFT finds what
/// `modules_to_save` names (`utils/other.py`, `_set_trainable`).
pub(super) fn is_within(module: &str, name: &str) -> bool {
    let mut parts = module.match_indices('.').map(|(at, _)| &module[..at]).chain([module]);
    parts.any(|part| part.ends_with(name))
}

/// What would make the result another one than is computed here.
fn refuse_unsupported(config: &Config) -> Result<()> {
    let fail = |detail: String| {
        let remedy = "merge it with PEFT's merge_and_unload and name the result";
        Err(Error::model(config.origin(), format!("{detail}; {remedy}")))
    };
    match config.str("peft_type") {
        Some("LORA") => {}
        other => {
            let kind = other.unwrap_or("unnamed");
            return fail(format!("an adapter of type {kind}; only LORA can be merged on the fly"));
        }
    }
    let on = |key: &str| match config.get(key) {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        Some(_) => true,
    };
    const KEYS: &[&str] = &[
        "use_qalora",
        "use_bdlora",
        "layer_replication",
        "target_parameters",
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
        "megatron_config",
    ];
    if let Some(key) = KEYS.iter().find(|key| on(key)) {
        return fail(format!("uses '{key}', which is not supported"));
    }
    if let Some(bias) =
        config.str("bias").filter(|bias| !["none", "all", "lora_only"].contains(bias))
    {
        return fail(format!("trains biases in an unknown way ('bias' is '{bias}')"));
    }
    // These change the base model's weights when training begins.
    const INITIAL: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga"];
    let initial = config.str("init_lora_weights").unwrap_or_default();
    if INITIAL.iter().any(|name| initial.starts_with(name)) {
        return fail(format!(
            "was trained on a changed base model ('init_lora_weights' is '{initial}')"
        ));
    }
    Ok(())
}

fn number(config: &Config, key: &str, value: Option<&Value>) -> Result<f64> {
    value.and_then(Value::as_f64).filter(|n| n.is_finite()).ok_or_else(|| {
        Error::model(config.origin(), format!("'{key}' is missing or no usable number"))
    })
}

/// `trainable_token_indices`: a list is that of the embedding, a mapping has one for each module.
fn tokens(config: &Config) -> Result<Vec<(String, Vec<usize>)>> {
    let fail = || {
        let detail = "'trainable_token_indices' is neither a list of tokens nor a mapping of lists";
        Error::model(config.origin(), detail)
    };
    let list = |value: &Value| -> Result<Vec<usize>> {
        let items = value.as_array().ok_or_else(fail)?;
        let number = |item: &Value| item.as_u64().and_then(|n| usize::try_from(n).ok());
        items.iter().map(|item| number(item).ok_or_else(fail)).collect()
    };
    match config.get("trainable_token_indices") {
        None => Ok(Vec::new()),
        Some(Value::Object(map)) => {
            map.iter().map(|(name, value)| Ok((name.clone(), list(value)?))).collect()
        }
        Some(value) => Ok(vec![("embed_tokens".to_string(), list(value)?)]),
    }
}

/// A list of names; absent or null is none.
fn names(config: &Config, key: &str) -> Result<Vec<String>> {
    let fail = || Error::model(config.origin(), format!("'{key}' is no list of names"));
    let Some(value) = config.get(key) else { return Ok(Vec::new()) };
    let items = value.as_array().ok_or_else(fail)?;
    items.iter().map(|item| item.as_str().map(str::to_string).ok_or_else(fail)).collect()
}

fn targets(config: &Config) -> Result<Targets> {
    match config.get("target_modules") {
        Some(Value::String(text)) if text == "all-linear" => Ok(Targets::All),
        Some(Value::String(text)) => {
            pattern(config, "target_modules", &format!("^(?:{text})$")).map(Targets::Pattern)
        }
        _ => match names(config, "target_modules")? {
            names if names.is_empty() => {
                Err(Error::model(config.origin(), "'target_modules' is missing"))
            }
            names => Ok(Targets::Names(names)),
        },
    }
}

/// A mapping of patterns, which match the end of a module's name, in its order.
fn patterns<T>(
    config: &Config,
    key: &str,
    read: impl Fn(&Value) -> Result<T>,
) -> Result<Vec<(Regex, T)>> {
    match config.get(key) {
        None => Ok(Vec::new()),
        Some(Value::Object(map)) => (map.iter())
            .map(|(text, value)| {
                let anchored = format!(r"^(?:.*\.)?(?:{text})$");
                Ok((pattern(config, key, &anchored)?, read(value)?))
            })
            .collect(),
        Some(_) => Err(Error::model(config.origin(), format!("'{key}' is no mapping"))),
    }
}

fn pattern(config: &Config, key: &str, text: &str) -> Result<Regex> {
    RegexBuilder::new(text).size_limit(MAX_PATTERN_BYTES).build().map_err(|_| {
        let detail = format!("'{key}' holds {text:?}, which is no pattern that can be used here");
        Error::model(config.origin(), detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &str) -> Result<LoraConfig> {
        let text = format!(
            r#"{{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"] {more}}}"#
        );
        LoraConfig::read(&Config::parse("adapter_config.json", &text).unwrap())
    }

    #[test]
    fn scales_and_ranks_follow_their_patterns() {
        let plain = read("").unwrap();
        assert_eq!((plain.rank("a.q_proj"), plain.scale("a.q_proj")), (8, 2.0));
        assert_eq!(
            read(r#", "use_rslora": true"#).unwrap().scale("x"),
            (16.0 / 8f64.sqrt()) as f32
        );
        let own = r#", "rank_pattern": {"layers\\.1\\..*q_proj": 4, "q_proj": 2}, "alpha_pattern": {"k": 1}"#;
        let own = read(own).unwrap();
        assert_eq!(own.rank("model.layers.1.self_attn.q_proj"), 4);
        assert_eq!(own.rank("model.layers.0.self_attn.q_proj"), 2);
        assert_eq!(own.scale("model.layers.1.self_attn.q_proj"), 4.0);
        assert_eq!((own.rank("xq_proj"), own.scale("a.k")), (8, 0.125));
    }

    #[test]
    fn targets_match_whole_names_or_ends() {
        let named = read("").unwrap();
        assert!(named.is_target("q_proj") && named.is_target("model.layers.0.q_proj"));
        assert!(!named.is_target("model.seq_proj"));
        let pattern = r#", "target_modules": ".*\\.(q|v)_proj""#;
        let pattern = read(pattern).unwrap();
        assert!(pattern.is_target("a.v_proj") && !pattern.is_target("a.v_proj.x"));
        assert!(read(r#", "target_modules": "all-linear""#).unwrap().is_target("anything"));
    }

    #[test]
    fn saved_modules_and_tokens_are_known_by_the_ends_of_names() {
        let saved = read(r#", "modules_to_save": ["head", "mlp"]"#).unwrap();
        assert!(saved.is_saved("lm_head") && saved.is_saved("model.layers.0.mlp.up_proj"));
        assert!(
            !saved.is_saved("model.norm") && !saved.is_saved("model.layers.0.self_attn.q_proj")
        );
        let tokens = read(r#", "trainable_token_indices": [1, 5]"#).unwrap();
        assert_eq!(tokens.tokens_of("model.embed_tokens"), Some(&[1, 5][..]));
        assert_eq!(tokens.tokens_of("lm_head"), None);
        let tokens = read(r#", "trainable_token_indices": {"lm_head": [2]}"#).unwrap();
        assert_eq!(tokens.tokens_of("lm_head"), Some(&[2][..]));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (more, part) in [
            (r#", "bias": "some""#, "'bias' is 'some'"),
            (r#", "use_qalora": true"#, "'use_qalora'"),
            (r#", "peft_type": "IA3""#, "type IA3"),
            (r#", "layer_replication": [[0, 4]]"#, "'layer_replication'"),
            (r#", "init_lora_weights": "pissa_niter_4""#, "pissa_niter_4"),
            (r#", "trainable_token_indices": [-1]"#, "'trainable_token_indices'"),
            (r#", "trainable_token_indices": "all""#, "'trainable_token_indices'"),
            (r#", "r": 0"#, "'r' is missing"),
            (r#", "lora_alpha": "x""#, "'lora_alpha'"),
            (r#", "target_modules": null"#, "'target_modules'"),
            (r#", "target_modules": "(?=a)""#, "no pattern"),
            (r#", "target_modules": "(a{1000}){1000}""#, "no pattern"),
            (r#", "rank_pattern": {"x": -1}"#, "'rank_pattern'"),
            (r#", "modules_to_save": "lm_head""#, "'modules_to_save'"),
        ] {
            let text = read(more).err().unwrap().to_string();
            assert!(text.contains("adapter_config.json") && text.contains(part), "{text}");
        }
        assert!(read(r#", "use_dora": false, "megatron_config": null, "bias": "none""#).is_ok());
    }
}
