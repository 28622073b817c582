//! Problems of a recipe: where, what, and what to do about it.
//!
//! Reading a recipe never stops at the first problem; every stage of it pushes what it finds here, and
//! the caller gets all of them at once, in the order of the text.

use super::yaml::Pos;
use crate::base::error::{Error, RecipeProblem};
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// Whether a problem stops the merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    pub pos: Pos,
    pub message: String,
    /// What to do; empty where nothing needs doing.
    pub remedy: String,
    /// The line of the recipe that `pos` points into; empty until all problems are known.
    pub excerpt: String,
}

impl Diagnostic {
    pub fn error(pos: Pos, message: impl Into<String>, remedy: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            pos,
            message: message.into(),
            remedy: remedy.into(),
            excerpt: String::new(),
        }
    }

    pub fn warning(pos: Pos, message: impl Into<String>, remedy: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(pos, message, remedy) }
    }
}

impl Diagnostic {
    /// The excerpt on a line of its own under a line break, with its line number, and below it carets
    /// under the word or list that is meant. Empty if there is no excerpt.
    pub fn marked(&self) -> String {
        if self.excerpt.trim().is_empty() {
            return String::new();
        }
        // Tabs and control characters would move the text away from the carets, or steer the terminal.
        let tame = |c: char| if c.is_control() { ' ' } else { c };
        let line: Vec<char> = self.excerpt.chars().map(tame).collect();
        let end = line.iter().rposition(|c| !c.is_whitespace()).map_or(0, |last| last + 1);
        let start = (self.pos.column.max(1) as usize - 1).min(end);
        let length = extent(&line[start..end]);
        let first = start.saturating_sub(BEFORE).min(end.saturating_sub(WIDTH));
        let last = end.min(first + WIDTH);
        let cut = |there: bool| if there { "..." } else { "" };
        let (before, after) = (cut(first > 0), cut(last < end));
        let shown: String = line[first..last].iter().collect();
        let number = self.pos.line.to_string();
        let margin = " ".repeat(number.len());
        let indent = " ".repeat(before.len() + start - first);
        let carets = "^".repeat(length.min(last.saturating_sub(start)).max(1));
        format!("\n  {number} | {before}{shown}{after}\n  {margin} | {indent}{carets}")
    }
}

/// The most characters of a line that are shown, and how many of them stand before the place meant.
const WIDTH: usize = 100;
const BEFORE: usize = 60;

/// How many characters belong to the value or key that `rest` of a line begins with.
fn extent(rest: &[char]) -> usize {
    let closing = |open: char| match open {
        '[' => Some(']'),
        '{' => Some('}'),
        _ => None,
    };
    let Some(&first) = rest.first() else { return 1 };
    if first == '"' || first == '\'' {
        return rest[1..].iter().position(|&c| c == first).map_or(rest.len(), |at| at + 2);
    }
    if let Some(close) = closing(first) {
        let mut depth = 0;
        for (at, &c) in rest.iter().enumerate() {
            depth += i32::from(c == first) - i32::from(c == close);
            if depth == 0 {
                return at + 1;
            }
        }
    }
    let ends_at = |at: &usize| {
        let next = rest.get(at + 1).copied().unwrap_or(' ');
        match rest[*at] {
            ',' | ']' | '}' => true,
            ':' => next == ' ',
            ' ' => next == '#',
            _ => false,
        }
    };
    (1..rest.len()).find(ends_at).unwrap_or(rest.len())
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}: {severity}: {}", self.pos, self.message)?;
        write!(f, "{}", self.marked())?;
        if !self.remedy.is_empty() {
            write!(f, "\n  help: {}", self.remedy)?;
        }
        Ok(())
    }
}

/// The problems of one recipe, in the order they were found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    pub(crate) fn error(
        &mut self,
        pos: Pos,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(Diagnostic::error(pos, message, remedy));
    }

    pub(crate) fn warn(&mut self, pos: Pos, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Diagnostic::warning(pos, message, remedy));
    }

    /// Adds `problem` unless the very same was said before (an anchored part is read more than once).
    pub(crate) fn push(&mut self, problem: Diagnostic) {
        if !self.list.contains(&problem) {
            self.list.push(problem);
        }
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.list.iter().any(|d| d.severity == Severity::Error)
    }

    /// All problems in the order of the recipe's `text`, each with the line it is about.
    pub(crate) fn into_sorted(mut self, text: &str) -> Vec<Diagnostic> {
        self.list.sort_by_key(|problem| problem.pos);
        let lines: Vec<&str> = text.lines().collect();
        for problem in &mut self.list {
            let line = problem.pos.line.checked_sub(1).and_then(|line| lines.get(line as usize));
            problem.excerpt = line.map_or(String::new(), |line| line.to_string());
        }
        self.list
    }
}

/// The [`Error::Recipe`] that lists `problems` of the recipe at `path`.
pub fn recipe_error(path: &Path, problems: &[Diagnostic]) -> Error {
    let problem = |d: &Diagnostic| RecipeProblem {
        line: d.pos.line,
        column: d.pos.column,
        is_warning: d.severity == Severity::Warning,
        message: d.message.clone(),
        remedy: d.remedy.clone(),
    };
    Error::Recipe {
        path: path.to_path_buf(),
        problems: problems.iter().map(problem).collect(),
        text: render(&path.display().to_string(), problems),
    }
}

/// The text of [`Error::Recipe`]: a line with `file:line:column` for each problem, the recipe's line
/// with the place marked and the remedy below it, errors and warnings in the order of the text.
pub fn render(file: &str, problems: &[Diagnostic]) -> String {
    let count = problems.iter().filter(|d| d.severity == Severity::Error).count();
    let noun = if count == 1 { "error" } else { "errors" };
    let mut text = format!("{file}: {count} {noun} in the recipe");
    for problem in problems {
        text.push_str(&format!("\n{file}:{problem}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(excerpt: &str, column: u64) -> String {
        let pos = Pos { line: 12, column };
        Diagnostic { excerpt: excerpt.to_string(), ..Diagnostic::error(pos, "m", "r") }.to_string()
    }

    #[test]
    fn carets_stand_under_what_is_meant() {
        let whole =
            "12:9: error: m\n  12 | dtype:  float13 # why\n     |         ^^^^^^^\n  help: r";
        assert_eq!(marked("dtype:  float13 # why", 9), whole);
        let carets = |excerpt: &str, column: u64| {
            let text = marked(excerpt, column);
            let mut lines = text.lines().skip(1);
            let (line, below) = (lines.next().unwrap(), lines.next().unwrap());
            let (from, to) = (below.find('^').unwrap(), below.rfind('^').unwrap());
            line.chars().skip(from).take(to + 1 - from).collect::<String>()
        };
        assert_eq!(carets("- {model: a, layer_range: [0, 9]}", 27), "[0, 9]");
        assert_eq!(
            carets("- {model: a, layer_range: [0, 9]}", 3),
            "{model: a, layer_range: [0, 9]}"
        );
        assert_eq!(carets("- {model: a, layer_range: [0, 9]}", 14), "layer_range");
        assert_eq!(carets("x: 'a, b' # c", 4), "'a, b'");
        assert_eq!(carets("x: [1,", 4), "[1");
        assert_eq!(carets("\tmodel: ünder/word", 9), "ünder/word");
        assert_eq!(carets("x:", 3), "", "an absent value stands after its key");
        let long =
            format!("models: [{}{{model: gone}}, {}]", "{model: a}, ".repeat(50), "b, ".repeat(50));
        assert_eq!(carets(&long, 618), "gone");
        assert!(marked(&long, 618).lines().all(|line| line.chars().count() < 115));
        assert_eq!(marked("", 1), "12:1: error: m\n  help: r");
    }
}
