//! What must hold of every method: defined results for degenerate tensors, models that agree are left
//! alone, and neither threads nor chunks change a bit.

use super::testing::{Case, noise};
use super::*;
use crate::merge::chunks::CHUNK;
use crate::recipe::{BaseRule, ParamDefault, ParamScope};

/// Values for the parameters of `method`: `given`, else defaults; weights are 0.6 and 0.4.
fn with_params<'a>(
    case: Case<'a>,
    method: &dyn MergeMethod,
    count: usize,
    given: &[(&'static str, f64)],
) -> Case<'a> {
    let mut case = case;
    for param in method.spec().params.iter().filter(|param| !param.ignored) {
        let given = given.iter().find(|(name, _)| *name == param.name).map(|&(_, value)| value);
        let value = match (given, param.default) {
            (Some(value), _) | (None, ParamDefault::Value(value)) => value,
            (None, ParamDefault::Required) => 0.4,
            (None, ParamDefault::Absent) => continue,
        };
        case = match (param.scope, param.name) {
            (ParamScope::Source, "weight") => {
                let weights: Vec<f64> = (0..count).map(|at| 0.4 + 0.2 * (at % 2) as f64).collect();
                case.each("weight", &weights)
            }
            (ParamScope::Source, name) => case.each(name, &vec![value; count]),
            (ParamScope::Tensor, name) => case.params(&[(name, value)]),
        };
    }
    case
}

/// Merges as many of `tensors` as the method takes, the first being the base where it has one.
fn merge(
    method: &dyn MergeMethod,
    tensors: &[&[f32]],
    shape: &[usize],
    given: &[(&'static str, f64)],
) -> Vec<f32> {
    let spec = method.spec();
    let count = tensors.len().min(*spec.sources.end());
    let case = Case::new(&tensors[..count]).shape(shape).seed(5);
    let case = if spec.base == BaseRule::Required { case.base(0) } else { case };
    with_params(case, method, count, given).merge(method)
}

/// Settings that exercise the edges; names that a method does not have are passed over.
const SETTINGS: &[&[(&str, f64)]] = &[
    &[],
    &[("density", 0.5), ("select_topk", 0.5)],
    &[("density", 0.5), ("rescale", 0.0), ("normalize", 0.0), ("filter_wise", 1.0)],
    &[("density", 0.5), ("rescale", 1.0), ("nuslerp_flatten", 0.0)],
    &[("density", 0.5), ("rescale", 2.0), ("nuslerp_flatten", 0.0), ("nuslerp_row_wise", 1.0)],
    &[("density", 0.0), ("select_topk", 0.0), ("max_iter", 0.0), ("t", 0.0), ("gamma", 1.0)],
    &[("density", 0.999), ("epsilon", 0.0005), ("gamma", 1.0), ("t", 1.0), ("eps", 0.0)],
    &[("density", 0.2), ("gamma", 0.9), ("epsilon", 0.19), ("tol", 0.0), ("alpha", 0.0)],
];

#[test]
fn degenerate_tensors_give_finite_results() {
    let ramp = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0];
    let opposite = ramp.map(|x: f32| -x);
    let (zeros, ones, tiny) = ([0.0; 6], [1.0; 6], [1e-30; 6]);
    let large = [3e18; 6];
    let sets: [[&[f32]; 3]; 9] = [
        [&zeros, &zeros, &zeros],
        [&ones, &ones, &ones],
        [&ramp, &ramp, &zeros],
        [&zeros, &ramp, &opposite],
        [&zeros, &ones, &ramp],
        [&tiny, &zeros, &tiny],
        [&tiny, &ones, &ramp],
        [&ramp, &opposite, &ones],
        [&zeros, &large, &ramp],
    ];
    for method in ALL {
        for set in &sets {
            for shape in [&[6][..], &[2, 3], &[3, 2], &[6, 1], &[1, 6], &[1, 2, 3]] {
                for given in SETTINGS {
                    // Fails if a value is not finite.
                    assert_eq!(merge(*method, set, shape, given).len(), 6);
                }
            }
            let single: Vec<&[f32]> = set.iter().map(|values| &values[..1]).collect();
            for given in SETTINGS {
                assert_eq!(merge(*method, &single, &[1], given).len(), 1);
            }
        }
    }
}

#[test]
fn models_that_are_equal_are_left_alone() {
    let values = noise(9, 300);
    let tensors: [&[f32]; 3] = [&values; 3];
    for method in ALL.iter().filter(|method| method.spec().name != "passthrough") {
        for given in SETTINGS {
            let given: Vec<_> = given.iter().copied().filter(|g| g.0 != "normalize").collect();
            let merged = merge(*method, &tensors, &[15, 20], &given);
            let off = merged.iter().zip(&values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 2e-6, "{}: off by {off}", method.spec().name);
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (rows, width) = (61, 2000);
    assert!(rows * width > 3 * CHUNK, "there must be several chunks");
    let base = noise(1, rows * width);
    // Few levels, so that selections split ties.
    let near = |seed: u64| -> Vec<f32> {
        let steps = noise(seed, rows * width);
        base.iter().zip(steps).map(|(b, s)| b + (s * 8.0).round() / 64.0).collect()
    };
    let (one, two) = (near(2), near(3));
    let tensors: [&[f32]; 3] = [&base, &one, &two];
    let pools = [1, 3, 8].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap());
    for method in ALL {
        for given in &SETTINGS[..5] {
            let mut results = pools
                .iter()
                .map(|pool| pool.install(|| merge(*method, &tensors, &[rows, width], given)));
            let first = results.next().unwrap();
            assert!(results.all(|other| other == first), "{}", method.spec().name);
        }
    }
}

/// Seeds, models and densities of 1 or 0 do what they say.
#[test]
fn random_methods_follow_the_seed_and_only_it() {
    let (base, model) = (vec![0.0; 4000], vec![1.0; 4000]);
    for method in ALL.iter().filter(|method| method.spec().random) {
        let run = |seed: u64, density: f64, order: [usize; 3]| {
            let all: [&[f32]; 3] = [&base, &model, &model];
            let case = Case::new(&order.map(|at| all[at])).base(0).seed(seed);
            let given = [("density", density), ("rescale", 0.0), ("normalize", 0.0)];
            with_params(case, *method, 3, &given).merge(*method)
        };
        let order = [0, 1, 2];
        assert_eq!(run(1, 0.5, order), run(1, 0.5, order));
        assert_ne!(run(1, 0.5, order), run(2, 0.5, order));
        assert!(run(1, 1.0, order).iter().all(|&x| (x - 1.0).abs() < 1e-6));
        assert!(run(1, 0.0, order).iter().all(|&x| x == 0.0));
        // Two models with equal weights draw apart: some elements come from one of them alone.
        let values = run(1, 0.5, order);
        let levels = [0.0, 0.4, 0.6, 1.0];
        for level in levels {
            let share = values.iter().filter(|&&x| (x - level).abs() < 1e-6).count() as f64 / 4e3;
            assert!((share - 0.25).abs() < 0.05, "{}: {level} {share}", method.spec().name);
        }
    }
}
