//! The index of a sharded checkpoint, `model.safetensors.index.json`: the file of each tensor.

use super::naming::is_plain_name;
use super::unique_members::{UniqueMembers, unique_members};
use crate::base::error::{Error, Result};
use crate::formats::file_kind::refuse_foreign_bytes;
use serde::de::{Deserialize, Deserializer, MapAccess};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// An index in which every file name is plain.
pub(crate) struct ShardIndex(BTreeMap<String, String>);

impl ShardIndex {
    /// Reads the index at `path`.
    ///
    /// # Errors
    /// A file that is not an index; a tensor that occurs twice; file names that lead out of the
    /// folder.
    pub(crate) fn read(path: &Path) -> Result<ShardIndex> {
        #[derive(serde::Deserialize)]
        struct Text {
            weight_map: WeightMap,
        }
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        refuse_foreign_bytes(path, &bytes, bytes.len() as u64)?;
        let text: Text = serde_json::from_slice(&bytes)
            .map_err(|e| Error::format(path, format!("not a valid index: {e}")))?;
        let map = text.weight_map.0;
        if map.is_empty() {
            return Err(Error::format(path, "its weight_map is empty"));
        }
        match map.iter().find(|(_, file)| !is_plain_name(file)) {
            Some((tensor, file)) => {
                let detail =
                    format!("puts tensor '{tensor}' into '{file}', which is not a plain file name");
                Err(Error::format(path, detail))
            }
            None => Ok(ShardIndex(map)),
        }
    }

    /// The names of the files, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        self.0.values().cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The names of the tensors, sorted.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The name of the file that holds `tensor`.
    pub(crate) fn file_of(&self, tensor: &str) -> Option<&str> {
        self.0.get(tensor).map(String::as_str)
    }
}

/// The file name of each tensor.
#[derive(Default)]
struct WeightMap(BTreeMap<String, String>);

impl UniqueMembers for WeightMap {
    const EXPECTED: &'static str = "an object of tensor names and file names";

    fn add<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        self.0.insert(key, map.next_value()?);
        Ok(())
    }
}

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WeightMap, D::Error> {
        unique_members(deserializer)
    }
}
