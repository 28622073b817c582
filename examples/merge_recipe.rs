//! Writes a merge as a Hugging Face folder: `cargo run --example merge_recipe -- RECIPE DIR`.

use aqueduct::{Merge, MergeOptions, Silent};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(recipe), Some(dir)) = (arguments.next(), arguments.next()) else {
        return Err("usage: merge_recipe RECIPE DIR".into());
    };
    let merge = Merge::plan(recipe)?;
    merge.warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
    println!("members: {}", merge.members().join(", "));
    let report = merge.write(&dir, &MergeOptions::default(), &Silent)?;
    println!("{dir}: {} tensors, {} bytes", report.tensors, report.bytes);
    Ok(())
}
