//! The plan of a merge as text: members, stages, and what each layer of the result is made of.

use super::table::table;
use crate::recipe::{LayerRow, MemberSummary, ParamCell, PlanSummary, SourceCell, StageSummary};
use crate::size;

/// The whole plan as tables, without a newline at the end.
pub fn render_merge(summary: &PlanSummary) -> String {
    let Some(output) = summary.stages.last() else { return String::new() };
    let rows = std::iter::once(end_row("embedding", &output.embedding, summary))
        .chain(output.layers.iter().map(|row| layer_row(row, summary)))
        .chain([
            end_row("norm", &output.final_norm, summary),
            end_row("head", &output.head, summary),
        ]);
    let donors = format!(
        "config.json from {} ({})\ntokenizer from {} ({})",
        output.config_donor.member,
        output.config_donor.reason,
        output.tokenizer_donor.member,
        output.tokenizer_donor.reason
    );
    [members(summary), stages(summary), table(&[">layer", "from", "made of"], rows), donors]
        .join("\n\n")
}

fn members(summary: &PlanSummary) -> String {
    let rows = summary.members.iter().map(|member| {
        let MemberSummary { reference, class, layers, vocabulary, parameters, bytes, .. } = member;
        vec![
            reference.clone(),
            class.clone(),
            layers.to_string(),
            vocabulary.to_string(),
            format!("{:.3}B", *parameters as f64 / 1e9),
            size::display(*bytes),
        ]
    });
    table(&["member", "class", ">layers", ">vocabulary", ">parameters", ">size"], rows)
}

fn stages(summary: &PlanSummary) -> String {
    let rows = summary.stages.iter().map(|stage| {
        vec![
            stage.name.clone(),
            stage.method.to_string(),
            stage.layers.len().to_string(),
            stage.out_dtype.or(stage.dtype).unwrap_or("as its inputs").to_string(),
            format!("{:.3}B", stage.parameters as f64 / 1e9),
        ]
    });
    table(&["stage", "method", ">layers", "type", ">parameters"], rows)
}

fn layer_row(row: &LayerRow, summary: &PlanSummary) -> Vec<String> {
    vec![
        row.layer.to_string(),
        row.sources.iter().map(place).collect::<Vec<_>>().join(" + "),
        made_of(&row.sources, &row.params, summary),
    ]
}

fn end_row(name: &str, sources: &[SourceCell], summary: &PlanSummary) -> Vec<String> {
    let from = sources.iter().map(place).collect::<Vec<_>>().join(" + ");
    if from.is_empty() {
        return vec![name.to_string(), "tied to the embedding".to_string(), String::new()];
    }
    vec![name.to_string(), from, made_of(sources, &[], summary)]
}

/// A source and its layer: `ends`, `lower 2`.
fn place(source: &SourceCell) -> String {
    match source.layer {
        Some(layer) => format!("{} {layer}", source.from),
        None => source.from.clone(),
    }
}

/// The members that `sources` come from in the end, with weights; stages are looked through.
fn made_of(sources: &[SourceCell], params: &[ParamCell], summary: &PlanSummary) -> String {
    let terms: Vec<_> = sources.iter().map(|source| term(source, summary)).collect();
    let joined = terms.join(" + ");
    if params.is_empty() { joined } else { format!("{joined} ({})", cells(params)) }
}

fn term(source: &SourceCell, summary: &PlanSummary) -> String {
    let weights = cells(&source.params);
    let weights = if weights.is_empty() { weights } else { format!(" [{weights}]") };
    let stage = summary.stages.iter().find(|s| source.is_stage && s.name == source.from);
    let Some(stage) = stage else { return format!("{}{weights}", place(source)) };
    let StageSummary { method, layers, embedding, .. } = stage;
    // Embedding, norm and head of a stage are made of the same members in the same way.
    let (inner, params) = match source.layer.and_then(|layer| layers.get(layer)) {
        Some(row) => (&row.sources, row.params.as_slice()),
        None => (embedding, &[][..]),
    };
    format!("{method}({}){weights}", made_of(inner, params, summary))
}

/// `weight 0.3, scale 0.4..0.6`; filters by name where tensors differ.
fn cells(params: &[ParamCell]) -> String {
    let number = |v: f64| {
        let text = format!("{v:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    };
    let cell = |cell: &ParamCell| {
        let values: Vec<String> = cell
            .by_filter
            .iter()
            .map(|v| format!("{} {}", v.filter.as_deref().unwrap_or("rest"), number(v.value)))
            .collect();
        let value = if values.is_empty() { number(cell.min) } else { values.join("; ") };
        format!("{} {value}", cell.name)
    };
    params.iter().map(cell).collect::<Vec<_>>().join(", ")
}
