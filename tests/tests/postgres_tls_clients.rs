//! The table of `docs/tls.md`: which client connects, by its sslmode and by the way to the database.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{
    ALLOW_ALL, Authority, Enforced, Postgres, can_be_root, check, harness_program, policy, target,
};

const MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

/// What stands above the columns, the user who is authenticated so, and whether the way is by TLS and with a credential.
const COLUMNS: [(&str, &str, bool, bool); 6] = [
    ("plain, scram", "scram", false, false),
    ("TLS, password", "password", true, false),
    ("TLS, md5", "md5", true, false),
    ("TLS, scram", "scram", true, false),
    ("TLS, cert", "cert", true, false),
    ("TLS, credential", "scram", true, true),
];

const DRIVERS: [&str; 3] = ["libpq", "pgjdbc", "sqlx"];

/// A cell: by driver, `tls.client.mode`, sslmode and column.
type Cells = BTreeMap<(String, String, String, String), String>;

/// What the words of a failure mean.
fn outcome(said: &str) -> &'static str {
    if said.trim() == "yes" || said.trim() == "1" {
        "yes"
    } else if said.contains("channel_binding=disable") {
        "binding"
    } else if said.contains("valid client certificate") {
        // Before the next: a client that tries both ways tells both.
        "certificate"
    } else if said.contains("lets only encrypted connections through") {
        "encrypt"
    } else if ["SSL", "TLS"]
        .iter()
        .any(|name| said.contains(&format!("does not support {name}")))
    {
        "no TLS"
    } else {
        "?"
    }
}

#[test]
fn each_cell_is_as_the_documentation_says() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let (server, database, clients) = (
        Postgres::start_anywhere()?,
        Authority::new("the database's")?,
        Authority::new("the clients'")?,
    );
    server.offer_tls(&database, &[server.address()])?;
    for (user, stored) in [
        ("password", "scram-sha-256"),
        ("md5", "md5"),
        ("scram", "scram-sha-256"),
        ("cert", "md5"),
    ] {
        server.sql(&format!(
            "set password_encryption = '{stored}'; create role \"{user}\" login password 'right'"
        ))?;
    }
    server.let_in(
        "host all password all password\nhost all md5 all md5\nhost all scram all scram-sha-256\nhostssl all cert all cert\nhost all cert all reject",
    )?;
    let password = clients.directory().join("password");
    std::fs::write(&password, "right\n")?;
    let classes = clients.directory().join("classes");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/TlsTable.java");
    check(
        std::process::Command::new("javac")
            .arg("-d")
            .arg(&classes)
            .arg(source),
    )?;
    let mut measured = Cells::new();
    for client in ["Disabled", "Prefer", "Require"] {
        for (tls, credential) in [(false, false), (true, false), (true, true)] {
            let mut more = "  tls:\n".to_owned();
            if client != "Disabled" {
                more += &format!(
                    "    client: {{ mode: {client}, caCertificateFile: {}, caKeyFile: {} }}\n",
                    clients.certificate().display(),
                    clients.key().display()
                );
            }
            if tls {
                more += &format!(
                    "    upstream: {{ mode: Verify, caFile: {} }}\n",
                    database.certificate().display()
                );
            }
            if more == "  tls:\n" {
                more.clear();
            }
            if credential {
                more += &format!("  credential: {{ passwordFile: {} }}\n", password.display());
            }
            let enforced = Enforced::with(&[
                ("target.yaml", &target(server.address(), &more)),
                ("policy.yaml", &policy(ALLOW_ALL)),
            ])?;
            let columns: Vec<_> = COLUMNS
                .iter()
                .filter(|column| (column.2, column.3) == (tls, credential))
                .collect();
            let users: Vec<&str> = columns.iter().map(|column| column.1).collect();
            for line in connect(&enforced, &server, &clients, &classes, &users)? {
                let parts: Vec<&str> = line.splitn(4, '|').collect();
                let [driver, user, mode, said] = parts.as_slice() else {
                    continue;
                };
                let column = columns
                    .iter()
                    .find(|column| column.1 == *user)
                    .context("an unknown user")?;
                let cell = outcome(said);
                ensure!(cell != "?", "{client}, {}: {line}", column.0);
                let key = [driver, client, mode, column.0].map(str::to_owned);
                let [driver, client, mode, column] = key;
                measured.insert((driver, client, mode, column), cell.to_owned());
            }
        }
    }
    let documented = documented()?;
    let rendered = render(&measured);
    ensure!(
        measured.len() == DRIVERS.len() * 3 * 6 * COLUMNS.len(),
        "{} cells\n{rendered}",
        measured.len()
    );
    ensure!(documented == measured, "measured:\n{rendered}");
    Ok(())
}

/// Runs all clients once for each user and sslmode.
fn connect(
    enforced: &Enforced,
    server: &Postgres,
    clients: &Authority,
    classes: &Path,
    users: &[&str],
) -> Result<Vec<String>> {
    let (address, root, users) = (server.address(), clients.certificate(), users.join(" "));
    let script = format!(
        "for user in {users}; do for mode in {}; do
            said=$(PGPASSWORD=right psql \"host={address} user=$user dbname=postgres sslmode=$mode sslrootcert={root}\" -XAtqwc 'select 1' 2>&1 | tr '\\n' ' ')
            echo \"libpq|$user|$mode|$said\"
        done; done
        java -XX:TieredStopAtLevel=1 -cp {}:/usr/share/java/postgresql.jar TlsTable {address} {root} right {users}
        PGHOST={address} {} tls-table {root} right {users}",
        MODES.join(" "),
        classes.display(),
        harness_program("rust-clients")?.display(),
        root = root.display()
    );
    let output = enforced.run(&["sh", "-c", &script])?.output()?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(
        said.contains("pgjdbc|") && said.contains("sqlx|"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said.lines().map(str::to_owned).collect())
}

/// The tables as they stand in the documentation.
fn render(cells: &Cells) -> String {
    let mut text = String::new();
    for driver in DRIVERS {
        for client in ["Disabled", "Prefer", "Require"] {
            let heads = COLUMNS.map(|column| column.0).join(" | ");
            text += &format!(
                "\n| {driver}, {client} | {heads} |\n|---|{}\n",
                "---|".repeat(COLUMNS.len())
            );
            for mode in MODES {
                let row = COLUMNS.map(|column| {
                    let key = [driver, client, mode, column.0].map(str::to_owned);
                    let [driver, client, mode, column] = key;
                    cells
                        .get(&(driver, client, mode, column))
                        .cloned()
                        .unwrap_or_default()
                });
                text += &format!("| {mode} | {} |\n", row.join(" | "));
            }
        }
    }
    text
}

fn documented() -> Result<Cells> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tls.md");
    let text = std::fs::read_to_string(path)?;
    let mut cells = Cells::new();
    let mut head: Option<(String, String)> = None;
    for line in text.lines() {
        let fields: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        match (fields.as_slice(), &head) {
            ([first, ..], _)
                if DRIVERS
                    .iter()
                    .any(|driver| first.starts_with(&format!("{driver}, "))) =>
            {
                let (driver, client) = first.split_once(", ").context("no mode")?;
                head = Some((driver.to_owned(), client.to_owned()));
            }
            ([mode, row @ ..], Some((driver, client))) if MODES.contains(mode) => {
                for (column, cell) in COLUMNS.iter().zip(row) {
                    let key = (
                        driver.clone(),
                        client.clone(),
                        (*mode).to_owned(),
                        column.0.to_owned(),
                    );
                    cells.insert(key, (*cell).to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(cells)
}
