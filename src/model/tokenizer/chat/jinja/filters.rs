//! Filters and tests of Jinja2 where minijinja's own differ or are absent.

use super::json;
use super::methods;
use super::operators::{contains, order, undefined};
use super::printf;
use super::python::{
    self, Result, as_float, as_int, error, generator, int, is_dict, is_list, is_space, items,
    to_str, tuple, type_name,
};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, State, Value, filters as builtin};
use std::borrow::Cow;

/// Adds them to `environment`.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    add_texts(environment);
    add_numbers(environment);
    add_collections(environment);
    add_generators(environment);
    add_tests(environment);
}

fn add_texts(environment: &mut Environment<'_>) {
    environment.add_filter("tojson", |value: Value, positional: Rest<Value>, named: Kwargs| {
        json::tojson(&value, positional, named)
    });
    environment.add_filter("string", |value: Value| to_str(&value));
    environment.add_filter("upper", |value: Value| {
        Ok::<_, minijinja::Error>(to_str(&value)?.to_uppercase())
    });
    environment.add_filter("lower", |value: Value| {
        Ok::<_, minijinja::Error>(to_str(&value)?.to_lowercase())
    });
    environment.add_filter("capitalize", |value: Value| {
        Ok::<_, minijinja::Error>(methods::capitalize(&to_str(&value)?))
    });
    environment.add_filter("title", title);
    environment.add_filter("trim", |value: Value, characters: Option<Value>| {
        Ok::<_, minijinja::Error>(
            methods::strip(&to_str(&value)?, characters.as_ref(), "strip")?.to_string(),
        )
    });
    environment.add_filter("replace", replace);
    environment.add_filter("join", join);
    environment.add_filter("indent", indent);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("forceescape", escape);
    environment.add_filter("format", |text: Value, arguments: Rest<Value>| {
        let arguments = match arguments.0.as_slice() {
            [named] if named.is_kwargs() => python_dict(named),
            _ => tuple(arguments.0),
        };
        printf::format(&Value::from(to_str(&text)?), &arguments)
    });
    environment.add_filter("wordcount", |value: Value| {
        let text = to_str(&value)?;
        let is_word = |c: char| c == '_' || c.is_alphanumeric();
        Ok::<_, minijinja::Error>(
            text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).count(),
        )
    });
    environment.add_filter("center", |value: Value, width: Option<i64>| {
        let text = Value::from(to_str(&value)?);
        let missing = (width.unwrap_or(80).clamp(0, 1_000_000) as usize)
            .saturating_sub(text.len().unwrap_or(0));
        let left = missing / 2 + (missing & width.unwrap_or(80) as usize & 1);
        let text = to_str(&text)?;
        Ok::<_, minijinja::Error>(format!(
            "{}{text}{}",
            " ".repeat(left),
            " ".repeat(missing - left)
        ))
    });
    environment.add_filter("truncate", truncate);
}

fn python_dict(kwargs: &Value) -> Value {
    let pairs = kwargs.try_iter().into_iter().flatten();
    pairs.map(|key| (key.to_string(), kwargs.get_item(&key).unwrap_or_default())).collect()
}

fn title(value: Value) -> Result<String> {
    let text = to_str(&value)?;
    let separates = |c: char| c == '-' || is_space(c) || matches!(c, '(' | '{' | '[' | '<');
    let mut out = String::new();
    let mut first = true;
    for c in text.chars() {
        match first {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        first = separates(c);
    }
    Ok(out)
}

fn replace(value: Value, old: Value, new: Value, count: Option<Value>) -> Result<String> {
    let (text, old, new) = (to_str(&value)?, to_str(&old)?, to_str(&new)?);
    Ok(match count.as_ref().and_then(as_int).filter(|count| *count >= 0) {
        Some(count) => text.replacen(&old, &new, usize::try_from(count).unwrap_or(usize::MAX)),
        None => text.replace(&old, &new),
    })
}

fn join(value: Value, separator: Option<Value>, named: Kwargs) -> Result<String> {
    let separator = separator.map_or_else(|| named.get::<Option<Value>>("d"), |s| Ok(Some(s)))?;
    let attribute: Option<String> = named.get("attribute")?;
    named.assert_all_used()?;
    let separator = separator.as_ref().map(to_str).transpose()?.unwrap_or_default();
    let part = |item: &Value| match &attribute {
        Some(path) => {
            let mut found = item.clone();
            for name in path.split('.') {
                found = found.get_item(&Value::from(name))?;
            }
            to_str(&found)
        }
        None => to_str(item),
    };
    Ok(items(&value)?.iter().map(part).collect::<Result<Vec<_>>>()?.join(&separator))
}

fn indent(value: Value, arguments: Rest<Value>, named: Kwargs) -> Result<String> {
    let argument = |at, name| python::argument(&arguments.0, &named, at, name);
    let (width, first, blank) =
        (argument(0, "width")?, argument(1, "first")?, argument(2, "blank")?);
    named.assert_all_used()?;
    let holds = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let indentation = match &width {
        None => "    ".to_string(),
        Some(width) => match (width.as_str(), as_int(width)) {
            (Some(text), _) => text.to_string(),
            (None, Some(count)) => " ".repeat(count.clamp(0, 10_000) as usize),
            (None, None) => return Err(error("the width of 'indent' is no number")),
        },
    };
    let Some(text) = value.as_str() else {
        if value.is_undefined() {
            return Err(undefined("indentation"));
        }
        return Err(error(format!("'indent' is for str, not {}", type_name(&value))));
    };
    let text = format!("{text}\n");
    let blank = holds(blank);
    let mut out = String::new();
    for (at, line) in methods::lines(&text, false).into_iter().enumerate() {
        if at > 0 {
            out.push('\n');
            out.push_str(if blank || !line.is_empty() { &indentation } else { "" });
        }
        out.push_str(line);
    }
    Ok(if holds(first) { indentation + &out } else { out })
}

fn escape(value: Value) -> Result<Value> {
    python::markup(&value).map(Value::from_safe_string)
}

fn truncate(value: Value, arguments: Rest<Value>, named: Kwargs) -> Result<String> {
    let argument = |at, name| python::argument(&arguments.0, &named, at, name);
    let number =
        |value: Option<Value>, default: i128| value.as_ref().and_then(as_int).unwrap_or(default);
    let length = number(argument(0, "length")?, 255).max(0) as usize;
    let kill = argument(1, "killwords")?.is_some_and(|kill| kill.is_true());
    let end = argument(2, "end")?.as_ref().map(to_str).transpose()?.unwrap_or("...".to_string());
    let leeway = number(argument(3, "leeway")?, 5).max(0) as usize;
    named.assert_all_used()?;
    let text = to_str(&value)?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let keep = length.saturating_sub(end.chars().count());
    let cut: String = text.chars().take(keep).collect();
    let cut = if kill { &cut } else { cut.rsplit_once(' ').map_or(cut.as_str(), |(cut, _)| cut) };
    Ok(format!("{cut}{end}"))
}

fn add_numbers(environment: &mut Environment<'_>) {
    environment.add_filter("int", |value: Value, default: Option<Value>, named: Kwargs| {
        let base: Option<u32> = named.get("base")?;
        let default =
            default.map_or_else(|| named.get::<Option<Value>>("default"), |d| Ok(Some(d)))?;
        named.assert_all_used()?;
        if value.is_undefined() {
            return Err(undefined("a number"));
        }
        Ok(to_int(&value, base.unwrap_or(10)).map_or(default.unwrap_or(int(0)), int))
    });
    environment.add_filter("float", |value: Value, default: Option<Value>| {
        if value.is_undefined() {
            return Err(undefined("a number"));
        }
        let parsed = match value.as_str() {
            Some(text) => number_of(text),
            None => as_float(&value),
        };
        Ok(parsed.map_or(default.unwrap_or(Value::from(0.0)), Value::from))
    });
    environment.add_filter("abs", |value: Value| match (as_int(&value), as_float(&value)) {
        (Some(number), _) => Ok(int(number.saturating_abs())),
        (None, Some(number)) => Ok(Value::from(number.abs())),
        _ => Err(error(format!("bad operand type for abs(): '{}'", type_name(&value)))),
    });
    environment.add_filter("round", round);
}

/// A float in Python's spelling.
fn number_of(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space).replace('_', "");
    let has_digit = text.bytes().any(|b| b.is_ascii_digit());
    let word = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    (has_digit || matches!(word.as_str(), "inf" | "infinity" | "nan"))
        .then(|| text.parse().ok())
        .flatten()
}

fn to_int(value: &Value, base: u32) -> Option<i128> {
    let whole = |float: f64| float.is_finite().then_some(float as i128);
    let Some(text) = value.as_str() else {
        return as_int(value).or_else(|| as_float(value).and_then(whole));
    };
    let text = text.trim_matches(is_space);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefix = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find(|(p, b)| *b == base && lower.starts_with(p));
    let digits =
        prefix.map_or(lower.as_str(), |(prefix, _)| &lower[prefix.len()..]).replace('_', "");
    if (2..=36).contains(&base)
        && !digits.is_empty()
        && let Ok(number) = i128::from_str_radix(&digits, base)
    {
        return Some(sign * number);
    }
    number_of(text).and_then(whole)
}

fn round(
    value: Value,
    precision: Option<i64>,
    method: Option<String>,
    named: Kwargs,
) -> Result<Value> {
    let precision =
        precision.map_or_else(|| named.get::<Option<i64>>("precision"), |p| Ok(Some(p)))?;
    let method = method.map_or_else(|| named.get::<Option<String>>("method"), |m| Ok(Some(m)))?;
    named.assert_all_used()?;
    let precision = precision.unwrap_or(0).clamp(-300, 300);
    let number = as_float(&value).ok_or_else(|| {
        error(format!("type {} doesn't define __round__ method", type_name(&value)))
    })?;
    let scale = 10f64.powi(precision as i32);
    match method.as_deref().unwrap_or("common") {
        "common" if as_int(&value).is_some() && precision >= 0 => Ok(value),
        // As Python rounds: by the decimal digits, ties to even.
        "common" if precision >= 0 => {
            let text = format!("{number:.0$}", precision as usize);
            Ok(Value::from(text.parse::<f64>().unwrap_or(number)))
        }
        "common" => {
            let rounded = (number * scale).round_ties_even() / scale;
            Ok(if as_int(&value).is_some() { int(rounded as i128) } else { Value::from(rounded) })
        }
        "ceil" => Ok(Value::from((number * scale).ceil() / scale)),
        "floor" => Ok(Value::from((number * scale).floor() / scale)),
        other => Err(error(format!("'{other}' is no method of rounding"))),
    }
}

fn add_collections(environment: &mut Environment<'_>) {
    for name in ["length", "count"] {
        environment.add_filter(name, length);
    }
    environment.add_filter("list", |value: Value| items(&value).map(Value::from));
    environment.add_filter("items", |value: Value| match value.kind() {
        ValueKind::Undefined => Ok(generator([])),
        ValueKind::Map => methods::pairs(&value).map(generator),
        _ => Err(error("Can only get item pairs from a mapping.")),
    });
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("sort", |state: &State<'_, '_>, value: Value, named: Kwargs| {
        let all = items(&value)?;
        if !named.has("attribute") {
            for pair in all.windows(2) {
                order("<", &pair[0], &pair[1])?;
            }
        }
        builtin::sort(state, Value::from(all), named)
    });
    environment.add_filter("first", |value: Value| {
        Ok::<_, minijinja::Error>(items(&value)?.into_iter().next().unwrap_or_default())
    });
    environment.add_filter("last", |value: Value| match python::is_generator(&value) {
        true => Err(error("'generator' object is not reversible")),
        false => Ok(items(&value)?.pop().unwrap_or_default()),
    });
    for name in ["default", "d"] {
        environment.add_filter(name, default);
    }
    environment.add_filter("attr", |value: Value, name: String| {
        if value.is_undefined() {
            return Err(undefined("attribute"));
        }
        // Items are no attributes.
        match methods::has(&value, &name) {
            true => Ok(Value::from_object(methods::Bound { value, name })),
            false if is_dict(&value) => Ok(Value::UNDEFINED),
            false => value.get_attr(&name),
        }
    });
}

/// The items of `value`; what is false has none for the filters that choose.
fn seen(value: &Value) -> Result<Value> {
    if value.is_true() {
        items(value).map(Value::from)
    } else {
        Ok(Value::from(Vec::<Value>::new()))
    }
}

/// Applies one of minijinja's filters that choose items by a test, to the items of `value`.
fn choose(
    value: &Value,
    test: Option<String>,
    filter: impl FnOnce(Value, Option<Cow<'_, str>>) -> Result<Vec<Value>>,
) -> Result<Value> {
    filter(seen(value)?, test.map(Cow::Owned)).map(generator)
}

/// Filters that give generators.
fn add_generators(environment: &mut Environment<'_>) {
    environment.add_filter("map", |state: &State<'_, '_>, value: Value, arguments: Rest<Value>| {
        builtin::map(state, seen(&value)?, arguments).map(generator)
    });
    environment.add_filter(
        "select",
        |state: &State<'_, '_>, value: Value, test, rest: Rest<Value>| {
            choose(&value, test, |value, test| builtin::select(state, value, test, rest))
        },
    );
    environment.add_filter(
        "reject",
        |state: &State<'_, '_>, value: Value, test, rest: Rest<Value>| {
            choose(&value, test, |value, test| builtin::reject(state, value, test, rest))
        },
    );
    environment.add_filter(
        "selectattr",
        |state: &State<'_, '_>, value: Value, name: String, test, rest: Rest<Value>| {
            choose(&value, test, |value, test| {
                builtin::selectattr(state, value, name.into(), test, rest)
            })
        },
    );
    environment.add_filter(
        "rejectattr",
        |state: &State<'_, '_>, value: Value, name: String, test, rest: Rest<Value>| {
            choose(&value, test, |value, test| {
                builtin::rejectattr(state, value, name.into(), test, rest)
            })
        },
    );
    environment.add_filter("unique", |state: &State<'_, '_>, value: Value, named: Kwargs| {
        let unique = builtin::unique(state, Value::from(items(&value)?), named)?;
        Ok::<_, minijinja::Error>(generator(items(&unique)?))
    });
    environment.add_filter("batch", |state: &State<'_, '_>, value: Value, count, fill| {
        let rows = builtin::batch(state, Value::from(items(&value)?), count, fill)?;
        Ok::<_, minijinja::Error>(generator(items(&rows)?))
    });
    environment.add_filter("slice", |state: &State<'_, '_>, value: Value, count, fill| {
        let rows = builtin::slice(state, Value::from(items(&value)?), count, fill)?;
        Ok::<_, minijinja::Error>(generator(items(&rows)?))
    });
    environment.add_filter("reverse", |value: Value| match value.as_str() {
        Some(text) => Ok(Value::from(text.chars().rev().collect::<String>())),
        None => items(&value).map(|items| generator(items.into_iter().rev())),
    });
}

fn length(value: Value) -> Result<usize> {
    match value.kind() {
        _ if python::is_generator(&value) => Err(error("object of type 'generator' has no len()")),
        ValueKind::Undefined => Ok(0),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().chars().count()),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => Ok(items(&value)?.len()),
        _ => Err(error(format!("object of type '{}' has no len()", type_name(&value)))),
    }
}

fn default(
    value: Value,
    other: Option<Value>,
    boolean: Option<Value>,
    named: Kwargs,
) -> Result<Value> {
    let other =
        other.map_or_else(|| named.get::<Option<Value>>("default_value"), |o| Ok(Some(o)))?;
    let boolean = boolean.map_or_else(|| named.get::<Option<Value>>("boolean"), |b| Ok(Some(b)))?;
    named.assert_all_used()?;
    let falls = value.is_undefined() || (boolean.is_some_and(|b| b.is_true()) && !value.is_true());
    Ok(if falls { other.unwrap_or(Value::from("")) } else { value })
}

fn dictsort(value: Value, arguments: Rest<Value>, named: Kwargs) -> Result<Value> {
    let argument = |at, name| python::argument(&arguments.0, &named, at, name);
    let sensitive = argument(0, "case_sensitive")?.is_some_and(|v| v.is_true());
    let by = argument(1, "by")?.map_or("key".to_string(), |by| by.to_string());
    let reverse = argument(2, "reverse")?.is_some_and(|v| v.is_true());
    named.assert_all_used()?;
    if value.is_undefined() {
        return Err(undefined("items"));
    }
    if !is_dict(&value) {
        return Err(error(format!("'{}' object has no attribute 'items'", type_name(&value))));
    }
    let at = match by.as_str() {
        "key" => 0,
        "value" => 1,
        _ => return Err(error("You can only sort by either \"key\" or \"value\"")),
    };
    let mut pairs = Vec::new();
    for key in items(&value)? {
        let found = value.get_item(&key)?;
        let sorted = if at == 0 { &key } else { &found };
        let sorted = match sorted.as_str() {
            Some(text) if !sensitive => Value::from(text.to_lowercase()),
            _ => sorted.clone(),
        };
        pairs.push((sorted, tuple(vec![key, found])));
    }
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    if reverse {
        pairs.reverse();
    }
    Ok(pairs.into_iter().map(|(_, pair)| pair).collect())
}

fn add_tests(environment: &mut Environment<'_>) {
    environment.add_test("string", |value: &Value| value.kind() == ValueKind::String);
    environment.add_test("mapping", |value: &Value| is_dict(value));
    environment.add_test("sequence", |value: &Value| {
        is_list(value)
            || is_dict(value)
            || matches!(value.kind(), ValueKind::String | ValueKind::Undefined)
    });
    environment.add_test("iterable", |value: &Value| {
        use ValueKind::{Iterable, Map, Seq, String, Undefined};
        matches!(value.kind(), Seq | Iterable | String | Undefined | Map)
    });
    environment.add_test("number", |value: &Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
    });
    environment.add_test("integer", |value: &Value| {
        value.kind() == ValueKind::Number && as_int(value).is_some()
    });
    environment.add_test("float", |value: &Value| {
        value.kind() == ValueKind::Number && as_int(value).is_none()
    });
    environment.add_test("boolean", |value: &Value| value.kind() == ValueKind::Bool);
    environment
        .add_test("true", |value: &Value| value.kind() == ValueKind::Bool && value.is_true());
    environment
        .add_test("false", |value: &Value| value.kind() == ValueKind::Bool && !value.is_true());
    environment.add_test("none", |value: &Value| value.is_none());
    environment.add_test("in", |value: &Value, container: Value| contains(&container, value));
    environment.add_test("sameas", |value: &Value, other: Value| {
        python::type_name(value) == python::type_name(&other) && *value == other
    });
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    environment.add_test("escaped", |value: &Value| value.is_safe());
    environment
        .add_test("lower", |value: &Value| case(value, char::is_lowercase, char::is_uppercase));
    environment
        .add_test("upper", |value: &Value| case(value, char::is_uppercase, char::is_lowercase));
}

fn case(value: &Value, is: fn(char) -> bool, is_not: fn(char) -> bool) -> Result<bool> {
    let text = to_str(value)?;
    Ok(text.chars().any(is) && !text.chars().any(is_not))
}
