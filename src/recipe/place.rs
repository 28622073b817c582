//! The place of a tensor in a stack of layers.

/// Where in the stack a tensor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackPlace {
    Embedding,
    Layer(usize),
    FinalNorm,
    Head,
}
