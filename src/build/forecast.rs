//! What a build would make and need, computed without reading a weight.

use super::options::BuildOptions;
use super::prepare::stem;
use super::source::Source;
use crate::base::dtype::DType;
use crate::base::error::Result;
use crate::base::progress::Silent;
use crate::base::size;
use crate::formats::checkpoint::Checkpoint;
use crate::formats::gguf::{GgufModel, Metadata};
use crate::formats::source::{TensorData, TensorInfo, TensorSource, TensorTable};
use crate::kernels::Precision;
use crate::measure::imatrix;
use crate::model::arch::{Description, HyperParams, Key};
use crate::model::forward;
use crate::model::tokenizer::Tokenizer;
use crate::quantize::{self, Ftype, PlanOptions, QuantPlan};
use crate::report;
use serde::Serialize;
use std::sync::Arc;

/// What a build would make and need.
#[derive(Clone, Debug, Serialize)]
pub struct Forecast {
    /// The model's name, as files have it.
    pub name: String,
    /// The stages of the flow, in order.
    pub stages: Vec<&'static str>,
    pub parameters: u64,
    /// Layers of the model.
    pub layers: usize,
    /// The importance matrix.
    pub imatrix: ForecastFile,
    /// The quantized files, one for each type.
    pub files: Vec<ForecastFile>,
    /// What is written only on request: the unquantized GGUF file, the merged stack.
    pub on_request: Vec<ForecastFile>,
    /// Tokens of calibration text that the forward pass would take, in whole chunks.
    pub calibration_tokens: usize,
    /// Bytes held at the most, by stage; memory maps of files are not counted.
    pub memory: Vec<StageMemory>,
    pub peak_memory: u64,
    /// Bytes that the files of a build take together, without those on request.
    pub disk: u64,
    /// Whether sizes lack the tokenizer, which was not at hand.
    pub without_tokenizer: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct ForecastFile {
    pub name: String,
    /// The type's name; none of the importance matrix and the stack.
    pub ftype: Option<String>,
    pub bits_per_weight: Option<f64>,
    pub bytes: u64,
    /// The command that writes this file, where a build without options does not.
    pub command: Option<&'static str>,
    /// Problems that are known already: types that fall back, for example.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct StageMemory {
    pub stage: &'static str,
    pub bytes: u64,
}

/// Bytes of English and code that a token stands for, roughly, where there is no tokenizer to ask.
const BYTES_PER_TOKEN: usize = 3;

/// The stages that a build of `source` goes through.
fn stages(source: &Source) -> Vec<&'static str> {
    let all = ["merge", "convert", "imatrix", "quantize"];
    let done = match source {
        Source::Recipe { .. } => 0,
        Source::Folder(_) => 1,
        Source::Gguf { .. } => 2,
    };
    all[done..].to_vec()
}

impl Forecast {
    /// Stages, sizes and needs as text, without a newline at the end.
    pub fn render(&self) -> String {
        let files = std::iter::once(&self.imatrix).chain(&self.files).chain(&self.on_request);
        let rows = files.map(|file| {
            let mut notes: Vec<String> = file.warnings.clone();
            notes.extend(file.command.map(|command| format!("on request: {command}")));
            vec![
                file.name.clone(),
                file.bits_per_weight.map_or(String::new(), |bits| format!("{bits:.2}")),
                size::display(file.bytes),
                notes.join("; "),
            ]
        });
        let mut text = format!(
            "{}: {} layers, {} parameters\nstages: {}\n\n{}\n\n",
            self.name,
            self.layers,
            size::count(self.parameters),
            self.stages.join(" -> "),
            report::table(&["output", ">bits per weight", ">size", ""], rows)
        );
        if self.without_tokenizer {
            text.push_str("sizes are without the tokenizer, which is not at hand\n");
        }
        let memory = |m: &StageMemory| format!("{} {}", m.stage, size::display(m.bytes));
        let memory: Vec<String> = self.memory.iter().map(memory).collect();
        let (peak, disk) = (size::display(self.peak_memory), size::display(self.disk));
        text += &format!(
            "peak memory {peak} ({}), disk {disk} for a build; {} tokens of calibration text",
            memory.join(", "),
            self.calibration_tokens
        );
        text
    }
}

/// Looks ahead at a build of `source`. Where the tokenizer's files are not at hand, as in a plan
/// without members, sizes are given without them.
pub fn forecast(source: &Source, options: &BuildOptions) -> Result<Forecast> {
    let (model, without_tokenizer) =
        match (source.to_gguf(&options.convert, &Silent), source.checkpoint()) {
            (Ok(model), _) => (model, false),
            (Err(_), Some(checkpoint)) if checkpoint.side_files.is_empty() => {
                (shapes_as_gguf(checkpoint)?, true)
            }
            (Err(e), _) => return Err(e),
        };
    let table = model.tensors.table();
    let parameters = table.infos().iter().map(|t| t.elements() as u64).sum();
    let hyper = HyperParams::from_gguf(&model)?;
    let tokens = calibration_tokens(&model, options)?;
    let name = stem(source, &model, options);
    let imatrix = plain_file(format!("{name}-imatrix.gguf"), imatrix_bytes(&model), None);
    let quantized = |&ftype: &Ftype| quantized_file(&name, &model, ftype, &options.plan);
    let files = options.types.iter().map(quantized).collect::<Result<Vec<_>>>()?;
    let in_flight = match source {
        Source::Recipe { plan, .. } => plan.peak_tensor_bytes(),
        Source::Folder(_) | Source::Gguf { .. } => 0,
    };
    let memory = vec![
        StageMemory {
            stage: "imatrix",
            bytes: forward::memory_estimate(
                &hyper,
                table,
                Precision::fastest(),
                (tokens, options.ctx),
                in_flight,
                options.forward_memory,
            ),
        },
        StageMemory { stage: "quantize", bytes: quantize_memory(table) + in_flight },
    ];
    Ok(Forecast {
        stages: stages(source),
        parameters,
        layers: hyper.n_layer,
        disk: files.iter().chain([&imatrix]).map(|f| f.bytes).sum(),
        on_request: files_on_request(source, &model, options)?,
        imatrix,
        name,
        files,
        calibration_tokens: tokens,
        peak_memory: memory.iter().map(|m| m.bytes).max().unwrap_or(0),
        memory,
        without_tokenizer,
    })
}

fn quantized_file(
    name: &str,
    model: &GgufModel,
    ftype: Ftype,
    options: &PlanOptions,
) -> Result<ForecastFile> {
    let plan = QuantPlan::expecting_imatrix(model, ftype, options)?;
    Ok(ForecastFile {
        name: format!("{name}-{ftype}.gguf"),
        ftype: Some(ftype.to_string()),
        bits_per_weight: Some(plan.bits_per_weight()),
        bytes: plan.file_bytes()?,
        command: None,
        warnings: plan.warnings,
    })
}

/// The merged stack and the unquantized GGUF file.
fn files_on_request(
    source: &Source,
    model: &GgufModel,
    options: &BuildOptions,
) -> Result<Vec<ForecastFile>> {
    let (name, mut files) = (source.name(), Vec::new());
    if source.checkpoint().is_some() && !options.types.contains(&Ftype::F16) {
        let plain = quantized_file(&name, model, Ftype::F16, &options.plan)?;
        files.push(ForecastFile { command: Some("convert --type f16"), ..plain });
    }
    if let Source::Recipe { plan, .. } = source {
        let command = Some("build --keep-stack, or merge");
        files.push(plain_file(format!("{name}-stack/"), plan.bytes(), command));
    }
    Ok(files)
}

fn plain_file(name: String, bytes: u64, command: Option<&'static str>) -> ForecastFile {
    let (ftype, bits_per_weight) = (None, None);
    ForecastFile { name, ftype, bits_per_weight, bytes, command, warnings: Vec::new() }
}

/// About the size of the importance matrix: a sum of squares for each column of the layers' matrices, a
/// count for each matrix, and some 200 bytes to name them in the header.
fn imatrix_bytes(model: &GgufModel) -> u64 {
    let infos = model.tensors.table().infos().iter();
    let matrices = infos.filter(|t| t.name.starts_with("blk.") && t.shape.len() >= 2);
    let stacked = |t: &TensorInfo| t.shape[..t.shape.len() - 2].iter().product::<usize>() as u64;
    matrices.map(|t| 4 * stacked(t) * (t.row_len() as u64 + 1) + 200).sum()
}

/// The most that quantizing holds: tensors in flight, and one that is being computed, with its input.
fn quantize_memory(table: &TensorTable) -> u64 {
    let bytes = || table.infos().iter().filter_map(|t| t.bytes()).map(|bytes| bytes as u64);
    bytes().sum::<u64>().min(quantize::AHEAD_BYTES) + 2 * bytes().max().unwrap_or(0)
}

fn calibration_tokens(model: &GgufModel, options: &BuildOptions) -> Result<usize> {
    let texts = &options.calibration.texts;
    let tokens = match Tokenizer::from_metadata(model.origin(), &model.metadata) {
        Ok(tokenizer) => imatrix::tokenize(&tokenizer, texts, false)?.0.len(),
        Err(_) => texts.iter().map(String::len).sum::<usize>() / BYTES_PER_TOKEN,
    };
    let chunks = (tokens / options.ctx).min(options.chunks.unwrap_or(usize::MAX));
    Ok(chunks * options.ctx)
}

/// Names, shapes and hyperparameters of `checkpoint` in GGUF terms, without tokenizer or weights.
fn shapes_as_gguf(checkpoint: &Checkpoint) -> Result<GgufModel> {
    let config = &checkpoint.config;
    let Description { arch, hyper, .. } = Description::of(config, checkpoint.tensors.table())?;
    let source = checkpoint.tensors.table().infos().iter();
    let renamed = source.filter_map(|info| {
        let (decl, layer) = arch.match_hf(&info.name)?;
        let dtype = if info.shape.len() > 1 { DType::F16 } else { DType::F32 };
        // The experts of a layer are one tensor.
        if decl.expert_in(&info.name).is_some_and(|expert| expert > 0) {
            return None;
        }
        Some(TensorInfo::new(decl.gguf_name(layer.unwrap_or(0)), decl.gguf_shape(&hyper), dtype))
    });
    let table = TensorTable::new(config.origin(), renamed.collect())?;
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", arch.gguf_name);
    arch.keys.iter().for_each(|key| key.write(arch, &hyper, &mut metadata));
    // Where there is no tokenizer, nothing else tells.
    Key::Vocabulary.write(arch, &hyper, &mut metadata);
    Key::HeadLength.write(arch, &hyper, &mut metadata);
    let tensors = Shapes { origin: config.origin().to_string(), table, of: checkpoint.clone() };
    Ok(GgufModel { metadata, tensors: Arc::new(tensors), warnings: Vec::new() })
}

/// Shapes of tensors whose weights are never read.
struct Shapes {
    origin: String,
    table: TensorTable,
    of: Checkpoint,
}

impl TensorSource for Shapes {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn table(&self) -> &TensorTable {
        &self.table
    }

    fn read(&self, index: usize) -> Result<TensorData<'_>> {
        // Only a plan uses this source; the checkpoint itself tells why it cannot be read.
        self.of.tensors.read_name(&self.table.infos()[index].name)
    }
}
