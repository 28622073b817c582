//! Jinja2 as chat templates are written for: that of transformers, in Python.
//!
//! minijinja runs the templates, with its bound on steps. [`translate`] writes a template in its words first, where
//! what Python means becomes a call of a function here. The environment is that of transformers' `apply_chat_template`
//! (`transformers/utils/chat_template_utils.py`, version 5.24): blocks trimmed, an immutable sandbox, loop controls,
//! the tag `generation`, `raise_exception`, `strftime_now` and `tojson`.
//! Not here: which template and which variables ([`super::ChatTemplate`]).

mod expression;
mod filters;
mod json;
mod lexer;
mod methods;
mod operators;
mod printf;
mod python;
mod strftime;
mod translate;

pub use strftime::Date;

use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, ValueKind};
use minijinja::{Environment, State, Value};
use python::{Result, error};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The longest `range`, as of Jinja2's sandbox.
const LONGEST_RANGE: i128 = 100_000;

/// Adds the template `source` to `environment` under `name`.
///
/// # Errors
/// If it is no Jinja that is known; with the line.
pub(super) fn add_template(
    environment: &mut Environment<'static>,
    name: &'static str,
    source: &str,
) -> std::result::Result<(), String> {
    let translated = translate::translate(source)
        .map_err(|e| format!("syntax error: {} (in {name}:{})", e.message, e.line))?;
    environment.add_template_owned(name, translated).map_err(|e| one_line(&e))
}

/// An environment in which `today` is the date, and a template takes at most `fuel` steps.
pub(super) fn environment(today: Date, fuel: u64) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_keep_trailing_newline(true);
    environment.set_fuel(Some(fuel));
    environment.set_formatter(|out, _, value| {
        let text = python::to_str(value)?;
        out.write_str(&text).map_err(minijinja::Error::from)
    });
    operators::add_to(&mut environment);
    filters::add_to(&mut environment);
    environment.add_function("raise_exception", |message: Value| -> Result<Value> {
        Err(error(python::to_str(&message)?))
    });
    environment.add_function("strftime_now", move |format: String| today.format(&format));
    environment.add_function("namespace", namespace);
    environment.add_function("range", range);
    environment.add_function("dict", dict);
    environment.add_function("cycler", |items: Rest<Value>| match items.0.is_empty() {
        true => Err(error("at least one item has to be provided")),
        false => Ok(Value::from_object(Cycler { items: items.0, at: AtomicUsize::new(0) })),
    });
    environment.add_function("joiner", |separator: Option<String>| {
        let separator = separator.unwrap_or(", ".to_string());
        Value::from_object(Joiner { separator, used: AtomicUsize::new(0) })
    });
    environment
}

/// The error with what caused it, without control characters, which may come from a file.
pub(super) fn one_line(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn range(bounds: Rest<Value>) -> Result<Value> {
    let bounds = bounds.0.iter().map(|bound| {
        python::as_int(bound).ok_or_else(|| {
            error(format!(
                "'{}' object cannot be interpreted as an integer",
                python::type_name(bound)
            ))
        })
    });
    let bounds = bounds.collect::<Result<Vec<_>>>()?;
    let (start, stop, step) = match bounds.as_slice() {
        [stop] => (0, *stop, 1),
        [start, stop] => (*start, *stop, 1),
        [start, stop, step] => (*start, *stop, *step),
        _ => return Err(error("range takes one to three numbers")),
    };
    if step == 0 {
        return Err(error("range() arg 3 must not be zero"));
    }
    let distance = stop.saturating_sub(start);
    let count = if (distance > 0) == (step > 0) {
        distance.unsigned_abs().div_ceil(step.unsigned_abs())
    } else {
        0
    };
    if distance != 0 && count > LONGEST_RANGE as u128 {
        return Err(error(format!(
            "Range too big. The sandbox blocks ranges larger than {LONGEST_RANGE}."
        )));
    }
    let count = if distance == 0 { 0 } else { count as i128 };
    Ok((0..count).map(|at| python::int(start + at * step)).collect())
}

/// `namespace(...)`, whose names transformers does not let begin with `_`.
fn namespace(values: Option<Value>) -> Result<Value> {
    let keys = values.iter().flat_map(|values| values.try_iter()).flatten();
    match keys.into_iter().find(|key| key.as_str().is_some_and(|key| key.starts_with('_'))) {
        Some(key) => Err(error(format!("a namespace cannot have the attribute {key}"))),
        None => minijinja::functions::namespace(values),
    }
}

/// `dict(mapping or pairs, **more)`.
fn dict(first: Option<Value>, more: Kwargs) -> Result<Value> {
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    match first {
        None => {}
        Some(first) if first.kind() == ValueKind::Map => {
            for key in first.try_iter()? {
                let value = first.get_item(&key)?;
                pairs.push((key, value));
            }
        }
        Some(first) => {
            for pair in python::items(&first)? {
                match python::items(&pair)?.as_slice() {
                    [key, value] => pairs.push((key.clone(), value.clone())),
                    _ => return Err(error("dict takes pairs")),
                }
            }
        }
    }
    for name in more.args() {
        pairs.push((Value::from(name), more.get(name)?));
    }
    Ok(pairs.into_iter().collect())
}

/// Jinja2's `cycler`.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let current = self.at.load(Ordering::Relaxed) % self.items.len();
        (key.as_str() == Some("current")).then(|| self.items[current].clone())
    }

    fn call_method(self: &Arc<Self>, _: &State<'_, '_>, name: &str, _: &[Value]) -> Result<Value> {
        match name {
            "next" => {
                let at = self.at.fetch_add(1, Ordering::Relaxed) % self.items.len();
                Ok(self.items[at].clone())
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(error(format!("a cycler has no method '{name}'"))),
        }
    }
}

/// Jinja2's `joiner`.
#[derive(Debug)]
struct Joiner {
    separator: String,
    used: AtomicUsize,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &State<'_, '_>, _: &[Value]) -> Result<Value> {
        match self.used.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(Value::from("")),
            _ => Ok(Value::from(self.separator.as_str())),
        }
    }
}
