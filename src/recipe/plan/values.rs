//! Evaluating parameters for tensors, and saying which settings have no effect.

use super::merge_plan::{Value, Values};
use super::planner::Planner;
use crate::base::spelling::nearest;
use crate::recipe::method::{BaseRule, Default, MethodSpec, PEER_PARAMS, ParamSpec, Scope};
use crate::recipe::syntax::params::{Given, Setting, Settings, find, gradient};
use crate::recipe::syntax::schema::{Document, Inputs, NUMBERS, Seed};
use crate::recipe::syntax::yaml::{At, Pos};

/// The places where a parameter may be set, narrowest first.
pub(crate) type Places<'d> = [&'d Settings];

/// What is needed to evaluate the parameters of one tensor or one of its sources.
pub(crate) struct Ask<'a> {
    pub scope: Scope,
    /// The name that filters are tested against.
    pub tensor: &'a str,
    /// Gradient position.
    pub t: f64,
    /// A base model that the method computes with needs no required values.
    pub is_base: bool,
    /// Where to complain of a missing value, and whose it is.
    pub pos: Pos,
    pub whose: &'a str,
}

/// The values of the method's parameters with `ask.scope`; `None` if a required one is missing, which
/// is reported once for a source.
pub(crate) fn evaluate(
    planner: &mut Planner<'_>,
    spec: &MethodSpec,
    places: &Places<'_>,
    ask: &Ask<'_>,
) -> Option<Values> {
    let mut values = Vec::new();
    let mut ok = true;
    for param in spec.params.iter().filter(|p| p.scope == ask.scope && !p.ignored) {
        let found = places
            .iter()
            .filter_map(|settings| find(settings, param.name))
            .find_map(|setting| setting.deciding(ask.tensor));
        match (found, param.default) {
            (Some(clause), _) => {
                planner.used_clauses.insert(clause.pos);
                let filter = clause.filter.clone();
                let value = match &clause.given {
                    Given::Numbers(points) => Some(gradient(points, ask.t)),
                    Given::Word(word) => param.value_of(word),
                };
                match value {
                    Some(value) => values.push(Value { name: param.name, value, filter }),
                    None => ok = false, // A word without meaning, which has been reported.
                }
            }
            (None, Default::Value(value)) => {
                values.push(Value { name: param.name, value, filter: None });
            }
            (None, Default::Required) if !(ask.is_base && spec.base != BaseRule::DonorOnly) => {
                ok = false;
                report_missing(planner, spec, param, (ask.pos, ask.whose), places);
            }
            (None, _) => {}
        }
    }
    ok.then_some(Values(values))
}

fn report_missing(
    planner: &mut Planner<'_>,
    spec: &MethodSpec,
    param: &ParamSpec,
    (pos, whose): (Pos, &str),
    places: &Places<'_>,
) {
    let name = param.name;
    // A misspelt key or an unusable value has been reported; that it is missing says nothing more.
    let misspelt = |key: &str| is_unknown(spec, key) && nearest_param(spec, key) == Some(name);
    let reported = |(key, setting): &(At<String>, Setting)| {
        misspelt(&key.value) || (key.value == name && setting.clauses.is_empty())
    };
    if places.iter().any(|settings| settings.iter().any(reported)) {
        return;
    }
    let conditional = places.iter().any(|settings| find(settings, name).is_some());
    let message = format!("'{name}' is missing for {whose} (merge_method '{}')", spec.name);
    let remedy = if conditional {
        // The same words for every tensor, so that it is said once.
        format!("its filters leave some tensors out: add an entry '{{value: ...}}' to '{name}'")
    } else if param.scope == Scope::Source {
        format!("add 'parameters: {{{name}: 1.0}}' to the source")
    } else {
        format!("add 'parameters: {{{name}: 0.5}}' to the recipe or the slice")
    };
    planner.problems.error(pos, message, remedy);
}

/// Names of parameters that the method does not know, or does not read where they stand; and required
/// parameters that are nowhere.
pub(crate) fn check_names(
    planner: &mut Planner<'_>,
    document: &Document,
    spec: &'static MethodSpec,
) {
    let mut methods = document.ends.iter().filter_map(|end| end.document.method.as_ref());
    let random_end = methods
        .any(|method| planner.methods.iter().any(|spec| spec.random && spec.name == method.value));
    if let (Some(Seed::Recipe(seed)), false) = (&document.seed, spec.random || random_end) {
        let message =
            format!("'seed' has no effect: merge_method '{}' draws nothing at random", spec.name);
        planner.problems.warn(seed.pos, message, "remove it");
    }
    check_settings(planner, spec, &document.parameters, false);
    check_settings(planner, spec, &document.module_parameters, false);
    for slice in document.inputs.slices() {
        check_settings(planner, spec, &slice.parameters, false);
        for source in &slice.sources {
            check_settings(planner, spec, &source.parameters, true);
        }
    }
    check_required(planner, document, spec);
}

/// What [`evaluate`] would find missing for every tensor, found also where a slice cannot be planned.
fn check_required(planner: &mut Planner<'_>, document: &Document, spec: &'static MethodSpec) {
    for slice in document.inputs.slices().iter().filter(|slice| !slice.sources.is_empty()) {
        let wide = [&slice.parameters, &document.module_parameters, &document.parameters];
        let base = slice.base_model.as_ref().or(document.base_model.as_ref());
        let base = base.filter(|_| spec.base != BaseRule::DonorOnly).map(|base| &base.value);
        for source in slice.sources.iter().filter(|source| base != Some(&source.model.value)) {
            let whose = format!("source '{}'", source.model.value);
            let places = [&source.parameters, wide[0], wide[1], wide[2]];
            report_unset(planner, spec, Scope::Source, (source.model.pos, &whose), &places);
        }
        // A base model that is not listed becomes a source of `models`.
        let listed = base.is_none_or(|base| slice.sources.iter().any(|s| s.model.value == *base));
        let added = !listed && matches!(document.inputs, Inputs::Models(_));
        let count = slice.sources.len() + usize::from(added);
        if count != 1 || !spec.lone_source_is_copied {
            let pos = document.method.as_ref().map_or(document.pos, |method| method.pos);
            report_unset(planner, spec, Scope::Tensor, (pos, "the merge"), &wide);
        }
    }
}

/// Reports the required parameters of `scope` that none of `places` has a setting for.
fn report_unset(
    planner: &mut Planner<'_>,
    spec: &'static MethodSpec,
    scope: Scope,
    at: (Pos, &str),
    places: &Places<'_>,
) {
    for param in spec.params.iter().filter(|p| p.scope == scope && p.default == Default::Required) {
        if places.iter().all(|settings| find(settings, param.name).is_none()) {
            report_missing(planner, spec, param, at, places);
        }
    }
}

fn check_settings(
    planner: &mut Planner<'_>,
    spec: &MethodSpec,
    settings: &Settings,
    of_source: bool,
) {
    for (key, setting) in settings {
        let name = key.value.as_str();
        let known = spec.param(name);
        let problems = &mut planner.problems;
        match known.filter(|param| !param.ignored) {
            Some(param) if of_source && param.scope == Scope::Tensor => {
                let message = format!("'{name}' is not read from a source: all share one value");
                problems.warn(key.pos, message, "move it to the parameters of the slice or recipe");
            }
            Some(param) => check_values(planner, param, setting),
            None if known.is_some_and(|param| param.silent) => {}
            None if !is_unknown(spec, name) => {
                unused_parameter(planner, spec, name, key.pos);
            }
            None => {
                let own: Vec<&str> =
                    spec.params.iter().filter(|p| !p.ignored).map(|p| p.name).collect();
                let remedy = match nearest_param(spec, name) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("it has {}", own.join(", ")),
                };
                let message = format!("merge_method '{}' has no parameter '{name}'", spec.name);
                problems.error(key.pos, message, remedy);
            }
        }
    }
}

/// Whether neither the method nor any other has a parameter `name`.
fn is_unknown(spec: &MethodSpec, name: &str) -> bool {
    spec.param(name).is_none() && !PEER_PARAMS.contains(&name)
}

/// The parameter of the method that `name` most likely means.
fn nearest_param(spec: &MethodSpec, name: &str) -> Option<&'static str> {
    nearest(name, spec.params.iter().filter(|p| !p.ignored).map(|p| p.name))
}

/// Words that mean nothing, numbers that are impossible or strange.
fn check_values(planner: &mut Planner<'_>, param: &ParamSpec, setting: &Setting) {
    let name = param.name;
    for clause in &setting.clauses {
        let values = match &clause.given {
            Given::Numbers(values) => values,
            Given::Word(word) if param.value_of(word).is_some() => continue,
            Given::Word(word) => {
                let words: Vec<&str> = param.words.iter().map(|&(word, _)| word).collect();
                let (not, remedy) = if words.is_empty() {
                    ("not a number".to_string(), NUMBERS.to_string())
                } else {
                    (format!("not a number or {}", words.join(", ")), "use one of these".into())
                };
                let message = format!("'{name}' is the text '{word}', {not}");
                planner.problems.error(clause.pos, message, remedy);
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
            planner.problems.error(clause.pos, message, remedy);
        } else if let Some(message) = outside(param.usual) {
            let remedy = "it is used as it is, and extrapolates; check that this is meant";
            planner.problems.warn(clause.pos, message, remedy);
        }
    }
}

fn unused_parameter(planner: &mut Planner<'_>, spec: &MethodSpec, name: &str, pos: Pos) {
    let message = format!("'{name}' has no effect on merge_method '{}'", spec.name);
    planner.problems.warn(pos, message, "remove it, or choose the method that uses it");
}

/// Warns of filters that gave no tensor a value. `names` are all tensor names that were asked about.
pub(crate) fn warn_of_dead_filters(
    planner: &mut Planner<'_>,
    document: &Document,
    spec: &MethodSpec,
    names: &[&str],
) {
    let slices = document.inputs.slices();
    let sources = slices.iter().flat_map(|slice| &slice.sources);
    let all = [&document.parameters, &document.module_parameters]
        .into_iter()
        .chain(slices.iter().map(|slice| &slice.parameters))
        .chain(sources.map(|source| &source.parameters));
    for (key, setting) in all.flatten() {
        if spec.param(&key.value).is_some_and(|param| !param.ignored) {
            warn_of_dead_clauses(planner, setting, names);
        }
    }
}

fn warn_of_dead_clauses(planner: &mut Planner<'_>, setting: &Setting, names: &[&str]) {
    for clause in &setting.clauses {
        let Some(filter) = &clause.filter else { continue };
        if planner.used_clauses.contains(&clause.pos) {
            continue;
        }
        if names.iter().any(|name| name.contains(filter.as_str())) {
            let message = format!(
                "the filter '{filter}' never decides: earlier entries or closer settings take all \
                 tensors it matches"
            );
            planner.problems.warn(clause.pos, message, "move it up, or remove it");
        } else {
            let message = format!("the filter '{filter}' matches no tensor");
            let example = names.iter().find(|n| n.contains("layers")).or(names.first());
            let remedy = format!(
                "a filter is a part of names such as '{}'",
                example.copied().unwrap_or("model.norm.weight")
            );
            planner.problems.warn(clause.pos, message, remedy);
        }
    }
}
