//! A changed policy reaches sessions that are open, and a broken one changes nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{Enforced, Postgres, can_be_root};

const TARGET: &str = r#"
apiVersion: bailiff.dev/v1alpha1
kind: Target
metadata: { name: db }
spec:
  protocol: postgres
  endpoints: ["ADDRESS:5432"]
"#;

const POLICY: &str = r#"
apiVersion: bailiff.dev/v1alpha1
kind: Policy
metadata: { name: reader }
spec:
  targets: [db]
  rules:
    - name: some
      effects: [read]
      action: ACTION
      message: not any more
    - name: others
      effects: [transaction]
      action: Allow
"#;

#[test]
fn open_sessions_feel_a_change_at_their_next_statement() -> Result<()> {
    if !can_be_root()? {
        return Ok(());
    }
    let server = Postgres::start("10.77.1.7")?;
    let target = TARGET.replace("ADDRESS", server.address());
    let enforced = Enforced::with(&[
        ("target.yaml", &target),
        ("policy.yaml", &POLICY.replace("ACTION", "Allow")),
    ])?;
    let put = |text: &str| -> Result<()> {
        let new = enforced.config().join("policy.new");
        std::fs::write(&new, text)?;
        std::fs::rename(new, enforced.config().join("policy.yaml"))?;
        std::thread::sleep(Duration::from_millis(2500));
        Ok(())
    };
    let mut child = enforced
        .run(&[
            "sh",
            "-c",
            &format!("exec psql -h {} -U postgres -XAtq 2>&1", server.address()),
        ])?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    let mut ask = |statement: &str| -> Result<String> {
        writeln!(input, "{statement}")?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        if line.starts_with("ERROR") {
            output.read_line(&mut line)?;
        }
        Ok(line)
    };
    ensure!(ask("select 'before';")?.trim() == "before");
    put("kind: nonsense")?;
    ensure!(
        ask("select 'still';")?.trim() == "still",
        "a broken file leaves the policy as it was"
    );
    put(&POLICY.replace("ACTION", "Deny"))?;
    let said = ask("select 'after';")?;
    ensure!(
        said.contains("not any more") && said.contains("policy reader, rule some"),
        "{said}"
    );
    put(&POLICY.replace("ACTION", "Allow"))?;
    ensure!(
        ask("select 'again';")?.trim() == "again",
        "the connection was never dropped"
    );
    drop(input);
    ensure!(child.wait()?.success());
    Ok(())
}
