//! The plan of a merge for terminals, compactly: runs of layers with a bar that divides them among the
//! members, coloured or in letters.
//!
//! Only grounds are coloured, with the letter on them black or white as fits, and all other text has the
//! terminal's own colour: so it can be read on light and on dark terminals, and without colours too.

use super::rows::{self, Given, Row};
use crate::recipe::{MemberShare, PlanSummary, StageSummary};
use crate::report::pictures::palette;
use crate::report::tables::{donors, members, stages};
use crate::report::text::letter;

/// Width of a bar in characters.
const BAR: usize = 24;
/// A run whose shares change is divided into this many lines at the most.
const STEPS: usize = 4;
/// Members of a line that are named; where there are more, the smallest are only counted.
const MOST: usize = 6;

/// The whole plan, without a newline at the end; with ANSI colours if `colour`.
pub fn render_stack(summary: &PlanSummary, colour: bool) -> String {
    let Some(output) = summary.stages.last() else { return String::new() };
    let rows = rows(summary, output, colour);
    [legend(summary, colour), stages(summary), rows, donors(output)].join("\n\n")
}

/// The members' table, letters on their colours.
fn legend(summary: &PlanSummary, colour: bool) -> String {
    let text = members(summary);
    if !colour {
        return text;
    }
    let painted = |(at, line): (usize, &str)| match at.checked_sub(1) {
        None => line.to_string(),
        Some(member) => {
            let letter = letter(member);
            // Letters are the first column, aligned to the left.
            let rest = line.strip_prefix(&letter).unwrap_or(line);
            format!("{}{rest}", paint(&letter, member))
        }
    };
    let lines: Vec<_> = text.lines().enumerate().map(painted).collect();
    lines.join("\n")
}

struct Line {
    layers: String,
    given: Vec<Given>,
    /// The stage that the rows come from, with its layers.
    stage: String,
    /// Said instead of a bar.
    note: &'static str,
}

fn rows(summary: &PlanSummary, output: &StageSummary, colour: bool) -> String {
    let mut lines = vec![end(summary, output, Row::Embedding)];
    for run in rows::runs(&output.layers) {
        let rows = &output.layers[run.clone()];
        for step in
            steps(rows.len(), rows.iter().any(|row| row_changes(&rows[0].made_of, &row.made_of)))
        {
            let part = &rows[step.clone()];
            let made: Vec<_> = part.iter().map(|row| row.made_of.as_slice()).collect();
            let first = part[0].layer;
            let layers = match part.len() {
                1 => first.to_string(),
                n => format!("{first}-{}", first + n - 1),
            };
            let stages = part[0].sources.iter().filter(|source| source.is_stage).map(|source| {
                let start = source.layer.unwrap_or(0);
                let name = rows::stage_name(summary, source.index);
                format!("{name}[{start},{})", start + part.len())
            });
            let stage = stages.collect::<Vec<_>>().join(" + ");
            lines.push(Line { layers, given: rows::given(&made), stage, note: "" });
        }
    }
    lines.push(end(summary, output, Row::FinalNorm));
    lines.push(end(summary, output, Row::Head));
    let width = |text: fn(&Line) -> &str, head: &str| {
        lines.iter().map(|line| text(line).chars().count()).fold(head.len(), usize::max)
    };
    let layers = width(|line| &line.layers, "layers");
    let stage = width(|line| &line.stage, "");
    let stage = if stage == 0 { 0 } else { stage.max("stage".len()) + 2 };
    let head = if stage > 0 { "stage" } else { "" };
    let mut text = vec![format!("{:>layers$}  {:BAR$}  {head:stage$}made of", "layers", "shares")];
    for line in &lines {
        let bar = if line.note.is_empty() { bar(&line.given, colour) } else { " ".repeat(BAR) };
        let made = if line.note.is_empty() { sum(&line.given) } else { line.note.to_string() };
        let row = format!("{:>layers$}  {bar}  {:stage$}{made}", line.layers, line.stage);
        text.push(row.trim_end().to_string());
    }
    let mut hint = "A[8,24) is layers 8 to 23 of member A".to_string();
    if lines.iter().any(|line| line.given.iter().any(|given| given.delta)) {
        hint.push_str("; Δ, in small letters: a difference added to the base model");
    }
    format!("{}\n\n{hint}", text.join("\n"))
}

fn end(summary: &PlanSummary, output: &StageSummary, row: Row) -> Line {
    let (made_of, _) = row.made_of(output);
    let stages = row.uses(output).map(|(index, _)| rows::stage_name(summary, index));
    Line {
        layers: row.name(),
        given: rows::given(&[made_of]),
        stage: stages.collect::<Vec<_>>().join(" + "),
        note: if made_of.is_empty() { "tied to the embedding" } else { "" },
    }
}

fn row_changes(a: &[MemberShare], b: &[MemberShare]) -> bool {
    a.iter().zip(b).any(|(a, b)| rows::percent(a.share) != rows::percent(b.share))
}

/// The parts in which a run of `count` rows is shown.
fn steps(count: usize, changes: bool) -> impl Iterator<Item = std::ops::Range<usize>> {
    let steps = if changes { count.min(STEPS) } else { 1 };
    (0..steps).map(move |step| step * count / steps..(step + 1) * count / steps)
}

/// `A[0,4) 88 % + B[0,4) 12 %`, the largest if there are many.
fn sum(given: &[Given]) -> String {
    let term = |given: &&Given| {
        let sign = if given.delta { "Δ" } else { "" };
        let origin = format!("{sign}{}{}", letter(given.member), given.range());
        match rows::percent(given.mean) {
            100 => origin,
            share => format!("{origin} {share} %"),
        }
    };
    let mut largest: Vec<&Given> = given.iter().collect();
    if largest.len() > MOST {
        // Stable, so that equal ones keep the recipe's order.
        largest.sort_by(|a, b| b.mean.total_cmp(&a.mean));
        largest.truncate(MOST - 1);
    }
    let mut terms: Vec<_> = largest.iter().map(term).collect();
    if largest.len() < given.len() {
        terms.push(format!("{} more", given.len() - largest.len()));
    }
    terms.join(" + ")
}

/// A bar of [`BAR`] characters.
fn bar(given: &[Given], colour: bool) -> String {
    let mut bar = String::new();
    for (given, cells) in given.iter().zip(cells(given)) {
        // The letter of a member beyond the twenty-sixth comes without its number: a cell has no room.
        let upper = letter(given.member).chars().next().unwrap_or(' ');
        let sign = if given.delta { upper.to_ascii_lowercase() } else { upper };
        if colour && cells > 0 {
            bar.push_str(&paint(&format!("{sign:cells$}"), given.member));
        } else {
            bar.extend(std::iter::repeat_n(sign, cells));
        }
    }
    bar
}

/// Divides the cells of a bar by the shares: rounded edges, so that the sum is right.
fn cells(given: &[Given]) -> Vec<usize> {
    let total: f64 = given.iter().map(|given| given.mean).sum();
    let mut sum = 0.0;
    let mut edge = 0;
    let mut part = |given: &Given| {
        sum += given.mean;
        let next = (sum / total * BAR as f64).round() as usize;
        let cells = next - edge;
        edge = next;
        cells
    };
    given.iter().map(&mut part).collect()
}

/// `text` on the member's colour.
fn paint(text: &str, member: usize) -> String {
    let ink = if palette::takes_black(member) { 16 } else { 231 };
    let ground = palette::terminal(member);
    format!("\u{1b}[38;5;{ink};48;5;{ground}m{text}\u{1b}[0m")
}
