//! What a statement did, as the server tells it afterwards: locks, counters, catalogs, settings, sequences, files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::{Client, Message, Postgres, message, say};

/// One look at a session and its database: what is there, and its state as a text, both by name.
type Look = BTreeMap<(String, String), String>;

/// A session on a server of which is known what its statements do.
#[derive(Debug)]
pub struct Witness {
    client: Client,
    look: String,
    /// The part of it that grows from one transaction to the next, until the session tells it to all.
    counters: String,
    late: String,
    /// What is there in a transaction that has done nothing.
    idle: Look,
    /// Rows and sequences as they are before any statement.
    untouched: Look,
    related: BTreeMap<String, BTreeSet<String>>,
    /// Indexes, and the relations that they are of.
    indexes: BTreeSet<(String, String)>,
    files: std::path::PathBuf,
}

/// What a statement did.
#[derive(Debug, Default, Clone)]
pub struct Deeds {
    /// `kind name`, such as `insert public.a`, `lock public.a RowExclusiveLock`, `set work_mem`.
    pub all: BTreeSet<String>,
}

impl Deeds {
    /// Whether something of a kind was done.
    #[must_use]
    pub fn any(&self, kinds: &[&str]) -> bool {
        self.all
            .iter()
            .any(|deed| kinds.iter().any(|kind| deed.split(' ').next() == Some(*kind)))
    }

    /// What was done of a kind, by name.
    pub fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        self.all
            .iter()
            .filter_map(move |deed| deed.strip_prefix(kind)?.strip_prefix(' '))
    }
}

/// Object catalogs whose rows have numbers, and the columns that hold rights and owners.
const CATALOGS: &str = "select c.relname, exists (select from pg_attribute where attrelid = c.oid and attname = 'oid'),
    coalesce((select string_agg(quote_ident(attname) || '::text', '||' order by attnum) from pg_attribute
      where attrelid = c.oid and (attname ~ 'acl$' or attname ~ 'owner$') and not attnotnull), ''),
    coalesce((select string_agg(quote_ident(attname) || '::text', '||' order by attnum) from pg_attribute
      where attrelid = c.oid and (attname ~ 'owner$') and attnotnull), '')
    from pg_class c where relnamespace = 'pg_catalog'::regnamespace and relkind = 'r' and relname not in ('pg_statistic_ext_data') order by 1";

const NAME: &str = "n.nspname || '.' || c.relname";

impl Witness {
    /// Begins a session in a database.
    pub fn new(server: &Postgres, database: &str, files: &Path) -> Result<Self> {
        let mut client = Client::new(TcpStream::connect((server.address(), Postgres::PORT))?)?;
        client.send(&say::startup(&[("user", "postgres"), ("database", database)]))?;
        let answer = client.until_ready()?;
        if let Some(error) = answer.iter().find(|message| message.tag == b'E') {
            bail!("not let in: {error:?}");
        }
        query(
            &mut client,
            "set track_functions = 'all'; set client_min_messages = error",
        )?;
        let counters = [
            format!(
                "select 'count', {NAME}, concat_ws(' ', n_tup_ins, n_tup_upd, n_tup_del, seq_scan + coalesce(idx_scan, 0))
                 from pg_stat_xact_user_tables t join pg_class c on c.oid = t.relid join pg_namespace n on n.oid = c.relnamespace"
            ),
            "select 'function', funcid::text, calls || ' ' || schemaname || '.' || funcname from pg_stat_xact_user_functions".to_owned(),
        ]
        .join(" union all ");
        let mut parts = vec![
            counters.clone(),
            format!(
                "select 'lock', {NAME} || ' ' || l.mode, '' from pg_locks l join pg_class c on c.oid = l.relation
                 join pg_namespace n on n.oid = c.relnamespace
                 where l.pid = pg_backend_pid() and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'"
            ),
            "select 'advisory', objid::text || mode, '' from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()".to_owned(),
            "select 'set', name, setting from pg_settings where setting is distinct from reset_val".to_owned(),
            "select 'set', name, coalesce(current_setting(name, true), '') from unnest(array['role', 'my.var', 'session_authorization']) name".to_owned(),
            "select 'cursor', name, '' from pg_cursors".to_owned(),
            "select 'prepared', name, '' from pg_prepared_statements".to_owned(),
            "select 'channel', name, '' from pg_listening_channels() name".to_owned(),
            format!(
                "select 'file', {NAME}, pg_relation_filenode(c.oid)::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where relkind in ('r', 'm') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'"
            ),
        ];
        for row in rows(&query(&mut client, CATALOGS)?) {
            let [name, numbered, rights, owner] = row.as_slice() else {
                bail!("{row:?}")
            };
            parts.push(format!(
                "select 'catalog', '{name}', coalesce(sum(hashtext(ctid::text || xmin::text)), 0) || ' ' || count(*) from pg_catalog.{name}"
            ));
            let both: Vec<&str> = [rights, owner]
                .into_iter()
                .map(String::as_str)
                .filter(|text| !text.is_empty())
                .collect();
            if numbered == "t" {
                parts.push(format!(
                    "select 'object', '{name} ' || oid, '' from pg_catalog.{name} where oid >= 16384"
                ));
                for columns in both {
                    parts.push(format!(
                        "select 'right', '{name} ' || oid, coalesce({columns}, '') from pg_catalog.{name} where oid >= 2200"
                    ));
                }
            } else if name == "pg_attribute" {
                parts.push(
                    "select 'right', 'pg_attribute ' || attrelid || ' ' || attnum, attacl::text from pg_attribute
                     where attrelid >= 16384 and attacl is not null".to_owned(),
                );
            }
        }
        // What takes locks itself comes last.
        let tables = rows(&query(
            &mut client,
            "select c.oid::regclass::text, n.nspname || '.' || c.relname, c.relkind from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where relkind in ('r', 'S') and n.nspname in ('public', 's')",
        )?);
        let late = tables.iter().filter_map(|row| {
            let [table, name, kind] = row.as_slice() else { return None };
            Some(if kind == "S" {
                format!("select 'sequence', '{name}', last_value::text || is_called from {table}")
            } else {
                format!("select 'rows', '{name}', coalesce(sum(hashtext(t::text))::text, '') || count(*) from only {table} t")
            })
        });
        let late: Vec<String> = late.collect();
        let mut this = Self {
            client,
            look: parts.join(" union all "),
            counters,
            late: late.join(" union all "),
            idle: Look::new(),
            untouched: Look::new(),
            related: BTreeMap::new(),
            indexes: BTreeSet::new(),
            files: files.to_path_buf(),
        };
        this.untouched = look(&mut this.client, &this.late)?;
        this.related = related(&mut this.client)?;
        let sql = format!(
            "select (select {NAME} from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = indexrelid),
                (select {NAME} from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = indrelid) from pg_index"
        );
        for row in rows(&query(&mut this.client, &sql)?) {
            if let [index, relation] = row.as_slice() {
                this.indexes.insert((index.clone(), relation.clone()));
            }
        }
        query(&mut this.client, "begin")?;
        this.idle = look(&mut this.client, &this.look)?;
        query(&mut this.client, "rollback")?;
        Ok(this)
    }

    /// Whether one relation is an index of another.
    #[must_use]
    pub fn is_index_of(&self, index: &str, relation: &str) -> bool {
        self.indexes.contains(&(index.to_owned(), relation.to_owned()))
    }

    /// Relations behind a relation, itself included: tables of views, partitions, what foreign keys refer to.
    #[must_use]
    pub fn behind(&self, named: &BTreeSet<String>) -> BTreeSet<String> {
        let mut found = named.clone();
        let mut left: Vec<String> = named.iter().cloned().collect();
        while let Some(name) = left.pop() {
            for other in self.related.get(&name).into_iter().flatten() {
                if found.insert(other.clone()) {
                    left.push(other.clone());
                }
            }
        }
        found
    }

    /// All relations that there are.
    #[must_use]
    pub fn relations(&self) -> BTreeSet<String> {
        self.related.keys().cloned().collect()
    }

    /// Runs statements without a look.
    pub fn run(&mut self, sql: &str) -> Result<()> {
        query(&mut self.client, sql).map(|_| ())
    }

    /// Runs a statement in a transaction that is rolled back, after `setup`. `Err(text)` is the server's refusal.
    pub fn see(&mut self, setup: &str, sql: &str, data: &str) -> Result<Result<Deeds, String>> {
        query(&mut self.client, "begin")?;
        let look_at = self.look.clone();
        let mut untouched = self.untouched.clone();
        let before = if setup.is_empty() {
            let mut before = self.idle.clone();
            before.retain(|(kind, _), _| kind != "count" && kind != "function");
            let counters = self.counters.clone();
            before.extend(look(&mut self.client, &counters)?);
            before
        } else {
            query(&mut self.client, setup).with_context(|| format!("the setup of {sql}"))?;
            // What is looked at late takes locks, which go with the savepoint.
            query(&mut self.client, "savepoint late")?;
            let late = self.late.clone();
            untouched = look(&mut self.client, &late)?;
            query(&mut self.client, "rollback to late; release late")?;
            look(&mut self.client, &look_at)?
        };
        let files = self.list()?;
        let answer = tell(&mut self.client, sql, data)?;
        if let Some(error) = answer.iter().find(|message| message.tag == b'E') {
            let why = error.field(b'M').unwrap_or_default();
            query(&mut self.client, "rollback")?;
            return Ok(Err(why));
        }
        let mut deeds = Deeds::default();
        let status = answer.last().and_then(|ready| ready.body.first().copied());
        if status != Some(b'T') {
            deeds.all.insert("transaction ended".to_owned());
        }
        if answer.iter().any(|message| message.tag == b'T') {
            deeds.all.insert("returned rows".to_owned());
        }
        for message in &answer {
            match message.tag {
                b'H' => drop(deeds.all.insert("copied out".to_owned())),
                b'G' => drop(deeds.all.insert("copied in".to_owned())),
                b'C' => drop(deeds.all.insert(format!(
                    "tag {}",
                    String::from_utf8_lossy(&message.body).trim_end_matches('\0')
                ))),
                _ => {}
            }
        }
        let after = match look(&mut self.client, &look_at) {
            Ok(after) => after,
            Err(why) => {
                tell(
                    &mut self.client,
                    "rollback; reset role; reset session authorization",
                    "",
                )?;
                return Ok(Err(format!("nothing can be seen after it: {why:#}")));
            }
        };
        compare(&before, &after, &mut deeds);
        let late = self.late.clone();
        // A dropped table can't be looked at; its rows are gone with it.
        if let Ok(after) = look(&mut self.client, &late) {
            compare(&untouched, &after, &mut deeds);
        }
        if files != self.list()? {
            deeds.all.insert("wrote files".to_owned());
        }
        self.clean()?;
        Ok(Ok(deeds))
    }

    fn list(&self) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(&self.files)?.flatten() {
            found.insert(entry.file_name().to_string_lossy().into_owned());
        }
        Ok(found)
    }

    fn clean(&mut self) -> Result<()> {
        tell(&mut self.client, "rollback", "")?;
        query(&mut self.client, "discard all")?;
        query(
            &mut self.client,
            "set track_functions = 'all'; set client_min_messages = error",
        )?;
        for entry in std::fs::read_dir(&self.files)?.flatten() {
            std::fs::remove_file(entry.path())?;
        }
        // Sequences don't roll back.
        let sequences = query(
            &mut self.client,
            "select setval(format('%I.%I', schemaname, sequencename)::regclass,
                case sequencename when 'q' then 1 else 2 end, sequencename <> 'q') from pg_sequences where schemaname = 'public'",
        );
        sequences.map(|_| ())
    }
}

fn compare(before: &Look, after: &Look, deeds: &mut Deeds) {
    for (key @ (kind, name), state) in after {
        let old = before.get(key);
        if old == Some(state) {
            continue;
        }
        match kind.as_str() {
            "count" => {
                let numbers = |text: Option<&String>| -> Vec<i64> {
                    text.map(|text| text.split(' ').map(|word| word.parse().unwrap_or(0)).collect())
                        .unwrap_or_else(|| vec![0; 4])
                };
                let (new, old) = (numbers(Some(state)), numbers(old));
                for ((new, old), what) in new.iter().zip(old).zip(["insert", "update", "delete", "scan"]) {
                    if *new > old {
                        deeds.all.insert(format!("{what} {name}"));
                    }
                }
            }
            "function" => {
                let calls = |text: Option<&String>| -> u64 {
                    text.and_then(|text| text.split(' ').next()?.parse().ok())
                        .unwrap_or(0)
                };
                if calls(Some(state)) > calls(old) {
                    let called = state.split(' ').nth(1).unwrap_or_default();
                    deeds.all.insert(format!("function {called}"));
                }
            }
            "object" | "cursor" | "prepared" | "advisory" | "channel" if old.is_none() => {
                deeds.all.insert(format!("{kind}+ {name}"));
            }
            // A new object has rights and files that nobody gave it.
            "right" | "file" if old.is_none() => {}
            _ => drop(deeds.all.insert(format!("{kind} {name}"))),
        }
    }
    for key @ (kind, name) in before.keys() {
        if !after.contains_key(key) {
            let gone = match kind.as_str() {
                "right" | "file" | "count" | "function" => continue,
                "set" | "rows" | "sequence" => format!("{kind} {name}"),
                _ => format!("{kind}- {name}"),
            };
            deeds.all.insert(gone);
        }
    }
}

fn look(client: &mut Client, sql: &str) -> Result<Look> {
    let mut found = Look::new();
    for row in rows(&query(client, sql)?) {
        if let [kind, name, state] = row.as_slice() {
            found.insert((kind.clone(), name.clone()), state.clone());
        }
    }
    Ok(found)
}

fn related(client: &mut Client) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let name = |oid: &str| {
        format!(
            "(select {NAME} from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = {oid})"
        )
    };
    let pairs = [
        (
            "d.refobjid",
            "r.ev_class",
            "pg_depend d join pg_rewrite r on r.oid = d.objid where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass",
        ),
        ("inhrelid", "inhparent", "pg_inherits"),
        ("inhparent", "inhrelid", "pg_inherits"),
        ("indrelid", "indexrelid", "pg_index"),
        ("indexrelid", "indrelid", "pg_index"),
        ("confrelid", "conrelid", "pg_constraint where contype = 'f'"),
        ("conrelid", "confrelid", "pg_constraint where contype = 'f'"),
        (
            "objid",
            "refobjid",
            "pg_depend where classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass and deptype in ('a', 'i')",
        ),
        (
            "refobjid",
            "objid",
            "pg_depend where classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass and deptype in ('a', 'i')",
        ),
        (
            "o.oid",
            "o.oid",
            "pg_class o where relnamespace <> 'pg_catalog'::regnamespace",
        ),
    ];
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (to, from, source) in pairs {
        let sql = format!("select {}, {} from {source}", name(from), name(to));
        for row in rows(&query(client, &sql)?) {
            if let [from, to] = row.as_slice() {
                found.entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    Ok(found)
}

/// Asks, and answers what the server wants for COPY.
fn tell(client: &mut Client, sql: &str, data: &str) -> Result<Vec<Message>> {
    client.send(&say::query(sql))?;
    let mut messages = Vec::new();
    while let Some(answer) = client.message()? {
        let tag = answer.tag;
        messages.push(answer);
        match tag {
            b'G' => {
                client.send(&message(b'd', format!("{data}\n").as_bytes()))?;
                client.send(&message(b'c', b""))?;
            }
            b'Z' => break,
            _ => {}
        }
    }
    Ok(messages)
}

fn query(client: &mut Client, sql: &str) -> Result<Vec<Message>> {
    let answer = client.ask(sql)?;
    if let Some(error) = answer.iter().find(|message| message.tag == b'E') {
        bail!("{sql}: {}", error.field(b'M').unwrap_or_default());
    }
    Ok(answer)
}

fn rows(answer: &[Message]) -> Vec<Vec<String>> {
    answer
        .iter()
        .filter(|message| message.tag == b'D')
        .map(|row| row.values().into_iter().map(Option::unwrap_or_default).collect())
        .collect()
}
