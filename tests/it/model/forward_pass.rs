//! The forward pass against a naive one in f64, and what it refuses.

use aqueduct::base::dtype::DType;
use aqueduct::base::error::Result;
use aqueduct::base::progress::Silent;
use aqueduct::formats::gguf::{GgufModel, Metadata};
use aqueduct::formats::source::{MemorySource, TensorData, TensorInfo, TensorTable};
use aqueduct::kernels::Precision;
use aqueduct::measure::imatrix;
use aqueduct::model::arch::HyperParams;
use aqueduct::model::forward::{self, Activations, Logits, Observer};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sizes of a small model: grouped-query attention, a width that is no multiple of a panel, heads of
/// which only a part turns.
const VOCAB: usize = 50;
const EMBD: usize = 36;
const FF: usize = 70;
const HEADS: usize = 6;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 10;
const ROPE_DIMS: usize = 8;
const LAYERS: usize = 2;
const EPS: f64 = 1e-5;
const THETA: f64 = 500.0;

#[derive(Clone, Copy, Default)]
struct Variant {
    tied: bool,
    biases: bool,
    rope_factors: bool,
    linear_scaling: Option<f32>,
}

/// Tensors by name, outermost dimension first, in f32.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn random(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn tensors(variant: Variant) -> Tensors {
    let mut seed = 42;
    let mut all = Tensors::new();
    let mut add = |name: String, shape: &[usize], scale: f32, offset: f32| {
        let n = shape.iter().product();
        let values = (0..n).map(|_| offset + scale * random(&mut seed)).collect();
        all.insert(name, (shape.to_vec(), values));
    };
    let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    add("token_embd.weight".into(), &[VOCAB, EMBD], 1.0, 0.0);
    add("output_norm.weight".into(), &[EMBD], 0.3, 1.0);
    if !variant.tied {
        add("output.weight".into(), &[VOCAB, EMBD], 0.5, 0.0);
    }
    if variant.rope_factors {
        add("rope_freqs.weight".into(), &[ROPE_DIMS / 2], 1.0, 2.0);
    }
    for layer in 0..LAYERS {
        for (part, shape) in [
            ("attn_q", [q, EMBD]),
            ("attn_k", [kv, EMBD]),
            ("attn_v", [kv, EMBD]),
            ("attn_output", [EMBD, q]),
            ("ffn_gate", [FF, EMBD]),
            ("ffn_up", [FF, EMBD]),
            ("ffn_down", [EMBD, FF]),
        ] {
            add(format!("blk.{layer}.{part}.weight"), &shape, 0.4, 0.0);
            if variant.biases {
                add(format!("blk.{layer}.{part}.bias"), &shape[..1], 0.3, 0.0);
            }
        }
        for part in ["attn_norm", "ffn_norm"] {
            add(format!("blk.{layer}.{part}.weight"), &[EMBD], 0.3, 1.0);
        }
    }
    all
}

fn model_of(tensors: &Tensors, variant: Variant) -> GgufModel {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "llama");
    for (key, value) in [
        ("block_count", LAYERS),
        ("context_length", 64),
        ("embedding_length", EMBD),
        ("feed_forward_length", FF),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS),
        ("attention.key_length", HEAD_DIM),
        ("attention.value_length", HEAD_DIM),
        ("rope.dimension_count", ROPE_DIMS),
        ("vocab_size", VOCAB),
    ] {
        metadata.set(format!("llama.{key}"), value as u32);
    }
    metadata.set("llama.rope.freq_base", THETA as f32);
    metadata.set("llama.attention.layer_norm_rms_epsilon", EPS as f32);
    if let Some(factor) = variant.linear_scaling {
        metadata.set("llama.rope.scaling.type", "linear");
        metadata.set("llama.rope.scaling.factor", factor);
    }
    let list = tensors.iter().map(|(name, (shape, values))| {
        let data = TensorData::from_f32(shape.clone(), values);
        (TensorInfo::new(name, shape.clone(), data.dtype), data.bytes.into_owned())
    });
    let source = MemorySource::new("tiny", list.collect()).unwrap();
    GgufModel { metadata, tensors: Arc::new(source), warnings: Vec::new() }
}

fn chunks() -> Vec<Vec<u32>> {
    let chunk = |n: u32, step: u32| (0..n).map(|i| (i * step + 3) % VOCAB as u32).collect();
    vec![chunk(40, 7), chunk(17, 11), chunk(40, 13)]
}

/// The forward pass of one chunk, the plainest way.
struct Reference<'a> {
    tensors: &'a Tensors,
    variant: Variant,
    /// Input rows of each product, by tensor name.
    inputs: BTreeMap<String, Vec<Vec<f64>>>,
}

impl Reference<'_> {
    fn get(&self, name: &str) -> Vec<f64> {
        self.tensors[name].1.iter().map(|&v| v as f64).collect()
    }

    fn product(&mut self, name: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        self.inputs.insert(format!("{name}.weight"), x.to_vec());
        let weight = self.get(&format!("{name}.weight"));
        let width = x[0].len();
        let mut bias = vec![0.0; weight.len() / width];
        if self.tensors.contains_key(&format!("{name}.bias")) {
            bias = self.get(&format!("{name}.bias"));
        }
        let dot = |row: &[f64], x: &[f64]| row.iter().zip(x).map(|(a, b)| a * b).sum::<f64>();
        let rows = |x: &Vec<f64>| {
            weight.chunks(width).zip(&bias).map(|(row, b)| dot(row, x) + b).collect()
        };
        x.iter().map(rows).collect()
    }

    fn norm(&self, name: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let weight = self.get(name);
        let one = |x: &Vec<f64>| {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
            x.iter().zip(&weight).map(|(v, w)| v / (mean + EPS).sqrt() * w).collect()
        };
        x.iter().map(one).collect()
    }

    fn rotate(&self, x: &mut [Vec<f64>]) {
        let factors = match self.variant.rope_factors {
            true => self.get("rope_freqs.weight"),
            false => vec![1.0; ROPE_DIMS / 2],
        };
        let scale = f64::from(self.variant.linear_scaling.unwrap_or(1.0));
        for (position, row) in x.iter_mut().enumerate() {
            for head in row.chunks_mut(HEAD_DIM) {
                for i in 0..ROPE_DIMS / 2 {
                    let frequency = THETA.powf(-2.0 * i as f64 / ROPE_DIMS as f64) / factors[i];
                    let (sin, cos) = (position as f64 / scale * frequency).sin_cos();
                    let (a, b) = (head[2 * i], head[2 * i + 1]);
                    (head[2 * i], head[2 * i + 1]) = (a * cos - b * sin, a * sin + b * cos);
                }
            }
        }
    }

    fn attention(q: &[Vec<f64>], k: &[Vec<f64>], v: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let mut out = vec![vec![0.0; HEADS * HEAD_DIM]; q.len()];
        for head in 0..HEADS {
            let kv = head / (HEADS / KV_HEADS) * HEAD_DIM;
            for (i, row) in out.iter_mut().enumerate() {
                let score = |j: usize| {
                    let pairs = (0..HEAD_DIM).map(|d| q[i][head * HEAD_DIM + d] * k[j][kv + d]);
                    (pairs.sum::<f64>() / (HEAD_DIM as f64).sqrt()).exp()
                };
                let scores: Vec<f64> = (0..=i).map(score).collect();
                let total: f64 = scores.iter().sum();
                for d in 0..HEAD_DIM {
                    let sum: f64 = scores.iter().zip(v).map(|(s, v)| s * v[kv + d]).sum();
                    row[head * HEAD_DIM + d] = sum / total;
                }
            }
        }
        out
    }

    /// Logits of every position.
    fn run(&mut self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let embedding = self.get("token_embd.weight");
        let row = |&t: &u32| embedding[t as usize * EMBD..][..EMBD].to_vec();
        let mut hidden: Vec<Vec<f64>> = tokens.iter().map(row).collect();
        let add = |hidden: &mut [Vec<f64>], x: Vec<Vec<f64>>| {
            hidden.iter_mut().flatten().zip(x.iter().flatten()).for_each(|(h, x)| *h += x);
        };
        for layer in 0..LAYERS {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let x = self.norm(&name("attn_norm.weight"), &hidden);
            let mut q = self.product(&name("attn_q"), &x);
            let mut k = self.product(&name("attn_k"), &x);
            let v = self.product(&name("attn_v"), &x);
            self.rotate(&mut q);
            self.rotate(&mut k);
            let attended = Reference::attention(&q, &k, &v);
            add(&mut hidden, self.product(&name("attn_output"), &attended));
            let x = self.norm(&name("ffn_norm.weight"), &hidden);
            let mut gate = self.product(&name("ffn_gate"), &x);
            let up = self.product(&name("ffn_up"), &x);
            for (g, u) in gate.iter_mut().flatten().zip(up.iter().flatten()) {
                *g = *g / (1.0 + (-*g).exp()) * u;
            }
            add(&mut hidden, self.product(&name("ffn_down"), &gate));
        }
        let x = self.norm("output_norm.weight", &hidden);
        self.product(if self.variant.tied { "token_embd" } else { "output" }, &x)
    }
}

/// Keeps all that it is shown.
#[derive(Default)]
struct Record {
    /// By tensor and chunk.
    inputs: BTreeMap<(String, usize), Vec<f32>>,
    /// By chunk and position.
    logits: BTreeMap<(usize, usize), Vec<f32>>,
}

impl Observer for Record {
    fn activations(&mut self, input: &Activations<'_>) -> Result<()> {
        assert_eq!(input.values.len() % input.row_len, 0);
        for tensor in input.tensors {
            let key = (tensor.to_string(), input.chunk);
            assert!(self.inputs.insert(key, input.values.to_vec()).is_none(), "shown twice");
        }
        Ok(())
    }

    fn logits(&mut self, logits: &Logits<'_>) -> Result<()> {
        for (offset, row) in logits.values.chunks(logits.n_vocab).enumerate() {
            self.logits.insert((logits.chunk, logits.position + offset), row.to_vec());
        }
        Ok(())
    }
}

fn record(model: &GgufModel) -> Record {
    record_within(model, forward::default_memory()).unwrap()
}

fn record_within(model: &GgufModel, memory: u64) -> Result<Record> {
    let mut record = Record::default();
    let options =
        forward::Options { logits: 3..1000, precision: Precision::F32, memory, first_chunk: 0 };
    forward::run(model, &chunks(), &mut record, &options, &Silent)?;
    Ok(record)
}

#[test]
fn the_bound_on_memory_changes_no_bit() {
    let model = model_of(&tensors(Variant::default()), Variant::default());
    let hyper = HyperParams::from_metadata("test", &model.metadata, false).unwrap();
    let lengths: Vec<usize> = chunks().iter().map(Vec::len).collect();
    let text = (lengths.iter().sum(), lengths.iter().copied().max().unwrap());
    // One chunk at a time, states in a temporary file, no layer ahead.
    let table = model.tensors.table();
    let least = forward::memory_estimate(&hyper, table, Precision::F32, text, 0, 1);
    let most = forward::memory_estimate(&hyper, table, Precision::F32, text, 0, u64::MAX);
    assert!(least < most);
    let (small, large) = (record_within(&model, least).unwrap(), record(&model));
    assert_eq!(small.inputs, large.inputs);
    assert_eq!(small.logits, large.logits);
    let error = record_within(&model, least - 1).err().expect("too little").to_string();
    assert!(error.contains("give more (--memory)"), "{error}");
}

fn assert_close(what: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let norm = |v: f64| v * v;
    let distance: f64 = got.iter().zip(want).map(|(&g, w)| norm(g as f64 - w)).sum();
    let size: f64 = want.iter().map(|&w| norm(w)).sum();
    assert!((distance / size).sqrt() < 2e-5, "{what}: off by {}", (distance / size).sqrt());
}

fn agrees_with_the_reference(variant: Variant) {
    let tensors = tensors(variant);
    let record = record(&model_of(&tensors, variant));
    let products = 7 * LAYERS + 1;
    assert_eq!(record.inputs.len(), products * chunks().len());
    for (chunk, tokens) in chunks().iter().enumerate() {
        let mut reference = Reference { tensors: &tensors, variant, inputs: BTreeMap::new() };
        let logits = reference.run(tokens);
        assert_eq!(reference.inputs.len(), products);
        for (name, rows) in &reference.inputs {
            let want: Vec<f64> = rows.iter().flatten().copied().collect();
            let got = &record.inputs[&(name.clone(), chunk)];
            assert_close(&format!("{name}, chunk {chunk}"), got, &want);
        }
        for (position, want) in logits.iter().enumerate() {
            match record.logits.get(&(chunk, position)) {
                Some(got) => assert_close(&format!("logits {chunk} {position}"), got, want),
                None => assert!(position < 3),
            }
        }
    }
}

#[test]
fn agrees_with_a_naive_pass() {
    agrees_with_the_reference(Variant::default());
}

#[test]
fn agrees_with_a_naive_pass_when_tied() {
    agrees_with_the_reference(Variant { tied: true, ..Variant::default() });
}

#[test]
fn agrees_with_a_naive_pass_with_biases() {
    agrees_with_the_reference(Variant { biases: true, ..Variant::default() });
}

#[test]
fn agrees_with_a_naive_pass_with_rope_factors_and_scaling() {
    agrees_with_the_reference(Variant { rope_factors: true, ..Variant::default() });
    agrees_with_the_reference(Variant { linear_scaling: Some(4.0), ..Variant::default() });
}

/// Runs `f` on `n` threads.
fn on_threads<T: Send>(n: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(f)
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let variant = Variant { biases: true, ..Variant::default() };
    let model = model_of(&tensors(variant), variant);
    let one = on_threads(1, || record(&model));
    for n in [2, 5] {
        let more = on_threads(n, || record(&model));
        assert!(one.inputs == more.inputs && one.logits == more.logits, "{n} threads");
    }
    // Enough rows for several tasks.
    let tokens: Vec<u32> = chunks().concat().repeat(8);
    for precision in [Precision::F32, Precision::Bf16] {
        let options = imatrix::Options { ctx: 16, precision, ..imatrix::Options::default() };
        let compute = || imatrix::compute(&model, &tokens, &options, None, &Silent).unwrap();
        let (one, two) = (on_threads(1, compute), on_threads(2, compute));
        assert_eq!(one.imatrix, two.imatrix);
        assert_eq!(one.perplexity, two.perplexity);
    }
}

#[test]
fn bf16_stays_near_f32() {
    let model = model_of(&tensors(Variant::default()), Variant::default());
    let tokens: Vec<u32> = chunks().concat().repeat(8);
    let compute = |precision| {
        let options = imatrix::Options { ctx: 32, precision, ..imatrix::Options::default() };
        imatrix::compute(&model, &tokens, &options, None, &Silent).unwrap()
    };
    let (exact, rounded) = (compute(Precision::F32), compute(Precision::Bf16));
    let mut apart = Vec::new();
    for (name, entry) in &exact.imatrix.entries {
        let near = &rounded.imatrix.entries[name];
        assert_eq!(near.counts, entry.counts);
        let square = |v: f64| v * v;
        let pairs = near.sums.iter().zip(&entry.sums);
        let distance: f64 = pairs.map(|(&a, &b)| square(a as f64 - b as f64)).sum();
        let size: f64 = entry.sums.iter().map(|&v| square(v as f64)).sum();
        apart.push((distance / size).sqrt());
        assert!(apart[apart.len() - 1] < 0.01, "{name}: {apart:?}");
    }
    // Rounding shows, but not before the first product.
    assert!(apart.iter().any(|d| *d > 1e-6), "{apart:?}");
    let first = "blk.0.attn_q.weight";
    assert_eq!(exact.imatrix.entries[first], rounded.imatrix.entries[first]);
    assert!((rounded.perplexity.estimate / exact.perplexity.estimate - 1.0).abs() < 0.01);
}

#[test]
fn a_matrix_holds_the_sums_of_squares_of_what_the_model_multiplies() {
    let tensors = tensors(Variant::default());
    let model = model_of(&tensors, Variant::default());
    let tokens: Vec<u32> = chunks().concat();
    let precision = Precision::F32;
    let mut options = imatrix::Options { ctx: 20, bos: Some(1), precision, ..Default::default() };
    let computed = imatrix::compute(&model, &tokens, &options, None, &Silent).unwrap();
    assert_eq!((computed.imatrix.chunk_count, computed.imatrix.chunk_size), (4, 20));
    let names: Vec<&str> = computed.imatrix.entries.keys().map(String::as_str).collect();
    assert_eq!(names.len(), 7 * LAYERS, "{names:?}");

    let (mut sums, mut nll, mut counted) = (BTreeMap::<String, Vec<f64>>::new(), 0.0, 0);
    for chunk in imatrix::chunk_tokens(&tokens, &options).unwrap() {
        let variant = Variant::default();
        let mut reference = Reference { tensors: &tensors, variant, inputs: BTreeMap::new() };
        let logits = reference.run(&chunk);
        for (name, rows) in reference.inputs {
            let sums = sums.entry(name).or_insert_with(|| vec![0.0; rows[0].len()]);
            rows.iter().for_each(|row| sums.iter_mut().zip(row).for_each(|(s, x)| *s += x * x));
        }
        for position in 10..19 {
            let row = &logits[position];
            let total: f64 = row.iter().map(|v| v.exp()).sum();
            nll -= row[chunk[position + 1] as usize] - total.ln();
            counted += 1;
        }
    }
    for (name, entry) in &computed.imatrix.entries {
        assert_eq!(entry.counts, [80], "{name}");
        assert_close(name, &entry.sums, &sums[name]);
    }
    assert_eq!(computed.perplexity.tokens, counted);
    let want = (nll / counted as f64).exp();
    assert!((computed.perplexity.estimate / want - 1.0).abs() < 1e-5);
    assert_eq!(computed.perplexity.running.len(), 4);

    options.process_output = true;
    let with_output = imatrix::compute(&model, &tokens, &options, None, &Silent).unwrap().imatrix;
    assert_close("output", &with_output.entries["output.weight"].sums, &sums["output.weight"]);
    assert_eq!(with_output.entries.len(), 7 * LAYERS + 1);
}

#[test]
fn a_tied_head_has_an_entry_on_request_by_the_embeddings_name() {
    let variant = Variant { tied: true, ..Variant::default() };
    let tensors = tensors(variant);
    let model = model_of(&tensors, variant);
    let tokens: Vec<u32> = chunks().concat();
    let mut options = imatrix::Options { ctx: 20, precision: Precision::F32, ..Default::default() };
    let without = imatrix::compute(&model, &tokens, &options, None, &Silent).unwrap().imatrix;
    assert_eq!(without.entries.len(), 7 * LAYERS, "as llama-imatrix");
    options.process_output = true;
    let with = imatrix::compute(&model, &tokens, &options, None, &Silent).unwrap().imatrix;
    assert_eq!(with.entries.len(), 7 * LAYERS + 1);
    let mut sums = vec![0.0; EMBD];
    for chunk in imatrix::chunk_tokens(&tokens, &options).unwrap() {
        let mut reference = Reference { tensors: &tensors, variant, inputs: BTreeMap::new() };
        reference.run(&chunk);
        let rows = &reference.inputs["token_embd.weight"];
        rows.iter().for_each(|row| sums.iter_mut().zip(row).for_each(|(s, x)| *s += x * x));
    }
    let entry = &with.entries["token_embd.weight"];
    assert_eq!(entry.counts, [80]);
    assert_close("token_embd", &entry.sums, &sums);
    // The quantizer takes it for the embedding, which is the head too.
    assert!(with.weights_for("token_embd.weight", EMBD).unwrap().is_ok());
}

#[test]
fn a_vocabulary_of_another_size_than_the_embedding_is_an_error() {
    let mut model = model_of(&tensors(Variant::default()), Variant::default());
    let tokens: Vec<u32> = chunks().concat();
    let options = imatrix::Options { ctx: 20, ..Default::default() };
    for (size, fits) in [(VOCAB, true), (VOCAB - 1, false), (VOCAB + 1, false)] {
        let names = (0..size).map(|token| token.to_string()).collect();
        let names =
            aqueduct::formats::gguf::Value::Array(aqueduct::formats::gguf::Array::String(names));
        model.metadata.set("tokenizer.ggml.tokens", names);
        let result = imatrix::compute(&model, &tokens, &options, None, &Silent);
        match fits {
            true => drop(result.unwrap()),
            false => {
                let error = result.unwrap_err().to_string();
                let said = format!("{VOCAB} rows for the {size} tokens of the vocabulary");
                assert!(error.contains("'token_embd.weight'") && error.contains(&said), "{error}");
            }
        }
    }
}

fn error_of(tensors: &Tensors, chunks: &[Vec<u32>]) -> String {
    let model = model_of(tensors, Variant::default());
    let options = forward::Options {
        logits: 0..100,
        precision: Precision::F32,
        first_chunk: 0,
        memory: forward::default_memory(),
    };
    let result = forward::run(&model, chunks, &mut Record::default(), &options, &Silent);
    result.unwrap_err().to_string()
}

#[test]
fn a_value_that_is_not_finite_names_tensor_layer_and_chunk() {
    let good = tensors(Variant::default());
    for (name, value, layer) in [
        ("blk.1.ffn_up.weight", f32::NAN, "layer 1, chunk 1, position 0"),
        ("blk.0.attn_k.weight", f32::INFINITY, "layer 0, chunk 1, position 0"),
        ("blk.1.attn_norm.weight", f32::NAN, "layer 1, chunk 1, position 0"),
        ("blk.0.ffn_down.weight", f32::NAN, "layer 0, chunk 1, position 0"),
        ("output.weight", f32::NAN, "at chunk 1, position 0"),
    ] {
        let mut bad = good.clone();
        bad.get_mut(name).unwrap().1[5] = value;
        let error = error_of(&bad, &chunks());
        let all = [&format!("'{name}'"), layer, "1 values of", "damaged"];
        assert!(all.iter().all(|part| error.contains(*part)), "{error}");
    }
    // A token's embedding: only the chunk that has the token is to blame.
    let mut bad = good.clone();
    bad.get_mut("token_embd.weight").unwrap().1[14 * EMBD] = f32::NAN;
    let chunks = [vec![1; 20], vec![2, 3, 14, 4]];
    let error = error_of(&bad, &chunks);
    assert!(
        error.contains("token_embd.weight") && error.contains("chunk 2, position 2"),
        "{error}"
    );
    // Finite weights whose product is not.
    let mut bad = good.clone();
    let values = &mut bad.get_mut("blk.1.ffn_gate.weight").unwrap().1;
    values.iter_mut().for_each(|v| *v = 3e38);
    let error = error_of(&bad, &[vec![1; 16]]);
    assert!(error.contains("layer 1, chunk 1") && error.contains("overflow"), "{error}");
}

#[test]
fn models_that_do_not_fit_are_refused_before_any_work() {
    let good = tensors(Variant::default());
    let one = [vec![1u32; 16]];
    let mut bad = good.clone();
    bad.remove("blk.1.ffn_up.weight");
    assert!(error_of(&bad, &one).contains("'blk.1.ffn_up.weight'"));
    let mut bad = good.clone();
    bad.insert("blk.0.attn_v.weight".into(), (vec![3, EMBD], vec![0.0; 3 * EMBD]));
    assert!(error_of(&bad, &one).contains("'blk.0.attn_v.weight'"));
    let mut bad = good.clone();
    bad.insert("blk.0.attn_q_norm.weight".into(), (vec![HEAD_DIM], vec![1.0; HEAD_DIM]));
    assert!(error_of(&bad, &one).contains("does not know"));
    let error = error_of(&good, &[vec![1, 2], vec![3, VOCAB as u32]]);
    assert!(error.contains("token 50 of chunk 2"), "{error}");
}

#[test]
fn the_memory_estimate_grows_with_the_model_and_the_text() {
    use aqueduct::formats::checkpoint::Config;
    let hyper = |n_embd: usize, n_ff: usize| {
        let config = format!(
            r#"{{"architectures": ["LlamaForCausalLM"], "hidden_size": {n_embd}, "intermediate_size": {n_ff},
            "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32,
            "vocab_size": 32000, "max_position_embeddings": 8192}}"#
        );
        HyperParams::from_config(&Config::parse("test", &config).unwrap()).unwrap()
    };
    let estimate = |(n_embd, n_ff): (usize, usize), chunks: usize, memory: u64| {
        let kv = n_embd / 4;
        let matrices =
            [("q", n_embd, n_embd), ("k", kv, n_embd), ("v", kv, n_embd), ("o", n_embd, n_embd)];
        let mlp = [("gate", n_ff, n_embd), ("up", n_ff, n_embd), ("down", n_embd, n_ff)];
        let layers = (0..32).flat_map(|layer| {
            let all = matrices.into_iter().chain(mlp);
            all.map(move |(name, rows, columns)| {
                TensorInfo::new(
                    format!("blk.{layer}.{name}.weight"),
                    vec![rows, columns],
                    DType::F16,
                )
            })
        });
        let table = TensorTable::new("test", layers.collect()).unwrap();
        let text = (chunks * 512, 512);
        forward::memory_estimate(&hyper(n_embd, n_ff), &table, Precision::F32, text, 0, memory)
    };
    let seven_b = estimate((4096, 14336), 100, u64::MAX);
    // Two layers of 218 M weights in f32 and 100 chunks of 8 MiB.
    assert!((2.6e9..3.4e9).contains(&(seven_b as f64)), "{seven_b}");
    assert!(estimate((4096, 14336), 200, u64::MAX) > seven_b);
    assert!(estimate((2048, 7168), 100, u64::MAX) < seven_b);
    // What the bound allows, or the least.
    assert!(estimate((4096, 14336), 100, 2_000_000_000) <= 2_000_000_000);
    assert!((1e9..1.4e9).contains(&(estimate((4096, 14336), 100, 1) as f64)));
}
