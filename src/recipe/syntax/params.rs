//! Parameter settings and how one number comes out of them for a tensor.
//!
//! The rules are mergekit's (`config.py`, `evaluate_setting`; `plan.py`, `plan_slice`): a
//! conditional list takes its first clause that matches the tensor's name; a list of numbers is a
//! gradient over the layers of a slice.

use super::yaml::{Located, Pos};

/// One entry of a conditional list; a plain setting is a single clause without a filter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ParamClause {
    pub pos: Pos,
    /// A part of tensor names; `None` (or `*` in the recipe) matches all.
    pub filter: Option<String>,
    pub given: ClauseValue,
}

/// The value of a clause.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ClauseValue {
    /// One value, or the points of a gradient. Never empty.
    Numbers(Vec<f64>),
    /// A text that is no number; the method's parameter says whether it stands for one.
    Word(String),
}

impl ParamClause {
    fn matches(&self, tensor: &str) -> bool {
        self.filter.as_deref().is_none_or(|part| tensor.contains(part))
    }
}

/// What a recipe gives for one parameter in one place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ParamSetting {
    pub pos: Pos,
    /// Empty if what the recipe gives is unusable, and reported.
    pub clauses: Vec<ParamClause>,
}

impl ParamSetting {
    /// The clause that decides for `tensor`; `None` if none matches, whereupon the next wider place is
    /// asked.
    pub(crate) fn deciding(&self, tensor: &str) -> Option<&ParamClause> {
        self.clauses.iter().find(|clause| clause.matches(tensor))
    }
}

/// The parameters of one place in the recipe (top, slice or source), by name.
pub(crate) type ParamSettings = Vec<(Located<String>, ParamSetting)>;

/// The setting called `name`.
pub(crate) fn find<'a>(settings: &'a ParamSettings, name: &str) -> Option<&'a ParamSetting> {
    settings.iter().find(|(key, _)| key.value == name).map(|(_, setting)| setting)
}

/// The gradient position of layer `index` of a slice of `count` layers: 0 at the first, 1 at the last,
/// 1 if there is only one. Tensors outside the layers use 0.
pub(crate) fn position(index: usize, count: usize) -> f64 {
    if count > 1 { index as f64 / (count - 1) as f64 } else { 1.0 }
}

/// Piecewise linear through `values` spread evenly over `t` in 0..=1.
///
/// # Panics
/// If `values` is empty.
pub(crate) fn gradient(values: &[f64], t: f64) -> f64 {
    let scaled = t * (values.len() - 1) as f64;
    let left = (scaled as usize).min(values.len() - 1);
    let right = (left + 1).min(values.len() - 1);
    let fraction = scaled - left as f64;
    (1.0 - fraction) * values[left] + fraction * values[right]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values computed in float64 from the rule's definition.
    #[test]
    fn gradients_follow_the_rule_within_a_slice() {
        let points = [0.0, 0.5, 0.3, 0.7, 1.0];
        let at = |layer, of| gradient(&points, position(layer, of));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 5e-7, "{a} is not {b}");
        close(at(0, 48), 0.0);
        close(at(10, 48), 0.425532);
        close(at(23, 48), 0.308511);
        close(at(47, 48), 1.0);
        close(at(0, 1), 1.0);
        close(gradient(&points, 0.0), 0.0);
        close(gradient(&[0.4], 0.7), 0.4);
    }

    #[test]
    fn the_first_clause_that_matches_decides() {
        let clause = |filter: Option<&str>, values: &[f64]| ParamClause {
            pos: Pos::default(),
            filter: filter.map(str::to_string),
            given: ClauseValue::Numbers(values.to_vec()),
        };
        let setting = ParamSetting {
            pos: Pos::default(),
            clauses: vec![clause(Some("mlp"), &[0.0, 1.0]), clause(Some("attn"), &[0.25])],
        };
        let deciding = |tensor: &str| setting.deciding(tensor).and_then(|c| c.filter.as_deref());
        assert_eq!(deciding("model.layers.3.mlp.up_proj.weight"), Some("mlp"));
        assert_eq!(deciding("model.layers.3.self_attn.q_proj.weight"), Some("attn"));
        assert!(setting.deciding("model.norm.weight").is_none());
    }
}
