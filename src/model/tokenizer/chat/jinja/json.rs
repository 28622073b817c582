//! `tojson` of transformers: Python's `json.dumps`.

use super::python::{
    Result, argument, as_int, error, float_repr, is_dict, is_list, items, type_name,
};
use minijinja::Value;
use minijinja::value::{Kwargs, Rest, ValueKind};
use std::fmt::Write;

/// How deep values nest at most.
const MAX_DEPTH: usize = 200;
/// The longest indentation; longer ones have no use in a prompt.
const WIDEST: usize = 1000;

struct Writer {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
    out: String,
}

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<String> {
    const NAMES: [&str; 4] = ["ensure_ascii", "indent", "separators", "sort_keys"];
    if positional.0.len() > NAMES.len() {
        return Err(error("tojson takes at most four arguments"));
    }
    let argument = |at: usize| {
        let given = argument(&positional.0, &named, at, NAMES[at]);
        given.map(|given| given.unwrap_or(Value::from(())))
    };
    let (ascii, indent, separators) = (argument(0)?, argument(1)?, argument(2)?);
    let sort_keys = argument(3)?.is_true();
    named.assert_all_used()?;
    let indent = indentation(&indent)?;
    let separators = match separators.is_none() {
        false => items(&separators)?,
        true if indent.is_some() => vec![Value::from(","), Value::from(": ")],
        true => vec![Value::from(", "), Value::from(": ")],
    };
    let [item, key] = separators.as_slice() else {
        return Err(error("'separators' of tojson are not two"));
    };
    let text = |value: &Value| match value.as_str() {
        Some(text) => Ok(text.to_string()),
        None => Err(error("'separators' of tojson are no strings")),
    };
    let (item_separator, key_separator) = (text(item)?, text(key)?);
    let ensure_ascii = ascii.is_true();
    let out = String::new();
    let mut writer = Writer { ensure_ascii, indent, item_separator, key_separator, sort_keys, out };
    writer.value(value, 0)?;
    Ok(writer.out)
}

fn indentation(value: &Value) -> Result<Option<String>> {
    if value.is_none() {
        return Ok(None);
    }
    if let Some(text) = value.as_str() {
        return Ok(Some(text.to_string()));
    }
    let count = as_int(value).ok_or_else(|| error("'indent' of tojson is no number"))?;
    match usize::try_from(count.max(0)) {
        Ok(count) if count <= WIDEST => Ok(Some(" ".repeat(count))),
        _ => Err(error(format!("an 'indent' of {count} is too wide"))),
    }
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(error("a value is nested too deeply for tojson"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable if is_list(value) => {
                let items = items(value)?;
                self.all('[', ']', items.len(), depth, |writer, at| {
                    writer.value(&items[at], depth + 1)
                })?;
            }
            ValueKind::Map if is_dict(value) => self.map(value, depth)?,
            _ => {
                let name = type_name(value);
                return Err(error(format!("Object of type {name} is not JSON serializable")));
            }
        }
        Ok(())
    }

    fn map(&mut self, map: &Value, depth: usize) -> Result<()> {
        let mut keys = items(map)?;
        if self.sort_keys {
            if keys.iter().any(|key| key.kind() != keys[0].kind()) {
                return Err(error("tojson cannot sort keys of different types"));
            }
            keys.sort();
        }
        self.all('{', '}', keys.len(), depth, |writer, at| {
            let key = &keys[at];
            let text = match key.kind() {
                ValueKind::String => key.as_str().unwrap_or_default().to_string(),
                ValueKind::None => "null".to_string(),
                ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_string(),
                ValueKind::Number => number(key)?,
                _ => {
                    return Err(error(format!("keys of JSON must be str, not {}", type_name(key))));
                }
            };
            writer.string(&text);
            let separator = writer.key_separator.clone();
            writer.out.push_str(&separator);
            writer.value(&map.get_item(key)?, depth + 1)
        })
    }

    fn all(
        &mut self,
        open: char,
        close: char,
        count: usize,
        depth: usize,
        one: impl Fn(&mut Writer, usize) -> Result<()>,
    ) -> Result<()> {
        self.out.push(open);
        for at in 0..count {
            if at > 0 {
                let separator = self.item_separator.clone();
                self.out.push_str(&separator);
            }
            self.line(depth + 1);
            one(self, at)?;
        }
        if count > 0 {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    /// Begins a line where there is an indentation.
    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\x08' => self.out.push_str("\\b"),
                '\x0c' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}").unwrap_or_default();
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn number(value: &Value) -> Result<String> {
    if let Some(int) = as_int(value) {
        return Ok(int.to_string());
    }
    let float =
        f64::try_from(value.clone()).map_err(|_| error("a number is too large for tojson"))?;
    Ok(match float {
        f if f.is_nan() => "NaN".to_string(),
        f if f.is_infinite() => if f > 0.0 { "Infinity" } else { "-Infinity" }.to_string(),
        f => float_repr(f),
    })
}
