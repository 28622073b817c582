//! Imports go one way: what ARCHITECTURE.md promises about the layers, checked on the sources.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Modules by level, lowest first; a module may import only from lower levels.
const LEVELS: &[&[&str]] = &[
    &[
        "dtype", "error", "progress", "size", "output", "mmap", "memory", "system", "sync", "hash",
        "kernels",
    ],
    &["quants", "hub"],
    &["source", "file_kind"],
    &["gguf", "checkpoint"],
    &["recipe", "restore", "tokenizer", "arch"],
    &[
        "merge",
        "convert",
        "compare",
        "model",
        "imatrix",
        "evaluate",
        "calibrate",
        "quantize",
        "report",
    ],
    &["pipeline", "verify", "publish"],
    &["cli"],
];

/// Imports within a level that are allowed: (importer, imported).
const SIDEWAYS: &[(&str, &str)] = &[
    ("output", "error"),
    ("output", "progress"),
    ("output", "size"),
    ("output", "system"),
    ("output", "sync"),
    ("hash", "error"),
    ("hash", "progress"),
    ("mmap", "error"),
    ("progress", "error"),
    ("recipe", "arch"),
    ("recipe", "tokenizer"),
    ("recipe", "restore"),
    ("restore", "arch"),
    ("restore", "tokenizer"),
    ("imatrix", "model"),
    ("evaluate", "model"),
    ("calibrate", "model"),
    ("quantize", "imatrix"),
    ("report", "compare"),
    ("verify", "pipeline"),
    ("publish", "verify"),
    ("publish", "pipeline"),
    ("report", "imatrix"),
    ("report", "evaluate"),
];

/// Output belongs to the command line.
const PRINTING: &[&str] = &["println!", "print!(", "eprintln!", "eprint!(", "process::exit"];

fn level(module: &str) -> usize {
    let found = LEVELS.iter().position(|modules| modules.contains(&module));
    found.unwrap_or_else(|| panic!("module '{module}' has no level; give it one in layering.rs"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The module a file under src belongs to, and its text without comments and unit tests.
fn code(root: &Path, path: &Path) -> (String, String) {
    let relative = path.strip_prefix(root).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let body = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines: Vec<_> = body.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
    (first.trim_end_matches(".rs").to_string(), lines.join("\n"))
}

/// Modules named right after `crate::`, grouped imports included.
fn imports(code: &str, prefix: &str) -> BTreeSet<String> {
    let identifier = |text: &str| -> String {
        text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()
    };
    let mut found = BTreeSet::new();
    for (start, _) in code.match_indices(prefix) {
        let rest = &code[start + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                let group = &group[..group.find(';').unwrap_or(group.len())];
                let mut depth = 0;
                let mut at_item = true;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 => at_item = true,
                        c if at_item && c.is_ascii_lowercase() => {
                            found.insert(identifier(&group[i..]));
                            at_item = false;
                        }
                        _ => {}
                    }
                }
            }
            None => {
                found.insert(identifier(rest));
            }
        }
    }
    found.remove("");
    found
}

#[test]
fn imports_go_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checked = 0;
    for path in sources(&root) {
        let (module, code) = code(&root, &path);
        if module == "lib" || module == "main" {
            continue;
        }
        let prefix = if module == "cli" { "aqueduct::" } else { "crate::" };
        for import in imports(&code, prefix) {
            let known = LEVELS.iter().any(|modules| modules.contains(&import.as_str()));
            if import == module || (module == "cli" && !known) {
                continue;
            }
            let sideways = SIDEWAYS.contains(&(module.as_str(), import.as_str()));
            let down = level(&import) < level(&module);
            assert!(down || sideways, "{}: {module} must not import {import}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} imports were found: the parser here is broken");
}

#[test]
fn grouped_imports_are_seen() {
    let code = "use crate::{dtype::{DType, X}, error::Error};\nfn f() { crate::quants::decode() }";
    let expected = ["dtype", "error", "quants"].map(String::from);
    assert_eq!(imports(code, "crate::"), BTreeSet::from(expected));
}

#[test]
fn only_the_command_line_prints_or_exits() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&root) {
        let (module, code) = code(&root, &path);
        if module == "cli" || module == "main" {
            continue;
        }
        for word in PRINTING {
            assert!(!code.contains(word), "{} uses {word}", path.display());
        }
    }
}

#[test]
fn unsafe_code_stays_in_the_memory_map_and_the_kernels() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&root) {
        let (module, code) = code(&root, &path);
        let uses = code.contains("unsafe {") || code.contains("unsafe fn");
        let allowed = module == "mmap" || module == "kernels" || path.ends_with("quants/simd.rs");
        assert!(!uses || allowed, "{} has unsafe code", path.display());
    }
}
