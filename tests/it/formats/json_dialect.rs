//! JSON as Python's `json` module reads it, in every file beside the weights.

use crate::support::program::{Place, shipped};
use std::fs;

/// The demo's clerk, whose file `name` is what `edit` makes of its text.
fn place(name: &str, edit: impl Fn(&str) -> String) -> Place {
    let place = Place::new();
    fs::create_dir(place.path("model")).unwrap();
    for entry in fs::read_dir(shipped("recipes/demo/clerk")).unwrap() {
        let path = entry.unwrap().path();
        let to = place.path("model").join(path.file_name().unwrap());
        if path.file_name().is_some_and(|own| own == name) {
            fs::write(to, edit(&fs::read_to_string(&path).unwrap())).unwrap();
        } else {
            fs::copy(&path, to).unwrap();
        }
    }
    place
}

/// `text`, an object, with a mark of byte order, and `members` put before its own.
fn with(text: &str, members: &str) -> String {
    format!("\u{feff}{}", text.replacen('{', &format!("{{{members}, "), 1))
}

#[test]
fn side_files_with_marks_nan_and_repeated_keys_convert_alike() {
    let expected = {
        let place = Place::new();
        place.ok("convert @recipes/demo/clerk -o m.gguf --name m --quiet");
        place.read("m.gguf")
    };
    for (name, members) in [
        (
            "config.json",
            r#""vocab_size": 7, "router_z_loss_coef": NaN, "quantization_config": null"#,
        ),
        ("generation_config.json", r#""x": [Infinity, -Infinity], "top_k": null, "odd": "\ud800""#),
        ("tokenizer_config.json", r#""x": NaN, "bos_token": "wrong", "chat_template": null"#),
        ("tokenizer.json", r#""model": {}, "added_tokens": null"#),
        ("special_tokens_map.json", r#""x": NaN"#),
    ] {
        let place = place(name, |text| with(text, members));
        place.ok("convert model -o m.gguf --name m --quiet");
        let metadata = |bytes: &[u8]| {
            fs::write(place.path("x.gguf"), bytes).unwrap();
            aqueduct::formats::gguf::open(place.path("x.gguf")).unwrap().metadata
        };
        let made = place.read("m.gguf");
        assert_eq!(metadata(&made), metadata(&expected), "{name}");
        assert_eq!(made, expected, "{name}");
    }
}

#[test]
fn numbers_that_json_lacks_survive_a_merge() {
    let place =
        place("config.json", |text| with(text, r#""time_step_limit": [0.0, Infinity], "z": NaN"#));
    let recipe = "merge_method: passthrough\nmodels:\n- model: model\n";
    fs::write(place.path("r.yml"), recipe).unwrap();
    place.ok("merge r.yml -o out --quiet");
    let written = String::from_utf8(place.read("out/config.json")).unwrap();
    let written: String = written.split_whitespace().collect();
    assert!(written.contains(r#""time_step_limit":[0.0,Infinity],"z":NaN"#), "{written}");
}

#[test]
fn an_adapter_and_an_index_are_read_leniently_too() {
    let place = place("", str::to_string);
    fs::create_dir(place.path("adapter")).unwrap();
    let config = "\u{feff}{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"x\": NaN, \"bias\": null, \
                  \"rank_pattern\": null, \"modules_to_save\": null, \"target_modules\": [\"q_proj\"]}";
    fs::write(place.path("adapter/adapter_config.json"), config).unwrap();
    let recipe = "merge_method: passthrough\nmodels:\n- model: model+adapter\n";
    fs::write(place.path("r.yml"), recipe).unwrap();
    // The configuration is read; what is missing are the weights.
    place.fails(1, "merge r.yml -o out", &["an adapter without weights"]);
}
