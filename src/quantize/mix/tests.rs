//! Types that the rules give, worked out by hand from llama.cpp `src/llama-quant.cpp`; scripts/check-mix
//! compares with llama.cpp itself.

use super::*;

fn facts(n_layer: usize) -> ModelFacts {
    ModelFacts {
        n_layer,
        n_gqa: 4,
        n_expert: 0,
        family: Family::Common,
        class_70b: n_layer == 80,
        tied: false,
        n_attn_v: n_layer,
    }
}

fn weight(name: &str, columns: usize) -> TensorInfo {
    TensorInfo::new(name, vec![512, columns], DType::F16)
}

/// The types of one kind of tensor over all layers.
fn ladder(ftype: Ftype, n_layer: usize, part: &str, has_imatrix: bool) -> Vec<DType> {
    let options = PlanOptions::default();
    let mut mix = Mix::new(ftype, facts(n_layer), has_imatrix, &options);
    let name = |i| format!("blk.{i}.{part}.weight");
    (0..n_layer).map(|i| mix.choose(&weight(&name(i), 512)).dtype).collect()
}

#[test]
fn more_bits_go_to_both_ends_and_every_third() {
    let six = |types: Vec<DType>| -> Vec<usize> {
        (0..types.len()).filter(|&i| types[i] == DType::Q6_K).collect()
    };
    // 32 layers: 0..4, 28.., and 4 + 2, 4 + 5, ... between.
    let expected = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
    assert_eq!(six(ladder(Ftype::Q4_K_M, 32, "ffn_down", true)), expected);
    assert_eq!(six(ladder(Ftype::Q5_K_M, 32, "attn_v", false)), expected);
}

#[test]
fn a_stack_of_80_layers_is_treated_as_a_70b() {
    assert!(ladder(Ftype::Q3_K_S, 80, "attn_v", true).iter().all(|&t| t == DType::Q5_K));
    assert!(ladder(Ftype::Q3_K_S, 79, "attn_v", true).iter().all(|&t| t == DType::Q3_K));
}

#[test]
fn the_smallest_types_raise_what_matters_most() {
    // Four query heads share a key head, so attention values get Q4_K.
    assert!(ladder(Ftype::IQ2_XS, 16, "attn_v", true).iter().all(|&t| t == DType::Q4_K));
    let down = ladder(Ftype::IQ2_M, 16, "ffn_down", true);
    assert_eq!(down[..3], [DType::IQ3_S, DType::IQ3_S, DType::IQ2_S]);
    assert_eq!(ladder(Ftype::IQ1_M, 16, "attn_output", true)[9], DType::IQ2_XXS);
    let options = PlanOptions::default();
    let mut mix = Mix::new(Ftype::IQ2_XXS, facts(16), true, &options);
    assert_eq!(mix.choose(&weight("output.weight", 512)).dtype, DType::Q5_K);
    assert_eq!(mix.choose(&weight("token_embd.weight", 512)).dtype, DType::Q2_K);
    let gate = ladder(Ftype::IQ3_XS, 16, "ffn_gate", true);
    assert_eq!((gate[1], gate[2], gate[14]), (DType::IQ3_S, DType::IQ3_XXS, DType::IQ3_S));
}

#[test]
fn without_an_imatrix_iq3_xxs_is_mixed_of_other_types() {
    let down = ladder(Ftype::IQ3_XXS, 16, "ffn_down", false);
    assert_eq!(down[..3], [DType::Q4_K, DType::Q4_K, DType::Q3_K]);
    assert!(ladder(Ftype::IQ3_XXS, 16, "ffn_down", true).iter().all(|&t| t == DType::IQ3_XXS));
}

#[test]
fn experts_alone_get_mxfp4() {
    let options = PlanOptions::default();
    let mut mix = Mix::new(Ftype::MXFP4_MOE, facts(16), true, &options);
    let experts = TensorInfo::new("blk.0.ffn_up_exps.weight", vec![8, 64, 512], DType::F16);
    assert_eq!(mix.choose(&experts).dtype, DType::MXFP4);
    assert_eq!(mix.choose(&weight("blk.0.attn_q.weight", 512)).dtype, DType::Q8_0);
}

#[test]
fn the_publishers_variants_keep_both_ends_at_q8_0() {
    let options = PlanOptions::default();
    let mut mix = Mix::new(Ftype::Q4_K_L, facts(16), true, &options);
    for end in ["token_embd.weight", "output.weight"] {
        assert_eq!(mix.choose(&weight(end, 512)).dtype, DType::Q8_0);
    }
    assert_eq!(mix.choose(&weight("blk.0.attn_q.weight", 512)).dtype, DType::Q4_K);
}

#[test]
fn an_override_does_not_advance_the_counters() {
    let tensor_types = vec!["blk.0.attn_v=q8_0".parse().unwrap()];
    let options = PlanOptions { tensor_types, ..PlanOptions::default() };
    let mut mix = Mix::new(Ftype::Q3_K_M, facts(16), true, &options);
    let mut value = |i: usize| mix.choose(&weight(&format!("blk.{i}.attn_v.weight"), 512)).dtype;
    // Two layers get more bits: the second and the third, since the first did not count.
    assert_eq!(
        [value(0), value(1), value(2), value(3)],
        [DType::Q8_0, DType::Q5_K, DType::Q5_K, DType::Q4_K]
    );
}

#[test]
fn an_imatrix_changes_early_ffn_down_of_the_symmetric_types() {
    let with = ladder(Ftype::Q4_0, 16, "ffn_down", true);
    assert_eq!(with[..3], [DType::Q4_1, DType::Q4_1, DType::Q4_0]);
    assert!(ladder(Ftype::Q4_0, 16, "ffn_down", false).iter().all(|&t| t == DType::Q4_0));
}

#[test]
fn odd_rows_fall_back_and_norms_stay() {
    let options = PlanOptions::default();
    let mut mix = Mix::new(Ftype::Q4_K_M, facts(32), false, &options);
    let choice = mix.choose(&weight("blk.0.attn_q.weight", 576));
    assert_eq!(choice, Choice { dtype: DType::Q5_0, fallback_from: Some(DType::Q4_K) });
    assert_eq!(mix.choose(&weight("blk.0.attn_q.weight", 100)).dtype, DType::F16);
    assert_eq!(mix.choose(&weight("output.weight", 576)).dtype, DType::Q8_0);
    let norm = TensorInfo::new("blk.0.attn_norm.weight", vec![512], DType::F32);
    assert_eq!(mix.choose(&norm).dtype, DType::F32);
}

/// The type of one tensor of a model with `facts`.
fn one(ftype: Ftype, facts: ModelFacts, has_imatrix: bool, name: &str) -> DType {
    let options = PlanOptions::default();
    Mix::new(ftype, facts, has_imatrix, &options).choose(&weight(name, 512)).dtype
}

#[test]
fn eight_experts_raise_attention() {
    let experts = ModelFacts { n_expert: 8, ..facts(32) };
    let of = |ftype, part| one(ftype, experts, true, &format!("blk.9.{part}.weight"));
    for part in ["attn_v", "attn_k"] {
        assert_eq!(of(Ftype::Q4_K_M, part), DType::Q8_0);
        assert_eq!(of(Ftype::IQ2_XS, part), DType::Q4_K);
    }
    assert_eq!(of(Ftype::Q4_K_M, "attn_output"), DType::Q5_K);
    assert_eq!(of(Ftype::IQ1_S, "attn_output"), DType::Q5_K);
    assert_eq!(of(Ftype::Q3_K_L, "attn_output"), DType::Q3_K);
    // The layer comes from the name, not from the count: 4 + 3 * 1 + 2 = 9 gets more bits, 10 does not.
    assert_eq!(of(Ftype::Q4_K_M, "ffn_down_exps"), DType::Q6_K);
    assert_eq!(one(Ftype::Q4_K_M, experts, true, "blk.10.ffn_down_exps.weight"), DType::Q4_K);
    assert_eq!(of(Ftype::IQ3_M, "ffn_down_exps"), DType::Q4_K);
}

#[test]
fn an_imatrix_and_shared_heads_decide_iq3_xxs() {
    let alone = ModelFacts { n_gqa: 1, ..facts(16) };
    let value = |facts, has_imatrix| one(Ftype::IQ3_XXS, facts, has_imatrix, "blk.0.attn_v.weight");
    assert_eq!(value(alone, true), DType::IQ3_XXS);
    assert_eq!(value(alone, false), DType::IQ3_S);
    assert_eq!(value(facts(16), false), DType::Q4_K);
    for part in ["attn_q", "attn_k"] {
        assert_eq!(
            one(Ftype::IQ3_XXS, alone, false, &format!("blk.0.{part}.weight")),
            DType::IQ2_S
        );
    }
}

#[test]
fn an_embedding_that_serves_as_the_head_is_treated_as_one() {
    let tied = ModelFacts { tied: true, ..facts(16) };
    let embedding = |ftype, facts| one(ftype, facts, true, "token_embd.weight");
    assert_eq!(embedding(Ftype::Q4_K_M, tied), DType::Q6_K);
    assert_eq!(embedding(Ftype::Q4_K_M, facts(16)), DType::Q4_K);
    assert_eq!(embedding(Ftype::IQ2_M, tied), DType::Q5_K);
    assert_eq!(embedding(Ftype::IQ2_M, facts(16)), DType::IQ3_S);
    assert_eq!(embedding(Ftype::TQ1_0, facts(16)), DType::Q4_K);
    // A requested type of the head counts, and then has to fit: rows of 576 do not hold Q5_K.
    let options = PlanOptions { output_tensor_type: Some(DType::Q5_K), ..PlanOptions::default() };
    let mut mix = Mix::new(Ftype::Q4_K_M, tied, true, &options);
    let choice = mix.choose(&weight("token_embd.weight", 576));
    assert_eq!(choice, Choice { dtype: DType::Q5_1, fallback_from: Some(DType::Q5_K) });
}

#[test]
fn types_asked_for_the_ends_are_taken_as_they_are() {
    let options = PlanOptions {
        output_tensor_type: Some(DType::Q6_K),
        token_embedding_type: Some(DType::Q4_K),
        tensor_types: vec!["per_layer=q8_0".parse().unwrap(), "output=q4_0".parse().unwrap()],
        ..PlanOptions::default()
    };
    let chosen =
        |ftype, name| Mix::new(ftype, facts(16), true, &options).choose(&weight(name, 576));
    let exactly = |dtype| Choice { dtype, fallback_from: None };
    // Even where the row length does not allow it: the file cannot be made then.
    assert_eq!(chosen(Ftype::Q4_K_M, "output.weight"), exactly(DType::Q6_K));
    assert_eq!(chosen(Ftype::Q4_K_M, "token_embd.weight"), exactly(DType::Q4_K));
    assert_eq!(chosen(Ftype::F16, "output.weight"), exactly(DType::Q6_K));
    // The embeddings of the layers follow the embedding unless they are named.
    assert_eq!(chosen(Ftype::Q4_K_M, "per_layer_token_embd.weight"), exactly(DType::Q8_0));
    let unnamed = PlanOptions { tensor_types: Vec::new(), ..options.clone() };
    let mut mix = Mix::new(Ftype::Q4_K_M, facts(16), true, &unnamed);
    assert_eq!(mix.choose(&weight("per_layer_token_embd.weight", 576)), exactly(DType::Q4_K));
}

#[test]
fn single_architectures_have_rules_of_their_own() {
    let falcon = ModelFacts { family: Family::Falcon, ..facts(32) };
    assert_eq!(one(Ftype::Q4_K_M, falcon, true, "output.weight"), DType::Q8_0);
    let options = PlanOptions::default();
    let mut mix = Mix::new(Ftype::Q4_K_M, falcon, true, &options);
    let down = |i: usize| mix.choose(&weight(&format!("blk.{i}.ffn_down.weight"), 512)).dtype;
    let down: Vec<DType> = (0..7).map(down).collect();
    // 32 layers: a sixteenth is 2, an eighth 4, then every third.
    let (q4, q5, q6) = (DType::Q4_K, DType::Q5_K, DType::Q6_K);
    assert_eq!(down, [q6, q6, q5, q5, q4, q4, q5]);

    let glm = ModelFacts { family: Family::Glm5Next, ..facts(32) };
    assert_eq!(one(Ftype::Q4_K_M, glm, true, "blk.0.attn_q_a.weight"), DType::Q8_0);
    assert_eq!(one(Ftype::Q4_K_M, glm, true, "blk.0.attn_k_b.weight"), DType::F16);

    let bailing = ModelFacts { family: Family::BailingMoe3, ..facts(32) };
    let mut mix = Mix::new(Ftype::MXFP4_MOE, bailing, true, &options);
    let mut stacked =
        |name: &str| mix.choose(&TensorInfo::new(name, vec![8, 64, 512], DType::F16)).dtype;
    assert_eq!(stacked("blk.0.ffn_up_exps.weight"), DType::MXFP4);
    assert_eq!(stacked("blk.0.attn_k_b.weight"), DType::Q8_0);
}
