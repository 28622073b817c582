//! The heat map of two models' difference: a row for each layer, a column for each kind of tensor, one panel
//! for the relative error and one for the greatest difference. Tensors outside the layers stand below.

use super::layer_frame::{self as frame, AXIS, FONT, MAX_HEAD, PAD, SMALL, row_height};
use super::scale::{Scale, colour};
use super::svg::{Rect, Svg, fit, text_width};
use crate::report::tables::{Errors, ModelDifference, TensorDifferenceRow, place};
use crate::report::text::{one_line, significant};
use std::path::Path;

/// Between panels, and for a line below.
const GAP: f64 = 36.0;
const LINE: f64 = 18.0;
const LEAST_PANEL: f64 = 260.0;
const LEAST_COLUMN: f64 = 26.0;

const STYLE: &str = ".page{fill:#fff}.ink{fill:#1f2328}.muted{fill:#59636e}.equal{fill:#59636e;fill-opacity:.14}\
.cell:hover rect{stroke:#1f2328;stroke-width:1.5}";
/// The same on dark grounds.
pub(crate) const DARK_STYLE: &str = ".page{fill:#0d1117}.ink{fill:#e6edf3}.muted{fill:#9aa4af}.equal{fill:#9aa4af;fill-opacity:.18}\
.cell:hover rect{stroke:#e6edf3}";

/// The heat map as an SVG document of its own, on a light ground.
pub fn difference_svg(report: &ModelDifference) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", drawn(report))
}

/// The heat map as an `svg` element.
pub(crate) fn drawn(report: &ModelDifference) -> String {
    Picture::new(report).draw()
}

/// The title of the picture and of its page: the files' names.
pub(crate) fn title(report: &ModelDifference) -> String {
    let name = |path: &str| {
        let name = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
        one_line(&name.unwrap_or_else(|| path.to_string()))
    };
    format!("{} compared with {}", name(&report.second), name(&report.first))
}

/// A figure of all tensors.
struct Panel {
    title: &'static str,
    note: &'static str,
    value: fn(&Errors) -> f64,
    scale: Option<Scale>,
}

struct Picture<'a> {
    report: &'a ModelDifference,
    layers: Vec<usize>,
    kinds: Vec<&'a str>,
    /// Tensors outside the layers.
    others: Vec<&'a TensorDifferenceRow>,
    panels: [Panel; 2],
    row: f64,
    column: f64,
    /// Height of the columns' heads, top edge of the first row.
    head: f64,
    y: f64,
    svg: Svg,
}

impl<'a> Picture<'a> {
    fn new(report: &'a ModelDifference) -> Picture<'a> {
        let (within, others): (Vec<_>, Vec<_>) =
            report.tensors.iter().partition(|row| row.layer.is_some());
        let mut layers: Vec<usize> = within.iter().filter_map(|row| row.layer).collect();
        layers.sort_unstable();
        layers.dedup();
        let mut kinds: Vec<&str> = within.iter().map(|row| &*row.kind).collect();
        kinds.sort_by_key(|kind| (place(kind), *kind));
        kinds.dedup();
        let longest = kinds.iter().map(|kind| text_width(kind, SMALL)).fold(0.0, f64::max);
        let head = longest.min(MAX_HEAD) + 8.0;
        let panel = |title, note, value: fn(&Errors) -> f64| {
            let values = report.tensors.iter().filter_map(|row| row.errors.as_ref()).map(value);
            Panel { title, note, value, scale: Scale::logarithmic(values) }
        };
        Picture {
            report,
            row: row_height(layers.len()).min(18.0),
            column: (LEAST_PANEL / kinds.len().max(1) as f64).max(LEAST_COLUMN),
            layers,
            kinds,
            others,
            panels: [
                panel("Relative error", "|a - b| / |a|, grey: identical", |e| e.relative_error),
                panel("Greatest difference", "of a single weight", |e| e.max_abs),
            ],
            head,
            y: PAD + 104.0 + head,
            svg: Svg::new(),
        }
    }

    fn panel_width(&self) -> f64 {
        (self.kinds.len() as f64 * self.column).max(LEAST_PANEL)
    }

    fn rows_height(&self) -> f64 {
        self.layers.len() as f64 * self.row
    }

    fn draw(mut self) -> String {
        let panels = self.panels.len() as f64;
        let heading = text_width(&self.report.subtitle(), FONT).min(900.0);
        let right = PAD + AXIS + panels * (self.panel_width() + GAP) - GAP;
        let width = (right.max(PAD + heading) + PAD).ceil();
        let below = self.others.len() as f64 * LINE;
        let height = (self.y + self.rows_height() + 52.0 + below + PAD).ceil();
        let (title, subtitle) = (title(self.report), self.report.subtitle());
        frame::open(&mut self.svg, (width, height), STYLE, &title, &subtitle);
        frame::axis(&mut self.svg, self.y, self.row, self.layers.iter().copied());
        (0..self.panels.len()).for_each(|at| self.panel(at));
        self.svg.close();
        self.svg.finish()
    }

    fn panel(&mut self, at: usize) {
        let x = PAD + AXIS + at as f64 * (self.panel_width() + GAP);
        let Panel { title, note, value, scale } = self.panels[at];
        frame::panel_heading(&mut self.svg, x, title, note);
        for (nth, kind) in self.kinds.iter().enumerate() {
            let x = x + (nth as f64 + 0.5) * self.column + 4.0;
            frame::upright(&mut self.svg, x, self.y, self.head, kind);
        }
        let gap = if self.row >= 6.0 { 1.0 } else { 0.5 };
        for row in &self.report.tensors {
            let Some(layer) = row.layer else { continue };
            let nth = self.layers.binary_search(&layer).unwrap_or(0) as f64;
            let column = self.kinds.iter().position(|kind| *kind == row.kind).unwrap_or(0) as f64;
            let (left, top) = (x + column * self.column, self.y + nth * self.row);
            let (width, height) = (self.column - 1.0, self.row - gap);
            let place = Rect { x: left, y: top, width, height };
            cell(&mut self.svg, row, place, position(row, value, scale));
        }
        if let Some(scale) = scale {
            let (y, width) = (self.y + self.rows_height() + 14.0, self.panel_width() - 1.0);
            frame::legend(&mut self.svg, x, y, width, scale);
        }
        let mut y = self.y + self.rows_height() + 62.0;
        for row in &self.others {
            let place = Rect { x, y: y - 10.0, width: 12.0, height: 12.0 };
            cell(&mut self.svg, row, place, position(row, value, scale));
            let shown = match &row.errors {
                _ if row.identical => "identical".to_string(),
                Some(errors) => significant(value(errors) as f32),
                None => "not comparable".to_string(),
            };
            let text = format!("{}  {shown}", one_line(&row.name));
            let text = fit(&text, SMALL, self.panel_width() - 20.0);
            self.svg.text(x + 20.0, y, &[("class", "ink")], &text);
            y += LINE;
        }
    }
}

/// Where the tensor's figure stands on the scale.
fn position(
    row: &TensorDifferenceRow,
    value: fn(&Errors) -> f64,
    scale: Option<Scale>,
) -> Option<f64> {
    let value = row.errors.as_ref().map(value).filter(|_| !row.identical)?;
    scale.and_then(|scale| scale.position(value))
}

fn cell(svg: &mut Svg, row: &TensorDifferenceRow, at: Rect, position: Option<f64>) {
    svg.open("g", &[("class", "cell")]);
    let figures = match &row.errors {
        _ if row.identical => "identical".to_string(),
        Some(errors) => {
            let [rmse, relative, max] =
                [errors.rmse, errors.relative_error, errors.max_abs].map(|v| significant(v as f32));
            let cosine = errors.cosine.map_or("-".to_string(), |v| format!("{v:.6}"));
            format!(
                "RMSE {rmse}\nrelative error {relative}\ngreatest difference {max}\ncosine {cosine}"
            )
        }
        None => "not comparable".to_string(),
    };
    let words = format!("{}\n{}\n{figures}", one_line(&row.name), row.types());
    svg.element("title", &[], &words);
    match position {
        Some(position) => svg.rect(at, &[("fill", &colour(position))]),
        None => svg.rect(at, &[("class", "equal")]),
    }
    svg.close();
}
