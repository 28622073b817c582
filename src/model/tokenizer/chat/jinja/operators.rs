//! What Python's operators, attributes and subscripts mean, as the functions that translated templates call.

use super::methods::{self, Bound};
use super::printf;
use super::python::{
    self, Result, as_float, as_int, error, int, is_dict, is_list, to_str, type_name,
};
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, ErrorKind, State, Value};
use std::cmp::Ordering;

/// The longest text that repetition makes, as of minijinja.
const LONGEST: usize = 100_000_000;
/// The longest list that is a sum.
const LONGEST_LIST: usize = 1_000_000;

/// Adds the functions to `environment`.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_function("__tuple", |items: Rest<Value>| python::tuple(items.0));
    environment.add_function("__iter", iterate);
    environment.add_function("__compare", compare);
    environment.add_function("__concat", concat);
    environment.add_function("__arithmetic", arithmetic);
    environment.add_function("__sign", sign);
    environment.add_function("__same", |value: Value| value);
    environment.add_function("__float", |text: String| {
        text.parse::<f64>().map_err(|_| error(format!("'{text}' is no number")))
    });
    environment.add_function("__attribute", attribute);
    environment.add_function("__item", item);
    environment.add_function("__slice", slice);
    environment.add_function("__call", methods::call);
}

/// The error of a use that an undefined value does not have.
pub(super) fn undefined(what: &str) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::UndefinedError, format!("{what} of an undefined value"))
}

fn iterate(value: Value) -> Result<Value> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Map => Ok(value),
        _ => python::items(&value).map(Value::from),
    }
}

/// `a < b <= c` and the like; operands are all computed before.
fn compare(first: Value, rest: Rest<Value>) -> Result<bool> {
    let mut left = first;
    for pair in rest.0.chunks(2) {
        let [op, right] = pair else { return Ok(false) };
        let holds = match op.as_str().unwrap_or_default() {
            "==" => left == *right,
            "!=" => left != *right,
            "in" => contains(right, &left)?,
            "not in" => !contains(right, &left)?,
            op => {
                let order = order(op, &left, right)?;
                match op {
                    "<" => order == Some(Ordering::Less),
                    "<=" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                    ">" => order == Some(Ordering::Greater),
                    _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
                }
            }
        };
        if !holds {
            return Ok(false);
        }
        left = right.clone();
    }
    Ok(true)
}

/// How two values compare by `op`.
pub(super) fn order(op: &str, left: &Value, right: &Value) -> Result<Option<Ordering>> {
    if left.is_undefined() || right.is_undefined() {
        return Err(undefined("comparison"));
    }
    if let (Some(left), Some(right)) = (as_int(left), as_int(right)) {
        return Ok(Some(left.cmp(&right)));
    }
    if let (Some(left), Some(right)) = (as_float(left), as_float(right)) {
        return Ok(left.partial_cmp(&right));
    }
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        return Ok(Some(left.cmp(right)));
    }
    if is_list(left) && is_list(right) && type_name(left) == type_name(right) {
        let (left, right) = (python::items(left)?, python::items(right)?);
        for (left, right) in left.iter().zip(&right) {
            if left != right {
                return order(op, left, right);
            }
        }
        return Ok(Some(left.len().cmp(&right.len())));
    }
    let (left, right) = (type_name(left), type_name(right));
    Err(error(format!("'{op}' not supported between instances of '{left}' and '{right}'")))
}

/// `value in container`.
pub(super) fn contains(container: &Value, value: &Value) -> Result<bool> {
    match container.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::String => match value.as_str() {
            Some(part) => Ok(container.as_str().is_some_and(|text| text.contains(part))),
            None if value.is_undefined() => Err(undefined("search")),
            None => Err(error(format!(
                "'in <string>' requires string as left operand, not {}",
                type_name(value)
            ))),
        },
        ValueKind::Map => Ok(container.try_iter()?.any(|key| key == *value)),
        ValueKind::Seq | ValueKind::Iterable => {
            Ok(container.try_iter()?.any(|item| item == *value))
        }
        _ => Err(error(format!("argument of type '{}' is not iterable", type_name(container)))),
    }
}

fn concat(parts: Rest<Value>) -> Result<String> {
    let mut text = String::new();
    for part in &parts.0 {
        match part.as_str() {
            Some(part) => text.push_str(part),
            None => text.push_str(&to_str(part)?),
        }
    }
    Ok(text)
}

fn sign(op: String, value: Value) -> Result<Value> {
    if value.is_undefined() {
        return Err(undefined("sign"));
    }
    let fail = || error(format!("bad operand type for unary {op}: '{}'", type_name(&value)));
    match as_int(&value) {
        Some(number) if op == "-" => number.checked_neg().map(int).ok_or_else(fail),
        Some(number) => Ok(int(number)),
        None => {
            let number = as_float(&value).ok_or_else(fail)?;
            Ok(Value::from(if op == "-" { -number } else { number }))
        }
    }
}

/// `a + b - c`; operators and operands by turns.
fn arithmetic(first: Value, rest: Rest<Value>) -> Result<Value> {
    let mut value = first;
    for pair in rest.0.chunks(2) {
        let [op, right] = pair else { break };
        value = operation(op.as_str().unwrap_or_default(), value, right.clone())?;
    }
    Ok(value)
}

fn operation(op: &str, left: Value, right: Value) -> Result<Value> {
    if left.is_undefined() || right.is_undefined() {
        return Err(undefined("arithmetic"));
    }
    if op == "%" && left.kind() == ValueKind::String {
        return printf::format(&left, &right).map(Value::from);
    }
    if op == "+"
        && let Some(sum) = joined(&left, &right)?
    {
        return Ok(sum);
    }
    if op == "*" {
        if let Some(times) = as_int(&right)
            && let Some(value) = repeated(&left, times)?
        {
            return Ok(value);
        }
        if let Some(times) = as_int(&left)
            && let Some(value) = repeated(&right, times)?
        {
            return Ok(value);
        }
    }
    if let (Some(left), Some(right)) = (as_int(&left), as_int(&right))
        && let Some(value) = of_ints(op, left, right)?
    {
        return Ok(value);
    }
    match (as_float(&left), as_float(&right)) {
        (Some(left), Some(right)) => of_floats(op, left, right).map(Value::from),
        _ => {
            let (left, right) = (type_name(&left), type_name(&right));
            Err(error(format!("unsupported operand type(s) for {op}: '{left}' and '{right}'")))
        }
    }
}

/// `left + right` of two strings or two lists. Beside a text that is marked as safe the other one is escaped.
fn joined(left: &Value, right: &Value) -> Result<Option<Value>> {
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        return Ok(Some(match left.is_safe() || right.is_safe() {
            true => Value::from_safe_string(python::markup(left)? + &python::markup(right)?),
            false => Value::from([a, b].concat()),
        }));
    }
    if !is_list(left) || type_name(left) != type_name(right) {
        return Ok(None);
    }
    let mut all = python::items(left)?;
    all.extend(python::items(right)?);
    if all.len() > LONGEST_LIST {
        return Err(error("the sum of two lists is too long"));
    }
    Ok(Some(if python::is_tuple(left) { python::tuple(all) } else { Value::from(all) }))
}

/// `value * times` of a string or a list.
fn repeated(value: &Value, times: i128) -> Result<Option<Value>> {
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    let fits = |len: usize| match len.checked_mul(times) {
        Some(len) if len <= LONGEST => Ok(()),
        _ => Err(error("the result of a repetition is too long")),
    };
    if let Some(text) = value.as_str() {
        fits(text.len())?;
        return Ok(Some(Value::from(text.repeat(times))));
    }
    if is_list(value) {
        let items = python::items(value)?;
        fits(items.len().saturating_mul(size_of::<Value>()))?;
        let all: Vec<Value> = (0..times).flat_map(|_| items.iter().cloned()).collect();
        let tuple = python::is_tuple(value);
        return Ok(Some(if tuple { python::tuple(all) } else { Value::from(all) }));
    }
    Ok(None)
}

/// The value, or `None` where it is a float.
fn of_ints(op: &str, left: i128, right: i128) -> Result<Option<Value>> {
    let zero = || error("division by zero");
    let value = match op {
        "+" => left.checked_add(right),
        "-" => left.checked_sub(right),
        "*" => left.checked_mul(right),
        "/" => return Ok(None),
        "**" if right < 0 => return Ok(None),
        "**" => u32::try_from(right).ok().and_then(|right| left.checked_pow(right)),
        _ if right == 0 => return Err(zero()),
        _ => {
            let rest = left.checked_rem(right).unwrap_or(0);
            let below = rest != 0 && (rest < 0) != (right < 0);
            match op {
                "%" => Some(if below { rest + right } else { rest }),
                _ => left.checked_div(right).map(|q| if below { q - 1 } else { q }),
            }
        }
    };
    match value {
        Some(value) => Ok(Some(int(value))),
        None => Err(error(format!("the result of {left} {op} {right} is too large"))),
    }
}

fn of_floats(op: &str, left: f64, right: f64) -> Result<f64> {
    if right == 0.0 && matches!(op, "/" | "//" | "%") {
        return Err(error("division by zero"));
    }
    let rest = || {
        let rest = left % right;
        if rest != 0.0 && (rest < 0.0) != (right < 0.0) { rest + right } else { rest }
    };
    Ok(match op {
        "+" => left + right,
        "-" => left - right,
        "*" => left * right,
        "/" => left / right,
        "//" => ((left - rest()) / right).round(),
        "%" => rest(),
        _ => left.powf(right),
    })
}

/// `value.name` for names that some type has a method of.
fn attribute(value: Value, name: String) -> Result<Value> {
    match methods::has(&value, &name) {
        true => Ok(Value::from_object(Bound { value, name })),
        false => value.get_attr(&name),
    }
}

/// `value[key]`.
fn item(value: Value, key: Value) -> Result<Value> {
    if value.is_undefined() {
        return Err(undefined("subscript"));
    }
    let index = as_int(&key).filter(|_| !is_dict(&value));
    let found = match index {
        Some(index) => at(&value, index),
        None if key.is_undefined() => None,
        None => Some(value.get_item(&key)?).filter(|found| !found.is_undefined()),
    };
    match (found, key.as_str()) {
        (Some(found), _) => Ok(found),
        (None, Some(name)) => attribute(value, name.to_string()),
        (None, None) => Ok(Value::UNDEFINED),
    }
}

/// The item at `index` of a string or list, from the end if it is negative.
fn at(value: &Value, index: i128) -> Option<Value> {
    if let Some(text) = value.as_str() {
        let c = match index < 0 {
            false => text.chars().nth(usize::try_from(index).ok()?),
            true => text.chars().nth_back(usize::try_from(-(index + 1)).ok()?),
        };
        return c.map(|c| Value::from(c.to_string()));
    }
    if !is_list(value) {
        return None;
    }
    let index = match index < 0 {
        true => index + value.len()? as i128,
        false => index,
    };
    let found = value.get_item_by_index(usize::try_from(index).ok()?).ok();
    let found = found.filter(|found| !found.is_undefined());
    found.or_else(|| value.try_iter().ok()?.nth(usize::try_from(index).ok()?))
}

/// `value[start:stop:step]`.
fn slice(_: &State<'_, '_>, value: Value, start: Value, stop: Value, step: Value) -> Result<Value> {
    if value.is_undefined() {
        return Err(undefined("slice"));
    }
    let characters = value.as_str().map(|text| text.chars().collect::<Vec<_>>());
    let items = match &characters {
        Some(_) => Vec::new(),
        None if is_list(&value) => python::items(&value)?,
        None => return Ok(Value::UNDEFINED),
    };
    let len = characters.as_ref().map_or(items.len(), Vec::len);
    let bound = |value: &Value| match as_int(value) {
        Some(bound) => Ok(Some(bound)),
        None if value.is_none() => Ok(None),
        None => Err(()),
    };
    let (Ok(start), Ok(stop), Ok(step)) = (bound(&start), bound(&stop), bound(&step)) else {
        return Ok(Value::UNDEFINED); // A TypeError, which Jinja2 takes for an attribute that is not there.
    };
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(error("slice step cannot be zero"));
    }
    let picked = picked(len as i128, start, stop, step);
    Ok(match characters {
        Some(characters) => Value::from(picked.map(|at| characters[at]).collect::<String>()),
        None => {
            let picked: Vec<Value> = picked.map(|at| items[at].clone()).collect();
            if python::is_tuple(&value) { python::tuple(picked) } else { Value::from(picked) }
        }
    })
}

/// The places of a slice.
fn picked(
    len: i128,
    start: Option<i128>,
    stop: Option<i128>,
    step: i128,
) -> impl Iterator<Item = usize> {
    let (lowest, highest) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let bound = |bound: Option<i128>, default: i128| match bound {
        None => default,
        Some(bound) if bound < 0 => (bound.saturating_add(len)).clamp(lowest, highest),
        Some(bound) => bound.min(highest),
    };
    let (first, end) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (start, stop) = (bound(start, first), bound(stop, end));
    std::iter::successors(Some(start), move |at| at.checked_add(step))
        .take_while(move |&at| if step > 0 { at < stop } else { at > stop })
        .filter_map(|at| usize::try_from(at).ok())
}
