//! Values as Python sees and prints them.

use crate::base::sync::lock;
use minijinja::value::{DynObject, Enumerator, Kwargs, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex};

pub(super) type Result<T> = std::result::Result<T, Error>;

/// How deep values nest that are printed.
const MAX_DEPTH: usize = 100;

/// An error of a template that does what Python refuses.
pub(super) fn error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Whether Python takes `c` for white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// A list that cannot change, and prints so.
#[derive(Debug)]
pub(super) struct Tuple(pub Vec<Value>);

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        write_items(&mut out, &mut self.0.iter().cloned(), ("(", ")"), 0)
            .map_err(|_| fmt::Error)?;
        f.write_str(&out)
    }
}

pub(super) fn tuple(items: Vec<Value>) -> Value {
    Value::from_object(Tuple(items))
}

/// What filters such as `map` give: items that can be gone over once, and no list.
#[derive(Debug)]
struct Generator(Mutex<VecDeque<Value>>);

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let rest = self.clone();
        Enumerator::Iter(Box::new(std::iter::from_fn(move || lock(&rest.0).pop_front())))
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<generator object>")
    }
}

pub(super) fn generator(items: impl IntoIterator<Item = Value>) -> Value {
    Value::from_object(Generator(Mutex::new(items.into_iter().collect())))
}

/// Keys, values or items of a dictionary, which are no list either.
#[derive(Debug)]
struct View {
    name: &'static str,
    items: Vec<Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = self.name.to_string();
        write_items(&mut out, &mut self.items.iter().cloned(), ("([", "])"), 0)
            .map_err(|_| fmt::Error)?;
        f.write_str(&out)
    }
}

pub(super) fn view(name: &'static str, items: Vec<Value>) -> Value {
    Value::from_object(View { name, items })
}

/// Whether `value` can be gone over but has no places.
pub(super) fn is_iterator(value: &Value) -> bool {
    is_generator(value) || value.downcast_object_ref::<View>().is_some()
}

pub(super) fn is_generator(value: &Value) -> bool {
    value.downcast_object_ref::<Generator>().is_some()
}

/// What Python calls the type of `value`.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Bytes => "bytes",
        ValueKind::Seq | ValueKind::Iterable if is_tuple(value) => "tuple",
        ValueKind::Seq | ValueKind::Iterable if is_generator(value) => "generator",
        ValueKind::Seq | ValueKind::Iterable if is_iterator(value) => "view of a dict",
        ValueKind::Seq | ValueKind::Iterable => "list",
        ValueKind::Map if is_dict(value) => "dict",
        _ => "object",
    }
}

pub(super) fn is_tuple(value: &Value) -> bool {
    value.downcast_object_ref::<Tuple>().is_some()
}

pub(super) fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) && !is_iterator(value)
}

/// Whether `value` is a dictionary: not a namespace or loop, which minijinja takes for mappings too.
pub(super) fn is_dict(value: &Value) -> bool {
    const OTHERS: [&str; 5] = ["namespace", "loop", "module", "macro", "closure"];
    let is_other = |object: &DynObject| {
        let name = object.type_name();
        OTHERS.iter().any(|other| name.contains(&format!("{other}_object")))
    };
    value.kind() == ValueKind::Map && !value.as_object().is_some_and(is_other)
}

/// The number as an integer, where it is one; truth values are.
pub(super) fn as_int(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// The number as a float.
pub(super) fn as_float(value: &Value) -> Option<f64> {
    match as_int(value) {
        Some(int) => Some(int as f64),
        None if value.kind() == ValueKind::Number => f64::try_from(value.clone()).ok(),
        None => None,
    }
}

pub(super) fn int(value: i128) -> Value {
    match i64::try_from(value) {
        Ok(small) => Value::from(small),
        Err(_) => Value::from(value),
    }
}

/// The argument at place `at`, or the one called `name`; `None` if it is left out.
pub(super) fn argument(
    positional: &[Value],
    named: &Kwargs,
    at: usize,
    name: &str,
) -> Result<Option<Value>> {
    match positional.get(at) {
        Some(value) => Ok(Some(value.clone())),
        None => named.get(name),
    }
}

/// What a loop goes over, with an error for what Python does not iterate.
pub(super) fn items(value: &Value) -> Result<Vec<Value>> {
    match value.kind() {
        ValueKind::Undefined => Ok(Vec::new()),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            Ok(text.chars().map(|c| Value::from(c.to_string())).collect())
        }
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => Ok(value.try_iter()?.collect()),
        ValueKind::Plain if value.try_iter().is_ok() => Ok(value.try_iter()?.collect()),
        _ => Err(error(format!("'{}' object is not iterable", type_name(value)))),
    }
}

/// `str(value)`.
pub(super) fn to_str(value: &Value) -> Result<String> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_string()),
        _ => repr(value),
    }
}

/// `value` as HTML: what is marked as safe stays.
pub(super) fn markup(value: &Value) -> Result<String> {
    let text = to_str(value)?;
    if value.is_safe() {
        return Ok(text);
    }
    let text = text.replace('&', "&amp;").replace('>', "&gt;").replace('<', "&lt;");
    Ok(text.replace('\'', "&#39;").replace('"', "&#34;"))
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> Result<String> {
    let mut out = String::new();
    write_repr(&mut out, value, 0)?;
    Ok(out)
}

fn write_repr(out: &mut String, value: &Value, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(error("a value is nested too deeply to be printed"));
    }
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match as_int(value) {
            Some(int) => write!(out, "{int}").unwrap_or_default(),
            None => match f64::try_from(value.clone()) {
                Ok(float) => out.push_str(&float_repr(float)),
                Err(_) => write!(out, "{value}").unwrap_or_default(),
            },
        },
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable if is_list(value) => {
            let brackets = if is_tuple(value) { ("(", ")") } else { ("[", "]") };
            write_items(out, &mut value.try_iter()?, brackets, depth)?;
        }
        ValueKind::Map if is_dict(value) => {
            out.push('{');
            for (at, key) in value.try_iter()?.enumerate() {
                out.push_str(if at == 0 { "" } else { ", " });
                write_repr(out, &key, depth + 1)?;
                out.push_str(": ");
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        _ => write!(out, "{value}").unwrap_or_default(),
    }
    Ok(())
}

fn write_items(
    out: &mut String,
    items: &mut dyn Iterator<Item = Value>,
    (open, close): (&str, &str),
    depth: usize,
) -> Result<()> {
    out.push_str(open);
    let mut count = 0;
    for item in items {
        out.push_str(if count == 0 { "" } else { ", " });
        write_repr(out, &item, depth + 1)?;
        count += 1;
    }
    out.push_str(if count == 1 && open == "(" { "," } else { "" });
    out.push_str(close);
    Ok(())
}

/// A string as Python writes it in code.
fn write_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c if (c as u32) < 0x100 => write!(out, "\\x{:02x}", c as u32).unwrap_or_default(),
            c if (c as u32) < 0x10000 => write!(out, "\\u{:04x}", c as u32).unwrap_or_default(),
            c => write!(out, "\\U{:08x}", c as u32).unwrap_or_default(),
        }
    }
    out.push(quote);
}

/// Whether Python prints `c` in a quoted string as it is: no control, format or private character, and no space but
/// the one.
pub(super) fn is_printable(c: char) -> bool {
    match c {
        ' '..='~' => true,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => false,
        '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{e000}'..='\u{f8ff}'
        | '\u{fff9}'..='\u{fffb}' => false,
        c if (c as u32) >= 0xe0000 || (c as u32) & 0xfffe == 0xfffe => false,
        c => !c.is_control() && !c.is_whitespace(),
    }
}

/// A float as Python prints it: the fewest digits that give it back.
pub(super) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_string();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let text = format!("{value}");
    if text.contains('.') { text } else { format!("{text}.0") }
}
