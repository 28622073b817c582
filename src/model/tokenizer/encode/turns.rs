//! Several texts as one: one after the other, or taking turns so that a beginning holds a share of each.

/// One list of all items of `sequences`, which have sizes. Each stands where the share of its sequence that comes
/// before it says, so all sequences begin at once and end together; where shares are equal the order is theirs.
pub fn in_turns<T>(sequences: Vec<Vec<(T, usize)>>) -> Vec<T> {
    let mut placed = Vec::new();
    for (index, items) in sequences.into_iter().enumerate() {
        let total: usize = items.iter().map(|(_, size)| size).sum();
        let mut before = 0;
        for (item, size) in items {
            placed.push((before as u128, total.max(1) as u128, index, item));
            before += size;
        }
    }
    // Shares as fractions, compared without rounding.
    placed.sort_by(|a, b| (a.0 * b.1).cmp(&(b.0 * a.1)).then(a.2.cmp(&b.2)));
    placed.into_iter().map(|(.., item)| item).collect()
}

/// The tokens of several texts in one sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextSequence {
    pub tokens: Vec<u32>,
    /// Numbers of texts and how many tokens of each come next.
    runs: Vec<(usize, usize)>,
}

impl TextSequence {
    /// `texts` one after the other.
    pub fn in_order(texts: &[Vec<u32>]) -> TextSequence {
        let mut sequence = TextSequence::default();
        texts.iter().enumerate().for_each(|(number, tokens)| sequence.push(number, tokens));
        sequence
    }

    /// `texts` chunk by chunk of `ctx` tokens, in turns: however many chunks one takes from the beginning, each text has
    /// its share of them by length. What fills no chunk of its own text makes chunks with the ends of the others, so
    /// there are as many chunks as in order.
    pub fn in_turns(texts: &[Vec<u32>], ctx: usize) -> TextSequence {
        let ctx = ctx.max(1);
        let whole = |tokens: &[u32]| tokens.len() / ctx * ctx;
        let own = |(number, tokens): (usize, &Vec<u32>)| -> Vec<_> {
            let chunks = tokens[..whole(tokens)].chunks(ctx);
            chunks.map(|chunk| (vec![(number, chunk.to_vec())], ctx)).collect()
        };
        let mut sequences: Vec<_> = texts.iter().enumerate().map(own).collect();
        let (mut ends, mut chunk, mut filled) = (Vec::new(), Vec::new(), 0);
        for (number, tokens) in texts.iter().enumerate() {
            let mut rest = &tokens[whole(tokens)..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(ctx - filled));
                chunk.push((number, now.to_vec()));
                filled += now.len();
                rest = later;
                if filled == ctx {
                    ends.push((std::mem::take(&mut chunk), ctx));
                    filled = 0;
                }
            }
        }
        sequences.push(ends);
        let mut sequence = TextSequence::default();
        for (number, tokens) in in_turns(sequences).into_iter().flatten().chain(chunk) {
            sequence.push(number, &tokens);
        }
        sequence
    }

    fn push(&mut self, number: usize, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.runs.push((number, tokens.len()));
    }

    /// The numbers of the texts that have a token among those of `range`, in order.
    pub fn texts_within(&self, range: std::ops::Range<usize>) -> Vec<usize> {
        let (mut at, mut found) = (0, Vec::new());
        for &(number, length) in &self.runs {
            if length > 0 && at < range.end && at + length > range.start {
                found.push(number);
            }
            at += length;
        }
        found.sort();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_take_turns() {
        let sized = |items: &[&'static str]| items.iter().map(|item| (*item, item.len())).collect();
        let sequences = [&["aa", "bb", "cc", "dd"][..], &["1111", "22222222"], &["x"]].map(sized);
        let expected = ["aa", "1111", "x", "bb", "22222222", "cc", "dd"];
        assert_eq!(in_turns(sequences.to_vec()), expected);
    }

    #[test]
    fn every_beginning_has_a_share_of_each_text() {
        let text = |first: u32, length: u32| (first..first + length).collect::<Vec<_>>();
        let texts = [text(0, 80), text(1000, 21), text(2000, 3), text(3000, 7)];
        let sequence = TextSequence::in_turns(&texts, 10);
        let kinds: Vec<_> = sequence.tokens.chunks(10).map(|chunk| chunk[0] / 1000).collect();
        // The ends, 1 + 3 + 6 of 7 tokens, make a chunk; 1 token is left.
        assert_eq!(kinds, [0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 3]);
        assert_eq!(sequence.texts_within(20..30), [1, 2, 3]);
        assert_eq!(
            (sequence.texts_within(0..10), sequence.texts_within(0..20)),
            (vec![0], vec![0, 1])
        );
        let mut all = sequence.tokens.clone();
        all.sort();
        assert_eq!(all, texts.concat());
        let plain = TextSequence::in_order(&texts);
        assert_eq!((plain.tokens.len(), &plain.tokens[80..82]), (111, &[1000, 1001][..]));
        assert_eq!((plain.texts_within(0..80), plain.texts_within(80..103)), (vec![0], vec![1, 2]));
        assert_eq!(TextSequence::in_turns(&texts[..1], 10), {
            let mut one = TextSequence::default();
            texts[0].chunks(10).for_each(|chunk| one.push(0, chunk));
            one
        });
    }
}
