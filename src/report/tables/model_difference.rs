//! How two models differ, see [`crate::measure::compare`]: as data, and as tables.

use super::imatrix_statistics::place;
use super::inspect::{MetadataRow, metadata_row};
use super::inspect_text::{shape_text, value_text};
use super::table::table;
use crate::formats::source::TensorInfo;
use crate::measure::compare::{ComparedTensor, KeyDifference, ModelComparison, Sums, Values};
use crate::measure::imatrix::{kind, split_layer};
use crate::report::text::{one_line, significant};
use serde::Serialize;

/// The result of `aqueduct diff`.
#[derive(Clone, Debug, Serialize)]
pub struct ModelDifference {
    pub first: String,
    pub second: String,
    pub metadata: Vec<MetadataChange>,
    /// All tensors together.
    pub all: ErrorRow,
    /// The same by kind of tensor, the kinds that differ most first.
    pub kinds: Vec<ErrorRow>,
    /// In the first's order.
    pub tensors: Vec<TensorDifferenceRow>,
    pub only_first: Vec<TensorBrief>,
    pub only_second: Vec<TensorBrief>,
}

/// A metadata key that differs; a side that does not have it is absent.
#[derive(Clone, Debug, Serialize)]
pub struct MetadataChange {
    pub key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<MetadataRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<MetadataRow>,
}

/// A tensor that only one side has.
#[derive(Clone, Debug, Serialize)]
pub struct TensorBrief {
    pub name: String,
    #[serde(rename = "type")]
    pub type_name: String,
    pub shape: Vec<usize>,
}

/// Errors over several tensors together.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorRow {
    /// A kind of tensor, or `all`.
    pub kind: String,
    pub tensors: usize,
    /// Of those, tensors with equal types and bytes.
    pub identical: usize,
    #[serde(flatten)]
    pub errors: Errors,
}

/// A tensor that both have.
#[derive(Clone, Debug, Serialize)]
pub struct TensorDifferenceRow {
    pub name: String,
    /// The layer it is in, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Its name without layer and `.weight`.
    pub kind: String,
    pub first_shape: Vec<usize>,
    pub second_shape: Vec<usize>,
    pub first_type: String,
    pub second_type: String,
    /// Whether types, shapes and all bytes are equal.
    pub identical: bool,
    /// Absent where shapes differ or a type has no meaning as numbers.
    #[serde(flatten)]
    pub errors: Option<Errors>,
}

/// Errors of the second's values against the first's; `null` in JSON where they are no finite number.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Errors {
    pub rmse: f64,
    /// |a - b| / |a|, of the L2 norms.
    pub relative_error: f64,
    pub max_abs: f64,
    pub cosine: Option<f64>,
}

impl Errors {
    fn new(sums: &Sums) -> Errors {
        Errors {
            rmse: sums.rmse(),
            relative_error: sums.relative_error(),
            max_abs: sums.max_abs,
            cosine: sums.cosine(),
        }
    }

    fn cells(&self) -> [String; 4] {
        let number = |v: f64| significant(v as f32);
        let cosine = self.cosine.map_or("-".to_string(), |v| format!("{v:.6}"));
        [number(self.rmse), number(self.relative_error), number(self.max_abs), cosine]
    }
}

impl ModelDifference {
    /// The report on `comparison`; `first` and `second` name the models.
    pub fn new(comparison: &ModelComparison, first: &str, second: &str) -> ModelDifference {
        let tensors = &comparison.tensors;
        let mut names: Vec<&str> = tensors.iter().map(|t| kind(&t.first.name)).collect();
        names.sort_by_key(|kind| (place(kind), *kind));
        names.dedup();
        let of = |name: &str| {
            let of_kind = tensors.iter().filter(|t| kind(&t.first.name) == name);
            ErrorRow::new(name, &of_kind.collect::<Vec<_>>())
        };
        let mut kinds: Vec<_> = names.into_iter().map(of).collect();
        kinds.sort_by(|a, b| b.errors.relative_error.total_cmp(&a.errors.relative_error));
        ModelDifference {
            first: first.to_string(),
            second: second.to_string(),
            metadata: comparison.metadata.iter().map(MetadataChange::new).collect(),
            all: ErrorRow::new("all", &tensors.iter().collect::<Vec<_>>()),
            kinds,
            tensors: tensors.iter().map(TensorDifferenceRow::new).collect(),
            only_first: comparison.only_first.iter().map(TensorBrief::new).collect(),
            only_second: comparison.only_second.iter().map(TensorBrief::new).collect(),
        }
    }
}

impl MetadataChange {
    fn new(difference: &KeyDifference) -> MetadataChange {
        let KeyDifference { key, first, second } = difference;
        let row = |value: &Option<_>| value.as_ref().map(|value| metadata_row(key, value));
        MetadataChange { key: key.clone(), first: row(first), second: row(second) }
    }
}

impl TensorBrief {
    fn new(info: &TensorInfo) -> TensorBrief {
        let (name, type_name) = (info.name.clone(), info.dtype.to_string());
        TensorBrief { name, type_name, shape: info.shape.clone() }
    }
}

impl ErrorRow {
    fn new(kind: &str, tensors: &[&ComparedTensor]) -> ErrorRow {
        let sums = tensors.iter().filter_map(|tensor| match &tensor.values {
            Values::Numbers { sums, .. } => Some(*sums),
            _ => None,
        });
        ErrorRow {
            kind: kind.to_string(),
            tensors: tensors.len(),
            identical: tensors.iter().filter(|tensor| identical(tensor)).count(),
            errors: Errors::new(&sums.fold(Sums::default(), Sums::plus)),
        }
    }
}

fn identical(tensor: &ComparedTensor) -> bool {
    match tensor.values {
        Values::OtherShape => false,
        Values::Opaque { identical } | Values::Numbers { identical, .. } => identical,
    }
}

impl TensorDifferenceRow {
    fn new(tensor: &ComparedTensor) -> TensorDifferenceRow {
        let ComparedTensor { first, second, values } = tensor;
        let errors = match values {
            Values::Numbers { sums, .. } => Some(Errors::new(sums)),
            _ => None,
        };
        TensorDifferenceRow {
            name: first.name.clone(),
            layer: split_layer(&first.name).map(|(layer, _)| layer),
            kind: kind(&first.name).to_string(),
            first_shape: first.shape.clone(),
            second_shape: second.shape.clone(),
            first_type: first.dtype.to_string(),
            second_type: second.dtype.to_string(),
            identical: identical(tensor),
            errors,
        }
    }

    /// The tensor's types, one where they are equal.
    pub(crate) fn types(&self) -> String {
        match self.first_type == self.second_type {
            true => self.first_type.clone(),
            false => format!("{} → {}", self.first_type, self.second_type),
        }
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![one_line(&self.name), self.types()];
        match &self.errors {
            _ if self.identical => cells.push("identical".to_string()),
            Some(errors) => cells.extend(errors.cells()),
            None if self.first_shape != self.second_shape => {
                let shapes = [&self.first_shape, &self.second_shape].map(|s| shape_text(s));
                cells.push(format!("{} → {}", shapes[0], shapes[1]));
            }
            None => cells.push("bytes differ".to_string()),
        }
        cells.resize(6, String::new());
        cells
    }
}

impl ModelDifference {
    /// Whether nothing differs at all.
    pub fn is_empty(&self) -> bool {
        self.metadata.is_empty()
            && self.only_first.is_empty()
            && self.only_second.is_empty()
            && self.tensors.iter().all(|tensor| tensor.identical)
    }

    /// One line on the whole.
    pub(crate) fn subtitle(&self) -> String {
        let ErrorRow { tensors, identical, errors, .. } = &self.all;
        let [rmse, relative, max, cosine] = errors.cells();
        format!(
            "{tensors} tensors, {identical} of them identical; all together: RMSE {rmse}, relative error \
             {relative}, greatest difference {max}, cosine {cosine}"
        )
    }

    /// The difference as tables, without a newline at the end; of the tensors that differ, the `worst` first
    /// ones by relative error.
    pub fn render(&self, worst: usize) -> String {
        let title = format!("{} compared with {}", one_line(&self.second), one_line(&self.first));
        let mut parts = vec![title];
        if self.is_empty() {
            parts.push(format!("no difference in {} tensors", self.tensors.len()));
            return parts.join("\n\n");
        }
        if !self.metadata.is_empty() {
            let text = |row: &Option<MetadataRow>| row.as_ref().map_or("-".to_string(), value_text);
            let rows = self.metadata.iter();
            let rows =
                rows.map(|row| vec![one_line(&row.key), text(&row.first), text(&row.second)]);
            parts.push(table(&["metadata", "first", "second"], rows));
        }
        let heads = [">RMSE", ">relative error", ">max abs", ">cosine"];
        let kinds = self.kinds.iter().chain([&self.all]).map(|row| {
            let counts = [row.tensors.to_string(), row.identical.to_string()];
            [one_line(&row.kind)].into_iter().chain(counts).chain(row.errors.cells()).collect()
        });
        let kind_heads = [&["kind", ">tensors", ">identical"][..], &heads].concat();
        parts.push(table(&kind_heads, kinds));
        let mut rows: Vec<_> = self.tensors.iter().filter(|row| !row.identical).collect();
        // What has no error at all differs most: other shapes, then what is no number.
        let error = |row: &TensorDifferenceRow| match row.errors {
            Some(errors) if !errors.relative_error.is_nan() => errors.relative_error,
            _ => f64::INFINITY,
        };
        rows.sort_by(|a, b| error(b).total_cmp(&error(a)));
        if !rows.is_empty() {
            let shown = rows.iter().take(worst).map(|row| row.cells());
            let tensor_heads = [&["tensor, worst first", "type"][..], &heads].concat();
            parts.push(table(&tensor_heads, shown));
        }
        if rows.len() > worst {
            parts.push(format!("and {} more; --worst N lists more", rows.len() - worst));
        }
        for (only, path) in [(&self.only_first, &self.first), (&self.only_second, &self.second)] {
            if !only.is_empty() {
                let names: Vec<_> = only.iter().map(|tensor| one_line(&tensor.name)).collect();
                parts.push(format!("only in {}: {}", one_line(path), names.join(", ")));
            }
        }
        parts.join("\n\n")
    }
}
