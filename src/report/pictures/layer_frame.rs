//! What the heat maps of layers have in common: the page, its heading, the layers' numbers, the heads of panels and
//! columns, and scales with their marks. What stands in the cells is each picture's own.

use super::scale::{Scale, colour};
use super::svg::{FONTS, Rect, Svg, fit, number};
use crate::report::text::one_line;

/// Around the picture.
pub(crate) const PAD: f64 = 28.0;
/// Size of the letters in panels.
pub(crate) const SMALL: f64 = 11.0;
/// Size of those under the title.
pub(crate) const FONT: f64 = 13.0;
/// Room for the layers' numbers.
pub(crate) const AXIS: f64 = 46.0;
/// The longest that a column's head may be.
pub(crate) const MAX_HEAD: f64 = 180.0;

/// The height of a layer's row in a stack of `layers`: as tall as a screen where that leaves lines that
/// can be seen, and no taller than is sensible.
pub(crate) fn row_height(layers: usize) -> f64 {
    (960.0 / layers.max(1) as f64).floor().clamp(4.0, 24.0)
}

/// Opens the `svg` element, with ground, colours and heading; the caller closes it.
pub(crate) fn open(
    svg: &mut Svg,
    (width, height): (f64, f64),
    style: &str,
    title: &str,
    subtitle: &str,
) {
    let (w, h) = (number(width), number(height));
    let all: &[(&str, &str)] = &[
        ("xmlns", "http://www.w3.org/2000/svg"),
        ("viewBox", &format!("0 0 {w} {h}")),
        ("width", &w),
        ("height", &h),
        ("font-family", FONTS),
        ("font-size", &number(SMALL)),
        ("role", "img"),
    ];
    svg.open("svg", all);
    svg.element("title", &[], title);
    svg.element("style", &[], style);
    gradient(svg);
    svg.rect(Rect { x: 0.0, y: 0.0, width, height }, &[("class", "page")]);
    let bold: &[(&str, &str)] = &[("class", "ink"), ("font-size", "20"), ("font-weight", "600")];
    svg.text(PAD, PAD + 16.0, bold, &fit(title, 20.0, width - 2.0 * PAD));
    let muted: &[(&str, &str)] = &[("class", "muted"), ("font-size", &number(FONT))];
    svg.text(PAD, PAD + 40.0, muted, &fit(subtitle, FONT, width - 2.0 * PAD));
}

/// The colours of all scales.
fn gradient(svg: &mut Svg) {
    svg.open("defs", &[]);
    svg.open("linearGradient", &[("id", "scale")]);
    for stop in 0..10 {
        let at = f64::from(stop) / 9.0;
        svg.leaf("stop", &[("offset", &*format!("{at:.4}")), ("stop-color", &colour(at))]);
    }
    svg.close();
    svg.close();
}

/// The layers' numbers beside rows of height `row` from `top` on, as many as have room.
pub(crate) fn axis(svg: &mut Svg, top: f64, row: f64, layers: impl Iterator<Item = usize>) {
    let step = (14.0 / row).ceil().max(1.0) as usize;
    let right: &[(&str, &str)] = &[("class", "muted"), ("text-anchor", "end")];
    let x = PAD + AXIS - 8.0;
    svg.text(x, top - 8.0, right, "layer");
    for (at, layer) in layers.enumerate().step_by(step) {
        svg.text(x, top + (at as f64 + 0.5) * row + 4.0, right, &layer.to_string());
    }
}

/// A panel's title and what its figure is.
pub(crate) fn panel_heading(svg: &mut Svg, x: f64, title: &str, note: &str) {
    let bold: &[(&str, &str)] = &[("class", "ink"), ("font-size", "14"), ("font-weight", "600")];
    svg.text(x, PAD + 72.0, bold, title);
    svg.text(x, PAD + 88.0, &[("class", "muted")], note);
}

/// A kind's name upright above the cells that begin at `top`, no longer than `head`.
pub(crate) fn upright(svg: &mut Svg, x: f64, top: f64, head: f64, kind: &str) {
    let y = top - 6.0;
    let turn = format!("rotate(-90 {} {})", number(x), number(y));
    let text = fit(&one_line(kind), SMALL, head - 8.0);
    svg.text(x, y, &[("class", "ink"), ("transform", &turn)], &text);
}

/// A scale's colours and marks.
pub(crate) fn legend(svg: &mut Svg, x: f64, y: f64, width: f64, scale: Scale) {
    svg.rect(Rect { x, y, width, height: 10.0 }, &[("fill", "url(#scale)")]);
    marks(svg, x, y + 24.0, width, scale);
}

/// A scale's marks below a line from `x` on.
pub(crate) fn marks(svg: &mut Svg, x: f64, y: f64, width: f64, scale: Scale) {
    for (position, text) in scale.marks(5) {
        let anchor = match position {
            0.0 => "start",
            1.0 => "end",
            _ => "middle",
        };
        let more: &[(&str, &str)] = &[("class", "muted"), ("text-anchor", anchor)];
        svg.text(x + position * width, y, more, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_lines_at_any_number_of_layers() {
        assert_eq!([1, 40, 80, 137, 500].map(row_height), [24.0, 24.0, 12.0, 7.0, 4.0]);
    }
}
