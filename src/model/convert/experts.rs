//! The experts' matrices of a checkpoint, gathered into stacks: GGUF has one tensor for all experts of a layer.

use crate::model::arch::TensorDecl;
use std::collections::BTreeMap;

/// What was met so far of the layers whose experts are not complete.
#[derive(Default)]
pub(super) struct Stacks {
    layers: BTreeMap<usize, Layer>,
}

/// For each declaration, by its place in the architecture's list, the index of each expert's tensor.
type Layer = BTreeMap<usize, Vec<Option<usize>>>;

/// A stack that is complete: the declaration's place in the architecture's list, and the index of each
/// expert's tensor in the checkpoint.
pub(super) type Stack = (usize, Vec<usize>);

impl Stacks {
    /// Takes note of tensor `index` of the checkpoint, the matrix of `expert` in `layer` that the
    /// declaration at `place` of `decls` stands for, of `count` experts. With the last one of a layer all
    /// its stacks are complete, and are given in the order of the declarations: there llama.cpp's
    /// converter writes them.
    ///
    /// # Panics
    /// If `expert` is not below `count`.
    pub(super) fn add(
        &mut self,
        decls: &[TensorDecl],
        (place, layer, expert): (usize, usize, usize),
        count: usize,
        index: usize,
    ) -> Vec<Stack> {
        let stacked = |(place, decl): (usize, &TensorDecl)| {
            decl.is_stacked().then(|| (place, vec![None; count]))
        };
        let new = || decls.iter().enumerate().filter_map(stacked).collect();
        let found = self.layers.entry(layer).or_insert_with(new);
        if let Some(stack) = found.get_mut(&place) {
            stack[expert] = Some(index);
        }
        let complete = |(&place, stack): (&usize, &Vec<Option<usize>>)| {
            Some((place, stack.iter().copied().collect::<Option<Vec<usize>>>()?))
        };
        let stacks: Option<Vec<Stack>> = found.iter().map(complete).collect();
        if stacks.is_some() {
            self.layers.remove(&layer);
        }
        stacks.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::arch::Architecture;

    #[test]
    fn stacks_come_with_the_last_matrix_of_a_layer() {
        let arch = Architecture::for_hf_class("test", "MixtralForCausalLM").unwrap();
        let stacked: Vec<usize> =
            (0..arch.tensors.len()).filter(|&place| arch.tensors[place].is_stacked()).collect();
        assert_eq!(stacked.len(), 3);
        let mut stacks = Stacks::default();
        let mut index = 100;
        let mut given = Vec::new();
        // The experts of two layers, mixed and backwards.
        for expert in [1, 0] {
            for layer in [3, 1] {
                for &place in stacked.iter().rev() {
                    given.push(stacks.add(arch.tensors, (place, layer, expert), 2, index));
                    index += 1;
                }
            }
        }
        let complete: Vec<usize> = (0..given.len()).filter(|&i| !given[i].is_empty()).collect();
        assert_eq!(complete, [8, 11]);
        let [gate, down, up] = stacked[..] else { panic!("three matrices") };
        assert_eq!(
            given[8],
            [(gate, vec![108, 102]), (down, vec![107, 101]), (up, vec![106, 100])]
        );
    }
}
