//! A command on a terminal.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use bailiff_tests::Step::{Expect, Resize, Send};
use bailiff_tests::{Escape, Invoker, check, on_terminal};
use serde_json::json;

#[test]
fn it_has_the_terminal_and_feels_its_size() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let script = "trap 'stty size; exit 4' WINCH; tty; test -t 0 -a -t 1 -a -t 2 && echo a terminal; stty size; \
                  echo ready; while :; do sleep 0.01; done";
    for invoker in Invoker::ALL {
        let mut run = escape.lab.enforced.run(&["bash", "-c", script])?;
        invoker.calls(&mut run);
        let steps = [
            Expect("a terminal"),
            Expect("ready"),
            Resize(51, 133),
            Expect("51 133"),
        ];
        let seen = on_terminal(&run, escape.place(), &steps)?;
        ensure!(seen.status == 4, "{seen:?}");
    }
    Ok(())
}

#[test]
fn ctrl_c_reaches_the_command_once() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let script = "n=0; trap 'echo caught; n=$((n+1))' INT; echo ready; while [ $n = 0 ]; do sleep 0.01; done; \
                  sleep 0.3; echo $n times; exit 6";
    for invoker in Invoker::ALL {
        let mut run = escape.lab.enforced.run(&["bash", "-c", script])?;
        invoker.calls(&mut run);
        let steps = [Expect("ready"), Send("\x03"), Expect("caught"), Expect("1 times")];
        let seen = on_terminal(&run, escape.place(), &steps)?;
        ensure!(seen.status == 6, "{seen:?}");
        // A command that doesn't handle it ends by it.
        let mut run = escape
            .lab
            .enforced
            .run(&["sh", "-c", "echo ready; exec sleep 600"])?;
        invoker.calls(&mut run);
        let seen = on_terminal(&run, escape.place(), &[Expect("ready"), Send("\x03")])?;
        ensure!(seen.status == 130, "{seen:?}");
    }
    Ok(())
}

#[test]
fn a_shell_controls_its_jobs() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    for invoker in Invoker::ALL {
        let mut run = escape
            .lab
            .enforced
            .run(&["bash", "--norc", "--noprofile", "-i"])?;
        invoker.calls(&mut run);
        run.env("PS1", "> ").env("HISTFILE", "/dev/null");
        // What is typed is echoed, too; this isn't, and is printed once the job has the terminal.
        let job = "bash -c 'echo $((40+2)); read line; echo got $line; exec sleep 600'\n";
        let steps = [
            Expect("> "),
            Send(job),
            Expect("42\r\n"),
            Send("\x1a"),
            Expect("Stopped"),
            Send("fg\n"),
            Expect("fg\r\n"),
            Send("word\n"),
            Expect("got word"),
            Send("\x03"),
            Expect("> "),
            Send("echo $?.\n"),
            Expect("130."),
            Send("exit 9\n"),
        ];
        let seen = on_terminal(&run, escape.place(), &steps)?;
        ensure!(seen.status == 9, "{seen:?}");
        ensure!(!seen.text.contains("job control"), "{seen:?}");
    }
    Ok(())
}

/// Under a shell outside: it stops with all that it started, and goes on.
#[test]
fn it_is_a_job_of_the_shell_outside() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let inner =
        escape
            .lab
            .enforced
            .run(&["bash", "-c", "for i in 1 2; do read line; echo got $line; done"])?;
    let words: Vec<String> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let mut shell = Command::new("bash");
    shell
        .args(["--norc", "--noprofile", "-i"])
        .env("PS1", "> ")
        .env("HISTFILE", "/dev/null");
    let line = format!("{}\n", words.join(" "));
    let steps = [
        Expect("> "),
        Send(&line),
        Send("one\n"),
        Expect("got one"),
        Send("\x1a"),
        Expect("Stopped"),
        Send("fg\n"),
        Expect("fg\r\n"),
        Send("two\n"),
        Expect("got two"),
        Expect("> "),
        Send("exit 8\n"),
    ];
    let seen = on_terminal(&shell, escape.place(), &steps)?;
    ensure!(seen.status == 8, "{seen:?}");
    Ok(())
}

#[test]
fn a_directory_that_it_may_not_change_is_told_of() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let run = escape.lab.enforced.run(&["sh", "-c", "echo done"])?;
    let elsewhere = on_terminal(&run, Path::new("/etc"), &[Expect("done")])?;
    ensure!(
        elsewhere.text.contains("can't change /etc; --writable"),
        "{elsewhere:?}"
    );
    let here = on_terminal(&run, escape.place(), &[Expect("done")])?;
    ensure!(here.text == "done\r\n", "{here:?}");
    // Nobody is told who doesn't look at a terminal.
    let mut run = escape.lab.enforced.run(&["true"])?;
    let output = check(run.current_dir("/etc"))?;
    ensure!(output.stderr.is_empty(), "{output:?}");
    Ok(())
}

/// What is typed into the shared terminal would be run by the shell outside once the command has ended.
#[test]
fn typing_ahead_for_the_shell_outside() -> Result<()> {
    let Some(escape) = Escape::new()? else {
        return Ok(());
    };
    let attempts = [("type_ahead", json!({}))];
    let then = "\"$@\"; echo next; read line; echo \"read $line.\"";
    let steps = [Expect("next"), Send("mine\n"), Expect("read ")];
    let mut outside = Command::new("sh");
    outside.args(["-c", then, "sh"]).args(Escape::kit(&attempts));
    let seen = on_terminal(&outside, escape.place(), &steps)?;
    ensure!(
        seen.text.contains("\"got\": \"typed\"") && seen.text.contains("read escaped."),
        "{seen:?}"
    );
    for invoker in Invoker::ALL {
        let inner = escape.lab.enforced.run(&[])?;
        let mut shell = Command::new("sh");
        shell
            .args(["-c", then, "sh"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .args(Escape::kit(&attempts));
        invoker.calls(&mut shell);
        let seen = on_terminal(&shell, escape.place(), &steps)?;
        ensure!(
            seen.text.contains("EPERM") && seen.text.contains("read mine."),
            "{invoker:?}: {seen:?}"
        );
    }
    Ok(())
}
