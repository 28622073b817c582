//! What holds for every tensor type, whatever the weights: the bytes are the reference's or refused,
//! what is taken decodes to numbers, a round trip stays near, and nothing panics.

use crate::support::stress::{self, PATTERNS, ROW_LEN, Random, power};
use aqueduct::base::dtype::DType;
use aqueduct::quants;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

fn writable() -> Vec<DType> {
    DType::all().filter(|dtype| quants::can_quantize(*dtype)).collect()
}

fn quantize(dtype: DType, values: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xaa; dtype.row_bytes(values.len()).unwrap()];
    quants::quantize(dtype, values, ROW_LEN, importance, &mut out).unwrap();
    out
}

fn decode(dtype: DType, bytes: &[u8], elements: usize) -> Vec<f32> {
    let mut values = vec![f32::NAN; elements];
    quants::decode(dtype, bytes, &mut values).unwrap();
    values
}

#[test]
fn awkward_rows_are_written_as_the_peer_does_or_refused() {
    let cases = stress::cases();
    let hash = |dtype: DType| {
        let mut hash = Sha256::new();
        for (importance, values) in &cases {
            if importance.is_none() && quants::requires_importance(dtype) {
                continue;
            }
            let bytes = quantize(dtype, values, importance.as_deref());
            for row in bytes.chunks(dtype.row_bytes(ROW_LEN).unwrap()) {
                if quants::first_invalid_block(dtype, row).is_some() {
                    hash.update("refused");
                    continue;
                }
                hash.update(row);
                let decoded = decode(dtype, row, ROW_LEN);
                assert_eq!(quants::first_non_finite(&decoded), None, "{dtype}");
            }
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let path = crate::support::program::shipped("tests/data/quants/stress.json");
    let golden: serde_json::Map<_, _> =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut types = writable();
    assert_eq!(types.len(), golden.len());
    // The slow ones first, so that the threads end together.
    types.sort_by_key(|dtype| !dtype.name().starts_with("IQ"));
    let failures: Vec<_> = types
        .into_par_iter()
        .with_max_len(1)
        .filter(|dtype| golden[dtype.name()] != hash(*dtype))
        .collect();
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn what_is_no_number_neither_panics_nor_passes_for_valid() {
    let mut random = Random::new(3);
    let ordinary = stress::row("bell", 0, &mut random);
    let spoilt = |value: f32, every: usize| -> Vec<f32> {
        let spoil = |(i, v): (usize, &f32)| if i % every == every / 2 { value } else { *v };
        ordinary.iter().enumerate().map(spoil).collect()
    };
    let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, f32::MAX, f32::MIN];
    let importances: Vec<_> = strange
        .iter()
        .flat_map(|&value| [1, 2, 37, 256].map(|every| Some(spoilt(value, every))))
        .chain([None, Some(vec![1.0; ROW_LEN])])
        .collect();
    // Types whose scale is a float keep what is no number, so that the caller's check finds it; in the
    // others the caller must look at the weights, which it does.
    let shows = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::TQ1_0, DType::TQ2_0];
    for dtype in writable() {
        for importance in &importances {
            if importance.is_none() && quants::requires_importance(dtype) {
                continue;
            }
            let clean = quantize(dtype, &ordinary, importance.as_deref());
            for value in &strange[..3] {
                for every in [1, 2, 37, 256] {
                    let mut rows = ordinary.clone();
                    rows.extend(spoilt(*value, every));
                    rows.extend(&ordinary);
                    let bytes = quantize(dtype, &rows, importance.as_deref());
                    let [first, bad, last] =
                        [0, 1, 2].map(|r| &bytes[r * clean.len()..][..clean.len()]);
                    assert!(first == clean && last == clean, "{dtype} {value}");
                    let infinite = value.is_infinite() && shows.contains(&dtype);
                    let found = quants::first_invalid_block(dtype, bad).is_some();
                    assert!(found || !infinite, "{dtype} {value}");
                }
            }
        }
    }
}

/// Where each type's F16 scales are: in llama.cpp's `ggml/src/ggml-common.h`, October 2026, the fields
/// `d`, `dm`, `m` of the block. IQ1_M's is in pieces, E8M0 and UE4M3 are bytes: below.
const SCALES: &[(DType, &[usize])] = &[
    (DType::F16, &[0]),
    (DType::Q4_0, &[0]),
    (DType::Q4_1, &[0, 2]),
    (DType::Q5_0, &[0]),
    (DType::Q5_1, &[0, 2]),
    (DType::Q8_0, &[0]),
    (DType::Q2_K, &[80, 82]),
    (DType::Q3_K, &[108]),
    (DType::Q4_K, &[0, 2]),
    (DType::Q5_K, &[0, 2]),
    (DType::Q6_K, &[208]),
    (DType::IQ1_S, &[0]),
    (DType::IQ2_XXS, &[0]),
    (DType::IQ2_XS, &[0]),
    (DType::IQ2_S, &[0]),
    (DType::IQ3_XXS, &[0]),
    (DType::IQ3_S, &[0]),
    (DType::IQ4_NL, &[0]),
    (DType::IQ4_XS, &[0]),
    (DType::TQ1_0, &[52]),
    (DType::TQ2_0, &[64]),
    (DType::Q1_0, &[0]),
    (DType::Q2_0, &[0]),
];

#[test]
fn every_scale_of_every_type_is_checked() {
    // The other bytes hold what would be a NaN in the wrong place.
    let verdict = |dtype: DType, put: &dyn Fn(&mut [u8], u8)| {
        [0x00, 0x7b, 0xff].map(|fill| {
            let size = dtype.block_bytes();
            let mut bytes = vec![0; 3 * size];
            put(&mut bytes[size..2 * size], fill);
            quants::first_invalid_block(dtype, &bytes)
        })
    };
    let halves = [(0x7c00u16, false), (0xfc00, false), (0x7c01, false), (0xffff, false)];
    let halves =
        halves.into_iter().chain([(0x7bff, true), (0xfbff, true), (0x03ff, true), (0, true)]);
    for (half, valid) in halves.clone() {
        let expected = if valid { [None; 3] } else { [Some(1); 3] };
        for (dtype, offsets) in SCALES {
            for offset in *offsets {
                let put = |block: &mut [u8], fill: u8| {
                    block.fill(fill);
                    offsets.iter().for_each(|at| block[*at..at + 2].fill(0));
                    block[*offset..offset + 2].copy_from_slice(&half.to_le_bytes());
                };
                assert_eq!(verdict(*dtype, &put), expected, "{dtype} {offset} {half:x}");
            }
        }
        // The top nibbles of four words, the lowest first.
        let put = |block: &mut [u8], fill: u8| {
            block.fill(fill);
            for w in 0..4 {
                let nibble = (half >> (4 * w)) as u8 & 15;
                block[49 + 2 * w] = (fill & 15) | nibble << 4;
            }
        };
        assert_eq!(verdict(DType::IQ1_M, &put), expected, "IQ1_M {half:x}");
    }
    let byte = |value: u8| move |block: &mut [u8], fill: u8| (block.fill(fill), block[0] = value).0;
    assert_eq!(verdict(DType::MXFP4, &byte(0xff)), [Some(1); 3]);
    assert_eq!(verdict(DType::MXFP4, &byte(0xfe)), [None; 3]);
    assert_eq!(verdict(DType::NVFP4, &byte(0xff)), [None; 3], "every code is a number");
    for (dtype, put) in [(DType::F32, f32::NAN.to_le_bytes()), (DType::F32, [0, 0, 0x80, 0xff])] {
        assert_eq!(quants::first_invalid_block(dtype, &put), Some(0));
    }
    assert_eq!(quants::first_invalid_block(DType::BF16, &[0xff, 0x7f, 0x80, 0xff]), Some(0));
    assert_eq!(quants::first_invalid_block(DType::BF16, &[0x7f, 0x7f, 0x80, 0xff]), Some(1));
    let covered = SCALES.len() + [DType::IQ1_M, DType::MXFP4, DType::NVFP4].len();
    assert_eq!(covered, writable().len() - [DType::F32, DType::BF16].len());
}

/// How far a weight may be off after a round trip, as a share of the largest magnitude of its block:
/// without importance, 0 where there is no such, and with an even one.
struct Bound(DType, f32, f32);

/// Where the scale follows from the largest weight, half a step between levels or the clipped end, and
/// what rounding the scale adds. Where scales are searched for there is no such law, for a search may
/// give up a weight for the others; then, a twelfth or so above what the rows below come to.
#[rustfmt::skip]
const BOUNDS: &[Bound] = &[
    Bound(DType::F32, 0.0, 0.0),
    Bound(DType::F16, 1.0 / 2048.0, 1.0 / 2048.0),
    Bound(DType::BF16, 1.0 / 256.0, 1.0 / 256.0),
    Bound(DType::Q4_0, 1.0 / 8.0 + 0.0005, 0.125),
    Bound(DType::Q4_1, 1.0 / 15.0 + 0.001, 0.11),
    Bound(DType::Q5_0, 1.0 / 16.0 + 0.0005, 0.0625),
    Bound(DType::Q5_1, 1.0 / 31.0 + 0.001, 0.055),
    Bound(DType::Q8_0, 1.0 / 254.0 + 0.0005, 1.0 / 254.0 + 0.0005),
    Bound(DType::Q2_K, 0.45, 0.52),
    Bound(DType::Q3_K, 0.26, 0.27),
    Bound(DType::Q4_K, 0.115, 0.11),
    Bound(DType::Q5_K, 0.067, 0.065),
    Bound(DType::Q6_K, 0.0175, 0.0315),
    Bound(DType::IQ1_S, 0.0, 1.2),
    Bound(DType::IQ1_M, 1.6, 1.05),
    Bound(DType::IQ2_XXS, 0.0, 1.35),
    Bound(DType::IQ2_XS, 0.0, 1.3),
    Bound(DType::IQ2_S, 0.7, 0.7),
    Bound(DType::IQ3_XXS, 1.2, 1.2),
    Bound(DType::IQ3_S, 1.5, 1.45),
    Bound(DType::IQ4_NL, 0.115, 0.13),
    Bound(DType::IQ4_XS, 0.13, 0.14),
    Bound(DType::TQ1_0, 0.5 + 0.0005, 0.5 + 0.0005),
    Bound(DType::TQ2_0, 0.5 + 0.0005, 0.5 + 0.0005),
    // 8 is taken to 6, the largest value, where a scale is a power of two.
    Bound(DType::MXFP4, 1.0 / 4.0, 1.0 / 4.0),
    // 5 is between 4 and 6, in units of a scale that was rounded by up to a sixteenth.
    Bound(DType::NVFP4, 1.0 / 6.0 * 17.0 / 16.0, 1.0 / 6.0 * 17.0 / 16.0),
    // The scale is the mean, so a single large weight is lost.
    Bound(DType::Q1_0, 1.0 - 1.0 / 128.0, 1.0 - 1.0 / 128.0),
    Bound(DType::Q2_0, 0.5 + 0.0005, 0.5 + 0.0005),
];

/// Rows of each pattern but those that leave something out, `times` over.
fn rows(times: usize, without: &[&str]) -> Vec<f32> {
    let mut random = Random::new(11);
    let patterns = PATTERNS.into_iter().filter(|pattern| !without.contains(pattern));
    let patterns = patterns.flat_map(|pattern| std::iter::repeat_n(pattern, times));
    patterns.flat_map(|pattern| stress::row(pattern, 0, &mut random)).collect()
}

/// The largest share of a block's largest magnitude that a weight is off after a round trip.
fn farthest_off(dtype: DType, values: &[f32], importance: Option<&[f32]>) -> f32 {
    let decoded = decode(dtype, &quantize(dtype, values, importance), values.len());
    let len = dtype.block_len();
    let mut farthest = 0f32;
    for (x, y) in values.chunks(len).zip(decoded.chunks(len)) {
        let largest = x.iter().fold(0f32, |a, v| a.max(v.abs()));
        let off = x.iter().zip(y).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
        if largest == 0.0 {
            assert_eq!(off, 0.0, "{dtype}: zeros stay zeros");
        } else if largest >= power(-6) {
            // Scales of smaller blocks are denormal in F16 and have fewer bits.
            farthest = farthest.max(off / largest);
        }
    }
    farthest
}

#[test]
fn no_weight_is_farther_off_than_its_type_allows() {
    let (all, no_zero_sub_blocks) = (rows(40, &[]), rows(40, &["half zero", "mixed"]));
    let even = vec![1.0; ROW_LEN];
    assert_eq!(BOUNDS.len(), writable().len());
    let mut failures = Vec::new();
    for &Bound(dtype, plain, weighted) in BOUNDS {
        // Where a sub-block is zero, the reference's IQ3_S puts the indices of those that follow where
        // its decoder does not look for them.
        let values = if dtype == DType::IQ3_S { &no_zero_sub_blocks } else { &all };
        for (bound, importance) in [(plain, None), (weighted, Some(&even[..]))] {
            if importance.is_none() && quants::requires_importance(dtype) {
                continue;
            }
            let found = farthest_off(dtype, values, importance);
            if !(0.8 * bound..=bound).contains(&found) {
                failures.push(format!("{dtype}: {found} for {bound}"));
            }
        }
    }
    assert!(failures.is_empty(), "too far, or bounds too lax: {failures:#?}");
}

#[test]
fn types_that_search_nothing_write_again_what_they_wrote() {
    // Denormal scales do not come again from the weights that they give.
    let values = rows(30, &["outlier", "mixed"]);
    let types = writable().into_iter().filter(|dtype| {
        use DType::*;
        matches!(dtype, F32 | F16 | BF16 | Q4_0 | Q5_0 | Q8_0 | MXFP4 | NVFP4 | Q1_0 | Q2_0)
            || matches!(dtype, TQ1_0 | TQ2_0)
    });
    for dtype in types {
        let once = quantize(dtype, &values, None);
        let twice = quantize(dtype, &decode(dtype, &once, values.len()), None);
        assert!(once == twice, "{dtype}");
    }
}
