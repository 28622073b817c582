//! Results as data and as plain text tables: evaluations, importance matrices, differences, plans and
//! the contents of files.
//!
//! Not here: drawings (`pictures`) and documents for publishing (`cards`).

mod evaluation;
mod imatrix_difference;
mod imatrix_statistics;
mod inspect;
mod inspect_text;
mod merge_plan;
mod model_difference;
mod table;

pub use evaluation::evaluation_table;
pub use imatrix_difference::{DifferenceRow, ImatrixDifference, Summary, imatrix_difference};
pub use imatrix_statistics::{
    ImatrixStatistics, LayerRow, NeverMet, Ranking, RunReport, StatisticsRow, imatrix_statistics,
};
pub(crate) use imatrix_statistics::{percent, place, similarity};
pub use inspect::{
    GgufReport, ImatrixReport, ImatrixRow, Inspection, MetadataRow, SafetensorsReport, TensorRow,
    TypeTotal, Weights, inspect,
};
pub use merge_plan::render_merge;
pub(crate) use merge_plan::{donors, formula, members, methods, stages};
pub use model_difference::{
    ErrorRow, Errors, MetadataChange, ModelDifference, TensorBrief, TensorDifferenceRow,
};
pub use table::table;
