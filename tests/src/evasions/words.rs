//! Words that hide what a text does.

use super::{Evasion, evasion, sent, with};
use crate::{message, say};

/// Words that are hidden from who doesn't read as the server does.
#[must_use]
pub fn words() -> Vec<Evasion> {
    let quoted = r"set standard_conforming_strings = off";
    vec![
        evasion("several statements", &["select 1; delete from vault; select 2"]),
        evasion("empty statements", &[";;; ; delete from vault;"]),
        evasion(
            "a nested comment",
            &["select 1 /* '/* */ */ ; delete from vault /* ' */"],
        ),
        evasion(
            "a comment that a carriage return ends",
            &["select 1 -- \r; delete from vault"],
        ),
        evasion("a comment between", &["delete/**/from/*;*/vault"]),
        evasion(
            "dollar quotes",
            &["select $a$ $b$ $a$ ; delete from vault ; select $b$ $a$ $b$"],
        ),
        evasion(
            "dollar quotes in names",
            &["select 1 as a$b$ ; delete from vault ; select 1 as a$b$"],
        ),
        evasion("an E'' string", &[r"select E'\''; delete from vault; --'"]),
        evasion(
            "a continued string",
            &["select 'a'\n'b'; delete from vault; select 'c'"],
        ),
        evasion("a national string", &["select n'a'; delete from vault"]),
        evasion("a bit string", &["select b'1', x'1f'; delete from vault"]),
        evasion("upper case", &["DELETE FROM VAULT"]),
        evasion("quotes", &[r#"delete from "public"."vault""#]),
        evasion("Unicode escapes", &[r#"delete from U&"v\0061ult""#]),
        evasion(
            "Unicode escapes with another escape",
            &[r#"delete from U&"v!0061ult" uescape '!'"#],
        ),
        evasion(
            "the database's name before",
            &["delete from DATABASE.public.vault"],
        ),
        evasion(
            "ONLY and an alias",
            &["delete from only vault as open where open.i > 0"],
        ),
        evasion("a star", &["delete from vault *"]),
        evasion(
            "a name that is cut",
            &["delete from nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnanother"],
        ),
        evasion(
            "a CTE's name that isn't in scope",
            &["with q as (select * from vault), vault as (select 1) select * from q"],
        ),
        evasion(
            "a CTE's name with a schema",
            &["with vault as (select 1) select * from public.vault"],
        ),
        evasion(
            "a CTE's name as a target",
            &["with vault as (select 1) delete from vault"],
        ),
        evasion("SET standard_conforming_strings", &[quoted, BACKSLASHES]),
        evasion(
            "SET LOCAL standard_conforming_strings",
            &[
                "begin",
                "set local standard_conforming_strings = off",
                BACKSLASHES,
                "commit",
            ],
        ),
        evasion(
            "set_config of standard_conforming_strings",
            &[
                "select set_config('standard_conforming_strings', 'off', false)",
                BACKSLASHES,
            ],
        ),
        evasion(
            "set_config in a condition",
            &[
                "select 1 from open where set_config('standard_conforming_' || 'strings', 'off', false) = 'off'",
                BACKSLASHES,
            ],
        ),
        sent(
            "SET standard_conforming_strings, without waiting",
            vec![[say::query(quoted), say::query(BACKSLASHES)].concat(), Vec::new()],
        ),
        sent(
            "SET standard_conforming_strings in a pipeline",
            vec![
                [
                    say::run(quoted),
                    say::run(r"with a as (select '\'') delete from vault where '1' = '1' or '' = '--'"),
                    say::sync(),
                ]
                .concat(),
            ],
        ),
        with(
            "standard_conforming_strings as a parameter",
            &[("standard_conforming_strings", "off")],
            &[BACKSLASHES],
        ),
        with(
            "standard_conforming_strings in options",
            &[("options", "-c standard_conforming_strings=off")],
            &[BACKSLASHES],
        ),
        with(
            "standard_conforming_strings of a role",
            &[("user", "sloppy")],
            &[BACKSLASHES],
        ),
        with(
            "RESET to a role's standard_conforming_strings",
            &[("user", "sloppy")],
            &["set standard_conforming_strings = on", "reset all", BACKSLASHES],
        ),
        with(
            "standard_conforming_strings set back by ROLLBACK",
            &[("user", "sloppy")],
            &[
                "begin",
                "set local standard_conforming_strings = on",
                "rollback",
                BACKSLASHES,
            ],
        ),
    ]
}

/// Encodings in which a byte hides a quote: 0x95 0x5C is one character of SJIS.
#[must_use]
pub fn encodings() -> Vec<Evasion> {
    let hidden = || say_bytes(b"select E'\x95\x5c'; delete from vault; --'");
    let after = |name, sql: &str| sent(name, vec![say::query(sql), hidden()]);
    let mut parameter = sent("client_encoding as a parameter", vec![hidden()]);
    let mut options = sent("client_encoding in options", vec![hidden()]);
    let mut role = sent("client_encoding of a role", vec![hidden()]);
    for (evasion, parameters) in [
        (&mut parameter, ("client_encoding", "SJIS")),
        (&mut options, ("options", "-c client_encoding=SJIS")),
        (&mut role, ("user", "shifted")),
    ] {
        for session in &mut evasion.sessions {
            session.parameters = vec![parameters];
        }
    }
    vec![
        after("SET client_encoding", "set client_encoding = 'SJIS'"),
        after("SET NAMES", "set names 'SJIS'"),
        after(
            "set_config of client_encoding",
            "select set_config('client_encoding', 'SJIS', false)",
        ),
        sent(
            "SET client_encoding, without waiting",
            vec![
                [say::query("set client_encoding = 'SJIS'"), hidden()].concat(),
                Vec::new(),
            ],
        ),
        parameter,
        options,
        role,
    ]
}

/// Plain in one reading of backslashes, and a deletion in the other.
const BACKSLASHES: &str = r"select '\'';delete from vault;--'";

fn say_bytes(sql: &[u8]) -> Vec<u8> {
    message(b'Q', &[sql, b"\0"].concat())
}
