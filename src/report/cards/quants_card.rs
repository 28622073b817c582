//! The model card of a folder of quants, as publishers write it for the Hugging Face hub: front matter, a table
//! of files with figures and advice, the prompt's format, how it was made, how to verify.
//!
//! Keys of the front matter: huggingface.co/docs/hub/model-cards, 2025. Deliberately absent: claims about the
//! model itself, which are the business of its own card.

use super::markdown::{code_block, plain};
use super::published::{Figures, Published, PublishedFile, PublishedMerge};
use crate::base::size;
use crate::report::tables::methods;
use serde_json::{Map, Value as Json};

/// Licences that the hub has a name for; others are `other` with a name of their own.
const LICENSES: &str = "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 \
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 \
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 \
    cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 \
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl \
    gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 \
    odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr \
    deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma \
    unknown other";

/// The card, front matter included.
pub fn published_readme(folder: &Published) -> String {
    let front = serde_yaml::to_string(&front_matter(folder)).expect("names and texts");
    let mut parts = vec![format!("---\n{}\n---\n# {}\n", front.trim_end(), title(folder))];
    parts.push(introduction(folder));
    parts.push(format!("## Files\n\n{}", files(folder)));
    if let Some(prompt) = &folder.prompt {
        parts.push(format!("## Prompt format\n\n{}", code_block("", prompt)));
    }
    parts.push(format!("## How it was made\n\n{}", made(folder)));
    parts.push(format!("## Verify\n\n{}", verify(folder)));
    if let Some(PublishedMerge { recipe, recipe_file, .. }) = &folder.merge {
        let block = code_block("yaml", recipe);
        parts.push(format!("## Recipe\n\n[{recipe_file}]({recipe_file}):\n\n{block}"));
    }
    parts.join("\n")
}

fn title(folder: &Published) -> String {
    format!("{} GGUF", plain(&folder.name))
}

fn front_matter(folder: &Published) -> Map<String, Json> {
    let mut front = Map::new();
    if !folder.base_models.is_empty() {
        front.insert("base_model".into(), folder.base_models.clone().into());
        front.insert("base_model_relation".into(), "quantized".into());
    }
    if !folder.languages.is_empty() {
        front.insert("language".into(), folder.languages.clone().into());
    }
    match folder.license.as_deref() {
        Some(license) if LICENSES.split_whitespace().any(|known| known == license) => {
            front.insert("license".into(), license.into());
        }
        Some(license) => {
            front.insert("license".into(), "other".into());
            front.insert("license_name".into(), license.into());
        }
        None => {}
    }
    front.insert("model_name".into(), folder.name.clone().into());
    front.insert("pipeline_tag".into(), folder.pipeline_tag.clone().into());
    if let Some(who) = &folder.quantized_by {
        front.insert("quantized_by".into(), who.clone().into());
    }
    let mut tags: Vec<String> = vec!["gguf".into(), "imatrix".into()];
    tags.extend(folder.merge.iter().map(|_| "merge".to_string()));
    for tag in &folder.tags {
        if !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }
    front.insert("tags".into(), tags.into());
    front
}

fn introduction(folder: &Published) -> String {
    let (parameters, name) = (size::count(folder.parameters), plain(&folder.name));
    let links = folder.base_models.iter().map(|id| format!("[{id}](https://huggingface.co/{id})"));
    let links: Vec<_> = links.collect();
    let of = match (&folder.merge, links.is_empty()) {
        (Some(_), false) => format!(", a merge of {}", links.join(", ")),
        (Some(merge), true) => match merge.summary.members.len() {
            1 => ", made of the layers of one model".to_string(),
            members => format!(", a merge of {members} models"),
        },
        (None, false) => format!(", made from {}", links.join(", ")),
        (None, true) => String::new(),
    };
    let mut text = format!(
        "GGUF files of {name} ({parameters} parameters, {}){of}. All were quantized with an importance matrix \
         and run in llama.cpp and programs built on it.\n",
        plain(&folder.architecture)
    );
    for (who, quantization) in &folder.quantized_sources {
        text += &format!(
            "\nThe weights of {} were quantized before, as {}; the files here were made from them, dequantized.\n",
            plain(who),
            plain(quantization)
        );
    }
    if !folder.licenses.is_empty() {
        let licences = folder
            .licenses
            .iter()
            .map(|(who, license)| format!("- {}: {}\n", plain(who), plain(license)));
        text +=
            &format!("\nIts members have different licences:\n\n{}", licences.collect::<String>());
    }
    text
}

/// The table of files, and what its figures mean.
fn files(folder: &Published) -> String {
    let measured = folder.evaluation.is_some();
    let (heads, lines) = match measured {
        true => (" perplexity | mean KLD | same top token |", "---:|---:|---:|"),
        false => ("", ""),
    };
    let mut text = format!(
        "| file | type | size | bits per weight |{heads} |\n|---|---|---:|---:|{lines}---|\n"
    );
    for file in &folder.files {
        let PublishedFile { ftype, bytes, bits_per_weight, advice, figures, .. } = file;
        let size = size::display(*bytes);
        let figures = figures.as_ref().filter(|_| measured).map_or(String::new(), |figures| {
            let Figures { perplexity, kld, same_top } = figures;
            format!(
                " {:.4} ± {:.4} | {:.6} | {:.2} % |",
                perplexity.value,
                perplexity.error,
                kld.value,
                100.0 * same_top.value
            )
        });
        let names = file_links(file);
        text +=
            &format!("| {names} | {ftype} | {size} | {bits_per_weight:.2} |{figures} {advice} |\n");
    }
    if let Some(evaluation) = &folder.evaluation {
        let (text_name, tokens) = (plain(&evaluation.text), evaluation.tokens);
        text += &format!(
            "\nPerplexity over {tokens} tokens of {text_name} (chunks of {}); that of the source is {:.4} ± {:.4}. KLD is \
             the Kullback-Leibler divergence of the predictions from the source's, in nats; same top token the share \
             of tokens for which both hold the same one for the likeliest. Lower, and higher, are better.\n",
            evaluation.ctx, evaluation.perplexity.value, evaluation.perplexity.error
        );
    }
    text
}

fn file_links(file: &PublishedFile) -> String {
    let link = |name: &String| format!("[{name}]({name})");
    match &file.names[..] {
        [first, .., last] => format!("{} … {}", link(first), link(last)),
        names => names.iter().map(link).collect(),
    }
}

fn made(folder: &Published) -> String {
    let imatrix = &folder.imatrix;
    let texts: Vec<_> = imatrix.texts.iter().map(|text| plain(text)).collect();
    let mut text = String::new();
    if let Some(PublishedMerge { summary, recipe_file, picture, .. }) = &folder.merge {
        text += &format!("Merged by [{recipe_file}]({recipe_file}) in these stages:\n\n");
        for stage in &summary.stages {
            let (name, layers) = (plain(&stage.name), stage.layers.len());
            text += &format!("- {name}: {layers} layers, {}\n", plain(&methods(stage)));
        }
        text += &format!("\n![What the layers are made of]({picture})\n\n");
    }
    text += &format!(
        "Importance matrix [{0}]({0}): {1} chunks of {2} tokens of {3}.\n\nMade with Aqueduct {4}; metadata keys \
         `aqueduct.*` of each file hold hashes of what it was made of. [report.html](report.html) shows sizes against \
         quality, the importance of layers and the types of tensors.\n",
        imatrix.file,
        imatrix.chunks,
        imatrix.ctx,
        texts.join(", "),
        env!("CARGO_PKG_VERSION")
    );
    text
}

fn verify(folder: &Published) -> String {
    let sums = folder.checksums;
    let command = code_block("sh", &format!("sha256sum --check --ignore-missing {sums}"));
    format!("Of the files that are there:\n\n{command}")
}
