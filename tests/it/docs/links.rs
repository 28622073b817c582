//! Links of the documentation: every relative link and anchor leads to something that exists, and every
//! page of docs is in the table of contents.
//!
//! Not here: links to other sites, which would need the network.

use crate::support::program::shipped;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Pages outside docs.
const PAGES: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "calibration/README.md",
    "recipes/README.md",
    "recipes/demo/README.md",
];

/// The Markdown files below `dir`, sorted.
fn pages_below(dir: &Path) -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => pages.extend(pages_below(&path)),
            false if path.extension().is_some_and(|e| e == "md") => pages.push(path),
            false => {}
        }
    }
    pages.sort();
    pages
}

/// `text` without code: fenced blocks become empty lines, code spans become spaces.
fn without_code(text: &str) -> String {
    let mut fenced = false;
    let mut lines = String::new();
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        if !fenced && !fence {
            let spans = line.split('`').enumerate();
            lines.extend(spans.map(|(n, part)| if n % 2 == 0 { part } else { " " }));
        }
        lines.push('\n');
    }
    lines
}

/// The targets of links and images in `text` with their line numbers.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in without_code(text).lines().enumerate() {
        for rest in line.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or(rest);
            found.push((index + 1, target.split_whitespace().next().unwrap_or("").to_string()));
        }
    }
    found
}

/// The anchors of a page: those of its headings, as GitHub and mdBook make them, and explicit ids.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut anchors = BTreeSet::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        for id in line.split("id=\"").skip(1) {
            anchors.extend(id.split('"').next().map(str::to_string));
        }
        let Some((_, title)) = line.split_once("# ").filter(|_| line.starts_with('#') && !fenced)
        else {
            continue;
        };
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let slug: String = title.trim().to_lowercase().chars().filter(kept).collect();
        let slug = slug.replace(' ', "-");
        let count = counts.entry(slug.clone()).or_default();
        anchors.insert(if *count == 0 { slug } else { format!("{slug}-{count}") });
        *count += 1;
    }
    anchors
}

/// `path` without `.` and `..`.
fn resolved(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// The broken links of `pages`, which are paths below `root`.
fn broken_links(root: &Path, pages: &[PathBuf]) -> Vec<String> {
    let mut broken = Vec::new();
    for page in pages {
        let text = fs::read_to_string(page).unwrap();
        let name = page.strip_prefix(root).unwrap().display();
        for (line, target) in links(&text) {
            if ["https://", "http://", "mailto:"].iter().any(|scheme| target.starts_with(scheme)) {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = match file {
                "" => page.clone(),
                file => resolved(&page.parent().unwrap().join(file)),
            };
            let reason = if file.is_empty() && anchor.is_empty() {
                "the link is empty"
            } else if !path.starts_with(root) {
                "leads out of the repository"
            } else if !path.exists() {
                "there is no such file"
            } else if !anchor.is_empty()
                && !fs::read_to_string(&path).is_ok_and(|text| anchors(&text).contains(anchor))
            {
                "there is no such heading"
            } else {
                continue;
            };
            broken.push(format!("{name}:{line}: {target}: {reason}"));
        }
    }
    broken
}

#[test]
fn links_lead_to_files_and_headings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<PathBuf> = PAGES.iter().map(|page| shipped(page)).collect();
    pages.extend(pages_below(&shipped("docs")));
    assert_eq!(broken_links(root, &pages), Vec::<String>::new());
    let count: usize =
        pages.iter().map(|page| links(&fs::read_to_string(page).unwrap()).len()).sum();
    assert!(count > 100, "only {count} links were found");
}

/// The paths of the repository in the code spans of `text`, without placeholders.
fn named_paths(text: &str) -> Vec<String> {
    const FOLDERS: &[&str] = &[".ci/", ".github/", "docs/", "scripts/", "src/", "tests/"];
    let spans = text.split('`').skip(1).step_by(2);
    let named = spans.filter(|span| FOLDERS.iter().any(|folder| span.starts_with(folder)));
    let plain = named.filter(|span| !span.contains(['<', '*', ' ', '\n']));
    plain.map(str::to_string).collect()
}

#[test]
fn files_named_for_contributors_exist() {
    let mut pages = pages_below(&shipped("docs/contributing"));
    pages.extend(pages_below(&shipped("tests/data")));
    pages.push(shipped("CONTRIBUTING.md"));
    let mut count = 0;
    for page in pages {
        for path in named_paths(&fs::read_to_string(&page).unwrap()) {
            count += 1;
            assert!(shipped(&path).exists(), "{}: there is no {path}", page.display());
        }
    }
    assert!(count > 60, "only {count} paths were found");
}

#[test]
fn broken_links_are_found() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    fs::create_dir(root.join("docs")).unwrap();
    let text = "# A title: `x`\n\n[a](docs/b.md) [b](docs/b.md#two-words) [c](#a-title-x)\n\
                [out](../x.md) [gone](docs/c.md) ![no](docs/d.svg) [h](docs/b.md#three)\n\
                `[code](no.md)` [web](https://example.org/#x) [none]()\n\
                ```text\n[code](no.md)\n```\n[last](no.md)\n";
    fs::write(root.join("a.md"), text).unwrap();
    fs::write(root.join("docs/b.md"), "# One\n## Two words\n```\n# three\n```\n").unwrap();
    let broken = broken_links(root, &[root.join("a.md")]);
    let places: Vec<&str> = broken.iter().map(|line| line.rsplit_once(": ").unwrap().0).collect();
    let expected = [
        "a.md:4: ../x.md",
        "a.md:4: docs/c.md",
        "a.md:4: docs/d.svg",
        "a.md:4: docs/b.md#three",
        "a.md:5: ",
        "a.md:9: no.md",
    ];
    assert_eq!(places, expected);
}

#[test]
fn the_table_of_contents_lists_every_page_once() {
    let docs = shipped("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let mut listed: Vec<PathBuf> =
        links(&summary).into_iter().map(|(_, target)| docs.join(target)).collect();
    listed.sort();
    let mut pages = pages_below(&docs);
    pages.retain(|page| page.file_name().is_none_or(|name| name != "SUMMARY.md"));
    assert_eq!(listed, pages);
}
