//! The `config.json` of a model folder: ordered JSON with typed look-ups whose errors name the
//! file.

use super::{SideFile, json};
use crate::base::error::{Error, Result};
use crate::formats::file_kind::refuse_foreign;
use serde_json::{Map, Value};
use std::path::Path;

/// The parsed `config.json` of a model folder. Keys keep their order, so that an edited copy
/// differs only in the edits.
#[derive(Clone, Debug)]
pub struct Config {
    origin: String,
    map: Map<String, Value>,
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold a JSON object.
    pub fn read(path: &Path) -> Result<Config> {
        refuse_foreign(path)?;
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        Config::from_value(&path.display().to_string(), json::parse(path, &bytes)?)
    }

    /// Reads a file beside the weights.
    ///
    /// # Errors
    /// A file that cannot be read, is larger than 512 MiB or does not hold a JSON object.
    pub fn from_side_file(file: &SideFile) -> Result<Config> {
        let value = json::parse(file.path(), &file.read(512 << 20)?)?;
        Config::from_value(&file.path().display().to_string(), value)
    }

    /// Parses `text`; `origin` names its source in errors.
    ///
    /// # Errors
    /// A text that is not a JSON object.
    pub fn parse(origin: &str, text: &str) -> Result<Config> {
        Config::from_value(origin, json::parse(Path::new(origin), text.as_bytes())?)
    }

    fn from_value(origin: &str, value: Value) -> Result<Config> {
        match value {
            Value::Object(map) => Ok(Config { origin: origin.to_string(), map }),
            _ => Err(Error::model(origin, "expected a JSON object")),
        }
    }

    /// The source of the configuration, which names it in errors: the path of the file.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// All keys and values, in order.
    pub fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// The value of `key`; `None` if it is missing or null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Sets the value of `key`.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.map.insert(key.to_string(), value.into());
    }

    /// Removes `key`.
    pub fn remove(&mut self, key: &str) {
        self.map.shift_remove(key);
    }

    /// Sets the key at the end of `path`, or removes it if `value` is `None`. The keys before it
    /// name nested objects. Nothing changes if one of them is missing or not an object.
    pub fn edit(&mut self, path: &[&str], value: Option<Value>) {
        let Some((key, objects)) = path.split_last() else { return };
        let mut map = &mut self.map;
        for object in objects {
            let Some(Value::Object(inner)) = map.get_mut(*object) else { return };
            map = inner;
        }
        match value {
            Some(value) => map.insert(key.to_string(), value),
            None => map.shift_remove(*key),
        };
    }

    /// The value of `key`, if it is a string.
    pub fn str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// The value of `key`, if it is a boolean.
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    /// The value of `key`, if it is a number; NaN and infinities count.
    pub fn f64(&self, key: &str) -> Option<f64> {
        json::number(self.get(key)?)
    }

    /// The value of `key`, if it is an integer that is not negative.
    pub fn usize(&self, key: &str) -> Option<usize> {
        self.get(key)?.as_u64()?.try_into().ok()
    }

    /// The value of `key` as a count from 1 to 2^30.
    ///
    /// # Errors
    /// A key that is missing or has another value.
    pub fn require_usize(&self, key: &str) -> Result<usize> {
        match self.usize(key) {
            Some(n) if n > 0 && n <= 1 << 30 => Ok(n),
            _ => {
                Err(Error::model(&self.origin, format!("'{key}' is missing or not a usable count")))
            }
        }
    }

    /// The first of `architectures`, such as `LlamaForCausalLM`.
    ///
    /// # Errors
    /// A configuration without `architectures`.
    pub fn architecture(&self) -> Result<&str> {
        self.get("architectures")
            .and_then(|v| v.as_array()?.first()?.as_str())
            .ok_or_else(|| Error::model(&self.origin, "'architectures' is missing"))
    }

    /// The configuration as the text of a `config.json`.
    pub fn to_json(&self) -> String {
        json::to_text(&self.map)
    }
}
