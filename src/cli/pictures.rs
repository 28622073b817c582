//! Where pictures go: files that `--svg` and `--html` name, or stdout.

use super::show;
use crate::Error;
use crate::base::output;
use crate::base::size;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Pictures to draw besides the text.
#[derive(Args)]
pub(super) struct PictureArguments {
    /// Draw it as an SVG picture. `-` writes it to stdout, and nothing else there.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Draw it on an HTML page that needs no other file and no network. `-` is stdout, as above.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Replace files that exist.
    #[arg(long)]
    force: bool,
}

/// A picture that was written to a file.
#[derive(Serialize)]
pub(super) struct Picture {
    path: PathBuf,
    bytes: u64,
}

impl PictureArguments {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        self.svg.iter().chain(&self.html).map(PathBuf::as_path)
    }

    /// Whether any picture is requested.
    pub(super) fn any(&self) -> bool {
        self.paths().next().is_some()
    }

    /// Whether stdout holds a picture, and so must hold nothing else.
    pub(super) fn on_stdout(&self) -> bool {
        self.paths().any(is_stdout)
    }

    /// Fails if a picture cannot be written where it is requested. Call it before long work.
    pub(super) fn check(&self, json: bool) -> Result<(), Error> {
        if self.svg.is_some() && self.svg == self.html {
            let text = "--svg and --html name the same file; give each its own";
            return Err(Error::Usage(text.to_string()));
        }
        for path in self.paths() {
            if !is_stdout(path) {
                output::check_file_target(path, self.force)?;
            } else if json {
                let text = "--json and a picture cannot both go to stdout; name a file for one";
                return Err(Error::Usage(text.to_string()));
            }
        }
        Ok(())
    }

    /// Fails if a picture would replace one of `inputs`.
    pub(super) fn check_not_inputs<P: AsRef<Path>>(&self, inputs: &[P]) -> Result<(), Error> {
        let mut files = self.paths().filter(|path| !is_stdout(path));
        files.try_for_each(|path| output::check_not_input(path, inputs))
    }

    /// Writes the requested pictures, each made by its function.
    pub(super) fn write(
        &self,
        svg: impl Fn() -> String,
        html: impl Fn() -> String,
    ) -> Result<Vec<Picture>, Error> {
        let mut written = Vec::new();
        let drawn = self.svg.iter().map(|path| (path, svg()));
        for (path, text) in drawn.chain(self.html.iter().map(|path| (path, html()))) {
            if is_stdout(path) {
                show::text(text.trim_end());
            } else {
                output::write_file(path, text.as_bytes(), self.force)?;
                written.push(Picture { path: path.clone(), bytes: text.len() as u64 });
            }
        }
        Ok(written)
    }
}

/// Names the pictures that were written.
pub(super) fn report(written: &[Picture]) {
    for Picture { path, bytes } in written {
        show::text(&format!("\npicture {} ({})", path.display(), size::display(*bytes)));
    }
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}
