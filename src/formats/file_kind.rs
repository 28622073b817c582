//! Recognizes files of foreign kinds by their first bytes, for errors with a remedy.
//!
//! A Git LFS pointer, a web page or an archive in place of weights is a frequent mistake. Every
//! reader calls [`refuse_foreign`] before it parses a file. Not here: checks of a file's contents.

use crate::base::error::{Error, Result};
use crate::hub::HubName;
use std::io::Read;
use std::path::Path;

/// The number of bytes from the beginning of a file that [`describe_foreign`] examines.
const HEAD: usize = 4096;

/// First bytes of file formats that are never read, with a description.
const MAGICS: &[(&[u8], &str)] = &[
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"BZh", "a bzip2 archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, TensorFlow's or Keras's weights"),
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    // Magic numbers 'ggml', 'ggmf', 'ggjt' and 'ggla', little-endian.
    (b"lmgg", OLD_GGML),
    (b"fmgg", OLD_GGML),
    (b"tjgg", OLD_GGML),
    (b"algg", "an adapter in the layout that llama.cpp used before GGUF"),
];
const OLD_GGML: &str = "a model in the layout that llama.cpp used before GGUF (2023)";

/// The beginnings of error texts that the hub and other servers send instead of a file.
const ANSWERS: &[&str] = &[
    "Entry not found",
    "Repository not found",
    "Invalid username or password",
    "Invalid credentials",
    "Access to model",
    "Access to this resource",
    "Unauthorized",
    "Forbidden",
    "Not Found",
    "404: Not Found",
    "404 Not Found",
    "403 Forbidden",
    "401 Unauthorized",
    "Internal Server Error",
];

/// Describes the file at `path`, which begins with `head` and has `bytes` bytes, if it is of a kind
/// that is never read: its kind and what to do. `None` for all other files.
pub fn describe_foreign(path: &Path, head: &[u8], bytes: u64) -> Option<String> {
    let head = &head[..head.len().min(HEAD)];
    let again = || format!("get the file again{}", download_line(path));
    let incomplete = ["incomplete", "part", "crdownload", "aria2", "download"];
    // Unfinished outputs of Aqueduct itself have hidden names.
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let unfinished = |end: &std::ffi::OsStr| incomplete.iter().any(|e| end.eq_ignore_ascii_case(e));
    if !hidden && path.extension().is_some_and(unfinished) {
        return Some(format!("an incomplete download by its name; {}", again()));
    }
    if bytes == 0 {
        return Some(format!("the file is empty; {}", again()));
    }
    if head.len() >= 8 && head.iter().all(|&b| b == 0) {
        let n = head.len();
        return Some(format!(
            "its first {n} bytes are zero, as after an interrupted download; {}",
            again()
        ));
    }
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.starts_with("version https://git-lfs.github.com/spec/")
        || text.starts_with("version https://hawser.github.com/spec/")
    {
        let size = text.lines().find_map(|line| line.strip_prefix("size ")).unwrap_or("?").trim();
        let size: String = size.chars().filter(char::is_ascii_digit).take(20).collect();
        return Some(format!(
            "a Git LFS pointer to a file of {size} bytes that was not downloaded; run 'git lfs \
             pull' in its folder, or get the file{}",
            download_line(path)
        ));
    }
    let lower = text.get(..text.len().min(64)).unwrap_or_default().to_ascii_lowercase();
    if lower.starts_with("<!doctype html")
        || lower.starts_with("<html")
        || lower.starts_with("<head")
    {
        return Some(format!(
            "a web page, which servers send instead of a file that needs a login or has another address (on the \
             hub .../resolve/..., not .../blob/...); {}",
            again()
        ));
    }
    if let Some(answer) = server_answer(text, bytes) {
        return Some(format!(
            "an error message from a server instead of the file: {answer:?}; check its name and your access to \
             it, then {}",
            again()
        ));
    }
    let packed = |what: &str| format!("{what}; unpack it and name the file in it");
    if let Some((_, what)) = MAGICS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(match what.ends_with("archive") {
            true => packed(what),
            false => format!("{what}; convert or download the model again"),
        });
    }
    (head.get(257..262) == Some(b"ustar")).then(|| packed("a tar archive"))
}

/// The error message in a server's answer: a short text, or a JSON object with no other members.
fn server_answer(text: &str, bytes: u64) -> Option<String> {
    if bytes > HEAD as u64 {
        return None;
    }
    let first = text.lines().next().unwrap_or_default().trim();
    if ANSWERS.iter().any(|answer| first.starts_with(answer)) {
        return Some(first.to_string());
    }
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let map = value.as_object()?;
    let error = ["error", "message", "detail"].iter().find_map(|key| map.get(*key)?.as_str())?;
    let known = ["error", "message", "detail", "status", "statusCode", "code", "errors", "url"];
    map.keys().all(|key| known.contains(&key.as_str())).then(|| error.to_string())
}

/// The command that downloads the file at `path` again. Names the repository if `path` is in the
/// hub's cache.
fn download_line(path: &Path) -> String {
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match HubName::of_snapshot(path) {
        Some(name) => format!(" with: {} {file} --force-download", name.download_command()),
        None => format!(" with: hf download OWNER/NAME {file} --local-dir FOLDER"),
    }
}

/// Checks the first bytes of the file at `path`.
///
/// # Errors
/// A file of a kind that is never read, with a remedy; a file that cannot be read.
pub fn refuse_foreign(path: &Path) -> Result<()> {
    let file = std::fs::File::open(path).map_err(Error::io(path, "open"))?;
    let meta = file.metadata().map_err(Error::io(path, "examine"))?;
    if !meta.is_file() {
        return Ok(());
    }
    let mut head = Vec::new();
    file.take(HEAD as u64).read_to_end(&mut head).map_err(Error::io(path, "read"))?;
    refuse_foreign_bytes(path, &head, meta.len())
}

/// Like [`refuse_foreign`], for a file that begins with `head` and has `bytes` bytes.
///
/// # Errors
/// A file of a kind that is never read, with a remedy.
pub fn refuse_foreign_bytes(path: &Path, head: &[u8], bytes: u64) -> Result<()> {
    describe_foreign(path, head, bytes).map_or(Ok(()), |what| Err(Error::format(path, what)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, head: &[u8]) -> String {
        describe_foreign(Path::new(name), head, head.len() as u64).unwrap_or_default()
    }

    #[test]
    fn foreign_kinds_are_recognized_by_their_first_bytes() {
        let pointer =
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4683073184\n";
        let mut tar = vec![b'x'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (head, parts) in [
            (&pointer[..], ["Git LFS pointer", "4683073184"]),
            (b"\n<!DOCTYPE html>\n<html>", ["web page", "resolve"]),
            (
                b"{\"error\":\"Invalid username or password.\"}",
                ["message from a server", "Invalid username"],
            ),
            (b"Entry not found", ["message from a server", "Entry not found"]),
            (b"\x1f\x8b\x08\0", ["gzip archive", "unpack"]),
            (&tar, ["tar archive", "unpack"]),
            (b"", ["empty", "hf download"]),
            (&[0; 64], ["first 64 bytes are zero", "hf download"]),
            (b"tjgg\x03\0\0\0", ["before GGUF", "again"]),
        ] {
            let text = named("model.safetensors", head);
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
        assert!(named("model.safetensors.incomplete", b"GGUF").contains("incomplete download"));
    }

    #[test]
    fn supported_kinds_are_not_foreign() {
        for head in [
            &b"GGUF\x03\0\0\0"[..],
            b"\x40\0\0\0\0\0\0\0{\"a\":",
            b"PK\x03\x04",
            b"merge_method: slerp\n",
            b"{\"error\": \"x\", \"architectures\": []}",
            b"{\"model_type\": \"llama\"}",
            b"Not a page, but words.",
        ] {
            assert_eq!(named("x", head), "");
        }
    }

    #[test]
    fn the_download_command_names_the_repository_of_a_cached_file() {
        let path = "/hub/models--org--name/snapshots/0a1b/model.safetensors";
        assert!(named(path, b"").contains("hf download org/name model.safetensors"));
    }
}
