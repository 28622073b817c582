//! Compares two models on a text: `cargo run --example measure_two_files -- REFERENCE MODEL TEXT`.

use aqueduct::{EvaluateOptions, Model, Silent, evaluate};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [reference, model, text] = arguments.as_slice() else {
        return Err("usage: measure_two_files REFERENCE MODEL TEXT".into());
    };
    let (reference, model) = (Model::open(reference)?, Model::open(model)?);
    let text = std::fs::read_to_string(text)?;
    let options = EvaluateOptions::default().reference(Some(&reference));
    for measured in evaluate(&[&model], &text, &options, &Silent)? {
        let perplexity = measured.perplexity;
        println!(
            "{}: perplexity {:.4} +- {:.4}",
            measured.name, perplexity.value, perplexity.error
        );
        if let Some(divergence) = measured.divergence {
            println!(
                "KL divergence {:.6} +- {:.6}",
                divergence.kld.mean.value, divergence.kld.mean.error
            );
        }
    }
    Ok(())
}
