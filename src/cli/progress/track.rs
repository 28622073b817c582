//! Which stage and step the work is in, how long each took and with how much memory.
//!
//! Independent of terminals: changes become [`Event`]s, which the reporter shows.

use super::event::Event;
use crate::base::memory::Resident;
use crate::base::progress::Unit;
use serde::Serialize;
use std::time::{Duration, Instant};

/// What a stage took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct StageTime {
    pub stage: String,
    pub seconds: f64,
    /// None where the system does not report it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
}

/// The stage that is under way.
#[derive(Debug)]
pub(super) struct Stage {
    pub name: String,
    /// Its number among those that were announced, from 1, and how many these are.
    pub number: Option<(usize, usize)>,
    /// Steps that it has in all, at least as many as have begun.
    pub steps: u64,
    /// Steps that have begun.
    pub begun: u64,
    /// Steps take about as long as each other; otherwise each is reported separately.
    alike: bool,
    /// The name of such steps, once the first has begun. Steps of other names do not count.
    of: Option<String>,
    /// Made by a step, so that the next step is another stage.
    implicit: bool,
    started: Instant,
    /// What its steps that are over took together.
    spent: Duration,
    memory: Memory,
}

impl Stage {
    /// Whether no step of it has begun yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.of.is_none()
    }

    /// Steps to come after the one under way.
    fn ahead(&self) -> u64 {
        self.steps - self.begun
    }
}

/// The step that is under way.
#[derive(Debug)]
pub(super) struct Step {
    pub name: String,
    pub unit: Unit,
    /// The tensor, layer or file that is being worked on.
    pub detail: String,
    /// One of those that its stage counts.
    counts: bool,
    started: Instant,
}

/// The most memory in a stretch of time.
#[derive(Debug)]
struct Memory {
    /// The process's peak when it began.
    before: Option<u64>,
    /// The most that was seen.
    seen: Option<u64>,
}

impl Memory {
    fn new(resident: Option<Resident>) -> Memory {
        Memory { before: resident.map(|r| r.peak), seen: resident.map(|r| r.now) }
    }

    fn sample(&mut self, resident: Option<Resident>) {
        self.seen = self.seen.max(resident.map(|r| r.now));
    }

    /// The peak: exact where it is the process's highest yet, else the most that was seen.
    fn peak(&self, now: Option<Resident>) -> Option<u64> {
        let risen = now.map(|r| r.peak).filter(|&peak| Some(peak) > self.before);
        self.seen.max(risen).max(now.map(|r| r.now))
    }
}

/// The whole work.
#[derive(Debug, Default)]
pub(super) struct Track {
    announced: Vec<String>,
    pub stage: Option<Stage>,
    pub step: Option<Step>,
    pub done: Vec<StageTime>,
}

impl Track {
    pub(super) fn announce(&mut self, names: &[&str]) -> Event {
        self.announced = names.iter().map(|name| name.to_string()).collect();
        Event::Stages { stages: self.announced.clone() }
    }

    /// A stage of `steps` steps begins; what is under way is over.
    pub(super) fn stage(
        &mut self,
        name: &str,
        steps: usize,
        (now, memory): (Instant, Option<Resident>),
    ) -> Vec<Event> {
        let mut events = self.finish((now, memory));
        events.push(self.enter(name, steps as u64, false, (now, memory)));
        events
    }

    /// A step begins.
    pub(super) fn begin(
        &mut self,
        name: &str,
        unit: Unit,
        (now, memory): (Instant, Option<Resident>),
    ) -> Vec<Event> {
        self.end(now);
        let mut events = Vec::new();
        if self.stage.as_ref().is_none_or(|stage| stage.implicit) {
            events = self.finish((now, memory));
            events.push(self.enter(name, 1, true, (now, memory)));
        }
        let mut counts = true;
        if let Some(stage) = &mut self.stage {
            counts = stage.of.get_or_insert_with(|| name.to_string()) == name;
            stage.begun += u64::from(counts && (stage.alike || stage.begun == 0));
            stage.steps = stage.steps.max(stage.begun);
        }
        let (name, detail) = (name.to_string(), String::new());
        self.step = Some(Step { name, unit, detail, counts, started: now });
        events
    }

    /// The step is over.
    pub(super) fn end(&mut self, now: Instant) {
        if let (Some(step), Some(stage)) = (self.step.take(), &mut self.stage) {
            stage.spent += if step.counts { now - step.started } else { Duration::ZERO };
        }
    }

    /// The stage is over, if there is one.
    pub(super) fn finish(&mut self, (now, memory): (Instant, Option<Resident>)) -> Vec<Event> {
        self.end(now);
        let Some(stage) = self.stage.take() else { return Vec::new() };
        let time = StageTime {
            stage: stage.name,
            seconds: (now - stage.started).as_secs_f64(),
            peak_memory_bytes: stage.memory.peak(memory),
        };
        self.done.push(time.clone());
        vec![Event::StageEnd(time)]
    }

    /// The most memory of the whole run: what the system says, or a stage's, which it counts less exactly.
    pub(super) fn peak(&self, memory: Option<Resident>) -> Option<u64> {
        let stages = self.done.iter().filter_map(|time| time.peak_memory_bytes).max();
        stages.max(memory.map(|resident| resident.peak))
    }

    pub(super) fn sample(&mut self, memory: Option<Resident>) {
        if let Some(stage) = &mut self.stage {
            stage.memory.sample(memory);
        }
    }

    /// How much of the stage is done, 0 to 1, with `part` of the step.
    pub(super) fn fraction(&self, part: f64) -> f64 {
        let (Some(stage), Some(step)) = (&self.stage, &self.step) else { return part };
        match (stage.alike, step.counts) {
            (false, _) => part,
            (true, true) => {
                (stage.begun.saturating_sub(1) as f64 + part) / stage.steps.max(1) as f64
            }
            (true, false) => stage.begun as f64 / stage.steps.max(1) as f64,
        }
    }

    /// In how long the stage will be done, if the step will be in `step`; none where it is unknown.
    pub(super) fn left(&self, now: Instant, step: Option<Duration>) -> Option<Duration> {
        let (Some(stage), Some(current)) = (&self.stage, &self.step) else { return step };
        let over = stage.begun - u64::from(current.counts && stage.begun > 0);
        let so_far = now - current.started;
        let mean = (over > 0 && stage.alike).then(|| stage.spent.div_f64(over as f64));
        let same = mean.filter(|_| current.counts).map(|mean| mean.saturating_sub(so_far));
        let step = step.or(same)?;
        let one = mean.unwrap_or(so_far + step);
        Some(step + one.saturating_mul(u32::try_from(stage.ahead()).unwrap_or(u32::MAX)))
    }

    fn enter(
        &mut self,
        name: &str,
        steps: u64,
        implicit: bool,
        (now, memory): (Instant, Option<Resident>),
    ) -> Event {
        let number = self.announced.iter().position(|known| known == name);
        let number = number.map(|at| (at + 1, self.announced.len()));
        self.stage = Some(Stage {
            name: name.to_string(),
            number,
            steps,
            begun: 0,
            alike: steps > 1,
            of: None,
            implicit,
            started: now,
            spent: Duration::ZERO,
            memory: Memory::new(memory),
        });
        let (number, count) = number.unzip();
        Event::StageBegin { stage: name.to_string(), number, count, steps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn memory(now: u64, peak: u64) -> Option<Resident> {
        Some(Resident { now, peak })
    }

    #[test]
    fn stages_go_by_what_was_announced() {
        let (start, mut track) = (Instant::now(), Track::default());
        track.announce(&["imatrix", "quantize", "checksums"]);
        let events = track.stage("imatrix", 2, (start, memory(10, 10)));
        assert!(matches!(&events[..], [Event::StageBegin { number: Some(1), steps: 2, .. }]));
        let unit = Unit::LayerTokens(3);
        for second in [0, 4] {
            assert!(track.begin("pass", unit, (at(start, second), None)).is_empty());
            track.end(at(start, second + 3));
        }
        // One that is left out is passed by.
        let events = track.stage("checksums", 1, (at(start, 8), memory(30, 50)));
        let [Event::StageEnd(time), Event::StageBegin { stage, number, .. }] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!((time.stage.as_str(), time.seconds), ("imatrix", 8.0));
        assert_eq!(time.peak_memory_bytes, Some(50));
        assert_eq!((stage.as_str(), *number), ("checksums", Some(3)));
        assert_eq!(track.finish((at(start, 9), None)).len(), 1);
        assert!(track.finish((at(start, 9), None)).is_empty());
        let names: Vec<_> = track.done.iter().map(|time| time.stage.as_str()).collect();
        assert_eq!(names, ["imatrix", "checksums"]);
    }

    #[test]
    fn a_step_outside_of_stages_is_one() {
        let (now, mut track) = ((Instant::now(), None), Track::default());
        track.announce(&["hash", "quantize"]);
        assert_eq!(track.begin("verify", Unit::Bytes, now).len(), 1);
        let events = track.begin("hash", Unit::Bytes, now);
        assert!(matches!(&events[..], [_, Event::StageBegin { number: Some(1), .. }]));
        track.stage("quantize", 1, now);
        assert!(track.begin("quantize", Unit::Bytes, now).is_empty());
        assert!(track.begin("hash", Unit::Bytes, now).is_empty(), "a part of quantizing");
        let stage = track.stage.as_ref().unwrap();
        assert_eq!((stage.name.as_str(), stage.begun, stage.steps), ("quantize", 1, 1));
    }

    #[test]
    fn steps_that_are_alike_make_a_whole() {
        let (start, mut track) = (Instant::now(), Track::default());
        let left = |track: &Track, now, step: Option<u64>| {
            let left = track.left(at(start, now), step.map(Duration::from_secs));
            left.map(|left| left.as_secs())
        };
        track.stage("evaluate", 4, (start, None));
        track.begin("pass", Unit::Items, (start, None));
        assert_eq!(track.fraction(0.5), 0.125);
        // Half of a step took 5 s: 5 more, and three of 10 s.
        assert_eq!(left(&track, 5, Some(5)), Some(35));
        track.begin("pass", Unit::Items, (at(start, 12), None));
        assert_eq!(track.fraction(0.5), 0.375);
        assert_eq!(left(&track, 13, Some(6)), Some(30));
        // Until this step has a rate, the rate of the step before is used.
        assert_eq!(left(&track, 14, None), Some(34));
        // What comes between counts for nothing, and for its own time.
        track.begin("checksums", Unit::Bytes, (at(start, 16), None));
        assert_eq!(track.fraction(0.5), 0.5);
        assert_eq!(left(&track, 16, Some(1)), Some(17), "12 and 4 s so far, two of 8 s to come");
        assert_eq!(left(&track, 16, None), None);
        // Steps of different length are reported one by one.
        track.stage("merge", 1, (start, None));
        track.begin("verify", Unit::Bytes, (start, None));
        track.begin("write", Unit::Bytes, (start, None));
        assert_eq!(track.fraction(0.5), 0.5);
        assert_eq!([left(&track, 0, Some(6)), left(&track, 0, None)], [Some(6), None]);
    }

    #[test]
    fn a_stage_has_the_memory_that_was_seen_in_it() {
        let (start, mut track) = (Instant::now(), Track::default());
        track.stage("a", 1, (start, memory(10, 90)));
        track.sample(memory(40, 90));
        track.sample(memory(20, 90));
        track.stage("b", 1, (start, memory(20, 90)));
        // Higher than ever, between two looks.
        track.finish((start, memory(20, 95)));
        let peaks: Vec<_> = track.done.iter().map(|time| time.peak_memory_bytes).collect();
        assert_eq!(peaks, [Some(40), Some(95)]);
    }
}
