//! Applies mask plans and detectors to values.

mod copy;
mod field;
mod key;
mod kind;
mod value;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bailiff_policy::{Detection, Ruling, Unresolved};
use bailiff_wire::postgres::backend::RowDescription;
use bailiff_wire::postgres::content::is_binary;
use bailiff_wire::postgres::value::{Format, Part};
use bailiff_wire::postgres::{DecodeError, build};

pub(crate) use copy::CopyMask;
pub(crate) use field::{FieldMasker, masked};
use kind::{Kind, Shapes};
use value::{Done, Kept, Scratch, Treatment};

/// In which formats a result's columns come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Formats {
    /// As the server told last.
    AsTold,
    /// All in one.
    All(Format),
    /// Each in its own: codes of two bytes, as Bind has them.
    Each(Rc<[u8]>),
}

impl Formats {
    /// As Bind asks for them.
    pub(crate) fn of(codes: &[u8]) -> Self {
        match codes {
            [] => Self::All(Format::Text),
            [_, _] => Self::All(format(is_binary(codes, 0))),
            _ => Self::Each(Rc::from(codes)),
        }
    }
}

fn format(binary: bool) -> Format {
    if binary { Format::Binary } else { Format::Text }
}

/// Descriptions up to this length, in bytes, are remembered.
const REMEMBERED: usize = 4096;

/// How a result's columns are masked.
#[derive(Debug)]
pub(crate) struct Columns {
    /// The description that they were matched with, where it is short: a prepared statement is described at each execution.
    told: Option<Box<[u8]>>,
    columns: Vec<Column>,
    /// Whether any value may have to be changed.
    looks: bool,
    shapes: Shapes,
    detection: Option<Arc<Detection>>,
}

#[derive(Debug)]
struct Column {
    kind: Kind,
    told: Format,
    action: Option<Kept>,
    /// Whether its values may have to be changed.
    looks: bool,
}

/// Whether values of a type may hold what detectors look for.
fn holds_texts(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::Plain | Kind::Uuid | Kind::Integer { bytes: 2 | 4, .. }
    )
}

thread_local! {
    /// Used for one row at a time.
    static SCRATCH: RefCell<(Scratch, Vec<u8>)> = RefCell::default();
}

impl Columns {
    /// Matches what was decided with the columns that the server told.
    pub(crate) fn resolve(ruling: &Ruling, description: &RowDescription<'_>) -> Result<Self, Unresolved> {
        let fields: Vec<_> = description
            .fields()
            .collect::<Result<_, DecodeError>>()
            .map_err(|_| Unresolved)?;
        let actions = match ruling.mask_plan() {
            Some(plan) => plan.resolve(
                fields
                    .iter()
                    .map(|field| (field.name, field.table_oid, field.attnum)),
            )?,
            None => vec![None; fields.len()],
        };
        let mut shapes = Shapes::default();
        let columns = actions
            .into_iter()
            .zip(&fields)
            .map(|(action, field)| {
                let by_catalog = || ruling.mask_plan()?.value_type(field.type_oid);
                let kind = match Kind::of(field.type_oid) {
                    Kind::Unknown => by_catalog().map_or(Kind::Unknown, |of| shapes.take(&of)),
                    kind => kind,
                };
                Column {
                    kind,
                    told: format(field.format == 1),
                    looks: action.is_some() || ruling.detection().is_some() && holds_texts(kind),
                    action: action.map(Kept::of),
                }
            })
            .collect::<Vec<_>>();
        Ok(Self {
            looks: columns.iter().any(|column| column.looks),
            told: None,
            columns,
            shapes,
            detection: ruling.detection().cloned(),
        })
    }

    /// The same, and remembers by which description, where that isn't long.
    pub(crate) fn told_by(self, description: &[u8]) -> Self {
        Self {
            told: (description.len() <= REMEMBERED).then(|| Box::from(description)),
            ..self
        }
    }

    /// Whether they were matched with this same description.
    pub(crate) fn are_of(&self, description: &[u8]) -> bool {
        self.told.as_deref() == Some(description)
    }

    /// Whether all rows pass as they come.
    pub(crate) fn masks_nothing(&self) -> bool {
        !self.looks
    }

    /// Writes a row with the masked values replaced, and returns how many were. A null stays a null. Where none was replaced,
    /// nothing is written.
    pub(crate) fn mask_row(
        &self,
        formats: &Formats,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<u64, DecodeError> {
        let detection = self.detection.as_deref();
        SCRATCH.with_borrow_mut(|(scratch, changed)| {
            build::data_row(out, body, changed, |place, value, out| {
                // Uncertainty denies: a value without a told column is masked too.
                let Some(column) = self.columns.get(place) else {
                    return Some(Part::Null);
                };
                if !column.looks {
                    return None;
                }
                let format = match formats {
                    Formats::AsTold => column.told,
                    Formats::All(format) => *format,
                    Formats::Each(codes) => format(is_binary(codes, place)),
                };
                let treatment = Treatment {
                    shapes: &self.shapes,
                    action: column.action.as_ref().map(Kept::action),
                    detection,
                };
                match value::mask(treatment, column.kind, format, value, out, scratch) {
                    Done::Kept => None,
                    Done::Value => Some(Part::Value),
                    Done::Null => Some(Part::Null),
                }
            })
        })
    }
}

/// A text of the server's own without what detectors find in it. `None` where they find nothing.
pub(crate) fn mask_said(detection: &Detection, text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    value::mask_text(detection, text, &mut out).then_some(out)
}

/// Writes an ErrorResponse or NoticeResponse without what detectors find in its texts. `None` where they find nothing.
pub(crate) fn mask_error(detection: &Detection, tag: u8, body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut found = false;
    build::error_anew(&mut out, tag, body, |text, out| {
        let masked = value::mask_text(detection, text, out);
        found |= masked;
        masked
    })
    .ok()?;
    found.then_some(out)
}
