//! Collecting, reading and writing importance matrices.

use super::{Model, setters};
use crate::base::error::Result;
use crate::base::progress::Progress;
use crate::build::Calibration;
use crate::measure::imatrix::{self, Format, ImportanceMatrix};
use crate::model::forward;
use crate::model::tokenizer::Tokenizer;
use std::path::{Path, PathBuf};

/// An importance matrix: for each weight matrix, the mean squared activation of each input column over
/// a calibration text. [`quantize`](crate::quantize) weights its rounding errors by it.
#[derive(Clone, Debug)]
pub struct Imatrix {
    pub(super) matrix: ImportanceMatrix,
    /// A name for messages and metadata.
    pub(super) name: String,
    perplexity: Option<(f64, f64)>,
}

impl Imatrix {
    /// Reads a file of llama-imatrix or of this library, in GGUF or the older binary layout.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if the file is not a complete importance matrix.
    pub fn open(path: impl AsRef<Path>) -> Result<Imatrix> {
        let name = path.as_ref().display().to_string();
        Ok(Imatrix { matrix: ImportanceMatrix::read(path)?, name, perplexity: None })
    }

    /// Writes the matrix as GGUF, as llama-imatrix does. Replaces a file only with `force`.
    ///
    /// # Errors
    /// If the file exists or cannot be written.
    pub fn save(&self, path: impl AsRef<Path>, force: bool) -> Result<()> {
        self.matrix.write(path, Format::Gguf, force)
    }

    /// The number of weight matrices with an entry.
    pub fn entries(&self) -> usize {
        self.matrix.entries.len()
    }

    /// The perplexity of the calibration text and its standard error, if the matrix was collected by
    /// this process.
    pub fn perplexity(&self) -> Option<(f64, f64)> {
        self.perplexity
    }
}

/// How to collect an importance matrix.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImatrixOptions {
    /// Text files to read; the project's own calibration text if empty.
    pub texts: Vec<PathBuf>,
    /// Tokens in a chunk.
    pub ctx: usize,
    /// The number of chunks to use at most.
    pub chunks: Option<usize>,
    /// Bytes that the process may take.
    pub memory: u64,
}

impl Default for ImatrixOptions {
    /// The built-in text in chunks of 512 tokens, within half of the machine's memory.
    fn default() -> ImatrixOptions {
        let ctx = imatrix::Options::default().ctx;
        ImatrixOptions { texts: Vec::new(), ctx, chunks: None, memory: forward::default_memory() }
    }
}

impl ImatrixOptions {
    setters! {
        /// Sets [`ImatrixOptions::texts`].
        texts: Vec<PathBuf>,
        /// Sets [`ImatrixOptions::ctx`].
        ctx: usize,
        /// Sets [`ImatrixOptions::chunks`].
        chunks: Option<usize>,
        /// Sets [`ImatrixOptions::memory`].
        memory: u64,
    }
}

/// Runs `model` over the calibration text and collects its importance matrix.
///
/// # Errors
/// If the model cannot be converted or run, a text cannot be read, or it is shorter than one chunk.
///
/// # Examples
/// ```
/// use aqueduct::{ImatrixOptions, Model, Silent, collect_imatrix};
///
/// let model = Model::open("recipes/demo.yml")?;
/// let options = ImatrixOptions::default().ctx(64).chunks(Some(2));
/// let imatrix = collect_imatrix(&model, &options, &Silent)?;
/// assert!(imatrix.entries() > 0);
/// # Ok::<(), aqueduct::Error>(())
/// ```
pub fn collect_imatrix(
    model: &Model,
    options: &ImatrixOptions,
    progress: &dyn Progress,
) -> Result<Imatrix> {
    let calibration = Calibration::choose(&[], &options.texts)?;
    let gguf = model.to_gguf(false, progress)?;
    let tokenizer = Tokenizer::from_metadata(gguf.origin(), &gguf.metadata)?;
    let Calibration { names, texts } = &calibration;
    let (texts, bos) = imatrix::named_tokens(&tokenizer, names, texts, false)?;
    let mut run = imatrix::Options {
        ctx: options.ctx,
        chunks: options.chunks,
        bos,
        memory: options.memory,
        ..imatrix::Options::default()
    };
    let tokens = imatrix::arrange(texts, &mut run)?;
    let computed = imatrix::compute(&gguf, &tokens, &run, None, progress)?;
    let perplexity = (computed.perplexity.estimate, computed.perplexity.error);
    let name = format!("{}-imatrix.gguf", model.name());
    Ok(Imatrix { matrix: computed.imatrix, name, perplexity: Some(perplexity) })
}
