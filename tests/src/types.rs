//! Types of values, and what masks make of them.

/// A type, a value of it, and what stands in its place under KeepLast 4, Hash and Redact. `*` is for what isn't written here, and
/// `-` for null. Under Null it is null.
pub type Masked = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

/// Types as they are masked without a catalog.
pub const TYPES: &[Masked] = &[
    ("text", "Hello World 1234", "****1234", "*", "[masked]"),
    ("varchar", "größe €uro 日本語", "**** 日本語", "*", "[masked]"),
    ("varchar(40)", "short", "****", "*", "[masked]"),
    ("char(20)", "padded value", "****alue", "*", "[masked]"),
    ("name", "a_name_of_it", "****f_it", "*", "[masked]"),
    ("xml", "<a>hello</a>", "****", "*", "[masked]"),
    ("int2", "-1234", "-", "*", "-"),
    ("int4", "123456789", "-", "*", "-"),
    ("int8", "1234567890123456", "-", "*", "-"),
    ("oid", "4000000000", "-", "*", "-"),
    ("numeric", "12345.67800", "-", "*", "-"),
    ("uuid", "550e8400-e29b-41d4-a716-446655440000", "-", "*", "-"),
    ("bytea", "\\x00ff10", "-", "*", "-"),
    (
        "json",
        r#"{"a": "secret value", "n": [123456789, true, null]}"#,
        r#"{"a": "****alue", "n": ["****6789", null, null]}"#,
        "*",
        r#""[masked]""#,
    ),
    (
        "jsonb",
        r#"{"a": "secret \u00fcbung", "b": {}, "c": []}"#,
        r#"{"a": "****bung", "b": {}, "c": []}"#,
        "*",
        r#""[masked]""#,
    ),
    (
        "jsonb",
        r#""plain string""#,
        r#""****ring""#,
        "*",
        r#""[masked]""#,
    ),
    (
        "text[]",
        r#"{"hello, world",NULL,"NULL","q\"uote\\s",""}"#,
        r#"{****orld,NULL,****,****te\\s,****}"#,
        "*",
        "{[masked],NULL,[masked],[masked],[masked]}",
    ),
    (
        "text[]",
        r#"[2:3][0:1]={{abcdefgh,b},{"c d",e}}"#,
        "[2:3][0:1]={{****efgh,****},{****,****}}",
        "*",
        "[2:3][0:1]={{[masked],[masked]},{[masked],[masked]}}",
    ),
    ("text[]", "{}", "{}", "{}", "{}"),
    (
        "int4[]",
        "{{1,2},{NULL,4}}",
        "{{NULL,NULL},{NULL,NULL}}",
        "*",
        "{{NULL,NULL},{NULL,NULL}}",
    ),
    (
        "uuid[]",
        "{550e8400-e29b-41d4-a716-446655440000}",
        "{NULL}",
        "*",
        "{NULL}",
    ),
    (
        "jsonb[]",
        r#"{"{\"a\": \"secret value\"}"}"#,
        r#"{"{\"a\": \"****alue\"}"}"#,
        "*",
        r#"{"\"[masked]\""}"#,
    ),
    ("bool", "true", "-", "-", "-"),
    ("float4", "1.5", "-", "-", "-"),
    ("float8", "-1e300", "-", "-", "-"),
    ("money", "12.34", "-", "-", "-"),
    ("date", "2024-02-29", "-", "-", "-"),
    ("time", "12:34:56.789", "-", "-", "-"),
    ("timetz", "12:34:56+02", "-", "-", "-"),
    ("timestamp", "2024-02-29 12:34:56", "-", "-", "-"),
    ("timestamptz", "2024-02-29 12:34:56+00", "-", "-", "-"),
    ("interval", "1 day 2 hours", "-", "-", "-"),
    ("inet", "10.1.2.3/8", "-", "-", "-"),
    ("cidr", "10.0.0.0/8", "-", "-", "-"),
    ("macaddr", "08:00:2b:01:02:03", "-", "-", "-"),
    ("macaddr8", "08:00:2b:01:02:03:04:05", "-", "-", "-"),
    ("bit(4)", "1010", "-", "-", "-"),
    ("varbit", "101", "-", "-", "-"),
    ("point", "(1,2)", "-", "-", "-"),
    ("box", "(2,2),(1,1)", "-", "-", "-"),
    (
        "box[]",
        "{(2,2),(1,1);(4,4),(3,3)}",
        "{NULL;NULL}",
        "{NULL;NULL}",
        "{NULL;NULL}",
    ),
    ("path", "((1,2),(3,4))", "-", "-", "-"),
    ("polygon", "((1,2),(3,4))", "-", "-", "-"),
    ("circle", "<(1,2),3>", "-", "-", "-"),
    ("line", "{1,2,3}", "-", "-", "-"),
    ("tsvector", "'fat':2 'rat':3", "-", "-", "-"),
    ("tsquery", "'fat' & 'rat'", "-", "-", "-"),
    ("int4range", "[1,10)", "-", "-", "-"),
    ("numrange", "[1.5,2.5]", "-", "-", "-"),
    ("tstzrange", "[2024-01-01 00:00:00+00,)", "-", "-", "-"),
    ("int4multirange", "{[1,2),[5,6)}", "-", "-", "-"),
    ("pg_lsn", "16/B374D848", "-", "-", "-"),
    ("jsonpath", "$.\"a\"", "-", "-", "-"),
    ("mood", "happy", "-", "-", "-"),
    ("mood[]", "{happy,sad}", "-", "-", "-"),
    ("pair", "(1,\"two, three\")", "-", "-", "-"),
    ("pair[]", "{\"(1,x)\"}", "-", "-", "-"),
    ("label", "a label of it", "****f it", "*", "[masked]"),
    ("label[]", "{a,b}", "-", "-", "-"),
];

/// Types that the catalog takes apart.
pub const BY_CATALOG: &[Masked] = &[
    ("mood", "happy", "-", "-", "-"),
    (
        "mood[]",
        "{happy,sad}",
        "{NULL,NULL}",
        "{NULL,NULL}",
        "{NULL,NULL}",
    ),
    ("pair", "(1,\"two, three\")", "(,****hree)", "*", "(,[masked])"),
    ("dpair", "(,abcdefgh)", "(,****efgh)", "*", "(,[masked])"),
    (
        "pair[]",
        "{\"(1,x)\",NULL}",
        "{\"(,****)\",NULL}",
        "*",
        "{\"(,[masked])\",NULL}",
    ),
    (
        "dpair[]",
        "{\"(1,x)\"}",
        "{\"(,****)\"}",
        "*",
        "{\"(,[masked])\"}",
    ),
    ("label", "a label of it", "****f it", "*", "[masked]"),
    (
        "label[]",
        "{abcdefgh,NULL}",
        "{****efgh,NULL}",
        "*",
        "{[masked],NULL}",
    ),
    (
        "labels",
        "{abcdefgh,NULL}",
        "{****efgh,NULL}",
        "*",
        "{[masked],NULL}",
    ),
    (
        "many",
        r#"("(1,abcdefgh)",labelled1,"{abcdefgh,""q \\""x\\""""}",happy,"[1,2)","{""k"": ""abcdefgh""}",2024-01-01,<a/>,1.50,\\x00ff)"#,
        r#"("(,****efgh)",****led1,"{****efgh,****}",,,"{""k"": ""****efgh""}",,****,,)"#,
        "*",
        r#"("(,[masked])",[masked],"{[masked],[masked]}",,,"""[masked]""",,[masked],,)"#,
    ),
    (
        "many[]",
        r#"{"(\"(1,\"\"ab\"\")\",l,{x},sad,,null,,,,)"}"#,
        r#"{"(\"(,****)\",****,{****},,,null,,,,)"}"#,
        "*",
        r#"{"(\"(,[masked])\",[masked],{[masked]},,,\"\"\"[masked]\"\"\",,,,)"}"#,
    ),
    ("citext", "Hello World 1234", "****1234", "*", "[masked]"),
    ("citext[]", "{abcdefgh}", "{****efgh}", "*", "{[masked]}"),
    ("hstore", "a=>b", "-", "-", "-"),
    ("floats", "[1.5,2.5)", "-", "-", "-"),
];

/// What makes the types that don't come with the server.
pub const MADE: &str = "create extension citext; create extension hstore; create type mood as enum ('happy', 'sad');
    create type pair as (a int, b text); create domain dpair as pair; create domain label as text; create domain labels as label[];
    create type floats as range (subtype = float8);
    create type many as (p pair, l label, t text[], m mood, r int4range, j jsonb, d date, x xml, n numeric, b bytea);";

/// Actions as policies name them, each for a table. `KEY` is the file of the key.
pub const ACTIONS: [(&str, &str); 4] = [
    ("keep", "{KeepLast: 4}"),
    ("hash", "{Hash: {keyFile: KEY}}"),
    ("redact", "Redact"),
    ("nothing", "\"Null\""),
];

/// Tables of a name for each action, with a column for each type, `c0` and so on: a row with its value, and one of nulls. Gives the
/// statements that make them, and the masks.
#[must_use]
pub fn tables(types: &[Masked]) -> (String, String) {
    let each = |write: &dyn Fn(usize, &Masked) -> String| {
        let written: Vec<String> = types
            .iter()
            .enumerate()
            .map(|(place, masked)| write(place, masked))
            .collect();
        written.join(", ")
    };
    let (mut sql, mut masks) = (String::new(), String::from("  masks:\n"));
    for (table, action) in ACTIONS {
        let columns = each(&|place, _| format!("public.{table}.c{place}"));
        masks.push_str(&format!("    - columns: [{columns}]\n      with: {action}\n"));
        let definitions = each(&|place, (name, ..)| format!("c{place} {name}"));
        let values = each(&|_, (name, value, ..)| format!("$v${value}$v$::{name}"));
        sql.push_str(&format!(
            "create table {table} ({definitions}); insert into {table} values ({values}); insert into {table} default values;"
        ));
    }
    (sql, masks)
}
