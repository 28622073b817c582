//! Types of tensors that conversion casts or leaves out, and buffers at any level of names.

use crate::support::folders::assert_equal;
use crate::support::program::{Place, copy_member};
use aqueduct::formats::checkpoint::Checkpoint;
use aqueduct::formats::gguf;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Tensors of a file by name: type, shape and bytes.
pub(crate) type Stored = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Reads `file`, lets `edit` change its tensors, and writes it again.
pub(crate) fn edit_weights(file: &Path, edit: impl FnOnce(&mut Stored)) {
    let bytes = fs::read(file).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = read.iter().map(|(name, view)| {
        (name.to_string(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    });
    let mut tensors: Stored = tensors.collect();
    edit(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Values of an F16 or F32 tensor.
fn values(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let own = match dtype {
        Dtype::F32 => aqueduct::base::dtype::DType::F32,
        Dtype::BF16 => aqueduct::base::dtype::DType::BF16,
        _ => aqueduct::base::dtype::DType::F16,
    };
    let mut out = vec![0.0; bytes.len() / own.block_bytes()];
    aqueduct::quants::decode(own, bytes, &mut out).unwrap();
    out
}

#[test]
fn f64_is_cast_as_llama_cpp_casts_it() {
    let place = Place::new();
    copy_member(&place, "clerk", "plain");
    copy_member(&place, "clerk", "wide");
    let widened = ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight"];
    edit_weights(&place.path("wide/model.safetensors"), |tensors| {
        for name in widened {
            let (dtype, _, bytes) = tensors.get_mut(name).unwrap();
            // A little more than the value: lost when it is rounded to F32.
            let wide = values(*dtype, bytes).into_iter().map(|v| f64::from(v) * (1.0 + 1e-12));
            *bytes = wide.flat_map(f64::to_le_bytes).collect();
            *dtype = Dtype::F64;
        }
    });
    place.ok("convert plain -o plain.gguf --type f32 --name m");
    place.ok("convert wide -o wide.gguf --type f32 --name m");
    let gguf = |name: &str| gguf::open(place.path(name)).unwrap().tensors;
    assert_equal(gguf("plain.gguf").as_ref(), gguf("wide.gguf").as_ref());
    let recipe = |model: &str| {
        let text =
            format!("merge_method: passthrough\nmodels: [{{model: {model}}}]\ndtype: float32\n");
        fs::write(place.path("recipe.yml"), text).unwrap();
    };
    recipe("./plain");
    place.ok("merge recipe.yml -o plain-merged");
    recipe("./wide");
    place.ok("merge recipe.yml -o wide-merged");
    let folder = |name: &str| Checkpoint::open(place.path(name)).unwrap().tensors;
    assert_equal(folder("plain-merged").as_ref(), folder("wide-merged").as_ref());
}

#[test]
fn buffers_are_left_out_whatever_their_type_and_level() {
    let place = Place::new();
    copy_member(&place, "clerk", "plain");
    copy_member(&place, "clerk", "more");
    edit_weights(&place.path("more/model.safetensors"), |tensors| {
        let mut add = |name: &str, dtype, bytes: usize| {
            let size = match dtype {
                Dtype::BOOL | Dtype::U8 => 1,
                Dtype::F32 => 4,
                _ => 8,
            };
            tensors.insert(name.to_string(), (dtype, vec![bytes / size], vec![0; bytes]));
        };
        add("model.rotary_emb.inv_freq", Dtype::F32, 16);
        add("rotary_emb.inv_freq", Dtype::F64, 16);
        add("model.layers.0.self_attn.rotary_emb.inv_freq", Dtype::F32, 16);
        add("model.layers.0.self_attn.rotary_emb.cos_cached", Dtype::F32, 16);
        add("model.rotary_emb.sin_cached", Dtype::F32, 16);
        add("model.layers.0.attention.masked_bias", Dtype::F32, 4);
        add("model.layers.0.attention.bias", Dtype::BOOL, 4);
        add("model.embeddings.position_ids", Dtype::I64, 16);
        add("model.position_ids", Dtype::I64, 16);
    });
    place.ok("convert plain -o plain.gguf --name m");
    let ran = place.ok("convert more -o more.gguf --name m");
    assert!(!ran.stderr.contains("warning"), "{}", ran.stderr);
    assert!(place.read("plain.gguf") == place.read("more.gguf"));
    let text = "merge_method: passthrough\nmodels: [{model: ./more}]\n";
    fs::write(place.path("recipe.yml"), text).unwrap();
    let ran = place.ok("merge recipe.yml -o merged");
    assert!(!ran.stderr.contains("does not know"), "{}", ran.stderr);
}
