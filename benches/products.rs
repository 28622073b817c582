//! The speed of matrix products in each precision, on `RAYON_NUM_THREADS` threads.
//!
//! "Elements" are floating-point operations, two for each multiply-add; for `/pack`, packed
//! weights. Run with `cargo bench --bench products`. The environment variable `AQUEDUCT_SIMD`
//! forces an instruction set: `baseline`, `avx2` or `avx512`, which is without bf16.

use aqueduct::kernels::{Multiply, PackedMatrix, Precision, Rows, Spare, multiply};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

/// The rows of a chunk.
const ROWS: usize = 512;
/// Inputs and outputs: attention and feed-forward part of a 7B model, feed-forward part of SmolLM2.
const SHAPES: [(usize, usize); 4] = [(4096, 4096), (4096, 14336), (14336, 4096), (576, 1536)];

/// Values between -0.5 and 0.5 from a linear congruential generator.
fn values(count: usize) -> Vec<f32> {
    let mut state = 0x1234_5678_9abc_def0u64;
    let mut value = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| value()).collect()
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("products");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    group.sample_size(10);
    for (inputs, outputs) in SHAPES {
        let x = values(ROWS * inputs);
        let weights = values(inputs * outputs);
        let mut out = vec![0f32; ROWS * outputs];
        for precision in [Precision::F32, Precision::Bf16] {
            let pack = || {
                PackedMatrix::pack(precision, outputs, inputs, &Spare::default(), |rows, buffer| {
                    buffer.copy_from_slice(&weights[rows.start * inputs..rows.end * inputs]);
                    Ok::<(), Infallible>(())
                })
                .unwrap()
            };
            let packed = pack();
            group.throughput(Throughput::Elements((2 * ROWS * inputs * outputs) as u64));
            group.bench_function(format!("{inputs}x{outputs}/{precision:?}"), |b| {
                let x = Rows::dense(&x, inputs);
                b.iter(|| multiply(black_box(x), &packed, Multiply::default(), &mut out).unwrap());
            });
            group.throughput(Throughput::Elements((inputs * outputs) as u64));
            group.bench_function(format!("{inputs}x{outputs}/{precision:?}/pack"), |b| {
                b.iter(|| black_box(pack()));
            });
        }
    }
    group.finish();
}

criterion_group!(products, benches);
criterion_main!(products);
