//! `cargo xtask demo`: the story on the terminal, every step of it checked.

mod kubernetes;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::lab::network::Address;
use crate::lab::postgres::{Postgres, Setup};
use crate::lab::session::Session;
use crate::packages::{self, Purpose};
use crate::{build, lab, shell};

/// See Bailiff work, on a real PostgreSQL and a real Kubernetes API server.
///
/// Installs what is missing, builds, starts a throw-away PostgreSQL, and runs unchanged psql in
/// two sandboxes (examples/demo: two pods, one target, two policies). Then, in a second act,
/// unchanged kubectl before a throw-away control plane (examples/demo-kubernetes). Each step prints the real
/// command and its real output, and is checked: a demo that no longer works fails. Needs root.
/// Nothing is left behind, also after Ctrl-C.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build with optimisation.
    #[arg(long)]
    release: bool,
    /// Show one act alone. The first takes less than a minute; for the second Kubernetes is built once, in some ten.
    #[arg(long)]
    act: Option<Act>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Act {
    Databases,
    Kubernetes,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    packages::ensure(&[Purpose::Build, Purpose::Test, Purpose::Demo])?;
    ensure!(
        shell::is_root(),
        "sandboxes need root: network namespaces, cgroups and BPF"
    );
    build::object(None)?;
    build::agent(args.release)?;
    lab::catch_signals()?;

    let begun = Instant::now();
    let profile = if args.release { "release" } else { "debug" };
    if args.act != Some(Act::Kubernetes) {
        tell(&Stage::set_up(profile)?)?;
    }
    if args.act != Some(Act::Databases) {
        kubernetes::prepare()?;
        kubernetes::tell(profile)?;
    }
    println!(
        "\nEverything above was checked. It took {}.",
        shell::human(begun.elapsed())
    );
    Ok(())
}

/// The address in examples/demo/targets.yaml.
const ADDRESS: &str = "198.18.0.53";
const PORT: u16 = 5432;
const ADMIN: &str = "127.0.0.1:9464";
/// Above what any step takes; a step that hangs ends the demo.
const LIMIT: Duration = Duration::from_secs(30);

const TABLES: &str = "
    CREATE TABLE customers (id int PRIMARY KEY, name text, ssn text);
    INSERT INTO customers VALUES (1, 'Ada', '078-05-1120'), (2, 'Grace', '219-09-9999'), (3, 'Edsger', '457-55-5462');
    CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, total numeric);
    INSERT INTO orders VALUES (1, 1, 12.50), (2, 1, 99.00), (3, 2, 7.25), (4, 3, 42.00);
    ALTER TABLE customers OWNER TO app;
    ALTER TABLE orders OWNER TO app;";

fn tell(stage: &Stage) -> Result<()> {
    say(
        "A pod `ci-runner` runs psql, unchanged. Its database user owns the tables: the database would let it do anything.",
    );
    let mut psql = stage.psql_in("ci-runner")?;

    say("It reads:");
    let answer = psql.ask("SELECT id, name FROM customers ORDER BY id;")?;
    answer.has("Grace")?.has("(3 rows)")?;

    say("A column that policy masks (examples/demo/policies.yaml) comes masked:");
    let answer = psql.ask("SELECT name, ssn FROM customers ORDER BY id;")?;
    answer
        .has("Ada")?
        .has("(3 rows)")?
        .lacks("078-05-1120")?
        .lacks("219-09-9999")?;

    say("It drops a table. Policy says no, in PostgreSQL's own words:");
    psql.ask("DROP TABLE orders;")?
        .has("ERROR:")?
        .has("CI jobs read the shop database")?
        .has("no-writes")?;
    psql.ask("\\echo SQLSTATE :LAST_ERROR_SQLSTATE")?
        .has("SQLSTATE 42501")?;

    say("The connection is as usable as after any other error, and the table is there:");
    psql.ask("SELECT count(*) FROM orders;")?.has(" 4")?;

    say("A write that hides in a read is found by PostgreSQL's own grammar:");
    psql.ask("WITH gone AS (DELETE FROM orders RETURNING id) SELECT count(*) FROM gone;")?
        .has("ERROR:")?;
    psql.ask("SELECT count(*) FROM orders;")?.has(" 4")?;

    say("All of it was counted:");
    let pipe =
        format!("curl -sf http://{ADMIN}/metrics | grep -E '^bailiff_(operations|masked)' | grep -v ' 0$'");
    let metrics = Stage::show(Command::new("sh").args(["-c", &pipe]))?;
    metrics
        .has("verdict=\"deny\"")?
        .has("verdict=\"allow\"")?
        .has("bailiff_masked_values_total 3")?;
    psql.finish()?;

    say("Another pod, `migrator`, may do what the first was not allowed to:");
    Stage::show(stage.bailiff_run("migrator").args(["-c", "DROP TABLE orders"]))?.has("DROP TABLE")?;

    say("What happened stands in the record: who, which statements, what was decided and why.");
    let list = Stage::show(&mut stage.bailiff(&["sessions", "list", "--dir"]))?;
    list.has("ci-runner")?.has("migrator")?;
    let id = list.session_of("ci-runner")?;
    let session = Stage::show(&mut stage.bailiff(&["sessions", "show", &id, "--dir"]))?;
    session
        .has("DROP TABLE orders")?
        .has("no-writes")?
        .has("customers")?
        .lacks("078-05-1120")?;
    Ok(())
}

/// What the story needs. Dropped from the top: the server first, the address last.
struct Stage {
    _server: Postgres,
    record: TempDir,
    bailiff: PathBuf,
    _address: Address,
}

impl Stage {
    fn set_up(profile: &str) -> Result<Self> {
        shell::heading("A throw-away PostgreSQL");
        let address = Address::add(ADDRESS)?;
        let server = Postgres::start(&Setup {
            address: ADDRESS,
            port: PORT,
            settings: &["password_encryption = 'scram-sha-256'"],
            hba: &["host shop app 0.0.0.0/0 scram-sha-256"],
        })?;
        let role = format!("CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'");
        server.execute(PORT, "postgres", &role)?;
        server.execute(PORT, "postgres", "CREATE DATABASE shop OWNER app")?;
        server.execute(PORT, "shop", TABLES)?;
        println!("listening on {ADDRESS}:{PORT}, database shop, user app (SCRAM)");
        let record = tempfile::Builder::new().prefix("bailiff-demo-").tempdir()?;
        let bailiff = shell::root().join("target").join(profile).join("bailiff");
        Ok(Self {
            _server: server,
            record,
            bailiff,
            _address: address,
        })
    }

    /// `bailiff` with these words and then the folder of the demo's record.
    fn bailiff(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.bailiff);
        command
            .args(words)
            .arg(self.record.path())
            .current_dir(shell::root());
        command
    }

    fn bailiff_run(&self, pod: &str) -> Command {
        let mut command = self.bailiff(&[
            "run",
            "--config",
            "examples/demo",
            "--pod",
            pod,
            "--admin",
            ADMIN,
            "--record-dir",
        ]);
        // In the environment, as a pod has it, and not on the command line.
        command
            .env("PGPASSWORD", PASSWORD)
            .env("PGCONNECT_TIMEOUT", "20")
            .env_remove("PGUSER");
        command.args([
            "--",
            "psql",
            "--no-psqlrc",
            "--host",
            ADDRESS,
            "--username",
            "app",
            "shop",
        ]);
        command
    }

    fn psql_in(&self, pod: &str) -> Result<Psql> {
        let mut command = self.bailiff_run(pod);
        print_command(&command);
        let mut psql = Psql {
            session: Session::start(&mut command)?,
        };
        psql.raw("\\pset pager off\n")
            .context("psql in the sandbox did not start")?;
        Ok(psql)
    }

    /// Runs a command to its end and prints it with its output.
    fn show(command: &mut Command) -> Result<Answer> {
        print_command(command);
        let mut session = Session::start(command)?;
        session.close_input();
        let lines = session.finish(LIMIT)?;
        lines.iter().for_each(|line| println!("{line}"));
        Ok(Answer { lines })
    }
}

/// Of a server that lives for a minute.
const PASSWORD: &str = "only-for-the-demo";

/// psql, fed statement by statement.
struct Psql {
    session: Session,
}

impl Psql {
    fn ask(&mut self, statement: &str) -> Result<Answer> {
        println!("\x1b[1mshop=>\x1b[0m {statement}");
        let answer = self.raw(&format!("{statement}\n"))?;
        answer.lines.iter().for_each(|line| println!("{line}"));
        Ok(answer)
    }

    fn raw(&mut self, text: &str) -> Result<Answer> {
        const END: &str = "end-of-answer";
        let lines = self.session.ask(&format!("{text}\\echo {END}\n"), END, LIMIT)?;
        Ok(Answer { lines })
    }

    fn finish(self) -> Result<()> {
        self.session.finish(LIMIT).map(drop)
    }
}

/// What was printed, to be checked.
struct Answer {
    lines: Vec<String>,
}

impl Answer {
    fn has(&self, text: &str) -> Result<&Self> {
        match self.lines.iter().any(|line| line.contains(text)) {
            true => Ok(self),
            false => bail!("the demo no longer works: the output above should have {text:?} in it"),
        }
    }

    fn lacks(&self, text: &str) -> Result<&Self> {
        match self.lines.iter().any(|line| line.contains(text)) {
            false => Ok(self),
            true => bail!("the demo no longer works: the output above should not have {text:?} in it"),
        }
    }

    /// The first word of the line about a pod, which is the session's id.
    fn session_of(&self, pod: &str) -> Result<String> {
        let line = self
            .lines
            .iter()
            .find(|line| line.contains(pod))
            .context("the list lacks the pod")?;
        Ok(line
            .split_whitespace()
            .next()
            .context("an empty line")?
            .to_owned())
    }
}

fn say(text: &str) {
    println!("\n\x1b[36m{text}\x1b[0m");
}

fn print_command(command: &Command) {
    // Of a pipe the line itself, not the shell that runs it.
    let args: Vec<_> = command.get_args().collect();
    let line = match args.as_slice() {
        [option, line] if *option == "-c" => line.display().to_string(),
        _ => shell::without_environment(command),
    };
    println!("\x1b[1m#\x1b[0m {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(lines: &[&str]) -> Answer {
        Answer {
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    #[test]
    fn an_answer_that_is_not_as_told_is_an_error() {
        let answer = answer(&[" count ", " 4", "(1 row)"]);
        assert!(answer.has(" 4").is_ok() && answer.has("ERROR").is_err());
        assert!(answer.lacks("ERROR").is_ok() && answer.lacks("count").is_err());
    }

    #[test]
    fn a_sessions_id_is_the_first_word_of_its_line() {
        let list = answer(&["ID  POD", "a1  migrator", "b2  build/ci-runner  6 statements"]);
        assert_eq!(list.session_of("ci-runner").unwrap(), "b2");
        assert!(list.session_of("nobody").is_err());
    }
}
