//! A chat template in the words of minijinja.
//!
//! White space around tags is decided here, by the rules of Jinja2 with blocks trimmed and stripped, and so is what
//! expressions mean ([`super::expression`]). What is left for minijinja is statements, scopes and loops. Line numbers
//! stay: lines that are lost beside a tag are put into it.

use super::expression::{Expressions, quoted};
use super::lexer::{self, Kind, SyntaxError, Token};
use super::python::is_space;

/// `source` for minijinja, which must neither trim nor strip anything.
pub(super) fn translate(source: &str) -> Result<String, SyntaxError> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut translator = Translator {
        source,
        at: 0,
        line: 1,
        line_starting: true,
        out: String::with_capacity(source.len() * 2),
        out_line: 1,
        open: Vec::new(),
    };
    translator.run()?;
    Ok(translator.out)
}

struct Translator<'a> {
    source: &'a str,
    at: usize,
    /// The line of `at`.
    line: usize,
    /// Whether the last tag took the end of its line with it.
    line_starting: bool,
    out: String,
    out_line: usize,
    /// Statements that need an end, and the lines they are in.
    open: Vec<(&'static str, usize)>,
}

/// Statements that enclose something.
const BLOCKS: &[(&str, &str)] = &[
    ("for", "endfor"),
    ("if", "endif"),
    ("set", "endset"),
    ("macro", "endmacro"),
    ("call", "endcall"),
    ("filter", "endfilter"),
    ("with", "endwith"),
    ("block", "endblock"),
    ("autoescape", "endautoescape"),
    ("generation", "endgeneration"),
];

impl<'a> Translator<'a> {
    fn error<T>(&self, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { line: self.line, message: message.into() })
    }

    fn run(&mut self) -> Result<(), SyntaxError> {
        while let Some(start) = next_tag(self.source, self.at) {
            let text = &self.source[self.at..start];
            let kind = self.source.as_bytes()[start + 1];
            let sign = self.source[start + 2..].chars().next().filter(|c| matches!(c, '-' | '+'));
            self.data(self.stripped(text, sign, kind != b'{'));
            self.move_to(start);
            let inner = start + 2 + usize::from(sign.is_some());
            match kind {
                b'{' => self.variable(inner)?,
                b'#' => self.comment(start + 2)?,
                _ => match raw_begin(&self.source[inner..]) {
                    Some(len) => self.raw(inner + len)?,
                    None => self.block(inner)?,
                },
            }
        }
        self.data(&self.source[self.at..]);
        match self.open.last() {
            Some((name, line)) => Err(SyntaxError {
                line: *line,
                message: format!("the tag '{name}' is never closed"),
            }),
            None => Ok(()),
        }
    }

    /// `text` without the white space that the tag behind it takes.
    fn stripped(&self, text: &'a str, sign: Option<char>, lstrip: bool) -> &'a str {
        if sign == Some('-') {
            return text.trim_end_matches(is_space);
        }
        let start = text.rfind('\n').map_or(0, |at| at + 1);
        let at_line_start = start > 0 || self.line_starting;
        let blank = text[start..].chars().all(is_space);
        match sign.is_none() && lstrip && at_line_start && blank {
            true => &text[..start],
            false => text,
        }
    }

    fn move_to(&mut self, at: usize) {
        let passed = &self.source[self.at..at];
        self.line += passed.matches('\n').count();
        self.line_starting = passed.ends_with('\n');
        self.at = at;
    }

    /// Text that is printed as it stands.
    fn data(&mut self, text: &str) {
        if text.is_empty() {
        } else if text.contains('{') {
            self.emit("{{", &quoted(text), "}}");
        } else {
            self.out.push_str(text);
            self.out_line += text.matches('\n').count();
        }
    }

    fn emit(&mut self, begin: &str, content: &str, end: &str) {
        self.out.push_str(begin);
        for _ in self.out_line..self.line {
            self.out.push('\n');
        }
        self.out_line = self.out_line.max(self.line);
        self.out.push(' ');
        self.out.push_str(content);
        self.out.push(' ');
        self.out.push_str(end);
    }

    fn skip_space_behind(&self, at: usize) -> usize {
        let rest = &self.source[at..];
        at + rest.len() - rest.trim_start_matches(is_space).len()
    }

    /// The place behind a block or comment that ends at `at` with `sign`.
    fn behind(&self, at: usize, sign: Option<char>) -> usize {
        match sign {
            Some('-') => self.skip_space_behind(at),
            None if self.source[at..].starts_with('\n') => at + 1,
            _ => at,
        }
    }

    fn comment(&mut self, at: usize) -> Result<(), SyntaxError> {
        let Some(len) = self.source[at..].find("#}") else {
            return self.error("a comment has no end");
        };
        let text = &self.source[at..at + len];
        let sign = text.chars().next_back().filter(|c| matches!(c, '-' | '+'));
        self.move_to(self.behind(at + len + 2, sign));
        Ok(())
    }

    fn raw(&mut self, at: usize) -> Result<(), SyntaxError> {
        let mut from = at;
        loop {
            let Some(len) = self.source[from..].find("{%") else {
                return self.error("the tag 'raw' is never closed");
            };
            let start = from + len;
            let sign = self.source[start + 2..].chars().next().filter(|c| matches!(c, '-' | '+'));
            let inner = start + 2 + usize::from(sign.is_some());
            let rest = self.source[inner..].trim_start_matches(is_space);
            if let Some(rest) = rest.strip_prefix("endraw") {
                let rest = rest.trim_start_matches(is_space);
                let end = rest.chars().next().filter(|c| matches!(c, '-' | '+'));
                let rest = &rest[usize::from(end.is_some())..];
                if let Some(rest) = rest.strip_prefix("%}") {
                    self.move_to(at);
                    self.data(self.stripped(&self.source[at..start], sign, true));
                    self.move_to(self.behind(self.source.len() - rest.len(), end));
                    return Ok(());
                }
            }
            from = start + 2;
        }
    }

    fn variable(&mut self, at: usize) -> Result<(), SyntaxError> {
        let (tokens, sign, end) = lexer::tag(self.source, at, self.line, "}}")?;
        let mut expressions = Expressions::new(&tokens, self.line);
        let text = expressions.tuple()?;
        expressions.end()?;
        self.emit("{{", &text, "}}");
        self.move_to(if sign.is_some() { self.skip_space_behind(end) } else { end });
        Ok(())
    }

    fn block(&mut self, at: usize) -> Result<(), SyntaxError> {
        let (tokens, sign, end) = lexer::tag(self.source, at, self.line, "%}")?;
        let text = self.statement(&tokens)?;
        self.emit("{%", &text, "%}");
        self.move_to(self.behind(end, sign));
        Ok(())
    }

    fn statement(&mut self, tokens: &[Token]) -> Result<String, SyntaxError> {
        let Some(Token { kind: Kind::Name(name), .. }) = tokens.first() else {
            return self.error("a tag has no name");
        };
        let mut rest = Expressions::new(&tokens[1..], self.line);
        let text = match name.as_str() {
            "for" => for_loop(&mut rest)?,
            "if" | "elif" => format!("{name} {}", rest.tuple_without_condition()?),
            "set" => {
                let (text, has_body) = set(&mut rest)?;
                if !has_body {
                    rest.end()?;
                    return Ok(text);
                }
                text
            }
            "macro" => {
                let called = rest.name()?;
                format!("macro {called}{}", rest.signature()?)
            }
            "call" => {
                let signature = if rest.at("(") { rest.signature()? } else { String::new() };
                format!("call{signature} {}", rest.expression()?)
            }
            "filter" => format!("filter {}", rest.filter_chain()?),
            "with" => format!("with {}", rest.assignments()?),
            "generation" => "with".to_string(),
            "endgeneration" => "endwith".to_string(),
            "autoescape" => format!("autoescape {}", rest.expression()?),
            "block" => format!("block {}", rest.name()?),
            "else" | "break" | "continue" => name.clone(),
            "include" | "import" | "from" | "extends" => {
                return self.error(format!(
                    "the tag '{name}' needs other templates, which a chat template has not"
                ));
            }
            _ if BLOCKS.iter().any(|(_, end)| end == name) => {
                if name == "endblock" && !rest.is_end() {
                    rest.name()?;
                }
                name.clone()
            }
            _ => return self.error(format!("the tag '{name}' is unknown")),
        };
        rest.end()?;
        self.nest(name)?;
        Ok(text)
    }

    /// Keeps account of what is open.
    fn nest(&mut self, name: &str) -> Result<(), SyntaxError> {
        if let Some((begin, _)) = BLOCKS.iter().find(|(begin, _)| *begin == name) {
            self.open.push((begin, self.line));
        } else if let Some((begin, _)) = BLOCKS.iter().find(|(_, end)| *end == name) {
            match self.open.pop() {
                Some((open, _)) if open == *begin => {}
                Some((open, line)) => {
                    return self.error(format!("'{name}' closes the tag '{open}' of line {line}"));
                }
                None => return self.error(format!("'{name}' closes nothing")),
            }
        }
        Ok(())
    }
}

/// The next place from `at` on where a tag begins.
fn next_tag(source: &str, at: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    let mut from = at;
    loop {
        let start = from + source[from..].find('{')?;
        if matches!(bytes.get(start + 1), Some(b'{' | b'%' | b'#')) {
            return Some(start);
        }
        from = start + 1;
    }
}

/// The length of `raw %}` with what it takes, if `text` begins so.
fn raw_begin(text: &str) -> Option<usize> {
    let rest = text.trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
    let rest = match rest.strip_prefix("-%}") {
        Some(rest) => rest.trim_start_matches(is_space),
        None => rest.strip_prefix("%}")?,
    };
    Some(text.len() - rest.len())
}

fn for_loop(rest: &mut Expressions<'_>) -> Result<String, SyntaxError> {
    let target = rest.target()?;
    rest.expect_name("in")?;
    let mut text = format!("for {target} in __iter({})", rest.tuple_without_condition()?);
    if rest.eat_name("if") {
        text.push_str(&format!(" if {}", rest.expression()?));
    }
    if rest.eat_name("recursive") {
        text.push_str(" recursive");
    }
    Ok(text)
}

/// An assignment, and whether its value is what follows up to `endset`.
fn set(rest: &mut Expressions<'_>) -> Result<(String, bool), SyntaxError> {
    let target = rest.target()?;
    if rest.eat("=") {
        return Ok((format!("set {target} = {}", rest.tuple()?), false));
    }
    match rest.eat("|") {
        true => Ok((format!("set {target} | {}", rest.filter_chain()?), true)),
        false => Ok((format!("set {target}"), true)),
    }
}
