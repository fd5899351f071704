//! The log says why the kernel side refused.

use anyhow::{Result, ensure};
use bailiff_tests::{ALLOW_ALL, Enforced, can_be_root, policy, target};

/// Dials the agent's listener, which stands in the sandbox's namespace, in two ways.
const DIAL: &str = "
import socket, time
line = next(line.split() for line in open('/proc/net/tcp') if line.split()[3] == '0A')
port = int(line[1].split(':')[1], 16)
for _ in range(1000):
    s = socket.socket()
    try: s.connect(('127.0.0.1', port)); print('connected')
    except ConnectionRefusedError: pass
print(port, flush=True)
time.sleep(1)
";

#[test]
fn a_refusal_is_told_with_its_reason_and_many_are_told_seldom() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let enforced = Enforced::with(&[
        ("target.yaml", &target("192.0.2.7", "")),
        ("policy.yaml", &policy(ALLOW_ALL)),
    ])?;
    let output = enforced.run(&["python3", "-c", DIAL])?.output()?;
    let port = String::from_utf8(output.stdout)?;
    let log = String::from_utf8(output.stderr)?;
    ensure!(port.trim().parse::<u16>().is_ok(), "{port}\n{log}");
    let told: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("refused process"))
        .collect();
    ensure!((1..20).contains(&told.len()), "{log}");
    let expected = format!(
        "to ::ffff:127.0.0.1 port {}: that is the agent's own listener",
        port.trim()
    );
    ensure!(told.iter().all(|line| line.contains(&expected)), "{log}");
    Ok(())
}
