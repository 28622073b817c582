//! The plan of a merge as text: members, stages, and what each layer of the result is made of.
//!
//! Members get letters, so that a row stays on a line however many models go into it: `0.8 A:5` is
//! layer 5 of member A with weight 0.8. Parameters that have their method's default are not shown.

use super::table::table;
use crate::base::size;
use crate::recipe::{
    EndRow, LayerRow, MemberSummary, ParamCell, PlanSummary, SourceCell, StageSummary,
};
use crate::report::text::{letter, one_line};

/// The whole plan as tables, without a newline at the end.
pub fn render_merge(summary: &PlanSummary) -> String {
    let Some(output) = summary.stages.last() else { return String::new() };
    let end = |name: &str, end: fn(&StageSummary) -> &EndRow| {
        let EndRow { method, sources, params, .. } = end(output);
        Formulas { summary, end }.row(name.to_string(), method, sources, params)
    };
    let layer = |row: &LayerRow| {
        // A layer is made of layers, so this end is never looked at.
        let formulas = Formulas { summary, end: |stage| &stage.embedding };
        formulas.row(row.layer.to_string(), output.method, &row.sources, &row.params)
    };
    let rows = std::iter::once(end("embedding", |stage| &stage.embedding))
        .chain(output.layers.iter().map(layer))
        .chain([end("norm", |stage| &stage.final_norm), end("head", |stage| &stage.head)]);
    let legend = "A:3 is layer 3 of member A, 0.5 before it its weight; * marks the base model";
    let layers = table(&[">layer", "stage", "made of"], rows);
    let layers = format!("{layers}\n\n{legend}");
    [members(summary), stages(summary), layers, donors(output)].join("\n\n")
}

/// Where the output's configuration and tokenizer come from.
pub(crate) fn donors(output: &StageSummary) -> String {
    format!(
        "config.json from {} ({})\ntokenizer from {} ({})",
        one_line(&output.config_donor.member),
        one_line(&output.config_donor.reason),
        one_line(&output.tokenizer_donor.member),
        one_line(&output.tokenizer_donor.reason)
    )
}

/// How a row of `stage` is made: `linear: 0.8 A:0 + 0.2 B:0`. `layer` is none for an end, which `end` then
/// picks.
pub(crate) fn formula(
    summary: &PlanSummary,
    stage: &StageSummary,
    layer: Option<usize>,
    end: fn(&StageSummary) -> &EndRow,
) -> String {
    let (sources, params) = match layer.and_then(|layer| stage.layers.get(layer)) {
        Some(row) => (&row.sources, &row.params),
        None => {
            let EndRow { sources, params, .. } = end(stage);
            (sources, params)
        }
    };
    if sources.is_empty() {
        return "tied to the embedding".to_string();
    }
    Formulas { summary, end }.combination(stage.method, sources, params)
}

pub(crate) fn members(summary: &PlanSummary) -> String {
    let rows = summary.members.iter().enumerate().map(|(index, member)| {
        let MemberSummary { reference, class, layers, vocabulary, parameters, bytes, .. } = member;
        vec![
            letter(index),
            one_line(reference),
            one_line(class),
            layers.to_string(),
            vocabulary.to_string(),
            size::count(*parameters),
            size::display(*bytes),
        ]
    });
    table(&["", "member", "class", ">layers", ">vocabulary", ">parameters", ">size"], rows)
}

pub(crate) fn stages(summary: &PlanSummary) -> String {
    let rows = summary.stages.iter().map(|stage| {
        vec![
            one_line(&stage.name),
            methods(stage),
            stage.layers.len().to_string(),
            stage.out_dtype.or(stage.dtype).unwrap_or("as its inputs").to_string(),
            size::count(stage.parameters),
        ]
    });
    table(&["stage", "method", ">layers", "type", ">parameters"], rows)
}

/// The stage's method, and those of its ends where they are merged apart: `passthrough; embedding, norm and
/// head: linear`.
pub(crate) fn methods(stage: &StageSummary) -> String {
    let ends =
        [("embedding", &stage.embedding), ("norm", &stage.final_norm), ("head", &stage.head)];
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (name, end) in ends.iter().filter(|(_, end)| end.apart) {
        match groups.iter_mut().find(|(method, _)| *method == end.method) {
            Some((_, names)) => names.push(name),
            None => groups.push((end.method, vec![name])),
        }
    }
    let mut text = stage.method.to_string();
    for (method, names) in groups {
        let list = match names.as_slice() {
            [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
            names => names.concat(),
        };
        text += &format!("; {list}: {method}");
    }
    text
}

/// Writes down what tensors are made of, down to the members.
struct Formulas<'a> {
    summary: &'a PlanSummary,
    /// Which end of a stage is meant where a source names no layer.
    end: fn(&StageSummary) -> &EndRow,
}

impl Formulas<'_> {
    /// A row of the table of layers.
    fn row(
        &self,
        name: String,
        method: &str,
        sources: &[SourceCell],
        params: &[ParamCell],
    ) -> Vec<String> {
        let stage = match sources {
            [] => return vec![name, String::new(), "tied to the embedding".to_string()],
            [only] if only.is_stage => place(&only.from, only.layer),
            _ => String::new(),
        };
        vec![name, stage, self.combination(method, sources, params)]
    }

    /// `linear: 0.8 A:0 + 0.2 B:0`; a source that is handed through stands alone.
    fn combination(&self, method: &str, sources: &[SourceCell], params: &[ParamCell]) -> String {
        let params = shown(params);
        if let ([only], true) = (sources, params.is_empty())
            && shown(&only.params).is_empty()
        {
            return self.origin(only, true);
        }
        let terms: Vec<_> = sources.iter().map(|source| self.term(source)).collect();
        let params = params.iter().map(|param| format!(", {param}"));
        format!("{method}: {}{}", terms.join(" + "), params.collect::<String>())
    }

    /// A source with its weight before it and its other parameters after it.
    fn term(&self, source: &SourceCell) -> String {
        let plain_weight = |p: &&ParamCell| p.name == "weight" && p.by_filter.is_empty();
        let weight = source.params.iter().find(plain_weight);
        let weight = weight.map_or(String::new(), |p| format!("{} ", number(p.min)));
        let others: Vec<_> = source.params.iter().filter(|p| !plain_weight(p)).cloned().collect();
        let others = match shown(&others) {
            list if list.is_empty() => String::new(),
            list => format!(" [{}]", list.join(", ")),
        };
        let base = if source.is_base { "*" } else { "" };
        format!("{weight}{}{base}{others}", self.origin(source, false))
    }

    /// The member's letter, or what the stage makes of members: `alone` where no other term follows.
    fn origin(&self, source: &SourceCell, alone: bool) -> String {
        if !source.is_stage {
            let index = self.summary.members.iter().position(|m| m.reference == source.from);
            return place(&index.map_or(source.from.clone(), letter), source.layer);
        }
        let label = place(&source.from, source.layer);
        let stage = self.summary.stages.iter().find(|stage| stage.name == source.from);
        let Some(stage) = stage else { return label };
        let (method, sources, params) = match source.layer.and_then(|at| stage.layers.get(at)) {
            Some(row) => (stage.method, &row.sources, &row.params),
            None => {
                let EndRow { method, sources, params, .. } = (self.end)(stage);
                (*method, sources, params)
            }
        };
        let inner = self.combination(method, sources, params);
        if alone { inner } else { format!("{label} ({inner})") }
    }
}

/// `lower:2`, or only the name for embedding, norm and head.
fn place(name: &str, layer: Option<usize>) -> String {
    match layer {
        Some(layer) => format!("{}:{layer}", one_line(name)),
        None => one_line(name),
    }
}

/// The parameters that are not the default: `t 0.5 (mlp 0.4)`, where filters give some tensors another
/// value than the rest.
fn shown(params: &[ParamCell]) -> Vec<String> {
    let cell = |cell: &ParamCell| {
        if cell.by_filter.is_empty() {
            let value = cell.word.map_or_else(|| number(cell.min), str::to_string);
            return format!("{} {value}", cell.name);
        }
        let rest = cell.by_filter.iter().find(|v| v.filter.is_none()).map(|v| v.value);
        let others = cell.by_filter.iter().filter(|v| Some(v.value) != rest);
        let others: Vec<_> = others
            .map(|v| format!("{} {}", v.filter.as_deref().unwrap_or("rest"), number(v.value)))
            .collect();
        let rest = rest.map_or(String::new(), |value| format!(" {}", number(value)));
        format!("{}{rest} ({})", cell.name, others.join(", "))
    };
    params.iter().filter(|param| !param.is_default).map(cell).collect()
}

/// Three decimals at the most.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}
