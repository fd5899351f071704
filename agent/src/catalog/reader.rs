//! Reading one database's catalog over one connection.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use bailiff_policy::catalog::{
    Builder, Cast, Catalog, CatalogLimits, Column, Dependency, Function, FunctionKind, Generated, Name, Oid,
    Operator, Relation, RelationKind, Rule, RuleEvent, Schema, SearchPathSetting, TooLarge, Trigger, Type,
    TypeKind, Volatility,
};
use futures_util::TryStreamExt as _;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::FromSql;
use tokio_postgres::{Client, Row};

use super::query;

/// How long looking for changes may take.
const LOOK: Duration = Duration::from_secs(5);

/// How long reading may take.
const READ: Duration = Duration::from_secs(120);

/// How often a catalog that changes while it is read is read again.
const ATTEMPTS: usize = 3;

/// Why a catalog can't be had.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Nobody answers, or the connection broke.
    #[error("the server can't be reached: {0}")]
    Unreachable(String),
    /// The server doesn't accept the credential. The operator is at fault.
    #[error("the server doesn't accept the agent's credential: {0}")]
    Credential(String),
    /// The credential may not read the catalog. The operator is at fault.
    #[error("the agent's credential may not read the catalog: {0}")]
    Permission(String),
    /// It is larger than the limit.
    #[error("{0}; raise it with --limit catalog=")]
    TooLarge(#[from] TooLarge),
    /// The server is too old.
    #[error("the server's version {0} is older than 13")]
    Version(u32),
    /// It takes too long, as where a lock isn't released.
    #[error("the server took too long")]
    Slow,
    /// It changed each time that it was read.
    #[error("it changes faster than it can be read")]
    Changing,
    /// An answer isn't what was asked for.
    #[error("the server's answer can't be read: {0}")]
    Answer(String),
}

impl CatalogError {
    /// For metrics: a word of the program.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Credential(_) => "credential",
            Self::Permission(_) => "permission",
            Self::TooLarge(_) => "too_large",
            Self::Version(_) => "version",
            Self::Slow => "slow",
            Self::Changing => "changing",
            Self::Answer(_) => "answer",
        }
    }

    /// Whether the connection may go on being used.
    pub(super) fn keeps_connection(&self) -> bool {
        matches!(
            self,
            Self::TooLarge(_) | Self::Permission(_) | Self::Changing | Self::Version(_)
        )
    }
}

impl From<tokio_postgres::Error> for CatalogError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(told) = error.as_db_error() else {
            let text =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            return match error.is_closed() || text.contains("os error") {
                true => Self::Unreachable(text),
                false => Self::Answer(text),
            };
        };
        // The server's own words, which quote no values here: nothing but the catalog is asked for.
        let text = told.message().to_owned();
        match *told.code() {
            SqlState::INSUFFICIENT_PRIVILEGE => Self::Permission(text),
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                Self::Credential(text)
            }
            SqlState::LOCK_NOT_AVAILABLE | SqlState::QUERY_CANCELED => Self::Slow,
            // Something was dropped between being listed and being described.
            SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_OBJECT | SqlState::UNDEFINED_FUNCTION => {
                Self::Changing
            }
            SqlState::INTERNAL_ERROR => Self::Changing,
            _ => Self::Unreachable(text),
        }
    }
}

/// A connection, and what was last seen over it.
pub(super) struct Reader {
    client: Client,
    fingerprint: String,
    /// Of what the catalog that was last read is made.
    seen: Option<Seen>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    snapshot: String,
    fingerprint: String,
}

/// What looking for changes found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Everything is as it was read.
    Same,
    /// Something is not, or nothing was read yet.
    Changed,
}

impl Reader {
    /// Over a connection that is authenticated.
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            fingerprint: query::fingerprint(),
            seen: None,
        }
    }

    /// Whether the connection is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Looks whether anything has changed since the last [`read`](Self::read).
    pub(super) async fn look(&mut self) -> Result<Look, CatalogError> {
        let now = within(LOOK, self.seen_now()).await?;
        match &mut self.seen {
            Some(seen) if seen.fingerprint == now.fingerprint => {
                seen.snapshot = now.snapshot;
                Ok(Look::Same)
            }
            _ => Ok(Look::Changed),
        }
    }

    /// Reads everything, over again where it changed meanwhile.
    pub(super) async fn read(&mut self, limits: CatalogLimits) -> Result<Catalog, CatalogError> {
        self.seen = None;
        for _ in 0..ATTEMPTS {
            let before = within(LOOK, self.seen_now()).await?;
            let read = within(READ, self.read_once(limits)).await;
            // The transaction ends either way.
            within(LOOK, async { Ok(self.client.batch_execute("rollback").await?) }).await?;
            // Texts of views and the like are made of what is there now, whatever the transaction's snapshot.
            let after = within(LOOK, self.seen_now()).await?;
            match read {
                Ok(catalog) if before.fingerprint == after.fingerprint => {
                    self.seen = Some(after);
                    return Ok(catalog);
                }
                Err(CatalogError::TooLarge(why)) if before.fingerprint == after.fingerprint => {
                    self.seen = Some(after);
                    return Err(CatalogError::TooLarge(why));
                }
                Ok(_) | Err(CatalogError::Changing) => {}
                Err(error) => return Err(error),
            }
        }
        Err(CatalogError::Changing)
    }

    /// The estimates of rows.
    pub(super) async fn estimates(&mut self) -> Result<HashMap<Oid, f32>, CatalogError> {
        within(LOOK, async {
            let rows = self.client.query(query::ESTIMATES, &[]).await?;
            rows.iter().map(|row| Ok((oid(row, 0)?, get(row, 1)?))).collect()
        })
        .await
    }

    async fn seen_now(&self) -> Result<Seen, CatalogError> {
        let ask = async |text: &str| -> Result<String, CatalogError> {
            let row = self.client.query_one(text, &[]).await?;
            get(&row, 0)
        };
        // First: what ends between the two is then looked for again.
        let snapshot = ask(query::SNAPSHOT).await?;
        let fingerprint = match &self.seen {
            Some(seen) if seen.snapshot == snapshot => seen.fingerprint.clone(),
            _ => ask(&self.fingerprint).await?,
        };
        Ok(Seen {
            snapshot,
            fingerprint,
        })
    }

    async fn read_once(&self, limits: CatalogLimits) -> Result<Catalog, CatalogError> {
        let server = self.client.query_one(query::SERVER, &[]).await?;
        let version = u32::try_from(get::<i32>(&server, 0)?).unwrap_or_default();
        if version < query::OLDEST {
            return Err(CatalogError::Version(version));
        }
        self.client.batch_execute(query::BEGIN).await?;
        let mut reading = Reading {
            client: &self.client,
            builder: Builder::new(limits, version, get(&server, 1)?),
            schemas: HashMap::new(),
            version,
        };
        // Where a role's or the database's own setting is in force for the agent, the server's isn't told.
        if matches!(
            get(&server, 3)?,
            "default" | "configuration file" | "command line" | "environment variable"
        ) {
            reading.builder.system_search_path(get(&server, 2)?);
        }
        reading.schemas().await?;
        reading.relations().await?;
        reading.of_relations().await?;
        reading.functions().await?;
        reading.types().await?;
        reading.rest().await?;
        Ok(reading.builder.finish())
    }
}

/// One reading under way.
struct Reading<'a> {
    client: &'a Client,
    builder: Builder,
    schemas: HashMap<Oid, Name>,
    version: u32,
}

impl Reading<'_> {
    /// Asks, and takes each row as it comes, so that memory is bounded by what is kept.
    async fn each(
        client: &Client,
        text: &str,
        mut take: impl FnMut(&Row) -> Result<(), CatalogError>,
    ) -> Result<(), CatalogError> {
        let rows = client.query_raw(text, std::iter::empty::<i32>()).await?;
        let mut rows = pin!(rows);
        while let Some(row) = rows.try_next().await? {
            take(&row)?;
        }
        Ok(())
    }

    async fn schemas(&mut self) -> Result<(), CatalogError> {
        let (schemas, builder) = (&mut self.schemas, &mut self.builder);
        Self::each(self.client, query::SCHEMAS, |row| {
            let (oid, name) = (oid(row, 0)?, get::<&str>(row, 1)?);
            schemas.insert(oid, name.into());
            Ok(builder.schema(Schema {
                oid,
                name: name.into(),
            })?)
        })
        .await
    }

    async fn relations(&mut self) -> Result<(), CatalogError> {
        let (schemas, builder) = (&self.schemas, &mut self.builder);
        let mut toasts = Vec::new();
        Self::each(self.client, &query::relations(), |row| {
            let of = oid(row, 0)?;
            let toast = oid(row, 7)?;
            if toast.0 != 0 {
                toasts.push((toast, of));
            }
            let kind = RelationKind::from_letter(letter(row, 3)?);
            let relation = Relation {
                row_type: some(oid(row, 4)?),
                row_security: get(row, 6)?,
                ..Relation::new(of, schema(schemas, row, 2)?, get::<&str>(row, 1)?, kind)
            };
            Ok(builder.relation(relation, get(row, 5)?)?)
        })
        .await?;
        for (toast, of) in toasts {
            self.builder.toast(toast, of);
        }
        Ok(())
    }

    async fn of_relations(&mut self) -> Result<(), CatalogError> {
        let (client, builder) = (self.client, &mut self.builder);
        Self::each(client, &query::columns(), |row| {
            let column = Column {
                name: get::<&str>(row, 1)?.into(),
                number: get(row, 2)?,
                type_oid: oid(row, 3)?,
                generated: match letter(row, 4)? {
                    b's' => Some(Generated::Stored),
                    0 => None,
                    // Uncertainty denies: one of a kind that isn't known is computed anew.
                    _ => Some(Generated::Virtual),
                },
                expression: None,
            };
            Ok(builder.column(oid(row, 0)?, column)?)
        })
        .await?;
        Self::each(client, &query::defaults(), |row| {
            Ok(builder.default(oid(row, 0)?, get(row, 1)?, text(row, 2)?)?)
        })
        .await?;
        Self::each(client, &query::views(), |row| {
            match get::<Option<&str>>(row, 1)? {
                Some(text) => Ok(builder.definition(oid(row, 0)?, text)?),
                None => Ok(()),
            }
        })
        .await?;
        Self::each(client, &query::rules(), |row| {
            let rule = Rule {
                name: get::<&str>(row, 1)?.into(),
                event: RuleEvent::from_letter(letter(row, 2)?),
                instead: get(row, 3)?,
                definition: text(row, 4)?.into(),
            };
            Ok(builder.rule(oid(row, 0)?, rule)?)
        })
        .await?;
        Self::each(client, &query::dependencies(), |row| {
            let on = Dependency {
                relation: oid(row, 1)?,
                column: i16::try_from(get::<i32>(row, 2)?).unwrap_or_default(),
            };
            Ok(builder.dependency(oid(row, 0)?, on)?)
        })
        .await?;
        Self::each(client, &query::parents(), |row| {
            Ok(builder.parent(oid(row, 0)?, oid(row, 1)?)?)
        })
        .await?;
        Self::each(client, &query::triggers(), |row| {
            let trigger = Trigger {
                name: get::<&str>(row, 1)?.into(),
                function: oid(row, 2)?,
                events: get(row, 3)?,
            };
            Ok(builder.trigger(oid(row, 0)?, trigger)?)
        })
        .await?;
        Self::each(client, &query::expressions(), |row| {
            Ok(builder.expression(oid(row, 0)?, text(row, 1)?)?)
        })
        .await
    }

    async fn functions(&mut self) -> Result<(), CatalogError> {
        let (schemas, builder) = (&self.schemas, &mut self.builder);
        Self::each(self.client, &query::functions(self.version), |row| {
            let settings: Vec<&str> = get::<Option<_>>(row, 15)?.unwrap_or_default();
            let own_path = settings.iter().find_map(|one| one.strip_prefix("search_path="));
            let modes: Vec<i8> = get::<Option<_>>(row, 6)?.unwrap_or_default();
            let all: Vec<u32> = get::<Option<_>>(row, 7)?.unwrap_or_default();
            let parameters: Vec<&str> = get::<Option<_>>(row, 5)?.unwrap_or_default();
            let body: Option<&str> = get(row, 16)?;
            let function = Function {
                oid: oid(row, 0)?,
                schema: schema(schemas, row, 2)?,
                name: get::<&str>(row, 1)?.into(),
                kind: FunctionKind::from_letter(letter(row, 3)?),
                arguments: get::<Vec<u32>>(row, 4)?.into_iter().map(Oid).collect(),
                parameters: parameters.into_iter().map(Name::from).collect(),
                modes: modes
                    .into_iter()
                    .map(byte)
                    .zip(all.into_iter().map(Oid))
                    .collect(),
                defaults: usize::try_from(get::<i16>(row, 8)?).unwrap_or_default(),
                variadic: get(row, 9)?,
                returns: oid(row, 10)?,
                returns_set: get(row, 11)?,
                language: get::<&str>(row, 12)?.into(),
                volatility: Volatility::from_letter(letter(row, 13)?),
                security_definer: get(row, 14)?,
                settings: !settings.is_empty(),
                search_path: own_path.map(Name::from),
                body: body
                    .filter(|body| body.len() <= query::LONGEST as usize)
                    .map(Into::into),
                body_is_bound: get(row, 17)?,
            };
            Ok(builder.function(function)?)
        })
        .await
    }

    async fn types(&mut self) -> Result<(), CatalogError> {
        let mut checks: HashMap<Oid, Vec<std::sync::Arc<str>>> = HashMap::new();
        Self::each(self.client, query::DOMAIN_CHECKS, |row| {
            checks.entry(oid(row, 0)?).or_default().push(text(row, 1)?.into());
            Ok(())
        })
        .await?;
        let (schemas, builder) = (&self.schemas, &mut self.builder);
        Self::each(self.client, &query::types(self.version), |row| {
            let of = oid(row, 0)?;
            let element = oid(row, 4)?;
            let kind = match letter(row, 3)? {
                b'b' if element.0 != 0 => TypeKind::Array { element },
                b'b' => TypeKind::Base,
                b'c' => TypeKind::Composite {
                    relation: oid(row, 6)?,
                },
                b'd' => TypeKind::Domain {
                    base: oid(row, 7)?,
                    checks: checks.remove(&of).unwrap_or_default(),
                },
                b'e' => TypeKind::Enum,
                b'r' => maybe_oid(row, 8)?.map_or(TypeKind::Other, |subtype| TypeKind::Range { subtype }),
                b'm' => maybe_oid(row, 9)?.map_or(TypeKind::Other, |range| TypeKind::Multirange { range }),
                b'p' => TypeKind::Pseudo,
                _ => TypeKind::Other,
            };
            let r#type = Type {
                oid: of,
                schema: schema(schemas, row, 2)?,
                name: get::<&str>(row, 1)?.into(),
                kind,
                array: some(oid(row, 5)?),
            };
            Ok(builder.r#type(r#type)?)
        })
        .await
    }

    async fn rest(&mut self) -> Result<(), CatalogError> {
        let (client, schemas, builder) = (self.client, &self.schemas, &mut self.builder);
        Self::each(client, query::OPERATORS, |row| {
            let operator = Operator {
                oid: oid(row, 0)?,
                schema: schema(schemas, row, 2)?,
                name: get::<&str>(row, 1)?.into(),
                left: some(oid(row, 3)?),
                right: some(oid(row, 4)?),
                result: oid(row, 5)?,
                function: oid(row, 6)?,
            };
            Ok(builder.operator(operator)?)
        })
        .await?;
        Self::each(client, query::CASTS, |row| {
            Ok(builder.cast(Cast {
                oid: oid(row, 0)?,
                from: oid(row, 1)?,
                to: oid(row, 2)?,
                function: some(oid(row, 3)?),
            })?)
        })
        .await?;
        Self::each(client, query::SEARCH_PATHS, |row| {
            Ok(builder.search_path(SearchPathSetting {
                for_database: get(row, 0)?,
                role: get::<Option<&str>>(row, 1)?.map(Into::into),
                value: get::<&str>(row, 2)?.into(),
            })?)
        })
        .await
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, CatalogError>>,
) -> Result<T, CatalogError> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or(Err(CatalogError::Slow))
}

fn get<'a, T: FromSql<'a>>(row: &'a Row, place: usize) -> Result<T, CatalogError> {
    row.try_get(place)
        .map_err(|error| CatalogError::Answer(error.to_string()))
}

fn oid(row: &Row, place: usize) -> Result<Oid, CatalogError> {
    get(row, place).map(Oid)
}

fn maybe_oid(row: &Row, place: usize) -> Result<Option<Oid>, CatalogError> {
    Ok(get::<Option<u32>>(row, place)?.map(Oid))
}

/// A text that may have been too long: an empty one can't be parsed, so nothing is taken as known of it.
fn text(row: &Row, place: usize) -> Result<&str, CatalogError> {
    Ok(get::<Option<&str>>(row, place)?.unwrap_or_default())
}

fn schema(schemas: &HashMap<Oid, Name>, row: &Row, place: usize) -> Result<Name, CatalogError> {
    // One that is newer than the list: it changed meanwhile.
    schemas
        .get(&oid(row, place)?)
        .cloned()
        .ok_or(CatalogError::Changing)
}

/// A `"char"`.
fn letter(row: &Row, place: usize) -> Result<u8, CatalogError> {
    get(row, place).map(byte)
}

fn byte(letter: i8) -> u8 {
    letter.cast_unsigned()
}

fn some(oid: Oid) -> Option<Oid> {
    (oid.0 != 0).then_some(oid)
}
