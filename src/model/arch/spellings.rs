//! The keys of config.json, whatever version of transformers wrote them: the one table of spellings and the one rule.
//!
//! Everything that reads a hyperparameter from config.json reads it from [`Settings`]. Of several spellings the first
//! of the table that is set counts; null counts as absent. Spellings that contradict each other are a warning, and
//! [`reconcile`] brings them to one value. Not here: rotary embeddings, which `rope_settings` reads by the same rule.

use super::classes::Class;
use super::rope_settings::Rope;
use super::{Activation, Architecture};
use crate::base::error::{Error, Result};
use crate::formats::checkpoint::Config;
use serde_json::Value;

/// The keys of one fact, the one that counts first.
struct Spelling {
    /// The `model_type` that the row is for; `None` for every one.
    of: Option<&'static str>,
    keys: &'static [&'static str],
}

/// Sources: `attribute_map` of the classes in transformers 5.24, where an alias overrides the class's own key, and
/// `PreTrainedConfig` there; keys of other families, last, from `find_hparam` in llama.cpp `conversion/base.py`.
#[rustfmt::skip]
const SPELLINGS: &[Spelling] = &[
    Spelling { of: None, keys: &["dtype", "torch_dtype"] },
    Spelling { of: Some("mixtral"), keys: &["num_experts", "num_local_experts", "n_routed_experts"] },
    Spelling { of: Some("qwen3_moe"), keys: &["num_local_experts", "num_experts", "n_routed_experts"] },
    Spelling { of: None, keys: &["num_experts_per_tok", "num_experts_per_token", "top_k_experts"] },
    Spelling { of: Some("gemma2"), keys: &["hidden_activation", "hidden_act"] },
    Spelling { of: Some("gemma3_text"), keys: &["hidden_activation", "hidden_act"] },
    Spelling { of: None, keys: &["rope_theta", "global_rope_theta", "rope_global_theta", "rope_theta_global", "rotary_emb_base"] },
    Spelling { of: None, keys: &["rope_local_base_freq", "local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta"] },
    Spelling { of: None, keys: &["partial_rotary_factor", "rope_pct", "rope_percent"] },
    Spelling { of: None, keys: &["original_max_position_embeddings"] },
];

/// A key of config.json, or of an object in it, and the value that it must have; `None` to be removed.
pub(super) type Edit = (&'static [&'static str], Option<Value>);

/// Spellings that contradict each other.
#[derive(Clone, Debug)]
pub(super) struct Conflict {
    /// A sentence that names the file, both values and the decision.
    pub message: String,
    /// What brings all spellings to the value that counts.
    pub edits: Vec<Edit>,
}

/// The settings of a configuration, each under any of its spellings.
pub struct Settings<'c> {
    config: &'c Config,
    class: &'static Class,
    arch: &'static Architecture,
    pub(super) rope: Rope,
    conflicts: Vec<Conflict>,
}

impl<'c> Settings<'c> {
    /// Reads `config`.
    ///
    /// # Errors
    /// The class is not known, or what describes the rotary embedding is no object.
    pub fn of(config: &'c Config) -> Result<Settings<'c>> {
        let (class, arch, warning) = Class::of(config)?;
        let rope = Rope::default();
        let mut settings = Settings { config, class, arch, rope, conflicts: Vec::new() };
        if let Some(message) = warning {
            let edits: Vec<Edit> = vec![(&["architectures"], Some(vec![class.name].into()))];
            settings.conflicts.push(Conflict { message, edits });
        }
        settings.compare_spellings();
        settings.compare_windows();
        let (rope, conflicts) = Rope::read(&settings)?;
        settings.rope = rope;
        settings.conflicts.extend(conflicts);
        settings.check_activation();
        Ok(settings)
    }

    /// The architecture of the class that the configuration is of.
    pub fn arch(&self) -> &'static Architecture {
        self.arch
    }

    /// The class in `architectures`, or the one that `model_type` means.
    pub fn class(&self) -> &'static str {
        self.class.name
    }

    /// Where the configuration came from, for errors.
    pub fn origin(&self) -> &'c str {
        self.config.origin()
    }

    /// What was contradictory, a sentence each.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.conflicts.iter().map(|conflict| conflict.message.as_str())
    }

    /// The value of `key` or of another spelling of it, unless it is missing or null.
    pub fn get(&self, key: &str) -> Option<&'c Value> {
        match self.row(key) {
            Some(row) => row.keys.iter().find_map(|key| self.config.get(key)),
            None => self.config.get(key),
        }
    }

    /// The paths of the spellings of `key` that are there and not null, for editing.
    pub(super) fn present(
        &self,
        key: &'static str,
    ) -> impl Iterator<Item = &'static [&'static str]> {
        let row = self.row(key).map_or(&[][..], |row| row.keys);
        row.iter().filter(|key| self.config.get(key).is_some()).map(std::slice::from_ref)
    }

    fn row(&self, key: &str) -> Option<&'static Spelling> {
        let mine = |row: &&Spelling| row.of.is_none_or(|kind| kind == self.class.model_type);
        SPELLINGS.iter().filter(mine).find(|row| row.keys.contains(&key))
    }

    /// Whether `key` is there and null.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.config.map().get(key).is_some_and(Value::is_null)
    }

    /// The text of `key`, if it is one.
    pub fn str(&self, key: &str) -> Option<&'c str> {
        self.get(key)?.as_str()
    }

    /// The number of `key`.
    ///
    /// # Errors
    /// It is something else.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) => Ok(Some(number)),
            None => Err(self.unusable(key, value, "a number")),
        }
    }

    /// The count of `key`, at most 2^30.
    ///
    /// # Errors
    /// It is something else.
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..=f64::from(1 << 30)).contains(n))
        {
            Some(count) => Ok(Some(count as usize)),
            None => Err(self.unusable(key, value, "a usable count")),
        }
    }

    /// The count of `key`, else the one of transformers' class where the key is not there.
    pub(super) fn count_of_class(&self, key: &str) -> Result<Option<usize>> {
        match self.count(key)? {
            None if !self.is_null(key) => Ok(self.class.default(key)),
            count => Ok(count),
        }
    }

    /// The count of `key`, which must be there and not be 0.
    ///
    /// # Errors
    /// It is missing or unusable.
    pub fn require(&self, key: &str) -> Result<usize> {
        match self.count(key)? {
            Some(count) if count > 0 => Ok(count),
            Some(_) => Err(self.unusable(key, &0.into(), "a usable count")),
            None => Err(Error::model(self.origin(), format!("'{key}' is missing"))),
        }
    }

    /// The truth value of `key`.
    ///
    /// # Errors
    /// It is something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_bool() {
            Some(flag) => Ok(Some(flag)),
            None => Err(self.unusable(key, value, "true or false")),
        }
    }

    fn unusable(&self, key: &str, value: &Value, wanted: &str) -> Error {
        let detail = format!("'{key}' is {}, where {wanted} is needed", shown(value));
        Error::model(self.origin(), detail)
    }

    /// Notes rows of the table whose keys are set to different values.
    fn compare_spellings(&mut self) {
        let of_class = |row: &&Spelling| row.of.is_none_or(|kind| kind == self.class.model_type);
        let mut found = Vec::new();
        for row in SPELLINGS.iter().filter(of_class) {
            let set = |key: &&'static str| Some((*key, self.config.get(key)?));
            let mut set = row.keys.iter().filter_map(set);
            let Some((key, value)) = set.next() else { continue };
            if let Some((other, loser)) = set.find(|(_, other)| !same(value, other)) {
                let message = format!(
                    "{}: '{key}' is {}, but '{other}', another name for it, is {}; '{key}' is used",
                    self.origin(),
                    shown(value),
                    shown(loser)
                );
                let edits = self.present(key).map(|path| (path, Some(value.clone())));
                found.push(Conflict { message, edits: edits.collect() });
            }
        }
        self.conflicts.extend(found);
    }

    /// Notes a list of layers that is not the one that the pattern gives.
    fn compare_windows(&mut self) {
        const KEYS: &[&str] = &["sliding_window_pattern", "_sliding_window_pattern"];
        if self.arch.block.windows.is_none() {
            return;
        }
        let listed = self.get("layer_types").and_then(Value::as_array);
        let every = |key: &str| self.config.usize(key).filter(|&n| n > 0);
        for key in KEYS {
            let Some(every) = every(key) else { continue };
            // Transformers writes it beside every list.
            if listed.is_some() && key.starts_with('_') {
                continue;
            }
            let pattern = |n: usize| {
                if n.is_multiple_of(every) { "full_attention" } else { "sliding_attention" }
            };
            let (fits, used) = match listed {
                Some(list) => {
                    (list.iter().zip(1..).all(|(kind, n)| kind == pattern(n)), "layer_types")
                }
                None if self.pattern() == every => (true, ""),
                // Transformers does not read it.
                None => (false, "the pattern of the class"),
            };
            if !fits {
                let message = format!(
                    "{}: '{key}' is {every}, which does not give the layers with a window that hold; {used} is used",
                    self.origin()
                );
                let value = listed.is_none().then(|| Value::from(self.pattern()));
                let present = KEYS.iter().filter(|key| self.config.get(key).is_some());
                let edits = present.map(|key| (std::slice::from_ref(key), value.clone())).collect();
                self.conflicts.push(Conflict { message, edits });
                return;
            }
        }
    }

    /// Every how many layers one attends to everything, where `layer_types` does not say. Gemma 3 alone has a key
    /// for it; `_sliding_window_pattern` is what transformers writes and does not read.
    pub(super) fn pattern(&self) -> usize {
        let every = self.arch.block.windows.map_or(1, |windows| windows.every);
        let own = (self.class.model_type == "gemma3_text").then_some("sliding_window_pattern");
        own.and_then(|key| self.config.usize(key)).filter(|&n| n > 0).unwrap_or(every)
    }

    /// Notes an activation that GGUF files of the architecture do not mean.
    fn check_activation(&mut self) {
        let (key, known): (_, &[&str]) = match self.arch.block.activation {
            Activation::Silu => ("hidden_act", &["silu", "swish"]),
            Activation::GeluTanh => ("hidden_activation", &["gelu_pytorch_tanh", "gelu_new"]),
        };
        // Of Gemma's keys only this one counts, not the older one in its row.
        let Some(name) = self.config.str(key).filter(|name| !known.contains(name)) else { return };
        let message = format!(
            "{}: '{key}' is '{name}', but GGUF files of architecture {} mean {}; results will differ from \
             transformers'",
            self.origin(),
            self.arch.gguf_name,
            known[0]
        );
        self.conflicts.push(Conflict { message, edits: Vec::new() });
    }
}

/// Brings all spellings in `config` that contradict each other to the value that counts, so that any reader of it
/// finds the same model.
///
/// # Errors
/// Those of [`Settings::of`].
pub fn reconcile(config: &mut Config) -> Result<()> {
    let conflicts = Settings::of(config)?.conflicts;
    for (path, value) in conflicts.into_iter().flat_map(|conflict| conflict.edits) {
        config.edit(path, value);
    }
    Ok(())
}

/// Sets `key` and all of its other spellings that are there; `key` alone where none is.
pub fn set_spellings(config: &mut Config, key: &str, value: impl Into<Value>) {
    let value = value.into();
    let rows = SPELLINGS.iter().filter(|row| row.keys.contains(&key));
    let others = rows.flat_map(|row| row.keys).copied();
    let present: Vec<&str> = others.filter(|key| config.map().contains_key(*key)).collect();
    if present.is_empty() {
        config.set(key, value);
    } else {
        present.iter().for_each(|key| config.set(key, value.clone()));
    }
}

/// Whether two values mean the same: 10000 is 10000.0.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => a == b,
    }
}

/// A value as messages have it: short, and 777 for 777.0.
pub(super) fn shown(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = match value.as_f64() {
        Some(number) => number.to_string(),
        None => value.to_string(),
    };
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
