//! Finding the GGUF model of a folder.

use super::split::names::without_shard;
use crate::base::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Returns the model in `dir`, a folder with GGUF files and no other weights: its only GGUF file,
/// or the first shard of its only split model. `None` for any other folder. Projectors and
/// importance matrices, which publishers put beside models, are ignored.
///
/// # Errors
/// A folder with several models; the message lists them.
pub fn only_model_in(dir: &Path) -> Result<Option<PathBuf>> {
    let mut models: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
        let name = entry.map_err(Error::io(dir, "list"))?.file_name();
        let name = name.to_string_lossy().into_owned();
        let lower = name.to_ascii_lowercase();
        let weights = [".safetensors", ".safetensors.index.json", ".bin.index.json"];
        if weights.iter().any(|end| lower.ends_with(end)) || lower.starts_with("pytorch_model") {
            return Ok(None);
        }
        if lower.ends_with(".gguf") && !lower.starts_with("mmproj") && !lower.contains("imatrix") {
            models.push(name);
        }
    }
    models.sort();
    // The first shard represents a split model.
    let stem = |name: &str| name[..name.len() - ".gguf".len()].to_string();
    models.dedup_by_key(|name| without_shard(&stem(name)).to_string());
    match models.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(dir.join(one))),
        several => {
            const SHOWN: usize = 40;
            let more = several.len().saturating_sub(SHOWN);
            let mut list = several[..several.len().min(SHOWN)].join("\n  ");
            if more > 0 {
                list.push_str(&format!("\n  and {more} more"));
            }
            let detail = format!(
                "a folder with {} GGUF models; name one of them, such as {}:\n  {list}",
                several.len(),
                dir.join(&several[0]).display()
            );
            Err(Error::format(dir, detail))
        }
    }
}
