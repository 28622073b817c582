//! README.md and the guide in docs/guide: every command runs, and its output is compared with the page.
//!
//! Blocks: `yaml FILE` is written to a file; `sh` are commands that succeed, run in a folder with the
//! project's recipes and test data; `sh fails` are commands that fail; `sh no-test: REASON` needs another
//! program or the network; `text` are lines of the output, with `...` for what varies. Pictures that a
//! page draws are compared with docs/images. Needs a shell.

use crate::support::files::entries;
use crate::support::program::{finished, shipped};
use aqueduct::quantize::presets::PRESETS;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// Options whose value is a file or folder to write, and redirection.
const OUTPUTS: &[&str] = &["-o", "--output", "--svg", "--html", "--save-logits", ">"];
/// Folders and files of the project that commands name.
const NEEDED: &[&str] = &["recipes", "tests", "calibration"];

struct Block {
    /// What follows the fence.
    info: String,
    /// The line of the fence, counted from 1.
    line: usize,
    text: String,
}

fn page(name: &str) -> String {
    fs::read_to_string(shipped("docs/guide").join(name)).unwrap()
}

fn blocks(text: &str) -> Vec<Block> {
    let (mut blocks, mut open): (_, Option<Block>) = (Vec::new(), None);
    for (index, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(info), None) => {
                let (info, text) = (info.to_string(), String::new());
                open = Some(Block { info, line: index + 1, text });
            }
            (Some(""), Some(_)) => blocks.extend(open.take()),
            (Some(info), Some(_)) => panic!("line {}: a fence within a block: {info}", index + 1),
            (None, Some(block)) => block.text.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "the last block has no end");
    blocks
}

/// The commands of a block: its lines, with continued lines joined.
fn commands(block: &Block) -> Vec<String> {
    let joined = block.text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_string).collect()
}

/// `text` with each run of white space replaced by one space.
fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether `line` contains the parts of `pattern` between `...`, in order.
fn fits(pattern: &str, line: &str) -> bool {
    let (line, mut from) = (spaced(line), 0);
    pattern.split("...").map(spaced).all(|part| match line[from..].find(&part) {
        Some(at) => {
            from += at + part.len();
            true
        }
        None => false,
    })
}

#[test]
fn a_pattern_fits_its_line_alone() {
    let line = "out/demo-Q4_K_M.gguf     4.84  1.37 MB";
    for pattern in ["out/demo-Q4_K_M.gguf 4.84", "out/... 4.84 ... MB", "..."] {
        assert!(fits(pattern, line), "{pattern}");
    }
    for pattern in ["out/demo-Q4_K_M.gguf 4.85", "4.84 ... out/", "1.37 MB ... 1.37 MB"] {
        assert!(!fits(pattern, line), "{pattern}");
    }
}

/// A run of a page's commands.
struct Session {
    page: &'static str,
    place: tempfile::TempDir,
    /// Output of the last block.
    printed: String,
    /// Written files, as the page names them.
    outputs: Vec<String>,
}

impl Session {
    fn begin(page: &'static str) -> Session {
        let place = tempfile::tempdir().unwrap();
        for name in NEEDED {
            symlink(shipped(name), place.path().join(name)).unwrap();
        }
        Session { page, place, printed: String::new(), outputs: Vec::new() }
    }

    fn run(&mut self, block: &Block, code: Option<i32>) {
        self.printed.clear();
        let at = format!("{}:{}", self.page, block.line);
        let found = commands(block);
        assert!(!found.is_empty(), "{at}: no command");
        let program = Path::new(env!("CARGO_BIN_EXE_aqueduct")).parent().unwrap().to_path_buf();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([program].into_iter().chain(std::env::split_paths(&path)));
        for line in found {
            let mut command = Command::new("sh");
            command
                .args(["-e", "-c", &line])
                .current_dir(&self.place)
                .env("PATH", path.as_ref().unwrap());
            command.env("HOME", self.place.path()).env_remove("HF_TOKEN").env_remove("HF_HOME");
            let output = command.output().unwrap();
            let ended = output.status.code().unwrap_or(-1);
            let ran = finished(&format!("{at}: {line}"), code.unwrap_or(ended), output);
            assert!(code == Some(0) || [1, 2].contains(&ended), "{at}: {line} did not fail");
            self.printed.push_str(&ran.stdout);
            self.printed.push_str(&ran.stderr);
            if code == Some(0) {
                self.note_outputs(&at, &line);
            }
        }
    }

    fn note_outputs(&mut self, at: &str, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.windows(2).filter(|pair| OUTPUTS.contains(&pair[0])) {
            assert!(self.place.path().join(pair[1]).exists(), "{at}: {line}: no {}", pair[1]);
            self.outputs.push(pair[1].to_string());
        }
    }

    /// Asserts that every line of `block` was printed.
    fn compare(&self, block: &Block) {
        for (index, pattern) in block.text.lines().enumerate() {
            let at = format!("{}:{}", self.page, block.line + 1 + index);
            assert!(
                self.printed.lines().any(|line| fits(pattern, line)),
                "{at}: {pattern:?} is not in\n{}",
                self.printed
            );
        }
    }

    /// Asserts that the files named in the text exist, and that the page's pictures are up to date.
    fn look(&self, text: &str) {
        let outside: Vec<&str> = text.split("```").step_by(2).collect();
        let spans = outside.iter().flat_map(|part| part.split('`').skip(1).step_by(2));
        for name in spans.filter(|span| span.starts_with("out/") && !span.contains(' ')) {
            assert!(self.place.path().join(name).exists(), "{}: there is no {name}", self.page);
        }
        for output in self.outputs.iter().filter(|output| output.ends_with(".svg")) {
            let name = Path::new(output).file_name().unwrap();
            let shown = shipped("docs/images").join(name);
            if text.contains(&format!("](../images/{})", name.to_string_lossy())) {
                let same =
                    fs::read(&shown).unwrap() == fs::read(self.place.path().join(output)).unwrap();
                assert!(same, "{} is not what {} draws", shown.display(), self.page);
            }
        }
    }
}

/// Runs a page of the guide.
fn follow(name: &'static str) {
    let text = page(name);
    let mut session = Session::begin(name);
    let mut run = 0;
    for block in blocks(&text) {
        let (kind, rest) = block.info.split_once(' ').unwrap_or((&block.info, ""));
        match (kind, rest) {
            ("sh", "") => session.run(&block, Some(0)),
            ("sh", "fails") => session.run(&block, None),
            ("sh", why) => {
                let reason = why.strip_prefix("no-test: ").unwrap_or_default();
                assert!(reason.len() > 8, "{name}:{}: skipped without a reason", block.line);
                continue;
            }
            ("yaml", file) if !file.is_empty() => {
                fs::write(session.place.path().join(file), &block.text).unwrap();
            }
            ("text", "") => session.compare(&block),
            _ => panic!("{name}:{}: unknown kind of block {:?}", block.line, block.info),
        }
        run += usize::from(kind == "sh");
    }
    assert!(run > 0, "{name} has no command that a test runs");
    session.look(&text);
}

macro_rules! pages {
    ($($test:ident $page:literal,)*) => {
        const PAGES: &[&str] = &[$($page),*];
        $(#[test]
        fn $test() {
            follow($page);
        })*
    };
}

// In reading order, as in docs/SUMMARY.md.
pages! {
    first_build "first-build.md",
    writing_stacks "stacks.md",
    publishing "publishing.md",
    existing_models "existing-models.md",
    little_memory "memory.md",
    other_programs "other-programs.md",
}

/// The lines of README.md that begin with `aqueduct` run after the install step, in order.
#[test]
fn commands_of_the_readme_run() {
    let text = fs::read_to_string(shipped("README.md")).unwrap();
    let mut session = Session::begin("README.md");
    let mut run = 0;
    for block in blocks(&text).iter().filter(|block| block.info == "sh") {
        let lines = block.text.lines().filter(|line| line.starts_with("aqueduct "));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        run += text.lines().count();
        if !text.is_empty() {
            session.run(&Block { info: String::new(), line: block.line, text }, Some(0));
        }
    }
    assert!(run >= 8, "README.md has {run} commands");
}

#[test]
fn all_pages_are_run_and_few_commands_are_skipped() {
    let found: Vec<String> = entries(&shipped("docs/guide"))
        .into_iter()
        .filter(|name| name.ends_with(".md") && name != "README.md")
        .collect();
    let mut followed: Vec<&str> = PAGES.to_vec();
    followed.sort_unstable();
    assert_eq!(found, followed);
    let all: Vec<Block> = PAGES.iter().flat_map(|name| blocks(&page(name))).collect();
    let count = |prefix: &str| all.iter().filter(|block| block.info.starts_with(prefix)).count();
    assert!(count("sh no-test") <= 7, "{} blocks are not tested", count("sh no-test"));
    assert!(count("sh") >= 35, "{} blocks of commands", count("sh"));
}

/// Each page runs in a folder of its own here. Because no two pages write the same file, they also run
/// one after the other in one folder.
#[test]
fn pages_write_different_files() {
    let mut writers: BTreeMap<String, &str> = BTreeMap::new();
    let mut note = |file: &str, name: &'static str| {
        let file = file.trim_end_matches('/').to_string();
        let first = *writers.entry(file.clone()).or_insert(name);
        assert_eq!(first, name, "{file} is written by {first} and by {name}");
    };
    for name in PAGES {
        for block in blocks(&page(name)) {
            match block.info.split_once(' ').unwrap_or((&block.info, "")) {
                ("yaml", file) => note(file, name),
                ("sh", "") => {
                    for line in commands(&block) {
                        let words: Vec<&str> = line.split_whitespace().collect();
                        let pairs = words.windows(2).filter(|pair| OUTPUTS.contains(&pair[0]));
                        pairs.for_each(|pair| note(pair[1], name));
                    }
                }
                _ => {}
            }
        }
    }
    assert!(writers.len() > 30);
}

#[test]
fn presets_are_listed() {
    let text = fs::read_to_string(shipped("docs/reference/types.md")).unwrap();
    for preset in PRESETS {
        let start = format!("| `{}` | ", preset.name);
        let row = text.lines().find_map(|line| line.strip_prefix(&start));
        let row = row.unwrap_or_else(|| panic!("no list {}", preset.name));
        let names: Vec<String> = preset.types.iter().map(ToString::to_string).collect();
        let count = format!("{}, {} to {}", names.len(), names[0], names[names.len() - 1]);
        assert!(row.starts_with(&names.join(", ")) || row.starts_with(&count), "{row}: {names:?}");
    }
}

/// The dots of gradient.svg have the values that `plan` prints for the recipe.
#[test]
fn the_gradient_drawing_matches_the_recipe() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aqueduct"));
    command.args(["plan", "--no-members", "--layers"]).arg(shipped("recipes/gradient-slerp.yml"));
    let plan = finished("plan", 0, command.output().unwrap()).stdout;
    let drawing = fs::read_to_string(shipped("docs/images/gradient.svg")).unwrap();
    let drawing = roxmltree::Document::parse(&drawing).unwrap();
    let groups: Vec<_> = drawing.descendants().filter(|node| node.has_tag_name("g")).collect();
    assert_eq!(groups.len(), 32);
    for (layer, group) in groups.iter().enumerate() {
        let title =
            group.descendants().find_map(|n| n.has_tag_name("title").then(|| n.text())?).unwrap();
        let values = title.strip_prefix(&format!("layer {layer}: ")).unwrap();
        let row = format!("slerp: A:{layer}* + B:{layer}, t 0.5 ({values})");
        assert!(plan.lines().any(|line| line.ends_with(&row)), "{row} is not in\n{plan}");
        // A value of 0 is drawn at 300, one of 1 at 84.
        let drawn = group.descendants().filter_map(|node| node.attribute("cy"));
        for (value, y) in values.split(", ").zip(drawn) {
            let value: f64 = value.rsplit(' ').next().unwrap().parse().unwrap();
            let y: f64 = y.parse().unwrap();
            assert!((300.0 - 216.0 * value - y).abs() < 0.2, "layer {layer}: {value} at {y}");
        }
    }
}
