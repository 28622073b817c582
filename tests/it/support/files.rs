//! Checks of files and errors.

use aqueduct::Result;
use std::fs;
use std::path::Path;

/// Asserts that `result` is an error whose text, causes included, has all of `parts`.
#[track_caller]
pub(crate) fn assert_error<T>(result: Result<T>, parts: &[&str]) {
    let error = result.err().expect("must fail");
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    assert!(parts.iter().all(|part| text.contains(part)), "{text:?} lacks some of {parts:?}");
}

/// The names in a folder, sorted.
pub(crate) fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

// --- GGUF ---

/// Asserts that two folders have the same names and the same bytes in each file.
#[track_caller]
pub(crate) fn assert_same_folders(left: &Path, right: &Path) {
    assert_eq!(entries(left), entries(right));
    for name in entries(left) {
        assert!(
            fs::read(left.join(&name)).unwrap() == fs::read(right.join(&name)).unwrap(),
            "{name} differs"
        );
    }
}
