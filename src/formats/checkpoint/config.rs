//! A model folder's `config.json`: ordered JSON with typed look-ups that name the file in errors.

use super::{SideFile, json};
use crate::base::error::{Error, Result};
use crate::formats::file_kind::refuse_foreign;
use serde_json::{Map, Value};
use std::path::Path;

/// The parsed `config.json` of a model folder. Keys keep their order, so that an edited copy
/// differs only where it was edited.
#[derive(Clone, Debug)]
pub struct Config {
    origin: String,
    map: Map<String, Value>,
}

impl Config {
    /// Reads `path`; the file must hold a JSON object.
    pub fn read(path: &Path) -> Result<Config> {
        refuse_foreign(path)?;
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        Config::from_value(&path.display().to_string(), json::parse(path, &bytes)?)
    }

    /// Reads a file beside the weights, which must hold a JSON object of less than 512 MiB.
    pub fn from_side_file(file: &SideFile) -> Result<Config> {
        let value = json::parse(file.path(), &file.read(512 << 20)?)?;
        Config::from_value(&file.path().display().to_string(), value)
    }

    /// Parses `text`; `origin` names its source in errors.
    pub fn parse(origin: &str, text: &str) -> Result<Config> {
        Config::from_value(origin, json::parse(Path::new(origin), text.as_bytes())?)
    }

    fn from_value(origin: &str, value: Value) -> Result<Config> {
        match value {
            Value::Object(map) => Ok(Config { origin: origin.to_string(), map }),
            _ => Err(Error::model(origin, "expected a JSON object")),
        }
    }

    /// Where the configuration came from, for errors.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// The value of `key`, unless it is missing or null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.map.insert(key.to_string(), value.into());
    }

    pub fn remove(&mut self, key: &str) {
        self.map.shift_remove(key);
    }

    /// Sets the key at the end of `path`, or removes it where `value` is `None`. The keys before it
    /// name objects, each in the one before; where one is missing or no object, nothing changes.
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

    pub fn str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    pub fn bool(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    pub fn f64(&self, key: &str) -> Option<f64> {
        json::number(self.get(key)?)
    }

    pub fn usize(&self, key: &str) -> Option<usize> {
        self.get(key)?.as_u64()?.try_into().ok()
    }

    /// A count that must be there, must not be zero, and is small enough to be one.
    pub fn require_usize(&self, key: &str) -> Result<usize> {
        match self.usize(key) {
            Some(n) if n > 0 && n <= 1 << 30 => Ok(n),
            _ => Err(Error::model(&self.origin, format!("'{key}' is missing or no usable count"))),
        }
    }

    /// The first of `architectures`, `LlamaForCausalLM` for example.
    pub fn architecture(&self) -> Result<&str> {
        self.get("architectures")
            .and_then(|v| v.as_array()?.first()?.as_str())
            .ok_or_else(|| Error::model(&self.origin, "'architectures' is missing"))
    }

    /// The configuration as it is written to `config.json`.
    pub fn to_json(&self) -> String {
        json::to_text(&self.map)
    }
}
