//! `--seed`: a recipe's text with another seed, so that what is recorded of a merge makes the merge again.

use super::yaml::{self, Node, YamlValue};

/// Keys that hold a seed: the dialect's own and mergekit's.
pub(crate) const SEED_KEYS: [&str; 2] = ["seed", "random_seed"];

/// `text`, whose documents `nodes` are, with the seed `seed` in each. Comments and layout stay. `None` if the text has a
/// form in which that cannot be written.
pub(crate) fn with_seed(text: &str, nodes: &[Node], seed: u64) -> Option<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    // From the end, so that places before it stay what they are.
    for node in nodes.iter().rev() {
        write(&mut lines, node, seed)?;
    }
    let made = lines.join("\n") + "\n";
    let is_seed = |node: &Node| match &node.value {
        YamlValue::Map(entries) => {
            let mut seeds =
                entries.iter().filter(|(key, _)| SEED_KEYS.contains(&key.value.as_str()));
            let number = seed.to_string();
            seeds.next().is_some_and(|(_, value)| match &value.value {
                YamlValue::Int(n) => n.to_string() == number,
                YamlValue::Str(text) => *text == number,
                _ => false,
            }) && seeds.next().is_none()
        }
        _ => false,
    };
    // Whatever the layout was, the result is read again before it is believed.
    let documents = yaml::parse(&made).ok()?;
    let stages: Vec<_> = documents
        .iter()
        .filter(|node| super::build_settings::of_document(node).is_none())
        .collect();
    (stages.len() == nodes.len() && stages.iter().all(|node| is_seed(node))).then_some(made)
}

/// Puts `seed` into the document `node`: in the place of one that is there, or after its last line.
fn write(lines: &mut Vec<String>, node: &Node, seed: u64) -> Option<()> {
    let YamlValue::Map(entries) = &node.value else { return None };
    let found = entries.iter().find(|(key, _)| SEED_KEYS.contains(&key.value.as_str()));
    let at = |pos: yaml::Pos| ((pos.line.max(1) - 1) as usize, (pos.column.max(1) - 1) as usize);
    let byte = |line: &str, column| line.char_indices().nth(column).map_or(line.len(), |c| c.0);
    if let Some((_, value)) = found {
        let (line, column) = at(value.pos);
        let line = lines.get_mut(line)?;
        let start = byte(line, column);
        let ends = |c: char| c.is_whitespace() || matches!(c, ',' | '}' | '#');
        let end = line[start..].find(ends).map_or(line.len(), |length| start + length);
        line.replace_range(start..end, &seed.to_string());
        return Some(());
    }
    let (first, column) = at(node.pos);
    let line = lines.get_mut(first)?;
    let start = byte(line, column);
    if line[start..].starts_with('{') {
        line.insert_str(start + 1, &format!("seed: {seed}, "));
        return Some(());
    }
    let marker = |line: &String| line.starts_with("---") || line.starts_with("...");
    let end = lines.iter().skip(first + 1).position(marker).map_or(lines.len(), |n| first + 1 + n);
    let last = lines[..end].iter().rposition(|line| !line.trim().is_empty())?;
    lines.insert(last + 1, format!("{}seed: {seed}", " ".repeat(column)));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_replaced_or_added_and_the_rest_stays() {
        for (given, expected) in [
            ("a: 1 # one\n", "a: 1 # one\nseed: 7\n"),
            ("a: 1\nseed: 42 # why\nb: 2\n", "a: 1\nseed: 7 # why\nb: 2\n"),
            ("a: 1\nrandom_seed: '42'\n", "a: 1\nrandom_seed: 7\n"),
            ("{a: 1, b: [2]}\n", "{seed: 7, a: 1, b: [2]}\n"),
            ("a: |\n  text\n---\nb: 1\nseed: 1\n", "a: |\n  text\nseed: 7\n---\nb: 1\nseed: 7\n"),
            ("  a: 1\n  b:\n    c: 2\n\n", "  a: 1\n  b:\n    c: 2\n  seed: 7\n\n"),
            ("a: 1\n...\n", "a: 1\nseed: 7\n...\n"),
            ("--- {a: 1}\n", "--- {seed: 7, a: 1}\n"),
        ] {
            let nodes = yaml::parse(given).unwrap();
            assert_eq!(with_seed(given, &nodes, 7).as_deref(), Some(expected), "{given:?}");
        }
        let odd = "? a\n: 1\nseed:\n  - 3\n";
        assert_eq!(with_seed(odd, &yaml::parse(odd).unwrap(), 7), None);
    }
}
