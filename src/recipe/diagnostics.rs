//! Problems of a recipe: where, what, and what to do about it.
//!
//! Reading a recipe never stops at the first problem; every stage of it pushes what it finds here, and
//! the caller gets all of them at once, in the order of the text.

use super::yaml::Pos;
use serde::Serialize;
use std::fmt;

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
}

impl Diagnostic {
    pub fn error(pos: Pos, message: impl Into<String>, remedy: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            pos,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    pub fn warning(pos: Pos, message: impl Into<String>, remedy: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(pos, message, remedy) }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}: {severity}: {}", self.pos, self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "\n  help: {}", self.remedy)?;
        }
        Ok(())
    }
}

/// The problems of one recipe, in the order they were found.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    pub fn error(&mut self, pos: Pos, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Diagnostic::error(pos, message, remedy));
    }

    pub fn warn(&mut self, pos: Pos, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Diagnostic::warning(pos, message, remedy));
    }

    /// Adds `problem` unless the very same was said before (an anchored part is read more than once).
    pub fn push(&mut self, problem: Diagnostic) {
        if !self.list.contains(&problem) {
            self.list.push(problem);
        }
    }

    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|d| d.severity == Severity::Error)
    }

    /// All problems in the order of the text.
    pub fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.list.sort_by_key(|problem| problem.pos);
        self.list
    }
}

/// The text of [`crate::Error::Recipe`]: a line with `file:line:column` for each problem and its remedy
/// below it, errors and warnings in the order of the text.
pub fn render(file: &str, problems: &[Diagnostic]) -> String {
    let count = problems.iter().filter(|d| d.severity == Severity::Error).count();
    let noun = if count == 1 { "error" } else { "errors" };
    let mut text = format!("{file}: {count} {noun} in the recipe");
    for problem in problems {
        text.push_str(&format!("\n{file}:{problem}"));
    }
    text
}

/// The candidate nearest to `word` by edits, if one is near enough to be a likely slip.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1) + 1;
    candidates
        .into_iter()
        .map(|candidate| (edits(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, two letters in the wrong order counted as one slip.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(row[j - 1] + 1).min(rows[i - 1][j] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_word_and_strangers_do_not() {
        let keys = ["merge_method", "models", "slices", "parameters"];
        assert_eq!(nearest("merge_metod", keys), Some("merge_method"));
        assert_eq!(nearest("Slice", keys), Some("slices"));
        assert_eq!(nearest("paramters", keys), Some("parameters"));
        assert_eq!(nearest("author", keys), None);
        assert_eq!(nearest("modles", ["modules", "models"]), Some("models"));
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
