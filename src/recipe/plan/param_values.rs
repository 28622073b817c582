//! Evaluating parameters for tensors, and reporting settings that have no effect.

use crate::base::spelling::nearest;
use crate::recipe::method::{
    BaseRule, MERGEKIT_PARAMS, MethodSpec, ParamDefault, ParamScope, ParamSpec, ParamValue,
    ParamValues,
};
use crate::recipe::syntax::diagnostics::Diagnostics;
use crate::recipe::syntax::params::{ClauseValue, ParamSetting, ParamSettings, find, gradient};
use crate::recipe::syntax::schema::{NUMBERS, RecipeDocument, Seed, StackInputs};
use crate::recipe::syntax::yaml::{Located, Pos};
use std::collections::BTreeSet;

/// The places where a parameter may be set, narrowest first.
type Places<'d> = [&'d ParamSettings];

/// Positions of the clauses that gave some tensor its value.
#[derive(Default)]
pub(super) struct UsedClauses(BTreeSet<Pos>);

/// Which parameters [`evaluate`] evaluates, and for which tensor.
pub(super) struct ParamQuery<'a> {
    pub scope: ParamScope,
    /// The name that filters are compared with.
    pub tensor: &'a str,
    /// Gradient position, from 0 to 1.
    pub t: f64,
    /// Whether the source is the base model, which needs no required values if the method uses it.
    pub is_base: bool,
    /// Where a missing value is reported.
    pub pos: Pos,
    /// Names the source in that report: " for source 'NAME'", or nothing.
    pub owner: &'a str,
}

/// The values of the method's parameters with the scope of `query`; `None` if a value is missing or
/// unusable, which is reported once for each source.
pub(super) fn evaluate(
    spec: &MethodSpec,
    places: &Places<'_>,
    query: &ParamQuery<'_>,
    used: &mut UsedClauses,
    problems: &mut Diagnostics,
) -> Option<ParamValues> {
    let mut values = Vec::new();
    let mut ok = true;
    for param in spec.params.iter().filter(|p| p.scope == query.scope && !p.ignored) {
        let found = places
            .iter()
            .filter_map(|settings| find(settings, param.name))
            .find_map(|setting| setting.deciding(query.tensor));
        match (found, param.default) {
            (Some(clause), _) => {
                used.0.insert(clause.pos);
                let filter = clause.filter.clone();
                let value = match &clause.given {
                    ClauseValue::Numbers(points) => Some(gradient(points, query.t)),
                    ClauseValue::Word(word) => param.value_of(word),
                };
                match value {
                    Some(value) => values.push(ParamValue { name: param.name, value, filter }),
                    None => ok = false, // The unknown word has been reported.
                }
            }
            (None, ParamDefault::Value(value)) => {
                values.push(ParamValue { name: param.name, value, filter: None });
            }
            (None, ParamDefault::Required)
                if !(query.is_base && spec.base != BaseRule::DonorOnly) =>
            {
                ok = false;
                report_missing(spec, param, (query.pos, query.owner), places, problems);
            }
            (None, _) => {}
        }
    }
    ok.then_some(ParamValues(values))
}

fn report_missing(
    spec: &MethodSpec,
    param: &ParamSpec,
    (pos, owner): (Pos, &str),
    places: &Places<'_>,
    problems: &mut Diagnostics,
) {
    let name = param.name;
    // A misspelt key or an unusable value has been reported.
    let misspelt = |key: &str| is_unknown(spec, key) && nearest_param(spec, key) == Some(name);
    let reported = |(key, setting): &(Located<String>, ParamSetting)| {
        misspelt(&key.value) || (key.value == name && setting.clauses.is_empty())
    };
    if places.iter().any(|settings| settings.iter().any(reported)) {
        return;
    }
    let conditional = places.iter().any(|settings| find(settings, name).is_some());
    let message = format!("'{name}' is missing{owner} (merge_method '{}')", spec.name);
    let remedy = if conditional {
        // The same words for every tensor, so that they are reported once.
        format!("its filters leave some tensors out: add an entry '{{value: ...}}' to '{name}'")
    } else if param.scope == ParamScope::Source {
        format!("add 'parameters: {{{name}: 1.0}}' to the source")
    } else {
        format!("add 'parameters: {{{name}: 0.5}}' to the recipe or the slice")
    };
    problems.error(pos, message, remedy);
}

/// Reports parameters that the method does not have or does not read at their place, and required
/// parameters without any setting. `methods` are all methods that recipes may name.
pub(super) fn check_names(
    methods: &[&'static MethodSpec],
    document: &RecipeDocument,
    spec: &'static MethodSpec,
    problems: &mut Diagnostics,
) {
    let is_random = |name: &str| methods.iter().any(|spec| spec.random && spec.name == name);
    let mut ends = document.ends.iter().filter_map(|end| end.document.method.as_ref());
    let random_end = ends.any(|method| is_random(&method.value));
    if let (Some(Seed::Recipe(seed)), false) = (&document.seed, spec.random || random_end) {
        let message = format!("'seed' has no effect: merge_method '{}' is not random", spec.name);
        problems.warn(seed.pos, message, "remove it");
    }
    check_settings(spec, &document.parameters, false, problems);
    check_settings(spec, &document.module_parameters, false, problems);
    for slice in document.inputs.slices() {
        check_settings(spec, &slice.parameters, false, problems);
        for source in &slice.sources {
            check_settings(spec, &source.parameters, true, problems);
        }
    }
    check_required(document, spec, problems);
}

/// Reports what [`evaluate`] would find missing for every tensor, also where a slice cannot be
/// planned.
fn check_required(
    document: &RecipeDocument,
    spec: &'static MethodSpec,
    problems: &mut Diagnostics,
) {
    for slice in document.inputs.slices().iter().filter(|slice| !slice.sources.is_empty()) {
        let wide = [&slice.parameters, &document.module_parameters, &document.parameters];
        let base = slice.base_model.as_ref().or(document.base_model.as_ref());
        let base = base.filter(|_| spec.base != BaseRule::DonorOnly).map(|base| &base.value);
        for source in slice.sources.iter().filter(|source| base != Some(&source.model.value)) {
            let owner = format!(" for source '{}'", source.model.value);
            let places = [&source.parameters, wide[0], wide[1], wide[2]];
            let at = (source.model.pos, owner.as_str());
            report_unset(spec, ParamScope::Source, at, &places, problems);
        }
        // A base model that is not listed becomes a source of `models`.
        let listed = base.is_none_or(|base| slice.sources.iter().any(|s| s.model.value == *base));
        let added = !listed && matches!(document.inputs, StackInputs::Models(_));
        let count = slice.sources.len() + usize::from(added);
        if count != 1 || !spec.lone_source_is_copied {
            let pos = document.method.as_ref().map_or(document.pos, |method| method.pos);
            report_unset(spec, ParamScope::Tensor, (pos, ""), &wide, problems);
        }
    }
}

/// Reports the required parameters of `scope` that none of `places` has a setting for.
fn report_unset(
    spec: &'static MethodSpec,
    scope: ParamScope,
    at: (Pos, &str),
    places: &Places<'_>,
    problems: &mut Diagnostics,
) {
    for param in
        spec.params.iter().filter(|p| p.scope == scope && p.default == ParamDefault::Required)
    {
        if places.iter().all(|settings| find(settings, param.name).is_none()) {
            report_missing(spec, param, at, places, problems);
        }
    }
}

fn check_settings(
    spec: &MethodSpec,
    settings: &ParamSettings,
    of_source: bool,
    problems: &mut Diagnostics,
) {
    for (key, setting) in settings {
        let name = key.value.as_str();
        let known = spec.param(name);
        match known.filter(|param| !param.ignored) {
            Some(param) if of_source && param.scope == ParamScope::Tensor => {
                let message =
                    format!("'{name}' is not read from a source: all sources share one value");
                problems.warn(key.pos, message, "move it to the parameters of the slice or recipe");
            }
            Some(param) => check_values(param, setting, problems),
            None if known.is_some_and(|param| param.silent) => {}
            None if !is_unknown(spec, name) => {
                warn_of_unused(spec, name, key.pos, problems);
            }
            None => {
                let own: Vec<&str> =
                    spec.params.iter().filter(|p| !p.ignored).map(|p| p.name).collect();
                let remedy = match nearest_param(spec, name) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("its parameters are {}", own.join(", ")),
                };
                let message = format!("merge_method '{}' has no parameter '{name}'", spec.name);
                problems.error(key.pos, message, remedy);
            }
        }
    }
}

/// Whether neither the method nor any other has a parameter `name`.
fn is_unknown(spec: &MethodSpec, name: &str) -> bool {
    spec.param(name).is_none() && !MERGEKIT_PARAMS.contains(&name)
}

/// The parameter of the method that is spelled most like `name`.
fn nearest_param(spec: &MethodSpec, name: &str) -> Option<&'static str> {
    nearest(name, spec.params.iter().filter(|p| !p.ignored).map(|p| p.name))
}

/// Reports unknown words and numbers outside the limits of `param`.
fn check_values(param: &ParamSpec, setting: &ParamSetting, problems: &mut Diagnostics) {
    let name = param.name;
    for clause in &setting.clauses {
        let values = match &clause.given {
            ClauseValue::Numbers(values) => values,
            ClauseValue::Word(word) if param.value_of(word).is_some() => continue,
            ClauseValue::Word(word) => {
                let words: Vec<&str> = param.words.iter().map(|&(word, _)| word).collect();
                let (not, remedy) = if words.is_empty() {
                    ("not a number", NUMBERS.to_string())
                } else {
                    let remedy = format!("give a number or one of: {}", words.join(", "));
                    ("not a number or a known word", remedy)
                };
                let message = format!("'{name}' is the text '{word}', {not}");
                problems.error(clause.pos, message, remedy);
                continue;
            }
        };
        let outside = |(low, high): (f64, f64)| {
            let value = values.iter().find(|v| !(low..=high).contains(*v))?;
            Some(if high == f64::INFINITY {
                format!("'{name}' is {value}, less than {low}")
            } else {
                format!("'{name}' is {value}, outside {low} to {high}")
            })
        };
        if let Some(message) = outside(param.within) {
            let (low, high) = param.within;
            let remedy = if high == f64::INFINITY {
                format!("give {low} or more")
            } else {
                format!("give a number from {low} to {high}")
            };
            problems.error(clause.pos, message, remedy);
        } else if let Some(message) = outside(param.usual) {
            let remedy =
                "check that this is intended: the value is used as it is, and extrapolates";
            problems.warn(clause.pos, message, remedy);
        }
    }
}

fn warn_of_unused(spec: &MethodSpec, name: &str, pos: Pos, problems: &mut Diagnostics) {
    let message = format!("'{name}' has no effect on merge_method '{}'", spec.name);
    problems.warn(pos, message, "remove it, or choose a method that uses it");
}

/// Warns of filters that gave no tensor a value. `names` are the tensors of the output.
pub(super) fn warn_of_unused_filters(
    document: &RecipeDocument,
    spec: &MethodSpec,
    names: &[&str],
    used: &UsedClauses,
    problems: &mut Diagnostics,
) {
    let slices = document.inputs.slices();
    let sources = slices.iter().flat_map(|slice| &slice.sources);
    let all = [&document.parameters, &document.module_parameters]
        .into_iter()
        .chain(slices.iter().map(|slice| &slice.parameters))
        .chain(sources.map(|source| &source.parameters));
    for (key, setting) in all.flatten() {
        if spec.param(&key.value).is_some_and(|param| !param.ignored) {
            warn_of_unused_clauses(setting, names, used, problems);
        }
    }
}

fn warn_of_unused_clauses(
    setting: &ParamSetting,
    names: &[&str],
    used: &UsedClauses,
    problems: &mut Diagnostics,
) {
    for clause in &setting.clauses {
        let Some(filter) = &clause.filter else { continue };
        if used.0.contains(&clause.pos) {
            continue;
        }
        if names.iter().any(|name| name.contains(filter.as_str())) {
            let message = format!(
                "the filter '{filter}' has no effect: earlier entries or narrower settings apply to all \
                 tensors it matches"
            );
            problems.warn(clause.pos, message, "move it up, or remove it");
        } else {
            let message = format!("the filter '{filter}' matches no tensor");
            let example = names.iter().find(|n| n.contains("layers")).or(names.first());
            let remedy = format!(
                "write a part of tensor names such as '{}'",
                example.copied().unwrap_or("model.norm.weight")
            );
            problems.warn(clause.pos, message, remedy);
        }
    }
}
