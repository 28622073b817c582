//! YAML text -> a tree in which every value and key knows its line and column.
//!
//! A tree, not derived structs: a struct stops at the first problem, a tree lets the schema report all
//! of them. Anchors and `<<:` are expanded by the parser; repeated keys are kept, since only the schema
//! can say which of them counts.

use super::diagnostics::Diagnostic;
use serde::Serialize;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{DuplicateKeyPolicy, NonFiniteFloatPolicy, Spanned};
use std::fmt;

/// A place in the recipe's text, both numbers counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Pos {
    pub line: u64,
    pub column: u64,
}

impl Pos {
    fn of<T>(spanned: &Spanned<T>) -> Pos {
        // Where the text stands, not where an alias repeats it: that is the place to mend.
        Pos { line: spanned.defined.line(), column: spanned.defined.column() }
    }
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Located<T> {
    pub value: T,
    pub pos: Pos,
}

impl<T> Located<T> {
    pub(crate) fn new(value: T, pos: Pos) -> Located<T> {
        Located { value, pos }
    }
}

/// A YAML value with its position.
pub(crate) type Node = Located<YamlValue>;

/// What a YAML value is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum YamlValue {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Seq(Vec<Node>),
    /// In the order of the text; keys may repeat.
    Map(Vec<(Located<String>, Node)>),
}

impl YamlValue {
    /// What to call the value in a message: "a list", "the number 3".
    pub(crate) fn describe(&self) -> String {
        match self {
            YamlValue::Null => "nothing".to_string(),
            YamlValue::Bool(b) => format!("the boolean {b}"),
            YamlValue::Int(n) => format!("the number {n}"),
            YamlValue::Float(x) => format!("the number {x}"),
            YamlValue::Str(s) => format!("the text '{s}'"),
            YamlValue::Seq(_) => "a list".to_string(),
            YamlValue::Map(_) => "a mapping".to_string(),
        }
    }
}

/// Parses every document of `text`; empty ones are left out. Fails with the first syntax error.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, Diagnostic> {
    let options = serde_yaml::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // A model may be called `y` or `on`; flags written so are understood where a flag is due.
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
    };
    let parsed = serde_yaml::from_multiple_with_options::<Spanned<RawYaml>>(text, options);
    match parsed {
        Ok(documents) => Ok(documents.into_iter().map(node).collect()),
        Err(e) => {
            let pos = e.location().map_or(Pos { line: 1, column: 1 }, |at| Pos {
                line: at.line(),
                column: at.column(),
            });
            let whole = e.without_snippet().to_string();
            let line = whole.lines().next().unwrap_or("not valid YAML");
            // The place is told apart from the words.
            let message = line.split(" at line ").next().unwrap_or(line).to_string();
            let remedy = "mend the YAML here; nothing after it was looked at";
            Err(Diagnostic::error(pos, message, remedy))
        }
    }
}

/// What `documents` say, without comments, layout and positions: equal texts say the same.
pub(crate) fn meaning(documents: &[Node]) -> String {
    fn value(node: &Node) -> serde_json::Value {
        use serde_json::{Value, json};
        match &node.value {
            YamlValue::Null => Value::Null,
            YamlValue::Bool(b) => json!(b),
            YamlValue::Int(n) => json!(n),
            // As text, for JSON has no infinite numbers.
            YamlValue::Float(x) => json!({"float": x.to_string()}),
            YamlValue::Str(s) => json!(s),
            YamlValue::Seq(nodes) => nodes.iter().map(value).collect(),
            // As pairs, for keys may repeat.
            YamlValue::Map(entries) => {
                let pairs = entries.iter().map(|(key, node)| json!([key.value, value(node)]));
                json!({"map": pairs.collect::<Vec<_>>()})
            }
        }
    }
    documents.iter().map(|node| format!("{}\n", value(node))).collect()
}

/// Whether the key at `key` has an anchored value (`key: &name ...`). The parser expands aliases and does
/// not tell of anchors, so this looks at the text.
pub(crate) fn is_anchored(text: &str, key: Pos) -> bool {
    let line = text.lines().nth((key.line.max(1) - 1) as usize).unwrap_or_default();
    let rest = line.chars().skip((key.column.max(1) - 1) as usize).collect::<String>();
    rest.split_once(':').is_some_and(|(_, value)| value.trim_start().starts_with('&'))
}

fn node(raw: Spanned<RawYaml>) -> Node {
    let pos = Pos::of(&raw);
    let kind = match raw.value {
        RawYaml::Plain(kind) => kind,
        RawYaml::Seq(items) => YamlValue::Seq(items.into_iter().map(node).collect()),
        RawYaml::Map(entries) => YamlValue::Map(
            entries
                .into_iter()
                .map(|(k, v)| (Located::new(k.value.clone(), Pos::of(&k)), node(v)))
                .collect(),
        ),
    };
    Node::new(kind, pos)
}

/// What the parser delivers: positions hang on every level through [`Spanned`].
enum RawYaml {
    Plain(YamlValue),
    Seq(Vec<Spanned<RawYaml>>),
    Map(Vec<(Spanned<String>, Spanned<RawYaml>)>),
}

impl<'de> Deserialize<'de> for RawYaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawYaml, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawYaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<RawYaml, E> {
        Ok(RawYaml::Plain(YamlValue::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<RawYaml, E> {
        self.visit_unit()
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<RawYaml, E> {
        Ok(RawYaml::Plain(YamlValue::Bool(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<RawYaml, E> {
        Ok(RawYaml::Plain(YamlValue::Int(value)))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<RawYaml, E> {
        let kind = i64::try_from(value).map_or(YamlValue::Float(value as f64), YamlValue::Int);
        Ok(RawYaml::Plain(kind))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<RawYaml, E> {
        Ok(RawYaml::Plain(YamlValue::Float(value)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<RawYaml, E> {
        Ok(RawYaml::Plain(YamlValue::Str(value.to_string())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<RawYaml, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(RawYaml::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<RawYaml, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(RawYaml::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(node: &Node) -> &[(Located<String>, Node)] {
        let YamlValue::Map(entries) = &node.value else { panic!("not a mapping: {node:?}") };
        entries
    }

    #[test]
    fn every_value_knows_its_place_and_aliases_point_at_their_text() {
        let documents = parse("a: &x {k: [1, 2.5]}\nb: *x\n---\nc:\n  <<: {k: true}\n").unwrap();
        assert_eq!(documents.len(), 2);
        let top = map(&documents[0]);
        assert_eq!(top[1].0.pos, Pos { line: 2, column: 1 });
        let (_, list) = &map(&top[1].1)[0];
        let YamlValue::Seq(items) = &list.value else { panic!("no list") };
        assert_eq!(items[1], Node::new(YamlValue::Float(2.5), Pos { line: 1, column: 15 }));
        assert_eq!(map(&map(&documents[1])[0].1)[0].1.value, YamlValue::Bool(true));
    }

    #[test]
    fn anchored_values_are_seen_in_the_text() {
        let text = "a: &x 1\nb: 2 # &y\n  c:   &z\n";
        let at = |line, column| is_anchored(text, Pos { line, column });
        assert_eq!([at(1, 1), at(2, 1), at(3, 3), at(9, 9)], [true, false, true, false]);
    }

    #[test]
    fn merged_keys_give_way_wherever_they_stand() {
        let text =
            "a: &x {k: 1, l: 1}\nb: &y {l: 2, m: 2}\nc: {k: 3, <<: *x}\nd: {<<: [*x, *y], k: 3}\n";
        let documents = parse(text).unwrap();
        let at = |index: usize| -> Vec<(String, YamlValue)> {
            let mut all: Vec<_> = map(&map(&documents[0])[index].1)
                .iter()
                .map(|(key, node)| (key.value.clone(), node.value.clone()))
                .collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        };
        let pair = |key: &str, n| (key.to_string(), YamlValue::Int(n));
        assert_eq!(at(2), [pair("k", 3), pair("l", 1)]);
        assert_eq!(at(3), [pair("k", 3), pair("l", 1), pair("m", 2)]);
    }

    #[test]
    fn repeated_keys_are_kept_for_the_schema() {
        let documents = parse("a: 1\na: 2\n").unwrap();
        assert_eq!(map(&documents[0]).len(), 2);
    }

    #[test]
    fn syntax_errors_carry_their_place() {
        let problem = parse("a: 1\nb: c: d\n").unwrap_err();
        assert_eq!(problem.pos, Pos { line: 2, column: 5 });
    }
}
