//! The tokens inside a tag, by the rules of Jinja2's lexer (`jinja2/lexer.py`, version 3.1).

use super::python::is_space;

/// Why a template is no Jinja, and in which line.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub line: usize,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Name(String),
    Str(String),
    Int(String),
    Float(String),
    Op(&'static str),
}

#[derive(Clone, Debug)]
pub(super) struct Token {
    pub kind: Kind,
    pub line: usize,
}

/// Operators, the longer ones first.
const OPERATORS: &[&str] = &[
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

/// The tokens of the tag that begins at `at`, up to `end` (`}}` or `%}`); with the sign before the end and the place
/// behind it.
pub(super) fn tag(
    source: &str,
    at: usize,
    line: usize,
    end: &str,
) -> Result<(Vec<Token>, Option<char>, usize), SyntaxError> {
    let mut lexer = Lexer { source, at, line, open: Vec::new(), tokens: Vec::new() };
    loop {
        lexer.skip_space();
        if lexer.open.is_empty()
            && let Some((sign, len)) = lexer.end(end)
        {
            return Ok((lexer.tokens, sign, lexer.at + len));
        }
        if lexer.rest().is_empty() {
            return Err(lexer.error(format!("the template ends before '{end}'")));
        }
        lexer.token()?;
    }
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    /// Brackets that are open.
    open: Vec<&'static str>,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError { line: self.line, message: message.into() }
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        let space = &rest[..rest.len() - rest.trim_start_matches(is_space).len()];
        self.line += space.matches('\n').count();
        self.at += space.len();
    }

    /// Whether the tag ends here: the sign before its end, and the length of both.
    fn end(&self, end: &str) -> Option<(Option<char>, usize)> {
        let rest = self.rest();
        if rest.starts_with(end) {
            return Some((None, end.len()));
        }
        let sign = rest.chars().next().filter(|&c| c == '-' || (c == '+' && end == "%}"))?;
        rest[1..].starts_with(end).then_some((Some(sign), end.len() + 1))
    }

    fn push(&mut self, kind: Kind, len: usize) {
        let line = self.line;
        self.line += self.rest()[..len].matches('\n').count();
        self.tokens.push(Token { kind, line });
        self.at += len;
    }

    fn token(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let first = rest.chars().next().unwrap_or(' ');
        if first.is_ascii_digit() {
            return self.number();
        }
        if first == '_' || first.is_alphabetic() {
            let is_part = |c: char| c == '_' || c.is_alphanumeric();
            let len = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            self.push(Kind::Name(rest[..len].to_string()), len);
            return Ok(());
        }
        if first == '\'' || first == '"' {
            return self.string(first);
        }
        let Some(op) = OPERATORS.iter().find(|op| rest.starts_with(**op)) else {
            return Err(self.error(format!("unexpected character {first:?}")));
        };
        match *op {
            "(" | "[" | "{" => self.open.push(op),
            ")" | "]" | "}" => {
                let opens = self.open.pop();
                if !matches!((opens, *op), (Some("("), ")") | (Some("["), "]") | (Some("{"), "}")) {
                    return Err(self.error(format!("unexpected '{op}'")));
                }
            }
            _ => {}
        }
        self.push(Kind::Op(op), op.len());
        Ok(())
    }

    /// A number, with Python's underscores and bases.
    fn number(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let digits = |text: &str, radix: u32| {
            let len = text.find(|c: char| c != '_' && !c.is_digit(radix)).unwrap_or(text.len());
            text[..len].trim_end_matches('_').len()
        };
        for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2), ("0X", 16), ("0O", 8), ("0B", 2)]
        {
            if let Some(text) = rest.strip_prefix(prefix) {
                let len = digits(text, radix);
                let value = i128::from_str_radix(&text[..len].replace('_', ""), radix);
                let value = value.map_err(|_| self.error("a number is too large"))?;
                self.push(Kind::Int(value.to_string()), len + 2);
                return Ok(());
            }
        }
        let mut len = digits(rest, 10);
        let mut is_float = false;
        let behind = |len: usize, skip: usize| rest.get(len + skip..).unwrap_or_default();
        if rest[len..].starts_with('.') && behind(len, 1).starts_with(|c: char| c.is_ascii_digit())
        {
            len += 1 + digits(behind(len, 1), 10);
            is_float = true;
        }
        if rest[len..].starts_with(['e', 'E']) {
            let sign = usize::from(behind(len, 1).starts_with(['+', '-']));
            let exponent = digits(behind(len, 1 + sign), 10);
            if exponent > 0 {
                len += 1 + sign + exponent;
                is_float = true;
            }
        }
        let text = rest[..len].replace('_', "");
        let kind = match is_float {
            true => Kind::Float(text),
            false => {
                let value: Result<i128, _> = text.parse();
                Kind::Int(value.map_err(|_| self.error("a number is too large"))?.to_string())
            }
        };
        self.push(kind, len);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|&(_, c)| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some((end, _)) = end else { return Err(self.error("a string has no end")) };
        let text = unescape(&rest[1..end]).map_err(|message| self.error(message))?;
        self.push(Kind::Str(text), end + 1);
        Ok(())
    }
}

/// Python's escapes in a string.
fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(kind) = chars.next() else { return Err("a string ends within an escape".into()) };
        let simple = match kind {
            '\n' => continue,
            '\\' | '\'' | '"' => kind,
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            'x' | 'u' | 'U' => {
                let len = match kind {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                code_point(&mut chars, len, kind)?
            }
            '0'..='7' => {
                let more = chars.as_str().chars().take(2).take_while(|c| c.is_digit(8)).count();
                let digits: String =
                    std::iter::once(kind).chain(chars.by_ref().take(more)).collect();
                let code = u32::from_str_radix(&digits, 8).unwrap_or(0);
                char::from_u32(code).unwrap_or('\u{fffd}')
            }
            'N' => return Err("escapes '\\N{...}' are not supported; write the character".into()),
            other => {
                out.push('\\');
                other
            }
        };
        out.push(simple);
    }
    Ok(out)
}

fn code_point(chars: &mut std::str::Chars<'_>, len: usize, kind: char) -> Result<char, String> {
    let fail = |digits: &str| format!("the escape '\\{kind}{digits}' is no character");
    let hex = |chars: &mut std::str::Chars<'_>, len: usize| {
        let digits: String = chars.by_ref().take(len).collect();
        match digits.len() == len && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            true => u32::from_str_radix(&digits, 16).map_err(|_| fail(&digits)),
            false => Err(fail(&digits)),
        }
    };
    let first = hex(chars, len)?;
    // A pair of surrogates, as JSON writes characters beyond 16 bits.
    if (0xd800..0xdc00).contains(&first)
        && let Some(rest) = chars.as_str().strip_prefix("\\u")
    {
        let mut behind = rest.chars();
        if let Ok(second @ 0xdc00..0xe000) = hex(&mut behind, 4) {
            *chars = behind;
            let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return char::from_u32(code).ok_or_else(|| fail(""));
        }
    }
    char::from_u32(first).ok_or_else(|| fail(&format!("{first:04x}")))
}
