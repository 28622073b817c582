//! Block formats against llama.cpp's own bytes and the gguf package's dequantization.
//!
//! What made the data is written in tests/data/quants/README.md.

use aqueduct::base::dtype::DType;
use aqueduct::quants;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

const ROW_LEN: usize = 1024;
const ROWS: usize = 64;

/// A block type with the SHA-256 of its importance-weighted golden bytes, dequantized by the gguf
/// package (0.19.0), or by llama.cpp where that lacks the type, to little-endian f32; and the error
/// budget of a round trip, as the root mean square error over gaussian weights of deviation 1, plain (0
/// if there is no such) and weighted.
struct BlockType(DType, &'static str, f32, f32);

#[rustfmt::skip]
const BLOCK_TYPES: &[BlockType] = &[
    BlockType(DType::Q4_0, "3e299b4547b45fe0d4ca099e11e7811bc92253d24da14683c8434a2520e180a2", 0.0868, 0.0824),
    BlockType(DType::Q4_1, "8de7e891da6dd03babf9a8738e7b0960b4b771ab20a12eb1264381e9ce50f8e1", 0.0789, 0.0705),
    BlockType(DType::Q5_0, "0a139f87218361c342eb0099ca9959f3c232e30a277c45b3279d2938863ee819", 0.0431, 0.0408),
    BlockType(DType::Q5_1, "09aacbbe16d5c86d38e02b83ddd646d191a00de66d640a1e4fe6ed59ae37b82a", 0.0382, 0.0341),
    BlockType(DType::Q8_0, "44ab1528051d4485492960898d4a12507cae198e7288b0cc5de91400a2549dad", 0.0054, 0.0054),
    BlockType(DType::Q2_K, "cec349abca5b2bd361d0c174b2c970deaa736c64daf6104106a575b10e045923", 0.2985, 0.2699),
    BlockType(DType::Q3_K, "075fcb822469042e9bca24ffc349ffb97161e66d2dfe35843ff2e03018c5bf67", 0.1522, 0.1458),
    BlockType(DType::Q4_K, "8bf67f6099951d4924763fb47691cb2c66f659fc2d1cc369944b1f482c45733a", 0.0720, 0.0714),
    BlockType(DType::Q5_K, "edf2879fdeaf19b9dcc4d6cb04a00d4299e0df304556f51c17fe64ba296379c5", 0.0364, 0.0357),
    BlockType(DType::Q6_K, "a248a1be85f8f98c0796ffb1ab1cb7878f7f4e533e9568063a9604ed31f27c37", 0.0179, 0.0175),
    BlockType(DType::IQ1_S, "20ae35a625742833475d4a01ac9ed14819391794b64ba2e478c35c77b31372b7", 0.0, 0.4860),
    BlockType(DType::IQ1_M, "ce93f8d09f39414d189e60a4e99798c6c4ec4b0d0bb624dfc9661bc5bc8af381", 0.5810, 0.4510),
    BlockType(DType::IQ2_XXS, "472a3956df604f68940d59f59881b3b13f1d134e0f9532d4ddef101f77f321bf", 0.0, 0.3437),
    BlockType(DType::IQ2_XS, "2fd3e0044bf9c4cf429a5851f6af58a9569fa2dd494554aed0a7f5c10d4ffe51", 0.0, 0.2997),
    BlockType(DType::IQ2_S, "075fc22d2caa6e38ee0bdb63761238ffc4d4aca69969c8a31219c5c8eca84acc", 0.2643, 0.2486),
    BlockType(DType::IQ3_XXS, "55f64ef9b88848728ddfa0847380362aba3ab2acfa3770e35e2a924c1ee357e8", 0.2130, 0.1819),
    BlockType(DType::IQ3_S, "0c4d5ac1f26bce90838bbf9a49a7d1493998406afecff428b686b7b87748b73d", 0.1652, 0.1365),
    BlockType(DType::IQ4_NL, "2d2a33378faf987d3697b4d2d27f9662da03e9e27a67c3c874cbf155a09ee8ee", 0.0768, 0.0756),
    BlockType(DType::IQ4_XS, "83e3058a52ed85fbaacd8c651eb3d1bce95cc925abc693b25b053e3e85b016f7", 0.0774, 0.0763),
    BlockType(DType::TQ1_0, "61455248ddd324bdc0ff1acf86b72b8f3aa737a7f9b1774ff0d6e6d795a97634", 0.8156, 0.8156),
    BlockType(DType::TQ2_0, "61455248ddd324bdc0ff1acf86b72b8f3aa737a7f9b1774ff0d6e6d795a97634", 0.8156, 0.8156),
    BlockType(DType::MXFP4, "3dae151c2dba8be73a22074db7d5fedd258136cf0e45f1ed33c9817d4e0a6c05", 0.1160, 0.1160),
    BlockType(DType::NVFP4, "5d08dc856d2c94639b897a45c058c99cacf7ad677aac28a5fd4e9c05e7d9ac21", 0.0962, 0.0962),
    BlockType(DType::Q1_0, "9513d125a349e9fd3e4752820c20c56ec70bf64a9644deaf4696b17553a31a3b", 0.6057, 0.6057),
    BlockType(DType::Q2_0, "cee5b8b0f7a5147b89e1e7cb9c8099a4efd736ed5528f3408ee5349e02a51c48", 0.7246, 0.7246),
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

/// The ways to quantize to a type: without importance, unless it requires some, and with.
fn modes(dtype: DType, importance: &[f32]) -> Vec<(&'static str, Option<&[f32]>)> {
    let mut modes = vec![("plain", None), ("imatrix", Some(importance))];
    modes.retain(|(_, importance)| importance.is_some() || !quants::requires_importance(dtype));
    modes
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
        for (mode, importance) in modes(dtype, &importance) {
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
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(sha256(&bytes), expected, "{dtype}");
    }
}

/// SHA-256 of what `ggml_quantize_chunk` writes for [`sparse_case`].
/// Where all but a few weights have no importance, the search can end at a negative scale.
#[rustfmt::skip]
const SPARSE: &[(DType, &str)] = &[
    (DType::Q4_0, "48b79e1bd28922845bcc70da5a8376d86399a57808a7b9a7c6f0f7debee5ffc7"),
    (DType::Q4_1, "2d55e9f1409b2520e96e6fb8fc304416c86de87f523326c78910944977622c68"),
    (DType::Q5_0, "74e530ab26396f35f55e21e80acf0eafaaef3a1aa135409c8f24346a7c0f8611"),
    (DType::Q5_1, "a71de5c869ae4ed08a58b3b1d92b58e4fd6c687ace21fac35ac73c0b9bbe861d"),
    (DType::Q2_K, "27c677288a4986c14de59e9d4365eee6ebccd5d2a4e485cf50fbe374be71ab2f"),
    (DType::Q3_K, "67516cd9c113894867ffc3f7c8947caf1cec3c84c51f6df8e092ee09c44323b7"),
    (DType::Q4_K, "6a0d31aa81b3621b4823cbb93c650eb099ac5f45dc8b0ab67dec911f061f18f2"),
    (DType::Q5_K, "6dd7d23c2c18838fde09db5e22f259636665fcf0fb8a36bc5f48214b32e4b984"),
    (DType::Q6_K, "6b8cfc9624d7bd7c3b9296405f2fec8526c6769ef55a641a2e5a017170560795"),
    (DType::IQ1_S, "d826befbaf1bc696bac4137cd88647332fd4670ae225678852642e61d362fe0e"),
    (DType::IQ1_M, "e008358a966d486e6a150bcbf3b4907531aa9df9f20fd3cf97e676404be420c7"),
    (DType::IQ2_XXS, "47e261f5423fe7fd81b43c7df9648d2c278be16441d0ce7bd0c8f264f9712cc0"),
    (DType::IQ2_XS, "f852d56246a4dde76075bcb57e8496008cf01e9f10636cd9e6197cf08dba6495"),
    (DType::IQ2_S, "a66d3e69bbac0a3b505359d9c197ab0851231c1fb669631747e38954090eecba"),
    (DType::IQ3_XXS, "a5847a7023d576d8615a434a04b7f00fddb27731082309ff1ca6ee3655504954"),
    (DType::IQ3_S, "6f775a6e30bcf33a17fd9650da21b1eb2b59172af568d807acae5f954ebbdbb7"),
    (DType::IQ4_NL, "6fb8aaf828ea663fe24b5f79fe452712fd7903f69958c2eeef588389f0aa1601"),
    (DType::IQ4_XS, "ab59a8617cddaeaaa7d205de356fe0debf0564ae9e353dff30ad8853be3fcc36"),
];

/// 256 rows of bell-shaped values, and importance that is zero but for about one column in sixty-four. Exact
/// integer arithmetic and single f32 additions, so that any language makes the same.
fn sparse_case() -> (Vec<f32>, Vec<f32>) {
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 40
    };
    let mut uniform = || next() as f32 / (1 << 24) as f32 - 0.5;
    let importance = (0..ROW_LEN)
        .map(|_| {
            let (chance, value) = (uniform(), uniform());
            if chance < -0.484_375 { value * value } else { 0.0 }
        })
        .collect();
    let values =
        (0..256 * ROW_LEN).map(|_| uniform() + uniform() + uniform() + uniform()).collect();
    (values, importance)
}

#[test]
fn bytes_equal_the_peers_under_sparse_importance() {
    let (values, importance) = sparse_case();
    let mut failures = Vec::new();
    for (dtype, expected) in SPARSE {
        let found = sha256(&quantize(*dtype, &values, Some(&importance)));
        if found != *expected {
            failures.push(format!("{dtype}: {found}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// SHA-256 of what `ggml_quantize_chunk` writes for [`extreme_case`], without importance.
#[rustfmt::skip]
const EXTREME: &[(DType, &str)] = &[
    (DType::Q4_0, "bb9de37784ead3761b58041160e92ff89567a9cb0ab7e2a79b0844427352fccb"),
    (DType::Q4_1, "44854e50dbdcbfa5377266f773a4f5597f9e13fec8e8945c204b3137bc7ebbde"),
    (DType::Q5_0, "456810e23ab4930b89e6ffc56a22dd61f517f94b37fcd1308dc2e7f3cd56adcf"),
    (DType::Q5_1, "201cb076a4cc09a8226256c328cbe349e202b7a4eefdbf87ed95bbfba968678a"),
    (DType::Q8_0, "6953299507fbdb4b4fc4601940fb0229a7f1add70bf4ca51a20b119347bb17b2"),
    (DType::Q2_K, "18d0ed89dc7fff36cc1458b7957b50fef9e081777145bd2ec3204764e6449d18"),
    (DType::Q3_K, "5cee70796d29c93090d23f680f50becd3cd59caa5e606c0d426d607210e41f0b"),
    (DType::Q4_K, "883e3ca8376e0437ced73bca86c6cb8a350e4b22dced5095df18503e4a21327e"),
    (DType::Q5_K, "31c96bdd25e440a3a027662ddd3bf44ed8a3ef1799ab706dbcfa1aef8d61200e"),
    (DType::Q6_K, "a01e889485e48989ec80d722b406b9ee41bc114d6965e6571c96b37eebc77ed3"),
    (DType::IQ4_NL, "315a330a66eb5b385c4d53575e9e84d8af02e57dc25df28f915e4c4774a3e929"),
    (DType::IQ4_XS, "5d9d24db6a1b4779d416760f894d4ad62f7a2093254e46cbbd21f0e48343ec8f"),
    (DType::TQ1_0, "759b17432bf7f0628866e1b936801bfded638309aff918c7b64d219f2f90bfbc"),
    (DType::TQ2_0, "17c9627f922b53e0085c8db91087aac10659ab30577e4e19f8163443f888046f"),
    (DType::MXFP4, "3c76d39341b4c2abd4cafefdf177be9bd1cf0d621a65d9b29a703760482d0b8f"),
    (DType::NVFP4, "87251a7863c44ba6c5804dc077690b8bf2408713c1e8db008a3c596f8040da7b"),
    (DType::Q1_0, "1ef36d896abefeef23f09e4c25012772745b13152fc61cf55253848c84bfbc16"),
    (DType::Q2_0, "2788be20fbaebfa4a271adf66a201360259816c8a6e4c4d5c5fee7da662e302e"),
];

/// Runs of 32 values of any size, of denormals, near the largest float, just below a power of two, and of small
/// multiples of one. All finite, made without rounding.
fn extreme_case() -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    let mut values = Vec::with_capacity(ROWS * ROW_LEN);
    for block in 0..ROWS * ROW_LEN / 32 {
        let power = (1 + next() % 240) << 23;
        for _ in 0..32 {
            let (sign_and_mantissa, chance) = (next() & 0x807f_ffff, next() >> 8);
            let sign = sign_and_mantissa & 0x8000_0000;
            values.push(match block % 5 {
                0 => f32::from_bits(sign_and_mantissa | (chance % 255) << 23),
                1 => f32::from_bits(sign | (chance & 255)),
                2 => f32::from_bits(sign_and_mantissa | 254 << 23),
                3 => f32::from_bits(sign | (power - chance % 70)),
                _ => f32::from_bits(power) * ((chance % 33) as f32 - 16.0),
            });
        }
    }
    values
}

#[test]
fn bytes_equal_the_peers_for_extreme_values() {
    let values = extreme_case();
    assert_eq!(quants::first_non_finite(&values), None);
    let mut failures = Vec::new();
    for (dtype, expected) in EXTREME {
        let found = sha256(&quantize(*dtype, &values, None));
        if found != *expected {
            failures.push(format!("{dtype}: {found}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Root mean square error of quantizing gaussian weights of deviation 1, over 256 rows.
fn round_trip_error(dtype: DType, importance: Option<&[f32]>) -> f32 {
    let values = gaussian(256 * ROW_LEN);
    let bytes = quantize(dtype, &values, importance);
    let mut decoded = vec![0f32; values.len()];
    quants::decode(dtype, &bytes, &mut decoded).unwrap();
    let squares: f64 =
        values.iter().zip(&decoded).map(|(a, b)| f64::from(a - b) * f64::from(a - b)).sum();
    (squares / values.len() as f64).sqrt() as f32
}

/// Gaussian values by the Box-Muller transform over a linear congruential generator.
fn gaussian(count: usize) -> Vec<f32> {
    let mut state = 42u64;
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    (0..count)
        .map(|_| {
            let radius = (-2.0 * uniform().ln()).sqrt();
            (radius * (std::f64::consts::TAU * uniform()).cos()) as f32
        })
        .collect()
}

#[test]
fn round_trips_stay_within_each_types_error_budget() {
    let importance = vec![1.0; ROW_LEN];
    for &BlockType(dtype, _, plain, weighted) in BLOCK_TYPES {
        for (_, importance) in modes(dtype, &importance) {
            let budget = if importance.is_some() { weighted } else { plain };
            let error = round_trip_error(dtype, importance);
            assert!(error <= budget, "{dtype}: error {error}, budget {budget}");
            assert!(error >= 0.9 * budget, "{dtype}: error {error}, budget {budget} is too lax");
        }
    }
}

#[test]
fn grouping_of_rows_changes_no_byte() {
    let values = &golden_input()[..21 * ROW_LEN];
    let importance = golden_importance();
    for dtype in BLOCK_TYPES.iter().map(|row| row.0).chain([DType::F16]) {
        for (_, importance) in modes(dtype, &importance) {
            let together = quantize(dtype, values, importance);
            for rows in [1, 4, 7] {
                let parts = values.chunks(rows * ROW_LEN);
                let apart: Vec<u8> =
                    parts.flat_map(|part| quantize(dtype, part, importance)).collect();
                assert!(apart == together, "{dtype} in groups of {rows}");
            }
        }
    }
}

#[test]
fn float_types_round_to_nearest_even() {
    let values = [1.0f32, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 65520.0, -1e-8, 1e-40];
    let mut halves = [0u8; 12];
    quants::encode_float(DType::F16, &values, &mut halves).unwrap();
    let expected = [0x3c00u16, 0x3c00, 0x3c02, 0x7c00, 0x8000, 0x0000];
    assert_eq!(halves.as_chunks::<2>().0, expected.map(u16::to_le_bytes));
    let values = [1.0f32, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1e-40];
    let mut brains = [0u8; 8];
    quants::encode_float(DType::BF16, &values, &mut brains).unwrap();
    let expected = [0x3f80u16, 0x3f80, 0x3f82, 0x0001];
    assert_eq!(brains.as_chunks::<2>().0, expected.map(u16::to_le_bytes));
    assert!(quants::encode_float(DType::Q8_0, &[0.0; 32], &mut [0; 34]).is_err());
}

#[test]
fn wrong_lengths_and_types_are_errors() {
    let mut out = vec![0f32; 256];
    for dtype in DType::all() {
        // One byte short, one byte long, and elements that fill no block.
        for bytes in [dtype.row_bytes(256).unwrap() - 1, dtype.row_bytes(256).unwrap() + 1, 0] {
            assert!(quants::decode(dtype, &vec![0; bytes], &mut out).is_err(), "{dtype} {bytes}");
        }
        if dtype.is_quantized() {
            assert!(quants::decode(dtype, &[], &mut out[..7]).is_err(), "{dtype}");
        }
        assert_eq!(quants::decode(dtype, &[], &mut []).is_ok(), quants::can_decode(dtype));
    }
    let values = vec![0f32; 512];
    let mut out = vec![0u8; 288];
    let mut check = |row_len, importance: Option<&[f32]>, len: usize| {
        quants::quantize(DType::Q4_K, &values, row_len, importance, &mut out[..len])
            .map_err(|error| error.to_string())
    };
    assert_eq!(check(256, None, 288), Ok(()));
    assert_eq!(check(512, Some(&values), 288), Ok(()));
    assert!(check(512, None, 287).unwrap_err().contains("288 bytes"));
    assert!(check(500, None, 288).unwrap_err().contains("500"));
    assert!(check(0, None, 288).is_err());
    assert!(check(768, None, 288).unwrap_err().contains("768"));
    assert!(check(256, Some(&values), 288).unwrap_err().contains("512 importance values"));
    assert!(quants::quantize(DType::Q8_1, &values, 512, None, &mut out).is_err());
    assert!(quants::quantize(DType::Q4_K, &[], 0, None, &mut []).is_ok());
    let error = quants::quantize(DType::IQ2_XXS, &values, 512, None, &mut [0; 132]).unwrap_err();
    assert!(error.to_string().contains("importance"), "{error}");
    assert!(quants::quantize(DType::IQ2_S, &values, 512, None, &mut [0; 164]).is_ok());
}

#[test]
fn strange_values_neither_panic_nor_spoil_their_neighbours() {
    let strange = [0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::NAN, f32::INFINITY, -3e38];
    let ordinary = gaussian(ROW_LEN);
    let importances = [
        vec![0.0; ROW_LEN],
        vec![f32::MAX; ROW_LEN],
        vec![f32::NAN; ROW_LEN],
        ordinary.iter().map(|v| v * v).collect(),
    ];
    for dtype in BLOCK_TYPES.iter().map(|row| row.0) {
        let plain = (!quants::requires_importance(dtype)).then_some(None);
        for importance in plain.into_iter().chain(importances.iter().map(|i| Some(&i[..]))) {
            let expected = quantize(dtype, &ordinary, importance);
            for (i, fill) in strange.into_iter().enumerate() {
                let mut values = vec![fill; ROW_LEN];
                for value in values.iter_mut().skip(1).step_by(2 + i) {
                    *value = strange[(i + 1) % strange.len()];
                }
                values.extend(&ordinary);
                let found = quantize(dtype, &values, importance);
                assert!(found.ends_with(&expected), "{dtype} {fill}");
            }
        }
    }
}
