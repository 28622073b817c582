//! `model.safetensors.index.json`: which file is said to hold which tensor.

use super::naming::is_plain_name;
use crate::base::error::{Error, Result};
use crate::formats::file_kind::refuse_foreign_bytes;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// An index; every file name in it is checked.
pub(crate) struct ShardIndex(BTreeMap<String, String>);

impl ShardIndex {
    /// Reads the index at `path`.
    ///
    /// # Errors
    /// Anything that is no index, a tensor that occurs twice, and names that lead out of the
    /// folder.
    pub(crate) fn read(path: &Path) -> Result<ShardIndex> {
        #[derive(serde::Deserialize)]
        struct Text {
            weight_map: UniqueMap,
        }
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        refuse_foreign_bytes(path, &bytes, bytes.len() as u64)?;
        let text: Text = serde_json::from_slice(&bytes)
            .map_err(|e| Error::format(path, format!("no usable index: {e}")))?;
        let map = text.weight_map.0;
        if map.is_empty() {
            return Err(Error::format(path, "its weight_map is empty"));
        }
        match map.iter().find(|(_, file)| !is_plain_name(file)) {
            Some((tensor, file)) => {
                let detail =
                    format!("puts tensor '{tensor}' into '{file}', which is no plain file name");
                Err(Error::format(path, detail))
            }
            None => Ok(ShardIndex(map)),
        }
    }

    /// The files that it names, in the order of their names.
    pub(crate) fn files(&self) -> Vec<String> {
        self.0.values().cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(crate) fn tensors(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The file that is said to hold `tensor`.
    pub(crate) fn file_of(&self, tensor: &str) -> Option<&str> {
        self.0.get(tensor).map(String::as_str)
    }
}

/// A JSON object of strings in which no key occurs twice.
struct UniqueMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UniqueMap, D::Error> {
        struct MapVisitor;

        impl<'de> Visitor<'de> for MapVisitor {
            type Value = UniqueMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensor names and file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMap, A::Error> {
                let mut out = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if let Some(first) = out.insert(key.clone(), value) {
                        let text = format!("tensor '{key}' occurs twice, first in '{first}'");
                        return Err(A::Error::custom(text));
                    }
                }
                Ok(UniqueMap(out))
            }
        }

        deserializer.deserialize_map(MapVisitor)
    }
}
