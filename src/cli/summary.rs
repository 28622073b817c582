//! The end of what a command prints: what its stages took, and what one would do next.

use super::progress::StageTime;
use super::show;
use crate::base::size;
use crate::report;
use serde::Serialize;

/// What a command took.
#[derive(Debug, Serialize)]
pub(super) struct Spent {
    /// In the order in which they ended.
    pub stages: Vec<StageTime>,
    /// The most main memory that the process had, pages of mapped files among it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
}

/// A result, with what it took among its keys.
#[derive(Serialize)]
pub(super) struct WithSpent<'a, T: Serialize> {
    #[serde(flatten)]
    pub result: &'a T,
    #[serde(flatten)]
    pub spent: Spent,
}

impl Spent {
    /// A line for each stage, and one for all of `seconds`.
    pub(super) fn table(&self, seconds: f64) -> String {
        let total = StageTime {
            stage: "total".to_string(),
            seconds,
            peak_memory_bytes: self.peak_memory_bytes,
        };
        let rows = self.stages.iter().chain([&total]).map(|time| {
            let mut row = vec![time.stage.clone(), seconds_text(time.seconds)];
            row.extend(time.peak_memory_bytes.map(size::display));
            row
        });
        let headers = ["stage", ">seconds", ">peak memory"];
        let columns = if self.peak_memory_bytes.is_some() { 3 } else { 2 };
        report::table(&headers[..columns], rows)
    }

    /// `1.2 s, peak memory 313 MB`.
    pub(super) fn text(&self, seconds: f64) -> String {
        let peak = self.peak_memory_bytes.map(size::display);
        let peak = peak.map_or(String::new(), |peak| format!(", peak memory {peak}"));
        format!("{} s{peak}", seconds_text(seconds))
    }
}

/// Two digits after the point where seconds are few.
fn seconds_text(seconds: f64) -> String {
    let digits = if seconds < 9.995 { 2 } else { 1 };
    format!("{seconds:.digits$}")
}

/// Prints the commands that one would give next.
pub(super) fn next(commands: &[String]) {
    for (at, command) in commands.iter().enumerate() {
        show::labelled(if at == 0 { "next" } else { "" }, command);
    }
}
