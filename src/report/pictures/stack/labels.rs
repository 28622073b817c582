//! The texts beside a picture of a stack: what each run of layers and each end is made of.

use super::layout::{END, Layout, spread};
use super::rows::{self, Given, Row};
use crate::recipe::{LayerRow, PlanSummary, StageSummary};
use crate::report::pictures::svg::text_width;

/// Size of the letters, and from line to line.
pub(super) const FONT: f64 = 12.0;
pub(super) const LINE: f64 = 15.0;
/// Between labels.
const GAP: f64 = 5.0;
/// Members of a run that are named one by one; where there are more, the smallest are only counted.
const MOST: usize = 4;
/// Labels may stand out below the stack by this much; beyond that some are left out.
const OVERHANG: f64 = 60.0;

/// A line of a label.
pub(super) struct Line {
    /// The member whose colour stands before the text.
    pub member: Option<usize>,
    pub text: String,
}

impl Line {
    pub(super) fn width(&self) -> f64 {
        let swatch = if self.member.is_some() { FONT + 4.0 } else { 0.0 };
        swatch + text_width(&self.text, FONT)
    }
}

/// What stands beside some rows.
pub(super) struct Label {
    pub lines: Vec<Line>,
    /// Edges of the rows that are meant.
    pub rows: (f64, f64),
    /// Its own top edge.
    pub top: f64,
    /// Number of layers; ends have none.
    layers: usize,
}

impl Label {
    pub(super) fn height(&self) -> f64 {
        self.lines.len() as f64 * LINE
    }
}

/// The labels of the output's column, from top to bottom, clear of each other.
pub(super) fn labels(summary: &PlanSummary, layout: &Layout, names: &[String]) -> Vec<Label> {
    let stage = &summary.stages[layout.output.stage];
    let edge = |row: Row| layout.output.top(row).unwrap_or(0.0);
    let end = |row: Row, bottom: f64| {
        let lines = end_lines(summary, stage, row, names);
        Label { lines, rows: (edge(row), bottom), top: 0.0, layers: 0 }
    };
    let mut labels = vec![end(Row::Embedding, edge(Row::Embedding) + END)];
    for run in rows::runs(&stage.layers) {
        let rows = &stage.layers[run.clone()];
        let top = edge(Row::Layer(run.start));
        let bottom = edge(Row::Layer(run.end - 1)) + layout.row;
        let lines = run_lines(summary, rows, names);
        labels.push(Label { lines, rows: (top, bottom), top: 0.0, layers: run.len() });
    }
    let top_end = edge(Row::Head) + END;
    if Row::FinalNorm.made_of(stage).0 == Row::Head.made_of(stage).0 {
        labels.push(end(Row::FinalNorm, top_end));
    } else {
        labels.push(end(Row::FinalNorm, edge(Row::Head)));
        labels.push(end(Row::Head, top_end));
    }
    place(thin(labels, layout.height() + OVERHANG))
}

/// Leaves out what has no room: first all but two lines of each label, then every second
/// label of the shortest runs, until the rest fit.
fn thin(mut labels: Vec<Label>, room: f64) -> Vec<Label> {
    let total = |labels: &[Label]| labels.iter().map(|label| label.height() + GAP).sum::<f64>();
    if total(&labels) <= room {
        return labels;
    }
    for label in &mut labels {
        label.lines.truncate(2);
    }
    while total(&labels) > room {
        let runs = labels.iter().map(|label| label.layers).filter(|layers| *layers > 0);
        let Some(shortest) = runs.min() else { break };
        // Every second one, so that those left are spread over the stack.
        let mut leave = false;
        labels.retain(|label| {
            leave ^= label.layers == shortest;
            label.layers != shortest || !leave
        });
    }
    labels
}

fn place(mut labels: Vec<Label>) -> Vec<Label> {
    let wanted = |label: &Label| {
        let (top, bottom) = label.rows;
        ((top + bottom - label.height()) / 2.0, label.height())
    };
    let wanted: Vec<_> = labels.iter().map(wanted).collect();
    for (label, top) in labels.iter_mut().zip(spread(&wanted, GAP, -4.0)) {
        label.top = top;
    }
    labels
}

fn end_lines(summary: &PlanSummary, stage: &StageSummary, row: Row, names: &[String]) -> Vec<Line> {
    let (made_of, _) = row.made_of(stage);
    if made_of.is_empty() {
        return vec![Line { member: None, text: "tied to the embedding".to_string() }];
    }
    let stages = row.uses(stage).map(|(index, _)| rows::stage_name(summary, index));
    let stages: Vec<_> = stages.collect();
    lines(stages, rows::given(&[made_of]), names)
}

fn run_lines(summary: &PlanSummary, rows: &[LayerRow], names: &[String]) -> Vec<Line> {
    let stages = rows[0].sources.iter().filter(|source| source.is_stage).map(|source| {
        let start = source.layer.unwrap_or(0);
        let name = rows::stage_name(summary, source.index);
        format!("{name} [{start},{})", start + rows.len())
    });
    let made: Vec<_> = rows.iter().map(|row| row.made_of.as_slice()).collect();
    lines(stages.collect(), rows::given(&made), names)
}

fn lines(stages: Vec<String>, mut given: Vec<Given>, names: &[String]) -> Vec<Line> {
    let mut lines = Vec::new();
    if !stages.is_empty() {
        lines.push(Line { member: None, text: stages.join(" + ") });
    }
    let more = if given.len() > MOST { given.len() + 1 - MOST } else { 0 };
    if more > 0 {
        // Stable, so that equal ones keep the recipe's order.
        given.sort_by(|a, b| b.mean.total_cmp(&a.mean));
        given.truncate(MOST - 1);
    }
    for given in &given {
        let sign = if given.delta { "Δ " } else { "" };
        let words = [format!("{sign}{}", names[given.member]), given.range(), given.percent()];
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        lines.push(Line { member: Some(given.member), text: words.join("  ") });
    }
    if more > 0 {
        lines.push(Line { member: None, text: format!("and {more} more") });
    }
    lines
}
