//! Experts that no token of the calibration text reached.

use super::ImportanceMatrix;
use std::collections::{BTreeMap, BTreeSet};

/// Number of layers that a message lists.
const SHOWN: usize = 8;

impl ImportanceMatrix {
    /// Returns one warning about all experts that no token reached; `None` if there are none. Quantizers use
    /// ones as their weights.
    pub fn unseen_experts(&self) -> Option<String> {
        let mut layers: BTreeMap<(usize, &str), BTreeSet<usize>> = BTreeMap::new();
        for (name, entry) in self.entries.iter().filter(|(_, entry)| entry.counts.len() > 1) {
            let layer =
                name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
            // Tensors outside of layers are listed by name.
            let key = layer.map_or((usize::MAX, name.as_str()), |layer| (layer, ""));
            let unseen = entry.counts.iter().enumerate().filter(|(_, count)| **count == 0);
            let mut unseen = unseen.map(|(expert, _)| expert).peekable();
            if unseen.peek().is_some() {
                layers.entry(key).or_default().extend(unseen);
            }
        }
        let experts: usize = layers.values().map(BTreeSet::len).sum();
        let text = |((layer, name), experts): (&(usize, &str), &BTreeSet<usize>)| {
            let experts: Vec<String> = experts.iter().map(usize::to_string).collect();
            match *name {
                "" => format!("layer {layer}: {}", experts.join(", ")),
                name => format!("{name}: {}", experts.join(", ")),
            }
        };
        let mut shown: Vec<String> = layers.iter().take(SHOWN).map(text).collect();
        if layers.len() > SHOWN {
            shown.push(format!("and {} layers more", layers.len() - SHOWN));
        }
        let plural = if experts == 1 { "expert" } else { "experts" };
        (experts > 0).then(|| {
            format!(
                "no token of the calibration text reached {experts} {plural} ({}); all rounding errors \
                 of their weights will count equally; more or other text may reach them",
                shown.join("; ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::*;

    #[test]
    fn unseen_experts_are_named_once() {
        let mut matrix = ImportanceMatrix::default();
        let mut add = |name: &str, counts: &[i64]| {
            let entry = Entry { sums: vec![1.0; counts.len()], counts: counts.to_vec() };
            matrix.entries.insert(name.to_string(), entry);
        };
        add("blk.0.attn_q.weight", &[0]);
        add("blk.0.ffn_up_exps.weight", &[3, 4]);
        assert_eq!(matrix.unseen_experts(), None);
        let mut add = |name: &str, counts: &[i64]| {
            let entry = Entry { sums: vec![1.0; counts.len()], counts: counts.to_vec() };
            matrix.entries.insert(name.to_string(), entry);
        };
        add("blk.2.ffn_up_exps.weight", &[3, 0, 4, 0]);
        add("blk.2.ffn_down_exps.weight", &[3, 0, 4, 0]);
        add("blk.11.ffn_down_exps.weight", &[0, 1, 1, 1]);
        let text = matrix.unseen_experts().unwrap();
        assert!(text.contains("reached 3 experts (layer 2: 1, 3; layer 11: 0);"), "{text}");
        for layer in 20..30 {
            let entry = Entry { sums: vec![1.0; 2], counts: vec![0, 1] };
            matrix.entries.insert(format!("blk.{layer}.ffn_up_exps.weight"), entry);
        }
        assert!(matrix.unseen_experts().unwrap().contains("; and 4 layers more)"));
    }
}
