//! Results of an evaluation as a table: a row for each statistic, a column for each model.

use super::table::table;
use crate::measure::evaluate::{Distribution, Divergence, Estimate, Evaluation, Evaluations};

/// The table that `aqueduct eval` shows. Without a reference there is a row for each model instead.
pub fn evaluation_table(results: &Evaluations) -> String {
    if results.reference.is_none() {
        let rows = results.models.iter().map(|m| {
            let counted = [m.chunks, m.tokens].map(|n| n.to_string());
            [vec![m.name.clone()], counted.to_vec(), vec![plain(m.perplexity, 4)]].concat()
        });
        return table(&["model", ">chunks", ">tokens", ">perplexity"], rows);
    }
    let mut heads = vec!["".to_string()];
    heads.extend(results.models.iter().map(|m| format!(">{}", m.name)));
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (label, show) in statistics(results) {
        let values = results.models.iter().map(|m| {
            let divergence = m.divergence.as_ref();
            divergence.map_or(String::new(), |divergence| show(m, divergence))
        });
        rows.push(std::iter::once(label).chain(values).collect());
    }
    table(&heads, rows)
}

/// What a row shows of a model.
type Show = Box<dyn Fn(&Evaluation, &Divergence) -> String>;

fn row(label: &str, show: impl Fn(&Evaluation, &Divergence) -> String + 'static) -> (String, Show) {
    (label.to_string(), Box::new(show))
}

fn statistics(results: &Evaluations) -> Vec<(String, Show)> {
    let mut rows = vec![
        row("tokens", |m, _| m.tokens.to_string()),
        row("perplexity", |m, _| plain(m.perplexity, 4)),
        row("  of the reference", |_, d| plain(d.reference_perplexity, 4)),
        row("  ratio", |_, d| plain(d.perplexity_ratio, 6)),
        row("  ln ratio", |_, d| plain(d.log_perplexity_ratio, 6)),
        row("  difference", |_, d| plain(d.perplexity_difference, 6)),
        row("  correlation of ln", |_, d| {
            d.correlation.map_or("-".into(), |c| format!("{:.2} %", 100.0 * c))
        }),
        row("same top token", |_, d| percent(d.same_top)),
        row("", |_, _| String::new()),
        row("KL divergence", |_, d| plain(d.kld.mean, 6)),
    ];
    let first = results.models.iter().find_map(|m| m.divergence.as_ref());
    let klds = |d: &Divergence| d.kld.clone();
    rows.extend(first.into_iter().flat_map(|d| distribution(&d.kld, klds, |v| format!("{v:.6}"))));
    rows.push(row("", |_, _| String::new()));
    rows.push(row("change of probability", |_, d| percent(d.probability_change.mean)));
    rows.push(row("  root mean square", |_, d| percent(d.probability_change_rms)));
    let changes = |d: &Divergence| d.probability_change.clone();
    let show = |v: f64| format!("{:.3} %", 100.0 * v);
    rows.extend(first.into_iter().flat_map(|d| distribution(&d.probability_change, changes, show)));
    rows
}

/// Rows for the extremes and percentiles that `like` has.
fn distribution(
    like: &Distribution,
    of: fn(&Divergence) -> Distribution,
    show: fn(f64) -> String,
) -> Vec<(String, Show)> {
    let mut rows = vec![row("  maximum", move |_, d| show(of(d).maximum))];
    for (index, percentile) in like.percentiles.iter().enumerate() {
        let label = match percentile.percent {
            50.0 => "  median".to_string(),
            percent => format!("{percent:>6.1} %"),
        };
        rows.push(row(&label, move |_, d| show(of(d).percentiles[index].value)));
    }
    rows.push(row("  minimum", move |_, d| show(of(d).minimum)));
    rows
}

fn plain(of: Estimate, digits: usize) -> String {
    format!("{:.digits$} +- {:.digits$}", of.value, of.error)
}

fn percent(of: Estimate) -> String {
    format!("{:.3} +- {:.3} %", 100.0 * of.value, 100.0 * of.error)
}
