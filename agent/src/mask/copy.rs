//! Rows of COPY TO STDOUT.

use std::sync::Arc;

use bailiff_policy::{CopyFormat, CopyLayout, Detection, Ruling, Unresolved};
use bailiff_wire::postgres::backend::CopyOutResponse;
use bailiff_wire::postgres::value::copy::{CopyError, CopyRows, Layout};
use bailiff_wire::postgres::value::{Format, Part};

use super::kind::{Kind, Shapes};
use super::value::{self, Done, Kept, Scratch, Treatment};

/// Masks the rows of one COPY.
#[derive(Debug)]
pub(crate) struct CopyMask {
    rows: CopyRows,
    columns: Vec<Column>,
    shapes: Shapes,
    detection: Option<Arc<Detection>>,
    format: Format,
    scratch: Scratch,
}

#[derive(Debug)]
struct Column {
    action: Option<Kept>,
    /// Of a masked column the catalog tells it. Of others nothing does, since CopyOutResponse tells no types.
    kind: Option<Kind>,
}

impl CopyMask {
    /// For a COPY that was decided so. `None` where its rows pass as they come.
    ///
    /// # Errors
    /// When it can't be told how its rows are written, or which columns are masked.
    pub(crate) fn of(
        ruling: &Ruling,
        response: CopyOutResponse,
        most: usize,
    ) -> Result<Option<Self>, Unresolved> {
        let mut shapes = Shapes::default();
        let columns: Vec<Column> = match ruling.mask_plan() {
            Some(plan) => plan
                .resolve_copy(response.columns)?
                .into_iter()
                .map(|masked| match masked {
                    Some((action, of)) => Column {
                        action: Some(Kept::of(action)),
                        kind: Some(shapes.take(&of)),
                    },
                    None => Column {
                        action: None,
                        kind: None,
                    },
                })
                .collect(),
            None => std::iter::repeat_with(|| Column {
                action: None,
                kind: None,
            })
            .take(response.columns)
            .collect(),
        };
        if ruling.detection().is_none() && columns.iter().all(|column| column.action.is_none()) {
            return Ok(None);
        }
        let format = ruling.copy_format().ok_or(Unresolved)?;
        if response.binary != (format.layout == CopyLayout::Binary) {
            return Err(Unresolved);
        }
        Ok(Some(Self {
            rows: CopyRows::new(layout(format), format.header, response.columns, most),
            columns,
            shapes,
            detection: ruling.detection().cloned(),
            format: super::format(response.binary),
            scratch: Scratch::default(),
        }))
    }

    /// Takes the content of a CopyData message, and writes the rows that are whole with it. Returns how many values were masked.
    pub(crate) fn data(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<u64, CopyError> {
        let Self {
            rows,
            columns,
            shapes,
            detection,
            format,
            scratch,
        } = self;
        let detection = detection.as_deref();
        rows.data(data, out, |place, value, out| {
            // Uncertainty denies: there is no such column.
            let Some(column) = columns.get(place) else {
                return Some(Part::Null);
            };
            if column.action.is_none() && detection.is_none() {
                return None;
            }
            let treatment = Treatment {
                shapes,
                action: column.action.as_ref().map(Kept::action),
                detection,
            };
            let kind = column.kind.unwrap_or_else(|| looks_like(value, *format));
            match value::mask(treatment, kind, *format, value, out, scratch) {
                Done::Kept => None,
                Done::Value => Some(Part::Value),
                Done::Null => Some(Part::Null),
            }
        })
    }

    /// Whether all rows were whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.rows.end().is_ok()
    }

    /// Memory that it holds, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.rows.held()
    }
}

fn layout(format: &CopyFormat) -> Layout {
    let (delimiter, null) = (format.delimiter, format.null.clone());
    match format.layout {
        CopyLayout::Text => Layout::Text { delimiter, null },
        CopyLayout::Csv => Layout::Csv {
            delimiter,
            null,
            quote: format.quote,
            escape: format.escape,
        },
        CopyLayout::Binary => Layout::Binary,
    }
}

/// The kind of a value that nobody tells. In text a bytea is told by its beginning alone.
fn looks_like(value: &[u8], format: Format) -> Kind {
    match format {
        Format::Binary => Kind::Unknown,
        Format::Text => match value.strip_prefix(b"\\x") {
            Some(digits) if digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit) => {
                Kind::Bytea
            }
            _ => Kind::Text,
        },
    }
}
