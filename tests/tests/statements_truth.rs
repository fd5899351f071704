//! What is said of statements, held against what servers of all supported versions do with them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bailiff_model::{RelationRef, SqlEffect, Statement};
use bailiff_policy::{Settings, classify};
use bailiff_tests::{Deeds, Postgres, Witness, can_be_root, check};

/// The tables of statements, and what they need.
fn text(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("statements")
        .join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

#[derive(Debug, Default, Clone)]
struct Row {
    line: usize,
    sql: String,
    said: String,
    setup: String,
    data: String,
    since: u32,
    until: u32,
    fails: bool,
    /// Said and not done.
    only: Vec<String>,
    /// Done and not said: by code, triggers, rules.
    beyond: Vec<String>,
    /// Relations that `*` stands for.
    reaches: Vec<String>,
}

fn parse(table: &str) -> Result<Vec<Row>> {
    let fresh = || Row {
        until: u32::MAX,
        ..Row::default()
    };
    let (mut rows, mut row): (Vec<Row>, Row) = (Vec::new(), fresh());
    for (place, line) in table.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(said) = line.strip_prefix("  => ") {
            rows.last_mut().context("said of nothing")?.said = said.trim().to_owned();
            continue;
        }
        let Some(directive) = line.strip_prefix('@') else {
            row.line = place + 1;
            row.sql = line.to_owned();
            rows.push(std::mem::replace(&mut row, fresh()));
            continue;
        };
        let (name, text) = directive.split_once(' ').unwrap_or((directive, ""));
        let reasoned = || -> Result<String> {
            let (what, why) = text
                .split_once(": ")
                .with_context(|| format!("line {}: no reason", place + 1))?;
            ensure!(!why.is_empty());
            Ok(what.to_owned())
        };
        match name {
            "setup" => row.setup = text.to_owned(),
            "data" => row.data = text.replace("\\t", "\t"),
            "since" => row.since = text.parse()?,
            "until" => row.until = text.parse()?,
            "fails" => row.fails = true,
            "only" => row.only.push(reasoned()?),
            "beyond" => row.beyond.push(reasoned()?),
            "reaches" => row.reaches.extend(text.split(' ').map(str::to_owned)),
            _ => anyhow::bail!("line {}: {line}", place + 1),
        }
    }
    Ok(rows)
}

fn all_rows() -> Result<Vec<Row>> {
    let mut rows = parse(&text("table.txt")?)?;
    rows.extend(parse(&text("schemas.txt")?)?);
    Ok(rows)
}

fn said(statements: &[Statement]) -> String {
    let names = |relations: &[RelationRef]| {
        let names: BTreeSet<String> = relations.iter().map(ToString::to_string).collect();
        names.into_iter().collect::<Vec<_>>().join(" ")
    };
    let all: Vec<String> = statements
        .iter()
        .map(|statement| {
            let effects: Vec<&str> = statement.effects.iter().map(SqlEffect::as_str).collect();
            let text = format!(
                "{} | {} | {}",
                effects.join(" "),
                names(&statement.reads),
                names(&statement.writes)
            );
            text.trim_end_matches([' ', '|']).to_owned()
        })
        .collect();
    all.join(" ;; ")
}

/// With `BAILIFF_WRITE_TABLE` the tables are written anew: to be read and compared by a person.
#[test]
fn of_each_statement_is_said_what_the_table_says() -> Result<()> {
    let mut wrong = String::new();
    for name in ["table", "schemas"] {
        let table = &text(&format!("{name}.txt"))?;
        let mut written = String::new();
        let rows = parse(table)?;
        for (place, line) in table.lines().enumerate() {
            if line.starts_with("  => ") {
                continue;
            }
            writeln!(written, "{line}")?;
            if let Some(row) = rows.iter().find(|row| row.line == place + 1) {
                let settings = Settings {
                    server: row.until.min(Settings::default().server),
                    ..Settings::default()
                };
                let found = classify(&row.sql, &settings)
                    .map_or_else(|why| why.to_string(), |found| said(found.statements()));
                writeln!(written, "  => {found}")?;
                if found != row.said {
                    writeln!(
                        wrong,
                        "{name}:{}: {}\n  table {}\n  found {found}",
                        row.line, row.sql, row.said
                    )?;
                }
            }
        }
        if std::env::var_os("BAILIFF_WRITE_TABLE").is_some() {
            std::fs::write(
                Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("statements/{name}.txt")),
                written,
            )?;
        }
    }
    ensure!(wrong.is_empty(), "{wrong}");
    Ok(())
}

/// Effects that change the database's objects.
const CHANGES: &[SqlEffect] = &[
    SqlEffect::Create,
    SqlEffect::Alter,
    SqlEffect::Drop,
    SqlEffect::Grant,
];

/// What of its deeds is covered by what is said of a statement, and what is said that it didn't do.
fn compare(row: &Row, statement: &Statement, deeds: &Deeds, witness: &Witness, wrong: &mut Vec<String>) {
    let said = |effects: &[SqlEffect]| effects.iter().any(|effect| statement.effects.contains(*effect));
    use SqlEffect::{
        Alter, Copy, Create, Delete, Drop, Execute, Grant, Insert, Read, Set, Transaction, Truncate, Update,
    };
    let everything = witness.relations();
    let resolve = |relations: &[RelationRef]| -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for relation in relations {
            if relation.name == "*" {
                found.extend(
                    everything
                        .iter()
                        .filter(|name| {
                            let schema = name.split('.').next();
                            relation
                                .schema
                                .as_deref()
                                .is_none_or(|wanted| wanted == "*" || Some(wanted) == schema)
                                && row
                                    .reaches
                                    .iter()
                                    .any(|reached| reached == "*" || reached == *name)
                        })
                        .cloned(),
                );
                continue;
            }
            for name in &everything {
                if let Some((schema, bare)) = name.split_once('.')
                    && bare == relation.name
                    && relation.schema.as_deref().is_none_or(|wanted| wanted == schema)
                {
                    found.insert(name.clone());
                }
            }
        }
        found
    };
    let writes = witness.behind(&resolve(&statement.writes));
    let mut reads = witness.behind(&resolve(&statement.reads));
    reads.extend(writes.iter().cloned());
    let unseen = said(&[Execute]);
    let changes = said(CHANGES);
    let is_beyond = |beyond: &str, deed: &str| match beyond.strip_prefix("all ") {
        Some(relation) => {
            let of = deed.split(' ').nth(1).unwrap_or_default();
            of == relation || witness.is_index_of(of, relation)
        }
        None => beyond == deed,
    };
    for deed in &deeds.all {
        let (kind, name) = deed.split_once(' ').unwrap_or((deed, ""));
        let covered = match kind {
            "insert" => {
                // A row that is updated into another partition is inserted there.
                (said(&[Insert, Create, Alter]) || said(&[Update]) && name.contains("part_"))
                    && (writes.contains(name) || !everything.contains(name))
            }
            "update" => said(&[Update]) && writes.contains(name),
            "delete" => {
                (said(&[Delete]) || said(&[Update]) && name.contains("part_")) && writes.contains(name)
            }
            "scan" => {
                said(&[Read, Update, Delete, Alter, Create, Insert, Truncate])
                    && (reads.contains(name) || !everything.contains(name))
            }
            "lock" => {
                let (relation, mode) = name.split_once(' ').unwrap_or((name, ""));
                !everything.contains(relation)
                    || match mode {
                        "AccessShareLock" => reads.contains(relation),
                        "RowShareLock" => {
                            said(&[Update, Insert, Delete, Transaction, Alter, Drop, Truncate, Create])
                                && reads.contains(relation)
                        }
                        // Whoever changes an object may lock what it rests on.
                        _ => {
                            (changes && (writes.contains(relation) || reads.contains(relation)))
                                || (said(&[Insert, Update, Delete, Truncate, Transaction])
                                    && writes.contains(relation))
                        }
                    }
            }
            "rows" => said(&[Insert, Update, Delete, Truncate, Copy, Alter, Drop]) && writes.contains(name),
            "file" => said(&[Truncate, Alter, Drop, Create]) && writes.contains(name),
            "file-" => said(&[Drop]),
            "object+" if name.starts_with("pg_largeobject") => unseen,
            "object+" => said(&[Create, Alter, Grant, Drop, Truncate]),
            "object-" => {
                said(&[Drop, Alter, Grant, Truncate])
                    || said(&[Set])
                    || said(&[Create]) && row.sql.contains("REPLACE")
            }
            "catalog" if name.starts_with("pg_largeobject") => unseen || changes,
            // Pages and rows counted, and what a transaction's own objects carry along.
            "catalog" => changes || said(&[Truncate, Set]),
            // Its first row marks an index used, a rule or trigger had.
            "right" => said(&[Grant]),
            "set" if name.starts_with("transaction_") || name.starts_with("default_transaction") => {
                said(&[Transaction, Set, Execute])
            }
            "set" => unseen || said(&[Set]),
            "cursor+" | "cursor-" | "cursor" => said(&[Transaction]),
            "prepared+" => row.sql.starts_with("PREPARE"),
            "prepared-" => said(&[Transaction, Set]),
            "channel+" | "channel-" => said(&[Set]),
            "advisory+" | "advisory-" => unseen,
            "sequence" => unseen || said(&[Insert, Update, Alter, Truncate, Create, Copy, Set]),
            "function" => unseen,
            "wrote" => unseen,
            "transaction" => said(&[Transaction]),
            "copied" => said(&[Copy]),
            _ => true,
        };
        if !covered && !row.beyond.iter().any(|beyond| is_beyond(beyond, deed)) {
            wrong.push(format!("did {deed:?}, which isn't said"));
        }
    }
    for reached in row.reaches.iter().filter(|reached| *reached != "*") {
        if !deeds
            .all
            .iter()
            .any(|deed| deed.split(' ').nth(1) == Some(reached))
        {
            wrong.push(format!("didn't reach {reached}"));
        }
    }
    for beyond in &row.beyond {
        if !deeds.all.iter().any(|deed| is_beyond(beyond, deed)) {
            wrong.push(format!("didn't {beyond:?}, which it is excused for"));
        }
    }
    let tagged = |words: &[&str]| {
        deeds
            .of("tag")
            .any(|tag| words.iter().any(|word| tag.starts_with(word)))
    };
    let locked = |strong: bool| {
        deeds
            .of("lock")
            .any(|lock| strong != (lock.ends_with("AccessShareLock") || lock.ends_with("RowShareLock")))
    };
    for effect in statement.effects.iter() {
        let done = match effect {
            Read => deeds.any(&["returned", "copied", "scan", "lock"]),
            Insert => deeds.any(&["insert", "copied"]),
            Update => deeds.any(&["update"]) || deeds.of("lock").any(|lock| lock.ends_with("RowShareLock")),
            Delete => deeds.any(&["delete"]),
            Truncate => deeds.any(&["file"]),
            Create => deeds.any(&["object+"]) || tagged(&["CREATE", "SELECT"]),
            Alter => deeds.any(&["catalog", "right", "file", "object+", "object-"]) || locked(true),
            Drop => deeds.any(&["object-"]),
            Grant => deeds.any(&["right", "catalog", "object+", "object-"]),
            Execute => {
                deeds.any(&["function", "sequence", "advisory+", "advisory-", "wrote", "set"])
                    || deeds.all.iter().any(|deed| deed.contains("pg_largeobject"))
                    || !row.beyond.is_empty()
            }
            Copy => deeds.any(&["copied"]) || tagged(&["COPY"]),
            Set => deeds.any(&["set", "channel+", "object-"]),
            Transaction => {
                deeds.any(&["transaction", "cursor+", "cursor-", "cursor", "prepared-"])
                    || tagged(&["SAVEPOINT", "ROLLBACK", "RELEASE", "COMMIT", "SET", "LOCK"])
                        && (row.only.is_empty())
            }
            // It may be anything.
            SqlEffect::Unknown => true,
            _ => false,
        };
        let excused = row.only.iter().any(|only| only == effect.as_str());
        if !done && !excused {
            wrong.push(format!("didn't {effect}"));
        } else if done && excused {
            wrong.push(format!("did {effect}, which it is excused for not doing"));
        }
    }
}

fn database(server: &Postgres) -> Result<()> {
    let script = tempfile::NamedTempFile::new()?;
    std::fs::write(script.path(), text("fixture.sql")?)?;
    server.sql("create database seen")?;
    check(
        std::process::Command::new("psql")
            .args([
                "-h",
                server.address(),
                "-U",
                "postgres",
                "-d",
                "seen",
                "-XAtq",
                "-v",
                "ON_ERROR_STOP=1",
                "-f",
            ])
            .arg(script.path()),
    )
    .map(|_| ())
}

fn files() -> Result<(tempfile::TempDir, PathBuf)> {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::Builder::new().prefix("bailiff-files-").tempdir()?;
    let path = directory.path().to_path_buf();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
    Ok((directory, path))
}

/// The oldest version and the newest; all of them with `BAILIFF_VERSIONS=all`.
fn versions() -> Result<Vec<u32>> {
    let mut found = Postgres::versions()?;
    let all = std::env::var("BAILIFF_VERSIONS").is_ok_and(|wanted| wanted == "all");
    if !all && found.len() > 2 {
        found.drain(1..found.len() - 1);
    }
    Ok(found)
}

#[test]
fn servers_do_what_is_said_of_statements() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let (rows, versions) = (all_rows()?, versions()?);
    let wrong = std::thread::scope(|scope| {
        let running: Vec<_> = versions
            .into_iter()
            .map(|version| {
                let rows = &rows;
                scope.spawn(move || held_against(version, rows).with_context(|| format!("server {version}")))
            })
            .collect();
        let mut wrong = String::new();
        for thread in running {
            wrong.push_str(
                &thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread panicked"))??,
            );
        }
        anyhow::Ok(wrong)
    })?;
    ensure!(wrong.is_empty(), "{wrong}");
    Ok(())
}

/// Runs all rows that a version knows, and tells what isn't as the table says.
fn held_against(version: u32, rows: &[Row]) -> Result<String> {
    let server = Postgres::start_version(version)?;
    database(&server)?;
    let (_kept, path) = files()?;
    let mut witness = Witness::new(&server, "seen", &path)?;
    let settings = Settings {
        server: version,
        ..Settings::default()
    };
    let (mut wrong, mut seen) = (String::new(), 0);
    for row in rows
        .iter()
        .filter(|row| (row.since..=row.until).contains(&version))
    {
        let place = |text: &str| text.replace("FILES", &path.display().to_string());
        // What can't be parsed is unknown, and may do anything.
        let classified = classify(&row.sql, &settings).unwrap_or_default();
        let deeds = witness
            .see(&place(&row.setup), &place(&row.sql), &row.data)
            .with_context(|| format!("line {}: {}", row.line, row.sql))?;
        let mut found = Vec::new();
        match (&deeds, row.fails) {
            (Err(_), true) => continue,
            (Err(why), false) => found.push(format!("failed: {why}")),
            (Ok(_), true) => found.push("didn't fail".to_owned()),
            (Ok(deeds), false) => {
                for statement in classified.statements() {
                    compare(row, statement, deeds, &witness, &mut found);
                }
            }
        }
        seen += 1;
        if !found.is_empty() {
            writeln!(
                wrong,
                "{version}: line {}: {}\n    {}\n    {}",
                row.line,
                row.sql,
                row.said,
                found.join("\n    ")
            )?;
        }
    }
    eprintln!("server {version}: {seen} statements");
    Ok(wrong)
}

/// Kinds of nodes that end in `Stmt` and that no text is made of.
const NO_STATEMENTS: &[&str] = &[
    "PlassignStmt",     // PL/pgSQL's, which hands it to the grammar itself.
    "RawStmt",          // What the grammar wraps each statement in.
    "SetOperationStmt", // Made of SelectStmt when it is analysed.
];

/// The grammar's kinds of statements: a message with one field that is empty, for each number that a field may have.
fn kinds() -> Result<BTreeSet<String>> {
    use prost::Message as _;
    let mut found = BTreeSet::new();
    for number in 1..1_000_u32 {
        let mut bytes = Vec::new();
        prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut bytes);
        bytes.push(0);
        let node = pg_query::protobuf::Node::decode(bytes.as_slice());
        let tree = node.map(|node| serde_json::to_value(&node)).context("a node")??;
        found.extend(named(&tree));
    }
    Ok(found)
}

/// Kinds of statements in a tree, however deep.
fn named(tree: &serde_json::Value) -> BTreeSet<String> {
    use serde_json::Value;
    match tree {
        Value::Array(items) => items.iter().flat_map(named).collect(),
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .flat_map(|(name, value)| {
                let own = name.ends_with("Stmt").then(|| name.clone());
                named(value).into_iter().chain(own)
            })
            .collect(),
        _ => BTreeSet::new(),
    }
}

#[test]
fn every_kind_of_statement_is_in_the_tables() -> Result<()> {
    let (rows, kinds) = (all_rows()?, kinds()?);
    ensure!(
        rows.len() >= 470 && kinds.len() >= 115,
        "only {} rows, {kinds:?}",
        rows.len()
    );
    let mut seen = BTreeSet::new();
    for row in &rows {
        let Ok(parsed) = pg_query::parse(&row.sql, pg_query::ParserOptions::DEFAULT) else {
            continue; // What older servers alone can read.
        };
        seen.extend(named(&serde_json::to_value(&parsed.protobuf)?));
    }
    let missing: Vec<_> = kinds
        .iter()
        .filter(|kind| !seen.contains(*kind) && !NO_STATEMENTS.contains(&kind.as_str()))
        .collect();
    ensure!(missing.is_empty(), "{missing:?}");
    Ok(())
}
