//! `"%s" % value` and `"{}".format(value)` of Python.

use super::python::{Result, Tuple, as_float, as_int, error, is_dict, repr, to_str, type_name};
use minijinja::value::ValueKind;
use minijinja::{FormatStyle, Value, format_filter};

/// The widest field; wider ones have no use in a prompt.
const WIDEST: usize = 10_000;

/// `template % arguments`.
pub(super) fn format(template: &Value, arguments: &Value) -> Result<String> {
    let text = template.as_str().unwrap_or_default();
    let positional = match arguments.downcast_object_ref::<Tuple>() {
        Some(tuple) => tuple.0.clone(),
        None => vec![arguments.clone()],
    };
    let mut fields =
        Fields { text, positional: positional.into_iter(), named: arguments, by_name: false };
    let out = fields.run()?;
    // A dictionary may have more than the text asks for.
    if !is_dict(arguments) && fields.positional.next().is_some() {
        return Err(error("not all arguments converted during string formatting"));
    }
    Ok(out)
}

struct Fields<'a> {
    text: &'a str,
    positional: std::vec::IntoIter<Value>,
    named: &'a Value,
    by_name: bool,
}

/// A field, `%(name)-05.2f`.
#[derive(Default)]
struct Field {
    flags: String,
    width: Option<usize>,
    precision: Option<usize>,
}

impl Fields<'_> {
    fn run(&mut self) -> Result<String> {
        let mut out = String::new();
        while let Some(at) = self.text.find('%') {
            out.push_str(&self.text[..at]);
            self.text = &self.text[at + 1..];
            let field = self.field()?;
            out.push_str(&field);
        }
        out.push_str(self.text);
        Ok(out)
    }

    fn field(&mut self) -> Result<String> {
        let mut named = None;
        if self.text.starts_with('(') {
            let end = self.text.find(')').ok_or_else(|| error("incomplete format key"))?;
            if !is_dict(self.named) {
                return Err(error("format requires a mapping"));
            }
            let key = &self.text[1..end];
            let value = self.named.get_item(&Value::from(key))?;
            if value.is_undefined() {
                return Err(error(format!("no key '{key}' for the format")));
            }
            named = Some(value);
            self.by_name = true;
            self.text = &self.text[end + 1..];
        }
        let flags = self.text.len() - self.text.trim_start_matches(['-', '+', ' ', '#', '0']).len();
        let mut field = Field { flags: self.text[..flags].to_string(), ..Field::default() };
        self.text = &self.text[flags..];
        field.width = self.count(&mut field.flags)?;
        if let Some(rest) = self.text.strip_prefix('.') {
            self.text = rest;
            field.precision = Some(self.count(&mut String::new())?.unwrap_or(0));
        }
        self.text = self.text.trim_start_matches(['h', 'l', 'L']);
        let kind = self.text.chars().next().ok_or_else(|| error("incomplete format"))?;
        self.text = &self.text[kind.len_utf8()..];
        if kind == '%' {
            return Ok("%".to_string());
        }
        let value = match named {
            Some(value) => value,
            None => self.next()?,
        };
        field.format(kind, &value)
    }

    fn next(&mut self) -> Result<Value> {
        self.positional.next().ok_or_else(|| error("not enough arguments for format string"))
    }

    fn count(&mut self, flags: &mut String) -> Result<Option<usize>> {
        if let Some(rest) = self.text.strip_prefix('*') {
            self.text = rest;
            let count = as_int(&self.next()?).ok_or_else(|| error("* wants int"))?;
            if count < 0 {
                flags.push('-');
            }
            return bounded(count.unsigned_abs() as usize).map(Some);
        }
        let end = self.text.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.text.len());
        let (digits, rest) = self.text.split_at(end);
        self.text = rest;
        match digits {
            "" => Ok(None),
            digits => bounded(digits.parse().unwrap_or(usize::MAX)).map(Some),
        }
    }
}

fn bounded(count: usize) -> Result<usize> {
    match count <= WIDEST {
        true => Ok(count),
        false => Err(error(format!("a field of {count} characters is too wide"))),
    }
}

impl Field {
    fn has(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }

    fn format(&self, kind: char, value: &Value) -> Result<String> {
        let wants = |what: &str| {
            error(format!("%{kind} format: {what} is required, not {}", type_name(value)))
        };
        if value.is_undefined() && !matches!(kind, 's' | 'r' | 'a') {
            return Err(super::operators::undefined("a number"));
        }
        match kind {
            's' | 'r' | 'a' => {
                let text = if kind == 's' { to_str(value)? } else { repr(value)? };
                let len = self.precision.unwrap_or(usize::MAX);
                Ok(self.pad("", text.chars().take(len).collect(), false))
            }
            'c' => {
                let of_number = |n| u32::try_from(n).ok().and_then(char::from_u32);
                let c = as_int(value).and_then(of_number).map(String::from);
                let one = value.as_str().filter(|text| text.chars().count() == 1);
                let text = c.or(one.map(String::from)).ok_or_else(|| wants("int or char"))?;
                Ok(self.pad("", text, false))
            }
            'd' | 'i' | 'u' => {
                let whole = |float: f64| float.is_finite().then_some(float as i128);
                let number = as_int(value).or_else(|| as_float(value).and_then(whole));
                let number = number.ok_or_else(|| wants("a real number"))?;
                Ok(self.integer(number < 0, number.unsigned_abs().to_string(), ""))
            }
            'x' | 'X' | 'o' => {
                let number = as_int(value).ok_or_else(|| wants("an integer"))?;
                let digits = number.unsigned_abs();
                let (text, prefix) = match kind {
                    'x' => (format!("{digits:x}"), "0x"),
                    'X' => (format!("{digits:X}"), "0X"),
                    _ => (format!("{digits:o}"), "0o"),
                };
                Ok(self.integer(number < 0, text, if self.has('#') { prefix } else { "" }))
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let number = as_float(value).ok_or_else(|| wants("a real number"))?;
                let precision = self.precision.unwrap_or(6);
                let style =
                    format!("{{:{}.{precision}{kind}}}", if self.has('#') { "#" } else { "" });
                let text =
                    format_filter(FormatStyle::StrFormat, &style, &[Value::from(number.abs())])?;
                let negative = number.is_sign_negative() && !number.is_nan();
                Ok(self.pad(self.sign(negative), text, number.is_finite()))
            }
            other => Err(error(format!("unsupported format character '{other}'"))),
        }
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.has('+'), self.has(' ')) {
            (true, _, _) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        }
    }

    fn integer(&self, negative: bool, digits: String, prefix: &str) -> String {
        let missing = self.precision.unwrap_or(0).saturating_sub(digits.len());
        let digits = "0".repeat(missing) + &digits;
        self.pad(&format!("{}{prefix}", self.sign(negative)), digits, true)
    }

    /// Fills the width: behind, in front, or with zeros between sign and number.
    fn pad(&self, sign: &str, text: String, number: bool) -> String {
        let len = sign.chars().count() + text.chars().count();
        let missing = self.width.unwrap_or(0).saturating_sub(len);
        match (self.has('-'), self.has('0') && number) {
            (true, _) => format!("{sign}{text}{}", " ".repeat(missing)),
            (_, true) => format!("{sign}{}{text}", "0".repeat(missing)),
            _ => format!("{}{sign}{text}", " ".repeat(missing)),
        }
    }
}

/// `template.format(...)`.
pub(super) fn str_format(template: &str, arguments: &[Value]) -> Result<String> {
    // What is no number or text formats as its text.
    let shown = |value: &Value| match value.kind() {
        ValueKind::Number | ValueKind::String => Ok(value.clone()),
        _ if value.is_kwargs() => Ok(value.clone()),
        _ => to_str(value).map(Value::from),
    };
    let arguments = arguments.iter().map(shown).collect::<Result<Vec<_>>>()?;
    format_filter(FormatStyle::StrFormat, template, &arguments)
}
