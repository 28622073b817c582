//! How recipes name models.

use std::fmt;

/// A reference to a model: a stage of the recipe, a folder, or a name on the hub, with an optional
/// revision. The peer's form is `path@revision+lora@revision`; adapters are not supported yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelRef {
    pub path: String,
    pub revision: Option<String>,
}

impl ModelRef {
    pub fn new(path: String, revision: Option<String>) -> ModelRef {
        ModelRef { path, revision }
    }

    /// Parses the short form; the error is a message for the recipe's author.
    pub fn parse(text: &str) -> Result<ModelRef, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("the model's name is empty".to_string());
        }
        if let Some((model, lora)) = text.split_once('+') {
            return Err(format!(
                "'{model}' with the adapter '{lora}': adapters are not supported yet"
            ));
        }
        match text.split_once('@') {
            None => Ok(ModelRef::new(text.to_string(), None)),
            Some((path, revision)) if !path.is_empty() && !revision.contains('@') => {
                Ok(ModelRef::new(path.to_string(), Some(revision.to_string())))
            }
            Some(_) => Err(format!("'{text}' is no model name: one '@' may set off a revision")),
        }
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.path),
            None => f.write_str(&self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_parse_and_adapters_are_refused_by_name() {
        let plain = ModelRef::parse("org/model").unwrap();
        assert_eq!((plain.path.as_str(), plain.revision), ("org/model", None));
        assert_eq!(ModelRef::parse("org/model@main").unwrap().to_string(), "org/model@main");
        assert!(ModelRef::parse("a+b").unwrap_err().contains("adapter 'b'"));
        assert!(ModelRef::parse("a@b@c").is_err());
        assert!(ModelRef::parse(" ").is_err());
    }
}
