//! Texts that share a key in the cache of classifications mean the same but for their integers.
//!
//! The key is made by `bailiff_wire::sql::normalise`, a few lines of counting quotes. Here it is held against the real scanner
//! and grammar: whatever two texts share a key must have the same tokens, the same tree and the same classification.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: a failure is the test's"
)]

use std::cell::Cell;
use std::collections::HashMap;

use bailiff_policy::{Classified, Settings, classify};
use bailiff_wire::sql::{Normal, normalise};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use serde_json::Value;

fn key(text: &str) -> Option<Vec<u8>> {
    let mut scratch = Vec::new();
    matches!(normalise(text.as_bytes(), &mut scratch), Normal::Lifted).then_some(scratch)
}

fn settings(standard_conforming_strings: bool) -> Settings {
    Settings {
        standard_conforming_strings,
        ..Settings::default()
    }
}

/// The tokens: kind, kind of keyword, and the text where it isn't an integer.
fn tokens(text: &str) -> Result<Vec<(i32, i32, &str)>, ()> {
    let found = pg_query::scan_tokens(text).map_err(|_| ())?;
    Ok(found
        .iter()
        .map(|token| {
            let range = usize::try_from(token.start).unwrap()..usize::try_from(token.end).unwrap();
            let integer = token.token == pg_query::protobuf::Token::Iconst as i32;
            let words = if integer { "" } else { &text[range] };
            (token.token, token.keyword_kind, words)
        })
        .collect())
}

/// The tree without places in the text and without what integer literals became.
fn tree(text: &str, standard_conforming_strings: bool) -> Result<Value, String> {
    let options = if standard_conforming_strings {
        pg_query::ParserOptions::DEFAULT
    } else {
        pg_query::ParserOptions::DISABLE_STANDARD_CONFORMING_STRINGS
    };
    let parsed = pg_query::parse(text, options).map_err(|error| error.to_string())?;
    let mut tree = serde_json::to_value(&parsed.protobuf).unwrap();
    blank(&mut tree);
    Ok(tree)
}

fn blank(value: &mut Value) {
    /// Fields that hold an integer literal's value, or a place in the text.
    const BLANKED: &[&str] = &[
        "how_many",
        "ival",
        "list_end",
        "list_start",
        "location",
        "modulus",
        "num",
        "number",
        "remainder",
        "rexpr_list_end",
        "rexpr_list_start",
        "stmt_len",
        "stmt_location",
    ];
    match value {
        Value::Array(items) => items.iter_mut().for_each(blank),
        Value::Object(fields) => {
            for (name, value) in fields {
                if value.is_number() && (BLANKED.contains(&name.as_str()) || name.ends_with("_location")) {
                    *value = Value::from(0);
                } else {
                    blank(value);
                }
            }
        }
        _ => {}
    }
}

/// What the grammar says of an integer that is too large or too small for its place. The server says so too, before it does
/// anything, so a text that only fails like this may pass for one that doesn't.
fn out_of_range(error: &str) -> bool {
    [
        "precision for type float must be",
        "must be in range",
        "must be greater than zero",
        "must be an integer value greater than zero",
        "must be less than modulus",
    ]
    .iter()
    .any(|words| error.contains(words))
}

/// All of a classification but how long its text was.
fn meaning(classified: &Classified) -> String {
    let length = format!("length: {}", classified.length());
    format!("{classified:?}").replace(&length, "")
}

/// Fails where two texts of one key don't mean the same.
fn same(one: &str, other: &str) {
    assert_eq!(tokens(one), tokens(other), "the tokens of {one:?} and {other:?}");
    for standard in [true, false] {
        let told = format!("{one:?} and {other:?}, standard_conforming_strings {standard}");
        let trees = (tree(one, standard), tree(other, standard));
        let classified = (
            classify(one, &settings(standard)),
            classify(other, &settings(standard)),
        );
        match (trees, classified) {
            ((Ok(a), Ok(b)), (Ok(first), Ok(second))) => {
                assert_eq!(first.literal_sensitive(), second.literal_sensitive(), "{told}");
                // Those that are sensitive are kept under their own text.
                if !first.literal_sensitive() {
                    assert_eq!(a, b, "the trees of {told}");
                    assert_eq!(meaning(&first), meaning(&second), "{told}");
                }
            }
            ((Err(_), Err(_)), (Err(_), Err(_))) => {}
            ((Err(error), Ok(_)) | (Ok(_), Err(error)), _) if out_of_range(&error) => {}
            (trees, _) => panic!("{told}: {trees:?}"),
        }
    }
}

/// Pieces of SQL where it is hard to tell what is a number.
const PIECES: &[&str] = &[
    "1",
    "22",
    "007",
    "0",
    "999999999",
    "1234567890",
    "1.5",
    "1.",
    ".5",
    "1..2",
    "1e5",
    "1E-5",
    "1e",
    "0x1F",
    "0b1",
    "0o7",
    "1_000",
    "_1",
    "1a",
    "a1",
    "x1y",
    "$1",
    "$12",
    "$1a",
    "$a$",
    "$$",
    "$1$",
    "a$1",
    "\u{e9}1",
    "1\u{e9}",
    "\u{a0}",
    "'",
    "''",
    "'1'",
    "'a 1'",
    "'a'\n'1'",
    "'a' '1'",
    "'\\'",
    "'\\' 1",
    "E'",
    "E'\\''",
    "e'1'",
    "U&'1'",
    "U&\"a\"",
    "u&1",
    "B'1'",
    "X'1'",
    "N'1'",
    "\"",
    "\"a 1\"",
    "--",
    "-- 1\n",
    "/*",
    "*/",
    "/* 1 */",
    "-",
    "- 1",
    "-1",
    "+1",
    "@-1",
    "->",
    "->>",
    "-> 1",
    "#>",
    "||",
    "::",
    "::int",
    "::float(3)",
    ":=",
    "=>",
    "=",
    "<",
    "<>",
    "(",
    ")",
    "(1)",
    "(1,2)",
    "[1]",
    "[1:2]",
    ",",
    ";",
    ".",
    "*",
    " ",
    "\n",
    "\t",
    "\r",
    "\u{b}",
    "\u{c}",
    "\\",
    "&",
    "u&",
    "#",
    "%",
    "@",
    "~",
    "?",
    "SELECT",
    "FROM t",
    "WHERE",
    "a",
    "AND",
    "OR",
    "AS",
    "LIMIT 1",
    "IN (1,2)",
    "ORDER BY 1",
    "GROUP BY 1",
    "GROUP BY (1,2)",
    "INTERVAL '1' year(2)",
    "interval(3) '1'",
    "varchar(10)",
    "numeric(10,2)",
    "float(5)",
    "bit(1)",
    "set_config('x','1',1)",
    "lo_unlink(123)",
    "123::regclass",
    "UESCAPE '1'",
    "int4",
    "f1(1)",
];

/// Statements in which integers stand where they do something; each `#` is one.
const STATEMENTS: &[&str] = &[
    "SELECT a FROM t WHERE id = #",
    "SELECT a, b FROM t ORDER BY #, # DESC",
    "SELECT a, count(*) FROM t GROUP BY #",
    "SELECT a, b, count(*) FROM t GROUP BY (#, #)",
    "SELECT a, b, count(*) FROM t GROUP BY ((#), b)",
    "SELECT a FROM t GROUP BY ROLLUP (#, a)",
    "SELECT a FROM t GROUP BY GROUPING SETS ((#), ())",
    "SELECT DISTINCT ON (#) a FROM t",
    "SELECT a FROM t UNION SELECT b FROM u ORDER BY #",
    "SELECT * FROM (SELECT a FROM t ORDER BY #) x LIMIT # OFFSET #",
    "SELECT a FROM t FETCH FIRST # ROWS WITH TIES",
    "SELECT sum(a) OVER (ORDER BY # ROWS # PRECEDING) FROM t",
    "SELECT a[#], b[#:#], c::varchar(#), d::numeric(#,#), e::bit(#) FROM t",
    "SELECT a::float(#) FROM t",
    "CREATE TABLE t (a FLOAT(#), b time(#), c interval(#), d int[#])",
    "SELECT interval '1' second(#), interval(#) '1'",
    "SELECT * FROM t WHERE # = # AND a IN (#, -#, +#, @-#)",
    "SELECT set_config('search_path', 'x', #=#)",
    "SELECT lo_unlink(#), pg_read_file('x', #, #), pg_terminate_backend(#)",
    "SELECT #::regclass, CAST(# AS oid), query_to_xml('select #', #=#, false, '')",
    "SELECT * FROM t TABLESAMPLE system (#) REPEATABLE (#)",
    "SELECT substring(a FROM # FOR #), overlay(a PLACING b FROM #) FROM t",
    "INSERT INTO t VALUES (#, 'a #', -#), (#, $1, #) ON CONFLICT DO NOTHING",
    "UPDATE t SET a = # WHERE b = # RETURNING #",
    "DELETE FROM t WHERE a = #",
    "MERGE INTO t USING u ON t.a = # WHEN MATCHED AND # = # THEN DELETE",
    "EXECUTE p(#, #)",
    "PREPARE p(int) AS SELECT a FROM t ORDER BY #",
    "SET x = #",
    "SET search_path = #",
    "SET TIME ZONE #",
    "ALTER SYSTEM SET x = #",
    "ALTER TABLE t ALTER COLUMN # SET STATISTICS #",
    "ALTER TABLE t SET (fillfactor = #)",
    "ALTER SEQUENCE s RESTART # INCREMENT BY -#",
    "VACUUM (PARALLEL #) t",
    "EXPLAIN (ANALYZE #, COSTS #) DELETE FROM t",
    "COPY t FROM STDIN (HEADER #)",
    "COPY (SELECT a FROM t ORDER BY #) TO STDOUT (FORMAT csv, HEADER #)",
    "FETCH # FROM c",
    "MOVE BACKWARD # IN c",
    "DECLARE c CURSOR FOR SELECT a FROM t ORDER BY #",
    "CREATE TABLE p PARTITION OF t FOR VALUES WITH (MODULUS #, REMAINDER #)",
    "CREATE TABLE p PARTITION OF t FOR VALUES FROM (#) TO (#)",
    "CREATE ROLE r CONNECTION LIMIT #",
    "CREATE OPERATOR CLASS o FOR TYPE int USING btree AS OPERATOR # <, FUNCTION # f(int, int)",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql COST # RETURN #",
    "DO 'begin perform #; end'",
    "SELECT a FROM t; DROP TABLE u; SELECT #",
    "SELECT JSON_VALUE(a, '$.x[#]' DEFAULT # ON EMPTY) FROM t",
    "SELECT XMLSERIALIZE(CONTENT a AS varchar(#)), EXTRACT(year FROM a), a AT TIME ZONE '#' FROM t",
];

/// What may stand where an integer stood: other ones, and what only looks like one.
const INSTEAD: &[&str] = &["1", "2", "0", "00", "30", "99", "40000", "70000", "999999999"];
const INSTEAD_ODD: &[&str] = &[
    "1000000000",
    "2147483648",
    "1.5",
    ".5",
    "1e5",
    "0x1F",
    "1_0",
    "$1",
    "'1'",
    "1a",
    "-1",
    "NULL",
    "",
    "1'",
    "--1",
    "/*",
    "\u{e9}1",
];

/// Replaces each run of digits by one of the choices, or leaves it.
fn mutated(text: &str, choices: &[Option<&str>]) -> String {
    let mut out = String::new();
    let mut choices = choices.iter().cycle();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.push_str(choices.next().copied().flatten().unwrap_or(&rest[..digits]));
            rest = &rest[digits..];
        }
    }
    out
}

/// Holds every text against the first of its key. Returns how many were held.
fn hold(texts: &[String]) -> usize {
    let mut seen: HashMap<Vec<u8>, &str> = HashMap::new();
    let mut held = 0;
    for text in texts {
        if let Some(key) = key(text) {
            let first = *seen.entry(key).or_insert(text.as_str());
            if first != text {
                same(first, text);
                held += 1;
            }
        }
    }
    held
}

fn pieces() -> impl Strategy<Value = String> {
    prop::collection::vec((select(PIECES), select(&["", " ", " ", "\n"][..])), 1..6)
        .prop_map(|parts| parts.iter().flat_map(|(piece, space)| [*piece, *space]).collect())
}

fn statement() -> impl Strategy<Value = String> {
    (
        select(STATEMENTS),
        prop::option::weighted(0.4, (select(PIECES), any::<Index>())),
    )
        .prop_map(|(statement, more)| {
            let mut text = statement.replace('#', "1");
            if let Some((piece, place)) = more {
                text.insert_str(place.index(text.len()), piece);
            }
            text
        })
}

fn choices() -> impl Strategy<Value = Vec<Option<&'static str>>> {
    let one = prop_oneof![
        4 => select(INSTEAD).prop_map(Some),
        1 => select(INSTEAD_ODD).prop_map(Some),
        2 => Just(None),
    ];
    prop::collection::vec(one, 1..5)
}

/// Generates texts and mutants of each.
fn generated(texts: impl Strategy<Value = String>) {
    const CASES: u32 = 4000;
    let config = ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let held = Cell::new(0);
    let outcome = TestRunner::new(config).run(
        &(texts, prop::collection::vec(choices(), 8)),
        |(text, mutants)| {
            let mut texts: Vec<String> = mutants.iter().map(|choices| mutated(&text, choices)).collect();
            texts.push(text);
            held.set(held.get() + hold(&texts));
            Ok(())
        },
    );
    if let Err(found) = outcome {
        panic!("{found}");
    }
    // Otherwise the generator misses its subject.
    assert!(held.get() > CASES as usize / 2, "only {} were held", held.get());
}

#[test]
fn statements_of_one_key_mean_the_same() {
    generated(statement());
}

#[test]
fn pieces_of_one_key_mean_the_same() {
    generated(pieces());
}

/// Calls `found` with every text of so many letters or fewer.
fn all_texts(letters: &[&str], most: usize, text: &mut String, found: &mut impl FnMut(&str)) {
    found(text);
    if most > 0 {
        for letter in letters {
            text.push_str(letter);
            all_texts(letters, most - 1, text, found);
            text.truncate(text.len() - letter.len());
        }
    }
}

#[test]
fn all_short_texts_of_one_key_have_the_same_tokens() {
    const LETTERS: &[&str] = &[
        "1", "2", "'", " ", "\n", "-", "e", "x", "_", ".", "$", "\\", "\"", "/", "*", "U", "&", "\u{e9}",
        "@", ":",
    ];
    let mut firsts: HashMap<Vec<u8>, String> = HashMap::new();
    let mut compared = 0;
    all_texts(LETTERS, 5, &mut String::new(), &mut |text| {
        let Some(key) = key(text) else { return };
        match firsts.get(&key) {
            Some(first) => {
                assert_eq!(tokens(first), tokens(text), "{first:?} and {text:?}");
                compared += 1;
            }
            None => drop(firsts.insert(key, text.to_owned())),
        }
    });
    assert!(compared > 10_000, "only {compared} were compared");
}

#[test]
fn texts_that_differ_in_free_standing_integers_share_a_key() {
    for statement in STATEMENTS {
        // Inside of strings nothing is lifted.
        if !statement.contains("[#]'")
            && !statement.contains(" #'")
            && !statement.contains("'#'")
            && !statement.contains("perform #")
        {
            let (one, other) = (statement.replace('#', "7"), statement.replace('#', "4711"));
            assert!(key(&one).is_some(), "{one}");
            assert_eq!(key(&one), key(&other), "{one}");
        }
    }
}

/// Pairs that once shared a key, or had a classification of their own without saying so.
#[test]
fn what_was_found_stays_mended() {
    for (one, other) in [
        ("SELECT 11E-5", "SELECT 11E-1"),
        ("SELECT 1.e+5", "SELECT 1.e+1"),
        ("SELECT a::float(1) FROM t", "SELECT a::float(30) FROM t"),
        ("SELECT a::FLOAT (1) FROM t", "SELECT a::FLOAT (99) FROM t"),
    ] {
        hold(&[one.to_owned(), other.to_owned()]);
    }
    // Positions may stand in brackets, which make a row of them.
    for text in [
        "SELECT a, b FROM t GROUP BY (1, 2)",
        "SELECT a, b FROM t GROUP BY (a, (2, b))",
    ] {
        assert!(
            classify(text, &Settings::default()).unwrap().literal_sensitive(),
            "{text}"
        );
    }
}
