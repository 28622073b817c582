//! What config.json says of the rotary embedding, in one place whatever version of transformers wrote it.
//!
//! Up to version 4 there is `rope_scaling` beside `rope_theta`, since version 5 `rope_parameters` holds both, in some
//! classes by kind of layer. Precedence: transformers 5.24 `modeling_rope_utils.py` (`convert_rope_params_to_dict`,
//! `standardize_rope_params`) and Gemma 3's own in `configuration_gemma3.py`; llama.cpp's converter reads what they give.

use super::spellings::{Conflict, Edit, Settings, same, shown};
use crate::base::error::{Error, Result};
use serde_json::{Map, Value};

type Object = Map<String, Value>;

const FULL: &str = "full_attention";
const WINDOWED: &str = "sliding_attention";
const ORIGINAL: &str = "original_max_position_embeddings";
const PARTIAL: &str = "partial_rotary_factor";

/// Keys of the object with an older name each; the first counts.
const SPELLINGS: [[&str; 2]; 2] = [["rope_type", "type"], ["attention_factor", "attn_factor"]];

/// The rotary embedding.
#[derive(Clone, Debug, Default)]
pub(super) struct Rope {
    /// How the frequencies of layers without a window are made and scaled, as `rope_parameters` has it.
    pub parameters: Object,
    /// The base of the frequencies in layers with a window, where it is one of its own.
    pub local_theta: Option<f64>,
}

/// The objects of a configuration, and what was found contradictory.
struct Reader<'s, 'c> {
    settings: &'s Settings<'c>,
    /// `rope_scaling`, its keys by their first spelling.
    scaling: Option<Object>,
    /// `rope_parameters`, or what it has for layers without a window.
    parameters: Option<Object>,
    /// What it has for layers with a window.
    windowed: Option<Object>,
    by_layer: bool,
    messages: Vec<String>,
}

impl Rope {
    /// Reads `settings`.
    ///
    /// # Errors
    /// A key that must be an object or a number is something else.
    pub(super) fn read(settings: &Settings<'_>) -> Result<(Rope, Vec<Conflict>)> {
        let mut reader = Reader::new(settings)?;
        let mut rope = Rope { parameters: reader.chosen(), local_theta: None };
        reader.theta(&mut rope.parameters)?;
        reader.partial(&mut rope.parameters)?;
        reader.original(&mut rope.parameters)?;
        rope.local_theta = reader.local_theta()?;
        let edits = reader.edits(&rope);
        let mut conflicts: Vec<Conflict> = (reader.messages.iter())
            .map(|message| Conflict { message: message.clone(), edits: Vec::new() })
            .collect();
        // They bring everything to one value, whichever keys the contradictions are in.
        if let Some(first) = conflicts.first_mut() {
            first.edits = edits;
        }
        conflicts.extend(lost(settings, &rope.parameters));
        Ok((rope, conflicts))
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.parameters.get(key)
    }

    /// The number `key`, if it is one.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }
}

impl<'s, 'c> Reader<'s, 'c> {
    fn new(settings: &'s Settings<'c>) -> Result<Reader<'s, 'c>> {
        let mut reader = Reader {
            settings,
            scaling: None,
            parameters: None,
            windowed: None,
            by_layer: false,
            messages: Vec::new(),
        };
        reader.scaling = reader.object("rope_scaling")?;
        let whole = reader.object("rope_parameters")?;
        let part = |kind: &str| whole.as_ref().and_then(|map| map.get(kind)?.as_object().cloned());
        let [full, windowed] = [part(FULL), part(WINDOWED)];
        reader.by_layer = full.is_some() || windowed.is_some();
        if reader.by_layer {
            reader.parameters = full.map(|map| reader.plain("rope_parameters.full_attention", map));
            reader.windowed =
                windowed.map(|map| reader.plain("rope_parameters.sliding_attention", map));
        } else if let (Some(_), true) = (&whole, reader.has_local_theta()) {
            let message = format!(
                "{}: 'rope_parameters' has no entry for '{FULL}' or '{WINDOWED}'; as in transformers 5, it is not used",
                settings.origin()
            );
            reader.messages.push(message);
        } else {
            reader.parameters = whole;
        }
        Ok(reader)
    }

    /// Whether layers with a window have a base of their own.
    fn has_local_theta(&self) -> bool {
        self.settings.arch().block.local_rope_theta.is_some()
    }

    /// The object `key`, unless it is missing, null or empty.
    fn object(&mut self, key: &str) -> Result<Option<Object>> {
        match self.settings.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                let map = self.plain(key, map.clone());
                Ok((!map.is_empty()).then_some(map))
            }
            Some(other) => {
                let detail = format!("'{key}' is {}, where an object is needed", shown(other));
                Err(Error::model(self.settings.origin(), detail))
            }
        }
    }

    /// `map`, which is at `place`, without nulls and with one spelling of each key.
    fn plain(&mut self, place: &str, mut map: Object) -> Object {
        map.retain(|_, value| !value.is_null());
        for [key, old] in SPELLINGS {
            let Some(other) = map.shift_remove(old) else { continue };
            let value = map.entry(key).or_insert_with(|| other.clone());
            let phi = |value: &Value| value == "su" || value == "longrope";
            if !(same(value, &other) || phi(value) && phi(&other)) {
                self.messages.push(format!(
                    "{}: '{place}.{key}' is {}, but '{place}.{old}', another name for it, is {}; '{key}' is used",
                    self.settings.origin(),
                    shown(value),
                    shown(&other)
                ));
            }
        }
        map
    }

    /// Of `rope_scaling` and `rope_parameters` the one that counts, as transformers 5 decides it.
    fn chosen(&mut self) -> Object {
        let (Some(scaling), Some(parameters)) = (&self.scaling, &self.parameters) else {
            return self.scaling.clone().or(self.parameters.clone()).unwrap_or_default();
        };
        let mut both = parameters.clone();
        both.extend(scaling.clone());
        // Gemma 3 takes the rest from rope_parameters, other classes nothing.
        let chosen = if self.has_local_theta() { both.clone() } else { scaling.clone() };
        let alike = |a: &Object, b: &Object| {
            a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        };
        if !alike(&both, parameters) || !alike(&both, &chosen) {
            let lost = ["rope_theta", PARTIAL].into_iter().filter(|key| !chosen.contains_key(*key));
            let lost =
                lost.filter_map(|key| Some(format!("{key} {}", shown(parameters.get(key)?))));
            let lost: Vec<String> = lost.collect();
            let lost = match lost.is_empty() {
                true => String::new(),
                false => format!(
                    "; its {} is lost unless 'rope_scaling' says it, too",
                    lost.join(" and ")
                ),
            };
            self.messages.push(format!(
                "{}: 'rope_scaling' is {} beside 'rope_parameters' {}; as in transformers 5, 'rope_scaling' is used{lost}",
                self.settings.origin(),
                shown(&scaling.clone().into()),
                shown(&parameters.clone().into()),
            ));
        }
        chosen
    }

    /// Which of the value in the object and the one of `key` beside it counts, if either is there.
    fn one_of(&mut self, key: &str, inner: Option<Value>, outer_first: bool) -> Option<Value> {
        let outer = self.settings.get(key).cloned();
        let (Some(inner), Some(outer)) = (&inner, &outer) else { return inner.or(outer) };
        let value = if outer_first { outer } else { inner };
        if !same(inner, outer) {
            let object = match (&self.scaling, &self.parameters, self.by_layer) {
                (Some(_), _, _) => "rope_scaling".to_string(),
                (None, _, true) => format!("rope_parameters.{FULL}"),
                (None, _, false) => "rope_parameters".to_string(),
            };
            self.messages.push(format!(
                "{}: '{key}' is {}, but '{object}.{key}' is {}; {} is used",
                self.settings.origin(),
                shown(outer),
                shown(inner),
                shown(value)
            ));
        }
        Some(value.clone())
    }

    fn theta(&mut self, map: &mut Object) -> Result<()> {
        self.settings.number("rope_theta")?;
        let value = self.one_of("rope_theta", map.get("rope_theta").cloned(), false);
        let value = value.unwrap_or_else(|| self.settings.arch().defaults.rope_theta.into());
        self.checked(map, "rope_theta", value)
    }

    fn partial(&mut self, map: &mut Object) -> Result<()> {
        self.settings.number(PARTIAL)?;
        match self.one_of(PARTIAL, map.get(PARTIAL).cloned(), false) {
            Some(value) => self.checked(map, PARTIAL, value),
            None => Ok(()),
        }
    }

    /// The context before scaling: here the key outside of the object counts first, unless kinds of layers differ.
    fn original(&mut self, map: &mut Object) -> Result<()> {
        self.settings.number(ORIGINAL)?;
        let value = self.one_of(ORIGINAL, map.get(ORIGINAL).cloned(), !self.by_layer);
        let class = self.settings.arch().defaults.original_context;
        let outer = self.settings.get(ORIGINAL).is_some();
        let value = match (value, class) {
            (Some(inner), Some(class)) if !outer && inner.as_f64() != Some(class as f64) => {
                self.messages.push(format!(
                    "{}: '{ORIGINAL}' is {} beside scaling factors only, where transformers 5 takes {class}; {class} is \
                     used",
                    self.settings.origin(),
                    shown(&inner)
                ));
                Some(class.into())
            }
            (value, class) => value.or(class.map(Value::from)),
        };
        match value {
            Some(value) => self.checked(map, ORIGINAL, value),
            None => Ok(()),
        }
    }

    fn local_theta(&mut self) -> Result<Option<f64>> {
        const KEY: &str = "rope_local_base_freq";
        let Some(default) = self.settings.arch().block.local_rope_theta else { return Ok(None) };
        let outer = self.settings.number(KEY)?;
        let inner = self.windowed.as_ref().and_then(|map| map.get("rope_theta")?.as_f64());
        if let (Some(inner), Some(outer)) = (inner, outer)
            && inner != outer
        {
            self.messages.push(format!(
                "{}: '{KEY}' is {outer}, but 'rope_parameters.{WINDOWED}.rope_theta' is {inner}; {inner} is used",
                self.settings.origin()
            ));
        }
        Ok(Some(inner.or(outer).unwrap_or(default)))
    }

    /// Puts the number `value` into `map`.
    fn checked(&self, map: &mut Object, key: &str, value: Value) -> Result<()> {
        if !value.is_number() {
            let detail = format!("'{key}' is {}, where a number is needed", shown(&value));
            return Err(Error::model(self.settings.origin(), detail));
        }
        map.insert(key.to_string(), value);
        Ok(())
    }

    /// What makes every key say what `rope` says.
    fn edits(&self, rope: &Rope) -> Vec<Edit> {
        let mut edits: Vec<Edit> = Vec::new();
        let map = || Some(Value::Object(rope.parameters.clone()));
        let local = rope.local_theta.map(Value::from);
        match self.by_layer {
            true => edits.push((&["rope_parameters", FULL], map())),
            false => {
                edits.push((&["rope_parameters"], map().filter(|_| self.parameters.is_some())))
            }
        }
        if self.windowed.is_some() {
            edits.push((&["rope_parameters", WINDOWED, "rope_theta"], local.clone()));
        }
        let scales = rope.get("rope_type").is_some_and(|kind| kind != "default");
        edits.push((&["rope_scaling"], map().filter(|_| self.scaling.is_some() && scales)));
        for (key, value) in [
            ("rope_theta", rope.get("rope_theta").cloned()),
            ("rope_local_base_freq", local),
            (PARTIAL, rope.get(PARTIAL).cloned()),
            (ORIGINAL, rope.get(ORIGINAL).cloned()),
        ] {
            edits.extend(self.settings.present(key).map(|path| (path, value.clone())));
        }
        edits
    }
}

/// Sentences about what is said and has no effect, or none in GGUF.
fn lost(settings: &Settings<'_>, map: &Object) -> Vec<Conflict> {
    let origin = settings.origin();
    let mut messages = Vec::new();
    if let Some(part) = map.get(PARTIAL).filter(|part| part.as_f64() != Some(1.0))
        && !settings.arch().turns_partly()
    {
        messages.push(format!(
            "{origin}: '{PARTIAL}' is {}, but {} turns whole heads; the key is ignored, as in transformers",
            shown(part),
            settings.class()
        ));
    }
    if map.contains_key("mscale")
        && map.contains_key("mscale_all_dim")
        && !map.contains_key("attention_factor")
    {
        messages.push(format!(
            "{origin}: 'mscale' and 'mscale_all_dim' change the scale of attention, which GGUF files of architecture {} \
             do not say; they are ignored, as by llama.cpp",
            settings.arch().gguf_name
        ));
    }
    messages.into_iter().map(|message| Conflict { message, edits: Vec::new() }).collect()
}
