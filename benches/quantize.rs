//! The speed of the quantizer and the decoder of every type, in weights per second on one thread.
//!
//! Run with `cargo bench --bench quantize`, or with a filter:
//! `cargo bench --bench quantize -- Q4_K`. The environment variable `AQUEDUCT_SIMD` (`baseline`,
//! `avx2`, `avx512`) forces an instruction set.

use aqueduct::base::dtype::DType;
use aqueduct::quants;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;

/// The row length of attention in a 7B model.
const ROW_LEN: usize = 4096;
const ROWS: usize = 32;

/// Bell-shaped values: sums of four uniform ones from a linear congruential generator.
fn bell_shaped(count: usize) -> Vec<f32> {
    let mut state = 0x1234_5678_9abc_def0u64;
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| 0.03 * (uniform() + uniform() + uniform() + uniform())).collect()
}

fn benches(c: &mut Criterion) {
    let values = bell_shaped(ROWS * ROW_LEN);
    let importance: Vec<f32> = bell_shaped(ROW_LEN).iter().map(|v| v * v * 1e4).collect();
    let mut group = c.benchmark_group("quants");
    group.throughput(Throughput::Elements(values.len() as u64));
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.sample_size(10);
    for dtype in DType::all().filter(|dtype| quants::can_quantize(*dtype)) {
        let mut bytes = vec![0; dtype.row_bytes(values.len()).unwrap()];
        for (mode, importance) in [("plain", None), ("imatrix", Some(&importance[..]))] {
            if importance.is_none() && quants::requires_importance(dtype) {
                continue;
            }
            group.bench_function(format!("{dtype}/{mode}"), |b| {
                b.iter(|| {
                    let values = black_box(&values);
                    quants::quantize(dtype, values, ROW_LEN, importance, &mut bytes).unwrap();
                });
            });
        }
        let mut decoded = vec![0f32; values.len()];
        group.bench_function(format!("{dtype}/decode"), |b| {
            b.iter(|| quants::decode(dtype, black_box(&bytes), &mut decoded).unwrap());
        });
    }
    group.finish();
}

criterion_group!(quantizers, benches);
criterion_main!(quantizers);
