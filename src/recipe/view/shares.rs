//! How much each model gives to a tensor, as shares that add up to 1: for showing a plan, not for computing.
//!
//! A share says what the recipe's numbers say, not what the weights turn out to be: weights over their
//! sum, `1 - t` and `t` for an interpolation. Where a base model is changed by differences to it, the base
//! counts as 1 and each difference by its weight, all over their sum. Methods that take their proportions
//! from the weights themselves (and have no parameter to tell) divide evenly.

use crate::recipe::method::{BaseRule, MethodSpec};
use crate::recipe::place::StackPlace;
use crate::recipe::plan::merge_plan::{MergePlan, MergeStage, PlanInput, TensorPlan};
use serde::Serialize;

/// Methods whose parameter `t` leads from the base model (0) to the other one (1). Others have a `t` too,
/// which is a threshold there.
const INTERPOLATIONS: &[&str] = &["slerp"];

/// What one input gives to a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct InputShare {
    /// From 0 to 1; those of a tensor add up to 1.
    pub share: f64,
    /// Whether it is the difference to the base model that is added, not the model itself.
    pub delta: bool,
}

/// What a member gives to a row of the stack, through all stages between them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemberShare {
    /// An index into [`super::PlanSummary::members`].
    pub member: usize,
    /// The layer there; none for embedding, norm and head.
    pub layer: Option<usize>,
    /// From 0 to 1; those of a row add up to 1. The mean over the row's tensors, by their size.
    pub share: f64,
    /// Whether it goes in as a difference to a base model.
    pub delta: bool,
}

/// The inputs' parts in `plan`'s tensor, in their order.
pub(crate) fn parts(method: &MethodSpec, plan: &TensorPlan) -> Vec<InputShare> {
    let whole = |share: f64| InputShare { share, delta: false };
    let count = plan.inputs.len();
    if count == 1 {
        return vec![whole(1.0)];
    }
    if let (true, 2, Some(t)) = (INTERPOLATIONS.contains(&method.name), count, plan.params.get("t"))
    {
        let base = plan.base.unwrap_or(0);
        let raw = [0, 1].map(|at| whole(if at == base { (1.0 - t).abs() } else { t.abs() }));
        return over_sum(raw.to_vec());
    }
    let weight = |at: usize| plan.inputs[at].params.get("weight").map_or(1.0, f64::abs);
    let base = plan.base.filter(|_| method.base != BaseRule::DonorOnly);
    let sum: f64 = (0..count).filter(|at| Some(*at) != base).map(weight).sum();
    let divisor = if plan.params.flag("normalize") && sum > 0.0 { sum } else { 1.0 };
    let lambda = plan.params.get("lambda").map_or(1.0, f64::abs);
    let part = |at: usize| match base {
        Some(base) if base == at => whole(1.0),
        Some(_) => InputShare { share: lambda * weight(at) / divisor, delta: true },
        None => whole(weight(at)),
    };
    over_sum((0..count).map(part).collect())
}

/// Divides by the sum; evenly where that is impossible.
fn over_sum(mut parts: Vec<InputShare>) -> Vec<InputShare> {
    let sum: f64 = parts.iter().map(|part| part.share).sum();
    let even = 1.0 / parts.len() as f64;
    for part in &mut parts {
        let share = part.share / sum;
        part.share = if share.is_finite() { share } else { even };
    }
    parts
}

/// The shares of a row of one stage.
pub(crate) struct RowShares {
    /// Of the inputs, in their order.
    pub inputs: Vec<f64>,
    pub members: Vec<MemberShare>,
    /// Parameters of the row's tensors.
    pub parameters: u64,
}

/// What every tensor of every stage is made of, down to the members.
pub(crate) struct PlanShares(Vec<Vec<Vec<MemberShare>>>);

impl PlanShares {
    pub(crate) fn of(plan: &MergePlan) -> PlanShares {
        let mut stages: Vec<Vec<Vec<MemberShare>>> = Vec::with_capacity(plan.stages.len());
        for stage in &plan.stages {
            // Stages come after those they use.
            let tensors = stage
                .tensors
                .iter()
                .map(|tensor| resolve(stage.method_at(tensor.place), tensor, &stages));
            stages.push(tensors.collect());
        }
        PlanShares(stages)
    }

    /// The mean over the tensors of stage number `index` at `place`, by their size.
    pub(crate) fn row(&self, index: usize, stage: &MergeStage, place: StackPlace) -> RowShares {
        let mut row = RowShares { inputs: Vec::new(), members: Vec::new(), parameters: 0 };
        let sizes = stage.table.infos().iter().map(|info| info.elements() as u64);
        for ((tensor, made), size) in stage.tensors.iter().zip(&self.0[index]).zip(sizes) {
            if tensor.place != place {
                continue;
            }
            row.parameters += size;
            let parts = parts(stage.method_at(place), tensor);
            row.inputs.resize(parts.len(), 0.0);
            for (sum, part) in row.inputs.iter_mut().zip(&parts) {
                *sum += part.share * size as f64;
            }
            for given in made {
                let share = given.share * size as f64;
                add(&mut row.members, &MemberShare { share, ..given.clone() });
            }
        }
        let total = row.parameters.max(1) as f64;
        row.inputs.iter_mut().for_each(|share| *share /= total);
        row.members.iter_mut().for_each(|given| given.share /= total);
        row
    }
}

fn resolve(
    method: &MethodSpec,
    tensor: &TensorPlan,
    earlier: &[Vec<Vec<MemberShare>>],
) -> Vec<MemberShare> {
    let mut made = Vec::new();
    for (input, part) in tensor.inputs.iter().zip(parts(method, tensor)) {
        let InputShare { share, delta } = part;
        match input.from {
            PlanInput::Member(member) => {
                add(&mut made, &MemberShare { member, layer: input.layer, share, delta });
            }
            PlanInput::Stage(stage) => {
                for given in &earlier[stage][input.index] {
                    let (share, delta) = (share * given.share, delta || given.delta);
                    add(&mut made, &MemberShare { share, delta, ..given.clone() });
                }
            }
        }
    }
    made
}

/// Adds to the entry of the same origin, or makes one.
fn add(made: &mut Vec<MemberShare>, given: &MemberShare) {
    let same = |m: &&mut MemberShare| {
        (m.member, m.layer, m.delta) == (given.member, given.layer, given.delta)
    };
    match made.iter_mut().find(same) {
        Some(found) => found.share += given.share,
        None => made.push(given.clone()),
    }
}
