//! Where the parts of a picture of a stack stand: the output's column, the stages to the left of it.
//!
//! A stage stands beside the rows that use it, in a lane that has room there; a stage that other stages
//! use stands further to the left than they. Of a stage only what is used is shown: all of its layers if
//! any is used, each end if it is used.

use super::rows::Row;
use crate::recipe::{PlanSummary, StageSummary};
use crate::report::pictures::layer_frame::row_height;
use std::collections::BTreeSet;

/// Heights of an end's row, and of the space between ends and layers.
pub(super) const END: f64 = 16.0;
pub(super) const END_GAP: f64 = 8.0;
/// A lane: the stage's name, its bars, and the room for links to the right of them.
pub(super) const LANE_NAME: f64 = 124.0;
pub(super) const LANE_BAR: f64 = 76.0;
pub(super) const LANE_LINK: f64 = 44.0;
pub(super) const LANE: f64 = LANE_NAME + LANE_BAR + LANE_LINK;
/// Room for a stage's name, method and number of layers.
const NAME: f64 = 48.0;
/// How far stages may be moved from the rows that use them before they get a lane of their own.
const SHIFT: f64 = 48.0;
/// Between stages that were moved, and between those that stand beside their rows.
const GAP: f64 = 8.0;
const CLOSE: f64 = 2.0;

/// Rows of a stage that stand together.
pub(super) struct Piece {
    /// An index into the summary's stages.
    pub stage: usize,
    /// Each row, its top edge below the piece's, and its height.
    pub rows: Vec<(Row, f64, f64)>,
    pub y: f64,
    /// Number of the lane from the right, from 0.
    pub lane: usize,
}

impl Piece {
    fn new(stage: usize, rows: Vec<Row>, layer: f64) -> Piece {
        let mut placed: Vec<(Row, f64, f64)> = Vec::new();
        for row in rows {
            let is_layer = row.layer().is_some();
            let top = placed.last().map_or(0.0, |&(below, y, height)| {
                let gap = if below.layer().is_some() == is_layer { 0.0 } else { END_GAP };
                y + height + gap
            });
            placed.push((row, top, if is_layer { layer } else { END }));
        }
        Piece { stage, rows: placed, y: 0.0, lane: 0 }
    }

    pub(super) fn height(&self) -> f64 {
        self.rows.last().map_or(0.0, |(_, y, height)| y + height)
    }

    pub(super) fn has_layers(&self) -> bool {
        self.rows.iter().any(|(row, ..)| row.layer().is_some())
    }

    /// Top edge of `row`.
    pub(super) fn top(&self, row: Row) -> Option<f64> {
        self.rows.iter().find(|(other, ..)| *other == row).map(|(_, y, _)| self.y + y)
    }

    /// Height with the name beside it.
    fn extent(&self) -> f64 {
        self.height().max(if self.has_layers() { NAME } else { END })
    }
}

/// The output's column and the stages' pieces.
pub(super) struct Layout {
    /// Height of a layer's row.
    pub row: f64,
    pub output: Piece,
    /// Not the output's.
    pub pieces: Vec<Piece>,
    pub lanes: usize,
    /// For each stage, the rows that another one uses.
    pub used: Vec<BTreeSet<Row>>,
}

impl Layout {
    /// `None` if the plan has no stage.
    pub(super) fn of(summary: &PlanSummary) -> Option<Layout> {
        let (last, output) = summary.stages.iter().enumerate().next_back()?;
        let row = row_height(output.layers.len());
        let used = used(summary);
        let mut layout = Layout {
            row,
            output: Piece::new(last, Row::all(output), row),
            pieces: vec![],
            lanes: 0,
            used,
        };
        let depths = depths(summary);
        for depth in 1..=depths.iter().copied().max().unwrap_or(0) {
            let stages = (0..last).filter(|stage| depths[*stage] == depth);
            let pieces: Vec<Piece> =
                stages.flat_map(|stage| layout.split(stage, &summary.stages[stage])).collect();
            layout.place(pieces, summary);
        }
        Some(layout)
    }

    /// The bottom of the lowest row.
    pub(super) fn height(&self) -> f64 {
        let pieces = self.pieces.iter().map(|piece| piece.y + piece.extent());
        pieces.fold(self.output.height(), f64::max)
    }

    /// The piece that shows `row` of `stage`, and the row's top edge.
    pub(super) fn find(&self, stage: usize, row: Row) -> Option<(&Piece, f64)> {
        let pieces = self.pieces.iter().chain([&self.output]);
        let mut of_stage = pieces.filter(|piece| piece.stage == stage);
        of_stage.find_map(|piece| piece.top(row).map(|top| (piece, top)))
    }

    /// One piece where layers are used, else one for each end.
    fn split(&self, stage: usize, summary: &StageSummary) -> Vec<Piece> {
        let used = &self.used[stage];
        let has_layers = used.iter().any(|row| row.layer().is_some());
        let shown: Vec<Row> = Row::all(summary)
            .into_iter()
            .filter(|row| used.contains(row) || (has_layers && row.layer().is_some()))
            .collect();
        let groups = if has_layers {
            vec![shown]
        } else {
            let (low, high) = shown.into_iter().partition(|row| *row == Row::Embedding);
            vec![low, high]
        };
        let filled = groups.into_iter().filter(|rows: &Vec<Row>| !rows.is_empty());
        filled.map(|rows| Piece::new(stage, rows, self.row)).collect()
    }

    /// Gives places to the pieces of one depth; those that use them have theirs already.
    fn place(&mut self, mut pieces: Vec<Piece>, summary: &PlanSummary) {
        for piece in &mut pieces {
            piece.y = self.wanted(piece, summary).unwrap_or(0.0);
        }
        pieces.sort_by(|a, b| a.y.total_cmp(&b.y));
        let mut lanes: Vec<Vec<Piece>> = Vec::new();
        for piece in pieces {
            let fits = |lane: &&mut Vec<Piece>| {
                lane.last().is_none_or(|last| last.y + last.extent() - piece.y <= SHIFT)
            };
            match lanes.iter_mut().find(fits) {
                Some(lane) => lane.push(piece),
                None => lanes.push(vec![piece]),
            }
        }
        for lane in &mut lanes {
            let wanted: Vec<_> = lane.iter().map(|piece| (piece.y, piece.extent())).collect();
            let close = spread(&wanted, CLOSE, 0.0);
            let moved =
                close.iter().zip(&wanted).any(|(y, (wanted, _))| (y - wanted).abs() > CLOSE);
            let tops = if moved { spread(&wanted, GAP, 0.0) } else { close };
            for (piece, y) in lane.iter_mut().zip(tops) {
                piece.y = y;
                piece.lane = self.lanes;
            }
            self.lanes += 1;
        }
        self.pieces.extend(lanes.into_iter().flatten());
    }

    /// Where `piece` would stand for a straight link to the first row that uses it.
    fn wanted(&self, piece: &Piece, summary: &PlanSummary) -> Option<f64> {
        for user in self.pieces.iter().chain([&self.output]).rev() {
            for &(row, y, _) in &user.rows {
                for (stage, used) in row.uses(&summary.stages[user.stage]) {
                    if let (true, Some(top)) = (stage == piece.stage, piece.top(used)) {
                        return Some(user.y + y - (top - piece.y));
                    }
                }
            }
        }
        None
    }
}

/// A band from rows of a stage to the rows that they become.
pub(super) struct Link {
    /// Lane of the stage, and of the stage that uses it; none if that is the output.
    pub lane: usize,
    pub user_lane: Option<usize>,
    /// Upper and lower edge at the stage and at its user.
    pub from: (f64, f64),
    pub to: (f64, f64),
}

impl Layout {
    /// The bands, one for rows that follow each other at both sides.
    pub(super) fn links(&self, summary: &PlanSummary) -> Vec<Link> {
        let mut links = Vec::new();
        for user in self.pieces.iter().chain([&self.output]) {
            let user_lane = (user.stage != self.output.stage).then_some(user.lane);
            // The links that the row before could be continued by, with the stage they come from.
            let mut open: Vec<(usize, Link)> = Vec::new();
            for &(row, y, height) in &user.rows {
                let to = (user.y + y, user.y + y + height);
                let mut current = Vec::new();
                for (stage, used) in row.uses(&summary.stages[user.stage]) {
                    let Some((piece, top)) = self.find(stage, used) else { continue };
                    let from = (top, top + height);
                    let follows = |(other, link): &(usize, Link)| {
                        *other == stage && link.from.1 == from.0 && link.to.1 == to.0
                    };
                    let link = match open.iter().position(follows) {
                        Some(at) => {
                            let (_, link) = open.swap_remove(at);
                            Link { from: (link.from.0, from.1), to: (link.to.0, to.1), ..link }
                        }
                        None => Link { lane: piece.lane, user_lane, from, to },
                    };
                    current.push((stage, link));
                }
                links.extend(std::mem::replace(&mut open, current).into_iter().map(|(_, l)| l));
            }
            links.extend(open.into_iter().map(|(_, link)| link));
        }
        links
    }
}

/// For each stage, the rows that another one uses.
fn used(summary: &PlanSummary) -> Vec<BTreeSet<Row>> {
    let mut used = vec![BTreeSet::new(); summary.stages.len()];
    for stage in &summary.stages {
        for row in Row::all(stage) {
            for (index, other) in row.uses(stage) {
                used[index].insert(other);
            }
        }
    }
    used
}

/// How many stages stand between each stage and the output, which is at 0.
fn depths(summary: &PlanSummary) -> Vec<usize> {
    let mut depths = vec![0; summary.stages.len()];
    for (at, stage) in summary.stages.iter().enumerate().rev() {
        for row in Row::all(stage) {
            for (index, _) in row.uses(stage) {
                depths[index] = depths[index].max(depths[at] + 1);
            }
        }
    }
    depths
}

/// Moves things of the given wanted tops and heights as little as possible so that they keep their order
/// and stand at least `gap` apart, none above `low`. Things in each other's way share the shift.
pub(super) fn spread(wanted: &[(f64, f64)], gap: f64, low: f64) -> Vec<f64> {
    /// Neighbours that touch: where the first should stand on average, and their heights.
    struct Group {
        sum: f64,
        count: usize,
        height: f64,
    }
    let top = |group: &Group| (group.sum / group.count as f64).max(low);
    let mut groups: Vec<Group> = Vec::new();
    for &(y, height) in wanted {
        let mut group = Group { sum: y, count: 1, height: height + gap };
        while let Some(before) = groups.pop_if(|g| top(g) + g.height > top(&group)) {
            // What the later ones want, told for the first one of the two groups.
            let sum = before.sum + group.sum - before.height * group.count as f64;
            let (count, height) = (before.count + group.count, before.height + group.height);
            group = Group { sum, count, height };
        }
        groups.push(group);
    }
    let mut tops = Vec::with_capacity(wanted.len());
    for group in &groups {
        let mut y = top(group);
        for _ in 0..group.count {
            tops.push(y);
            y += wanted[tops.len() - 1].1 + gap;
        }
    }
    tops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_in_each_others_way_share_the_shift() {
        assert_eq!(spread(&[(0.0, 10.0), (50.0, 10.0)], 2.0, 0.0), [0.0, 50.0]);
        assert_eq!(spread(&[(20.0, 10.0), (20.0, 10.0)], 2.0, 0.0), [14.0, 26.0]);
        assert_eq!(spread(&[(0.0, 10.0), (0.0, 10.0), (0.0, 10.0)], 0.0, 0.0), [0.0, 10.0, 20.0]);
        assert!(spread(&[], 2.0, 0.0).is_empty());
    }
}
