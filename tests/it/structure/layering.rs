//! The rooms of src and what each may import, as ARCHITECTURE.md describes them.

use std::path::{Path, PathBuf};

/// The rooms by level, lowest first. A room imports from lower levels only.
const LEVELS: &[&[&str]] = &[
    &["base"],
    &["kernels", "quants", "hub"],
    &["formats"],
    &["model"],
    &["recipe", "measure"],
    &["merge", "report", "quantize"],
    &["build"],
    &["api", "cli"],
];

/// Only the command line prints or exits.
const PRINTING: &[&str] = &["println!", "print!(", "eprintln!", "eprint!(", "process::exit"];

/// Files with unsafe code: the memory map, the SIMD dispatch, and the kernels.
const UNSAFE: &[&str] = &["base/mmap.rs", "base/simd.rs", "kernels/"];

fn level(room: &str) -> usize {
    let found = LEVELS.iter().position(|rooms| rooms.contains(&room));
    found.unwrap_or_else(|| panic!("src/{room} has no level; give it one in layering.rs"))
}

/// The Rust files of the rooms: path below src, and text without comments and unit tests.
fn sources() -> Vec<(String, String)> {
    fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => collect(&path, files),
                false => files.push(path),
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let rust = files.into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    rust.filter(|path| path.parent() != Some(&root))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let body = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let lines = body.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code = lines.collect::<Vec<_>>().join("\n");
            let relative = path.strip_prefix(&root).unwrap();
            (relative.to_str().unwrap().replace('\\', "/"), code)
        })
        .collect()
}

#[test]
fn rooms_import_from_lower_levels_only() {
    let mut imports = 0;
    for (file, code) in sources() {
        let room = file.split('/').next().unwrap();
        let own = level(room);
        assert!(!code.contains("crate::{"), "{file}: one `use` for each room");
        for (imported, level_of_imported) in
            LEVELS.iter().enumerate().flat_map(|(n, rooms)| rooms.iter().map(move |room| (room, n)))
        {
            let path = format!("crate::{imported}");
            let named = |end: &str| !end.starts_with(|c: char| c.is_alphanumeric() || c == '_');
            let uses = code.match_indices(&path).any(|(at, _)| named(&code[at + path.len()..]));
            if *imported != room && uses {
                assert!(level_of_imported < own, "src/{file}: {room} must not import {imported}");
                imports += 1;
            }
        }
    }
    assert!(imports > 200, "only {imports} imports were found");
}

#[test]
fn only_the_command_line_prints_or_exits() {
    for (file, code) in sources().iter().filter(|(file, _)| !file.starts_with("cli/")) {
        for word in PRINTING {
            assert!(!code.contains(word), "src/{file} uses {word}");
        }
    }
}

#[test]
fn unsafe_code_stays_in_the_memory_map_simd_dispatch_and_kernels() {
    let mut found = 0;
    for (file, code) in sources() {
        if code.contains("unsafe {") || code.contains("unsafe fn") {
            assert!(
                UNSAFE.iter().any(|allowed| file.starts_with(allowed)),
                "src/{file} has unsafe code"
            );
            found += 1;
        }
    }
    assert!(found > 2, "only {found} files with unsafe code were found");
}
