//! `--log FILE`: what happened, with times, for later.
//!
//! Plain text without colours, a time in UTC on every line, each line written at once. Nothing of the environment but
//! the working directory is in it; the command line is, as it was typed.

use super::super::shell;
use super::event::Event;
use crate::Error;
use crate::base::size;
use crate::report::escape_control_chars;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A log file. A failure to write to it is reported once and does not stop the work.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    failed: bool,
}

impl Log {
    /// Opens the file at `path`, which is continued if it exists, and writes what this run is.
    pub(crate) fn open(path: &Path) -> Result<Log, Error> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.map_err(Error::io(path, "open the log"))?;
        let mut log = Log { path: path.to_path_buf(), file, failed: false };
        let words: Vec<_> = std::env::args_os().skip(1).map(|word| shell::quoted(&word)).collect();
        let place = std::env::current_dir().unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        log.write("begin", &format!("aqueduct {version} in {}", place.display()))
            .and_then(|()| log.write("command", &format!("aqueduct {}", words.join(" "))))
            .map_err(Error::io(path, "write the log"))?;
        Ok(log)
    }

    /// Writes what `event` says. The first failure gives a text for the user.
    pub(crate) fn event(&mut self, event: &Event) -> Option<String> {
        let (label, text) = match event {
            Event::Stages { stages } => ("stages", stages.join(", ")),
            Event::StageBegin { stage, .. } => ("stage", format!("{stage} begins")),
            Event::StageEnd(time) => {
                let memory = time.peak_memory_bytes.map(size::display);
                let memory = memory.map_or(String::new(), |m| format!(", peak memory {m}"));
                ("stage", format!("{} took {:.3} s{memory}", time.stage, time.seconds))
            }
            Event::Note { text } => ("note", text.clone()),
            Event::Warning { text } => ("warning", text.clone()),
            Event::Error { text, .. } => ("error", text.clone()),
            Event::Progress(_) => return None,
        };
        self.try_write(label, &text)
    }

    /// Writes how the run ended.
    pub(crate) fn end(&mut self, exit_code: u8, seconds: f64, peak: Option<u64>) -> Option<String> {
        let peak =
            peak.map_or(String::new(), |bytes| format!(", peak memory {}", size::display(bytes)));
        self.try_write("end", &format!("exit code {exit_code}, {seconds:.3} s{peak}"))
    }

    fn try_write(&mut self, label: &str, text: &str) -> Option<String> {
        if self.failed {
            return None;
        }
        let error = self.write(label, text).err()?;
        self.failed = true;
        Some(format!("{}: the log ends here: {error}", self.path.display()))
    }

    /// A file is not buffered: each line is with the system when this returns.
    fn write(&mut self, label: &str, text: &str) -> std::io::Result<()> {
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let mut lines = String::new();
        for line in text.lines() {
            lines.push_str(&format!("{time} {label:<7} {}\n", escape_control_chars(line)));
        }
        self.file.write_all(lines.as_bytes())
    }
}
