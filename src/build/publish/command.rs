//! The command of the hub's own program that uploads what [`super::publish`] would.
//!
//! Options of `hf upload`: `huggingface_hub`, `cli/upload.py` (1.x and 2.x). It makes a repository and a branch that are
//! absent, and private means nothing to one that is there.

use super::Options;

/// The words of the command. Hidden files, which `hf upload` would send, are excluded.
pub fn hf_command(options: &Options) -> Vec<String> {
    let folder = options.folder.to_string_lossy();
    // A name that begins with a hyphen is no option.
    let folder = if folder.starts_with('-') { format!("./{folder}") } else { folder.into_owned() };
    let mut words = vec!["hf".to_string(), "upload".to_string(), options.repo.path(), folder];
    let mut add = |more: &[&str]| words.extend(more.iter().map(|word| word.to_string()));
    add(&[".", "--repo-type", "model"]);
    if options.private {
        add(&["--private"]);
    }
    if options.repo.revision() != "main" {
        add(&["--revision", options.repo.revision()]);
    }
    if let Some(message) = &options.message {
        add(&["--commit-message", message]);
    }
    options.include.iter().for_each(|pattern| add(&["--include", pattern]));
    let hidden = [".*".to_string(), "*/.*".to_string()];
    options.exclude.iter().chain(&hidden).for_each(|pattern| add(&["--exclude", pattern]));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::HubName;

    fn options(folder: &str, revision: Option<&str>) -> Options {
        let repo = HubName::parse("org/name", revision).unwrap();
        let (folder, message) = (folder.into(), None);
        Options { folder, repo, private: false, message, include: vec![], exclude: vec![] }
    }

    #[test]
    fn all_options_have_their_like() {
        let words = hf_command(&options("out", None)).join(" ");
        assert_eq!(words, "hf upload org/name out . --repo-type model --exclude .* --exclude */.*");
        let mut all = options("-quants", Some("v1"));
        all.private = true;
        all.message = Some("It's".to_string());
        (all.include, all.exclude) = (vec!["*.gguf".to_string()], vec!["a b".to_string()]);
        let expected = "hf upload org/name ./-quants . --repo-type model --private --revision v1 \
                        --commit-message It's --include *.gguf --exclude a b --exclude .* --exclude */.*";
        assert_eq!(hf_command(&all).join(" "), expected);
    }
}
