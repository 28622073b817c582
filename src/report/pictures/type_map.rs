//! Which type each tensor has in each file: a small map for each, a column for a layer, a row for a kind of tensor.
//!
//! Colours go by bits: types are ranked by how many a weight takes, over all files, so that one legend serves all.

use super::scale::colour;
use super::svg::{FONTS, Rect, Svg, escape, fit, number, text_width};

const FONT: f64 = 11.0;
const LINE: f64 = 14.0;
/// The widest that the cells of a map may be together, and one of them.
const CELLS: f64 = 420.0;
const CELL: f64 = 14.0;
/// The longest that a kind's name may be.
const NAME: f64 = 110.0;

/// A tensor, its type, and the bits that a weight takes in that.
pub struct TypedTensor {
    pub name: String,
    pub dtype: String,
    pub bits: f64,
}

/// The tensors of one file, with the caption of its map.
pub(crate) struct TypeMap<'a> {
    pub(crate) caption: String,
    pub(crate) tensors: &'a [TypedTensor],
}

/// Rules that the maps need from their page.
pub(crate) const STYLE: &str = ".maps{display:flex;flex-wrap:wrap;gap:18px 30px}.maps figure{margin:0}.maps figcaption{font-weight:600}\
.maps text{fill:#59636e}.legend span{display:inline-block;margin-right:14px}.legend i{display:inline-block;width:12px;height:12px;margin-right:5px;vertical-align:-1px}";
pub(crate) const DARK_STYLE: &str = "main .maps text{fill:#9aa4af}";

/// Types in order of bits.
struct Types(Vec<(String, f64)>);

impl Types {
    fn of(maps: &[TypeMap<'_>]) -> Types {
        let mut types: Vec<(String, f64)> = Vec::new();
        for tensor in maps.iter().flat_map(|map| map.tensors) {
            if !types.iter().any(|(name, _)| *name == tensor.dtype) {
                types.push((tensor.dtype.clone(), tensor.bits));
            }
        }
        types.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
        Types(types)
    }

    fn colour(&self, dtype: &str) -> String {
        let rank = self.0.iter().position(|(name, _)| name == dtype).unwrap_or(0);
        colour(rank as f64 / (self.0.len().max(2) - 1) as f64)
    }
}

/// All maps and their legend, as markup.
pub(crate) fn drawn(maps: &[TypeMap<'_>]) -> String {
    let types = Types::of(maps);
    let mut text = "<p class=\"legend\">".to_string();
    for (name, bits) in &types.0 {
        let (colour, name) = (types.colour(name), escape(name));
        text +=
            &format!("<span><i style=\"background:{colour}\"></i>{name} ({bits:.2} bits)</span>");
    }
    text += "</p>\n<div class=\"maps\">\n";
    for TypeMap { caption, tensors } in maps {
        let (caption, map) = (escape(caption), map(tensors, &types));
        text += &format!("<figure><figcaption>{caption}</figcaption>\n{map}</figure>\n");
    }
    text + "</div>\n"
}

/// Layer and kind of a tensor: `blk.3.attn_q.weight` is `attn_q` of layer 3.
fn place(name: &str) -> (Option<usize>, &str) {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let in_layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match in_layer.and_then(|(layer, kind)| Some((layer.parse().ok()?, kind))) {
        Some((layer, kind)) => (Some(layer), kind),
        None => (None, name),
    }
}

fn map(tensors: &[TypedTensor], types: &Types) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    let mut layers = 1;
    for tensor in tensors {
        let (layer, kind) = place(&tensor.name);
        layers = layers.max(layer.map_or(1, |layer| layer + 1));
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let cell = (CELLS / layers as f64).clamp(1.0, CELL);
    let names = kinds.iter().map(|kind| text_width(kind, FONT)).fold(0.0, f64::max).min(NAME) + 8.0;
    let (width, height) = (names + cell * layers as f64 + 2.0, kinds.len() as f64 * LINE + 2.0);
    let (w, h) = (number(width), number(height));
    let mut svg = Svg::new();
    let view = format!("0 0 {w} {h}");
    let size = [("width", &*w), ("height", &h), ("viewBox", &view)];
    let about = [("xmlns", "http://www.w3.org/2000/svg"), ("role", "img")];
    let font = [("font-family", FONTS), ("font-size", "11")];
    svg.open("svg", &[&size[..], &about, &font].concat());
    for (row, kind) in kinds.iter().enumerate() {
        let y = row as f64 * LINE + 11.0;
        svg.text(names - 6.0, y, &[("text-anchor", "end")], &fit(kind, FONT, NAME));
    }
    for tensor in tensors {
        let (layer, kind) = place(&tensor.name);
        let row = kinds.iter().position(|known| *known == kind).unwrap_or(0);
        let gap = if cell > 4.0 { 1.0 } else { 0.0 };
        let x = names + layer.unwrap_or(0) as f64 * cell;
        // What is in no layer is one for all of them.
        let width = if layer.is_some() { cell } else { cell * layers as f64 };
        let at = Rect { x, y: row as f64 * LINE + 1.0, width: width - gap, height: LINE - 2.0 };
        svg.open("g", &[]);
        svg.element("title", &[], &format!("{}: {}", tensor.name, tensor.dtype));
        svg.rect(at, &[("fill", &types.colour(&tensor.dtype))]);
        svg.close();
    }
    svg.close();
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_have_a_layer_and_a_kind() {
        assert_eq!(place("blk.12.ffn_down.weight"), (Some(12), "ffn_down"));
        assert_eq!(place("output.weight"), (None, "output"));
        assert_eq!(place("blk.x.y"), (None, "blk.x.y"));
    }
}
