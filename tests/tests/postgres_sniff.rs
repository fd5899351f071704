//! A pod that reads its own wire doesn't see there what is masked.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Authority, Client, Enforced, Postgres, Running, can_be_root, policy, target};

/// In the masked column, and nowhere else.
const VALUE: &str = "078-05-1120-on-the-wire";

/// The process in a sandbox's network namespace that its agent began.
fn inside(agent: &Running) -> Result<u32> {
    let own = std::fs::read_link("/proc/self/ns/net")?;
    let mut processes = vec![agent.pid()];
    while let Some(process) = processes.pop() {
        if std::fs::read_link(format!("/proc/{process}/ns/net")).is_ok_and(|namespace| namespace != own) {
            return Ok(process);
        }
        for thread in std::fs::read_dir(format!("/proc/{process}/task"))?.flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            processes.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
        }
    }
    anyhow::bail!("no process in the sandbox")
}

/// tcpdump as a process of the pod that has NET_RAW.
struct Sniffer {
    child: Child,
    file: std::path::PathBuf,
}

impl Sniffer {
    fn start(agent: &Running, directory: &std::path::Path) -> Result<Self> {
        let file = directory.join("wire.pcap");
        let child = Command::new("nsenter")
            .args([
                "-t",
                &inside(agent)?.to_string(),
                "-n",
                "tcpdump",
                "-i",
                "any",
                "-s",
                "0",
                "-U",
                "-w",
            ])
            .arg(&file)
            .args(["-Z", "root"])
            .stderr(Stdio::null())
            .spawn()
            .context("tcpdump is missing")?;
        let this = Self { child, file };
        this.wait("it listens", |seen| seen.len() >= 24)?;
        Ok(this)
    }

    fn wait(&self, what: &str, holds: impl Fn(&[u8]) -> bool) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        while !holds(&std::fs::read(&self.file).unwrap_or_default()) {
            ensure!(Instant::now() < until, "never: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn saw(&self, text: &str) -> Result<bool> {
        let seen = std::fs::read(&self.file)?;
        Ok(seen.windows(text.len()).any(|window| window == text.as_bytes()))
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn masked_values_on_the_pods_own_wire() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = Postgres::start_anywhere()?;
    let authority = Authority::new("the database's")?;
    server.offer_tls(&authority, &[server.address()])?;
    server.sql(&format!(
        "create table people (name text, ssn text); insert into people values ('marker', '{VALUE}')"
    ))?;
    let masks = "  masks:\n    - columns: [public.people.ssn]\n      with: Redact\n";
    let verified = format!(
        "  tls: {{ upstream: {{ mode: Verify, caFile: {} }} }}\n",
        authority.certificate().display()
    );
    let plain = "  plainRelations: [public.people]\n";
    // Masked or not, by TLS or not: what the wire shows, and from where the database is dialed.
    for (masked, encrypted, shows, from_pod) in [
        (false, false, true, true),
        (false, true, true, true),
        (true, false, false, false),
        (true, true, false, true),
    ] {
        let about = format!("masked: {masked}, encrypted: {encrypted}");
        let more = plain.to_owned() + if encrypted { &verified } else { "" };
        let rules = ALLOW_ALL.to_owned() + if masked { masks } else { "" };
        let enforced = Enforced::with(&[
            ("target.yaml", &target(server.address(), &more)),
            ("policy.yaml", &policy(&rules)),
        ])?;
        let agent = enforced.start()?;
        let sniffer = Sniffer::start(&agent, enforced.config())?;
        let mut client = Client::started(agent.dial(server.address(), Postgres::PORT)?)?;
        let address = client.value("select client_addr from pg_stat_activity where pid = pg_backend_pid()");
        let own = server.sql("select client_addr from pg_stat_activity where state = 'idle' and backend_type = 'client backend'")?;
        ensure!(!own.is_empty() || address.is_ok(), "{about}");
        ensure!(
            (own != server.address()) == from_pod,
            "{about}: dialed from {own}"
        );
        let ssn = client.value("select ssn from people")?;
        ensure!((ssn == VALUE) != masked, "{about}: {ssn}");
        // The answer has passed the wire when this one is seen there, on the client's side, which is plain.
        client.value("select name || '-last' from (values ('seen')) v (name)")?;
        sniffer.wait("the last answer", |seen| {
            seen.windows(9).any(|window| window == b"seen-last")
        })?;
        ensure!(sniffer.saw(VALUE)? == shows, "{about}");
    }
    Ok(())
}
