//! The events of a run and their JSON form, described in docs/reference/events.md.

use super::track::StageTime;
use crate::base::progress::Unit;
use serde::Serialize;

/// Something that happened. As JSON, an object whose key `event` is its name in lower case.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    Stages {
        stages: Vec<String>,
    },
    StageBegin {
        stage: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        number: Option<usize>,
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<usize>,
        steps: u64,
    },
    Progress(State),
    StageEnd(StageTime),
    Note {
        text: String,
    },
    Warning {
        text: String,
    },
    Error {
        text: String,
        exit_code: u8,
    },
}

/// How far the work is.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct State {
    pub stage: String,
    /// Number of the stage among those that were announced, and how many these are.
    #[serde(skip)]
    pub number: Option<(usize, usize)>,
    /// What is done within the stage.
    pub step: String,
    /// Number of the step in its stage, from 1, and how many there are.
    pub step_number: u64,
    pub steps: u64,
    /// What is counted in this step.
    #[serde(serialize_with = "unit_name")]
    pub unit: Unit,
    pub done: u64,
    pub total: u64,
    /// How much of the stage is done, 0 to 1; of the step where steps are not alike.
    pub fraction: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    /// In how many seconds the stage will be done, or the step where steps are not alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The tensor, layer or file that is being worked on.
    pub detail: String,
}

fn unit_name<S: serde::Serializer>(unit: &Unit, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match unit {
        Unit::Bytes => "bytes",
        Unit::Tokens => "tokens",
        Unit::LayerTokens(_) => "layer_tokens",
        Unit::Items => "items",
    })
}

impl Event {
    /// Whether `--quiet` lets it through.
    pub(crate) fn is_problem(&self) -> bool {
        matches!(self, Event::Warning { .. } | Event::Error { .. })
    }

    /// One line of JSON; `elapsed` is in seconds since the program began.
    pub(crate) fn json(&self, elapsed: f64) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            #[serde(flatten)]
            event: &'a Event,
            elapsed_seconds: f64,
        }
        let line = Line { event: self, elapsed_seconds: (elapsed * 1e3).round() / 1e3 };
        serde_json::to_string(&line).expect("strings and numbers are JSON")
    }
}
