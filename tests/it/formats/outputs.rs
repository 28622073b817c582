//! Outputs that may not or cannot be finished: one clear error each, and nothing is left.

use crate::support::files::{assert_error, entries};
use crate::support::folders::{self, sharded};
use aqueduct::Result;
use aqueduct::base::dtype::DType;
use aqueduct::base::output::{self, OutputDir, OutputFile};
use aqueduct::base::progress::{self, Silent};
use aqueduct::formats::checkpoint::{self, Checkpoint, WriteOptions};
use aqueduct::formats::gguf::{GgufFile, GgufWriter, Metadata};
use aqueduct::formats::source::{TensorData, TensorInfo, TensorSource, TensorTable};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

#[test]
fn existing_outputs_are_refused_without_force() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x.gguf");
    fs::write(&path, "mine").unwrap();
    let create = |force| GgufWriter::create(&path, force, &Metadata::new(), Vec::new());
    assert_error(create(false), &["x.gguf", "exists", "--force"]);
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    create(true).unwrap().finish().unwrap();
    GgufFile::open(&path).unwrap();
    assert_error(OutputFile::create(temp.path(), true), &["not a file"]);

    let (_temp, dir) = sharded();
    let before = entries(&dir);
    let write = |force| {
        let options = WriteOptions { force, ..WriteOptions::default() };
        checkpoint::write(&folders::model(), &dir, &options, &Silent)
    };
    assert_error(write(false), &["model", "exists", "--force"]);
    assert_eq!(entries(&dir), before);
    write(true).unwrap();
    assert_eq!(entries(&dir), ["config.json", "model.safetensors"], "the old folder is gone");
    assert_eq!(entries(dir.parent().unwrap()), ["model"]);
    assert_error(OutputDir::create(dir.join("config.json"), true), &["not a folder"]);

    fs::create_dir(dir.join("photos")).unwrap();
    assert_error(write(true), &["photos", "not replaced"]);
    assert!(dir.join("photos").is_dir());
}

#[test]
fn an_output_that_appears_meanwhile_is_kept() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x");
    let mut file = OutputFile::create(&path, false).unwrap();
    file.append(b"ours").unwrap();
    fs::write(&path, "theirs").unwrap();
    assert_error(file.commit(), &["exists"]);
    assert_eq!(fs::read(&path).unwrap(), b"theirs");
    assert_eq!(entries(temp.path()), ["x"]);
}

/// A source whose tensors cannot be read from `bad` on, or claim to be enormous.
struct Broken {
    table: TensorTable,
    bad: usize,
    interrupt: bool,
}

impl Broken {
    fn checkpoint(elements: usize, bad: usize, interrupt: bool) -> Checkpoint {
        let info = |i| TensorInfo::new(format!("t{i}"), vec![elements], DType::F32);
        let table = TensorTable::new("broken", (0..8).map(info).collect()).unwrap();
        Checkpoint { tensors: Arc::new(Broken { table, bad, interrupt }), ..folders::model() }
    }
}

impl TensorSource for Broken {
    fn origin(&self) -> &str {
        "broken"
    }

    fn table(&self) -> &TensorTable {
        &self.table
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        if index >= self.bad {
            if !self.interrupt {
                return Err(aqueduct::Error::tensor("broken", format!("t{index}"), "unreadable"));
            }
            progress::interrupt();
        }
        let shape = self.table.infos()[index].shape.clone();
        Ok(TensorData::from_f32(shape.clone(), &vec![1.0; shape[0]]))
    }
}

#[test]
fn a_tensor_that_fails_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("out");
    let checkpoint = Broken::checkpoint(100, 5, false);
    let result = checkpoint::write(&checkpoint, &dir, &WriteOptions::default(), &Silent);
    assert_error(result, &["'t5'", "unreadable"]);
    assert!(entries(temp.path()).is_empty());
}

#[test]
fn a_disk_that_is_too_small_is_told_before_the_work() {
    let temp = tempfile::tempdir().unwrap();
    let elements = 1usize << 54; // 64 PiB a tensor
    let options = WriteOptions::default();
    let checkpoint = Broken::checkpoint(elements, 0, false);
    let result = checkpoint::write(&checkpoint, &temp.path().join("out"), &options, &Silent);
    assert_error(result, &["out", "no space left", "576461 TB needed", "free"]);

    let infos = vec![TensorInfo::new("t", vec![elements], DType::F32)];
    let path = temp.path().join("x.gguf");
    let result = GgufWriter::create(path, false, &Metadata::new(), infos);
    assert_error(result, &["x.gguf", "no space left", "72058 TB needed"]);
    assert!(entries(temp.path()).is_empty());
    assert_error(output::check_space(&temp.path().join("a/b/c"), u64::MAX), &["no space left"]);
}

/// Runs the ignored test [`child`] in a process of its own, as `action`, in `dir`, after the shell
/// commands `setup`; gives what it printed. For what would disturb the other tests of this process.
fn in_child(action: &str, dir: &Path, setup: &str) -> String {
    let script =
        format!("{setup}\nexec \"$0\" --exact formats::outputs::child --ignored --nocapture");
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .envs([("AQUEDUCT_TEST_ACTION", action), ("AQUEDUCT_TEST_DIR", dir.to_str().unwrap())])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "the child did not run: {text}");
    text
}

#[test]
#[ignore = "run by other tests, in a process of its own"]
fn child() {
    // Whoever runs all ignored tests runs this one too, with nothing for it to do.
    let Ok(dir) = std::env::var("AQUEDUCT_TEST_DIR") else { return };
    let dir = PathBuf::from(dir);
    let write = |checkpoint: &Checkpoint| {
        checkpoint::write(checkpoint, &dir.join("out"), &WriteOptions::default(), &Silent)
    };
    match std::env::var("AQUEDUCT_TEST_ACTION").unwrap().as_str() {
        "fill" => {
            let mut file = OutputFile::create(dir.join("big"), false).unwrap();
            file.append(&[1; 4096]).unwrap();
            assert_eq!(entries(&dir).len(), 1);
            assert_error(
                file.append(&vec![1; 1 << 20]),
                &["big", "no larger file", "1.05 MB needed"],
            );
            drop(file);
            assert_error(write(&Broken::checkpoint(1 << 16, 8, false)), &["model.safetensors"]);
            let infos = vec![TensorInfo::new("t", vec![1 << 18], DType::F32)];
            let result = GgufWriter::create(dir.join("x.gguf"), false, &Metadata::new(), infos);
            assert_error(result, &["x.gguf", "1.05 MB needed"]);
        }
        "interrupt" => {
            assert_error(write(&Broken::checkpoint(100, 3, true)), &["interrupted"]);
            assert_error(OutputFile::create(dir.join("later"), false), &["interrupted"]);
        }
        "remove" => {
            let file = OutputFile::create(dir.join("file"), false).unwrap();
            let folder = OutputDir::create(dir.join("folder"), false).unwrap();
            let mut inner = folder.file("inner").unwrap();
            inner.append(b"data").unwrap();
            let mut done = OutputFile::create(dir.join("done"), false).unwrap();
            done.append(b"data").unwrap();
            done.commit().unwrap();
            assert_eq!(entries(&dir).len(), 3);
            output::remove_unfinished();
            assert_eq!(entries(&dir), ["done"]);
            assert!(file.commit().is_err() && inner.commit().is_err() && folder.commit().is_err());
            fs::remove_file(dir.join("done")).unwrap();
        }
        other => panic!("unknown action {other}"),
    }
}

#[test]
fn a_disk_that_fills_up_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    // The limit on file sizes stands for a full disk: the same write fails, without a real disk.
    // The signal that comes with it is ignored so that the write returns an error, as on a full
    // disk.
    in_child("fill", temp.path(), "trap '' XFSZ; ulimit -f 64");
    assert!(entries(temp.path()).is_empty());
}

#[test]
fn an_interruption_leaves_nothing() {
    for action in ["interrupt", "remove"] {
        let temp = tempfile::tempdir().unwrap();
        in_child(action, temp.path(), "");
        assert!(entries(temp.path()).is_empty(), "{action}");
    }
}
