//! What people read: results as tables and as JSON.
//!
//! Reports are data first (serializable), text second; nothing here prints.

mod difference_picture;
mod evaluation;
mod heat_map;
mod html;
mod imatrix_difference;
mod imatrix_statistics;
mod inspect;
mod layer_frame;
mod markdown;
mod model_difference;
mod palette;
mod plan;
mod published;
mod published_page;
mod published_readme;
mod readme;
mod render;
mod scale;
mod scatter;
mod stack;
mod stack_labels;
mod stack_layout;
mod stack_picture;
mod stack_text;
mod svg;
mod table;
mod type_map;

pub use difference_picture::difference_svg;
pub use evaluation::evaluation_table;
pub use heat_map::imatrix_svg;
pub use html::{difference_html, imatrix_html, page, stack_html};
pub use imatrix_difference::{DifferenceRow, ImatrixDifference, Summary, imatrix_difference};
pub use imatrix_statistics::{
    ImatrixStatistics, LayerRow, NeverMet, Ranking, RunReport, StatisticsRow, imatrix_statistics,
};
pub use inspect::{
    GgufReport, ImatrixReport, ImatrixRow, Inspection, MetadataRow, SafetensorsReport, TensorRow,
    TypeTotal, Weights, inspect,
};
pub use model_difference::{
    ErrorRow, Errors, MetadataChange, ModelDifference, TensorBrief, TensorDifferenceRow,
};
pub use plan::render_merge;
pub use published::{
    Figures, Published, PublishedEvaluation, PublishedFile, PublishedImatrix, PublishedMerge,
    QUANTIZING, TensorOfType,
};
pub use published_page::published_html;
pub use published_readme::published_readme;
pub use readme::merge_readme;
pub use render::tame;
pub use stack_picture::stack_svg;
pub use stack_text::render_stack;
pub use svg::{Rect, Svg, escape};
pub use table::table;
