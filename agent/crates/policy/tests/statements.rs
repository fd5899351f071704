//! What statements do: a table of them, and that nothing makes the classifier panic.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_model::RelationRef;
use bailiff_policy::{Settings, classify};

const TABLE: &str = include_str!("statements.txt");

fn rows() -> impl Iterator<Item = (usize, Vec<&'static str>)> {
    TABLE
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with('#') && !line.is_empty())
        .map(|(place, line)| (place + 1, line.split(";;").map(str::trim).collect()))
}

fn names(relations: &[RelationRef]) -> String {
    let names: BTreeSet<String> = relations.iter().map(ToString::to_string).collect();
    names.into_iter().collect::<Vec<_>>().join(" ")
}

/// The same words in a fixed order.
fn sorted(words: &str) -> String {
    let words: BTreeSet<&str> = words.split_whitespace().collect();
    words.into_iter().collect::<Vec<_>>().join(" ")
}

#[test]
fn statements_do_what_the_table_says() -> Result<()> {
    let mut wrong = Vec::new();
    let mut told = 0;
    for (line, columns) in rows() {
        let [sql, effects, reads, writes] = columns.as_slice() else {
            anyhow::bail!("line {line} hasn't four columns");
        };
        told += 1;
        let found = classify(sql, &Settings::default());
        let found = found.with_context(|| format!("line {line}: {sql}"))?;
        let join = |texts: Vec<String>| texts.join(" | ");
        let statements = found.statements();
        let actual = [
            join(
                statements
                    .iter()
                    .map(|s| {
                        sorted(
                            &s.effects
                                .iter()
                                .map(|e| e.to_string())
                                .collect::<Vec<_>>()
                                .join(" "),
                        )
                    })
                    .collect(),
            ),
            join(statements.iter().map(|s| names(&s.reads)).collect()),
            join(statements.iter().map(|s| names(&s.writes)).collect()),
        ];
        let expected = [effects, reads, writes].map(|column| join(column.split('|').map(sorted).collect()));
        if actual != expected {
            wrong.push(format!(
                "line {line}: {sql}\n  expected {expected:?}\n  found    {actual:?}"
            ));
        }
    }
    ensure!(told >= 150, "the table has lost its rows: {told}");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// A generator without dependencies: xorshift.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides.max(1) as u64).unwrap_or_default()
    }
}

#[test]
fn mutated_statements_never_panic_the_classifier() -> Result<()> {
    let seeds: Vec<&str> = rows()
        .filter_map(|(_, columns)| columns.first().copied())
        .collect();
    let noise = [
        "'", "\"", "$$", "(", ")", ";", "--", "/*", "*", ",", "::", "\\", "[", " AS ", "\u{e9}", "E'", "%",
    ];
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let started = Instant::now();
    let (mut tried, mut understood) = (0_u32, 0_u32);
    while started.elapsed() < Duration::from_secs(3) {
        let mut text: Vec<char> = seeds
            .get(dice.roll(seeds.len()))
            .context("no seeds")?
            .chars()
            .collect();
        for _ in 0..=dice.roll(4) {
            let at = dice.roll(text.len());
            match dice.roll(4) {
                0 => drop(text.drain(at..(at + dice.roll(8)).min(text.len()))),
                1 => {
                    let more = noise.get(dice.roll(noise.len())).context("no noise")?;
                    text.splice(at..at, more.chars());
                }
                2 => {
                    let other = seeds.get(dice.roll(seeds.len())).context("no seeds")?;
                    text.splice(at..at, other.chars());
                }
                _ => text.truncate(at.max(1)),
            }
            if text.is_empty() {
                text.push(' ');
            }
        }
        let text: String = text.into_iter().filter(|c| *c != '\0').collect();
        tried += 1;
        understood += u32::from(classify(&text, &Settings::default()).is_ok());
    }
    ensure!(
        tried > understood && understood > 0,
        "{understood} of {tried} understood"
    );
    Ok(())
}

#[test]
fn what_outlives_its_answer_is_told() -> Result<()> {
    // Whether it may leave a cursor, a prepared statement, beyond the transaction; whether it runs what another one left.
    let code = (true, true, true, false);
    let draws = (false, false, false, true);
    for (sql, expected) in [
        ("select upper('x') from t", (false, false, false, false)),
        ("select pg_sleep(1), now()", (false, false, false, false)),
        ("insert into t values (1)", (false, false, false, false)),
        ("declare c cursor for select 1", (true, false, false, false)),
        (
            "declare c insensitive no scroll cursor without hold for select 1",
            (true, false, false, false),
        ),
        (
            "declare c binary scroll cursor with hold for select 1",
            (true, false, true, false),
        ),
        ("prepare q as select 1", (false, true, true, false)),
        (
            "select 1; prepare q as select 1; declare c cursor for select 1",
            (true, true, true, false),
        ),
        ("fetch c", draws),
        ("move forward 3 in c", draws),
        ("select 1; fetch all from c", draws),
        ("execute q", (true, true, true, true)),
        ("create table t as execute q", (true, true, true, true)),
        ("explain analyze execute q", (true, true, true, true)),
        ("explain execute q", (true, true, true, true)),
        ("close c; deallocate q", (false, false, false, false)),
        ("do 'begin end'", code),
        ("call p()", code),
        ("select opened()", code),
        ("select 1 operator(mine.+) 2", code),
        ("select (select opened() from t)", code),
    ] {
        let found = classify(sql, &Settings::default())?.lasting();
        let found = (
            found.cursor,
            found.prepared,
            found.beyond_transaction,
            found.draws,
        );
        ensure!(found == expected, "{sql}: {found:?}");
    }
    Ok(())
}
