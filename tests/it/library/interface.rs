//! The functions at the crate's root do what the commands do, and errors have their places as fields.

use crate::support::files::assert_same_folders;
use crate::support::program::{Place, shipped};
use aqueduct::{
    BuildOptions, Error, EvaluateOptions, Ftype, Imatrix, ImatrixOptions, Kind, Merge,
    MergeOptions, Model, QuantizeOptions, Silent, build, collect_imatrix, evaluate, quantize,
    verify,
};
use std::fs;

fn demo() -> Model {
    Model::open(shipped("recipes/demo.yml")).unwrap()
}

#[test]
fn merges_are_those_of_the_command() {
    let place = Place::new();
    place.ok("merge @recipes/demo.yml -o command --max-shard-size 1MB");
    let merge = Merge::plan(shipped("recipes/demo.yml")).unwrap();
    let options = MergeOptions::default().max_shard_bytes(Some(1_000_000));
    let report = merge.write(place.path("library"), &options, &Silent).unwrap();
    assert!(report.shards > 1 && report.resumed_shards == 0, "{report:?}");
    assert_eq!(report.bytes, sizes(&place, "library"));
    assert_same_folders(&place.path("library"), &place.path("command"));
    let again = merge.write(place.path("library"), &options, &Silent);
    assert!(matches!(again, Err(Error::Usage(_))), "{again:?}");
    let model = Merge::plan(shipped("recipes/demo/clerk"));
    assert!(matches!(model, Err(Error::Usage(_))), "a model is not a merge");
}

/// Bytes of the safetensors files in the folder `name`.
fn sizes(place: &Place, name: &str) -> u64 {
    let files = fs::read_dir(place.path(name)).unwrap().map(|entry| entry.unwrap());
    let shards = files.filter(|file| file.path().extension().is_some_and(|e| e == "safetensors"));
    shards.map(|file| file.metadata().unwrap().len()).sum()
}

#[test]
fn quants_are_those_of_the_commands_with_the_same_matrix() {
    let place = Place::new();
    place.ok("imatrix @recipes/demo.yml -o command.gguf --ctx 64 --chunks 3");
    place.ok("quantize @recipes/demo.yml --imatrix command.gguf -o command Q4_K_M IQ3_XXS");
    let options = ImatrixOptions::default().ctx(64).chunks(Some(3));
    let collected = collect_imatrix(&demo(), &options, &Silent).unwrap();
    assert!(collected.perplexity().is_some_and(|(value, error)| value > 1.0 && error > 0.0));
    collected.save(place.path("library.gguf"), false).unwrap();
    assert!(place.read("library.gguf") == place.read("command.gguf"));

    let imatrix = Imatrix::open(place.path("command.gguf")).unwrap();
    assert_eq!((imatrix.entries(), imatrix.perplexity()), (collected.entries(), None));
    let types = [Ftype::Q4_K_M, Ftype::IQ3_XXS];
    let folder = place.path("library");
    let none = QuantizeOptions::default();
    let refused = quantize(&demo(), &types, None, &folder, &none, &Silent);
    assert!(refused.is_err() && !folder.exists(), "IQ3_XXS needs an importance matrix");
    let files = quantize(&demo(), &types, Some(&imatrix), &folder, &none, &Silent).unwrap();
    for (file, name) in files.iter().zip(["demo-Q4_K_M.gguf", "demo-IQ3_XXS.gguf"]) {
        let [library, command] =
            [&file.path, &place.path("command").join(name)].map(|path| Model::open(path).unwrap());
        assert_eq!(library.tensors(), command.tensors());
        for tensor in library.tensors() {
            let name = &tensor.name;
            assert!(library.read_f32(name).unwrap() == command.read_f32(name).unwrap(), "{name}");
        }
        assert_eq!(file.bytes, fs::metadata(&file.path).unwrap().len());
    }
}

#[test]
fn verification_finds_damage_and_other_sources() {
    let place = Place::new();
    let folder = place.path("files");
    let options = QuantizeOptions::default();
    let files = quantize(&demo(), &[Ftype::Q8_0], None, &folder, &options, &Silent).unwrap();
    let sound = verify(&folder, Some(&demo()), &Silent).unwrap();
    assert_eq!(sound.files, [files[0].path.clone()]);
    assert!(sound.problems.is_empty(), "{:?}", sound.problems);
    let other = Model::open(shipped("recipes/demo/clerk")).unwrap();
    assert!(!verify(&folder, Some(&other), &Silent).unwrap().problems.is_empty());
    let bytes = fs::read(&files[0].path).unwrap();
    fs::write(&files[0].path, &bytes[..bytes.len() - 40]).unwrap();
    let damaged = verify(&folder, None, &Silent).unwrap();
    let [problem] = damaged.problems.as_slice() else { panic!("{:?}", damaged.problems) };
    assert_eq!(problem.file, files[0].path);
}

#[test]
fn evaluations_and_builds_are_those_of_the_commands() {
    let place = Place::new();
    let text = fs::read_to_string(shipped("tests/data/demo/held-out.txt")).unwrap();
    let line = "eval @recipes/demo.yml --against @recipes/demo/clerk -f @tests/data/demo/held-out.txt \
                --ctx 64 --chunks 2 --json";
    let command = place.ok(line).json();
    let clerk = Model::open(shipped("recipes/demo/clerk")).unwrap();
    let options = EvaluateOptions::default().reference(Some(&clerk)).ctx(Some(64)).chunks(Some(2));
    let measured = evaluate(&[&demo()], &text, &options, &Silent).unwrap();
    assert_eq!(command["models"][0]["perplexity"]["value"], measured[0].perplexity.value);
    let divergence = measured[0].divergence.as_ref().unwrap();
    assert_eq!(
        command["models"][0]["divergence"]["kld"]["mean"]["value"],
        divergence.kld.mean.value
    );

    place.ok("build @recipes/demo.yml -o command --types Q4_K_M --chunks 2");
    let options = BuildOptions::default().types(vec![Ftype::Q4_K_M]).chunks(Some(2));
    let report = build(&demo(), place.path("library"), &options, &Silent).unwrap();
    let name = "demo-Q4_K_M.gguf";
    assert_eq!(report.files[0].path, place.path("library").join(name));
    assert!(
        fs::read(place.path("command").join(name)).unwrap()
            == fs::read(&report.files[0].path).unwrap()
    );
    let again = build(&demo(), place.path("library"), &options, &Silent).unwrap();
    assert!(again.reused.contains(&report.files[0].path), "{again:?}");
}

#[test]
fn errors_have_their_places_as_fields() {
    let place = Place::new();
    fs::write(place.path("r.yml"), "merge_method: lineer\nmodels: [{model: gone}]\n").unwrap();
    let Err(Error::Recipe { path, problems, text }) = Model::open(place.path("r.yml")) else {
        panic!("a recipe with errors must not open");
    };
    assert_eq!(path, place.path("r.yml"));
    let problem = &problems[0];
    assert_eq!((problem.line, problem.column, problem.is_warning), (1, 15, false));
    assert!(problem.remedy.contains("linear") && text.contains("r.yml:1:15"), "{text}");

    place.ok("convert @recipes/demo/clerk -o model.gguf");
    let whole = place.read("model.gguf");
    fs::write(place.path("cut.gguf"), &whole[..2000]).unwrap();
    let Err(Error::Format { path, offset: Some(offset), .. }) = Model::open(place.path("cut.gguf"))
    else {
        panic!("a cut file must not open");
    };
    assert!(path == place.path("cut.gguf") && offset <= 2000, "{offset}");

    let model = Model::open(place.path("model.gguf")).unwrap();
    assert_eq!((model.kind(), model.name().as_str()), (Kind::Gguf, "model"));
    let missing = model.read_f32("no.such.tensor");
    assert!(matches!(missing, Err(Error::Tensor { tensor, .. }) if tensor == "no.such.tensor"));
}
