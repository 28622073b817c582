//! What pictures and terminals show of a stack: its rows, the runs of layers that go on from one another,
//! and what each run is made of.

use crate::base::size;
use crate::recipe::{EndRow, LayerRow, MemberShare, MemberSummary, PlanSummary, StageSummary};
use crate::report::tables::formula;
use crate::report::text::{letter, one_line};
use std::collections::BTreeMap;
use std::ops::Range;

/// Smaller shares are taken for none: they would be thinner than a line.
pub(super) const LEAST_SHARE: f64 = 0.005;

/// A row of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Row {
    Embedding,
    Layer(usize),
    FinalNorm,
    Head,
}

impl Row {
    /// The rows of `stage` from the bottom of the stack to its top, which is the order of the text.
    pub(super) fn all(stage: &StageSummary) -> Vec<Row> {
        let layers = (0..stage.layers.len()).map(Row::Layer);
        [Row::Embedding].into_iter().chain(layers).chain([Row::FinalNorm, Row::Head]).collect()
    }

    pub(super) fn name(self) -> String {
        match self {
            Row::Embedding => "embedding".to_string(),
            Row::Layer(layer) => format!("layer {layer}"),
            Row::FinalNorm => "norm".to_string(),
            Row::Head => "head".to_string(),
        }
    }

    pub(super) fn layer(self) -> Option<usize> {
        match self {
            Row::Layer(layer) => Some(layer),
            _ => None,
        }
    }

    /// Picks the end that this row is, or would be, of a stage.
    pub(super) fn end(self) -> fn(&StageSummary) -> &EndRow {
        match self {
            Row::Embedding | Row::Layer(_) => |stage| &stage.embedding,
            Row::FinalNorm => |stage| &stage.final_norm,
            Row::Head => |stage| &stage.head,
        }
    }

    /// What it is made of, and how many parameters it has.
    pub(super) fn made_of(self, stage: &StageSummary) -> (&[MemberShare], u64) {
        match self {
            Row::Layer(layer) => {
                let LayerRow { made_of, parameters, .. } = &stage.layers[layer];
                (made_of, *parameters)
            }
            end => {
                let EndRow { made_of, parameters, .. } = end.end()(stage);
                (made_of, *parameters)
            }
        }
    }

    /// The rows of other stages that it uses: the stage's index and the row there.
    pub(super) fn uses(self, stage: &StageSummary) -> impl Iterator<Item = (usize, Row)> {
        let sources = match self {
            Row::Layer(layer) => &stage.layers[layer].sources,
            end => &end.end()(stage).sources,
        };
        let stages = sources.iter().filter(|source| source.is_stage);
        stages.map(move |source| (source.index, source.layer.map_or(self, Row::Layer)))
    }
}

/// Rows one after the other, each made of the layers that follow those of the row before.
pub(super) fn runs(rows: &[LayerRow]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for at in 0..rows.len() {
        match runs.last_mut() {
            Some(run) if follows(&rows[at - 1], &rows[at]) => run.end = at + 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

fn follows(below: &LayerRow, above: &LayerRow) -> bool {
    let next = |a: Option<usize>, b: Option<usize>| a.map(|layer| layer + 1) == b;
    let sources = below.sources.iter().zip(&above.sources);
    let members = below.made_of.iter().zip(&above.made_of);
    below.sources.len() == above.sources.len()
        && below.made_of.len() == above.made_of.len()
        && sources
            .into_iter()
            .all(|(a, b)| (a.is_stage, a.index) == (b.is_stage, b.index) && next(a.layer, b.layer))
        && members
            .into_iter()
            .all(|(a, b)| (a.member, a.delta) == (b.member, b.delta) && next(a.layer, b.layer))
}

/// What one member gives to a run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    pub member: usize,
    /// First layer and the one after the last; none for the ends.
    pub layers: Option<(usize, usize)>,
    /// The share in the first row, the mean over all, the share in the last row.
    pub first: f64,
    pub mean: f64,
    pub last: f64,
    pub delta: bool,
}

impl Given {
    /// `[8,24)`, or nothing for an end.
    pub(super) fn range(&self) -> String {
        self.layers.map_or(String::new(), |(start, end)| format!("[{start},{end})"))
    }

    /// `65 %`, or `100 → 0 %`; nothing where there is nothing else.
    pub(super) fn percent(&self) -> String {
        let [first, last] = [self.first, self.last].map(percent);
        match (first, last) {
            (first, last) if first != last => format!("{first} → {last} %"),
            (100, _) if self.mean > 1.0 - LEAST_SHARE => String::new(),
            (share, _) => format!("{share} %"),
        }
    }
}

pub(super) fn percent(share: f64) -> i64 {
    (share * 100.0).round() as i64
}

/// What the rows of a run (or a part of it, or a single row) are made of. Members that give nothing to any
/// of them are left out.
pub(super) fn given(rows: &[&[MemberShare]]) -> Vec<Given> {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Vec::new() };
    let one = |(at, start): (usize, &MemberShare)| {
        let share = |row: &[MemberShare]| row.get(at).map_or(0.0, |given| given.share);
        let sum: f64 = rows.iter().map(|row| share(row)).sum();
        Given {
            member: start.member,
            layers: start.layer.map(|layer| (layer, layer + rows.len())),
            first: start.share,
            mean: sum / rows.len() as f64,
            last: share(last),
            delta: start.delta,
        }
    };
    let all = first.iter().enumerate().map(one);
    let mut seen: Vec<Given> =
        all.filter(|given| given.mean >= LEAST_SHARE / rows.len() as f64).collect();
    // The base model before what is added to it.
    seen.sort_by_key(|given| given.delta);
    seen
}

/// A short name for each member: the last part of its path where no other has the same.
pub(super) fn short_names(members: &[MemberSummary]) -> Vec<String> {
    let last = |member: &MemberSummary| -> String {
        let parts = member.reference.trim_end_matches('/').rsplit('/');
        parts.into_iter().next().unwrap_or_default().to_string()
    };
    let short = |member: &MemberSummary| {
        let same = members.iter().filter(|other| last(other) == last(member)).count();
        one_line(&if same > 1 { member.reference.clone() } else { last(member) })
    };
    members.iter().map(short).collect()
}

/// The name of stage number `index`, without anything that could steer a terminal.
pub(super) fn stage_name(summary: &PlanSummary, index: usize) -> String {
    one_line(&summary.stages[index].name)
}

/// A tooltip names this many members at the most.
const MOST_DETAILS: usize = 12;

/// What is known of a row, for a tooltip: how it is made, then each member's part.
pub(super) fn details(summary: &PlanSummary, stage: &StageSummary, row: Row) -> String {
    let (made_of, parameters) = row.made_of(stage);
    let formula = formula(summary, stage, row.layer(), row.end());
    let stages = row.uses(stage).map(|(index, used)| match used {
        Row::Layer(layer) => format!("{}:{layer}", stage_name(summary, index)),
        _ => stage_name(summary, index),
    });
    let stages: Vec<_> = stages.collect();
    let from = match stages.as_slice() {
        [] => String::new(),
        list => format!(" from {}", list.join(", ")),
    };
    let mut lines = vec![format!("{} of {}{from}", row.name(), one_line(&stage.name)), formula];
    let mut largest: Vec<_> = made_of.iter().collect();
    if largest.len() > MOST_DETAILS {
        // Stable, so that equal ones keep the recipe's order.
        largest.sort_by(|a, b| b.share.total_cmp(&a.share));
        largest.truncate(MOST_DETAILS - 1);
    }
    for given in &largest {
        let member = one_line(&summary.members[given.member].reference);
        let layer = given.layer.map_or(String::new(), |layer| format!(", layer {layer}"));
        let delta = if given.delta { ", as a difference to the base model" } else { "" };
        let (share, letter) = (given.share * 100.0, letter(given.member));
        lines.push(format!("{share:.1} %  {letter} = {member}{layer}{delta}"));
    }
    if largest.len() < made_of.len() {
        lines.push(format!("and {} more", made_of.len() - largest.len()));
    }
    if parameters > 0 {
        lines.push(format!("{} parameters", size::count(parameters)));
    }
    lines.join("\n")
}

/// Two rows, with none between them that does the same, which use the same layer of a member.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Repeat {
    pub member: usize,
    pub rows: (usize, usize),
    /// How many members before this one repeat a layer in the same two rows.
    pub nth: usize,
}

/// Smaller shares make no repetition that is worth a line.
const LEAST_REPEATED: f64 = 0.05;

/// Where layers of members are used again, by rows.
pub(super) fn repeats(stage: &StageSummary) -> Vec<Repeat> {
    let mut uses: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for row in &stage.layers {
        for given in row.made_of.iter().filter(|given| given.share >= LEAST_REPEATED) {
            let Some(layer) = given.layer else { continue };
            let rows = uses.entry((given.member, layer)).or_default();
            if rows.last() != Some(&row.layer) {
                rows.push(row.layer);
            }
        }
    }
    let pairs = uses.iter().flat_map(|(&(member, _), rows)| {
        rows.windows(2).map(move |pair| Repeat { member, rows: (pair[0], pair[1]), nth: 0 })
    });
    let mut repeats: Vec<Repeat> = pairs.collect();
    repeats.sort_by_key(|repeat| (repeat.rows, repeat.member));
    for at in 1..repeats.len() {
        if repeats[at].rows == repeats[at - 1].rows {
            repeats[at].nth = repeats[at - 1].nth + 1;
        }
    }
    repeats
}
