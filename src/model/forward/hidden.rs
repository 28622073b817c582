//! The hidden states between layers, one group of chunks at a time: in memory, or in a temporary
//! file if memory is too small for all of them.

use crate::base::error::{Error, Result};
use crate::base::output;
use crate::base::system;
use std::fs::File;
use std::path::PathBuf;

/// The bytes that are converted at once when states are written or read.
const PIECE: usize = 1 << 18;

/// The hidden states of all groups. A layer takes those of a group, changes them and puts them
/// back.
pub(super) enum HiddenStates {
    Memory(Vec<Vec<f32>>),
    File(SpilledStates),
}

/// Hidden states in an unnamed temporary file.
pub(super) struct SpilledStates {
    file: File,
    /// The file's folder, for errors.
    folder: PathBuf,
    /// For each group, its first element in the file, and its number of elements.
    places: Vec<(u64, usize)>,
    /// The buffer of the group that was put back last, for reuse.
    spare: Vec<f32>,
}

impl HiddenStates {
    /// Storage for groups of `lengths` elements, in a file if `spill`. All groups must be put
    /// before any is taken.
    ///
    /// # Errors
    /// If the disk lacks space for the file.
    pub(super) fn new(lengths: &[usize], spill: bool) -> Result<HiddenStates> {
        if !spill {
            return Ok(HiddenStates::Memory(vec![Vec::new(); lengths.len()]));
        }
        let mut end = 0;
        let mut place = |&length: &usize| {
            let start = end;
            end += length as u64;
            (start, length)
        };
        let places = lengths.iter().map(&mut place).collect();
        let bytes = end * size_of::<f32>() as u64;
        let remedy = "use fewer chunks or more --memory";
        let (file, folder) = output::temporary_file(bytes, "hidden states", remedy)?;
        Ok(HiddenStates::File(SpilledStates { file, folder, places, spare: Vec::new() }))
    }

    /// Whether the states are in a file.
    pub(super) fn is_spilled(&self) -> bool {
        matches!(self, HiddenStates::File(_))
    }

    /// Takes the states of group `group`, row after row.
    pub(super) fn take(&mut self, group: usize) -> Result<Vec<f32>> {
        match self {
            HiddenStates::Memory(groups) => Ok(std::mem::take(&mut groups[group])),
            HiddenStates::File(spilled) => spilled.read(group),
        }
    }

    /// Puts back the states of group `group`.
    pub(super) fn put(&mut self, group: usize, states: Vec<f32>) -> Result<()> {
        match self {
            HiddenStates::Memory(groups) => groups[group] = states,
            HiddenStates::File(spilled) => {
                spilled.write(group, &states)?;
                spilled.spare = states;
            }
        }
        Ok(())
    }
}

impl SpilledStates {
    fn read(&mut self, group: usize) -> Result<Vec<f32>> {
        let (start, length) = self.places[group];
        let mut states = std::mem::take(&mut self.spare);
        states.resize(length, 0.0);
        let mut bytes = [0; PIECE];
        let mut offset = start * size_of::<f32>() as u64;
        for values in states.chunks_mut(PIECE / size_of::<f32>()) {
            let bytes = &mut bytes[..size_of_val(values)];
            let read = system::read_exact_at(&self.file, bytes, offset);
            read.map_err(Error::io(&self.folder, "read a temporary file in"))?;
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
            offset += bytes.len() as u64;
        }
        Ok(states)
    }

    fn write(&self, group: usize, states: &[f32]) -> Result<()> {
        let (start, length) = self.places[group];
        assert_eq!(states.len(), length, "the states have the length of their group");
        let mut bytes = [0; PIECE];
        let mut offset = start * size_of::<f32>() as u64;
        for values in states.chunks(PIECE / size_of::<f32>()) {
            let bytes = &mut bytes[..size_of_val(values)];
            for (value, bytes) in values.iter().zip(bytes.as_chunks_mut::<4>().0) {
                *bytes = value.to_le_bytes();
            }
            let written = system::write_all_at(&self.file, bytes, offset);
            written.map_err(Error::io(&self.folder, "write a temporary file in"))?;
            offset += bytes.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_file_return_the_states_that_were_put() {
        let lengths = [3, PIECE / 2 + 5, 0, 1];
        let groups =
            lengths.map(|n| (0..n).map(|i| (i as f32).sqrt() - n as f32).collect::<Vec<_>>());
        for spill in [false, true] {
            let mut states = HiddenStates::new(&lengths, spill).unwrap();
            for (group, values) in groups.iter().enumerate() {
                states.put(group, values.clone()).unwrap();
            }
            for (group, values) in groups.iter().enumerate().rev() {
                assert_eq!(states.take(group).unwrap(), *values);
                states.put(group, vec![0.5; values.len()]).unwrap();
                assert_eq!(states.take(group).unwrap(), vec![0.5; values.len()]);
            }
        }
    }
}
