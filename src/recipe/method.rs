//! What a recipe must know of a merge method: its name, its parameters, how many models it takes.
//!
//! The methods themselves, with their arithmetic, live in [`crate::merge`]; each brings its
//! [`MethodSpec`] with it, and the registry there is handed to [`super::load`]. So a method is added
//! in one place, and recipes still know nothing of arithmetic.

use std::ops::RangeInclusive;

/// Where a parameter is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One value for each source: source, then slice, then recipe.
    Source,
    /// One value for the tensor: slice, then recipe.
    Tensor,
}

/// What a parameter is when the recipe gives no value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// An error; the base model needs none.
    Required,
    /// This value.
    Value(f64),
    /// Absent: the method does without.
    Absent,
}

/// A parameter of a method. Flags are numbers too: 0 is false.
#[derive(Clone, Copy, Debug)]
pub struct ParamSpec {
    pub name: &'static str,
    pub scope: Scope,
    pub default: Default,
    /// Accepted for the sake of recipes that give it, without effect on this method.
    pub ignored: bool,
    /// Values outside work, but are more likely a slip than meant.
    pub usual: (f64, f64),
}

const ANY: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);

impl ParamSpec {
    pub const fn source(name: &'static str, default: Default) -> ParamSpec {
        ParamSpec { name, scope: Scope::Source, default, ignored: false, usual: ANY }
    }

    pub const fn tensor(name: &'static str, default: Default) -> ParamSpec {
        ParamSpec { name, scope: Scope::Tensor, default, ignored: false, usual: ANY }
    }

    /// A parameter that recipes give to this method although it has no use for it.
    pub const fn ignored(name: &'static str) -> ParamSpec {
        ParamSpec {
            name,
            scope: Scope::Source,
            default: Default::Absent,
            ignored: true,
            usual: ANY,
        }
    }

    /// With a warning for values outside `low..=high`.
    pub const fn usually(self, low: f64, high: f64) -> ParamSpec {
        ParamSpec { usual: (low, high), ..self }
    }
}

/// What a method does with `base_model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseRule {
    /// It only names the donor of config and tokenizer.
    DonorOnly,
    /// The method computes with it: it must be given, and becomes a source if it is none.
    Required,
}

/// A merge method as recipes see it.
#[derive(Debug)]
pub struct MethodSpec {
    /// The value of `merge_method`.
    pub name: &'static str,
    /// The publication or page the method comes from.
    pub reference: &'static str,
    pub base: BaseRule,
    /// How many sources a slice may have, the base model counted.
    pub sources: RangeInclusive<usize>,
    /// A slice with a single source is taken over unchanged, whatever `sources` says.
    pub lone_source_is_copied: bool,
    pub params: &'static [ParamSpec],
    /// The source-scoped weights are divided by their sum when the flag of this name is set, so a sum
    /// of zero is an error.
    pub normalized_by: Option<&'static str>,
}

impl MethodSpec {
    pub fn param(&self, name: &str) -> Option<&'static ParamSpec> {
        self.params.iter().find(|param| param.name == name)
    }
}

/// Methods of mergekit 0.1 that this program does not compute yet: named so that the message can say
/// so instead of calling them unknown. (mergekit `merge_methods/registry.py`, June 2026.)
pub const PEER_METHODS: &[&str] = &[
    "arcee_fusion",
    "breadcrumbs",
    "breadcrumbs_ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "karcher",
    "linear",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "passthrough",
    "ram",
    "ramplus_tl",
    "sce",
    "slerp",
    "task_arithmetic",
    "ties",
];

/// Parameters of any method of the peer, past and present: in a recipe for a method that has no such
/// parameter they do nothing, which deserves a warning, not an error.
pub const PEER_PARAMS: &[&str] = &[
    "alpha",
    "density",
    "embed_slerp",
    "eps",
    "epsilon",
    "filter_wise",
    "gamma",
    "int8_mask",
    "lambda",
    "max_iter",
    "normalize",
    "normalize_weights",
    "nuslerp_flatten",
    "nuslerp_row_wise",
    "r",
    "rescale",
    "scale",
    "select_topk",
    "t",
    "tol",
    "weight",
];
