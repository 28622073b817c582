//! Lists metadata and tensors of a model: `cargo run --example read_gguf -- FILE`.

use aqueduct::Model;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: read_gguf FILE")?;
    let model = Model::open(path)?;
    let metadata = model.metadata()?;
    for key in ["general.architecture", "general.name"] {
        println!("{key}: {}", metadata.str(key).unwrap_or("-"));
    }
    for tensor in model.tensors() {
        println!("{} {:?} {}", tensor.name, tensor.shape, tensor.dtype);
    }
    if let Some(first) = model.tensors().first() {
        let values = model.read_f32(&first.name)?;
        println!("{} begins with {:?}", first.name, &values[..values.len().min(4)]);
    }
    Ok(())
}
