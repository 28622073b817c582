//! Writes SentencePiece models.

/// A length-delimited protobuf field.
pub(crate) fn field(number: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128, "one byte of length is enough here");
    [&[number << 3 | 2, content.len() as u8], content].concat()
}

/// A SentencePiece model, encoded by hand: pieces with score and kind, and whether a space is put
/// before texts.
pub(crate) fn sentencepiece(pieces: &[(&str, f32, u8)], dummy_prefix: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (text, score, kind) in pieces {
        let mut piece = field(1, text.as_bytes());
        piece.push(2 << 3 | 5);
        piece.extend_from_slice(&score.to_le_bytes());
        if *kind != 1 {
            piece.extend_from_slice(&[3 << 3, *kind]);
        }
        bytes.extend(field(1, &piece));
    }
    // A trainer's settings, which nothing here reads, then the normalizer's.
    bytes.extend(field(2, &[4 << 3, 16]));
    bytes.extend(field(3, &[3 << 3, dummy_prefix as u8]));
    bytes
}

pub(crate) const PIECES: &[(&str, f32, u8)] = &[
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    ("<0x21>", 0.0, 6),
    ("\u{2581}ab", -0.5, 1),
    ("ab", -1.5, 1),
    ("\u{2581}", -2.5, 1),
    ("a", -3.5, 1),
    ("b", -4.5, 1),
    ("user", -5.5, 4),
    ("old", -6.5, 5),
];
