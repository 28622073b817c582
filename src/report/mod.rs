//! Results for people and for other programs: tables, pictures, model cards and pages.
//!
//! Each report is data first (serializable), then text. Nothing here prints or writes files.

mod cards;
mod pictures;
mod tables;
mod text;

pub use cards::{
    Figures, Published, PublishedEvaluation, PublishedFile, PublishedImatrix, PublishedMerge,
    QUANTIZING, merge_readme, published_html, published_readme,
};
pub use pictures::{
    Rect, Svg, TypedTensor, difference_html, difference_svg, escape, imatrix_html, imatrix_svg,
    page, render_stack, stack_html, stack_svg,
};
pub use tables::{
    DifferenceRow, ErrorRow, Errors, GgufReport, ImatrixDifference, ImatrixReport, ImatrixRow,
    ImatrixStatistics, Inspection, LayerRow, MetadataChange, MetadataRow, ModelDifference,
    NeverMet, Ranking, RunReport, SafetensorsReport, StatisticsRow, Summary, TensorBrief,
    TensorDifferenceRow, TensorRow, TypeTotal, Weights, evaluation_table, imatrix_difference,
    imatrix_statistics, inspect, render_merge, table,
};
pub use text::escape_control_chars;
