//! Applies mask plans to values.

use bailiff_policy::{MaskAction, MaskPlan, Unresolved};
use bailiff_wire::postgres::backend::{DataRow, RowDescription};
use bailiff_wire::postgres::{DecodeError, build};

/// What stands in place of a redacted text.
pub(crate) const PLACEHOLDER: &[u8] = b"[masked]";

/// Types whose values are any text, in text and binary format alike, by their oid in `pg_type`.
const TEXT_TYPES: [u32; 5] = [25, 1043, 1042, 19, 705];

/// What is put in place of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replacement {
    Placeholder,
    Null,
}

/// Which columns of a result are masked, and how.
#[derive(Debug)]
pub(crate) struct Columns {
    replacements: Vec<Option<Replacement>>,
}

impl Columns {
    /// Matches a plan with the columns that the server told.
    pub(crate) fn resolve(plan: &MaskPlan, description: &RowDescription<'_>) -> Result<Self, Unresolved> {
        let fields: Vec<_> = description
            .fields()
            .collect::<Result<_, DecodeError>>()
            .map_err(|_| Unresolved)?;
        let actions = plan.resolve(
            fields
                .iter()
                .map(|field| (field.name, field.table_oid, field.attnum)),
        )?;
        let replacements = actions
            .into_iter()
            .zip(&fields)
            .map(|(action, field)| {
                action.map(|action| match action {
                    // A placeholder is no number or date: where the type isn't a text, null is what stays valid.
                    MaskAction::Redact if TEXT_TYPES.contains(&field.type_oid) => Replacement::Placeholder,
                    // Until their codecs are there, what is stricter.
                    MaskAction::KeepLast(_) | MaskAction::Hash(_) | MaskAction::Redact | MaskAction::Null => {
                        Replacement::Null
                    }
                })
            })
            .collect();
        Ok(Self { replacements })
    }

    /// Whether no column is masked.
    pub(crate) fn masks_nothing(&self) -> bool {
        self.replacements.iter().all(Option::is_none)
    }

    /// Writes a row with the masked values replaced, and returns how many were. A null stays a null.
    pub(crate) fn mask_row(&self, body: &[u8], out: &mut Vec<u8>) -> Result<u64, DecodeError> {
        let row = DataRow::decode(body)?;
        let mut masked = 0;
        let mut replacements = self.replacements.iter();
        let mut writer = build::DataRowWriter::new(out, row.columns());
        for value in row.values() {
            let value = value?;
            // Uncertainty denies: a value without a told column is masked too.
            let replacement = replacements.next().copied().unwrap_or(Some(Replacement::Null));
            match (value, replacement) {
                (Some(_), Some(Replacement::Placeholder)) => {
                    masked += 1;
                    writer.value(Some(PLACEHOLDER));
                }
                (Some(_), Some(Replacement::Null)) => {
                    masked += 1;
                    writer.value(None);
                }
                (value, _) => writer.value(value),
            }
        }
        writer.finish();
        Ok(masked)
    }
}
