//! Status of outputs, and names of files, in the state of a folder.

use super::*;
use crate::base::output::torn_name;
use crate::base::progress::Silent;

fn fingerprint(bytes: &str) -> Vec<Fingerprint> {
    vec![Fingerprint::new("the text", bytes)]
}

#[test]
fn names_of_torn_files_are_recognized() {
    assert_eq!(torn_name(".a.gguf.12-0.part"), Some("a.gguf"));
    assert_eq!(torn_name("..a.gguf.part.12-0.part"), Some(".a.gguf.part"));
    for name in [".a.gguf.part", "a.12-0.part", ".a.12-.part", ".a.x-0.part", ".12-0.part"] {
        assert_eq!(torn_name(name), None, "{name}");
    }
    assert!(is_plain("a.gguf") && is_plain("s/a.gguf") && is_plain("s/t/a.jinja"));
    assert!(["/a", "../a", "a/../b", "a/b/c/d", ""].iter().all(|name| !is_plain(name)));
}

#[test]
fn outputs_have_the_status_that_was_recorded() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, path) = (temp.path().join("out"), temp.path().join("out/a.txt"));
    let target = |fingerprints: &str| Target {
        name: "a.txt".to_string(),
        paths: vec![path.clone()],
        fingerprints: fingerprint(fingerprints),
    };
    let status = |fingerprints: &str| {
        let state = State::open(&dir, false, &Silent).unwrap();
        state.status(&target(fingerprints)).unwrap()
    };
    assert_eq!(status("1"), OutputStatus::New);
    let state = State::open(&dir, false, &Silent).unwrap();
    assert!(
        State::open(&dir, false, &Silent).is_err_and(|e| e.to_string().contains("another run"))
    );
    state.begin(&[target("1")], false).unwrap();
    drop(state);
    assert_eq!((status("1"), status("2")), (OutputStatus::Begun, OutputStatus::New));
    // A file of another program is not replaced without permission.
    fs::write(&path, "mine").unwrap();
    let foreign = OutputStatus::Foreign(path.clone());
    assert_eq!((status("1"), status("2")), (foreign.clone(), foreign));
    State::open(&dir, false, &Silent).unwrap().begin(&[target("1")], true).unwrap();
    assert_eq!((status("1"), status("2")), (OutputStatus::Begun, OutputStatus::New));
    fs::remove_file(&path).unwrap();
    State::open(&dir, false, &Silent).unwrap().write("a.txt", &fingerprint("1"), b"one").unwrap();
    assert_eq!(status("1"), OutputStatus::Whole);
    assert_eq!(status("2"), OutputStatus::Changed("the text changed".to_string()));
    // Killed before the file got its name.
    fs::rename(&path, output::part_path(&path).unwrap()).unwrap();
    assert_eq!(status("1"), OutputStatus::Whole);
    assert_eq!(fs::read(&path).unwrap(), b"one");
    fs::write(&path, "two").unwrap();
    assert_eq!(status("1"), OutputStatus::Foreign(path.clone()));
    fs::remove_file(&path).unwrap();
    assert_eq!(status("1"), OutputStatus::New);
    fs::write(dir.join(STATE_FILE), "{").unwrap();
    fs::write(&path, "one").unwrap();
    assert_eq!(status("1"), OutputStatus::Foreign(path.clone()));
}
