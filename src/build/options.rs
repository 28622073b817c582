//! What to build, and how.

use super::calibration::Calibration;
use crate::base::resume::DEFAULT_SAVE_EVERY;
use crate::model::convert::ConvertOptions;
use crate::model::forward;
use crate::model::tokenizer::Date;
use crate::quantize::{Ftype, PlanOptions, RunOptions, Sharding};
use std::path::PathBuf;
use std::time::Duration;

/// The largest file that the Hugging Face hub accepts, in bytes.
const LARGEST_FILE: u64 = 50_000_000_000;

/// What to build, and how.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The file types to write, one file for each.
    pub types: Vec<Ftype>,
    /// The name of the model and its files; by default made from the metadata and the source.
    pub name: Option<String>,
    /// The person or organization that makes the files, for their metadata.
    pub quantized_by: Option<String>,
    /// The licence of the result; by default the one that all members share.
    pub license: Option<String>,
    /// Names of the base models on the hub, in place of those that are found.
    pub base_models: Vec<String>,
    /// The date that chat templates see, for the prompt on the model card.
    pub date: Date,
    /// The text that the importance matrix is computed from.
    pub calibration: Calibration,
    /// Tokens in a chunk of calibration text.
    pub ctx: usize,
    /// The number of chunks to use at most; all if `None`.
    pub chunks: Option<usize>,
    /// Measures every file on this text, compared with the source.
    pub eval: Option<EvalText>,
    /// The files that the texts above were read from. No output may replace them.
    pub texts: Vec<PathBuf>,
    /// Splits files with more bytes of tensor data than this into shards.
    pub max_file_bytes: u64,
    /// Also writes the merged model, as a Hugging Face folder with shards of at most this many bytes.
    pub keep_stack: Option<u64>,
    /// Replaces existing files that no build has written, and outputs made from something else.
    pub force: bool,
    /// Ignores everything that an earlier build has left in the folder.
    pub restart: bool,
    /// The time between two saves of the progress.
    pub save_every: Duration,
    /// The bytes of computed tensors that quantizing may hold, see [`RunOptions::memory`].
    pub memory: u64,
    /// The bytes that the process may use while it computes the importance matrix.
    pub forward_memory: u64,
    /// How the source is converted to GGUF terms.
    pub convert: ConvertOptions,
    /// How the types of tensors are chosen.
    pub plan: PlanOptions,
}

impl Default for BuildOptions {
    /// No types yet, the built-in calibration text, and the default shares of the machine's memory.
    fn default() -> BuildOptions {
        BuildOptions {
            types: Vec::new(),
            name: None,
            quantized_by: None,
            license: None,
            base_models: Vec::new(),
            date: Date::default(),
            calibration: Calibration::built_in(),
            ctx: 512,
            chunks: None,
            eval: None,
            texts: Vec::new(),
            max_file_bytes: LARGEST_FILE,
            keep_stack: None,
            force: false,
            restart: false,
            save_every: DEFAULT_SAVE_EVERY,
            memory: RunOptions::default().memory,
            forward_memory: forward::default_memory(),
            convert: ConvertOptions::default(),
            plan: PlanOptions::default(),
        }
    }
}

impl BuildOptions {
    /// The options of each file's quantization plan, with files split as the build splits them.
    pub(super) fn plan_options(&self) -> PlanOptions {
        PlanOptions { sharding: Sharding::MaxBytes(self.max_file_bytes), ..self.plan.clone() }
    }
}

/// The text that files are measured on.
#[derive(Clone, Debug)]
pub struct EvalText {
    /// The name under which it is reported.
    pub name: String,
    /// The text.
    pub text: String,
    /// The number of chunks to use at most; all if `None`.
    pub chunks: Option<usize>,
}
