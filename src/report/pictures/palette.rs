//! A colour for each member of a merge, for pictures and for terminals.
//!
//! The first seven are those of Okabe and Ito without black ("Color Universal Design", 2008), which people with any
//! of the usual colour deficiencies tell apart; the rest are darker or greyer, so that they differ from
//! these in lightness. With more than twelve members the colours come again with a pattern over them. A
//! letter stands beside a colour wherever there is room, so that no one depends on colours alone.

/// `#rrggbb`, and the nearest entry of the 256 colours of terminals.
const COLOURS: [(&str, u8); 12] = [
    ("#0072b2", 25),
    ("#e69f00", 214),
    ("#009e73", 36),
    ("#cc79a7", 175),
    ("#56b4e9", 75),
    ("#d55e00", 166),
    ("#f0e442", 227),
    ("#882255", 89),
    ("#8a8a8a", 245),
    ("#5b4fc4", 62),
    ("#8b5e3c", 95),
    ("#7f9c1e", 106),
];

/// Patterns that are laid over a colour, none for the first twelve members.
pub(crate) const PATTERNS: usize = 4;

/// `#rrggbb` of member number `index`.
pub(crate) fn hex(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()].0
}

/// Which pattern lies over the colour of member number `index`; 0 is none.
pub(crate) fn pattern(index: usize) -> usize {
    index / COLOURS.len() % PATTERNS
}

/// A number of the 256 colours of terminals.
pub(crate) fn terminal(index: usize) -> u8 {
    COLOURS[index % COLOURS.len()].1
}

/// Whether letters on the colour should be black; white otherwise.
pub(crate) fn takes_black(index: usize) -> bool {
    let hex = &hex(index)[1..];
    let channel = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).map_or(0.0, f64::from);
    // Luma weights of ITU-R BT.601.
    0.299 * channel(0) + 0.587 * channel(2) + 0.114 * channel(4) > 125.0
}
