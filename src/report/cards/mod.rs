//! Documents that are published with a model: model cards in Markdown and the report page of a folder
//! of quants.

mod markdown;
mod merge_card;
mod published;
mod quants_card;
mod quants_page;

pub use merge_card::merge_readme;
pub use published::{
    Figures, Published, PublishedEvaluation, PublishedFile, PublishedImatrix, PublishedMerge,
    QUANTIZING,
};
pub use quants_card::published_readme;
pub use quants_page::published_html;
