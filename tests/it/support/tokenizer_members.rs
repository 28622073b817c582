//! Members of a merge with different tokenizers.

use aqueduct::formats::checkpoint::Checkpoint;
use aqueduct::formats::gguf::GgufModel;
use aqueduct::merge;
use aqueduct::model::convert::{ConvertOptions, convert};
use aqueduct::recipe::{Diagnostic, Folders, MergePlan, Severity, plan_text, render};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

pub(crate) fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers").join(path)
}

/// The three models, copied to where they can be edited.
pub(crate) struct Members(tempfile::TempDir);

impl Members {
    pub(crate) fn new() -> Members {
        let members = Members(tempfile::tempdir().unwrap());
        for name in ["base", "chat", "padded"] {
            std::fs::create_dir(members.path(name)).unwrap();
            for entry in std::fs::read_dir(data("models").join(name)).unwrap() {
                let entry = entry.unwrap();
                let to = members.path(name).join(entry.file_name());
                std::fs::write(to, std::fs::read(entry.path()).unwrap()).unwrap();
            }
        }
        members
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Edits a JSON file, which is made if it is not there.
    pub(crate) fn edit(&self, file: &str, edit: impl FnOnce(&mut Json)) -> &Members {
        let path = self.path(file);
        let text = std::fs::read_to_string(&path).unwrap_or("{}".to_string());
        let mut json = serde_json::from_str(&text).unwrap();
        edit(&mut json);
        std::fs::write(path, json.to_string()).unwrap();
        self
    }

    /// Removes the output head of a member.
    pub(crate) fn without_head(&self, name: &str) {
        let path = self.path(name).join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let kept = stored.iter().filter(|(tensor, _)| *tensor != HEAD);
        std::fs::write(&path, safetensors::serialize(kept, None).unwrap()).unwrap();
    }

    pub(crate) fn write(&self, file: &str, bytes: impl AsRef<[u8]>) -> &Members {
        std::fs::write(self.path(file), bytes).unwrap();
        self
    }

    pub(crate) fn remove(&self, file: &str) -> &Members {
        std::fs::remove_file(self.path(file)).unwrap();
        self
    }

    fn plan(&self, text: &str) -> Result<MergePlan, Vec<Diagnostic>> {
        let path = self.path("recipe.yml");
        let lookup = Folders::beside(&path, &[]);
        plan_text(&path, text, &merge::methods::specs(), &lookup)
    }

    #[track_caller]
    pub(crate) fn open(&self, text: &str) -> Checkpoint {
        match self.plan(text) {
            Ok(plan) => merge::open(plan),
            Err(problems) => panic!("{}", render("recipe.yml", &problems)),
        }
    }

    /// The recipe has a problem at `place` whose message and remedy have these parts.
    #[track_caller]
    pub(crate) fn expect(
        &self,
        text: &str,
        severity: Severity,
        place: &str,
        message: &str,
        remedy: &str,
    ) {
        let (all, failed) = match self.plan(text) {
            Ok(plan) => (plan.warnings, false),
            Err(problems) => (problems, true),
        };
        let fits = |d: &Diagnostic| {
            d.severity == severity
                && d.pos.to_string() == place
                && d.message.contains(message)
                && d.remedy.contains(remedy)
        };
        assert!(all.iter().any(fits), "{}", render("recipe.yml", &all));
        assert_eq!(failed, all.iter().any(|d| d.severity == Severity::Error));
    }

    #[track_caller]
    pub(crate) fn error(&self, text: &str, place: &str, message: &str, remedy: &str) {
        self.expect(text, Severity::Error, place, message, remedy);
    }
}

pub(crate) const HEAD: &str = "lm_head.weight";

/// A tensor's rows.
pub(crate) fn rows(checkpoint: &Checkpoint, name: &str) -> Vec<Vec<f32>> {
    let data = checkpoint.tensors.read_name(name).unwrap();
    data.to_f32().unwrap().chunks(data.shape[1]).map(<[f32]>::to_vec).collect()
}

pub(crate) fn member_rows(name: &str, tensor: &str) -> Vec<Vec<f32>> {
    rows(&Checkpoint::open(data("models").join(name)).unwrap(), tensor)
}

pub(crate) fn json_file(checkpoint: &Checkpoint, name: &str) -> Json {
    let file = checkpoint.side_file(name).unwrap_or_else(|| panic!("no {name}"));
    serde_json::from_slice(&file.read(1 << 20).unwrap()).unwrap()
}

pub(crate) fn to_gguf(checkpoint: &Checkpoint) -> GgufModel {
    convert(checkpoint, &ConvertOptions::default()).unwrap()
}

pub(crate) fn linear(models: &[&str], more: &str) -> String {
    let models = models.iter().map(|m| format!("{{model: {m}}}")).collect::<Vec<_>>().join(", ");
    format!("merge_method: linear\nmodels: [{models}]\nparameters: {{weight: 1}}\n{more}")
}
