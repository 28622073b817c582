//! report.html of a folder of quants: size against quality, importance by layer, types of tensors, the stack,
//! timings. One page that needs no other file, no network and no script.

use super::published::{Figures, Published, PublishedFile, QUANTIZING};
use crate::base::size;
use crate::report::pictures::scatter::{self, Plot, Point};
use crate::report::pictures::type_map::{self, TypeMap};
use crate::report::pictures::{escape, importance, page, stack};

const STYLE: &str = "main{padding:8px 24px 40px}main h1{margin:16px 0 4px}main h2{margin:32px 0 8px}\
table{border-collapse:collapse}th,td{padding:3px 14px 3px 0;text-align:right;white-space:nowrap}\
th:first-child,td:first-child{text-align:left}th{border-bottom:1px solid #59636e}.note{color:#59636e;max-width:860px}";
const DARK_STYLE: &str = "main .note{color:#9aa4af}";
/// Divergences below this are the noise of log-probabilities in 16 bits.
const LEAST_KLD: f64 = 1e-5;

/// The page.
pub fn published_html(folder: &Published) -> String {
    let title = format!("{}: sizes and quality", folder.name);
    let mut body = format!("<h1>{}</h1>\n", escape(&folder.name));
    let made = format!(
        "{} parameters, {}; Aqueduct {}",
        size::count(folder.parameters),
        folder.architecture,
        env!("CARGO_PKG_VERSION")
    );
    body += &format!("<p class=\"note\">{}</p>\n", escape(&made));
    let mut section = |heading: &str, markup: &str| {
        if !markup.is_empty() {
            body += &format!("<h2>{}</h2>\n{markup}", escape(heading));
        }
    };
    section("Files", &files(folder));
    section("Size against quality", &plots(folder));
    section("Importance of layers", &importance::drawn(&folder.imatrix.statistics));
    section("Types of tensors", &type_maps(&folder.files));
    if let Some(merge) = &folder.merge {
        section("The stack", &stack::drawn(&merge.summary, &folder.name));
    }
    section("Timings", &timings(folder));
    let rules = |picture: &str| -> String {
        picture.split_inclusive('}').map(|rule| format!("main {rule}")).collect()
    };
    let style = [STYLE, scatter::STYLE, type_map::STYLE].concat();
    let dark = [
        DARK_STYLE.to_string(),
        scatter::DARK_STYLE.to_string(),
        type_map::DARK_STYLE.to_string(),
        rules(importance::DARK_STYLE),
        rules(stack::DARK_STYLE),
    ];
    page(&title, &style, &dark.concat(), &body)
}

fn type_maps(files: &[PublishedFile]) -> String {
    let maps: Vec<_> = files
        .iter()
        .map(|PublishedFile { ftype, bits_per_weight, tensors, .. }| TypeMap {
            caption: format!("{ftype}, {bits_per_weight:.2} bits per weight"),
            tensors,
        })
        .collect();
    type_map::drawn(&maps)
}

fn table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let cells = |tag: &str, cells: &[String]| -> String {
        let cells = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let heads: Vec<_> = heads.iter().map(|head| head.to_string()).collect();
    let rows: String = rows.map(|row| cells("td", &row)).collect();
    format!("<table>\n{}{rows}</table>\n", cells("th", &heads))
}

fn files(folder: &Published) -> String {
    let measured = folder.evaluation.is_some();
    let mut heads = vec!["type", "size", "bits per weight"];
    if measured {
        heads.extend(["perplexity", "mean KLD", "same top token"]);
    }
    let row = |file: &PublishedFile| {
        let bits = format!("{:.2}", file.bits_per_weight);
        let mut row = vec![file.ftype.clone(), size::display(file.bytes), bits];
        if let Some(Figures { perplexity, kld, same_top }) = file.figures.filter(|_| measured) {
            row.push(format!("{:.4} ± {:.4}", perplexity.value, perplexity.error));
            row.push(format!("{:.6} ± {:.6}", kld.value, kld.error));
            row.push(format!("{:.2} %", 100.0 * same_top.value));
        }
        row
    };
    table(&heads, folder.files.iter().map(row))
}

/// Divergence and perplexity against size, where they were measured.
fn plots(folder: &Published) -> String {
    let Some(evaluation) = &folder.evaluation else { return String::new() };
    let mut left_out = Vec::new();
    let mut divergences = Vec::new();
    let mut perplexities = Vec::new();
    for file in &folder.files {
        let Some(figures) = file.figures else { continue };
        let point = |y: f64| Point {
            label: file.ftype.clone(),
            details: format!(
                "{}\n{}, {:.2} bits per weight\nperplexity {:.4}, mean KLD {:.6}, same top token {:.2} %",
                file.ftype,
                size::display(file.bytes),
                file.bits_per_weight,
                figures.perplexity.value,
                figures.kld.value,
                100.0 * figures.same_top.value
            ),
            x: file.bytes as f64,
            y,
        };
        match figures.kld.value >= LEAST_KLD {
            true => divergences.push(point(figures.kld.value)),
            false => left_out.push(file.ftype.as_str()),
        }
        perplexities.push(point(figures.perplexity.value));
    }
    let show_x = |bytes: f64| size::display(bytes.round() as u64);
    let plot = |title, y, points, mark| {
        scatter::drawn(&Plot { title, x: "size of the file", y, points, mark, show_x })
    };
    let reference = Some((evaluation.perplexity.value, "the source"));
    let mut markup = plot("Divergence from the source", "mean KLD, nats", &divergences, None);
    if !left_out.is_empty() {
        let text = format!("Below {LEAST_KLD:.5}, not drawn: {}.", left_out.join(", "));
        markup += &format!("<p class=\"note\">{}</p>\n", escape(&text));
    }
    markup += &plot("Perplexity", "perplexity", &perplexities, reference);
    let note = format!(
        "Over {} tokens of {} in chunks of {}; lower is better.",
        evaluation.tokens, evaluation.text, evaluation.ctx
    );
    markup + &format!("<p class=\"note\">{}</p>\n", escape(&note))
}

fn timings(folder: &Published) -> String {
    let mut rows = Vec::new();
    for (stage, seconds) in &folder.timings {
        rows.push(vec![stage.to_string(), format!("{seconds:.1}")]);
        if *stage == QUANTIZING {
            let of = |file: &PublishedFile| {
                vec![format!("\u{2007}{}", file.ftype), format!("{:.2}", file.seconds)]
            };
            rows.extend(folder.files.iter().map(of));
        }
    }
    table(&["stage", "seconds"], rows.into_iter())
}
