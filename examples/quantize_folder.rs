//! Quantizes a model with an importance matrix: `cargo run --example quantize_folder -- SOURCE DIR TYPE...`.

use aqueduct::{
    Ftype, ImatrixOptions, Model, Progress, QuantizeOptions, Unit, collect_imatrix, quantize,
};

/// Prints the name of each step.
struct Steps;

impl Progress for Steps {
    fn begin(&self, step: &str, total: u64, _: Unit) {
        eprintln!("{step}: {total}");
    }

    fn advance(&self, _: u64) {}

    fn detail(&self, _: &str) {}

    fn note(&self, text: &str) {
        eprintln!("{text}");
    }

    fn warn(&self, text: &str) {
        eprintln!("warning: {text}");
    }

    fn end(&self) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, dir, types @ ..] = arguments.as_slice() else {
        return Err("usage: quantize_folder SOURCE DIR TYPE...".into());
    };
    let types = types.iter().map(|name| name.parse::<Ftype>()).collect::<Result<Vec<_>, _>>()?;
    let model = Model::open(source)?;
    let imatrix = collect_imatrix(&model, &ImatrixOptions::default().chunks(Some(8)), &Steps)?;
    let options = QuantizeOptions::default();
    for file in quantize(&model, &types, Some(&imatrix), dir, &options, &Steps)? {
        println!("{}: {:.2} bits per weight", file.path.display(), file.bits_per_weight);
    }
    Ok(())
}
