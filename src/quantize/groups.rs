//! Groups of rows: what a thread of the pass works on at a time.
//!
//! The cuts depend on nothing but the tensor, so hashes of groups mean the same in every run. Deliberately absent: the
//! work.

use super::importance::Importance;
use crate::formats::gguf::GgufModel;
use crate::formats::source::TensorInfo;
use std::ops::Range;

/// Elements of a group: their f32 values and what is made of them fit a core's second-level cache, and
/// the hand-over between threads costs nothing against the work.
const GROUP_ELEMENTS: usize = 1 << 16;

/// Some rows of one matrix of a tensor.
pub struct Group {
    pub matrix: usize,
    /// Over all matrices.
    pub first_row: usize,
    pub rows: usize,
}

/// All groups of tensor `source` of `model`, as a pass with these importance weights cuts them.
pub(super) fn groups(
    model: &GgufModel,
    source: usize,
    importance: Option<&Importance>,
) -> Vec<Group> {
    let info = &model.tensors.table().infos()[source];
    let matrices = matrices(info, importance.and_then(|i| i.get(&info.name)));
    let pieces = model.tensors.pieces(source);
    let rows = info.elements() / info.row_len().max(1) / pieces;
    (0..pieces).flat_map(|n| groups_of(info, matrices, n * rows..(n + 1) * rows)).collect()
}

/// Matrices of a tensor that have importance weights of their own.
pub(super) fn matrices(info: &TensorInfo, weights: Option<&[f32]>) -> usize {
    weights.map_or(1, |weights| (weights.len() / info.row_len().max(1)).max(1))
}

/// `rows` of a tensor in groups, none of which crosses from one of its matrices into the next.
pub fn groups_of(info: &TensorInfo, matrices: usize, rows: Range<usize>) -> Vec<Group> {
    let row = info.row_len();
    if info.elements() == 0 {
        return Vec::new();
    }
    let per_matrix = info.elements() / row / matrices;
    let per_group = (GROUP_ELEMENTS / row).max(1);
    let mut groups = Vec::new();
    let mut first_row = rows.start;
    while first_row < rows.end {
        let matrix = first_row / per_matrix;
        let end = rows.end.min((matrix + 1) * per_matrix);
        let rows = per_group.min(end - first_row);
        groups.push(Group { matrix, first_row, rows });
        first_row += rows;
    }
    groups
}
