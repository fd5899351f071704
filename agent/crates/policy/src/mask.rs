//! Which of a result's columns are masked, or why that can't be told.
//!
//! With the server's catalog the plan follows the data through the statement ([`flow`]). Without it the plan rests on names, and
//! on the stricter answer wherever names don't tell ([`by_name`]). See `ARCHITECTURE.md`, "Masks".

mod action;
mod by_catalog;
mod by_name;
mod flow;
mod secrets;
mod value_type;

use std::fmt;
use std::sync::Arc;

use bailiff_model::SqlEffect;

use self::by_catalog::Followed;
use self::by_name::Named;
use self::secrets::Secrets;
use crate::catalog::{Catalog, Column, Names, Relation};
use crate::classify::{Classified, PathMove};
use crate::glob::Glob;

pub use action::{HashKey, MaskAction};
pub(crate) use by_catalog::{Asked, SecretsCache};
use by_name::{TELLING, is_vouched};
pub(crate) use flow::MaskedUse;
pub use value_type::ValueType;

/// How a statement's result is masked.
#[derive(Debug, Clone)]
pub struct MaskPlan(Planned);

#[derive(Debug, Clone)]
enum Planned {
    Names(Named),
    Catalog(Followed),
}

impl MaskPlan {
    /// Matches the plan with the columns that the server told: name, table and number in the table.
    pub fn resolve<'a>(
        &self,
        fields: impl IntoIterator<Item = (&'a [u8], u32, i16)>,
    ) -> Result<Vec<Option<MaskAction>>, Unresolved> {
        let fields: Vec<_> = fields.into_iter().collect();
        match &self.0 {
            Planned::Names(named) => named.resolve(&fields),
            Planned::Catalog(followed) => followed.resolve(&fields),
        }
    }

    /// The same for `COPY … TO STDOUT`, whose answer tells how many columns there are and nothing else of them: with what is done
    /// to a column comes the type that the catalog says of it.
    pub fn resolve_copy(&self, columns: usize) -> Result<Vec<Option<(MaskAction, ValueType)>>, Unresolved> {
        match &self.0 {
            Planned::Names(_) => Err(Unresolved),
            Planned::Catalog(followed) => followed.resolve_copy(columns),
        }
    }

    /// What the values of a type are made of, where a catalog tells.
    #[must_use]
    pub fn value_type(&self, oid: u32) -> Option<ValueType> {
        match &self.0 {
            Planned::Names(_) => None,
            Planned::Catalog(followed) => Some(followed.value_type(oid)),
        }
    }

    /// Whether error and notice texts may quote what is masked: wherever the statement touches a masked table, since a failed
    /// check quotes the whole row.
    #[must_use]
    pub fn hides_error_text(&self) -> bool {
        match &self.0 {
            Planned::Names(_) => true,
            Planned::Catalog(followed) => followed.touches(),
        }
    }

    /// Whether code runs of which nothing is known.
    pub(crate) fn runs_unseen(&self) -> bool {
        match &self.0 {
            Planned::Names(_) => false,
            Planned::Catalog(followed) => followed.runs_unseen(),
        }
    }

    /// Whether values of its result may have to be masked, or have to be held against the numbers of the columns that the
    /// server says they come from.
    #[must_use]
    pub fn masks_rows(&self) -> bool {
        match &self.0 {
            Planned::Names(named) => named.masks_rows(),
            Planned::Catalog(followed) => followed.masks_rows(),
        }
    }
}

/// Columns that are masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MaskedColumn {
    pub(crate) schema: Glob,
    pub(crate) table: Glob,
    pub(crate) column: Glob,
    /// Only those of a type: its schema and name.
    pub(crate) of_type: Option<(Glob, Glob)>,
    pub(crate) action: MaskAction,
    /// The policy that masks it.
    pub(crate) policy: Arc<str>,
}

impl MaskedColumn {
    /// Whether a column of a relation is one of them.
    fn masks(&self, catalog: &Catalog, relation: &Relation, column: &Column) -> bool {
        self.schema.matches(&relation.schema)
            && self.table.matches(&relation.name)
            && self.column.matches(&column.name)
            && self.of_type.as_ref().is_none_or(|(schema, name)| {
                let named = |s: &str, n: &str| schema.matches(s) && name.matches(n);
                secrets::holds_type(catalog, column.type_oid, &named, 0)
            })
    }

    /// Whether a database has such a column.
    pub(crate) fn matches_any(&self, catalog: &Catalog) -> bool {
        catalog.relations().any(|relation| {
            let mut columns = relation.columns.iter();
            columns.any(|column| self.masks(catalog, relation, column))
        })
    }

    /// What tells it from others, for sorting.
    pub(crate) fn key(&self) -> (String, MaskAction) {
        (self.to_string(), self.action)
    }
}

impl fmt::Display for MaskedColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((schema, name)) = &self.of_type {
            return write!(f, "a column of type {}.{}", schema.as_str(), name.as_str());
        }
        let [schema, table, column] = [&self.schema, &self.table, &self.column].map(Glob::as_str);
        write!(f, "{schema}.{table}.{column}")
    }
}

/// Why a statement may read a masked column in a way that can't be masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) why: String,
    /// A policy whose mask it is about.
    pub(crate) policy: Arc<str>,
}

/// The columns of a result can't be told from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the result's columns aren't those that the statement names")]
pub struct Unresolved;

/// What planning needs to know of a target and a session.
pub(crate) struct Known<'a> {
    /// Relations that the operator vouches for: they are no views over masked tables.
    pub(crate) plain: &'a [(Glob, Glob)],
    /// Schemas in which unqualified names are looked for.
    pub(crate) search_path: &'a [String],
    /// The catalog, and what names stand for in this session, where that is known.
    pub(crate) names: Option<&'a Names>,
    /// Whether rules let code run that may read masked columns unseen.
    pub(crate) runs_unseen: bool,
}

/// Plans the masks of a text, or says why it may read a masked column in a way that can't be masked. `None` where no masked
/// table is touched.
pub(crate) fn plan(
    classified: &Classified,
    masked: &Arc<[MaskedColumn]>,
    known: &Known<'_>,
    cache: &SecretsCache,
    permits: &dyn Fn(&Asked<'_>) -> bool,
) -> Result<Option<MaskPlan>, Refusal> {
    match known.names {
        Some(names) => {
            let followed = by_catalog::plan(classified, masked, known, names, cache, permits)?;
            // The catalog tells what names stood for before the text. What its statements change holds for those after them.
            let runs = followed.as_ref().is_some_and(MaskPlan::runs_unseen);
            if classified.statements().len() > 1
                && (runs || changes_names(classified) || changes_session(classified, names))
            {
                return by_name::plan(classified, masked, known);
            }
            Ok(followed)
        }
        None => by_name::plan(classified, masked, known),
    }
}

/// Whether code that relations run by themselves may change the session.
pub(crate) fn changes_session(classified: &Classified, names: &Names) -> bool {
    classified
        .touched()
        .any(|(relation, touch)| names.may_change_session(relation, touch))
}

/// Whether a statement of the text may change what names stand for.
fn changes_names(classified: &Classified) -> bool {
    let changing = [
        SqlEffect::Create,
        SqlEffect::Alter,
        SqlEffect::Drop,
        SqlEffect::Execute,
        SqlEffect::Unknown,
    ];
    *classified.moves() != PathMove::Stays
        || classified
            .statements()
            .iter()
            .any(|statement| changing.iter().any(|effect| statement.effects.contains(*effect)))
}
