//! What is asked of the server. Made for versions 13 to 18; what differs between them is told by `version`, a
//! `server_version_num`.
//!
//! All of it runs with an empty search_path: so texts that the server writes qualify every name outside of `pg_catalog`.

/// The oldest server that is asked.
pub(super) const OLDEST: u32 = 130_000;

/// Bytes of one text; longer ones aren't sent, and what they say counts as unknown.
pub(super) const LONGEST: u32 = 1 << 20;

/// Tells by comparison whether any transaction has ended since: one that writes takes a number, and leaves this list. With it,
/// what the server's files may have changed.
pub(super) const SNAPSHOT: &str =
    "select pg_current_snapshot()::text || ' ' || current_setting('search_path')";

/// What every session has to itself isn't in the catalog, so that it doesn't change with each.
const LASTING: &str = "relpersistence <> 't'";
const NOT_TEMPORARY: &str = "not in (select oid from pg_class where relpersistence = 't')";
const LASTING_SCHEMA: &str = "not in (select oid from pg_namespace where nspname like 'pg\\_temp\\_%' or nspname like 'pg\\_toast\\_temp\\_%')";

/// What differs whenever any row that the catalog is read from has changed.
///
/// For each table the number of rows and the sum of the numbers of the transactions that wrote them. A changed row is written
/// anew by a later transaction: so as long as the number of rows is the same, the sum only grows. Rows of estimates are
/// changed in place, without a number, and so change nothing here. `age` counts from the next number, which cancels out.
pub(super) fn fingerprint() -> String {
    let tables = [
        ("pg_namespace", format!("oid {LASTING_SCHEMA}")),
        ("pg_class", LASTING.to_owned()),
        ("pg_attribute", format!("attrelid {NOT_TEMPORARY}")),
        ("pg_attrdef", format!("adrelid {NOT_TEMPORARY}")),
        ("pg_rewrite", format!("ev_class {NOT_TEMPORARY}")),
        ("pg_inherits", format!("inhrelid {NOT_TEMPORARY}")),
        ("pg_trigger", format!("tgrelid {NOT_TEMPORARY}")),
        ("pg_policy", format!("polrelid {NOT_TEMPORARY}")),
        ("pg_constraint", format!("conrelid {NOT_TEMPORARY}")),
        ("pg_index", format!("indrelid {NOT_TEMPORARY}")),
        ("pg_type", format!("typnamespace {LASTING_SCHEMA}")),
        (
            "pg_range",
            format!("rngtypid not in (select oid from pg_type where not typnamespace {LASTING_SCHEMA})"),
        ),
        ("pg_proc", format!("pronamespace {LASTING_SCHEMA}")),
        ("pg_language", "true".to_owned()),
        ("pg_operator", "true".to_owned()),
        ("pg_cast", "true".to_owned()),
        ("pg_db_role_setting", "true".to_owned()),
    ];
    let parts: Vec<String> = tables
        .iter()
        .map(|(table, rows)| {
            format!(
                "(select concat_ws(':', count(*), mod(count(*) filter (where {ordinary}) * age('3'::xid)::int8 \
                 - coalesce(sum(age(xmin)::int8) filter (where {ordinary}), 0), 4294967296)) from {table} where {rows})",
                // Rows of initdb's first step have no number of their own.
                ordinary = "age(xmin) <> 2147483647",
            )
        })
        .collect();
    format!(
        "select concat_ws(',', {}, current_setting('search_path'))",
        parts.join(", ")
    )
}

/// Version, database, and the search_path of this session with where it comes from. Asked before the path is emptied.
pub(super) const SERVER: &str = "select current_setting('server_version_num')::int4, current_database()::text, \
     setting, source from pg_settings where name = 'search_path'";

/// How the rest is asked.
pub(super) const BEGIN: &str = "begin isolation level repeatable read read only; \
     set local search_path = ''; set local lock_timeout = '1s'; set local statement_timeout = '60s'";

pub(super) const SCHEMAS: &str = "select oid, nspname::text from pg_namespace \
     where nspname not like 'pg\\_temp\\_%' and nspname not like 'pg\\_toast\\_temp\\_%'";

/// Indexes aren't asked for: nothing can be read by their names.
pub(super) fn relations() -> String {
    format!(
        "select oid, relname::text, relnamespace, relkind, reltype, reltuples, relrowsecurity, reltoastrelid \
         from pg_class where {LASTING} and relkind not in ('i', 'I')"
    )
}

pub(super) const ESTIMATES: &str =
    "select oid, reltuples from pg_class where relpersistence <> 't' and relkind in ('r', 'p', 'm', 'f')";

pub(super) fn columns() -> String {
    format!(
        "select attrelid, attname::text, attnum, atttypid, attgenerated from pg_attribute \
         where attnum > 0 and not attisdropped \
         and attrelid in (select oid from pg_class where {LASTING} and relkind not in ('i', 'I', 't'))"
    )
}

pub(super) fn defaults() -> String {
    format!(
        "select adrelid, adnum, {} from pg_attrdef where adrelid {NOT_TEMPORARY}",
        bounded("pg_get_expr(adbin, adrelid)")
    )
}

pub(super) fn views() -> String {
    format!(
        "select oid, {} from pg_class where {LASTING} and relkind in ('v', 'm')",
        bounded("pg_get_viewdef(oid)")
    )
}

pub(super) fn rules() -> String {
    format!(
        "select ev_class, rulename::text, ev_type, is_instead, {} from pg_rewrite \
         where rulename <> '_RETURN' and ev_class {NOT_TEMPORARY}",
        bounded("pg_get_ruledef(oid)")
    )
}

/// What rules need, by the tables and columns. Of what came with the server, none is noted there.
pub(super) fn dependencies() -> String {
    format!(
        "select distinct r.ev_class, d.refobjid, d.refobjsubid from pg_depend d join pg_rewrite r on r.oid = d.objid \
         where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype = 'n' and d.refobjid <> r.ev_class \
         and r.ev_class {NOT_TEMPORARY}"
    )
}

pub(super) fn parents() -> String {
    format!("select inhrelid, inhparent from pg_inherits where inhrelid {NOT_TEMPORARY}")
}

pub(super) fn triggers() -> String {
    format!(
        "select tgrelid, tgname::text, tgfoid, tgtype from pg_trigger \
         where not tgisinternal and tgrelid {NOT_TEMPORARY}"
    )
}

/// Of policies, checks, indexes and their predicates.
pub(super) fn expressions() -> String {
    [
        ("polrelid", "polqual", "pg_policy"),
        ("polrelid", "polwithcheck", "pg_policy"),
        ("conrelid", "conbin", "pg_constraint"),
        ("indrelid", "indexprs", "pg_index"),
        ("indrelid", "indpred", "pg_index"),
    ]
    .map(|(of, tree, table)| {
        let text = bounded(&format!("pg_get_expr({tree}, {of})"));
        format!(
            "select {of}, {text} from {table} where {tree} is not null and {of} <> 0 and {of} {NOT_TEMPORARY}"
        )
    })
    .join(" union all ")
}

pub(super) fn functions(version: u32) -> String {
    let body = if version >= 140_000 {
        "case when l.lanname = 'plpgsql' and p.prorettype = 'trigger'::regtype then p.prosrc \
         when l.lanname <> 'sql' then null when p.prosqlbody is null then p.prosrc \
         else pg_get_function_sqlbody(p.oid) end, p.prosqlbody is not null"
    } else {
        "case when l.lanname = 'sql' or l.lanname = 'plpgsql' and p.prorettype = 'trigger'::regtype then p.prosrc end, false"
    };
    format!(
        "select p.oid, p.proname::text, p.pronamespace, p.prokind, p.proargtypes::oid[], p.proargnames, p.proargmodes, \
         p.proallargtypes, p.pronargdefaults, p.provariadic <> 0, p.prorettype, p.proretset, l.lanname::text, \
         p.provolatile, p.prosecdef, p.proconfig, {body} \
         from pg_proc p join pg_language l on l.oid = p.prolang where p.pronamespace {LASTING_SCHEMA}"
    )
}

pub(super) fn types(version: u32) -> String {
    let multirange = if version >= 140_000 {
        "(select rngtypid from pg_range where rngmultitypid = t.oid)"
    } else {
        "null::oid"
    };
    format!(
        "select t.oid, t.typname::text, t.typnamespace, t.typtype, t.typelem, t.typarray, t.typrelid, t.typbasetype, \
         r.rngsubtype, case when t.typtype = 'm' then {multirange} end \
         from pg_type t left join pg_range r on r.rngtypid = t.oid where t.typnamespace {LASTING_SCHEMA}"
    )
}

pub(super) const DOMAIN_CHECKS: &str =
    "select contypid, pg_get_expr(conbin, 0) from pg_constraint where contypid <> 0 and conbin is not null";

pub(super) const OPERATORS: &str =
    "select oid, oprname::text, oprnamespace, oprleft, oprright, oprresult, oprcode::oid from pg_operator";

pub(super) const CASTS: &str = "select oid, castsource, casttarget, castfunc from pg_cast";

pub(super) const SEARCH_PATHS: &str = "select s.setdatabase <> 0, r.rolname::text, substr(c, 13) \
     from pg_db_role_setting s cross join unnest(s.setconfig) c left join pg_roles r on r.oid = s.setrole \
     where c like 'search\\_path=%' and (s.setrole = 0 or r.oid is not null) \
     and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))";

/// A text, or nothing where it is too long.
fn bounded(text: &str) -> String {
    // OFFSET keeps the server from computing it twice.
    format!(
        "(select case when length(made) <= {LONGEST} then made end from (select {text} as made offset 0) once)"
    )
}
