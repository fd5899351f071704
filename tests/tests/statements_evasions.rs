//! Ways to have a statement do more than it seems to, each tried against a real server.
//!
//! Every one is tried past the agent first, where it has to reach what it is after: otherwise it would be no evasion. Through the agent
//! the server has to be afterwards as it was before, and nothing of what is hidden may have been told.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::evasions::{Evasion, encodings, hidden_writes, in_two_steps, other_things, words};
use bailiff_tests::{Client, Lab, Message, Postgres, Running, say};

const SECRET: &str = "out of the vault";

/// What each attack finds: a table that it may use, one that it may not, and code that touches the latter.
const SCHEMA: &str = "
    create table open(i int primary key, x int, y text);
    insert into open select n, n, 'o' || n from generate_series(1, 5) n;
    create table vault(i int primary key, secret text);
    insert into vault values (1, 'out of the vault'), (2, 'out of the vault');
    create table nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn(i int);
    insert into nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn values (1);
    create schema hidden;
    create table hidden.open as select i, secret as y from vault;
    create sequence counter;
    create function wipe() returns int language plpgsql as 'begin delete from vault; return 1; end';
    create function wipe(int, int) returns int language plpgsql as 'begin delete from vault; return 1; end';
    create function wipe(int) returns bool language plpgsql immutable as 'begin perform wipe(); return true; end';
    create function definer() returns int language plpgsql security definer as 'begin delete from vault; return 1; end';
    create function wiping() returns trigger language plpgsql as 'begin delete from vault; return new; end';
    create function harmless() returns trigger language plpgsql as 'begin return new; end';
    create table watched(i int);
    create trigger harmless before insert on watched for each row execute function harmless();
    create procedure wipes() language plpgsql as 'begin delete from vault; end';
    create operator <!! (leftarg = int, rightarg = int, function = wipe);
    create operator hidden.+ (leftarg = int, rightarg = int, function = wipe);
    create function \"json_scalar\"(int) returns int language plpgsql as 'begin delete from vault; return 1; end';
    create function wiped(int, int, int) returns int language plpgsql as 'begin delete from vault; return 1; end';
    create type shape as (i int);
    create extension dblink;
    create extension postgres_fdw;
    select lo_from_bytea(4711, 'kept');
";

/// Everything in the cluster and database that an attack may be after, in one value.
const STATE: &str = "
    select md5(coalesce(string_agg(x, '/' order by x), '')) from (
      select format('relation %s %s %s %s %s %s %s', oid, relname, relkind, relowner, relnamespace, relacl, relrowsecurity) as x
        from pg_class where oid >= 16384 and relnamespace::regnamespace::text !~ '^pg_'
      union all select format('function %s %s %s', oid, proname, prosrc) from pg_proc where oid >= 16384
      union all select format('role %s %s', rolname, rolsuper) from pg_roles
      union all select format('object %s %s', loid, md5(data)) from pg_largeobject
      union all select format('object %s', oid) from pg_largeobject_metadata
      union all select format('publication %s', pubname) from pg_publication
      union all select format('settings %s %s', setrole, setconfig) from pg_db_role_setting
      union all select format('prepared %s', gid) from pg_prepared_xacts
      union all select format('lock %s', objid) from pg_locks where locktype = 'advisory'
      union all select format('session %s', pid) from pg_stat_activity where application_name = 'victim'
      union all select format('file %s', f) from pg_ls_dir('FILES') f
      union all select format('sequence %s %s', sequencename, last_value) from pg_sequences
      union all select format('comment %s %s', objoid, description) from pg_description where objoid >= 16384
      union all select format('rows %s', query_to_xml(format('select * from %s', oid::regclass), true, false, ''))
        from pg_class where oid >= 16384 and relkind = 'r' and relname not in ('open', 'watched')
          and relnamespace::regnamespace::text !~ '^pg_'
      union all select format('open %s', open) from open
    ) all_of_it";

/// The tables that are denied, and where their rows may have got to.
const VAULT: &str = "
    select md5(coalesce(string_agg(x, '/' order by x), '')) from (
      select format('relation %s %s %s %s %s %s', oid, relname, relnamespace::regnamespace, relowner, relacl, obj_description(oid)) as x
        from pg_class where oid in (TABLES)
      union all select format('rows %s', query_to_xml(format('select * from only %s', oid::regclass), true, false, ''))
        from pg_class where oid in (TABLES)
      union all select format('published %s', pubname) from pg_publication where puballtables
      union all select format('stolen %s', oid::regclass) from pg_class
        where oid >= 16384 and relkind in ('r', 'm') and oid not in (TABLES, HIDDEN) and relnamespace::regnamespace::text !~ '^pg_toast'
          and query_to_xml(format('select * from %s', oid::regclass), true, false, '')::text ~ 'out of the vault'
    ) all_of_it";

/// Lets use one table.
const ONE_TABLE: &str = "    - name: open
      effects: [read, insert, update, delete, copy, transaction, set]
      relations: [public.open]
      action: Allow
";

/// Lets do everything but running code, and nothing with one table.
const ALL_BUT_ONE: &str = "    - name: all
      effects: [read, insert, update, delete, truncate, create, alter, drop, grant, copy, set, transaction]
      action: Allow
    - name: not the vault
      effects: [read, insert, update, delete, truncate, create, alter, drop, grant, copy, transaction]
      relations: [public.vault, public.nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn]
      action: Deny
";

/// A server with what attacks are after, each time in a database of its own.
struct Place {
    lab: Lab,
    files: tempfile::TempDir,
    /// Tells everything that is there.
    all: String,
    /// Tells what attacks are after.
    wanted: String,
    /// Databases that are as they were made.
    fresh: RefCell<BTreeSet<&'static str>>,
}

impl Place {
    fn new(rules: &str, all_wanted: bool) -> Result<Option<Self>> {
        use std::os::unix::fs::PermissionsExt as _;
        let Some(lab) = Lab::new(rules, "")? else {
            return Ok(None);
        };
        let files = tempfile::Builder::new().prefix("bailiff-evasions-").tempdir()?;
        let inner = files.path().join("inner");
        std::fs::create_dir(&inner)?;
        std::fs::write(files.path().join("secret.txt"), SECRET)?;
        for path in [files.path(), &inner] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
        }
        lab.server.restart_with("max_prepared_transactions", "5")?;
        for sql in [
            "create role sloppy superuser login",
            "alter role sloppy set standard_conforming_strings = off",
            "create role shifted superuser login",
            "alter role shifted set client_encoding = 'SJIS'",
            "create role plain login",
            "create role owner",
            "create database seeded",
        ] {
            lab.server.sql(sql)?;
        }
        lab.server.sql_in("seeded", SCHEMA)?;
        lab.server.sql_in("seeded", "alter table vault owner to owner")?;
        let oid = |name: &str| {
            lab.server
                .sql_in("seeded", &format!("select '{name}'::regclass::oid"))
        };
        let tables = format!("{}, {}", oid("vault")?, oid(&"n".repeat(63))?);
        let all = STATE.replace("FILES", &inner.display().to_string());
        let wanted = if all_wanted {
            all.clone()
        } else {
            VAULT
                .replace("TABLES", &tables)
                .replace("HIDDEN", &oid("hidden.open")?)
        };
        Ok(Some(Self {
            lab,
            files,
            all,
            wanted,
            fresh: RefCell::default(),
        }))
    }

    fn filled(&self, part: &[u8], database: &str) -> Vec<u8> {
        let Some((&tag, rest)) = part.split_first() else {
            return Vec::new();
        };
        let Ok(text) = std::str::from_utf8(rest.get(4..).unwrap_or_default()) else {
            return part.to_vec();
        };
        if !["FILES", "ADDRESS", "DATABASE"]
            .iter()
            .any(|name| text.contains(name))
        {
            return part.to_vec();
        }
        let files = self.files.path().join("inner");
        let text = text
            .replace("FILES", &files.display().to_string())
            .replace("ADDRESS", self.lab.server.address())
            .replace("DATABASE", database);
        bailiff_tests::message(tag, text.as_bytes())
    }

    /// Carries an attack out in a fresh database, and tells whether it reached what it is after.
    fn reaches(&self, evasion: &Evasion, agent: Option<&Running>) -> Result<(bool, Vec<Message>)> {
        let server = &self.lab.server;
        let database = if agent.is_some() { "guarded" } else { "direct" };
        if !self.fresh.borrow_mut().remove(database) {
            server.sql(&format!("create database {database} template seeded"))?;
        }
        let mut victim = begin(
            TcpStream::connect((server.address(), Postgres::PORT))?,
            database,
            &[("application_name", "victim")],
        )?
        .context("the victim isn't let in")?;
        victim.ask("listen alarm")?;
        let direct = || TcpStream::connect((server.address(), Postgres::PORT));
        let mut observer = begin(direct()?, database, &[])?.context("the observer isn't let in")?;
        let mut looks = || [&self.wanted, &self.all].map(|look| observer.value(look).ok());
        let before = looks();
        ensure!(
            before.iter().all(Option::is_some),
            "nothing can be seen of {database}"
        );
        let (mut heard, mut open) = (Vec::new(), Vec::new());
        for session in &evasion.sessions {
            let stream = match agent {
                Some(agent) => agent.dial(server.address(), Postgres::PORT)?,
                None => TcpStream::connect((server.address(), Postgres::PORT))?,
            };
            let Some(mut client) = begin(stream, database, &session.parameters)? else {
                continue; // The agent doesn't let such a session begin.
            };
            for part in &session.parts {
                if client.send(&self.filled(part, database)).is_err() {
                    break;
                }
                let Ok(answer) = client.until_ready() else { break };
                if answer.is_empty() {
                    break;
                }
                heard.extend(answer);
            }
            open.push(client);
        }
        // What is left open is looked at, too, for locks; what was never committed is gone by then.
        let held = looks();
        drop(open);
        let after = looks();
        let changed = |place: usize| {
            let before = before.get(place);
            held.get(place) != before || after.get(place) != before
        };
        let notified = victim
            .ask("select 1")
            .is_ok_and(|answer| answer.iter().any(|message| message.tag == b'A'));
        let told = heard.iter().any(|message| {
            matches!(message.tag, b'D' | b'd' | b'V' | b'E' | b'N')
                && message
                    .body
                    .windows(SECRET.len())
                    .any(|part| part == SECRET.as_bytes())
        });
        drop(victim);
        for entry in std::fs::read_dir(self.files.path().join("inner"))?.flatten() {
            std::fs::remove_file(entry.path())?;
        }
        if changed(1) {
            for left in server.sql("select gid from pg_prepared_xacts")?.lines() {
                server.sql_in(database, &format!("rollback prepared '{left}'"))?;
            }
            server.sql(&format!("drop database {database} with (force)"))?;
            server.sql(
                "drop role if exists thief; alter role plain nosuperuser; alter role plain reset all; alter role postgres reset all",
            )?;
        } else {
            self.fresh.borrow_mut().insert(database);
        }
        Ok((changed(0) || notified || told, heard))
    }
}

/// A Query in another encoding than UTF-8.
fn bytes(sql: &[u8]) -> Vec<u8> {
    bailiff_tests::message(b'Q', &[sql, b"\0"].concat())
}

/// Begins a session as postgres, unless the parameters say who. `None` where it isn't let in.
fn begin(stream: TcpStream, database: &str, parameters: &[(&str, &str)]) -> Result<Option<Client>> {
    let mut client = Client::new(stream)?;
    let mut all = vec![("database", database)];
    if !parameters.iter().any(|(name, _)| *name == "user") {
        all.push(("user", "postgres"));
    }
    all.extend_from_slice(parameters);
    client.send(&say::startup(&all))?;
    let answer = client.until_ready()?;
    let ready = answer.iter().any(|message| message.tag == b'Z');
    Ok(ready.then_some(client))
}

/// Tries each past the agent and through it.
fn none_gets_round(rules: &str, evasions: Vec<Evasion>) -> Result<()> {
    let Some(place) = Place::new(rules, rules == ONE_TABLE)? else {
        return Ok(());
    };
    let agent = place.lab.start()?;
    let mut wrong = Vec::new();
    for evasion in &evasions {
        let tried = |agent| place.reaches(evasion, agent).with_context(|| evasion.name);
        let (reached, heard) = tried(None)?;
        if !reached {
            wrong.push(format!("{}: no evasion: {heard:?}", evasion.name));
        }
        let (reached, heard) = tried(Some(&agent))?;
        if reached {
            wrong.push(format!("{}: gets round: {heard:?}", evasion.name));
        }
        let (reached, heard) = place.reaches(&evasion.extended(), Some(&agent))?;
        if reached {
            wrong.push(format!(
                "{}: gets round when it is prepared: {heard:?}",
                evasion.name
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The agent still serves who does what is allowed.
    let mut client = place.lab.session(&agent)?;
    ensure!(client.value("select 41 + 1")? == "42");
    Ok(())
}

/// Those that are after the vault.
fn unlisted(evasions: Vec<Evasion>) -> Vec<Evasion> {
    evasions
        .into_iter()
        .filter(|evasion| !evasion.only_listed)
        .collect()
}

#[test]
fn hidden_writes_reach_nothing_where_one_table_is_allowed() -> Result<()> {
    none_gets_round(ONE_TABLE, hidden_writes())
}

#[test]
fn hidden_writes_dont_reach_a_table_that_is_denied() -> Result<()> {
    none_gets_round(ALL_BUT_ONE, unlisted(hidden_writes()))
}

#[test]
fn hidden_words_reach_nothing_where_one_table_is_allowed() -> Result<()> {
    none_gets_round(ONE_TABLE, [words(), encodings()].into_iter().flatten().collect())
}

#[test]
fn hidden_words_dont_reach_a_table_that_is_denied() -> Result<()> {
    none_gets_round(
        ALL_BUT_ONE,
        unlisted([words(), encodings()].into_iter().flatten().collect()),
    )
}

#[test]
fn what_is_made_first_reaches_nothing_where_one_table_is_allowed() -> Result<()> {
    none_gets_round(ONE_TABLE, in_two_steps())
}

#[test]
fn what_is_made_first_doesnt_reach_a_table_that_is_denied() -> Result<()> {
    none_gets_round(ALL_BUT_ONE, unlisted(in_two_steps()))
}

#[test]
fn other_things_than_rows_arent_reached() -> Result<()> {
    none_gets_round(ONE_TABLE, other_things())
}

/// A database, parameters of a session's start, and a text in the session's encoding.
type Told<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8]);

/// Letters beyond ASCII: what the server makes of a name isn't what its bytes seem to say.
#[test]
fn names_in_other_encodings_arent_mistaken() -> Result<()> {
    let long = "é".repeat(40);
    let rules = format!(
        "    - name: all
      effects: [read, insert, update, delete, copy, set, transaction]
      action: Allow
    - name: not these
      effects: [read, insert, update, delete]
      relations: ['public.{long}', 'public.Ã©']
      action: Deny
"
    );
    let Some(lab) = Lab::new(&rules, "")? else {
        return Ok(());
    };
    lab.server
        .sql("create database latin encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0")?;
    for (database, name) in [("latin", long.as_str()), ("postgres", "Ã©")] {
        let stream = TcpStream::connect((lab.server.address(), Postgres::PORT))?;
        let mut owner = begin(stream, database, &[("client_encoding", "UTF8")])?.context("not let in")?;
        let made = owner.ask(&format!("create table \"{name}\" (i int)"))?;
        ensure!(made.iter().any(|message| message.tag == b'C'), "{made:?}");
    }
    let agent = lab.start()?;
    // In LATIN1 the long name has 40 bytes and isn't cut; and two letters of it are one of UTF-8.
    let long = format!("delete from \"{long}\"");
    let attacks: [Told<'_>; 2] = [
        ("latin", &[("client_encoding", "UTF8")], long.as_bytes()),
        (
            "postgres",
            &[("client_encoding", "LATIN1")],
            b"delete from \"\xc3\xa9\"",
        ),
    ];
    for (database, parameters, sql) in attacks {
        let stream = TcpStream::connect((lab.server.address(), Postgres::PORT))?;
        let mut direct = begin(stream, database, parameters)?.context("not let in")?;
        direct.send(&bytes(sql))?;
        let heard = direct.until_ready()?;
        ensure!(
            heard.iter().any(|message| message.tag == b'C'),
            "{database}: no evasion: {heard:?}"
        );
        let stream = agent.dial(lab.server.address(), Postgres::PORT)?;
        let mut client = begin(stream, database, parameters)?.context("not let in by the agent")?;
        client.send(&bytes(sql))?;
        let heard = client.until_ready()?;
        ensure!(
            heard.iter().filter_map(Message::sqlstate).eq(["42501"]),
            "{database}: {heard:?}"
        );
        // What has such letters in literals alone is read.
        let told = client.ask("select 1 where 'é' <> 'e'")?;
        ensure!(
            told.iter().any(|message| message.tag == b'D'),
            "{database}: {told:?}"
        );
        if database == "postgres" {
            client.send(&bytes(b"select '\xe9'"))?;
            let told = client.until_ready()?;
            ensure!(
                told.iter()
                    .any(|message| message.tag == b'D' && message.body.ends_with(b"\xe9")),
                "{told:?}"
            );
        }
    }
    Ok(())
}

/// Who a session is for the server is a setting: without leave for `set` it stays.
#[test]
fn nobody_becomes_somebody_else_without_leave_to_set() -> Result<()> {
    let rules = "    - name: read
      effects: [read, transaction]
      action: Allow
";
    let Some(lab) = Lab::new(rules, "")? else {
        return Ok(());
    };
    lab.server.sql("create role other login")?;
    let agent = lab.start()?;
    for sql in [
        "set role other",
        "set local role other",
        "set session role other",
        "set session authorization other",
        "select set_config('role', 'other', false)",
        "select 1 where set_config('session_authorization', 'other', false) <> ''",
        "set \"role\" to 'other'",
        "select pg_catalog.set_config('ro' || 'le', 'other', false)",
    ] {
        let who = |client: &mut Client| -> Result<String> {
            client.ask("begin")?;
            client.ask(sql)?;
            let who = client.value("select current_user");
            // A denied statement leaves the transaction failed.
            client.ask("rollback")?;
            Ok(who.unwrap_or_default())
        };
        ensure!(who(&mut lab.direct()?)? == "other", "{sql}: no evasion");
        let mut client = lab.session(&agent)?;
        ensure!(who(&mut client)? != "other", "{sql}");
        client.ask(sql)?;
        ensure!(client.value("select current_user")? == "postgres", "{sql}");
    }
    Ok(())
}
