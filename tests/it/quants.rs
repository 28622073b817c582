//! Block formats against llama.cpp's own bytes and the gguf package's dequantization.
//!
//! What made the data is written in tests/data/quants/README.md.

use aqueduct::dtype::DType;
use aqueduct::quants;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

const ROW_LEN: usize = 1024;
const ROWS: usize = 64;

/// A block type with the SHA-256 of its importance-weighted golden bytes, dequantized by the gguf
/// package (0.19.0) to little-endian f32; and the error budget of a round trip, as the root mean square
/// error over gaussian weights of deviation 1, plain and weighted.
struct BlockType(DType, &'static str, f32, f32);

#[rustfmt::skip]
const BLOCK_TYPES: &[BlockType] = &[
    BlockType(DType::Q4_0, "3e299b4547b45fe0d4ca099e11e7811bc92253d24da14683c8434a2520e180a2", 0.0, 0.0),
    BlockType(DType::Q4_1, "8de7e891da6dd03babf9a8738e7b0960b4b771ab20a12eb1264381e9ce50f8e1", 0.0, 0.0),
    BlockType(DType::Q5_0, "0a139f87218361c342eb0099ca9959f3c232e30a277c45b3279d2938863ee819", 0.0, 0.0),
    BlockType(DType::Q5_1, "09aacbbe16d5c86d38e02b83ddd646d191a00de66d640a1e4fe6ed59ae37b82a", 0.0, 0.0),
    BlockType(DType::Q8_0, "44ab1528051d4485492960898d4a12507cae198e7288b0cc5de91400a2549dad", 0.0, 0.0),
    BlockType(DType::Q2_K, "cec349abca5b2bd361d0c174b2c970deaa736c64daf6104106a575b10e045923", 0.0, 0.0),
    BlockType(DType::Q3_K, "075fcb822469042e9bca24ffc349ffb97161e66d2dfe35843ff2e03018c5bf67", 0.0, 0.0),
    BlockType(DType::Q4_K, "8bf67f6099951d4924763fb47691cb2c66f659fc2d1cc369944b1f482c45733a", 0.0, 0.0),
    BlockType(DType::Q5_K, "edf2879fdeaf19b9dcc4d6cb04a00d4299e0df304556f51c17fe64ba296379c5", 0.0, 0.0),
    BlockType(DType::Q6_K, "a248a1be85f8f98c0796ffb1ab1cb7878f7f4e533e9568063a9604ed31f27c37", 0.0, 0.0),
];

fn read(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/quants").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn golden_input() -> Vec<f32> {
    let mut values = vec![0.0; ROWS * ROW_LEN];
    quants::decode(DType::F16, &read("input.f16"), &mut values).unwrap();
    values
}

fn golden_importance() -> Vec<f32> {
    let mut values = vec![0.0; ROW_LEN];
    quants::decode(DType::F32, &read("imatrix.f32"), &mut values).unwrap();
    values
}

fn quantize(dtype: DType, values: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xaa; dtype.row_bytes(values.len()).unwrap()];
    quants::quantize(dtype, values, ROW_LEN, importance, &mut out).unwrap();
    out
}

/// Blocks that differ, each with its first differing byte.
fn differing_blocks(dtype: DType, found: &[u8], expected: &[u8]) -> Vec<(usize, usize)> {
    assert_eq!(found.len(), expected.len());
    let size = dtype.block_bytes();
    found
        .chunks(size)
        .zip(expected.chunks(size))
        .enumerate()
        .filter_map(|(i, (a, b))| Some((i, a.iter().zip(b).position(|(a, b)| a != b)?)))
        .collect()
}

#[test]
fn bytes_equal_the_peers_in_every_type_and_mode() {
    let values = golden_input();
    let importance = golden_importance();
    let mut failures = Vec::new();
    for &BlockType(dtype, ..) in BLOCK_TYPES {
        for (mode, importance) in [("plain", None), ("imatrix", Some(&importance[..]))] {
            let found = quantize(dtype, &values, importance);
            let expected = read(&format!("{dtype}.{mode}.bin"));
            let differing = differing_blocks(dtype, &found, &expected);
            if let Some(first) = differing.first() {
                failures
                    .push(format!("{dtype} {mode}: {} blocks, first {first:?}", differing.len()));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn dequantization_equals_the_gguf_packages() {
    for &BlockType(dtype, expected, ..) in BLOCK_TYPES {
        let mut values = vec![0f32; ROWS * ROW_LEN];
        quants::decode(dtype, &read(&format!("{dtype}.imatrix.bin")), &mut values).unwrap();
        let mut hash = Sha256::new();
        for value in &values {
            hash.update(value.to_le_bytes());
        }
        let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, expected, "{dtype}");
    }
}
