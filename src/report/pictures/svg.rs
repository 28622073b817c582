//! A small writer of SVG: elements, attributes, escaped text, and how wide a text will be.
//!
//! What it writes is well-formed XML whatever the texts hold. Deliberately absent: reading SVG, and a
//! model of it in memory; a report knows what it draws.

use std::fmt::Write;

/// The font family of all text in pictures.
pub(crate) const FONTS: &str = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif";

/// An SVG document or a part of one under construction.
#[derive(Default)]
pub struct Svg {
    text: String,
    open: Vec<&'static str>,
}

impl Svg {
    pub fn new() -> Svg {
        Svg::default()
    }

    /// Begins an element; [`Svg::close`] ends it.
    pub fn open(&mut self, tag: &'static str, attributes: &[(&str, &str)]) {
        self.tag(tag, attributes);
        self.text.push('>');
        self.open.push(tag);
    }

    /// Ends the element that was begun last.
    ///
    /// # Panics
    /// If there is none, which is a fault of the report.
    pub fn close(&mut self) {
        let tag = self.open.pop().expect("an element is open");
        let _ = writeln!(self.text, "</{tag}>");
    }

    /// An element without content.
    pub fn leaf(&mut self, tag: &'static str, attributes: &[(&str, &str)]) {
        self.tag(tag, attributes);
        self.text.push_str("/>");
    }

    /// An element with only text in it.
    pub fn element(&mut self, tag: &'static str, attributes: &[(&str, &str)], text: &str) {
        self.open(tag, attributes);
        self.text.push_str(&escape(text));
        self.close();
    }

    /// Words inside the element that is open.
    pub fn words(&mut self, text: &str) {
        self.text.push_str(&escape(text));
    }

    /// A rectangle; `more` has its other attributes, such as `fill`.
    pub fn rect(&mut self, at: Rect, more: &[(&str, &str)]) {
        let [x, y, width, height] = [at.x, at.y, at.width, at.height].map(number);
        let place = [("x", &*x), ("y", &*y), ("width", &*width), ("height", &*height)];
        self.leaf("rect", &[&place, more].concat());
    }

    /// A line of text with its baseline at `y`.
    pub fn text(&mut self, x: f64, y: f64, more: &[(&str, &str)], text: &str) {
        let [x, y] = [x, y].map(number);
        self.element("text", &[&[("x", &*x), ("y", &*y)], more].concat(), text);
    }

    /// The text so far.
    ///
    /// # Panics
    /// If an element is still open, which is a fault of the report.
    pub fn finish(self) -> String {
        assert!(self.open.is_empty(), "{:?} are not closed", self.open);
        self.text
    }

    fn tag(&mut self, tag: &str, attributes: &[(&str, &str)]) {
        let _ = write!(self.text, "<{tag}");
        for (name, value) in attributes {
            let _ = write!(self.text, " {name}=\"{}\"", escape(value));
        }
    }
}

/// A rectangle in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

/// `text` for XML and HTML, in content and in quoted attributes. Characters that XML forbids, and those
/// that turn the direction of the text around them, become U+FFFD.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(c),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => {
                safe.push('\u{fffd}');
            }
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// A coordinate with two decimals at the most.
pub(crate) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_string() } else { text.to_string() }
}

/// About how wide `text` is at `size` pixels in a sans-serif font: proportions of Helvetica's letters and
/// a tenth more, since the font is the reader's.
pub(crate) fn text_width(text: &str, size: f64) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | ' ' => 0.28,
        't' | 'f' | 'r' | '-' | '(' | ')' | '[' | ']' | '/' | '!' => 0.33,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '→' => 0.87,
        'A'..='Z' | '&' => 0.69,
        'a'..='z' | '0'..='9' => 0.555,
        c if c.is_ascii() => 0.58,
        _ => 1.0,
    };
    text.chars().map(em).sum::<f64>() * size * 1.1
}

/// `text`, cut in the middle if it is wider than `width`: names differ at either end.
pub(crate) fn fit(text: &str, size: f64, width: f64) -> String {
    if text_width(text, size) <= width {
        return text.to_string();
    }
    let chars: Vec<char> = text.chars().collect();
    let shorter = |kept: usize| {
        let (head, tail) = (kept.div_ceil(2), kept / 2);
        let head: String = chars[..head].iter().collect();
        let tail: String = chars[chars.len() - tail..].iter().collect();
        format!("{head}…{tail}")
    };
    let kept = (1..chars.len()).rev().find(|kept| text_width(&shorter(*kept), size) <= width);
    shorter(kept.unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_leave_their_element() {
        let mut svg = Svg::new();
        svg.open("g", &[("id", "a\"><script>")]);
        svg.element("title", &[], "</title>&'\u{1b}\u{0}\u{202e}");
        svg.close();
        let expected = "<g id=\"a&quot;&gt;&lt;script&gt;\"><title>&lt;/title&gt;&amp;&#39;\u{fffd}\u{fffd}\u{fffd}</title>\n</g>\n";
        assert_eq!(svg.finish(), expected);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [1.0, 2.5, 1.0 / 3.0, -0.001, 120.0].map(number),
            ["1", "2.5", "0.33", "0", "120"]
        );
    }

    #[test]
    fn long_texts_are_cut_in_the_middle_to_the_width() {
        assert_eq!(fit("short", 10.0, 100.0), "short");
        let cut = fit("upstage/SOLAR-10.7B-Instruct-v1.0", 10.0, 100.0);
        assert!(cut.starts_with("upst") && cut.ends_with("v1.0") && cut.contains('…'), "{cut}");
        assert!(text_width(&cut, 10.0) <= 100.0);
        assert_eq!(fit("WWWW", 10.0, 1.0), "W…");
    }
}
