//! How runs are told: events for scripts, the log, colours, the line on a terminal, the summary.

use crate::support::files::entries;
use crate::support::program::{Place, Ran, finished, shipped};
use regex::Regex;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

const BUILD: &str = "build @recipes/demo.yml --types Q4_K_M,Q8_0 --chunks 4 --ctx 128 \
                     --eval @tests/data/demo/held-out.txt --eval-chunks 1 --keep-stack";
/// Settings of colours that the tests' own environment may have.
const COLOURS: [&str; 4] = ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM"];

fn events(stderr: &str) -> Vec<Json> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    stderr.lines().map(parse).collect()
}

fn run(place: &Place, code: i32, line: &str) -> Ran {
    finished(line, code, place.command(line).output().unwrap())
}

/// Checks that stages begin and end one by one with progress inside, and gives what each took.
fn stages(events: &[Json]) -> Vec<Json> {
    let (mut under_way, mut done, mut last) = (None, Vec::new(), 0.0);
    for event in events {
        let elapsed = event["elapsed_seconds"].as_f64().unwrap();
        assert!(elapsed >= last, "{event}");
        last = elapsed;
        match event["event"].as_str().unwrap() {
            "stage_begin" => {
                assert_eq!(under_way, None, "{event}");
                under_way = Some(event["stage"].clone());
            }
            "progress" => {
                assert_eq!(under_way.as_ref(), Some(&event["stage"]), "{event}");
                let number = |key: &str| event[key].as_f64().unwrap_or_else(|| panic!("{event}"));
                assert!(number("done") <= number("total"), "{event}");
                assert!((0.0..=1.0).contains(&number("fraction")), "{event}");
                assert!(number("step_number") <= number("steps"), "{event}");
            }
            "stage_end" => {
                assert_eq!(under_way.take().as_ref(), Some(&event["stage"]), "{event}");
                let mut time = event.clone();
                let keys = time.as_object_mut().unwrap();
                keys.remove("event");
                keys.remove("elapsed_seconds");
                done.push(time);
            }
            "stages" | "note" | "warning" | "error" => {}
            other => panic!("unknown event {other}"),
        }
    }
    assert_eq!(under_way, None);
    done
}

#[test]
fn scripts_read_events_and_one_result() {
    let place = Place::new();
    let ran = place.ok(&format!("{BUILD} -o out --json"));
    let events = events(&ran.stderr);
    let names = ["hash inputs", "merge", "imatrix", "quantize", "evaluate", "documents"];
    let of = |kind: &'static str| events.iter().filter(move |event| event["event"] == kind);
    assert_eq!(
        of("stages").map(|event| event["stages"].clone()).collect::<Vec<_>>(),
        [Json::from(names.to_vec())]
    );
    let numbers: Vec<_> =
        of("stage_begin").map(|event| event["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert!(of("stage_begin").all(|event| event["count"] == 6));
    let steps: Vec<_> = of("stage_begin").map(|event| event["steps"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 1, 1, 1, 3, 1], "the source and two files are evaluated");
    let mut units = BTreeMap::new();
    for event in of("progress") {
        units.entry(event["stage"].as_str().unwrap()).or_insert(event["unit"].as_str().unwrap());
    }
    let (bytes, tokens) = ("bytes", "layer_tokens");
    let expected = [("hash inputs", bytes), ("merge", bytes), ("imatrix", tokens)];
    let more = [("quantize", bytes), ("evaluate", tokens)];
    assert_eq!(units, expected.into_iter().chain(more).collect(), "of the first steps");
    let note = |text: &str| of("note").any(|event| event["text"].as_str().unwrap().contains(text));
    assert!(note("wrote out/demo-Q8_0.gguf") && note("Final estimate: PPL"));

    let result = ran.json();
    let told = stages(&events);
    assert_eq!(result["stages"], Json::from(told.clone()));
    assert_eq!(told.iter().map(|time| &time["stage"]).collect::<Vec<_>>(), names);
    let spent: f64 = told.iter().map(|time| time["seconds"].as_f64().unwrap()).sum();
    assert!(spent > 0.0 && spent <= result["seconds"].as_f64().unwrap(), "{result}");
    if cfg!(target_os = "linux") {
        let peak = |value: &Json| value["peak_memory_bytes"].as_u64().unwrap();
        assert!(told.iter().all(|time| (1..=peak(&result)).contains(&peak(time))), "{result}");
    }
}

#[test]
fn every_long_command_tells_what_it_took() {
    let place = Place::new();
    let text = "-f @tests/data/demo/held-out.txt --ctx 64";
    let lines = [
        ("merge @recipes/demo.yml -o merged", "merge"),
        ("convert merged -o m.gguf", "write"),
        (&format!("imatrix m.gguf {text} --save-every 0 -o i.gguf"), "imatrix"),
        ("quantize m.gguf --imatrix i.gguf Q4_K_M -o q.gguf", "quantize"),
        (&format!("eval q.gguf --against m.gguf {text}"), "evaluate"),
    ];
    let took = Regex::new(r"[0-9]\.[0-9]+ s(, peak memory [0-9.]+ MB)?\n").unwrap();
    for (line, stage) in lines {
        let ran = place.ok(&format!("{line} --json"));
        let events = events(&ran.stderr);
        let (told, result) = (stages(&events), ran.json());
        assert_eq!(told.last().unwrap()["stage"], stage, "{line}");
        assert_eq!(result["stages"], Json::from(told), "{line}");
        assert!(result["seconds"].as_f64().unwrap() > 0.0, "{line}");
        // To people the same is told in words.
        let again = line.replace(" -o ", " --force -o ");
        let stdout = place.ok(&again).stdout;
        assert!(took.is_match(&stdout), "{line}\n{stdout}");
    }
    // Saving the state between layers needs no second pass.
    let steps = |line: &str| {
        let events = events(&place.ok(&format!("{line} --force --json")).stderr);
        let begun = events.into_iter().find(|event| event["event"] == "stage_begin").unwrap();
        begun["steps"].as_u64().unwrap()
    };
    let imatrix = format!("imatrix m.gguf {text} -o i.gguf --chunks 5");
    assert_eq!((steps(&imatrix), steps(&format!("{imatrix} --save-every 0"))), (1, 1));
}

#[test]
fn the_last_event_of_a_failure_is_its_error() {
    let place = Place::new();
    place.ok("convert @recipes/demo/clerk -o clerk.gguf");
    let last = |code: i32, line: &str| {
        let ran = run(&place, code, line);
        assert_eq!(ran.stdout, "", "{line}");
        let events = events(&ran.stderr);
        stages(&events);
        let last = events.last().unwrap().clone();
        assert_eq!((&last["event"], &last["exit_code"]), (&"error".into(), &code.into()), "{line}");
        (events.len(), last["text"].as_str().unwrap().to_string())
    };
    let (count, text) = last(2, "convert clerk.gguf -o clerk.gguf --json");
    assert!(count == 1 && text.contains("is also an input of this command"), "{text}");
    let (count, text) = last(1, "convert missing -o x.gguf --json");
    assert!(count == 1 && text.starts_with("missing: cannot"), "{text}");
    // One that comes up in the middle of the work.
    fs::create_dir(place.path("broken")).unwrap();
    for file in entries(&shipped("recipes/demo/clerk")) {
        fs::copy(shipped("recipes/demo/clerk").join(&file), place.path("broken").join(&file))
            .unwrap();
    }
    let weights = place.path("broken/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4096..].fill(0xff);
    fs::write(&weights, bytes).unwrap();
    let (count, text) = last(1, "quantize broken Q8_0 -o x.gguf --json");
    assert!(count >= 4 && text.contains("NaN"), "{count} {text}");
    let (count, _) = last(1, "quantize broken Q8_0 -o x.gguf --json --quiet");
    assert_eq!(count, 1);
    // A warning is let through, nothing else.
    let text = "-f @tests/data/demo/held-out.txt --ctx 64 --chunks 2 --json --quiet";
    let events = events(&place.ok(&format!("eval clerk.gguf {text}")).stderr);
    assert_eq!(events.iter().map(|e| &e["event"]).collect::<Vec<_>>(), ["warning"]);
}

#[test]
fn a_log_keeps_what_happened() {
    let place = Place::new();
    let line = format!("{BUILD} -o out --log run.log");
    place.ok(&line);
    let text = String::from_utf8(place.read("run.log")).unwrap();
    let form = r"^20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\d\.\d{3}Z (begin|command|stages|stage|note|warning|error|end) +\S";
    let form = Regex::new(form).unwrap();
    assert!(text.lines().all(|line| form.is_match(line)), "{text}");
    let times: Vec<_> = text.lines().map(|line| &line[..24]).collect();
    assert!(times.is_sorted(), "{text}");
    let said =
        |text: &str| -> Vec<String> { text.lines().map(|line| line[25..].to_string()).collect() };
    let said_now = said(&text);
    assert!(
        said_now[0].starts_with(&format!("begin   aqueduct {} in ", env!("CARGO_PKG_VERSION")))
    );
    assert!(
        said_now[1].starts_with("command aqueduct build ")
            && said_now[1].ends_with(" --log run.log")
    );
    for part in [
        "stages  hash inputs, merge, imatrix, quantize, evaluate, documents",
        "stage   imatrix begins",
        "note    wrote out/demo-Q8_0.gguf",
    ] {
        assert!(said_now.iter().any(|line| line == part), "{part} is not in\n{text}");
    }
    let took = Regex::new(r"(?m) stage   evaluate took \d+\.\d{3} s").unwrap();
    assert!(took.is_match(&text), "{text}");
    assert!(said_now.last().unwrap().starts_with("end     exit code 0, "), "{text}");

    // A second run is added, with its error and exit code; colours and --quiet change nothing.
    let line = "convert nowhere -o x.gguf --log run.log --color always --quiet";
    let output = place.command(line).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let both = String::from_utf8(place.read("run.log")).unwrap();
    let more = both.strip_prefix(&text).expect("a log is continued");
    assert!(!more.contains('\u{1b}'));
    let more = said(more);
    assert_eq!(more.len(), 4, "{more:?}");
    assert!(more[2].starts_with("error   nowhere: cannot"), "{more:?}");
    assert!(more[3].starts_with("end     exit code 1, "), "{more:?}");

    // Words that a shell would take apart are in quotes; each line of an error has its time.
    fs::write(place.path("my recipe.yml"), "merge_method: 'lineal'\n").unwrap();
    let output = place.command("plan --log two.log").arg("my recipe.yml").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(place.read("two.log")).unwrap();
    assert!(text.contains("command aqueduct plan --log two.log 'my recipe.yml'\n"), "{text}");
    assert!(text.lines().filter(|line| line[25..].starts_with("error ")).count() > 2, "{text}");
    place.fails(
        1,
        "convert @recipes/demo/clerk -o x.gguf --log no/such/folder.log",
        &["folder.log: cannot open the log"],
    );
    assert_eq!(place.entries(), ["my recipe.yml", "out", "run.log", "two.log"]);
}

#[test]
fn secrets_of_the_environment_are_in_no_log() {
    let place = Place::new();
    let mut command = place.command("convert @recipes/demo/clerk -o x.gguf --log run.log --json");
    let output = command.env("HF_TOKEN", "hf_secret123").output().unwrap();
    let ran = finished("convert", 0, output);
    let log = String::from_utf8(place.read("run.log")).unwrap();
    assert!(![log, ran.stdout, ran.stderr].iter().any(|text| text.contains("hf_secret123")));
}

#[test]
fn colours_come_where_they_are_asked_for() {
    let place = Place::new();
    place.ok("convert @recipes/demo/clerk -o clerk.gguf");
    let run = |line: &str, set: &[(&str, &str)]| {
        let mut command = place.command(line);
        COLOURS.iter().for_each(|name| {
            command.env_remove(name);
        });
        let output = command.envs(set.iter().copied()).output().unwrap();
        [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap().contains('\u{1b}'))
    };
    let eval = "eval clerk.gguf -f @tests/data/demo/held-out.txt --ctx 64 --chunks 2";
    let (none, both) = ([false, false], [true, true]);
    assert_eq!(run(eval, &[]), none, "a pipe is no terminal");
    assert_eq!(run(eval, &[("CLICOLOR_FORCE", "1")]), both);
    assert_eq!(run(eval, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]), none);
    assert_eq!(run(eval, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "")]), both);
    let asked = |when: &str| format!("{eval} --color {when}");
    assert_eq!(run(&asked("always"), &[("NO_COLOR", "1")]), both, "who asks, gets");
    assert_eq!(run(&asked("never"), &[("CLICOLOR_FORCE", "1")]), none);
    assert_eq!(run(&asked("auto"), &[]), none);
    assert_eq!(run(&format!("{} --json", asked("always")), &[]), none, "JSON has none");
    let plan = "plan @recipes/demo.yml --color";
    assert_eq!(run(&format!("{plan} always"), &[]), [true, false]);
    assert_eq!(run(&format!("{plan} never"), &[("CLICOLOR_FORCE", "1")]), none);
    let missing = "convert nowhere -o x.gguf --color always";
    assert_eq!(run(missing, &[]), [false, true]);
    // Bold red and bold magenta, which can be read on black and on white.
    let stderr =
        |line: &str| String::from_utf8(place.command(line).output().unwrap().stderr).unwrap();
    assert!(stderr(missing).starts_with("\u{1b}[1m\u{1b}[31merror:\u{1b}[0m nowhere"));
    assert!(stderr(&asked("always")).contains("\u{1b}[1m\u{1b}[35mwarning:\u{1b}[0m only"));
    place.fails(2, "plan clerk.gguf --color sometimes", &["--color", "always", "never"]);
}

#[test]
fn quiet_leaves_results_and_problems() {
    let place = Place::new();
    let loud = place.ok(&format!("{BUILD} -o loud"));
    let quiet = place.ok(&format!("{BUILD} -o quiet --quiet"));
    assert!(loud.stderr.contains("wrote loud/demo-Q8_0.gguf"), "{}", loud.stderr);
    let problem = |line: &str| line.starts_with("warning: ");
    assert!(quiet.stderr.lines().all(problem), "{}", quiet.stderr);
    let next = "\nnext     aqueduct verify loud\n";
    assert!(loud.stdout.contains(next) && !quiet.stdout.contains("next "), "{}", loud.stdout);
    for stdout in [&loud.stdout, &quiet.stdout] {
        let rows =
            ["hash inputs", "merge", "imatrix", "quantize", "evaluate", "documents", "total"];
        for row in rows {
            let row = Regex::new(&format!(r"(?m)^{row} +\d+\.\d+( +[\d.]+ MB)?$")).unwrap();
            assert_eq!(row.find_iter(stdout).count(), 1, "{row}\n{stdout}");
        }
    }
    // What is named next can be done.
    place.ok("verify loud");
}

/// What the program shows on a terminal, which `script` (of util-linux) stands for.
#[cfg(target_os = "linux")]
#[test]
fn a_terminal_shows_one_line() {
    let place = Place::new();
    let build = "build recipe --types Q8_0 --chunks 4 --ctx 128 -o out";
    let program = env!("CARGO_BIN_EXE_aqueduct");
    let line = format!(
        "{program} {}",
        build.replace("recipe", shipped("recipes/demo.yml").to_str().unwrap())
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).current_dir(place.path("."));
    COLOURS.iter().for_each(|name| {
        command.env_remove(name);
    });
    let output = command.env("TERM", "xterm").env("NO_COLOR", "1").output();
    let output = output.expect("script, of util-linux, is in PATH");
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    let bars = Regex::new(r"\[\d/4\] ([a-z ]+)  \[=*>? *\] +\d+%.{13,}ETA +[\d:-]+").unwrap();
    let seen: Vec<_> = bars.captures_iter(&shown).map(|found| found[1].to_string()).collect();
    assert!(seen.contains(&"imatrix".to_string()), "{shown:?}");
    assert!(shown.contains("imatrix") && !shown.contains("\u{1b}[1m"), "{shown:?}");
    // What stays is what a pipe gets: each line that is drawn is taken away again.
    let left: Vec<&str> = shown.lines().map(|l| l.rsplit("\u{1b}[2K").next().unwrap()).collect();
    assert!(!left.iter().any(|line| line.contains("ETA")), "{left:?}");
    assert!(left.iter().any(|line| line.starts_with("next     aqueduct verify out")), "{left:?}");
}
