//! What a recipe says of the files to build from its result: a document of its own, with the one key `build`.
//!
//! ```yaml
//! ---
//! build:
//!   preset: publisher
//!   file: text.txt
//! ```
//!
//! Merging knows nothing of it. Deliberately absent: whether a preset or a type exists, which `quantize` knows,
//! and files are there; the command line checks both and takes precedence.

use super::diagnostics::Diagnostics;
use super::schema::{Mapping, text};
use super::yaml::{Node, Pos, YamlValue};
use crate::base::size;

const KEYS: &[&str] = &[
    "name",
    "preset",
    "types",
    "calibration",
    "file",
    "ctx",
    "chunks",
    "eval",
    "eval_chunks",
    "max_shard_size",
    "keep_stack",
    "keep_f16",
    "quantized_by",
    "license",
    "base_model",
];

/// ParamSettings of `aqueduct build`; settings that are absent are left to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BuildSettings {
    pub name: Option<String>,
    /// Names of presets and types, and where each stands.
    pub types: Vec<(String, Pos)>,
    /// Parts and groups of the texts that come with the program.
    pub calibration: Vec<String>,
    /// Paths of calibration texts, relative to the recipe's folder.
    pub files: Vec<String>,
    pub ctx: Option<usize>,
    pub chunks: Option<usize>,
    /// A path, relative to the recipe's folder.
    pub eval: Option<String>,
    pub eval_chunks: Option<usize>,
    /// Bytes.
    pub max_shard_size: Option<u64>,
    pub keep_stack: bool,
    pub keep_f16: bool,
    pub quantized_by: Option<String>,
    pub license: Option<String>,
    pub base_models: Vec<String>,
}

/// The value of `build`, if `node` is a document with that key alone.
pub(crate) fn of_document(node: &Node) -> Option<&Node> {
    match &node.value {
        YamlValue::Map(entries) => match &entries[..] {
            [(key, value)] if key.value == "build" => Some(value),
            _ => None,
        },
        _ => None,
    }
}

/// Reads the value of `build`; errors are in `problems`.
pub(crate) fn read(node: &Node, problems: &mut Diagnostics) -> BuildSettings {
    if node.value == YamlValue::Null {
        return BuildSettings::default();
    }
    let remedy = "write settings below it, such as 'preset: publisher'";
    let Some(map) = Mapping::read(node, "'build'", remedy, KEYS, problems) else {
        return BuildSettings::default();
    };
    let names = |key: &str, problems: &mut Diagnostics| -> Vec<(String, Pos)> {
        let Some(node) = map.get(key) else { return Vec::new() };
        let nodes = match &node.value {
            YamlValue::Seq(nodes) => nodes.iter().collect(),
            _ => vec![node],
        };
        nodes
            .into_iter()
            .filter_map(|node| text(node, key, problems))
            .map(|at| (at.value, at.pos))
            .collect()
    };
    let texts = |key: &str, problems: &mut Diagnostics| -> Vec<String> {
        names(key, problems).into_iter().map(|(name, _)| name).collect()
    };
    let one = |key: &str, problems: &mut Diagnostics| {
        map.get(key).and_then(|node| text(node, key, problems)).map(|at| at.value)
    };
    let count = |key: &str, problems: &mut Diagnostics| {
        map.get(key).and_then(|node| positive(node, key, problems))
    };
    let flag = |key: &str, problems: &mut Diagnostics| {
        map.get(key).is_some_and(|node| boolean(node, key, problems))
    };
    let mut types = names("preset", problems);
    types.extend(names("types", problems));
    BuildSettings {
        name: one("name", problems),
        types,
        calibration: texts("calibration", problems),
        files: texts("file", problems),
        ctx: count("ctx", problems),
        chunks: count("chunks", problems),
        eval: one("eval", problems),
        eval_chunks: count("eval_chunks", problems),
        max_shard_size: map.get("max_shard_size").and_then(|node| bytes(node, problems)),
        keep_stack: flag("keep_stack", problems),
        keep_f16: flag("keep_f16", problems),
        quantized_by: one("quantized_by", problems),
        license: one("license", problems),
        base_models: texts("base_model", problems),
    }
}

fn positive(node: &Node, key: &str, problems: &mut Diagnostics) -> Option<usize> {
    match node.value {
        YamlValue::Int(n @ 1..) => usize::try_from(n).ok(),
        _ => {
            let message = format!("'{key}' is {}", node.value.describe());
            problems.error(node.pos, message, "write a number of 1 or more");
            None
        }
    }
}

fn boolean(node: &Node, key: &str, problems: &mut Diagnostics) -> bool {
    match node.value {
        YamlValue::Bool(value) => value,
        _ => {
            let message = format!("'{key}' is {}", node.value.describe());
            problems.error(node.pos, message, "write true or false");
            false
        }
    }
}

fn bytes(node: &Node, problems: &mut Diagnostics) -> Option<u64> {
    let given = text(node, "max_shard_size", problems)?;
    match size::parse(&given.value) {
        Ok(bytes) => Some(bytes),
        Err(message) => {
            problems.error(node.pos, message, "write 'max_shard_size: 5GB'");
            None
        }
    }
}
