//! What is read of a real server's catalog, of each version that is supported.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use bailiff::catalog::{CatalogError, read};
use bailiff::proxy::{Materials, Snapshot};
use bailiff_model::OriginalDst;
use bailiff_policy::PolicySet;
use bailiff_policy::catalog::{
    Catalog, CatalogLimits, FunctionKind, Generated, Names, Oid, Relation, RelationKind, Resolved, RuleEvent,
    Temporary, TooLarge, TypeKind, Volatility,
};
use bailiff_tests::{Postgres, can_be_root, target};

const OBJECTS: &str = "
    create schema hr;
    create domain hr.card as text check (value <> 'none');
    create type hr.mood as enum ('good', 'bad');
    create type hr.pair as (a int, b text);
    create type hr.span as range (subtype = int);
    create table people (id int primary key, gone int, ssn text default 'none', card hr.card,
        twice int generated always as (id * 2) stored, pairs hr.pair[], check (length(ssn) < 100));
    alter table people drop column gone;
    create index on people (lower(ssn)) where id > 10;
    create table hr.people (id int);
    create table parts (id int) partition by range (id);
    create table parts_1 partition of parts for values from (0) to (10);
    create table child (extra int) inherits (people);
    create view seen as select p.id, p.ssn as number from people p;
    create view over as select number from seen;
    create materialized view kept as select ssn from people;
    create sequence counter;
    create foreign data wrapper nowhere; create server nowhere foreign data wrapper nowhere;
    create foreign table far (id int) server nowhere;
    create function plain(a int, b text default 'x') returns text language sql as 'select ssn from people where id = a';
    create function many(variadic a int[]) returns setof int language sql stable as 'select unnest(a)';
    create function opaque() returns trigger language plpgsql security definer set search_path = hr, pg_temp
        as 'begin return new; end';
    create procedure work() language sql as 'select 1';
    create aggregate total(int) (sfunc = int4pl, stype = int);
    create function given(a int, out b int, out c text) language sql as 'select 1, ssn from people';
    create trigger watches before insert on people for each row execute function opaque();
    create rule copies as on insert to hr.people do also insert into parts values (new.id);
    alter table people enable row level security;
    create policy visible on people using (ssn <> 'hidden');
    create operator === (leftarg = text, rightarg = text, function = texteq);
    create function hr.grade(hr.mood) returns int language sql immutable as 'select 1';
    create cast (hr.mood as int) with function hr.grade(hr.mood) as assignment;
";

fn at(server: &Postgres) -> Result<SocketAddr> {
    Ok((server.address().parse::<std::net::IpAddr>()?, Postgres::PORT).into())
}

fn reads(server: &Postgres, user: &str, limits: CatalogLimits) -> Result<Result<Catalog, CatalogError>> {
    let written = target(server.address(), &format!("  catalog: {{ user: {user} }}\n"));
    let set = PolicySet::from_sources(&[("target.yaml", &written)])?;
    let target = set.targets().first().context("no target")?;
    let files = Snapshot::read(&set).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let files = Materials::new(files);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let address = OriginalDst::new(at(server)?);
    Ok(runtime.block_on(read(target, &files, address, "postgres", limits)))
}

fn relation<'a>(catalog: &'a Catalog, schema: &str, name: &str) -> Result<&'a Relation> {
    catalog
        .relation_in(schema, name)
        .with_context(|| format!("{schema}.{name} is missing"))
}

fn names(relation: &Relation) -> Vec<&str> {
    relation.columns.iter().map(|column| &*column.name).collect()
}

#[test]
fn every_kind_of_object_is_read_of_every_version() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    for version in Postgres::versions()? {
        let server = Postgres::start_version(version)?;
        holds(&server, version).with_context(|| format!("PostgreSQL {version}"))?;
    }
    Ok(())
}

fn holds(server: &Postgres, version: u32) -> Result<()> {
    server.sql(OBJECTS)?;
    server.sql("create role reader login; alter role reader set search_path = hr")?;
    server.sql("create role ann login; alter role ann in database postgres set search_path = '$user', hr")?;
    server.sql("create table counted as select generate_series(1, 500); analyze counted")?;
    if version >= 14 {
        server.sql("create function bound() returns text begin atomic select ssn from people; end")?;
    }
    if version >= 18 {
        server.sql("create table made (a int, b int generated always as (a + 1) virtual)")?;
    }
    // A role without any right but to connect.
    let catalog = reads(server, "reader", CatalogLimits::default())??;
    ensure!(catalog.database() == "postgres" && catalog.server_version() / 10_000 == version);

    let people = relation(&catalog, "public", "people")?;
    ensure!(
        names(people) == ["id", "ssn", "card", "twice", "pairs"],
        "{people:?}"
    );
    ensure!(
        people.column("ssn").is_some_and(|ssn| ssn.number == 3),
        "{people:?}"
    );
    ensure!(people.column("ssn").and_then(|ssn| ssn.expression.as_deref()) == Some("'none'::text"));
    ensure!(
        people
            .column("twice")
            .is_some_and(|twice| twice.generated == Some(Generated::Stored))
    );
    ensure!(people.row_security && people.triggers.len() == 1, "{people:?}");
    for part in ["length(ssn)", "lower(ssn)", "(id > 10)", "'hidden'"] {
        ensure!(
            people.expressions.iter().any(|text| text.contains(part)),
            "{part}: {people:?}"
        );
    }
    let toast = catalog
        .relations()
        .find(|toast| toast.toast_of == Some(people.oid));
    ensure!(toast.is_some_and(|toast| toast.kind == RelationKind::Toast && *toast.schema == *"pg_toast"));
    ensure!(
        people
            .row_type
            .and_then(|rows| catalog.relation_of_row_type(rows))
            == Some(people)
    );

    for (name, kind) in [
        ("people", RelationKind::Table),
        ("parts", RelationKind::Partitioned),
        ("seen", RelationKind::View),
        ("kept", RelationKind::MaterializedView),
        ("far", RelationKind::Foreign),
        ("counter", RelationKind::Sequence),
    ] {
        ensure!(relation(&catalog, "public", name)?.kind == kind, "{name}");
    }
    ensure!(relation(&catalog, "hr", "pair")?.kind == RelationKind::Composite);

    let seen = relation(&catalog, "public", "seen")?;
    let definition = seen.definition.as_deref().context("no definition")?;
    ensure!(definition.contains("FROM public.people p"), "{definition}");
    let on = |relation: &Relation| -> Vec<(Oid, i16)> {
        relation
            .depends
            .iter()
            .map(|on| (on.relation, on.column))
            .collect()
    };
    ensure!(on(seen).contains(&(people.oid, 3)), "{seen:?}");
    let over = relation(&catalog, "public", "over")?;
    ensure!(on(over) == [(seen.oid, 2)], "{over:?}");
    let stats = relation(&catalog, "pg_catalog", "pg_stats")?;
    ensure!(
        stats
            .definition
            .as_deref()
            .is_some_and(|text| text.contains("pg_statistic"))
    );

    let (parts, first) = (
        relation(&catalog, "public", "parts")?,
        relation(&catalog, "public", "parts_1")?,
    );
    ensure!(parts.children == [first.oid] && first.parents == [parts.oid]);
    ensure!(relation(&catalog, "public", "child")?.parents == [people.oid]);
    let copied = relation(&catalog, "hr", "people")?;
    ensure!(
        matches!(copied.rules.as_slice(), [rule] if rule.event == Some(RuleEvent::Insert) && !rule.instead
            && rule.definition.contains("INSERT INTO public.parts")),
        "{copied:?}"
    );
    let counted = relation(&catalog, "public", "counted")?;
    ensure!(
        catalog.rows(counted.oid) == Some(500),
        "{:?}",
        catalog.rows(counted.oid)
    );

    functions(&catalog, version)?;
    types(&catalog)?;
    if version >= 18 {
        let made = relation(&catalog, "public", "made")?;
        ensure!(
            made.column("b")
                .is_some_and(|b| b.generated == Some(Generated::Virtual)),
            "{made:?}"
        );
    }

    let path = |user| {
        catalog
            .search_path_at_start(user, None)
            .map(|path| path.join("|"))
    };
    ensure!(path("ann").as_deref() == Some("ann|hr"), "{:?}", path("ann"));
    ensure!(path("reader").as_deref() == Some("hr"));
    // The role that reads has a path of its own, so the server's can't be told.
    ensure!(path("postgres").is_none());
    let other = reads(server, "postgres", CatalogLimits::default())??;
    let path = other
        .search_path_at_start("postgres", None)
        .map(|path| path.join("|"));
    ensure!(path.as_deref() == Some("postgres|public"), "{path:?}");
    let session = Names::new(other.into(), Some(vec!["hr".into()]), Temporary::default());
    ensure!(matches!(session.relation(None, "people"), Resolved::Found(found) if *found.schema == *"hr"));
    Ok(())
}

fn functions(catalog: &Catalog, version: u32) -> Result<()> {
    let function = |name: &str| {
        catalog
            .functions_named(name)
            .find(|function| *function.schema == *"public")
            .with_context(|| format!("{name} is missing"))
    };
    let plain = function("plain")?;
    ensure!(
        plain
            .body
            .as_deref()
            .is_some_and(|body| body.contains("from people"))
            && !plain.body_is_bound
    );
    ensure!(
        plain.arguments.len() == 2 && plain.defaults == 1 && plain.takes(1) && !plain.takes(0),
        "{plain:?}"
    );
    ensure!(
        plain.parameters.iter().map(|name| &**name).eq(["a", "b"]),
        "{plain:?}"
    );
    let many = function("many")?;
    ensure!(
        many.variadic && many.returns_set && many.volatility == Volatility::Stable,
        "{many:?}"
    );
    // Of a trigger, so that it's known whether it changes the session.
    let opaque = function("opaque")?;
    ensure!(
        opaque.body.as_deref() == Some("begin return new; end")
            && opaque.security_definer
            && &*opaque.language == "plpgsql",
        "{opaque:?}"
    );
    ensure!(opaque.search_path.as_deref() == Some("hr, pg_temp"), "{opaque:?}");
    ensure!(function("work")?.kind == FunctionKind::Procedure);
    ensure!(function("total")?.kind == FunctionKind::Aggregate);
    let given = function("given")?;
    let modes: Vec<u8> = given.modes.iter().map(|(mode, _)| *mode).collect();
    ensure!(given.arguments.len() == 1 && modes == *b"ioo", "{given:?}");
    if version >= 14 {
        let bound = function("bound")?;
        let body = bound.body.as_deref().unwrap_or_default();
        ensure!(
            bound.body_is_bound && body.contains("FROM public.people"),
            "{bound:?}"
        );
    }
    let lower = catalog
        .functions_named("lower")
        .find(|lower| *lower.schema == *"pg_catalog");
    let lower = lower.context("no lower()")?;
    ensure!(lower.is_built_in() && catalog.function_by_oid(lower.oid) == Some(lower));
    ensure!(!plain.is_built_in());
    let equal: Vec<_> = catalog.operators_named("===").collect();
    ensure!(
        matches!(equal.as_slice(), [one] if !one.oid.came_with_server() && one.function.came_with_server())
    );
    Ok(())
}

fn types(catalog: &Catalog) -> Result<()> {
    let kind = |name: &str| {
        let found = catalog.types_named(name).find(|found| *found.schema == *"hr");
        found
            .map(|found| found.kind.clone())
            .with_context(|| format!("{name} is missing"))
    };
    ensure!(matches!(kind("mood")?, TypeKind::Enum));
    ensure!(
        matches!(kind("span")?, TypeKind::Range { subtype: Oid(23) }),
        "{:?}",
        kind("span")
    );
    let TypeKind::Domain { base, checks } = kind("card")? else {
        anyhow::bail!("{:?}", kind("card"));
    };
    ensure!(
        base == Oid(25) && checks.iter().any(|check| check.contains("'none'")),
        "{checks:?}"
    );
    let TypeKind::Composite { relation } = kind("pair")? else {
        anyhow::bail!("{:?}", kind("pair"));
    };
    ensure!(
        catalog
            .relation(relation)
            .is_some_and(|pair| names(pair) == ["a", "b"])
    );
    let pair = catalog
        .types_named("pair")
        .find(|pair| *pair.schema == *"hr")
        .context("no pair")?;
    let array = pair
        .array
        .and_then(|array| catalog.type_by_oid(array))
        .context("no array")?;
    ensure!(array.kind == TypeKind::Array { element: pair.oid }, "{array:?}");
    let mood = catalog.types_named("mood").next().context("no mood")?;
    ensure!(
        catalog
            .casts()
            .iter()
            .any(|cast| cast.from == mood.oid && cast.function.is_some())
    );
    Ok(())
}

#[test]
fn what_is_temporary_is_left_out() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = Postgres::start_anywhere()?;
    let mut session =
        bailiff_tests::Client::started_as(std::net::TcpStream::connect(at(&server)?)?, "postgres")?;
    session.ask("create temp table passing (id int, ssn text)")?;
    let catalog = reads(&server, "postgres", CatalogLimits::default())??;
    ensure!(catalog.relations_named("passing").next().is_none());
    ensure!(catalog.types_named("passing").next().is_none());
    Ok(())
}

#[test]
fn a_catalog_that_is_too_large_or_may_not_be_read_is_none() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = Postgres::start_anywhere()?;
    let few = CatalogLimits {
        relations: 50,
        ..CatalogLimits::default()
    };
    let small = CatalogLimits {
        bytes: 100_000,
        ..CatalogLimits::default()
    };
    ensure!(matches!(
        reads(&server, "postgres", few)?,
        Err(CatalogError::TooLarge(TooLarge::Relations(50)))
    ));
    ensure!(matches!(
        reads(&server, "postgres", small)?,
        Err(CatalogError::TooLarge(TooLarge::Bytes(100_000)))
    ));
    server.sql("create role reader login; revoke select on pg_proc from public")?;
    let refused = reads(&server, "reader", CatalogLimits::default())?;
    ensure!(matches!(refused, Err(CatalogError::Permission(_))), "{refused:?}");
    let refused = reads(&server, "nobody_such", CatalogLimits::default())?;
    ensure!(matches!(refused, Err(CatalogError::Credential(_))), "{refused:?}");
    drop(server);
    Ok(())
}

/// Tables where the environment doesn't say how many: `BAILIFF_TABLES=10000` is what `ARCHITECTURE.md` tells of.
const TABLES: usize = 1_000;

/// Memory of this process, in KiB.
fn resident_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.context("no VmRSS")?.trim().parse()?)
}

/// Many tables, each with ten columns, a key, an index, a default and a check, and a view over every tenth.
#[test]
fn many_tables() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let tables = std::env::var("BAILIFF_TABLES").map_or(Ok(TABLES), |tables| tables.parse())?;
    let server = Postgres::start_anywhere()?;
    // Each transaction's locks have to find room.
    server.restart_with("max_locks_per_transaction", "1024")?;
    for part in 0..tables.div_ceil(500) {
        let (from, to) = (part * 500, ((part + 1) * 500).min(tables));
        server.sql(&format!(
            "do $$ begin for n in {from}..{} loop
                execute format('create table many_%s (id bigint primary key, customer_id bigint, created_at timestamptz default now(),
                    status text check (status <> ''''), amount numeric(12,2), currency char(3), note text, a int, b int, c jsonb)', n);
                execute format('create index on many_%s (customer_id)', n);
                if n % 10 = 0 then execute format('create view view_%s as select id, status, amount from many_%s', n, n); end if;
            end loop; end $$",
            to - 1
        ))?;
    }
    let (before, began) = (resident_kib()?, std::time::Instant::now());
    let catalog = reads(&server, "postgres", CatalogLimits::default())??;
    let (took, after) = (began.elapsed(), resident_kib()?);
    println!(
        "{tables} tables: {} relations, {} functions, {} KiB by its own count, {} KiB more in use, read in {took:?}",
        catalog.relations().len(),
        catalog.functions().len(),
        catalog.bytes() / 1024,
        after.saturating_sub(before)
    );
    let named = |prefix: &str| {
        let own = catalog.relations().filter(|one| *one.schema == *"public");
        own.filter(|one| one.name.starts_with(prefix)).count()
    };
    ensure!(named("many_") == tables && named("view_") == tables.div_ceil(10));
    let last = relation(&catalog, "public", &format!("many_{}", tables - 1))?;
    ensure!(
        last.columns.len() == 10 && last.expressions.len() == 1,
        "{last:?}"
    );
    Ok(())
}
