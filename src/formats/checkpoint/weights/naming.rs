//! Names of the files of a model's weights, as transformers writes and finds them.

use std::path::{Component, Path};

/// The names by which transformers finds weights of one format in a folder.
pub(crate) struct Naming {
    /// The name of the file of a model that is not sharded.
    pub single: &'static str,
    /// The name of the index of a sharded model.
    pub index: &'static str,
    /// The beginning of the names of shards; empty if any name is allowed.
    pub prefix: &'static str,
    /// The end of the names of all files.
    pub suffix: &'static str,
}

/// The names of safetensors files.
pub(crate) static SAFETENSORS: Naming = Naming {
    single: "model.safetensors",
    index: "model.safetensors.index.json",
    prefix: "",
    suffix: ".safetensors",
};

/// The names of PyTorch's files.
pub(crate) static PYTORCH: Naming = Naming {
    single: "pytorch_model.bin",
    index: "pytorch_model.bin.index.json",
    prefix: "pytorch_model",
    suffix: ".bin",
};

impl Naming {
    /// Whether `name` may be the name of a file with a model's weights.
    pub(crate) fn matches(&self, name: &str) -> bool {
        name.starts_with(self.prefix) && name.ends_with(self.suffix) && !name.starts_with("adapter")
    }

    /// The names of all shards of a model in `count` files.
    pub(crate) fn shards(&self, stem: &str, count: u32) -> Vec<String> {
        (1..=count).map(|i| format!("{stem}-{i:05}-of-{count:05}{}", self.suffix)).collect()
    }

    /// The stem, number and count in a name such as `model-00001-of-00003.safetensors`, with one to
    /// six digits.
    pub(crate) fn shard_number(&self, name: &str) -> Option<(String, u32, u32)> {
        let (stem, number, count) = self.shard_parts(name)?;
        let (number, count) = (number.parse().ok()?, count.parse().ok().filter(|n| *n > 0)?);
        Some((stem.to_string(), number, count))
    }

    /// The name of shard `number` in the series of the shard `name`.
    pub(crate) fn sibling(&self, name: &str, number: u32) -> Option<String> {
        let (stem, digits, count) = self.shard_parts(name)?;
        let width = digits.len();
        Some(format!("{stem}-{number:0width$}-of-{count}{}", self.suffix))
    }

    fn shard_parts<'n>(&self, name: &'n str) -> Option<(&'n str, &'n str, &'n str)> {
        let rest = name.strip_suffix(self.suffix)?;
        let (rest, count) = rest.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits =
            |text: &str| (1..=6).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        (digits(number) && digits(count)).then_some((stem, number, count))
    }
}

/// Whether `name` is the name of a file directly in a folder, on any operating system.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(n)), None) if n == name)
        && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_parse() {
        let parts = |name: &str| SAFETENSORS.shard_number(name);
        assert_eq!(parts("model-00001-of-00003.safetensors"), Some(("model".into(), 1, 3)));
        assert_eq!(parts("model-1-of-3.safetensors"), Some(("model".into(), 1, 3)));
        assert_eq!(parts("model-00000-of-00000.safetensors"), None);
        assert_eq!(parts("model-1-of-3000000.safetensors"), None);
        let next = SAFETENSORS.sibling("m-01-of-11.safetensors", 2);
        assert_eq!(next.as_deref(), Some("m-02-of-11.safetensors"));
        assert_eq!(SAFETENSORS.shards("m", 2)[1], "m-00002-of-00002.safetensors");
        assert!(PYTORCH.matches("pytorch_model-00001-of-00002.bin"));
        assert!(!PYTORCH.matches("training_args.bin") && !PYTORCH.matches("optimizer.bin"));
    }

    #[test]
    fn plain_names_have_no_path() {
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
        assert!(is_plain_name("..model"));
        for bad in ["", ".", "..", "a/b", "../a", "/etc/passwd", "a\\b", "C:a", "a/", "a\0"] {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
    }
}
