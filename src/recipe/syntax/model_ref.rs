//! How recipes name models.

use std::fmt;

/// A reference to a model: a stage of the recipe, a folder, a GGUF file, or a name on the hub, with an
/// optional revision and an optional adapter. The short form is mergekit's,
/// `path@revision+lora@revision`; a path that holds a `+` or `@` needs the long form,
/// `{model: {path: ...}}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelRef {
    pub path: String,
    pub revision: Option<String>,
    /// A LoRA adapter to merge into the model; it has none itself.
    pub lora: Option<Box<ModelRef>>,
}

impl ModelRef {
    pub fn new(path: String, revision: Option<String>) -> ModelRef {
        ModelRef { path, revision, lora: None }
    }

    /// Parses the short form; the error is a message for the recipe's author.
    pub fn parse(text: &str) -> Result<ModelRef, String> {
        let Some((model, lora)) = text.split_once('+') else { return ModelRef::parse_one(text) };
        if lora.contains('+') {
            let detail =
                "one '+' may set off an adapter; merge further ones in stages of their own";
            return Err(format!("'{}' is no model name: {detail}", text.trim()));
        }
        let lora = ModelRef::parse_one(lora).map_err(|e| format!("the adapter: {e}"))?;
        Ok(ModelRef { lora: Some(Box::new(lora)), ..ModelRef::parse_one(model)? })
    }

    /// Parses `path` or `path@revision`.
    fn parse_one(text: &str) -> Result<ModelRef, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("the model's name is empty".to_string());
        }
        match text.split_once('@') {
            None => Ok(ModelRef::new(text.to_string(), None)),
            Some((path, revision)) if !path.is_empty() && !revision.contains('@') => {
                Ok(ModelRef::new(path.to_string(), Some(revision.to_string())))
            }
            Some(_) => Err(format!("'{text}' is no model name: one '@' may set off a revision")),
        }
    }

    /// Whether this is a bare name, as stages have.
    pub fn may_be_stage(&self) -> bool {
        self.revision.is_none() && self.lora.is_none()
    }

    /// The model without its adapter.
    pub fn base(&self) -> ModelRef {
        ModelRef::new(self.path.clone(), self.revision.clone())
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.lora {
            Some(lora) => write!(f, "+{lora}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_parse_and_print() {
        let plain = ModelRef::parse("org/model").unwrap();
        assert_eq!((plain.path.as_str(), &plain.revision), ("org/model", &None));
        assert!(plain.may_be_stage());
        for text in ["org/model@main", "a+b", "org/a@main+me/b@v1"] {
            let parsed = ModelRef::parse(text).unwrap();
            assert_eq!(parsed.to_string(), text);
            assert!(!parsed.may_be_stage());
        }
        let both = ModelRef::parse("a @ x + b").unwrap();
        assert_eq!(both.lora.unwrap().path, "b");
        for bad in ["a@b@c", " ", "a+", "+b", "a+b+c", "a+b@c@d"] {
            assert!(ModelRef::parse(bad).is_err(), "{bad}");
        }
    }
}
