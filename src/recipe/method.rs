//! What a recipe must know of a merge method: its name, its parameters, how many models it takes.
//!
//! The methods themselves, with their arithmetic, live in [`crate::merge`]; each brings its
//! [`MethodSpec`] with it, and the registry there is handed to [`super::load`]. So a method is added
//! in one place, and recipes still know nothing of arithmetic.

use std::ops::RangeInclusive;

/// Where a parameter is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamScope {
    /// One value for each source: source, then slice, then recipe.
    Source,
    /// One value for the tensor: slice, then recipe.
    Tensor,
}

/// What a parameter is when the recipe gives no value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParamDefault {
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
    pub scope: ParamScope,
    pub default: ParamDefault,
    /// Accepted for the sake of recipes that give it, without effect on this method.
    pub ignored: bool,
    /// Whether an ignored parameter is passed over without a warning.
    pub silent: bool,
    /// Values outside work, but are more likely a slip than meant.
    pub usual: (f64, f64),
    /// Values outside are errors.
    pub within: (f64, f64),
    /// Words that recipes may write instead of a number, and what they stand for.
    pub words: &'static [(&'static str, f64)],
}

const ANY: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);

impl ParamSpec {
    const fn new(name: &'static str, scope: ParamScope, default: ParamDefault) -> ParamSpec {
        ParamSpec {
            name,
            scope,
            default,
            ignored: false,
            silent: false,
            usual: ANY,
            within: ANY,
            words: &[],
        }
    }

    pub const fn source(name: &'static str, default: ParamDefault) -> ParamSpec {
        ParamSpec::new(name, ParamScope::Source, default)
    }

    pub const fn tensor(name: &'static str, default: ParamDefault) -> ParamSpec {
        ParamSpec::new(name, ParamScope::Tensor, default)
    }

    /// A parameter that recipes give to this method although it has no use for it.
    pub const fn ignored(name: &'static str) -> ParamSpec {
        ParamSpec {
            ignored: true,
            ..ParamSpec::new(name, ParamScope::Source, ParamDefault::Absent)
        }
    }

    /// A parameter of mergekit's method that says how it computes, not what: nothing here depends on
    /// it, and a recipe that gives it is right.
    pub const fn silent(name: &'static str) -> ParamSpec {
        ParamSpec { silent: true, ..ParamSpec::ignored(name) }
    }

    /// With a warning for values outside `low..=high`.
    pub const fn usually(self, low: f64, high: f64) -> ParamSpec {
        ParamSpec { usual: (low, high), ..self }
    }

    /// With an error for values outside `low..=high`.
    pub const fn within(self, low: f64, high: f64) -> ParamSpec {
        ParamSpec { within: (low, high), ..self }
    }

    /// With words that stand for values.
    pub const fn words(self, words: &'static [(&'static str, f64)]) -> ParamSpec {
        ParamSpec { words, ..self }
    }

    /// What `word` stands for.
    pub fn value_of(&self, word: &str) -> Option<f64> {
        self.words.iter().find(|(known, _)| *known == word).map(|&(_, value)| value)
    }

    /// The word for `value`, if there is one.
    pub fn word_of(&self, value: f64) -> Option<&'static str> {
        self.words.iter().find(|(_, known)| *known == value).map(|&(word, _)| word)
    }
}

/// What a method does with `base_model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseRule {
    /// It only names the donor of config and tokenizer.
    DonorOnly,
    /// The method computes with it if it is given, and without it otherwise; in `models` it then
    /// becomes a source if it is none.
    Optional,
    /// The method computes with it: it must be given, and becomes a source if it is none.
    Required,
}

/// Evaluated parameters by name, in the order of the method's list.
#[derive(Clone, Debug, Default)]
pub struct ParamValues(pub Vec<ParamValue>);

#[derive(Clone, Debug, PartialEq)]
pub struct ParamValue {
    pub name: &'static str,
    pub value: f64,
    /// The filter of the clause it came from.
    pub filter: Option<String>,
}

impl ParamValues {
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|v| v.name == name).map(|v| v.value)
    }

    /// The value of a parameter that the method's list requires or gives a default.
    ///
    /// # Panics
    /// If it is not there; a plan that exists has it.
    pub fn need(&self, name: &str) -> f64 {
        self.get(name).unwrap_or_else(|| panic!("the plan lacks parameter '{name}'"))
    }

    /// Whether the flag `name` is set.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| v != 0.0)
    }
}

/// A merge method as recipes see it.
#[derive(Debug)]
pub struct MethodSpec {
    /// The value of `merge_method`.
    pub name: &'static str,
    /// The publication or page the method comes from.
    pub reference: &'static str,
    pub base: BaseRule,
    /// How many sources a slice may have; a required base model counts, an optional one does not.
    pub sources: RangeInclusive<usize>,
    /// A slice with a single source is taken over unchanged, whatever `sources` says.
    pub lone_source_is_copied: bool,
    pub params: &'static [ParamSpec],
    /// The source-scoped weights are divided by their sum when the flag of this name is set, so a sum
    /// of zero is an error.
    pub normalized_by: Option<&'static str>,
    /// Whether the result depends on the stage's `seed`.
    pub random: bool,
    /// Whether the values of one source go together, for what [`ParamSpec::within`] cannot say.
    pub check_source: Option<CheckSource>,
}

/// Judges the values of one source.
pub(super) type CheckSource = fn(&ParamValues) -> Result<(), ParamConflict>;

/// Why values do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamConflict {
    /// Names no numbers, so that what is wrong with many tensors is said once.
    pub message: &'static str,
    pub remedy: &'static str,
}

impl MethodSpec {
    /// What most methods have in common, for the fields that they do not name.
    pub const PLAIN: MethodSpec = MethodSpec {
        name: "",
        reference: "",
        base: BaseRule::DonorOnly,
        sources: 1..=usize::MAX,
        lone_source_is_copied: false,
        params: &[],
        normalized_by: None,
        random: false,
        check_source: None,
    };

    pub fn param(&self, name: &str) -> Option<&'static ParamSpec> {
        self.params.iter().find(|param| param.name == name)
    }
}

/// Parameters of any method of mergekit, past and present: in a recipe for a method that has no such
/// parameter they do nothing, which deserves a warning, not an error.
pub(super) const MERGEKIT_PARAMS: &[&str] = &[
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
