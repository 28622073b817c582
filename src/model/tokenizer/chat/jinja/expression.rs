//! Expressions of Jinja2, parsed by its grammar (`jinja2/parser.py`, version 3.1) and written for minijinja.
//!
//! Where both mean the same, the text stays; elsewhere it becomes a call of a function that does as Python does
//! ([`super::operators`]). minijinja's parser counts nesting, so that of a template is bounded here in the same way.

use super::lexer::{Kind, SyntaxError, Token};
use super::methods;
use std::fmt::Write;

/// How deep expressions nest at most.
const MAX_DEPTH: usize = 70;
/// How many operators of a kind, or parts of a path, may follow each other.
const MAX_CHAIN: usize = 900;
/// Parts of a concatenation in one call.
const CONCAT_PARTS: usize = 1000;

type Result<T> = std::result::Result<T, SyntaxError>;

pub(super) struct Expressions<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    /// The line of the tag.
    line: usize,
}

/// `text` as a string of minijinja.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `text` so that minijinja does not compute it before: of constants it keeps only whether they are true.
fn not_folded(text: String) -> String {
    let constant = text
        .starts_with(|c: char| c.is_ascii_digit() || matches!(c, '"' | '[' | '{' | '('))
        || ["true", "false", "none"].contains(&text.as_str());
    if constant { format!("__same({text})") } else { text }
}

impl<'a> Expressions<'a> {
    pub(super) fn new(tokens: &'a [Token], line: usize) -> Expressions<'a> {
        Expressions { tokens, at: 0, depth: 0, line }
    }

    fn kind(&self) -> Option<&'a Kind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        let line = self.tokens.get(self.at).or(self.tokens.last()).map_or(self.line, |t| t.line);
        Err(SyntaxError { line, message: message.into() })
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T> {
        match self.kind() {
            None => self.error(format!("the tag ends where {wanted} is expected")),
            Some(Kind::Name(text) | Kind::Int(text) | Kind::Float(text)) => {
                self.error(format!("unexpected '{text}', expected {wanted}"))
            }
            Some(Kind::Str(text)) => {
                self.error(format!("unexpected string {text:?}, expected {wanted}"))
            }
            Some(Kind::Op(op)) => self.error(format!("unexpected '{op}', expected {wanted}")),
        }
    }

    pub(super) fn is_end(&self) -> bool {
        self.at == self.tokens.len()
    }

    pub(super) fn end(&self) -> Result<()> {
        if self.is_end() { Ok(()) } else { self.unexpected("the tag's end") }
    }

    pub(super) fn at(&self, op: &str) -> bool {
        matches!(self.kind(), Some(Kind::Op(is)) if *is == op)
    }

    fn at_name(&self, name: &str) -> bool {
        matches!(self.kind(), Some(Kind::Name(is)) if is == name)
    }

    pub(super) fn eat(&mut self, op: &str) -> bool {
        let found = self.at(op);
        self.at += usize::from(found);
        found
    }

    pub(super) fn eat_name(&mut self, name: &str) -> bool {
        let found = self.at_name(name);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, op: &str) -> Result<()> {
        if self.eat(op) { Ok(()) } else { self.unexpected(&format!("'{op}'")) }
    }

    pub(super) fn expect_name(&mut self, name: &str) -> Result<()> {
        if self.eat_name(name) { Ok(()) } else { self.unexpected(&format!("'{name}'")) }
    }

    /// The name of a variable, macro or block.
    pub(super) fn name(&mut self) -> Result<String> {
        let Some(Kind::Name(name)) = self.kind() else { return self.unexpected("a name") };
        if !name.is_ascii() {
            return self.error(format!(
                "the name '{name}' has letters beyond ASCII, which are not supported"
            ));
        }
        self.at += 1;
        Ok(name.clone())
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.error("an expression is nested too deeply");
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// What is assigned to: a name, one in a namespace, or several of them.
    pub(super) fn target(&mut self) -> Result<String> {
        self.nested(|p| {
            let mut parts = Vec::new();
            let mut several = false;
            loop {
                if p.eat("(") {
                    parts.push(format!("({})", p.target()?));
                    p.expect(")")?;
                } else {
                    let mut name = p.name()?;
                    if p.eat(".") {
                        name = format!("{name}.{}", p.name()?);
                    }
                    parts.push(name);
                }
                if !p.eat(",") {
                    break;
                }
                several = true;
                if p.is_end() || p.at("=") || p.at(")") || p.at_name("in") {
                    break;
                }
            }
            let comma = if several && parts.len() == 1 { "," } else { "" };
            Ok(format!("{}{comma}", parts.join(", ")))
        })
    }

    /// Parameters of a macro, in parentheses.
    pub(super) fn signature(&mut self) -> Result<String> {
        self.expect("(")?;
        let mut parts = Vec::new();
        while !self.eat(")") {
            if !parts.is_empty() {
                self.expect(",")?;
                if self.eat(")") {
                    break;
                }
            }
            let name = self.name()?;
            parts.push(if self.eat("=") { format!("{name}={}", self.expression()?) } else { name });
        }
        Ok(format!("({})", parts.join(", ")))
    }

    /// `name = value`, any number of them.
    pub(super) fn assignments(&mut self) -> Result<String> {
        let mut parts = Vec::new();
        while !self.is_end() {
            if !parts.is_empty() {
                self.expect(",")?;
            }
            let name = self.name()?;
            self.expect("=")?;
            parts.push(format!("{name} = {}", self.expression()?));
        }
        Ok(parts.join(", "))
    }

    pub(super) fn filter_chain(&mut self) -> Result<String> {
        let mut text = self.filter()?;
        while self.eat("|") {
            text = format!("{text}|{}", self.filter()?);
        }
        Ok(text)
    }

    /// Expressions with commas between them are a tuple.
    pub(super) fn tuple(&mut self) -> Result<String> {
        self.tuple_of(Expressions::expression)
    }

    /// As [`Expressions::tuple`], where `if` belongs to the statement.
    pub(super) fn tuple_without_condition(&mut self) -> Result<String> {
        self.tuple_of(Expressions::or)
    }

    fn tuple_of(&mut self, part: fn(&mut Self) -> Result<String>) -> Result<String> {
        let first = part(self)?;
        if !self.at(",") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.eat(",") {
            if self.is_end() || self.at(")") || self.at("]") || self.at_name("recursive") {
                break;
            }
            parts.push(part(self)?);
        }
        Ok(format!("__tuple({})", parts.join(", ")))
    }

    pub(super) fn expression(&mut self) -> Result<String> {
        self.nested(|p| {
            let mut text = p.or()?;
            while p.eat_name("if") {
                write!(text, " if {}", p.or()?).ok();
                if p.eat_name("else") {
                    write!(text, " else {}", p.expression()?).ok();
                }
            }
            Ok(text)
        })
    }

    fn or(&mut self) -> Result<String> {
        let mut text = self.and()?;
        if self.at_name("or") {
            text = not_folded(text);
        }
        while self.eat_name("or") {
            write!(text, " or {}", self.and()?).ok();
        }
        Ok(text)
    }

    fn and(&mut self) -> Result<String> {
        let mut text = self.not()?;
        if self.at_name("and") {
            text = not_folded(text);
        }
        while self.eat_name("and") {
            write!(text, " and {}", self.not()?).ok();
        }
        Ok(text)
    }

    fn not(&mut self) -> Result<String> {
        if self.eat_name("not") {
            return self.nested(|p| Ok(format!("not {}", p.not()?)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<String> {
        let first = self.sum()?;
        let mut operators: Vec<(&str, String)> = Vec::new();
        loop {
            let is_not_in = self.at_name("not")
                && matches!(self.tokens.get(self.at + 1), Some(Token { kind: Kind::Name(n), .. }) if n == "in");
            let op = match self.kind() {
                Some(Kind::Op(op @ ("==" | "!=" | "<" | "<=" | ">" | ">="))) => op,
                Some(Kind::Name(name)) if name == "in" => "in",
                _ if is_not_in => "not in",
                _ => break,
            };
            self.at += 1 + usize::from(is_not_in);
            operators.push((op, self.sum()?));
        }
        match operators.as_slice() {
            [] => Ok(first),
            [(op @ ("==" | "!="), right)] => Ok(format!("{first} {op} {right}")),
            _ => {
                let rest: Vec<_> =
                    operators.iter().map(|(op, right)| format!("\"{op}\", {right}")).collect();
                Ok(format!("__compare({first}, {})", rest.join(", ")))
            }
        }
    }

    fn sum(&mut self) -> Result<String> {
        self.arithmetic(Expressions::concat, &["+", "-"])
    }

    fn concat(&mut self) -> Result<String> {
        let mut parts = vec![self.product()?];
        while self.eat("~") {
            parts.push(self.product()?);
        }
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        while parts.len() > CONCAT_PARTS {
            let group = |parts: &[String]| format!("__concat({})", parts.join(", "));
            parts = parts.chunks(CONCAT_PARTS).map(group).collect();
        }
        Ok(format!("__concat({})", parts.join(", ")))
    }

    fn product(&mut self) -> Result<String> {
        self.arithmetic(Expressions::power, &["*", "/", "//", "%"])
    }

    fn power(&mut self) -> Result<String> {
        self.arithmetic(Expressions::unary, &["**"])
    }

    /// Operators of one rank, from left to right, in one call.
    fn arithmetic(&mut self, part: fn(&mut Self) -> Result<String>, of: &[&str]) -> Result<String> {
        let first = part(self)?;
        let mut rest = String::new();
        let mut chain = 0;
        while let Some(Kind::Op(op)) = self.kind() {
            if !of.contains(op) {
                break;
            }
            self.at += 1;
            chain += 1;
            if chain > MAX_CHAIN {
                return self.error(format!("too many '{op}' follow each other"));
            }
            write!(rest, ", \"{op}\", {}", part(self)?).ok();
        }
        Ok(if rest.is_empty() { first } else { format!("__arithmetic({first}{rest})") })
    }

    fn unary(&mut self) -> Result<String> {
        let text = self.signed()?;
        let text = self.postfix(text)?;
        self.filters_and_tests(text)
    }

    fn signed(&mut self) -> Result<String> {
        let sign = match self.kind() {
            Some(Kind::Op(sign @ ("-" | "+"))) => *sign,
            _ => return self.primary(),
        };
        self.at += 1;
        self.nested(|p| {
            let text = p.signed()?;
            let text = p.postfix(text)?;
            Ok(format!("__sign(\"{sign}\", {text})"))
        })
    }

    fn primary(&mut self) -> Result<String> {
        match self.kind() {
            Some(Kind::Name(name)) => match name.as_str() {
                "true" | "True" | "false" | "False" | "none" | "None" => {
                    self.at += 1;
                    Ok(name.to_lowercase())
                }
                _ => self.name(),
            },
            Some(Kind::Str(_)) => {
                let mut text = String::new();
                while let Some(Kind::Str(part)) = self.kind() {
                    text.push_str(part);
                    self.at += 1;
                }
                Ok(quoted(&text))
            }
            Some(Kind::Int(text)) => {
                self.at += 1;
                Ok(text.clone())
            }
            Some(Kind::Float(text)) => {
                self.at += 1;
                match text.parse::<f64>() {
                    Ok(value) if value.is_finite() && !text.contains(['e', 'E']) => {
                        Ok(text.clone())
                    }
                    _ => Ok(format!("__float({})", quoted(text))),
                }
            }
            Some(Kind::Op("(")) => self.parenthesis(),
            Some(Kind::Op("[")) => {
                self.at += 1;
                Ok(format!("[{}]", self.items("]", Expressions::expression)?))
            }
            Some(Kind::Op("{")) => {
                self.at += 1;
                let pair = |p: &mut Self| {
                    let key = p.expression()?;
                    p.expect(":")?;
                    Ok(format!("{key}: {}", p.expression()?))
                };
                Ok(format!("{{{}}}", self.items("}", pair)?))
            }
            _ => self.unexpected("an expression"),
        }
    }

    fn parenthesis(&mut self) -> Result<String> {
        self.at += 1;
        if self.eat(")") {
            return Ok("__tuple()".to_string());
        }
        let text = self.tuple()?;
        self.expect(")")?;
        Ok(if text.starts_with("__tuple(") { text } else { format!("({text})") })
    }

    fn items(&mut self, end: &str, item: impl Fn(&mut Self) -> Result<String>) -> Result<String> {
        let mut parts = Vec::new();
        while !self.eat(end) {
            if !parts.is_empty() {
                self.expect(",")?;
                if self.eat(end) {
                    break;
                }
            }
            parts.push(item(self)?);
        }
        Ok(parts.join(", "))
    }

    fn postfix(&mut self, mut text: String) -> Result<String> {
        let mut chain = 0;
        loop {
            chain += 1;
            if chain > MAX_CHAIN {
                return self.error("too many parts follow each other");
            }
            text = if self.eat(".") {
                self.attribute(text)?
            } else if self.eat("[") {
                self.subscript(text)?
            } else if self.at("(") {
                format!("{text}({})", self.arguments()?)
            } else {
                return Ok(text);
            };
        }
    }

    fn attribute(&mut self, of: String) -> Result<String> {
        if let Some(Kind::Int(index)) = self.kind() {
            self.at += 1;
            return Ok(format!("__item({of}, {index})"));
        }
        let name = self.name()?;
        if self.at("(") {
            let arguments = self.arguments()?;
            let comma = if arguments.is_empty() { "" } else { ", " };
            return Ok(format!("__call({of}, \"{name}\"{comma}{arguments})"));
        }
        Ok(match methods::is_method(&name) {
            true => format!("__attribute({of}, \"{name}\")"),
            false => format!("{of}.{name}"),
        })
    }

    fn subscript(&mut self, of: String) -> Result<String> {
        // A constant key that no type has a method of needs no help.
        if let (Some(Kind::Str(key)), Some(Token { kind: Kind::Op("]"), .. })) =
            (self.kind(), self.tokens.get(self.at + 1))
            && !methods::is_method(key)
        {
            self.at += 2;
            return Ok(format!("{of}[{}]", quoted(key)));
        }
        let mut bounds = vec![None];
        let mut parts = Vec::new();
        loop {
            if self.eat(":") {
                bounds.push(None);
            } else if self.eat("]") {
                break;
            } else if self.eat(",") {
                parts.extend(bounds[0].take());
            } else {
                *bounds.last_mut().expect("one at least") = Some(self.expression()?);
            }
        }
        let bound = |at: usize| bounds.get(at).cloned().flatten().unwrap_or("none".to_string());
        match (bounds.len(), &bounds[0]) {
            (1, None) if parts.is_empty() => self.error("a subscript is empty"),
            (1, Some(key)) if parts.is_empty() => Ok(format!("__item({of}, {key})")),
            (1, _) => {
                parts.extend(bounds[0].take());
                Ok(format!("__item({of}, __tuple({}))", parts.join(", ")))
            }
            (2 | 3, _) if parts.is_empty() => {
                Ok(format!("__slice({of}, {}, {}, {})", bound(0), bound(1), bound(2)))
            }
            _ => self.error("a subscript is none"),
        }
    }

    /// Arguments of a call, without the parentheses.
    fn arguments(&mut self) -> Result<String> {
        self.expect("(")?;
        let argument = |p: &mut Self| {
            if p.eat("**") {
                return Ok(format!("**{}", p.expression()?));
            }
            if p.eat("*") {
                return Ok(format!("*{}", p.expression()?));
            }
            let is_keyword = matches!(p.kind(), Some(Kind::Name(_)))
                && matches!(p.tokens.get(p.at + 1), Some(Token { kind: Kind::Op("="), .. }));
            if is_keyword {
                let name = p.name()?;
                p.expect("=")?;
                return Ok(format!("{name}={}", p.expression()?));
            }
            p.expression()
        };
        self.items(")", argument)
    }

    fn filter(&mut self) -> Result<String> {
        let mut name = self.name()?;
        while self.eat(".") {
            name = format!("{name}.{}", self.name()?);
        }
        match self.at("(") {
            true => Ok(format!("{name}({})", self.arguments()?)),
            false => Ok(name),
        }
    }

    fn filters_and_tests(&mut self, mut text: String) -> Result<String> {
        loop {
            if self.eat("|") {
                text = format!("{text}|{}", self.filter()?);
            } else if self.eat_name("is") {
                let not = if self.eat_name("not") { "not " } else { "" };
                text = format!("{text} is {not}{}", self.test()?);
            } else {
                return Ok(text);
            }
        }
    }

    fn test(&mut self) -> Result<String> {
        let name = self.name()?;
        if self.at("(") {
            return Ok(format!("{name}({})", self.arguments()?));
        }
        let ends = ["else", "or", "and", "if", "in", "not"].iter().any(|end| self.at_name(end));
        if self.at_name("is") {
            return self.error("tests with 'is' cannot follow each other");
        }
        let begins = matches!(
            self.kind(),
            Some(
                Kind::Name(_) | Kind::Str(_) | Kind::Int(_) | Kind::Float(_) | Kind::Op("[" | "{")
            )
        );
        if !begins || ends {
            return Ok(name);
        }
        let argument = self.primary()?;
        Ok(format!("{name}({})", self.postfix(argument)?))
    }
}
