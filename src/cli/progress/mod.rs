//! Reporting of progress: a line on the terminal, a sentence now and then where stderr is none, events for scripts with
//! `--json`, and a log with `--log`.
//!
//! [`Reporter`] is what the library knows as [`Progress`]. `track` keeps account, `line` draws, `event` is what scripts
//! read, `log` what stays. Deliberately absent: an estimate over all stages, whose costs differ by orders of magnitude in
//! ways that only the work itself shows; the line has the stage's and the time so far.

mod event;
mod line;
mod log;
mod track;

pub(super) use event::Event;
pub(super) use log::Log;
pub(super) use track::StageTime;

use super::colour::{self, ERROR, WARNING, paint};
use crate::base::memory::{self, Resident};
use crate::base::progress::{Progress, Unit};
use event::State;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use track::Track;

/// How often the line is drawn, and memory looked at.
const TICK: Duration = Duration::from_millis(250);
/// Time between two events of progress.
const BETWEEN_EVENTS: Duration = Duration::from_millis(500);
/// Time between two sentences about progress, and before the first.
const BETWEEN_SENTENCES: Duration = Duration::from_secs(30);
/// A rate is none before a step has gone on for so long.
const FIRST_RATE: Duration = Duration::from_millis(500);
/// Columns of a terminal of unknown width.
const COLUMNS: usize = 80;

/// How progress is shown.
#[derive(Clone, Copy, PartialEq)]
enum Voice {
    /// A line that is drawn anew.
    Line,
    /// Sentences, where nothing can be drawn anew.
    Sentences,
    /// JSON, a line for each event.
    Events,
}

/// Tells the user how the work goes.
pub(super) struct Reporter {
    shared: Arc<Shared>,
    ticker: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    voice: Voice,
    quiet: bool,
    started: Instant,
    account: Mutex<Account>,
}

struct Account {
    track: Track,
    /// Counts the current step and estimates its rate, and is never seen.
    counter: ProgressBar,
    /// The line that is drawn; hidden where nothing is. Drawn only when its text changes.
    line: ProgressBar,
    /// When progress was last reported.
    reported: Instant,
    log: Option<Log>,
    over: bool,
}

impl Reporter {
    pub(super) fn new(quiet: bool, json: bool, log: Option<Log>) -> Reporter {
        let voice = match json {
            true => Voice::Events,
            false if draws() => Voice::Line,
            false => Voice::Sentences,
        };
        let (counter, line) = (ProgressBar::hidden(), ProgressBar::hidden());
        let (track, started) = (Track::default(), Instant::now());
        let account = Account { track, counter, line, reported: started, log, over: false };
        let shared = Arc::new(Shared { voice, quiet, started, account: Mutex::new(account) });
        Reporter { shared, ticker: Mutex::new(None) }
    }

    /// Ends the stage under way, and reports what each stage took, and the most memory of all.
    pub(super) fn stages_done(&self) -> (Vec<StageTime>, Option<u64>) {
        let mut account = self.shared.lock();
        self.shared.close(&mut account);
        (account.track.done.clone(), account.track.peak(memory::resident()))
    }

    /// Whether notes are wanted.
    pub(super) fn is_quiet(&self) -> bool {
        self.shared.quiet
    }

    /// Ends the telling: an error if there is one, and the exit code for the log.
    pub(super) fn finish(&self, error: Option<String>, exit_code: u8) {
        let shared = &self.shared;
        let mut account = shared.lock();
        shared.close(&mut account);
        if let Some(text) = error {
            shared.report(&mut account, Event::Error { text, exit_code });
        }
        let peak = account.track.peak(memory::resident());
        let seconds = shared.started.elapsed().as_secs_f64();
        let failed = account.log.as_mut().and_then(|log| log.end(exit_code, seconds, peak));
        if let Some(text) = failed {
            shared.say(&account, &Event::Warning { text });
        }
        account.over = true;
        drop(account);
        let ticker = self.ticker.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(ticker) = ticker {
            ticker.thread().unpark();
            // If it panicked, that has been reported already.
            let _ = ticker.join();
        }
    }

    /// Starts what looks at the work from time to time, with the first stage.
    fn start_ticker(&self) {
        let mut ticker = self.ticker.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if ticker.is_none() {
            let shared = self.shared.clone();
            let run = move || {
                while shared.tick() {
                    thread::park_timeout(TICK);
                }
            };
            // Without it there are no looks in between, and nothing else is lost.
            *ticker = thread::Builder::new().name("progress".to_string()).spawn(run).ok();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Account> {
        // A thread that panicked while telling leaves the account usable.
        self.account.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Looks at the work once; false when it is over.
    fn tick(&self) -> bool {
        let mut account = self.lock();
        let resident = memory::resident();
        account.track.sample(resident);
        let wait = match self.voice {
            Voice::Line => Duration::ZERO,
            Voice::Sentences => BETWEEN_SENTENCES,
            Voice::Events => BETWEEN_EVENTS,
        };
        if !self.quiet && account.reported.elapsed() >= wait {
            self.show(&mut account, resident);
        }
        !account.over
    }

    /// Shows how far the work is, if a step is under way.
    fn show(&self, account: &mut Account, resident: Option<Resident>) {
        let Some(state) = state(account, resident) else { return };
        account.reported = Instant::now();
        match self.voice {
            Voice::Line => {
                let columns = console::Term::stderr().size_checked();
                let columns = columns.map_or(COLUMNS, |(_, columns)| columns.into());
                let elapsed = self.started.elapsed().as_secs_f64();
                // The last column stays free: some terminals begin a new line after it.
                let width = columns.saturating_sub(1);
                let text = line::render(&state, elapsed, width, colour::on_stderr());
                if account.line.message() != text {
                    account.line.set_message(text);
                }
            }
            Voice::Sentences => self.print(account, &line::sentence(&state)),
            Voice::Events => self.say(account, &Event::Progress(state)),
        }
    }

    fn close(&self, account: &mut Account) {
        account.line.finish_and_clear();
        let events = account.track.finish((Instant::now(), memory::resident()));
        events.into_iter().for_each(|event| self.report(account, event));
    }

    fn report(&self, account: &mut Account, event: Event) {
        let failed = account.log.as_mut().and_then(|log| log.event(&event));
        self.say(account, &event);
        if let Some(text) = failed {
            self.say(account, &Event::Warning { text });
        }
    }

    /// Tells `event` on stderr.
    fn say(&self, account: &Account, event: &Event) {
        if self.quiet && !event.is_problem() {
            return;
        }
        if self.voice == Voice::Events {
            return self.print(account, &event.json(self.started.elapsed().as_secs_f64()));
        }
        match event {
            Event::Note { text } => self.print(account, text),
            Event::Warning { text } => {
                self.print(account, &format!("{} {text}", paint(WARNING, "warning:")));
            }
            Event::Error { text, .. } => {
                self.print(account, &format!("{} {text}", paint(ERROR, "error:")));
            }
            Event::Stages { .. }
            | Event::StageBegin { .. }
            | Event::Progress(_)
            | Event::StageEnd(_) => {}
        }
    }

    /// Prints a line on stderr, above the line that is drawn.
    fn print(&self, account: &Account, text: &str) {
        // Nobody is left to hear of a stderr that is closed.
        account.line.suspend(|| {
            let _ = writeln!(colour::err().lock(), "{text}");
        });
    }

    /// A line for another step.
    fn new_line(&self) -> ProgressBar {
        if self.voice != Voice::Line || self.quiet {
            return ProgressBar::hidden();
        }
        let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{wide_msg}");
        line.set_style(style.expect("the template is constant and valid"));
        line
    }
}

/// Whether stderr can be drawn on.
fn draws() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// How far the work is; none between steps.
fn state(account: &Account, resident: Option<Resident>) -> Option<State> {
    let Account { track, counter, .. } = account;
    let (stage, step) = (track.stage.as_ref()?, track.step.as_ref()?);
    let (done, total) = (counter.position(), counter.length().unwrap_or(0));
    let part = done as f64 / total.max(1) as f64;
    let rate = Some(counter.per_sec()).filter(|&rate| rate > 0.0);
    let per_second = rate.filter(|_| counter.elapsed() >= FIRST_RATE);
    let left = per_second.map(|rate| total.saturating_sub(done) as f64 / rate);
    let left = left.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let eta = track.left(Instant::now(), left);
    Some(State {
        stage: stage.name.clone(),
        number: stage.number,
        step: step.name.clone(),
        step_number: stage.begun,
        steps: stage.steps,
        unit: step.unit,
        done,
        total,
        fraction: round(track.fraction(part.min(1.0)), 1e4),
        per_second: per_second.map(|rate| round(rate, 10.0)),
        eta_seconds: eta.map(|eta| round(eta.as_secs_f64(), 10.0)),
        memory_bytes: resident.map(|resident| resident.now),
        detail: step.detail.clone(),
    })
}

/// `value` in steps of one in `parts`: more digits would say nothing.
fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

impl Progress for Reporter {
    fn stages(&self, names: &[&str]) {
        let mut account = self.shared.lock();
        let event = account.track.announce(names);
        self.shared.report(&mut account, event);
    }

    fn stage(&self, name: &str, steps: usize) {
        let mut account = self.shared.lock();
        account.line.finish_and_clear();
        let events = account.track.stage(name, steps, (Instant::now(), memory::resident()));
        events.into_iter().for_each(|event| self.shared.report(&mut account, event));
        drop(account);
        self.start_ticker();
    }

    fn begin(&self, step: &str, total: u64, unit: Unit) {
        let shared = &self.shared;
        let mut account = shared.lock();
        account.line.finish_and_clear();
        let resident = memory::resident();
        let fresh = account.track.stage.as_ref().is_none_or(|stage| stage.is_fresh());
        let events = account.track.begin(step, unit, (Instant::now(), resident));
        let first = fresh || !events.is_empty();
        events.into_iter().for_each(|event| shared.report(&mut account, event));
        account.counter = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        account.line = shared.new_line();
        // Whoever looks sees a line at once, and scripts learn with a stage's first step how much there is.
        let at_once = match shared.voice {
            Voice::Line => true,
            Voice::Events => first,
            Voice::Sentences => false,
        };
        if at_once && !shared.quiet {
            shared.show(&mut account, resident);
        }
        drop(account);
        self.start_ticker();
    }

    fn advance(&self, units: u64) {
        self.shared.lock().counter.inc(units);
    }

    fn detail(&self, text: &str) {
        if let Some(step) = &mut self.shared.lock().track.step {
            step.detail = text.to_string();
        }
    }

    fn note(&self, text: &str) {
        let mut account = self.shared.lock();
        self.shared.report(&mut account, Event::Note { text: text.to_string() });
    }

    fn warn(&self, text: &str) {
        let mut account = self.shared.lock();
        self.shared.report(&mut account, Event::Warning { text: text.to_string() });
    }

    fn end(&self) {
        let mut account = self.shared.lock();
        account.track.end(Instant::now());
        account.line.finish_and_clear();
    }
}
