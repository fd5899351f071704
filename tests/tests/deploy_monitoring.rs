//! Alerts and dashboard: they are sound, they fire when they are to, and what they ask for is what agents serve.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::deploy::deploy;
use bailiff_tests::{ALLOW_ALL, Lab, check};
use serde_json::{Value, json};

/// Where metrics are registered.
const REGISTERED: [&str; 2] = [
    include_str!("../../agent/src/metrics.rs"),
    include_str!("../../agent/src/approver/metrics.rs"),
];

/// Words of a text that begin with the product's name.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("bailiff_"))
        .map(str::to_owned)
        .collect()
}

/// The metrics that the program has, as Prometheus sees them.
fn registered() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for text in REGISTERED {
        // Tests below it aren't the program.
        let program = text.split("#[cfg(test)]").next().unwrap_or_default();
        let quoted = program.split('"').filter(|word| word.starts_with("bailiff_"));
        all.extend(quoted.filter(|word| !word.contains('{')).map(str::to_owned));
    }
    for suffix in ["bucket", "sum", "count"] {
        all.insert(format!("bailiff_added_latency_seconds_{suffix}"));
    }
    all
}

fn alerts() -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(deploy("chart/files/alerts.yaml"))?;
    let file: Value = serde_saphyr::from_str(&text)?;
    let groups = file
        .get("groups")
        .and_then(Value::as_array)
        .context("no groups")?;
    let rules = groups
        .iter()
        .filter_map(|group| group.get("rules")?.as_array())
        .flatten();
    Ok(rules.cloned().collect())
}

fn dashboard() -> Result<Value> {
    let text = std::fs::read_to_string(deploy("chart/files/dashboard.json"))?;
    Ok(serde_json::from_str(&text)?)
}

/// What panels and variables ask Prometheus for.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard.get("panels").and_then(Value::as_array);
    panels
        .into_iter()
        .flatten()
        .filter_map(|panel| panel.get("targets")?.as_array())
        .flatten()
        .filter_map(|target| Some(target.get("expr")?.as_str()?.to_owned()))
        .collect()
}

fn text<'a>(value: &'a Value, place: &str) -> &'a str {
    value.pointer(place).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn alerts_are_sound_and_fire_when_they_are_to() -> Result<()> {
    let rules = deploy("chart/files/alerts.yaml");
    let told = check(Command::new("promtool").args(["check", "rules"]).arg(&rules))?;
    let told = String::from_utf8(told.stdout)?;
    ensure!(
        told.contains(&format!("SUCCESS: {} rules found", alerts()?.len())),
        "{told}"
    );
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("prometheus/alerts.yaml");
    check(Command::new("promtool").args(["test", "rules"]).arg(&tests))?;
    // Each is tried there.
    let tried = std::fs::read_to_string(tests)?;
    for alert in alerts()? {
        let name = text(&alert, "/alert");
        ensure!(tried.contains(name), "{name} is never tried");
    }
    Ok(())
}

#[test]
fn each_alert_says_what_to_do_and_where_that_is_written() -> Result<()> {
    let guide = deploy("../docs/operations.md");
    let guide = std::fs::read_to_string(guide)?;
    let anchors: BTreeSet<String> = guide
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .map(|heading| format!("docs/operations.md#{}", heading.to_lowercase().replace(' ', "-")))
        .collect();
    let alerts = alerts()?;
    for alert in &alerts {
        let name = text(alert, "/alert");
        ensure!(
            name.starts_with("Bailiff") && text(alert, "/annotations/summary").ends_with('.'),
            "{alert}"
        );
        ensure!(
            text(alert, "/annotations/description").len() > 60,
            "{name}: what is to be done?"
        );
        ensure!(
            ["critical", "warning"].contains(&text(alert, "/labels/severity")),
            "{alert}"
        );
        let runbook = text(alert, "/annotations/runbook");
        ensure!(
            anchors.contains(runbook),
            "{name}: {runbook} isn't among {anchors:?}"
        );
    }
    // And none is written of that isn't there.
    let described = anchors
        .iter()
        .filter(|anchor| anchor.contains("#bailiff"))
        .count();
    ensure!(described == alerts.len(), "{described}");
    Ok(())
}

#[test]
fn what_is_asked_for_is_what_agents_serve() -> Result<()> {
    let registered = registered();
    ensure!(registered.len() > 40, "{registered:?}");
    let mut asked = names(&queries(&dashboard()?).join("\n"));
    for alert in alerts()? {
        asked.extend(names(text(&alert, "/expr")));
    }
    ensure!(asked.len() > 30, "{asked:?}");
    let unknown: Vec<&String> = asked.difference(&registered).collect();
    ensure!(unknown.is_empty(), "no agent has {unknown:?}");

    // A running agent, of what it serves before anything has happened.
    let Some(lab) = Lab::new(ALLOW_ALL, "")? else {
        return Ok(());
    };
    let agent = lab.start()?;
    let served = names(&agent.metrics()?);
    let families: Vec<&String> = served.difference(&registered).collect();
    ensure!(
        families.is_empty(),
        "served, and not where they were looked for: {families:?}"
    );
    for name in [
        "bailiff_sessions_open",
        "bailiff_operations_total",
        "bailiff_recorder_failing",
    ] {
        ensure!(served.contains(name), "{name}");
    }
    Ok(())
}

#[test]
fn the_dashboard_is_one_that_grafana_takes() -> Result<()> {
    let dashboard = dashboard()?;
    ensure!(text(&dashboard, "/uid") == "bailiff" && text(&dashboard, "/title") == "Bailiff");
    ensure!(dashboard.get("schemaVersion") == Some(&json!(39)));
    ensure!(dashboard.get("id").is_none(), "an id belongs to one Grafana");
    let variables = dashboard
        .pointer("/templating/list")
        .and_then(Value::as_array)
        .context("no variables")?;
    ensure!(
        variables
            .iter()
            .any(|variable| variable.get("name") == Some(&json!("datasource"))
                && variable.get("type") == Some(&json!("datasource")))
    );
    let panels = dashboard
        .get("panels")
        .and_then(Value::as_array)
        .context("no panels")?;
    let (mut ids, mut rows, mut taken) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
    for panel in panels {
        let number = |place: &str| {
            panel
                .pointer(place)
                .and_then(Value::as_u64)
                .context(place.to_owned())
        };
        ensure!(ids.insert(number("/id")?), "two panels have an id: {panel}");
        let [x, y, w, h] = [
            number("/gridPos/x")?,
            number("/gridPos/y")?,
            number("/gridPos/w")?,
            number("/gridPos/h")?,
        ];
        ensure!(x + w <= 24, "{panel}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            ensure!(taken.insert(cell), "panels lie on each other: {panel}");
        }
        if text(panel, "/type") == "row" {
            rows.push(text(panel, "/title"));
        } else {
            ensure!(text(panel, "/datasource/uid") == "${datasource}", "{panel}");
        }
    }
    ensure!(
        rows == [
            "Overview",
            "Requests and verdicts",
            "Latency added",
            "Sessions",
            "Certificates",
            "Record",
            "Kernel"
        ],
        "{rows:?}"
    );
    // Prometheus' own parser reads its queries.
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    let queries = queries(&dashboard);
    for (number, query) in queries.iter().enumerate() {
        let query = query.replace("$__rate_interval", "5m").replace("$instance", ".*");
        writeln!(
            rules,
            "      - {{record: panel_{number}, expr: {}}}",
            json!(query)
        )?;
    }
    let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    std::fs::write(&file, rules)?;
    let told = check(Command::new("promtool").args(["check", "rules"]).arg(file.path()))?;
    let told = String::from_utf8(told.stdout)?;
    ensure!(
        queries.len() > 30 && told.contains(&format!("SUCCESS: {} rules found", queries.len())),
        "{told}"
    );
    Ok(())
}
