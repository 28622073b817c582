//! Methods of Python's strings, lists and dictionaries.
//!
//! As in transformers' sandbox, what would change a list or a dictionary is an error.

use super::operators::undefined;
use super::printf;
use super::python::{
    Result, as_int, error, int, is_dict, is_list, is_printable, is_space, is_tuple, items, tuple,
    type_name, view,
};
use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, ValueKind, from_args};
use minijinja::{State, Value};
use std::sync::Arc;

const OF_STR: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const OF_LIST: &[&str] = &[
    "append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse",
    "sort",
];
const OF_DICT: &[&str] = &[
    "clear",
    "copy",
    "fromkeys",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
];
/// What the sandbox does not let templates call.
const CHANGING: &[&str] = &[
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
];

/// Whether any type has a method of that name.
pub(super) fn is_method(name: &str) -> bool {
    [OF_STR, OF_LIST, OF_DICT].iter().any(|names| names.contains(&name))
}

/// Whether `value` has the method `name`.
pub(super) fn has(value: &Value, name: &str) -> bool {
    match value.kind() {
        ValueKind::String => OF_STR.contains(&name),
        ValueKind::Map => is_dict(value) && OF_DICT.contains(&name),
        _ if is_tuple(value) => matches!(name, "count" | "index"),
        _ => is_list(value) && OF_LIST.contains(&name),
    }
}

/// A method of a value, not yet called.
#[derive(Debug)]
pub(super) struct Bound {
    pub value: Value,
    pub name: String,
}

impl Object for Bound {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &State<'_, '_>, args: &[Value]) -> Result<Value> {
        method(&self.value, &self.name, args)
    }
}

/// `value.name(arguments)`.
pub(super) fn call(
    state: &State<'_, '_>,
    value: Value,
    name: String,
    arguments: Rest<Value>,
) -> Result<Value> {
    if value.is_undefined() {
        return Err(undefined(&format!("method '{name}'")));
    }
    if has(&value, &name) {
        return method(&value, &name, &arguments.0);
    }
    let found = match value.kind() {
        ValueKind::Map if is_dict(&value) => value.get_attr(&name)?,
        ValueKind::Map | ValueKind::Plain => return value.call_method(state, &name, &arguments.0),
        _ => Value::UNDEFINED,
    };
    match found.is_undefined() {
        true => Err(error(format!("'{}' object has no attribute '{name}'", type_name(&value)))),
        false => found.call(state, &arguments.0),
    }
}

fn method(value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    if value.kind() != ValueKind::String && CHANGING.contains(&name) {
        let kind = type_name(value);
        return Err(error(format!(
            "the sandbox of templates does not let '{name}' change a {kind}"
        )));
    }
    match value.kind() {
        ValueKind::String => of_str(value.as_str().unwrap_or_default(), name, args),
        ValueKind::Map => of_dict(value, name, args),
        _ => of_list(value, name, args),
    }
}

fn of_dict(value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    let keys = || items(value);
    let get = |key: &Value| value.get_item(key);
    match name {
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = get(&key)?;
            Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found })
        }
        "keys" => Ok(view("dict_keys", keys()?)),
        "values" => Ok(view("dict_values", keys()?.iter().map(get).collect::<Result<Vec<_>>>()?)),
        "items" => Ok(view("dict_items", pairs(value)?)),
        "copy" => Ok(value.clone()),
        _ => Err(error(format!("the method '{name}' of dict is not supported"))),
    }
}

/// Keys and values of a dictionary.
pub(super) fn pairs(value: &Value) -> Result<Vec<Value>> {
    let pair = |key: Value| {
        let found = value.get_item(&key)?;
        Ok(tuple(vec![key, found]))
    };
    items(value)?.into_iter().map(pair).collect()
}

fn of_list(value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    let all = items(value)?;
    match name {
        "count" => {
            let (wanted,): (Value,) = from_args(args)?;
            Ok(Value::from(all.iter().filter(|item| **item == wanted).count()))
        }
        "index" => {
            let (wanted,): (Value,) = from_args(args)?;
            let found = all.iter().position(|item| *item == wanted);
            found.map(Value::from).ok_or_else(|| error("the item is not in the list"))
        }
        _ => Ok(value.clone()),
    }
}

/// Arguments by place or, where `names` has them, by name.
fn arguments<const N: usize>(args: &[Value], names: [&str; N]) -> Result<[Option<Value>; N]> {
    let (positional, kwargs): (Rest<Value>, Kwargs) = from_args(args)?;
    if positional.0.len() > N {
        return Err(error(format!(
            "at most {N} arguments are expected, not {}",
            positional.0.len()
        )));
    }
    let mut positional = positional.0.into_iter();
    let mut found = [const { None }; N];
    for (place, name) in found.iter_mut().zip(names) {
        *place = match positional.next() {
            Some(value) => Some(value),
            None => kwargs.get(name)?,
        };
    }
    kwargs.assert_all_used()?;
    Ok(found)
}

fn text_of<'a>(value: &'a Option<Value>, what: &str) -> Result<&'a str> {
    let text = value.as_ref().and_then(|value| value.as_str());
    text.ok_or_else(|| error(format!("{what} must be str")))
}

/// `None` where the argument is left out or None.
fn number_of(value: &Option<Value>) -> Result<Option<i128>> {
    match value {
        None => Ok(None),
        Some(value) if value.is_none() => Ok(None),
        Some(value) => as_int(value).map(Some).ok_or_else(|| error("a number is expected")),
    }
}

fn of_str(text: &str, name: &str, args: &[Value]) -> Result<Value> {
    if let Some(holds) = question(text, name) {
        let () = from_args(args)?;
        return Ok(Value::from(holds));
    }
    let changed = match name {
        "upper" => text.to_uppercase(),
        "lower" | "casefold" => text.to_lowercase(),
        "capitalize" => capitalize(text),
        "title" => title(text),
        "swapcase" => text.chars().map(swapped).collect(),
        "format" => return printf::str_format(text, args).map(Value::from),
        "strip" | "lstrip" | "rstrip" => {
            let [characters] = arguments(args, ["chars"])?;
            strip(text, characters.as_ref(), name)?.to_string()
        }
        "split" | "rsplit" | "splitlines" => return split_by(text, name, args),
        "partition" | "rpartition" => return partition(text, name, args),
        "count" | "find" | "rfind" | "index" | "rindex" => return search(text, name, args),
        "startswith" | "endswith" => return affix(text, name, args),
        "replace" | "removeprefix" | "removesuffix" | "join" => replaced(text, name, args)?,
        "center" | "ljust" | "rjust" | "zfill" | "expandtabs" => padded(text, name, args)?,
        _ => return Err(error(format!("the method '{name}' of str is not supported"))),
    };
    if matches!(name, "upper" | "lower" | "casefold" | "capitalize" | "title" | "swapcase") {
        let () = from_args(args)?;
    }
    Ok(Value::from(changed))
}

/// The answer of methods such as `isdigit`.
fn question(text: &str, name: &str) -> Option<bool> {
    let all = |holds: fn(char) -> bool| !text.is_empty() && text.chars().all(holds);
    let cased = |is: fn(&char) -> bool, is_not: fn(&char) -> bool| {
        text.chars().any(|c| is(&c)) && !text.chars().any(|c| is_not(&c))
    };
    Some(match name {
        "isspace" => all(is_space),
        "isdigit" | "isdecimal" => all(|c| c.is_ascii_digit()),
        "isnumeric" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isascii" => text.is_ascii(),
        "isprintable" => text.chars().all(is_printable),
        "islower" => cased(|c| c.is_lowercase(), |c| c.is_uppercase()),
        "isupper" => cased(|c| c.is_uppercase(), |c| c.is_lowercase()),
        "istitle" => text.chars().any(char::is_alphabetic) && title(text) == text,
        "isidentifier" => {
            let mut chars = text.chars();
            chars.next().is_some_and(|c| c == '_' || c.is_alphabetic())
                && chars.all(|c| c == '_' || c.is_alphanumeric())
        }
        _ => return None,
    })
}

/// `str.capitalize`.
pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
    first + &chars.as_str().to_lowercase()
}

fn title(text: &str) -> String {
    let mut within = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match within {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        within = c.is_alphabetic();
    }
    out
}

fn swapped(c: char) -> char {
    let (mut upper, mut lower) = (c.to_uppercase(), c.to_lowercase());
    if c.is_lowercase() { upper.next().unwrap_or(c) } else { lower.next().unwrap_or(c) }
}

/// `text` without the characters at its ends; without `characters` white space.
pub(super) fn strip<'a>(text: &'a str, characters: Option<&Value>, name: &str) -> Result<&'a str> {
    let set: Option<Vec<char>> = match characters {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => {
            let text =
                value.as_str().ok_or_else(|| error(format!("{name} arg must be None or str")))?;
            Some(text.chars().collect())
        }
    };
    let wanted = |c: char| set.as_ref().map_or(is_space(c), |set| set.contains(&c));
    let text = if name == "rstrip" { text } else { text.trim_start_matches(wanted) };
    Ok(if name == "lstrip" { text } else { text.trim_end_matches(wanted) })
}

fn split_by(text: &str, name: &str, args: &[Value]) -> Result<Value> {
    if name == "splitlines" {
        let [keep] = arguments(args, ["keepends"])?;
        let keep = keep.is_some_and(|keep| keep.is_true());
        return Ok(lines(text, keep).into_iter().map(Value::from).collect());
    }
    let [separator, most] = arguments(args, ["sep", "maxsplit"])?;
    let most = number_of(&most)?.filter(|most| *most >= 0);
    let most = most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let from_end = name == "rsplit";
    let parts: Vec<&str> = match separator.filter(|separator| !separator.is_none()) {
        None => words(text, most, from_end),
        separator => {
            let separator = text_of(&separator, "the separator")?;
            if separator.is_empty() {
                return Err(error("empty separator"));
            }
            let parts = most.saturating_add(1);
            match from_end {
                false => text.splitn(parts, separator).collect(),
                true => {
                    let mut parts: Vec<_> = text.rsplitn(parts, separator).collect();
                    parts.reverse();
                    parts
                }
            }
        }
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Words between white space. After `most` cuts the rest is one, with the space at its far end.
fn words(text: &str, most: usize, from_end: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        rest = match from_end {
            false => rest.trim_start_matches(is_space),
            true => rest.trim_end_matches(is_space),
        };
        if rest.is_empty() {
            break;
        }
        let cut = match from_end {
            false => rest.find(is_space).map(|at| rest.split_at(at)),
            true => rest.rfind(is_space).map(|at| {
                let width = rest[at..].chars().next().map_or(1, char::len_utf8);
                let (rest, word) = rest.split_at(at + width);
                (word, rest)
            }),
        };
        let Some((word, behind)) = cut.filter(|_| parts.len() < most) else {
            parts.push(rest);
            break;
        };
        parts.push(word);
        rest = behind;
    }
    if from_end {
        parts.reverse();
    }
    parts
}

/// `str.splitlines`: any of Python's line ends.
pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        let width = match rest[at..].starts_with("\r\n") {
            true => 2,
            false => rest[at..].chars().next().map_or(1, char::len_utf8),
        };
        lines.push(&rest[..if keep { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn partition(text: &str, name: &str, args: &[Value]) -> Result<Value> {
    let [separator] = arguments(args, ["sep"])?;
    let separator = text_of(&separator, "the separator")?;
    if separator.is_empty() {
        return Err(error("empty separator"));
    }
    let parts = match name {
        "partition" => match text.split_once(separator) {
            Some((before, after)) => [before, separator, after],
            None => [text, "", ""],
        },
        _ => match text.rsplit_once(separator) {
            Some((before, after)) => [before, separator, after],
            None => ["", "", text],
        },
    };
    Ok(tuple(parts.into_iter().map(Value::from).collect()))
}

/// The part of `text` between two places in characters, and where it begins.
fn section(text: &str, start: Option<i128>, end: Option<i128>) -> Result<(&str, usize)> {
    let count = text.chars().count() as i128;
    let place = |at: Option<i128>, default: i128| {
        let at = at.unwrap_or(default);
        (if at < 0 { at.saturating_add(count).max(0) } else { at }) as usize
    };
    let (start, end) = (place(start, 0), place(end, count).min(count as usize));
    let bytes = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(at, _)| at);
    Ok(match start <= end {
        true => (&text[bytes(start)..bytes(end)], start),
        false => ("", usize::MAX),
    })
}

fn search(text: &str, name: &str, args: &[Value]) -> Result<Value> {
    let [wanted, start, end] = arguments(args, ["sub", "start", "end"])?;
    let wanted = text_of(&wanted, "what is searched for")?;
    let (within, offset) = section(text, number_of(&start)?, number_of(&end)?)?;
    if name == "count" {
        let empty = within.chars().count() + 1;
        let count = if wanted.is_empty() { empty } else { within.matches(wanted).count() };
        return Ok(Value::from(if offset == usize::MAX { 0 } else { count }));
    }
    let found = if name.starts_with('r') { within.rfind(wanted) } else { within.find(wanted) };
    match found.filter(|_| offset != usize::MAX) {
        Some(at) => Ok(Value::from(offset + within[..at].chars().count())),
        None if name.ends_with("find") => Ok(int(-1)),
        None => Err(error("substring not found")),
    }
}

fn affix(text: &str, name: &str, args: &[Value]) -> Result<Value> {
    let [wanted, start, end] = arguments(args, ["prefix", "start", "end"])?;
    let wanted = wanted.unwrap_or_default();
    let (within, offset) = section(text, number_of(&start)?, number_of(&end)?)?;
    let choices = match wanted.kind() {
        ValueKind::String => vec![wanted],
        _ if is_tuple(&wanted) => items(&wanted)?,
        _ => {
            let kind = type_name(&wanted);
            return Err(error(format!(
                "{name} first arg must be str or a tuple of str, not {kind}"
            )));
        }
    };
    for choice in &choices {
        let choice =
            choice.as_str().ok_or_else(|| error(format!("{name} takes a tuple of str")))?;
        let holds = if name == "startswith" {
            within.starts_with(choice)
        } else {
            within.ends_with(choice)
        };
        if holds && offset != usize::MAX {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn replaced(text: &str, name: &str, args: &[Value]) -> Result<String> {
    if name == "join" {
        let (parts,): (Value,) = from_args(args)?;
        let parts = items(&parts)?;
        let part = |part: &Value| {
            let found = part.as_str().map(str::to_string);
            found.ok_or_else(|| error(format!("expected str instance, {} found", type_name(part))))
        };
        return Ok(parts.iter().map(part).collect::<Result<Vec<_>>>()?.join(text));
    }
    let [old, new, count] = arguments(args, ["old", "new", "count"])?;
    let old = text_of(&old, "the argument")?;
    Ok(match name {
        "removeprefix" => text.strip_prefix(old).unwrap_or(text).to_string(),
        "removesuffix" => text.strip_suffix(old).unwrap_or(text).to_string(),
        _ => {
            let new = text_of(&new, "the replacement")?;
            match number_of(&count)?.filter(|count| *count >= 0) {
                Some(count) => {
                    text.replacen(old, new, usize::try_from(count).unwrap_or(usize::MAX))
                }
                None => text.replace(old, new),
            }
        }
    })
}

/// The widest text that padding makes.
const WIDEST: i128 = 1_000_000;

fn padded(text: &str, name: &str, args: &[Value]) -> Result<String> {
    let [width, fill] = arguments(args, ["width", "fillchar"])?;
    let width = number_of(&width)?;
    if width.is_some_and(|width| width > WIDEST) {
        return Err(error("the width is too large"));
    }
    if name == "expandtabs" {
        return Ok(expand_tabs(text, width.unwrap_or(8).max(0) as usize));
    }
    let width = width.ok_or_else(|| error("a width is expected"))?.max(0) as usize;
    let len = text.chars().count();
    let missing = width.saturating_sub(len);
    if name == "zfill" {
        let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
        return Ok(format!("{sign}{}{digits}", "0".repeat(missing)));
    }
    let fill = match &fill {
        None => " ",
        fill => text_of(fill, "the fill character")?,
    };
    if fill.chars().count() != 1 {
        return Err(error("The fill character must be exactly one character long"));
    }
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        _ => missing / 2 + (missing & width & 1),
    };
    Ok(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)))
}

fn expand_tabs(text: &str, size: usize) -> String {
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' => {
                let fill = if size == 0 { 0 } else { size - column % size };
                out.push_str(&" ".repeat(fill));
                column += fill;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            c => {
                out.push(c);
                column += 1;
            }
        }
    }
    out
}
