//! The line that shows how far the work is.
//!
//! Text of fixed widths in fixed places, so that it does not flicker; what changes most comes last. Where the terminal is
//! narrow, the least important parts are left out.

use super::super::colour::{STRONG, paint};
use super::event::State;
use crate::base::progress::Unit;
use crate::base::size;

/// Characters within a bar, at most and at least.
const BAR: (usize, usize) = (20, 8);
/// A detail with less room is left out.
const LEAST_DETAIL: usize = 8;
const GAP: &str = "  ";

/// A part of the line: those of higher rank are left out first.
struct Part {
    rank: u8,
    text: String,
}

/// What the bar and all parts of the line take.
fn length(parts: &[Part]) -> usize {
    let each = |part: &Part| part.text.chars().count() + GAP.len();
    parts.iter().map(each).sum::<usize>().saturating_sub(GAP.len())
}

/// The line for a terminal of `width` columns, `elapsed` seconds after the program began; the stage's name in bold if
/// `styled`.
pub(super) fn render(state: &State, elapsed: f64, width: usize, styled: bool) -> String {
    let head = Part { rank: 0, text: heading(state) };
    let mut parts = vec![head, Part { rank: 5, text: bar(state.fraction, BAR.1) }];
    let mut add = |rank, text: String| parts.push(Part { rank, text });
    add(1, format!("{:>3}%", percent(state.fraction)));
    add(3, format!("{:>13}", rate(state).unwrap_or_default()));
    let eta = state.eta_seconds.map_or("-:--".to_string(), clock);
    add(2, format!("ETA {eta:>5}"));
    if let Some(bytes) = state.memory_bytes {
        add(4, format!("{:>7}", size::display(bytes)));
    }
    add(6, format!("elapsed {:>5}", clock(elapsed)));
    while length(&parts) > width && parts.len() > 1 {
        let last = parts.iter().map(|part| part.rank).max();
        parts.retain(|part| Some(part.rank) != last);
    }
    // The bar takes room only from what is beside it anyway, so that it keeps its length.
    let spare = width.saturating_sub(length(&parts));
    let detail_room = spare.saturating_sub(BAR.0 - BAR.1 + GAP.len());
    if let Some(part) = parts.iter_mut().find(|part| part.rank == 5) {
        part.text = bar(state.fraction, BAR.0.min(BAR.1 + spare));
    }
    if let Some(text) = detail(state, detail_room) {
        parts.push(Part { rank: 7, text });
    }
    parts[0].text = cut(&parts[0].text, width);
    if styled {
        parts[0].text = paint(STRONG, &parts[0].text);
    }
    let texts: Vec<_> = parts.into_iter().map(|part| part.text).collect();
    texts.join(GAP)
}

/// A line for a log of a build server, which is written now and then.
pub(super) fn sentence(state: &State) -> String {
    let mut parts = vec![format!("{} {} %", heading(state), percent(state.fraction))];
    parts.extend(rate(state));
    parts.extend(state.eta_seconds.map(|seconds| format!("ETA {}", clock(seconds))));
    parts.extend(state.memory_bytes.map(size::display));
    parts.join(", ")
}

/// `[2/4] imatrix 3/8`: the stage, and its step where there are several alike.
fn heading(state: &State) -> String {
    let number = state.number.map_or(String::new(), |(n, count)| format!("[{n}/{count}] "));
    let step = match state.steps {
        1 => String::new(),
        steps => format!(" {}/{steps}", state.step_number),
    };
    format!("{number}{}{step}", state.stage)
}

/// What is being done, in at most `room` characters; the step's name first where it is not the stage's and there is room.
fn detail(state: &State, room: usize) -> Option<String> {
    // Names in files must not steer the terminal.
    let shown: String = state.detail.chars().filter(|c| !c.is_control()).collect();
    let whole = match (state.step == state.stage, shown.is_empty()) {
        (true, _) => shown.clone(),
        (false, true) => state.step.clone(),
        (false, false) => format!("{}: {shown}", state.step),
    };
    let text = if whole.chars().count() <= room { whole } else { shown };
    (room >= LEAST_DETAIL && !text.is_empty()).then(|| cut(&text, room))
}

fn percent(fraction: f64) -> u64 {
    // 100 is for what is done.
    (fraction.clamp(0.0, 1.0) * 100.0).floor() as u64
}

fn bar(fraction: f64, length: usize) -> String {
    let full = (fraction.clamp(0.0, 1.0) * length as f64) as usize;
    let head = if full < length { ">" } else { "" };
    format!("[{:<length$}]", "=".repeat(full) + head)
}

/// `1,234 tok/s`; none before there is one.
fn rate(state: &State) -> Option<String> {
    let rate = state.per_second?;
    Some(match state.unit {
        Unit::Bytes => format!("{}/s", size::display(rate as u64)),
        Unit::Tokens => format!("{} tok/s", grouped(rate)),
        // Through all of the model.
        Unit::LayerTokens(layers) => format!("{} tok/s", grouped(rate / layers.max(1) as f64)),
        Unit::Items => format!("{}/s", grouped(rate)),
    })
}

/// `1,234`, or `1.2` where that says more.
fn grouped(value: f64) -> String {
    if value < 9.95 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `0:42`, `3:10`, `12:34:56`.
pub(super) fn clock(seconds: f64) -> String {
    let all = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (all / 3600, all / 60 % 60, all % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// `text` in at most `width` characters.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    let mut shown: String = text.chars().take(width.saturating_sub(1)).collect();
    shown.extend((width > 0).then_some('…'));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            stage: "imatrix".to_string(),
            number: Some((2, 4)),
            step: "forward pass".to_string(),
            step_number: 1,
            steps: 1,
            unit: Unit::LayerTokens(30),
            done: 410,
            total: 1000,
            fraction: 0.41,
            per_second: Some(37_020.0),
            eta_seconds: Some(42.4),
            memory_bytes: Some(1_800_000_000),
            detail: "layer 12/30".to_string(),
        }
    }

    fn plain(state: &State, width: usize) -> String {
        render(state, 190.0, width, false)
    }

    #[test]
    fn a_wide_terminal_shows_all() {
        let expected = "[2/4] imatrix  [========>           ]   41%    1,234 tok/s  ETA  0:42  1.80 GB  \
                        elapsed  3:10  forward pass: layer 12/30";
        assert_eq!(plain(&state(), 200), expected);
        let styled = render(&state(), 190.0, 200, true);
        assert_eq!(styled, expected.replace("[2/4] imatrix", "\u{1b}[1m[2/4] imatrix\u{1b}[0m"));
    }

    #[test]
    fn no_terminal_is_too_narrow() {
        for width in 0..150 {
            let line = plain(&state(), width);
            assert!(line.chars().count() <= width, "{width}: {line}");
            assert!(width < 32 || line.contains("41%") && line.contains("ETA  0:42"), "{line}");
            assert!(width < 74 || line.contains("tok/s") && line.contains("==>"), "{line}");
        }
        let shown = [104, 80, 75, 40, 8].map(|width| plain(&state(), width));
        let expected = [
            "[2/4] imatrix  [========>           ]   41%    1,234 tok/s  ETA  0:42  1.80 GB  elapsed  3:10  \
             layer 12…",
            "[2/4] imatrix  [========>           ]   41%    1,234 tok/s  ETA  0:42  1.80 GB",
            "[2/4] imatrix  [======>          ]   41%    1,234 tok/s  ETA  0:42  1.80 GB",
            "[2/4] imatrix   41%  ETA  0:42",
            "[2/4] i…",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn places_stay_while_values_change() {
        let early = State {
            fraction: 0.0,
            per_second: None,
            eta_seconds: None,
            memory_bytes: Some(13_000_000),
            detail: String::new(),
            ..state()
        };
        for width in [80, 100, 120] {
            let [early, late] = [early.clone(), state()].map(|state| plain(&state, width));
            assert!(early.contains("   0%") && early.contains("ETA  -:--"), "{early}");
            for part in ["]", "%", "ETA", "MB", "elapsed"] {
                let late = late.replace("GB", "MB");
                assert_eq!(early.find(part), late.find(part), "{early}\n{late}");
            }
        }
    }

    #[test]
    fn sentences_are_for_logs() {
        assert_eq!(sentence(&state()), "[2/4] imatrix 41 %, 1,234 tok/s, ETA 0:42, 1.80 GB");
        let other = State {
            number: None,
            stage: "evaluate".to_string(),
            step_number: 3,
            steps: 6,
            unit: Unit::Bytes,
            eta_seconds: Some(7384.0),
            memory_bytes: None,
            ..state()
        };
        assert_eq!(sentence(&other), "evaluate 3/6 41 %, 37.0 kB/s, ETA 2:03:04");
    }

    #[test]
    fn numbers_are_grouped() {
        let shown = [0.0, 1.26, 12.3, 999.6, 1234.0, 1_234_567.0].map(grouped);
        assert_eq!(shown, ["0.0", "1.3", "12", "1,000", "1,234", "1,234,567"]);
    }
}
