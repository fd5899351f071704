//! A program whose standard input is fed step by step.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

/// The program, with both of its outputs in one stream of lines.
#[derive(Debug)]
pub(crate) struct Session {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Session {
    /// Starts it.
    ///
    /// # Errors
    /// When it can't be started.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        command
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("`{}` can't be started", crate::shell::describe(command)))?;
        // The command's own copies would keep the pipe open after the program's end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let input = child.stdin.take();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, input, lines })
    }

    /// Sends a text, and returns the lines until one that is `marker`, which isn't among them. What is sent has to make the
    /// program print it.
    ///
    /// # Errors
    /// When the program ends, is silent for `limit`, or the user interrupts.
    pub(crate) fn ask(&mut self, text: &str, marker: &str, limit: Duration) -> Result<Vec<String>> {
        let input = self.input.as_mut().context("the input is closed")?;
        input
            .write_all(text.as_bytes())
            .and_then(|()| input.flush())
            .context("the program takes no more input")?;
        let mut answer = Vec::new();
        let mut last = Instant::now();
        loop {
            super::checkpoint()?;
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) if line.trim_end() == marker => return Ok(answer),
                Ok(line) => {
                    last = Instant::now();
                    answer.push(line);
                }
                Err(RecvTimeoutError::Timeout) if last.elapsed() < limit => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "no answer for {} s; so far:\n{}",
                        limit.as_secs(),
                        answer.join("\n")
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("the program ended ({status}); it said:\n{}", answer.join("\n"))
                }
            }
        }
    }

    /// The program's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Closes the input, for a program that is to read none.
    pub(crate) fn close_input(&mut self) {
        drop(self.input.take());
    }

    /// Closes the input and waits for the end; returns what was still printed.
    ///
    /// # Errors
    /// When it exits with a failure or doesn't end within `limit`.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<Vec<String>> {
        self.close_input();
        let begun = Instant::now();
        let mut rest = Vec::new();
        while self.child.try_wait()?.is_none() {
            super::checkpoint()?;
            if begun.elapsed() > limit {
                bail!(
                    "the program did not end within {} s of its input's end",
                    limit.as_secs()
                );
            }
            if let Ok(line) = self.lines.recv_timeout(Duration::from_millis(50)) {
                rest.push(line);
            }
        }
        // What was written last may still be on its way through the pipe; its end says that all of it came. Something that
        // the program left running may hold it open, so not for ever.
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(2)) {
            rest.push(line);
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the program failed ({status}); it said:\n{}", rest.join("\n"));
        }
        Ok(rest)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        super::end(&mut self.child, Signal::SIGTERM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_program_is_asked_step_by_step() {
        let mut session = Session::start(&mut Command::new("sh")).unwrap();
        assert_eq!(
            session
                .ask("echo one; echo two >&2; echo done\n", "done", LIMIT)
                .unwrap(),
            ["one", "two"]
        );
        assert_eq!(
            session.ask("echo three; echo done\n", "done", LIMIT).unwrap(),
            ["three"]
        );
        assert!(session.finish(LIMIT).unwrap().is_empty());
    }

    #[test]
    fn nothing_of_the_last_output_is_lost() {
        for _ in 0..20 {
            let session = Session::start(Command::new("sh").args(["-c", "seq 5000"])).unwrap();
            assert_eq!(session.finish(LIMIT).unwrap().len(), 5000);
        }
    }

    #[test]
    fn an_early_end_and_a_failure_are_errors_with_what_was_said() {
        let mut session = Session::start(&mut Command::new("sh")).unwrap();
        let error = session
            .ask("echo last words; exit 3\n", "done", LIMIT)
            .unwrap_err()
            .to_string();
        assert!(error.contains("last words") && error.contains('3'), "{error}");
        let session = Session::start(Command::new("sh").args(["-c", "cat; exit 4"])).unwrap();
        assert!(session.finish(LIMIT).is_err());
    }
}
