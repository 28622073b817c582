//! The picture of a stack: a row for each layer of the result, divided among its members by their shares.
//!
//! The result's column stands in the middle, its embedding on top as in the recipe's text, its head at the
//! bottom. Stages stand to the left, with bands that lead to the rows they become; arcs on the right join
//! rows that use the same layer of a member; further right stands what each run of rows is made of. The
//! legend on top tells each member's colour, size, part in the result and which of its layers are used.

use super::labels::{self, FONT, LINE, Label};
use super::layout::{LANE, LANE_BAR, LANE_LINK, LANE_NAME, Layout, Piece};
use super::rows::{self, LEAST_SHARE, Repeat, Row};
use crate::base::size;
use crate::recipe::{MemberShare, PlanSummary, StageSummary};
use crate::report::pictures::palette;
use crate::report::pictures::svg::{FONTS, Rect, Svg, fit, number, text_width};
use crate::report::text::{letter, one_line};

const PAD: f64 = 28.0;
/// Width of the result's column, and of the numbers to the left of it.
const COLUMN: f64 = 220.0;
const AXIS: f64 = 74.0;
/// From the column or its arcs to the brackets, and from there to the labels.
const BRACKET: f64 = 8.0;
const LABEL: f64 = 16.0;
const MAX_ARC: f64 = 120.0;
const MAX_NAME: f64 = 330.0;
/// Where members' names begin.
const NAME: f64 = PAD + 46.0;
const LEGEND_LINE: f64 = 20.0;
const STRIP: f64 = 190.0;

/// Colours of text, lines and ground on light grounds.
const STYLE: &str = ".page{fill:#fff}.ink{fill:#1f2328}.muted{fill:#59636e}.rule{stroke:#59636e;fill:none}\
.faint{stroke:#59636e;stroke-opacity:.35;fill:none}.link{fill:#59636e;fill-opacity:.16}\
.empty{fill:#59636e;fill-opacity:.14}.unused{opacity:.3}.halo{paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round}\
.arc{fill:none;stroke-width:1.2;stroke-opacity:.65}.row:hover rect,.arc:hover{filter:brightness(.85)}";

/// The same on dark ones, for pages that follow the reader's choice.
pub(crate) const DARK_STYLE: &str = ".page{fill:#0d1117}.ink{fill:#e6edf3}.muted{fill:#9aa4af}.rule{stroke:#9aa4af}\
.faint{stroke:#9aa4af}.link{fill:#9aa4af;fill-opacity:.2}.empty{fill:#9aa4af;fill-opacity:.18}.halo{stroke:#0d1117}\
.row:hover rect,.arc:hover{filter:brightness(1.25)}";

/// The plan's stack as an SVG document of its own, on a light ground. `title` is the model's name.
pub fn stack_svg(summary: &PlanSummary, title: &str) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", drawn(summary, title))
}

/// The picture as an `svg` element.
pub(crate) fn drawn(summary: &PlanSummary, title: &str) -> String {
    let Some(layout) = Layout::of(summary) else { return String::new() };
    Picture::new(summary, title, layout).draw()
}

struct Picture<'a> {
    summary: &'a PlanSummary,
    stage: &'a StageSummary,
    title: &'a str,
    layout: Layout,
    labels: Vec<Label>,
    repeats: Vec<Repeat>,
    /// Left edge of the result's column, top edge of the first row.
    x: f64,
    y: f64,
    svg: Svg,
}

impl<'a> Picture<'a> {
    fn new(summary: &'a PlanSummary, title: &'a str, layout: Layout) -> Picture<'a> {
        let names: Vec<_> = rows::short_names(&summary.members);
        let names: Vec<_> = names.iter().map(|name| fit(name, FONT, MAX_NAME / 1.6)).collect();
        let labels = labels::labels(summary, &layout, &names);
        let stage = &summary.stages[layout.output.stage];
        Picture {
            repeats: rows::repeats(stage),
            x: PAD + layout.lanes as f64 * LANE + AXIS,
            y: 116.0 + (summary.members.len() + 1) as f64 * LEGEND_LINE + 36.0,
            svg: Svg::new(),
            summary,
            stage,
            title,
            layout,
            labels,
        }
    }

    fn draw(mut self) -> String {
        let labels = self.labels.iter().flat_map(|label| &label.lines).map(|line| line.width());
        let right = self.bracket() + LABEL + labels.fold(0.0, f64::max);
        let heading = PAD + text_width(&self.subtitle(), 13.0);
        let width = (right.max(self.legend_end()).max(heading) + PAD).ceil();
        let below = self.labels.last().map_or(0.0, |label| label.top + label.height());
        let height = (self.y + self.layout.height().max(below) + PAD).ceil();
        let (w, h) = (number(width), number(height));
        let title = format!("{}: what each layer is made of", self.title);
        let all: &[(&str, &str)] = &[
            ("xmlns", "http://www.w3.org/2000/svg"),
            ("viewBox", &format!("0 0 {w} {h}")),
            ("width", &w),
            ("height", &h),
            ("font-family", FONTS),
            ("font-size", &number(FONT)),
            ("role", "img"),
        ];
        self.svg.open("svg", all);
        self.svg.element("title", &[], &title);
        self.svg.element("style", &[], STYLE);
        self.patterns();
        let page = Rect { x: 0.0, y: 0.0, width, height };
        self.svg.rect(page, &[("class", "page")]);
        self.heading();
        self.legend();
        self.links();
        for at in 0..self.layout.pieces.len() {
            self.piece(at);
        }
        self.column();
        self.axis();
        self.label_texts();
        self.arcs();
        self.svg.close();
        self.svg.finish()
    }

    /// Where the brackets of the labels stand.
    fn bracket(&self) -> f64 {
        let arcs = self.repeats.iter().map(|repeat| self.arc_width(repeat));
        let widest = arcs.fold(0.0, f64::max);
        self.x + COLUMN + widest + BRACKET
    }

    fn arc_width(&self, repeat: &Repeat) -> f64 {
        let span = (repeat.rows.1 - repeat.rows.0) as f64 * self.layout.row;
        (8.0 + 0.35 * span).min(MAX_ARC) + 4.0 * repeat.nth as f64
    }

    /// Patterns that tell apart the members that share a colour.
    fn patterns(&mut self) {
        let most = (0..self.summary.members.len()).map(palette::pattern).max().unwrap_or(0);
        if most == 0 {
            return;
        }
        self.svg.open("defs", &[]);
        for (pattern, turn) in (1..=most).zip(["45", "-45", "0"]) {
            self.svg.open(
                "pattern",
                &[
                    ("id", &format!("pattern-{pattern}")),
                    ("width", "5"),
                    ("height", "5"),
                    ("patternUnits", "userSpaceOnUse"),
                    ("patternTransform", &format!("rotate({turn})")),
                ],
            );
            let line = Rect { x: 0.0, y: 0.0, width: 1.8, height: 5.0 };
            self.svg.rect(line, &[("fill", "#fff"), ("fill-opacity", ".75")]);
            self.svg.close();
        }
        self.svg.close();
    }

    fn subtitle(&self) -> String {
        let dtype = self.stage.out_dtype.or(self.stage.dtype);
        let dtype = dtype.map_or(String::new(), |name| format!(" in {name}"));
        let (layers, members) = (self.stage.layers.len(), self.summary.members.len());
        let mut facts = vec![
            self.stage.method.to_string(),
            some(layers, "layer"),
            format!("{} parameters", size::count(self.summary.parameters)),
            format!("{}{dtype}", size::display(self.summary.bytes)),
            some(members, "member"),
        ];
        if self.summary.stages.len() > 1 {
            facts.push(some(self.summary.stages.len() - 1, "stage") + " before it");
        }
        facts.join(" · ")
    }

    fn heading(&mut self) {
        let title = fit(self.title, 20.0, 720.0);
        let bold: &[(&str, &str)] =
            &[("class", "ink"), ("font-size", "20"), ("font-weight", "600")];
        self.svg.text(PAD, PAD + 16.0, bold, &title);
        let muted: &[(&str, &str)] = &[("class", "muted"), ("font-size", "13")];
        let subtitle = self.subtitle();
        self.svg.text(PAD, PAD + 40.0, muted, &subtitle);
    }

    /// Ends of the legend's columns: name, layers, parameters, share; then where the strips begin.
    fn legend_columns(&self) -> [f64; 5] {
        let names = self.summary.members.iter();
        let widths = names.map(|member| text_width(&member.reference, FONT).min(MAX_NAME));
        let name = NAME + 4.0 + widths.fold(60.0, f64::max);
        [name, name + 56.0, name + 140.0, name + 222.0, name + 246.0]
    }

    fn legend_end(&self) -> f64 {
        let hints = text_width(&self.hints(), 11.0) + PAD;
        (self.legend_columns()[4] + STRIP).max(hints)
    }

    fn hints(&self) -> String {
        let mut hints = vec!["A row is a layer; colours are the members' shares of it."];
        if !self.layout.pieces.is_empty() {
            hints.push("Bands lead from stages to the rows that use them.");
        }
        if !self.repeats.is_empty() {
            hints.push("Arcs join rows that use the same layer of a member.");
        }
        if Row::all(self.stage).iter().any(|row| row.made_of(self.stage).0.iter().any(|g| g.delta))
        {
            hints.push("Δ, half high: a difference added to the base model, by its weight.");
        }
        hints.join(" ")
    }

    fn legend(&mut self) {
        let [name, layers, parameters, share, strip] = self.legend_columns();
        let y = PAD + 74.0;
        let head: &[(&str, &str)] = &[("class", "muted"), ("font-size", "11")];
        let right: &[(&str, &str)] = &[("text-anchor", "end")];
        self.svg.text(NAME, y, head, "member");
        for (x, text) in [(layers, "layers"), (parameters, "parameters"), (share, "of the result")]
        {
            self.svg.text(x, y, &[head, right].concat(), text);
        }
        self.svg.text(strip, y, head, "layers used");
        for (at, member) in self.summary.members.iter().enumerate() {
            let y = y + (at + 1) as f64 * LEGEND_LINE;
            let swatch = Rect { x: PAD, y: y - 11.0, width: 14.0, height: 14.0 };
            self.svg.open("g", &[("class", "member")]);
            let donor = if member.config_donor { "; gives config.json" } else { "" };
            self.svg.element("title", &[], &format!("{}{donor}", member.class));
            self.fill(swatch, at, "part");
            let ink: &[(&str, &str)] = &[("class", "ink")];
            self.svg.text(PAD + 22.0, y, &[ink, &[("font-weight", "600")]].concat(), &letter(at));
            let text = fit(&one_line(&member.reference), FONT, name - PAD - 40.0);
            self.svg.text(NAME, y, ink, &text);
            let right: &[(&str, &str)] = &[ink, right].concat();
            self.svg.text(layers, y, right, &member.layers.to_string());
            self.svg.text(parameters, y, right, &size::count(member.parameters));
            self.svg.text(share, y, right, &format!("{:.1} %", member.share * 100.0));
            self.strip(
                Rect { x: strip, y: y - 9.0, width: STRIP, height: 10.0 },
                at,
                member.layers,
            );
            self.svg.close();
        }
        let y = y + (self.summary.members.len() + 1) as f64 * LEGEND_LINE + 6.0;
        let hints = self.hints();
        self.svg.text(PAD, y, head, &hints);
    }

    /// Which layers of a member the result uses: the more of one, the stronger.
    fn strip(&mut self, at: Rect, member: usize, layers: usize) {
        self.svg.rect(at, &[("class", "empty")]);
        let mut sums = vec![0.0f64; layers];
        for row in &self.stage.layers {
            for given in row.made_of.iter().filter(|given| given.member == member) {
                if let Some(sum) = given.layer.and_then(|layer| sums.get_mut(layer)) {
                    *sum += given.share;
                }
            }
        }
        // Five strengths, so that neighbours can be drawn as one.
        let strengths: Vec<u32> =
            sums.iter().map(|sum| (sum.min(1.0) * 5.0).ceil() as u32).collect();
        let cell = at.width / layers.max(1) as f64;
        let mut first = 0;
        for equal in strengths.chunk_by(|a, b| a == b) {
            if equal[0] > 0 {
                let (x, width) = (at.x + first as f64 * cell, equal.len() as f64 * cell);
                let opacity = number(f64::from(equal[0]) * 0.17 + 0.15);
                let colour = [("fill", palette::hex(member)), ("fill-opacity", &*opacity)];
                self.svg.rect(Rect { x, width, ..at }, &colour);
            }
            first += equal.len();
        }
    }

    /// A rectangle in a member's colour, with its pattern.
    fn fill(&mut self, at: Rect, member: usize, class: &str) {
        self.svg.rect(at, &[("class", class), ("fill", palette::hex(member))]);
        let pattern = palette::pattern(member);
        if pattern > 0 {
            self.svg.rect(at, &[("fill", &format!("url(#pattern-{pattern})"))]);
        }
    }

    /// A row of any stage, divided among its members.
    fn row(&mut self, stage: usize, row: Row, at: Rect, used: bool) {
        let summary = self.summary;
        let stage = &summary.stages[stage];
        let (made_of, _) = row.made_of(stage);
        self.svg.open("g", &[("class", if used { "row" } else { "row unused" })]);
        self.svg.element("title", &[], &rows::details(summary, stage, row));
        if made_of.is_empty() {
            self.svg.rect(at, &[("class", "rule"), ("stroke-dasharray", "3 3")]);
        }
        let base = made_of.iter().filter(|given| !given.delta);
        let base = base.max_by(|a, b| a.share.total_cmp(&b.share)).map(|given| given.member);
        if let (Some(base), true) = (base, made_of.iter().any(|given| given.delta)) {
            self.fill(at, base, "under");
        }
        for (given, x, width) in segments(made_of, at.x, at.width) {
            let height = if given.delta { (at.height * 0.6).round() } else { at.height };
            self.fill(Rect { x, width, height, ..at }, given.member, "part");
        }
        self.svg.close();
    }

    fn rows(&mut self, piece: &[(Row, f64, f64)], stage: usize, x: f64, y: f64, width: f64) {
        for &(row, top, height) in piece {
            let used = stage == self.layout.output.stage || self.layout.used[stage].contains(&row);
            let gap = if height >= 6.0 { 1.0 } else { 0.5 };
            self.row(stage, row, Rect { x, y: y + top, width, height: height - gap }, used);
        }
    }

    fn column(&mut self) {
        let (rows, stage) = (self.layout.output.rows.clone(), self.layout.output.stage);
        self.svg.open("g", &[("class", "stack")]);
        self.rows(&rows, stage, self.x, self.y, COLUMN);
        // Seams show where runs begin that have the same colours as the one before.
        for run in rows::runs(&self.stage.layers).into_iter().skip(1) {
            let top = self.layout.output.top(Row::Layer(run.start)).unwrap_or(0.0);
            let seam = Rect { x: self.x, y: self.y + top - 1.5, width: COLUMN, height: 2.0 };
            self.svg.rect(seam, &[("class", "page")]);
        }
        self.svg.close();
    }

    /// Left edge of the bars in a lane.
    fn lane(&self, lane: usize) -> f64 {
        PAD + (self.layout.lanes - 1 - lane) as f64 * LANE + LANE_NAME
    }

    fn piece(&mut self, at: usize) {
        let Piece { stage, ref rows, y, lane, .. } = self.layout.pieces[at];
        let (rows, summary) = (rows.clone(), &self.summary.stages[stage]);
        let has_layers = self.layout.pieces[at].has_layers();
        let (x, y) = (self.lane(lane), self.y + y);
        self.svg.open("g", &[("class", "stage")]);
        self.rows(&rows, stage, x, y, LANE_BAR);
        let name = fit(&rows::stage_name(self.summary, stage), FONT, LANE_NAME - 16.0);
        let right: &[(&str, &str)] = &[("text-anchor", "end")];
        let bold: &[(&str, &str)] = &[("class", "ink halo"), ("font-weight", "600")];
        self.svg.text(x - 8.0, y + 12.0, &[bold, right].concat(), &name);
        if has_layers {
            let muted: &[(&str, &str)] = &[("class", "muted halo"), ("font-size", "11")];
            let layers = some(summary.layers.len(), "layer");
            for (text, below) in [(summary.method, 27.0), (&layers, 41.0)] {
                self.svg.text(x - 8.0, y + below, &[muted, right].concat(), text);
            }
        }
        self.svg.close();
    }

    /// Bands from the stages' rows to the rows they become.
    fn links(&mut self) {
        for link in self.layout.links(self.summary) {
            let from = self.lane(link.lane) + LANE_BAR;
            let to = link.user_lane.map_or(self.x, |lane| self.lane(lane));
            let bend = from + LANE_LINK / 2.0;
            let straight = from + LANE_LINK;
            let [x0, x1, x2, x3] = [from, bend, straight, to].map(number);
            let [a0, a1, b0, b1] =
                [link.from.0, link.from.1, link.to.0, link.to.1].map(|y| number(self.y + y));
            let path = format!(
                "M{x0} {a0}C{x1} {a0} {x1} {b0} {x2} {b0}H{x3}V{b1}H{x2}C{x1} {b1} {x1} {a1} {x0} {a1}Z"
            );
            self.svg.leaf("path", &[("class", "link"), ("d", &path)]);
        }
    }

    /// Numbers of layers: where runs begin, and some between.
    fn axis(&mut self) {
        let height = self.layout.row;
        let middle = |row: Row| self.y + self.layout.output.top(row).unwrap_or(0.0);
        let mut marks: Vec<(f64, String, bool)> = Vec::new();
        for row in [Row::Embedding, Row::FinalNorm, Row::Head] {
            marks.push((middle(row) + 7.5, row.name(), false));
        }
        let mut numbers: Vec<usize> = Vec::new();
        let far = |numbers: &[usize], layer: usize| {
            numbers.iter().all(|n| n.abs_diff(layer) as f64 * height >= 13.0)
        };
        for run in rows::runs(&self.stage.layers) {
            if far(&numbers, run.start) {
                numbers.push(run.start);
            }
        }
        let bold = numbers.len();
        let steps = [1, 2, 5, 10, 20, 50, 100].into_iter();
        let step = steps.clone().find(|step| *step as f64 * height >= 24.0).unwrap_or(200);
        let layers = self.stage.layers.len();
        for layer in layers.checked_sub(1).into_iter().chain((0..layers).step_by(step)) {
            if far(&numbers, layer) {
                numbers.push(layer);
            }
        }
        for (at, layer) in numbers.into_iter().enumerate() {
            let y = middle(Row::Layer(layer)) + height / 2.0;
            marks.push((y, layer.to_string(), at < bold));
        }
        for (y, text, run) in marks {
            let class = if run { "ink halo" } else { "muted halo" };
            let more = [("class", class), ("font-size", "11"), ("text-anchor", "end")];
            self.svg.text(self.x - 8.0, y + 4.0, &more, &text);
        }
    }

    fn arcs(&mut self) {
        let edge = self.x + COLUMN;
        for repeat in std::mem::take(&mut self.repeats) {
            let (a, b) = repeat.rows;
            let height = self.layout.row;
            let y = |layer| self.y + self.layout.output.top(Row::Layer(layer)).unwrap_or(0.0);
            let bulge = number(edge + 1.0 + self.arc_width(&repeat) * 4.0 / 3.0);
            let (x, top, bottom) =
                (number(edge + 1.0), number(y(a) + height / 2.0), number(y(b) + height / 2.0));
            let path = format!("M{x} {top}C{bulge} {top} {bulge} {bottom} {x} {bottom}");
            let colour = palette::hex(repeat.member);
            self.svg.leaf("path", &[("class", "arc"), ("stroke", colour), ("d", &path)]);
        }
    }

    fn label_texts(&mut self) {
        let labels = std::mem::take(&mut self.labels);
        let (bracket, x) = (self.bracket(), self.bracket() + LABEL);
        for label in &labels {
            let (top, bottom) = (self.y + label.rows.0, self.y + label.rows.1);
            let middle = (top + bottom) / 2.0;
            let text = self.y + label.top + label.height() / 2.0;
            let [b, elbow, end] = [bracket, bracket + 4.0, x - 4.0].map(number);
            let [t, m, l, s] = [top + 1.0, middle, text, bottom - 2.0].map(number);
            self.svg.leaf("path", &[("class", "rule"), ("d", &format!("M{b} {t}V{s}"))]);
            let path = format!("M{b} {m}H{elbow}L{end} {l}");
            self.svg.leaf("path", &[("class", "rule"), ("d", &path)]);
            if !self.repeats.is_empty() {
                let path = format!("M{} {t}H{b}", number(self.x + COLUMN));
                self.svg.leaf("path", &[("class", "faint"), ("d", &path)]);
            }
            for (at, line) in label.lines.iter().enumerate() {
                let baseline = self.y + label.top + at as f64 * LINE + 11.5;
                let mut x = x;
                if let Some(member) = line.member {
                    let swatch = Rect { x, y: baseline - 9.5, width: 11.0, height: 11.0 };
                    self.fill(swatch, member, "swatch");
                    x += FONT + 4.0;
                }
                let class = if line.member.is_some() { "ink" } else { "muted" };
                self.svg.text(x, baseline, &[("class", class)], &line.text);
            }
        }
    }
}

fn some(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

/// The parts of a row from left to right: edges on hundredths of a pixel, the last at the row's end. What
/// goes in whole comes before differences. Parts too small to see are left out.
fn segments(made_of: &[MemberShare], left: f64, width: f64) -> Vec<(&MemberShare, f64, f64)> {
    let mut seen: Vec<_> = made_of.iter().filter(|given| given.share >= LEAST_SHARE).collect();
    seen.sort_by_key(|given| given.delta);
    let total: f64 = seen.iter().map(|given| given.share).sum();
    let edge = |share: f64| left + (width * share / total * 100.0).round() / 100.0;
    let mut sum = 0.0;
    let part = |given: &'_ MemberShare| {
        let start = edge(sum);
        sum += given.share;
        (start, edge(sum) - start)
    };
    let places: Vec<(f64, f64)> = seen.iter().copied().map(part).collect();
    seen.into_iter().zip(places).map(|(given, (x, width))| (given, x, width)).collect()
}
