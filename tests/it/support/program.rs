//! Runs the program as users do: arguments in; standard output, standard error and exit code out.

use crate::support::files::entries;
use serde_json::Value as Json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A file or folder of the project.
pub(crate) fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What a run of the program left.
pub(crate) struct Ran {
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// A folder of its own in which the program is run.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub(crate) fn entries(&self) -> Vec<String> {
        entries(self.0.path())
    }

    /// The program with the words of `line` as arguments. A word that begins with `@` is a path in the
    /// project.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aqueduct"));
        command.args(arguments(line)).current_dir(&self.0);
        command
    }

    /// Runs the program, which must succeed and draw no bars on a standard error that is no terminal.
    pub(crate) fn ok(&self, line: &str) -> Ran {
        let ran = finished(line, 0, self.command(line).output().unwrap());
        assert!(!ran.stderr.contains("error:"), "{line}\n{}", ran.stderr);
        ran
    }

    /// Runs the program, which must fail with `code`, print nothing on standard output and say each of
    /// `parts` in its one error.
    pub(crate) fn fails(&self, code: i32, line: &str, parts: &[&str]) -> String {
        let ran = finished(line, code, self.command(line).output().unwrap());
        assert_eq!(ran.stdout, "", "{line}");
        one_error(line, &ran.stderr, parts)
    }
}

/// The words of `line`, with `@` for the project's folder.
pub(crate) fn arguments(line: &str) -> Vec<PathBuf> {
    let word = |word: &str| word.strip_prefix('@').map_or(PathBuf::from(word), shipped);
    line.split_whitespace().map(word).collect()
}

/// What any run must keep to: an exit code, no panic, no control characters.
pub(crate) fn finished(line: &str, code: i32, output: Output) -> Ran {
    let [stdout, stderr] = [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap());
    assert_eq!(output.status.code(), Some(code), "{line}\n{stdout}\n{stderr}");
    assert!(!stderr.contains("panicked"), "{line}\n{stderr}");
    assert!(!stderr.contains(['\r', '\u{1b}']), "{line}: bars are for terminals: {stderr:?}");
    Ran { stdout, stderr }
}

/// What people would read where scripts read the events of `--json`.
pub(crate) fn in_words(stderr: &str) -> String {
    let mut words = String::new();
    for line in stderr.lines() {
        let event: Option<Json> = serde_json::from_str(line).ok();
        let of = |key: &str| event.as_ref().and_then(|event| event[key].as_str());
        match (of("event"), of("text")) {
            (Some("note"), Some(text)) => words.push_str(&format!("{text}\n")),
            (Some(label), Some(text)) => words.push_str(&format!("{label}: {text}\n")),
            (Some(_), None) => {}
            (None, _) => words.push_str(&format!("{line}\n")),
        }
    }
    words
}

/// Checks that `stderr` has one error, with all of `parts` in it, and gives it.
pub(crate) fn one_error(line: &str, stderr: &str, parts: &[&str]) -> String {
    let stderr = &in_words(stderr);
    let at: Vec<_> = stderr.match_indices("error: ").map(|(at, _)| at).collect();
    let first = *at.first().unwrap_or_else(|| panic!("{line}: no error in {stderr:?}"));
    assert!(first == 0 || stderr[..first].ends_with('\n'), "{line}\n{stderr}");
    let error = &stderr[first..];
    let starts = error.lines().filter(|l| l.starts_with("error: ")).count();
    assert_eq!(starts, 1, "{line}: one error, not {starts}: {stderr}");
    for part in parts {
        assert!(error.contains(part), "{line}: {part:?} is not in\n{stderr}");
    }
    error.to_string()
}

/// A copy of the member `name` of the demo, as the folder `to`.
pub(crate) fn copy_member(place: &Place, name: &str, to: &str) -> PathBuf {
    let (from, to) = (shipped("recipes/demo").join(name), place.path(to));
    fs::create_dir(&to).unwrap();
    for file in entries(&from) {
        fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
    to
}
