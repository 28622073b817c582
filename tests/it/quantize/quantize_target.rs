//! Where `quantize -o` writes: a folder, unless the path ends in .gguf.

use crate::support::program::Place;

#[test]
fn one_type_makes_a_folder_unless_the_path_is_a_gguf_file() {
    let place = Place::new();
    let quantize = "quantize @recipes/demo/clerk Q8_0 --quiet";
    place.ok(&format!("{quantize} -o out"));
    assert!(place.path("out/clerk-Q8_0.gguf").is_file());
    place.ok(&format!("{quantize} -o deep/er/out.d"));
    assert!(place.path("deep/er/out.d/clerk-Q8_0.gguf").is_file());
    place.ok(&format!("{quantize} -o one.GGUF"));
    assert_eq!(place.read("one.GGUF"), place.read("out/clerk-Q8_0.gguf"));
    std::fs::create_dir(place.path("folder.gguf")).unwrap();
    place.ok(&format!("{quantize} -o folder.gguf"));
    assert_eq!(place.read("folder.gguf/clerk-Q8_0.gguf"), place.read("one.GGUF"));
    // A file in the way of the folder stays.
    std::fs::write(place.path("file"), "mine").unwrap();
    let line = "quantize @recipes/demo/clerk Q8_0 -o file --force";
    place.fails(1, line, &["file"]);
    assert_eq!(place.read("file"), b"mine");
}
