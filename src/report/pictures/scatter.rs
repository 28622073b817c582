//! A scatter plot: one point for each file, sizes from left to right, a figure upwards, both logarithmic.
//!
//! Points have the name of their type beside them where there is room; every point tells more under the mouse.
//! Deliberately absent: lines between points, which would suggest types in between.

use super::palette;
use super::svg::{FONTS, Rect, Svg, number, text_width};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 34.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 58.0;
const FONT: f64 = 12.0;
const RADIUS: f64 = 4.5;

/// Rules that the picture needs from its page, on light and on dark grounds.
pub(crate) const STYLE: &str = ".plot .ink{fill:#1f2328}.plot .muted{fill:#59636e}.plot .grid{stroke:#59636e;stroke-opacity:.2}\
.plot .axis{stroke:#59636e}.plot .mark{stroke:#d55e00;stroke-dasharray:5 4;stroke-width:1.5}.plot circle:hover{stroke:#1f2328;stroke-width:2}";
pub(crate) const DARK_STYLE: &str = "main .plot .ink{fill:#e6edf3}main .plot .muted{fill:#9aa4af}main .plot .grid{stroke:#9aa4af}\
main .plot .axis{stroke:#9aa4af}main .plot circle:hover{stroke:#e6edf3}";

/// A file in the plot.
pub(crate) struct Point {
    pub label: String,
    /// More, shown under the mouse.
    pub details: String,
    /// Both above 0.
    pub x: f64,
    pub y: f64,
}

/// What is plotted.
pub(crate) struct Plot<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    pub points: &'a [Point],
    /// A horizontal line and what it means.
    pub mark: Option<(f64, &'a str)>,
    pub show_x: fn(f64) -> String,
}

/// A logarithmic axis: its ends, and round values to mark.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// With a little room around `values`, which are above 0.
    fn around(values: impl Iterator<Item = f64>) -> Option<Axis> {
        let ends = values.map(f64::ln).fold(None, |ends: Option<(f64, f64)>, v| {
            let (low, high) = ends.unwrap_or((v, v));
            Some((low.min(v), high.max(v)))
        });
        let (low, high) = ends?;
        let room = ((high - low) * 0.08).max(0.02);
        Some(Axis { low: low - room, high: high + room })
    }

    fn position(&self, value: f64) -> f64 {
        (value.ln() - self.low) / (self.high - self.low)
    }

    /// Round values between the ends, a few of them: 1, 2 and 5 in each power of ten, or whole steps where
    /// the ends are near each other.
    fn marks(&self) -> Vec<f64> {
        let (low, high) = (self.low.exp(), self.high.exp());
        let inside = |v: &f64| (low..=high).contains(v);
        let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let of = |factors: &[f64]| -> Vec<f64> {
            let all = decades.clone().flat_map(|e| factors.iter().map(move |f| f * 10f64.powi(e)));
            all.filter(inside).collect()
        };
        let fine = of(&[1.0, 2.0, 5.0]);
        match (fine.len(), of(&[1.0])) {
            (9.., coarse) if coarse.len() >= 3 => coarse,
            (3.., _) => fine,
            _ => {
                let raw = (high - low) / 5.0;
                let unit = 10f64.powf(raw.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|f| f * unit).into_iter().find(|s| *s >= raw);
                let step = step.unwrap_or(raw);
                let first = (low / step).ceil() as i64;
                (first..).map(|n| n as f64 * step).take_while(|v| *v <= high).collect()
            }
        }
    }
}

/// The plot as an `svg` element; nothing without points.
pub(crate) fn drawn(plot: &Plot<'_>) -> String {
    let xs = Axis::around(plot.points.iter().map(|p| p.x));
    let marked = plot.mark.iter().map(|mark| mark.0);
    let ys = Axis::around(plot.points.iter().map(|p| p.y).chain(marked));
    let (Some(xs), Some(ys)) = (xs, ys) else { return String::new() };
    let mut svg = Svg::new();
    let view = format!("0 0 {} {}", number(WIDTH), number(HEIGHT));
    let (w, h) = (number(WIDTH), number(HEIGHT));
    let size = [("width", &*w), ("height", &h), ("viewBox", &view)];
    let about = [("xmlns", "http://www.w3.org/2000/svg"), ("class", "plot"), ("role", "img")];
    let font = [("font-family", FONTS), ("font-size", "12")];
    svg.open("svg", &[&size[..], &about, &font].concat());
    svg.element("title", &[], plot.title);
    let bold: &[(&str, &str)] = &[("class", "ink"), ("font-size", "15"), ("font-weight", "600")];
    svg.text(LEFT, 24.0, bold, plot.title);
    axes(&mut svg, plot, &xs, &ys);
    let place = |p: &Point| (px(&xs, p.x), py(&ys, p.y));
    svg.open("g", &[("class", "points")]);
    for point in plot.points {
        let (x, y) = place(point);
        let at = [("cx", &*number(x)), ("cy", &number(y)), ("r", &number(RADIUS))];
        svg.open("circle", &[&at[..], &[("fill", palette::hex(0))]].concat());
        svg.element("title", &[], &point.details);
        svg.close();
    }
    svg.close();
    let places: Vec<_> = plot.points.iter().map(place).collect();
    labels(&mut svg, plot.points, &places);
    svg.close();
    svg.finish()
}

fn px(axis: &Axis, value: f64) -> f64 {
    LEFT + axis.position(value) * (WIDTH - LEFT - RIGHT)
}

fn py(axis: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - axis.position(value) * (HEIGHT - TOP - BOTTOM)
}

fn line(svg: &mut Svg, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
    let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(number);
    let ends = [("class", class), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)];
    svg.leaf("line", &ends);
}

fn axes(svg: &mut Svg, plot: &Plot<'_>, xs: &Axis, ys: &Axis) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for value in xs.marks() {
        let x = px(xs, value);
        line(svg, "grid", [x, TOP, x, bottom]);
        let middle: &[(&str, &str)] = &[("class", "muted"), ("text-anchor", "middle")];
        svg.text(x, bottom + 18.0, middle, &(plot.show_x)(value));
    }
    for value in ys.marks() {
        let y = py(ys, value);
        line(svg, "grid", [LEFT, y, right, y]);
        let end: &[(&str, &str)] = &[("class", "muted"), ("text-anchor", "end")];
        svg.text(LEFT - 8.0, y + 4.0, end, &short(value));
    }
    line(svg, "axis", [LEFT, bottom, right, bottom]);
    line(svg, "axis", [LEFT, TOP, LEFT, bottom]);
    let middle: &[(&str, &str)] = &[("class", "muted"), ("text-anchor", "middle")];
    svg.text((LEFT + right) / 2.0, HEIGHT - 14.0, middle, plot.x);
    let y = number((TOP + bottom) / 2.0);
    let turn = format!("rotate(-90 18 {y})");
    let turned: &[(&str, &str)] =
        &[("class", "muted"), ("text-anchor", "middle"), ("transform", &turn)];
    svg.text(18.0, (TOP + bottom) / 2.0, turned, plot.y);
    if let Some((value, text)) = plot.mark {
        let y = py(ys, value);
        line(svg, "mark", [LEFT, y, right, y]);
        // On the left: the smallest files are farthest from the mark.
        svg.text(LEFT + 8.0, y - 5.0, &[("class", "muted")], text);
    }
}

/// A number with no more digits than it needs.
fn short(value: f64) -> String {
    if !(1e-4..1e6).contains(&value.abs()) {
        return format!("{value:.0e}");
    }
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// Names beside their points, at the first place where they cover neither a point nor another name.
fn labels(svg: &mut Svg, points: &[Point], places: &[(f64, f64)]) {
    let mut taken: Vec<Rect> = places
        .iter()
        .map(|(x, y)| Rect { x: x - RADIUS, y: y - RADIUS, width: 9.0, height: 9.0 })
        .collect();
    for (point, &(x, y)) in points.iter().zip(places) {
        let width = text_width(&point.label, FONT);
        let spots = [
            (x + 8.0, y - 6.0),
            (x - width - 8.0, y - 6.0),
            (x - width / 2.0, y - 20.0),
            (x - width / 2.0, y + 8.0),
            (x + 7.0, y - 18.0),
            (x + 7.0, y + 6.0),
            (x - width - 7.0, y - 18.0),
            (x - width - 7.0, y + 6.0),
        ];
        let area = |&(x, y): &(f64, f64)| Rect { x, y, width, height: 13.0 };
        let free = |spot: &(f64, f64)| {
            let area = area(spot);
            let inside = area.x > LEFT && area.x + width < WIDTH && area.y > TOP - 10.0;
            inside && area.y + 13.0 < HEIGHT - BOTTOM && !taken.iter().any(|t| overlap(t, &area))
        };
        if let Some(spot) = spots.into_iter().find(free) {
            taken.push(area(&spot));
            svg.text(spot.0, spot.1 + 10.0, &[("class", "ink")], &point.label);
        }
    }
}

fn overlap(a: &Rect, b: &Rect) -> bool {
    a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_marks_inside() {
        let marks = |low: f64, high: f64| Axis::around([low, high].into_iter()).unwrap().marks();
        assert_eq!(marks(1.3e6, 2.4e6), [1.5e6, 2e6, 2.5e6]);
        assert_eq!(marks(1.0, 90.0), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert!(marks(1e-5, 1.0).iter().any(|mark| (mark / 0.01 - 1.0).abs() < 1e-9));
        assert!(!marks(7.0, 7.0).is_empty());
    }

    #[test]
    fn names_do_not_cover_each_other() {
        let point = |n: u32| Point {
            label: format!("Q{n}_K_M"),
            details: "d".into(),
            x: 1e9 + f64::from(n),
            y: 0.5,
        };
        let points: Vec<_> = (0..20).map(point).collect();
        let plot = Plot {
            title: "t",
            x: "x",
            y: "y",
            points: &points,
            mark: None,
            show_x: |v| v.to_string(),
        };
        let svg = drawn(&plot);
        assert_eq!(svg.matches("<circle").count(), 20);
        assert!(svg.matches("_K_M").count() < 20);
        assert_eq!(drawn(&Plot { points: &[], ..plot }), "");
    }
}
