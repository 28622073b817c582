//! The heat map of an importance matrix: a row for each layer, a column for each kind of tensor.
//!
//! Three panels show the sum of mean squared inputs, how evenly it is spread over the columns, and how like
//! the layer before a layer is; bars on the right show the layers' means, with the most and least important
//! ones marked. Tensors that are multiplied with the same input have equal figures and share a column.

use super::layer_frame::{self as frame, AXIS, FONT, MAX_HEAD, PAD, SMALL, row_height};
use super::palette;
use super::scale::{Scale, colour};
use super::svg::{Rect, Svg, number, text_width};
use crate::report::tables::{ImatrixStatistics, StatisticsRow, percent, similarity};
use crate::report::text::{one_line, significant};
use std::collections::BTreeMap;
use std::path::Path;

/// Between panels.
const GAP: f64 = 44.0;
/// A panel is no narrower than its words, and the bars are as wide.
const LEAST_PANEL: f64 = 190.0;
const BARS: f64 = 240.0;
/// Room that a kind's name takes in a column's head, side by side.
const NAME: f64 = 14.0;

const STYLE: &str = ".page{fill:#fff}.ink{fill:#1f2328}.muted{fill:#59636e}.faint{stroke:#59636e;stroke-opacity:.35}\
.empty{fill:#59636e;fill-opacity:.14}.cell:hover rect{stroke:#1f2328;stroke-width:1.5}";
/// The same on dark grounds.
pub(crate) const DARK_STYLE: &str = ".page{fill:#0d1117}.ink{fill:#e6edf3}.muted{fill:#9aa4af}.faint{stroke:#9aa4af}\
.empty{fill:#9aa4af;fill-opacity:.18}.cell:hover rect{stroke:#e6edf3}";

/// The heat map as an SVG document of its own, on a light ground.
pub fn imatrix_svg(report: &ImatrixStatistics) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", drawn(report))
}

/// The heat map as an `svg` element.
pub(crate) fn drawn(report: &ImatrixStatistics) -> String {
    Picture::new(report).draw()
}

/// The title of the picture and of its page: the file's name.
pub(crate) fn title(report: &ImatrixStatistics) -> String {
    let name = Path::new(&report.path).file_name().unwrap_or_default().to_string_lossy();
    format!("{}: importance by layer and tensor", one_line(&name))
}

/// Kinds of tensors with equal figures in every layer.
struct Column<'a> {
    kinds: Vec<&'a str>,
    /// By layer.
    cells: BTreeMap<usize, &'a StatisticsRow>,
}

impl Column<'_> {
    fn width(&self) -> f64 {
        (self.kinds.len() as f64 * NAME + 6.0).max(30.0)
    }

    fn same_figures(&self, other: &Column<'_>) -> bool {
        let figures = |row: &StatisticsRow| {
            (row.columns, row.sum_of_squares, row.entropy, row.cosine_similarity)
        };
        self.cells.len() == other.cells.len()
            && self.cells.iter().all(|(layer, row)| {
                other.cells.get(layer).is_some_and(|other| figures(row) == figures(other))
            })
    }
}

/// One figure of all tensors.
struct Panel {
    title: &'static str,
    note: &'static str,
    value: fn(&StatisticsRow) -> Option<f64>,
    scale: Option<Scale>,
}

struct Picture<'a> {
    report: &'a ImatrixStatistics,
    columns: Vec<Column<'a>>,
    panels: Vec<Panel>,
    row: f64,
    /// Height of the columns' heads, top edge of the first row.
    head: f64,
    y: f64,
    svg: Svg,
}

impl<'a> Picture<'a> {
    fn new(report: &'a ImatrixStatistics) -> Picture<'a> {
        let columns = columns(report);
        let names = columns.iter().flat_map(|column| &column.kinds);
        let longest = names.map(|name| text_width(name, SMALL)).fold(0.0, f64::max);
        let head = longest.min(MAX_HEAD) + 8.0;
        Picture {
            panels: panels(report),
            columns,
            row: row_height(report.layers.len()).min(18.0),
            head,
            y: PAD + 104.0 + head,
            svg: Svg::new(),
            report,
        }
    }

    fn panel_width(&self) -> f64 {
        self.columns.iter().map(Column::width).sum::<f64>().max(LEAST_PANEL)
    }

    fn panel_x(&self, at: usize) -> f64 {
        PAD + AXIS + at as f64 * (self.panel_width() + GAP)
    }

    fn rows_height(&self) -> f64 {
        self.report.layers.len() as f64 * self.row
    }

    fn draw(mut self) -> String {
        let bars = self.panel_x(self.panels.len());
        let heading = text_width(&self.report.subtitle(), FONT).min(900.0);
        let width = ((bars + BARS).max(PAD + heading) + PAD).ceil();
        let height = (self.y + self.rows_height() + 62.0 + PAD).ceil();
        let (title, subtitle) = (title(self.report), self.report.subtitle());
        frame::open(&mut self.svg, (width, height), STYLE, &title, &subtitle);
        frame::axis(
            &mut self.svg,
            self.y,
            self.row,
            self.report.layers.iter().map(|row| row.layer),
        );
        for at in 0..self.panels.len() {
            self.panel(at);
        }
        self.bars(bars);
        self.svg.close();
        self.svg.finish()
    }

    fn panel(&mut self, at: usize) {
        let x = self.panel_x(at);
        let Panel { title, note, value, scale } = self.panels[at];
        frame::panel_heading(&mut self.svg, x, title, note);
        let mut left = x;
        let stretch = self.panel_width() / self.columns.iter().map(Column::width).sum::<f64>();
        for column in std::mem::take(&mut self.columns) {
            let width = column.width() * stretch;
            self.column_head(&column, left, width);
            self.svg.open("g", &[("class", "column")]);
            for (nth, layer) in self.report.layers.iter().enumerate() {
                let y = self.y + nth as f64 * self.row;
                let gap = if self.row >= 6.0 { 1.0 } else { 0.5 };
                let place = Rect { x: left, y, width: width - 1.0, height: self.row - gap };
                if let Some(cell) = column.cells.get(&layer.layer) {
                    let position = value(cell).zip(scale).and_then(|(v, s)| s.position(v));
                    self.cell(&column, cell, place, position);
                }
            }
            self.svg.close();
            left += width;
            self.columns.push(column);
        }
        if let Some(scale) = scale {
            let (y, width) = (self.y + self.rows_height() + 14.0, self.panel_width() - 1.0);
            frame::legend(&mut self.svg, x, y, width, scale);
        }
    }

    /// The names of the column's kinds, side by side and upright.
    fn column_head(&mut self, column: &Column<'_>, left: f64, width: f64) {
        let names = column.kinds.len() as f64;
        for (nth, kind) in column.kinds.iter().enumerate() {
            let x = left + (width - names * NAME) / 2.0 + (nth as f64 + 0.5) * NAME + 4.0;
            frame::upright(&mut self.svg, x, self.y, self.head, kind);
        }
    }

    fn cell(&mut self, column: &Column<'_>, row: &StatisticsRow, at: Rect, position: Option<f64>) {
        self.svg.open("g", &[("class", "cell")]);
        let details = format!(
            "layer {}, {}\nΣ(act²) {}, mean {}, std dev {}\nmin {}, max {}, active {}\nentropy {:.4} \
             ({}), ZD score {}\ncosine with the layer before {}",
            row.layer.unwrap_or(0),
            column.kinds.join(", "),
            significant(row.sum_of_squares),
            significant(row.mean),
            significant(row.standard_deviation),
            significant(row.min),
            significant(row.max),
            percent(row.active),
            row.entropy,
            percent(row.normalized_entropy),
            percent(row.zd_score),
            similarity(row.cosine_similarity),
        );
        self.svg.element("title", &[], &details);
        match position {
            Some(position) => self.svg.rect(at, &[("fill", &colour(position))]),
            None => self.svg.rect(at, &[("class", "empty")]),
        }
        self.svg.close();
    }

    /// The layers' means as bars on a logarithmic scale.
    fn bars(&mut self, x: f64) {
        let sums = self.report.layers.iter().map(|row| f64::from(row.sum_of_squares));
        let Some(scale) = Scale::logarithmic(sums) else { return };
        let ranking = &self.report.ranking;
        frame::panel_heading(&mut self.svg, x, "Layers", "mean Σ(act²) of its tensors");
        let width = BARS - 34.0;
        let (top, bottom) = (self.y, self.y + self.rows_height());
        for (position, _) in scale.marks(5) {
            let at = number(x + position * width);
            let ends = [("x1", &*at), ("x2", &at), ("y1", &number(top)), ("y2", &number(bottom))];
            self.svg.leaf("line", &[&ends[..], &[("class", "faint")]].concat());
        }
        self.svg.open("g", &[("class", "bars")]);
        for (nth, row) in self.report.layers.iter().enumerate() {
            let rank = |list: &[usize]| list.iter().position(|layer| *layer == row.layer);
            let (fill, mark) = match (rank(&ranking.most_important), rank(&ranking.least_important))
            {
                (Some(rank), _) => (palette::hex(5), Some(format!("▲{}", rank + 1))),
                (_, Some(rank)) => (palette::hex(0), Some(format!("▼{}", rank + 1))),
                _ => (palette::hex(8), None),
            };
            let position = scale.position(row.sum_of_squares.into()).unwrap_or(0.0);
            let y = top + nth as f64 * self.row;
            let gap = if self.row >= 6.0 { 2.0 } else { 1.0 };
            let bar = Rect { x, y, width: (position * width).max(1.0), height: self.row - gap };
            self.svg.open("g", &[("class", "cell")]);
            let text = format!("layer {}: {}", row.layer, significant(row.sum_of_squares));
            self.svg.element("title", &[], &text);
            self.svg.rect(bar, &[("fill", fill)]);
            if let Some(mark) = mark {
                let (x, y) = (x + bar.width + 5.0, y + self.row / 2.0 + 3.0);
                let size = number(self.row.clamp(7.0, SMALL));
                self.svg.text(x, y, &[("class", "ink"), ("font-size", &size)], &mark);
            }
            self.svg.close();
        }
        self.svg.close();
        frame::marks(&mut self.svg, x, bottom + 16.0, width, scale);
        let key = "▲ the most important layers, ▼ the least";
        self.svg.text(x, bottom + 38.0, &[("class", "muted")], key);
    }
}

/// The kinds of tensors in layers, in the order of the flow, those with equal figures together.
fn columns(report: &ImatrixStatistics) -> Vec<Column<'_>> {
    let mut rows: Vec<_> = report.tensors.iter().filter(|row| row.layer.is_some()).collect();
    rows.sort_by(|a, b| StatisticsRow::by_kind(a, b));
    let mut columns: Vec<Column<'_>> = Vec::new();
    for of_kind in rows.chunk_by(|a, b| a.kind == b.kind) {
        let cells = of_kind.iter().filter_map(|row| Some((row.layer?, *row))).collect();
        let column = Column { kinds: vec![&of_kind[0].kind], cells };
        match columns.last_mut().filter(|last| last.same_figures(&column)) {
            Some(last) => last.kinds.extend(column.kinds),
            None => columns.push(column),
        }
    }
    columns
}

fn panels(report: &ImatrixStatistics) -> Vec<Panel> {
    let values = |value: fn(&StatisticsRow) -> Option<f64>| {
        report.tensors.iter().filter(|row| row.layer.is_some()).filter_map(value)
    };
    let sum: fn(&StatisticsRow) -> Option<f64> = |row| Some(row.sum_of_squares.into());
    let entropy: fn(&StatisticsRow) -> Option<f64> = |row| Some(row.normalized_entropy.into());
    let cosine: fn(&StatisticsRow) -> Option<f64> = |row| row.cosine_similarity.map(f64::from);
    vec![
        Panel {
            title: "Σ(act²)",
            note: "sum of mean squared inputs",
            value: sum,
            scale: Scale::logarithmic(values(sum)),
        },
        Panel {
            title: "Entropy",
            note: "low: a few columns have most of it",
            value: entropy,
            scale: Scale::linear_to(1.0, values(entropy)),
        },
        Panel {
            title: "Cosine similarity",
            note: "with the layer before",
            value: cosine,
            scale: Scale::linear_to(1.0, values(cosine)),
        },
    ]
}
