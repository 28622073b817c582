//! Log-probabilities of a reference model in a file, in the layout of llama.cpp's `--kl-divergence-base`.
//!
//! ```text
//! "_logits_"          8 bytes
//! n_ctx               i32, tokens in a chunk
//! n_vocab             i32
//! n_chunk             i32
//! tokens              i32, n_chunk n_ctx of them, as tokenized
//! records             for each chunk one for each position n_ctx/2 .. n_ctx-2, see `log_probs`
//! ```
//!
//! All numbers are little-endian. Source: llama.cpp `tools/perplexity/perplexity.cpp`, October 2026. A
//! temporary file has no name in any folder, so it vanishes however the program ends.

use super::log_probs::record_bytes;
use super::text::Text;
use crate::base::error::{Error, Result};
use crate::base::output::{self, OutputFile};
use crate::base::system;
use crate::measure::tokens::counted;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"_logits_";
/// Bytes before the tokens.
const HEADER: usize = 20;

/// The file to which log-probabilities are written.
#[derive(Clone, Debug)]
pub struct Keep {
    /// Path of the file.
    pub path: PathBuf,
    /// Replace the file if it exists.
    pub force: bool,
}

/// The numbers that the layout follows from.
#[derive(Clone, Copy, Debug)]
struct Shape {
    ctx: usize,
    n_vocab: usize,
    chunks: usize,
}

impl Shape {
    fn rows(self) -> usize {
        counted(self.ctx).len()
    }

    /// Offset of the records; `None`, here and below, if a number overflows.
    fn data_start(self) -> Option<u64> {
        let tokens = (self.ctx as u64).checked_mul(self.chunks as u64)?;
        tokens.checked_mul(4)?.checked_add(HEADER as u64)
    }

    fn chunk_bytes(self) -> Option<u64> {
        (record_bytes(self.n_vocab) as u64).checked_mul(self.rows() as u64)
    }

    fn file_bytes(self) -> Option<u64> {
        self.data_start()?.checked_add(self.chunk_bytes()?.checked_mul(self.chunks as u64)?)
    }

    fn header(self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        for (bytes, value) in
            header[8..].chunks_exact_mut(4).zip([self.ctx, self.n_vocab, self.chunks])
        {
            bytes.copy_from_slice(&(value as i32).to_le_bytes());
        }
        header
    }

    /// `None` if `header` does not begin a file of log-probabilities of at least one token.
    fn parse(header: &[u8; HEADER]) -> Option<Shape> {
        let number = |at: usize| {
            let value = i32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i]));
            usize::try_from(value).ok().filter(|&n| n > 0)
        };
        let shape = Shape { ctx: number(8)?, n_vocab: number(12)?, chunks: number(16)? };
        (&header[..8] == MAGIC && shape.rows() > 0).then_some(shape)
    }
}

/// Log-probabilities of a reference over a text, on disk.
#[derive(Debug)]
pub struct Reference {
    file: File,
    /// A file's path, or the folder of one without a name.
    path: PathBuf,
    shape: Shape,
    text: Text,
}

impl Reference {
    /// Opens a file that this program or llama-perplexity wrote.
    ///
    /// # Errors
    /// If it is something else, shorter or longer than it says, or has tokens outside its vocabulary.
    pub fn open(path: &Path) -> Result<Reference> {
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        let length = file.metadata().map_err(Error::io(path, "examine"))?.len();
        let fail = |detail: String| Error::format(path, detail);
        let mut header = [0; HEADER];
        let shape = match file.read_exact(&mut header) {
            Ok(()) => Shape::parse(&header),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(e) => return Err(Error::io(path, "read")(e)),
        };
        let shape = shape.ok_or_else(|| fail("not a file of log-probabilities".into()))?;
        let sizes = (shape.file_bytes(), shape.data_start(), shape.chunk_bytes());
        let (Some(expected), Some(start), Some(chunk)) = sizes else {
            return Err(fail("its header describes more than a file can hold".into()));
        };
        if length != expected {
            let whole = length.saturating_sub(start) / chunk;
            let detail = format!(
                "{length} bytes, where {} chunks need {expected}; {whole} chunks are whole. It was not \
                 finished, or is damaged: make it again",
                shape.chunks
            );
            return Err(fail(detail));
        }
        let mut bytes = vec![0; (start - HEADER as u64) as usize];
        file.read_exact(&mut bytes).map_err(Error::io(path, "read"))?;
        let tokens = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let tokens: Vec<u32> = tokens.collect();
        if let Some(at) = tokens.iter().position(|&token| token as usize >= shape.n_vocab) {
            let (token, n_vocab) = (tokens[at], shape.n_vocab);
            return Err(fail(format!(
                "token {at} is {token}, outside the vocabulary of {n_vocab}"
            )));
        }
        let text = Text::new(tokens, shape.ctx, None)?;
        Ok(Reference { file, path: path.to_path_buf(), shape, text })
    }

    /// The text, or its first `limit` chunks.
    pub fn text(&self, limit: Option<usize>) -> Result<Text> {
        Text::new(self.text.tokens().to_vec(), self.shape.ctx, limit)
    }

    /// Returns the number of log-probabilities in a record.
    pub fn n_vocab(&self) -> usize {
        self.shape.n_vocab
    }

    /// Returns its name in errors.
    pub fn origin(&self) -> String {
        self.path.display().to_string()
    }

    /// Fills `records` with the records of a chunk from `position` on.
    pub(super) fn read(&self, chunk: usize, position: usize, records: &mut [u8]) -> Result<()> {
        let row = position - counted(self.shape.ctx).start;
        // Neither overflows, because the size of the whole file does not.
        let index = (chunk * self.shape.rows() + row) as u64;
        let start = HEADER as u64 + 4 * self.text.tokens().len() as u64;
        let offset = start + index * record_bytes(self.shape.n_vocab) as u64;
        system::read_exact_at(&self.file, records, offset).map_err(Error::io(&self.path, "read"))
    }

    /// Returns the error for an invalid record at a chunk and position.
    pub(super) fn damaged(&self, (chunk, position): (usize, usize), detail: String) -> Error {
        let chunk = chunk + 1;
        let detail = format!("chunk {chunk}, position {position}: {detail}; make the file again");
        Error::format(&self.path, detail)
    }
}

/// The file that a recorder writes.
enum Store {
    /// A file without a name.
    Temporary(File),
    Kept(OutputFile),
}

/// Writes a [`Reference`].
pub(super) struct Recorder {
    store: Store,
    path: PathBuf,
    shape: Shape,
    text: Text,
}

impl Recorder {
    /// Begins a file for the log-probabilities of `n_vocab` tokens at each position of `text` that counts.
    ///
    /// # Errors
    /// If there is no space for it.
    pub(super) fn create(text: &Text, n_vocab: usize, keep: Option<&Keep>) -> Result<Recorder> {
        let shape = Shape { ctx: text.ctx(), n_vocab, chunks: text.n_chunks() };
        let numbers = [shape.n_vocab, shape.chunks].map(i32::try_from);
        let (Some(bytes), [Ok(_), Ok(_)]) = (shape.file_bytes(), numbers) else {
            let detail = "more log-probabilities than a file can hold; use fewer chunks";
            return Err(Error::Usage(detail.into()));
        };
        let (store, path) = match keep {
            Some(Keep { path, force }) => {
                output::check_space(path, bytes)?;
                (Store::Kept(OutputFile::create(path, *force)?), path.clone())
            }
            None => temporary(bytes)?,
        };
        let mut recorder = Recorder { store, path, shape, text: text.clone() };
        recorder.append(&shape.header())?;
        let tokens: Vec<u8> = text.tokens().iter().flat_map(|t| t.to_le_bytes()).collect();
        recorder.append(&tokens)?;
        Ok(recorder)
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.store {
            Store::Kept(file) => file.append(bytes),
            Store::Temporary(file) => file.write_all(bytes).map_err(|source| Error::Io {
                path: self.path.clone(),
                action: "write log-probabilities of the reference to a temporary file in",
                source,
            }),
        }
    }

    /// Ends the file, and gives it its name if it has one.
    pub(super) fn finish(self) -> Result<Reference> {
        match self.store {
            Store::Kept(file) => {
                file.commit()?;
                Reference::open(&self.path)
            }
            Store::Temporary(file) => {
                Ok(Reference { file, path: self.path, shape: self.shape, text: self.text })
            }
        }
    }
}

/// Opens a file without a name for `bytes`, and returns its folder too.
fn temporary(bytes: u64) -> Result<(Store, PathBuf)> {
    let what = "log-probabilities of the reference";
    let (file, folder) = output::temporary_file(bytes, what, "use fewer chunks")?;
    Ok((Store::Temporary(file), folder))
}
