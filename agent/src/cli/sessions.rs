//! `bailiff sessions`: reading the record, and ending sessions.

mod kill;
mod list;
pub(in crate::cli) mod read;
mod show;
mod story;
mod time;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// List recorded sessions, show one, or end one that is open
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Args),
    Show(show::Args),
    Kill(kill::Args),
}

/// Where the record is, and how times are told.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Place {
    /// Where the record is
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bailiff/record")]
    pub(in crate::cli) dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::List(args) => list::run(args),
        Command::Show(args) => show::run(args),
        Command::Kill(args) => kill::run(args),
    }
}

/// Standard output. Whoever reads it may stop reading: that ends the command, and is no failure.
pub(in crate::cli) struct Out {
    colours: bool,
    closed: bool,
}

impl Out {
    pub(in crate::cli) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            colours: wanted && std::io::stdout().is_terminal(),
            closed: false,
        }
    }

    pub(in crate::cli) fn line(&mut self, text: &str) {
        let mut out = std::io::stdout().lock();
        let written = out
            .write_all(text.as_bytes())
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush());
        self.closed |= written.is_err();
    }

    pub(in crate::cli) fn paint(&self, paint: Paint, text: &str) -> String {
        if self.colours && !text.is_empty() {
            format!("\x1b[{}m{text}\x1b[0m", paint.code())
        } else {
            text.to_owned()
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(in crate::cli) enum Paint {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Paint {
    const fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Red => "1;31",
            Self::Green => "32",
            Self::Yellow => "33",
        }
    }
}

/// What a client chose, made safe for a terminal: control characters are shown, not obeyed.
pub(in crate::cli) fn plain(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            '\n' | '\r' | '\t' => ' ',
            letter if letter.is_control() || is_bidi(letter) => char::REPLACEMENT_CHARACTER,
            letter => letter,
        })
        .collect()
}

/// The same over several lines.
fn plain_lines(text: &str) -> String {
    text.split('\n').map(plain).collect::<Vec<_>>().join("\n")
}

/// Letters that make a terminal show what follows in another order.
fn is_bidi(letter: char) -> bool {
    matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
}

/// A text of at most so many letters; where it is longer, its end says how much was left out.
pub(in crate::cli) fn folded(text: &str, most: usize) -> String {
    let letters = text.chars().count();
    if letters <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most).collect();
    format!("{}… (+{} letters)", kept.trim_end(), letters - most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_steered_by_what_a_client_sent() {
        assert_eq!(
            plain("SELECT\n1 \x1b[2J\u{9b}x\u{202e}y"),
            "SELECT 1 \u{fffd}[2J\u{fffd}x\u{fffd}y"
        );
        assert_eq!(plain_lines("a\n\x1bb"), "a\n\u{fffd}b");
    }

    #[test]
    fn what_is_folded_says_so() {
        assert_eq!(folded("short", 5), "short");
        assert_eq!(folded("a longer one", 8), "a longer… (+4 letters)");
    }

    #[test]
    fn colours_are_only_there_where_they_are_wanted() {
        let mut out = Out {
            colours: false,
            closed: false,
        };
        assert_eq!(out.paint(Paint::Red, "no"), "no");
        out.colours = true;
        assert_eq!(out.paint(Paint::Red, "no"), "\x1b[1;31mno\x1b[0m");
    }
}
