//! The methods that add task vectors, one row each: a specification, and what the rows differ in.
//!
//! The arithmetic is in [`crate::merge::task_vectors`]. A new method of the family is a row here and a line
//! in `ALL`.

use super::MergeMethod;
use crate::base::error::Result;
use crate::merge::chunks::{Job, MergedTensor};
use crate::merge::sparsify::Sparsify;
use crate::merge::task_vectors::{self as family, TaskVectorRule};
use crate::recipe::{MethodSpec, ParamSpec};

#[cfg(test)]
mod tests;

/// A method of the family.
pub(super) struct TaskVectorMethod {
    spec: &'static MethodSpec,
    rule: TaskVectorRule,
}

impl MergeMethod for TaskVectorMethod {
    fn spec(&self) -> &'static MethodSpec {
        self.spec
    }

    fn combine(&self, job: &Job<'_>) -> Result<MergedTensor> {
        family::combine(job, self.rule)
    }
}

/// Task arithmetic: `base + lambda * sum(w (x - base))`, the sum divided by `sum(w)` with `normalize`.
///
/// "Editing models with task arithmetic", Ilharco et al. 2022, <https://arxiv.org/abs/2212.04089>. As in
/// mergekit's `generalized_task_arithmetic.py`, 0.1.5.
pub(super) static TASK_ARITHMETIC: TaskVectorMethod = TaskVectorMethod {
    spec: &MethodSpec {
        name: "task_arithmetic",
        reference: "https://arxiv.org/abs/2212.04089",
        params: &[
            family::WEIGHT,
            family::normalize(false),
            family::LAMBDA,
            ParamSpec::ignored("density"),
            family::INT8_MASK,
            ParamSpec::ignored("rescale"),
        ],
        ..family::PLAIN
    },
    rule: TaskVectorRule { sparsify: Sparsify::Never, consensus: false },
};

/// TIES: of each difference from the base the `density` largest elements are kept, then those whose sign
/// is that of the weighted sum are added, and divided by the sum of their weights with `normalize`.
///
/// "TIES-Merging: resolving interference when merging models", Yadav et al. 2023,
/// <https://arxiv.org/abs/2306.01708>. As in mergekit's `generalized_task_arithmetic.py` and
/// `sparsify.py` (`magnitude`), 0.1.5.
pub(super) static TIES: TaskVectorMethod = TaskVectorMethod {
    spec: &MethodSpec {
        name: "ties",
        reference: "https://arxiv.org/abs/2306.01708",
        params: &[
            family::WEIGHT,
            family::DENSITY,
            family::normalize(true),
            family::rescale(false),
            family::LAMBDA,
            family::INT8_MASK,
        ],
        ..family::PLAIN
    },
    rule: TaskVectorRule { sparsify: Sparsify::Smallest, consensus: true },
};

/// DARE: of each difference from the base every element is kept with the probability `density`, what is
/// kept is scaled up for what is lost, and the weighted sum is added to the base.
///
/// "Language models are Super Mario", Yu et al. 2023, <https://arxiv.org/abs/2311.03099>, which scales by
/// `1 / density`: `rescale: density`. The default, `rescale: l1`, restores the sum of magnitudes, as
/// mergekit does (`sparsify.py`, `bernoulli`, 0.1.5).
pub(super) static DARE_LINEAR: TaskVectorMethod = TaskVectorMethod {
    spec: &MethodSpec {
        name: "dare_linear",
        reference: "https://arxiv.org/abs/2311.03099",
        params: &[
            family::WEIGHT,
            family::DENSITY,
            family::normalize(false),
            family::rescale(true),
            family::LAMBDA,
            family::INT8_MASK,
        ],
        random: true,
        ..family::PLAIN
    },
    rule: TaskVectorRule { sparsify: Sparsify::Random, consensus: false },
};

/// DARE with the sign consensus of TIES: elements are dropped at random as in `dare_linear`, then those
/// whose sign is that of the weighted sum are added.
///
/// "Language models are Super Mario", Yu et al. 2023, <https://arxiv.org/abs/2311.03099>. As in mergekit's
/// `generalized_task_arithmetic.py`, 0.1.5.
pub(super) static DARE_TIES: TaskVectorMethod = TaskVectorMethod {
    spec: &MethodSpec {
        name: "dare_ties",
        reference: "https://arxiv.org/abs/2311.03099",
        params: &[
            family::WEIGHT,
            family::DENSITY,
            family::normalize(false),
            family::rescale(true),
            family::LAMBDA,
            family::INT8_MASK,
        ],
        random: true,
        ..family::PLAIN
    },
    rule: TaskVectorRule { sparsify: Sparsify::Random, consensus: true },
};

/// Model Breadcrumbs: of each difference from the base the `gamma` largest elements are dropped as
/// outliers, the `density` next are kept, and the weighted sum is added to the base.
///
/// "Model Breadcrumbs: scaling multi-task model merging with sparse masks", Davari and Belilovsky 2023,
/// <https://arxiv.org/abs/2312.06795>. As in mergekit's `sparsify.py` (`magnitude_outliers`), 0.1.5;
/// earlier versions made the whole difference zero where `gamma n` is less than 1, which is not done here.
pub(super) static BREADCRUMBS: TaskVectorMethod = TaskVectorMethod {
    spec: &MethodSpec {
        name: "breadcrumbs",
        reference: "https://arxiv.org/abs/2312.06795",
        params: &[
            family::WEIGHT,
            family::DENSITY,
            family::GAMMA,
            family::normalize(false),
            family::rescale(false),
            family::LAMBDA,
            family::INT8_MASK,
        ],
        ..family::PLAIN
    },
    rule: TaskVectorRule { sparsify: Sparsify::SmallestAndOutliers, consensus: false },
};

/// Model Breadcrumbs with the sign consensus of TIES: differences are sparsified as in `breadcrumbs`, then
/// the elements whose sign is that of the weighted sum are added.
///
/// "Model Breadcrumbs: scaling multi-task model merging with sparse masks", Davari and Belilovsky 2023,
/// <https://arxiv.org/abs/2312.06795>. As in mergekit's `generalized_task_arithmetic.py`, 0.1.5.
pub(super) static BREADCRUMBS_TIES: TaskVectorMethod = TaskVectorMethod {
    spec: &MethodSpec {
        name: "breadcrumbs_ties",
        reference: "https://arxiv.org/abs/2312.06795",
        params: &[
            family::WEIGHT,
            family::DENSITY,
            family::GAMMA,
            family::normalize(false),
            family::rescale(false),
            family::LAMBDA,
            family::INT8_MASK,
        ],
        ..family::PLAIN
    },
    rule: TaskVectorRule { sparsify: Sparsify::SmallestAndOutliers, consensus: true },
};

/// DELLA: elements of each difference from the base are kept with a probability that grows with their rank
/// in the row, from `density - epsilon` to `density + epsilon`; then those whose sign is that of the
/// weighted sum are added.
///
/// "DELLA-Merging: reducing interference in model merging through magnitude-based sampling", Deep,
/// Bhardwaj and Poria 2024, <https://arxiv.org/abs/2406.11617>, which divides each kept element by its
/// probability: `rescale: density`. The default, `rescale: l1`, restores the sum of magnitudes, as
/// mergekit does (`sparsify.py`, `della_magprune`, 0.1.5).
pub(super) static DELLA: TaskVectorMethod = TaskVectorMethod {
    spec: &MethodSpec {
        name: "della",
        reference: "https://arxiv.org/abs/2406.11617",
        params: &[
            family::WEIGHT,
            family::DENSITY,
            family::EPSILON,
            family::normalize(true),
            family::rescale(true),
            family::LAMBDA,
            family::INT8_MASK,
        ],
        random: true,
        check_source: Some(family::check_probabilities),
        ..family::PLAIN
    },
    rule: TaskVectorRule { sparsify: Sparsify::RandomByRank, consensus: true },
};

/// DELLA without sign consensus: differences are sparsified as in `della`, and their weighted sum is added
/// to the base.
///
/// "DELLA-Merging: reducing interference in model merging through magnitude-based sampling", Deep,
/// Bhardwaj and Poria 2024, <https://arxiv.org/abs/2406.11617>. As in mergekit's
/// `generalized_task_arithmetic.py`, 0.1.5.
pub(super) static DELLA_LINEAR: TaskVectorMethod = TaskVectorMethod {
    spec: &MethodSpec {
        name: "della_linear",
        reference: "https://arxiv.org/abs/2406.11617",
        params: &[
            family::WEIGHT,
            family::DENSITY,
            family::EPSILON,
            family::normalize(false),
            family::rescale(true),
            family::LAMBDA,
            family::INT8_MASK,
        ],
        random: true,
        check_source: Some(family::check_probabilities),
        ..family::PLAIN
    },
    rule: TaskVectorRule { sparsify: Sparsify::RandomByRank, consensus: false },
};
