//! Statements as common clients write them: none is unknown, and none counts as running code that doesn't.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use bailiff_model::SqlEffect;
use bailiff_policy::{Settings, classify};

/// One statement a line, as frameworks and tools send them.
const CLIENTS: &[(&str, &str)] = &[
    ("django", include_str!("clients/django.sql")),
    ("jvm", include_str!("clients/jvm.sql")),
    ("others", include_str!("clients/others.sql")),
    ("rails", include_str!("clients/rails.sql")),
    ("tools", include_str!("clients/tools.sql")),
];

/// What they call that isn't pure, and that a rule has to name.
const CALLED: &[&str] = &[
    "nextval",
    "pg_advisory_lock",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_try_advisory_lock",
    "setval",
];

fn statements() -> impl Iterator<Item = (&'static str, usize, &'static str)> {
    CLIENTS.iter().flat_map(|(client, text)| {
        text.lines()
            .enumerate()
            .filter(|(_, line)| !line.is_empty() && !line.starts_with("--"))
            .map(|(place, line)| (*client, place + 1, line))
    })
}

#[test]
fn what_clients_send_is_told() -> Result<()> {
    let (mut wrong, mut told) = (Vec::new(), 0);
    for server in [13, 18] {
        let settings = Settings {
            server,
            ..Settings::default()
        };
        for (client, line, sql) in statements() {
            let place = format!("{client}.sql:{line}, server {server}");
            let found = classify(sql, &settings).with_context(|| format!("{place}: {sql}"))?;
            told += 1;
            for statement in found.statements() {
                if statement.effects == bailiff_model::EffectSet::EMPTY
                    || statement.effects.contains(SqlEffect::Unknown)
                {
                    wrong.push(format!("{place}: unknown: {sql}"));
                }
                let called: BTreeSet<&str> = statement
                    .functions
                    .iter()
                    .map(|function| function.name.as_str())
                    .collect();
                if statement.effects.contains(SqlEffect::Execute)
                    && !CALLED.iter().any(|known| called.contains(known))
                {
                    wrong.push(format!("{place}: runs one of {called:?}: {sql}"));
                }
            }
        }
    }
    ensure!(told >= 300, "only {told}");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
