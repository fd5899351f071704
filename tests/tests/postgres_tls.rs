//! TLS on both sides of a session.

use anyhow::{Result, ensure};
use bailiff_tests::{ALLOW_ALL, Authority, Enforced, Postgres, can_be_root, policy, target};

/// A server that offers TLS, and the CAs of its certificate and of what clients are shown.
struct Both {
    server: Postgres,
    database: Authority,
    clients: Authority,
}

impl Both {
    fn new() -> Result<Option<Self>> {
        if !can_be_root()? {
            return Ok(None);
        }
        let (server, database) = (Postgres::start_anywhere()?, Authority::new("the database's")?);
        server.offer_tls(&database, &["db.example", server.address()])?;
        Ok(Some(Self {
            server,
            database,
            clients: Authority::new("the clients'")?,
        }))
    }

    /// Lines of a target that terminates TLS with minted certificates.
    fn minted(&self, mode: &str) -> String {
        format!(
            "  tls:\n    client:\n      mode: {mode}\n      caCertificateFile: {}\n      caKeyFile: {}\n      names: [db.example]\n",
            self.clients.certificate().display(),
            self.clients.key().display()
        )
    }

    /// The further lines with which the server is verified.
    fn verified(&self) -> String {
        format!(
            "    upstream: {{ mode: Verify, caFile: {} }}\n",
            self.database.certificate().display()
        )
    }

    fn enforced(&self, more: &str) -> Result<Enforced> {
        Enforced::with(&[
            ("target.yaml", &target(self.server.address(), more)),
            ("policy.yaml", &policy(ALLOW_ALL)),
        ])
    }

    /// What psql says with these connection options.
    fn psql(&self, enforced: &Enforced, options: &str, sql: &str) -> Result<String> {
        let address = self.server.address();
        let options = format!("hostaddr={address} host=db.example user=postgres dbname=postgres {options}");
        let output = enforced.run(&["psql", &options, "-XAtqwc", sql])?.output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    }
}

/// Whether the server's side of the connection is encrypted.
const ENCRYPTED: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

#[test]
fn both_sides_are_encrypted_and_verified() -> Result<()> {
    let Some(both) = Both::new()? else {
        return Ok(());
    };
    let root = format!("sslrootcert={}", both.clients.certificate().display());
    let enforced = both.enforced(&(both.minted("Prefer") + &both.verified()))?;
    for mode in [
        "disable",
        "allow",
        "prefer",
        "require",
        "verify-ca",
        "verify-full",
    ] {
        let said = both.psql(&enforced, &format!("sslmode={mode} {root}"), ENCRYPTED)?;
        ensure!(said.trim() == "t", "{mode}: {said}");
    }
    // More rows than any buffer holds, through both.
    let rows = "select sum(length(v)) from (select repeat('x', 1000) v from generate_series(1, 3)) a; select repeat('y', 3000000)";
    let said = both.psql(&enforced, &format!("sslmode=verify-full {root}"), rows)?;
    ensure!(
        said.len() > 3_000_000 && said.starts_with("3000\n"),
        "{}",
        said.len()
    );
    Ok(())
}
