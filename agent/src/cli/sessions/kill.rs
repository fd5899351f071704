//! `bailiff sessions kill`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::Place;
use super::read::Reader;
use super::story::{Sessions, State};
use crate::control::{Agents, Killed};

/// No session has this id.
const UNKNOWN: u8 = 3;
/// The session has ended already.
const OVER: u8 = 4;
/// Several sessions' ids begin like this.
const SEVERAL: u8 = 5;
/// The session was told to end and hasn't within some seconds.
const SLOW: u8 = 6;

/// End a session that is open
///
/// The client gets SQLSTATE 57P01 with the reason, what the server is running is cancelled, and both connections are closed. The
/// record says who ended the session.
///
/// The exit status is 0 when the session has ended, 3 if there is none of this id, 4 if it has ended before, 5 if several ids begin
/// like this, 6 if it was told to end and takes its time.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// Why; the client is told, and it stands in the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The session's id, or a beginning of it that no other open session has
    id: String,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let directory = &args.place.dir;
    let agents = Agents::beside(directory).with_context(|| {
        format!(
            "there is no record in {}; give its directory with --dir",
            directory.display()
        )
    })?;
    let asking = "an agent can't be asked; `bailiff sessions kill` needs root";
    let mut open = agents.sessions().context(asking)?;
    open.retain(|session| session.session.starts_with(&args.id));
    let refused = |code: u8, why: String| {
        eprintln!("bailiff: {why}");
        Ok(ExitCode::from(code))
    };
    match open.as_slice() {
        [session] => match agents
            .kill(&session.session, args.reason.as_deref())
            .context(asking)?
        {
            Killed::Ended => {
                println!(
                    "ended session {} of {}/{} at {}",
                    session.session, session.namespace, session.pod, session.target
                );
                Ok(ExitCode::SUCCESS)
            }
            Killed::Told => refused(
                SLOW,
                format!("session {} was told to end, and hasn't yet", session.session),
            ),
            Killed::Unknown => refused(
                OVER,
                format!("session {} has just ended by itself", session.session),
            ),
        },
        [] => {
            let mut sessions = Sessions::default();
            Reader::new(directory).more(|event| sessions.take(&event))?;
            match sessions.named(&args.id).as_slice() {
                [] => refused(
                    UNKNOWN,
                    format!(
                        "no session begins with {:?}; `bailiff sessions list --open` shows those that are open",
                        args.id
                    ),
                ),
                [over] => {
                    let why = match over.state() {
                        State::Ended(why) => format!("has ended already ({why})"),
                        _ => "isn't open at any agent; it ended without its end being recorded".to_owned(),
                    };
                    refused(OVER, format!("session {} {why}", over.id))
                }
                many => refused(
                    OVER,
                    format!(
                        "{} sessions begin with {:?}, and none is open",
                        many.len(),
                        args.id
                    ),
                ),
            }
        }
        many => refused(
            SEVERAL,
            format!(
                "{} open sessions begin with {:?}; give more of the id",
                many.len(),
                args.id
            ),
        ),
    }
}
