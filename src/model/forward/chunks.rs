//! The chunks of a forward pass, cut into groups that go through a layer together.

use super::weights::CheckedModel;
use crate::base::error::Error;
use std::ops::Range;

/// The chunks of a pass. Their tokens are numbered consecutively as the rows of the pass.
pub(super) struct Chunks {
    lengths: Vec<usize>,
    /// The first chunk's number in errors, from 0.
    first_number: usize,
    groups: Vec<ChunkGroup>,
}

/// Consecutive chunks that go through a layer together.
#[derive(Clone)]
pub(super) struct ChunkGroup {
    pub chunks: Range<usize>,
    /// The group's rows among all rows of the pass.
    pub rows: Range<usize>,
}

impl Chunks {
    /// Cuts chunks of `lengths` tokens into groups of at most `limit` rows, but at least one chunk.
    pub(super) fn new(lengths: Vec<usize>, limit: usize, first_number: usize) -> Chunks {
        let mut groups: Vec<ChunkGroup> = Vec::new();
        let mut row = 0;
        for (chunk, &length) in lengths.iter().enumerate() {
            match groups.last_mut() {
                Some(last) if last.rows.len() + length <= limit => {
                    last.chunks.end = chunk + 1;
                    last.rows.end = row + length;
                }
                _ => {
                    groups.push(ChunkGroup { chunks: chunk..chunk + 1, rows: row..row + length });
                }
            }
            row += length;
        }
        Chunks { lengths, first_number, groups }
    }

    pub(super) fn groups(&self) -> &[ChunkGroup] {
        &self.groups
    }

    /// The number of tokens of each chunk.
    pub(super) fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The number of elements of each group whose rows have `width` elements.
    pub(super) fn elements(&self, width: usize) -> Vec<usize> {
        self.groups.iter().map(|group| group.rows.len() * width).collect()
    }

    /// The error for a value that is not finite in `row` of the pass. `what`, computed with the
    /// tensor `tensor`, has that value.
    pub(super) fn non_finite(
        &self,
        model: &CheckedModel<'_>,
        tensor: &str,
        what: &str,
        row: usize,
    ) -> Error {
        let mut position = row;
        let mut chunk = 0;
        while position >= self.lengths[chunk] {
            position -= self.lengths[chunk];
            chunk += 1;
        }
        let layer = tensor.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
        let layer = layer.map_or(String::new(), |layer| format!("layer {layer}, "));
        let cause = model.explain_non_finite(tensor);
        let detail = format!(
            "{what} is not finite at {layer}chunk {}, position {position}; {cause}",
            self.first_number + chunk + 1
        );
        Error::tensor(model.origin(), tensor, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_take_whole_chunks_up_to_the_limit() {
        let cut = |limit| -> Vec<(Range<usize>, Range<usize>)> {
            let chunks = Chunks::new(vec![4, 4, 2, 9], limit, 0);
            chunks.groups.into_iter().map(|group| (group.chunks, group.rows)).collect()
        };
        assert_eq!(cut(8), [(0..2, 0..8), (2..3, 8..10), (3..4, 10..19)]);
        assert_eq!(cut(1).len(), 4);
        assert_eq!(cut(1000), [(0..4, 0..19)]);
    }
}
