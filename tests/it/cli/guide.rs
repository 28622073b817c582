//! The guide in docs/guide: every command in it runs, with what it says that comes of it.
//!
//! A page's blocks mean, in turn: `yaml FILE` a file to write; `sh` commands that succeed, one after the other, in a
//! folder where the project's recipes and test data lie; `sh fails` commands that fail; `sh no-test: REASON` what
//! takes another program or the network; `text` lines of what the commands before it print, with `...` for
//! what varies. Pictures that a page makes and shows are those in docs/guide. For machines with a shell.

use crate::support::hostile_files::entries;
use crate::support::program::{finished, shipped};
use aqueduct::quantize::presets::PRESETS;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Options whose value is a file or folder to write.
const OUTPUTS: &[&str] = &["-o", "--output", "--svg", "--html", "--save-logits"];
/// Folders and files of the project that commands name.
const NEEDED: &[&str] = &["recipes", "tests", "calibration"];

struct Block {
    /// What follows the fence.
    info: String,
    /// Of the fence, counted from 1.
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

/// The commands of a block: lines, joined where one ends in a backslash.
fn commands(block: &Block) -> Vec<String> {
    let joined = block.text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_string).collect()
}

/// `text` with one space in place of each run of white space.
fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether `line` has the parts of `pattern` between its `...` in order.
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

/// A page, being carried out.
struct Session {
    page: &'static str,
    place: tempfile::TempDir,
    /// What the commands of the last block printed.
    printed: String,
    /// What was written, as the page names it.
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

    /// Every line of `block` was printed.
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

    /// The files that the page's prose names are there, and its pictures are those that it makes.
    fn look(&self, text: &str) {
        let outside: Vec<&str> = text.split("```").step_by(2).collect();
        let spans = outside.iter().flat_map(|part| part.split('`').skip(1).step_by(2));
        for name in spans.filter(|span| span.starts_with("out/") && !span.contains(' ')) {
            assert!(self.place.path().join(name).exists(), "{}: there is no {name}", self.page);
        }
        for output in self.outputs.iter().filter(|output| output.ends_with(".svg")) {
            let name = Path::new(output).file_name().unwrap();
            let shown = shipped("docs/guide").join(name);
            if text.contains(&format!("]({})", name.to_string_lossy())) {
                let same =
                    fs::read(&shown).unwrap() == fs::read(self.place.path().join(output)).unwrap();
                assert!(same, "{} is not what {} draws", shown.display(), self.page);
            }
        }
    }
}

/// Carries out a page of the guide.
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
            _ => panic!("{name}:{}: a block of what? {:?}", block.line, block.info),
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

pages! {
    the_first_build "README.md",
    interoperating "interoperating.md",
    machines_with_little_memory "memory.md",
    publishing "publishing.md",
    regenerating "regenerating.md",
    writing_stacks "stacks.md",
}

#[test]
fn every_page_is_followed_and_few_commands_are_not() {
    let found: Vec<String> =
        entries(&shipped("docs/guide")).into_iter().filter(|name| name.ends_with(".md")).collect();
    let mut followed: Vec<&str> = PAGES.to_vec();
    followed.sort_unstable();
    assert_eq!(found, followed);
    let all: Vec<Block> = PAGES.iter().flat_map(|name| blocks(&page(name))).collect();
    let count = |prefix: &str| all.iter().filter(|block| block.info.starts_with(prefix)).count();
    assert!(count("sh no-test") <= 6, "{} blocks are not tested", count("sh no-test"));
    assert!(count("sh") >= 35, "{} blocks of commands", count("sh"));
}

#[test]
fn links_lead_somewhere() {
    for name in PAGES {
        let text = page(name);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        for (target, _) in targets.filter(|(target, _)| !target.starts_with("http")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { PathBuf::from(name) } else { PathBuf::from(file) };
            let path = shipped("docs/guide").join(path);
            assert!(path.exists(), "{name}: {target}");
            if !anchor.is_empty() {
                let text = fs::read_to_string(&path).unwrap();
                let titles = text.lines().filter(|line| line.starts_with('#'));
                let anchors = titles.map(|title| {
                    let words = title.trim_start_matches('#').trim().to_lowercase();
                    words.replace(' ', "-").replace(['?', ',', ':', '`'], "")
                });
                assert!(anchors.into_iter().any(|found| found == anchor), "{name}: {target}");
            }
        }
    }
}

#[test]
fn lists_of_types_are_what_the_page_says() {
    let text = page("publishing.md");
    for preset in PRESETS {
        let start = format!("| `{}` | ", preset.name);
        let row = text.lines().find_map(|line| line.strip_prefix(&start));
        let row = row.unwrap_or_else(|| panic!("no list {}", preset.name));
        let names: Vec<String> = preset.types.iter().map(ToString::to_string).collect();
        let count = format!("{}, {} to {}", names.len(), names[0], names[names.len() - 1]);
        assert!(row.starts_with(&names.join(", ")) || row.starts_with(&count), "{row}: {names:?}");
    }
}

/// The dots of gradient.svg tell the values that `plan` tells of the same recipe.
#[test]
fn the_drawing_of_gradients_is_of_the_recipe() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aqueduct"));
    command.args(["plan", "--no-members", "--layers"]).arg(shipped("recipes/gradient-slerp.yml"));
    let plan = finished("plan", 0, command.output().unwrap()).stdout;
    let drawing = fs::read_to_string(shipped("docs/guide/gradient.svg")).unwrap();
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
