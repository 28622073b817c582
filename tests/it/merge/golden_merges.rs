//! Merges against the peer's output, and the properties of merged sources.

use aqueduct::base::dtype::DType;
use aqueduct::formats::checkpoint::Checkpoint;
use aqueduct::formats::source::{MemorySource, PART_BYTES, TensorData, TensorInfo, TensorSource};
use aqueduct::merge;
use aqueduct::recipe::{Folders, MemberError, MemberLookup, MergePlan, ModelRef, plan_text};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/merge").join(path)
}

fn open(recipe: &str) -> Checkpoint {
    let path = data(&format!("recipes/{recipe}.yml"));
    let lookup = Folders::beside(&path, &[data("models")]);
    merge::open(merge::plan(&path, &lookup).unwrap())
}

/// Every tensor of the peer's result is there, with its shape and type, and equal within tolerance.
fn check_golden(recipe: &str) {
    let merged = open(recipe);
    let bytes = std::fs::read(data(&format!("merged/{recipe}.safetensors"))).unwrap();
    let golden = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(merged.tensors.table().infos().len(), golden.len());
    for (name, expected) in golden.iter() {
        let actual = merged.tensors.read_name(name).unwrap();
        assert_eq!(actual.shape, expected.shape(), "{name}");
        let dtype = match expected.dtype() {
            safetensors::Dtype::F16 => DType::F16,
            _ => DType::F32,
        };
        assert_eq!(actual.dtype, dtype, "{name}");
        let expected =
            TensorData { dtype, shape: actual.shape.clone(), bytes: expected.data().into() };
        match dtype {
            DType::F16 => check_one_ulp(name, &actual, &expected),
            _ => check_relative(name, &actual, &expected),
        }
    }
}

fn check_relative(name: &str, actual: &TensorData<'_>, expected: &TensorData<'_>) {
    let (actual, expected) = (actual.to_f32().unwrap(), expected.to_f32().unwrap());
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = actual.iter().zip(&expected).fold(0f32, |m, (a, e)| m.max((a - e).abs()));
    assert!(worst <= 1e-5 * largest, "{name}: off by {worst} of {largest}");
}

fn check_one_ulp(name: &str, actual: &TensorData<'_>, expected: &TensorData<'_>) {
    let ordered = |bytes: &[u8]| {
        let bits = i16::from_le_bytes([bytes[0], bytes[1]]);
        i32::from(if bits < 0 { i16::MIN.wrapping_sub(bits) } else { bits })
    };
    for (a, e) in actual.bytes.chunks(2).zip(expected.bytes.chunks(2)) {
        assert!((ordered(a) - ordered(e)).abs() <= 1, "{name}: {a:?} is not near {e:?}");
    }
}

#[test]
fn stack_equals_the_peers() {
    check_golden("stack");
}

#[test]
fn linear_equals_the_peers() {
    check_golden("linear");
    check_golden("linear-raw");
}

#[test]
fn slerp_equals_the_peers() {
    check_golden("slerp-gradient");
    check_golden("slerp-near");
}

#[test]
fn task_arithmetic_equals_the_peers() {
    check_golden("task-arithmetic");
}

#[test]
fn ties_equals_the_peers() {
    check_golden("ties");
    check_golden("ties-raw");
}

#[test]
fn breadcrumbs_equals_the_peers() {
    check_golden("breadcrumbs");
}

#[test]
fn spherical_means_equal_the_peers() {
    check_golden("nuslerp");
    check_golden("nuslerp-rows");
    check_golden("multislerp");
    check_golden("karcher");
}

#[test]
fn model_stock_equals_the_peers() {
    check_golden("model-stock");
}

#[test]
fn sce_equals_the_peers() {
    check_golden("sce");
}

#[test]
fn nearswap_equals_the_peers() {
    check_golden("nearswap");
}

#[test]
fn arcee_fusion_equals_the_peers() {
    check_golden("arcee-fusion");
}

#[test]
fn aqueduct_in_stages_equals_the_peers() {
    check_golden("aqueduct");
}

#[test]
fn the_output_of_a_stack_says_so_in_its_config() {
    let merged = open("aqueduct");
    assert_eq!(merged.config.usize("num_hidden_layers"), Some(11));
    assert_eq!(merged.config.str("torch_dtype"), Some("float16"));
    assert_eq!(merged.config.str("model_type"), Some("llama"));
    assert_eq!(merged.name, "aqueduct");
}

#[test]
fn passthrough_hands_through_the_members_bytes() {
    let path = data("recipes/stack.yml");
    let lookup = Folders::beside(&path, &[data("models")]);
    let merged = merge::open(merge::plan(&path, &lookup).unwrap());
    let member = Checkpoint::open(data("models/a")).unwrap();
    let name = "model.layers.2.mlp.up_proj.weight";
    let through = merged.tensors.read_name(name).unwrap();
    assert!(matches!(through.bytes, std::borrow::Cow::Borrowed(_)));
    assert_eq!(through.bytes, member.tensors.read_name(name).unwrap().bytes);
}

#[test]
fn threads_do_not_change_a_byte() {
    let merged = open("slerp-gradient");
    let all = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| -> Vec<Vec<u8>> {
            let count = merged.tensors.table().infos().len();
            (0..count).map(|i| merged.tensors.read(i).unwrap().bytes.into_owned()).collect()
        })
    };
    assert_eq!(all(1), all(3));
}

/// The bytes of tensor `index`, put together from its parts, each of which must come once.
fn streamed(source: &dyn TensorSource, index: usize) -> Vec<u8> {
    let parts = std::sync::Mutex::new(BTreeMap::new());
    let take = |offset: usize, part: &[u8]| {
        assert!(offset.is_multiple_of(PART_BYTES) && part.len() <= PART_BYTES);
        assert!(parts.lock().unwrap().insert(offset, part.to_vec()).is_none());
        Ok(())
    };
    source.stream(index, &take).unwrap();
    parts.into_inner().unwrap().into_values().flatten().collect()
}

#[test]
fn the_parts_of_a_stream_make_what_is_read() {
    for recipe in ["aqueduct", "stack", "slerp-gradient"] {
        let merged = open(recipe);
        for index in 0..merged.tensors.table().infos().len() {
            let read = merged.tensors.read(index).unwrap().bytes;
            assert_eq!(streamed(merged.tensors.as_ref(), index), *read, "{recipe} {index}");
        }
    }
    // Tensors of several parts, handed through and computed.
    let elements = PART_BYTES / 4 + 5 * 4;
    let config = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 4, "intermediate_size": 6,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "vocab_size": VOCABULARY, "tie_word_embeddings": true}"#;
    let config = config.replace("VOCABULARY", &(elements / 4).to_string());
    let config = aqueduct::formats::checkpoint::Config::parse("large", &config).unwrap();
    let shapes = aqueduct::recipe::shape_checkpoint("large", config).unwrap();
    let tensors = shapes.tensors.table().infos().iter().map(|info| {
        let values: Vec<f32> = (0..info.elements()).map(|i| i as f32).collect();
        let bytes = TensorData::from_f32(info.shape.clone(), &values).bytes.into_owned();
        (TensorInfo::new(&info.name, info.shape.clone(), DType::F32), bytes)
    });
    let source = MemorySource::new("large", tensors.collect()).unwrap();
    let large = Checkpoint { tensors: Arc::new(source), ..shapes };
    for (text, factor) in [
        ("merge_method: passthrough\nmodels: [{model: large}]", 1.0),
        ("merge_method: passthrough\nmodels: [{model: large, parameters: {scale: 2}}]", 2.0),
    ] {
        let merged = merge::open(plan_made(vec![("large", large.clone())], text));
        let index = merged.tensors.table().find("model.embed_tokens.weight").unwrap();
        let values = |bytes: &[u8]| -> Vec<f32> {
            bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        let found = values(&streamed(merged.tensors.as_ref(), index));
        assert_eq!(found.len(), elements);
        assert!(found.iter().enumerate().all(|(i, v)| *v == i as f32 * factor), "{text}");
    }
}

/// Members made up in memory: one layer, hidden size 2, vocabulary 3.
struct Made(BTreeMap<&'static str, Checkpoint>);

impl MemberLookup for Made {
    fn open(&self, reference: &ModelRef) -> Result<Checkpoint, MemberError> {
        let found = self.0.get(reference.path.as_str()).cloned();
        found.ok_or_else(|| MemberError { message: "no such model".into(), remedy: String::new() })
    }
}

/// A model whose every weight is `fill`, except as `edit` says of a tensor's name.
pub(crate) fn made(
    name: &str,
    tied: bool,
    dtype: DType,
    value: impl Fn(&str, usize) -> f32,
) -> Checkpoint {
    let json = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "hidden_size": 4, "intermediate_size": 6,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
            "vocab_size": 3, "tie_word_embeddings": {tied}}}"#
    );
    let config = aqueduct::formats::checkpoint::Config::parse(name, &json).unwrap();
    let shapes = aqueduct::recipe::shape_checkpoint(name, config).unwrap();
    let tensors = shapes.tensors.table().infos().iter().map(|info| {
        let values: Vec<f32> = (0..info.elements()).map(|i| value(&info.name, i)).collect();
        let mut bytes = vec![0; values.len() * dtype.block_bytes()];
        aqueduct::quants::encode_float(dtype, &values, &mut bytes).unwrap();
        (TensorInfo::new(&info.name, info.shape.clone(), dtype), bytes)
    });
    let tensors: Arc<dyn TensorSource> =
        Arc::new(MemorySource::new(name, tensors.collect()).unwrap());
    Checkpoint { tensors, ..shapes }
}

pub(crate) fn plan_made(members: Vec<(&'static str, Checkpoint)>, text: &str) -> MergePlan {
    let lookup = Made(members.into_iter().collect());
    plan_text(Path::new("recipe.yml"), text, &merge::methods::specs(), &lookup)
        .unwrap_or_else(|problems| panic!("{}", aqueduct::recipe::render("recipe.yml", &problems)))
}

#[test]
fn nan_in_a_member_is_an_error_that_names_member_tensor_and_index() {
    let bad =
        |name: &str, i: usize| if name.contains("up_proj") && i == 5 { f32::NAN } else { 1.0 };
    let members = || {
        vec![
            ("good", made("good", false, DType::F32, |_, _| 1.0)),
            ("bad", made("bad", false, DType::F32, bad)),
        ]
    };
    let linear =
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: good}, {model: bad}]";
    let through = "merge_method: passthrough\nmodels: [{model: bad}]";
    for text in [linear, through] {
        let merged = merge::open(plan_made(members(), text));
        let error = merged.tensors.read_name("model.layers.0.mlp.up_proj.weight").unwrap_err();
        let error = error.to_string();
        let named = ["'bad'", "'model.layers.0.mlp.up_proj.weight'", "element 5", "NaN"];
        assert!(named.iter().all(|part| error.contains(part)), "{error}");
        let index = merged.tensors.table().find("model.layers.0.mlp.up_proj.weight").unwrap();
        let streamed = merged.tensors.stream(index, &|_, _| Ok(())).unwrap_err();
        assert_eq!(streamed.to_string(), error);
        merged.tensors.read_name("model.norm.weight").unwrap();
    }
}

#[test]
fn overflow_of_the_output_type_is_an_error_with_the_remedy() {
    let large = made("large", false, DType::F32, |_, i| if i == 2 { 70000.0 } else { 1.0 });
    let text = "merge_method: passthrough\nmodels: [{model: large}]\ndtype: float16";
    let merged = merge::open(plan_made(vec![("large", large.clone())], text));
    let error = merged.tensors.read_name("model.norm.weight").unwrap_err().to_string();
    assert!(error.contains("element 2 becomes 70000"), "{error}");
    assert!(error.contains("out_dtype: bfloat16"), "{error}");
    let text = "merge_method: passthrough\nmodels: [{model: large}]\nout_dtype: bfloat16";
    let merged = merge::open(plan_made(vec![("large", large)], text));
    let norm = merged.tensors.read_name("model.norm.weight").unwrap();
    assert_eq!((norm.dtype, norm.to_f32().unwrap()[2]), (DType::BF16, 70144.0));
}

#[test]
fn a_tied_member_gives_its_embedding_where_others_give_a_head() {
    let tied = made("tied", true, DType::F32, |_, _| 1.0);
    let untied =
        made(
            "untied",
            false,
            DType::F32,
            |name, _| if name == "lm_head.weight" { 5.0 } else { 3.0 },
        );
    let text =
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: tied}, {model: untied}]";
    let merged = merge::open(plan_made(vec![("tied", tied.clone()), ("untied", untied)], text));
    let head = merged.tensors.read_name("lm_head.weight").unwrap().to_f32().unwrap();
    assert_eq!(head, vec![3.0; 12]);
    assert_eq!(merged.config.bool("tie_word_embeddings"), Some(false), "the donor is tied");

    let text = "merge_method: passthrough\nmodels: [{model: tied}]";
    let merged = merge::open(plan_made(vec![("tied", tied)], text));
    assert!(merged.tensors.table().get("lm_head.weight").is_none());
    assert_eq!(merged.config.bool("tie_word_embeddings"), Some(true));
}

#[test]
fn a_tied_last_slice_under_a_foreign_embedding_gets_a_head() {
    let one = made("one", true, DType::F32, |_, _| 1.0);
    let two = made("two", true, DType::F32, |_, _| 2.0);
    let text = "merge_method: passthrough\nslices:\n\
                - sources: [{model: one, layer_range: [0, 1]}]\n\
                - sources: [{model: two, layer_range: [0, 1]}]\n";
    let plan = plan_made(vec![("one", one), ("two", two)], text);
    assert!(plan.warnings.iter().any(|w| w.message.contains("have no output head")));
    let merged = merge::open(plan);
    assert_eq!(merged.tensors.read_name("lm_head.weight").unwrap().to_f32().unwrap()[0], 2.0);
    assert_eq!(merged.config.bool("tie_word_embeddings"), Some(false));
}

#[test]
fn a_stage_is_rounded_to_its_type_as_if_it_had_been_written() {
    let third = made("third", false, DType::F32, |_, _| 1.0 / 3.0);
    let text = "name: half\nmerge_method: passthrough\nmodels: [{model: third}]\nout_dtype: float16\n\
                ---\nmerge_method: passthrough\nmodels: [{model: half}]\ndtype: float32\n";
    let merged = merge::open(plan_made(vec![("third", third)], text));
    let value = merged.tensors.read_name("model.norm.weight").unwrap().to_f32().unwrap()[0];
    assert_eq!(value, half::f16::from_f32(1.0 / 3.0).to_f32());
}

#[test]
fn without_dtype_the_shared_type_is_kept_and_mixed_types_become_float32() {
    let f16 = made("f16", false, DType::F16, |_, _| 1.0);
    let bf16 = made("bf16", false, DType::BF16, |_, _| 3.0);
    let members = vec![("f16", f16), ("bf16", bf16)];
    let both =
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: f16}, {model: bf16}]";
    let merged = merge::open(plan_made(members.clone(), both));
    let norm = merged.tensors.read_name("model.norm.weight").unwrap();
    assert_eq!((norm.dtype, norm.to_f32().unwrap()[0]), (DType::F32, 2.0));
    let one = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: bf16}]";
    let merged = merge::open(plan_made(members, one));
    assert_eq!(merged.tensors.read_name("model.norm.weight").unwrap().dtype, DType::BF16);
}

#[test]
fn the_peak_counts_stages_that_are_held_together() {
    let member = || made("m", false, DType::F32, |_, _| 1.0);
    let stage = |name: &str| {
        format!(
            "name: {name}\nmerge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: m}}]\n---\n"
        )
    };
    let text = format!(
        "{}{}merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: x}}, {{model: y}}]\n",
        stage("x"),
        stage("y")
    );
    let plan = plan_made(vec![("m", member())], &text);
    // The largest tensors are 6 x 4 floats: two stages' values and the result.
    assert_eq!(plan.peak_tensor_bytes(), 3 * 6 * 4 * 4);
}
