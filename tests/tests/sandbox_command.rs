//! `bailiff run` as a user meets it: what the command gets, and what comes back.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use bailiff_tests::{ALLOW_ALL, Enforced, Invoker, can_be_root, check, policy, target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A configuration, without a database, and a directory to work in.
struct Place {
    enforced: Enforced,
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Result<Option<Self>> {
        if !can_be_root()? {
            return Ok(None);
        }
        let directory = tempfile::Builder::new().prefix("bailiff-place-").tempdir()?;
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777))?;
        Ok(Some(Self {
            enforced: Enforced::with(&[
                ("target.yaml", &target("10.127.0.1", "")),
                ("policy.yaml", &policy(ALLOW_ALL)),
            ])?,
            directory,
        }))
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn run(&self, invoker: Invoker, options: &[&str], command: &[&str]) -> Result<Command> {
        let mut run = self.enforced.run_with(options, command)?;
        invoker.calls(&mut run);
        run.current_dir(self.path());
        Ok(run)
    }
}

#[test]
fn statuses_are_those_of_a_shell() -> Result<()> {
    let Some(place) = Place::new()? else {
        return Ok(());
    };
    std::fs::write(place.path().join("no-program"), "")?;
    std::fs::set_permissions(place.path().join("no-program"), PermissionsExt::from_mode(0o644))?;
    let ends: [(&[&str], i32); 9] = [
        (&["true"], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "exit 255"], 255),
        (&["bailiff-no-such-program"], 127),
        (&["./no-program"], 126),
        (&["/"], 126),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["bash", "-c", "kill -RTMIN $$"], 128 + 34),
    ];
    for invoker in Invoker::ALL {
        for (command, status) in &ends {
            // Not a PATH of directories that this user can't read: then it isn't known that nothing is there.
            let output = place
                .run(invoker, &[], command)?
                .env("PATH", "/usr/bin:/bin")
                .output()?;
            ensure!(
                output.status.code() == Some(*status),
                "{command:?} by {invoker:?}: {output:?}"
            );
        }
    }
    // Its own failures.
    for options in [
        &["--no-such-option"][..],
        &["--pod", "nobody"],
        &["--writable", "/nowhere"],
        &["--writable", "/"],
    ] {
        let output = place.run(Invoker::Root, options, &["true"])?.output()?;
        ensure!(output.status.code() == Some(125), "{options:?}: {output:?}");
        ensure!(
            !output.stderr.is_empty() && output.stdout.is_empty(),
            "{output:?}"
        );
    }
    Ok(())
}

#[test]
fn signals_reach_it() -> Result<()> {
    let Some(place) = Place::new()? else {
        return Ok(());
    };
    let script = "for s in HUP INT QUIT TERM USR1 USR2; do trap \"echo $s\" $s; done; trap 'exit 5' WINCH; echo ready; \
                  while :; do sleep 0.01; done";
    for invoker in Invoker::ALL {
        let mut child = place
            .run(invoker, &[], &["bash", "-c", script])?
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let mut next = || lines.next().context("it has ended")?.context("no line");
        ensure!(next()? == "ready");
        for signal in [
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGTERM,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
        ] {
            kill(pid, signal)?;
            ensure!(format!("SIG{}", next()?) == signal.as_str());
        }
        kill(pid, Signal::SIGKILL)?;
        ensure!(child.wait()?.code().is_none());
        // Its command ends with it, and with it the other end of the pipe.
        ensure!(lines.next().is_none());
    }
    Ok(())
}

#[test]
fn bytes_pass_as_they_are() -> Result<()> {
    let Some(place) = Place::new()? else {
        return Ok(());
    };
    let mut bytes = vec![0; 3 << 20];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    for (invoker, script) in [(Invoker::Root, "exec cat"), (Invoker::Sudo, "exec cat >&2")] {
        let mut child = place
            .run(invoker, &[], &["sh", "-c", script])?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().context("no input")?;
        let sent = bytes.clone();
        let writer = std::thread::spawn(move || input.write_all(&sent));
        let output = child.wait_with_output()?;
        writer
            .join()
            .map_err(|_| anyhow::anyhow!("the writer failed"))??;
        ensure!(output.status.success(), "{:?}", output.status);
        let (whole, empty) = match invoker {
            Invoker::Root => (output.stdout, output.stderr),
            Invoker::Sudo => (output.stderr, output.stdout),
        };
        ensure!(
            whole == bytes && empty.is_empty(),
            "{} bytes came through",
            whole.len()
        );
    }
    Ok(())
}

#[test]
fn arguments_directory_and_environment_are_kept() -> Result<()> {
    let Some(place) = Place::new()? else {
        return Ok(());
    };
    let odd = OsStr::from_bytes(b"a b\xff\n'\"--x");
    for invoker in Invoker::ALL {
        let script = "printf '%s|' \"$@\"; printf '%s|' \"$ODD\" \"$PWD\"; pwd -P; umask; ulimit -n";
        let mut run = place.run(invoker, &[], &["sh", "-c", script, "sh"])?;
        run.arg("--help").arg("").arg(odd).env("ODD", odd);
        let run = [
            OsStr::new("-c"),
            OsStr::new("umask 027; ulimit -n 99; exec \"$@\""),
            OsStr::new("sh"),
        ]
        .into_iter()
        .map(OsStr::to_owned)
        .chain([run.get_program().to_owned()])
        .chain(run.get_args().map(OsStr::to_owned))
        .collect::<Vec<_>>();
        let mut outer = Command::new("sh");
        outer.args(run).env("ODD", odd).current_dir(place.path());
        invoker.calls(&mut outer);
        let output = check(&mut outer)?;
        let here = place.path().as_os_str().as_bytes();
        let odd = odd.as_bytes();
        let wanted = [
            b"--help||".as_slice(),
            odd,
            b"|",
            odd,
            b"|",
            here,
            b"|",
            here,
            b"\n0027\n99\n",
        ]
        .concat();
        ensure!(output.stdout == wanted, "{}", output.stdout.escape_ascii());
    }
    Ok(())
}

#[test]
fn it_runs_as_whoever_called_sudo() -> Result<()> {
    let Some(place) = Place::new()? else {
        return Ok(());
    };
    let script = "id -u; id -g; id -G; echo $HOME; echo $USER; touch made; umask 0; stat -c %u made";
    let mut run = place.run(Invoker::Sudo, &[], &["sh", "-c", script])?;
    run.env("HOME", "/root").env("USER", "root");
    let user = nix::unistd::User::from_uid(65_534.into())?.context("nobody is missing")?;
    let said = String::from_utf8_lossy(&check(&mut run)?.stdout).into_owned();
    let wanted = format!(
        "65534\n65534\n65534\n{}\n{}\n65534\n",
        user.dir.display(),
        user.name
    );
    ensure!(said == wanted, "{said}");
    Ok(())
}

#[test]
fn it_runs_as_whoever_called_what_is_like_sudo() -> Result<()> {
    let Some(place) = Place::new()? else {
        return Ok(());
    };
    let nobody = nix::unistd::User::from_uid(65_534.into())?.context("nobody is missing")?;
    let group = nobody.gid.to_string();
    for (name, value) in [("PKEXEC_UID", "65534"), ("DOAS_USER", nobody.name.as_str())] {
        let mut run = place.run(Invoker::Root, &[], &["sh", "-c", "id -u; id -g"])?;
        let said = check(run.env(name, value))?.stdout;
        ensure!(
            String::from_utf8_lossy(&said) == format!("65534\n{group}\n"),
            "{name}: {said:?}"
        );
    }
    // A number that nobody has.
    let mut run = place.run(Invoker::Root, &[], &["sh", "-c", "id -u; id -g; id -G"])?;
    let said = check(run.env("PKEXEC_UID", "54321"))?.stdout;
    ensure!(
        String::from_utf8_lossy(&said) == "54321\n65534\n65534\n",
        "{said:?}"
    );
    Ok(())
}

#[test]
fn what_it_may_change() -> Result<()> {
    let Some(place) = Place::new()? else {
        return Ok(());
    };
    let other = tempfile::Builder::new()
        .prefix("bailiff-test-")
        .tempdir_in("/opt")?;
    std::fs::set_permissions(other.path(), PermissionsExt::from_mode(0o777))?;
    let named = other.path().display().to_string();
    let script = "for d in . \"$0\" /tmp /var/tmp /dev/shm \"$HOME\" /etc; do (echo x > \"$d/bailiff-test\") 2>/dev/null; \
                  echo $?; rm -f \"$d/bailiff-test\"; done";
    for invoker in Invoker::ALL {
        for (options, may) in [(&[][..], "2"), (&["--writable", named.as_str()], "0")] {
            let output = check(&mut place.run(invoker, options, &["sh", "-c", script, &named])?)?;
            let said = String::from_utf8_lossy(&output.stdout).replace('\n', " ");
            ensure!(
                said == format!("0 {may} 0 0 0 2 2 "),
                "{invoker:?} {options:?}: {said}"
            );
        }
    }
    // A home is named like any other directory.
    let home = tempfile::Builder::new()
        .prefix("bailiff-home-")
        .tempdir_in("/opt")?;
    let mut run = place.run(
        Invoker::Root,
        &["--writable", &home.path().display().to_string()],
        &["sh", "-c", "touch $HOME/.made"],
    )?;
    check(run.env("HOME", home.path()))?;
    ensure!(home.path().join(".made").exists());
    Ok(())
}

#[test]
fn several_at_once() -> Result<()> {
    let Some(place) = Place::new()? else {
        return Ok(());
    };
    let mut first = place
        .run(Invoker::Root, &[], &["cat"])?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = first.stdin.take().context("no input")?;
    let mut output = BufReader::new(first.stdout.take().context("no output")?);
    let mut line = String::new();
    writeln!(input, "one")?;
    output.read_line(&mut line)?;
    let pins = format!("/sys/fs/bpf/bailiff-{:x}", first.id());
    ensure!(line == "one\n" && Path::new(&pins).is_dir());
    let others = [Invoker::Root, Invoker::Sudo, Invoker::Root].map(|invoker| {
        Ok(place
            .run(invoker, &[], &["sh", "-c", "ip -br addr show eth0; sleep 0.2"])?
            .stdout(Stdio::piped())
            .spawn()?)
    });
    let mut addresses = Vec::new();
    for other in others {
        let output: Result<_> = other;
        let output = output?.wait_with_output()?;
        ensure!(output.status.success(), "{output:?}");
        addresses.push(output.stdout);
    }
    addresses.sort();
    addresses.dedup();
    ensure!(addresses.len() == 3, "{addresses:?}");
    // None of them took the first's place away.
    ensure!(Path::new(&pins).is_dir());
    line.clear();
    writeln!(input, "two")?;
    output.read_line(&mut line)?;
    ensure!(line == "two\n");
    drop(input);
    ensure!(first.wait()?.success());
    ensure!(!Path::new(&pins).exists());
    Ok(())
}
