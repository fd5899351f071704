//! What a process was started with, without what looks like a secret.
//!
//! The agent itself never reads it: a process can make whoever does wait without end.

use bailiff_kernel::ProcessStat;
use bailiff_model::ProcessId;
use bailiff_policy::mask_text;

/// Bytes that are read.
const MOST: u64 = 16 * 1024;

const MASKED: &str = "[masked]";

/// Parts of names whose values are secrets.
const SECRETS: [&str; 8] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "api-key",
    "credential",
];

/// The arguments of a process that still runs, in one line. `None` where it has ended, or shows none.
pub(super) fn of(id: ProcessId) -> Option<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(format!("/proc/{}/cmdline", id.tgid)).ok()?;
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    // Another may have its number by now.
    if !started_so(id) {
        return None;
    }
    let text = String::from_utf8_lossy(&bytes);
    let arguments: Vec<&str> = text.split('\0').filter(|argument| !argument.is_empty()).collect();
    (!arguments.is_empty()).then(|| masked(&arguments))
}

/// Whether the process that has this number began then: the kernel's programs note it a moment later than `/proc` has it.
fn started_so(id: ProcessId) -> bool {
    const MOMENT: u64 = 1_000_000_000;
    ProcessStat::of(id.tgid)
        .is_some_and(|stat| stat.started_ns <= id.start_ns && id.start_ns - stat.started_ns < MOMENT)
}

/// In one line, without secrets: what detectors find, values of names that say so, and passwords in addresses.
fn masked(arguments: &[&str]) -> String {
    let mut told: Vec<String> = Vec::new();
    let mut is_value = false;
    for argument in arguments {
        if std::mem::take(&mut is_value) {
            told.push(MASKED.to_owned());
            continue;
        }
        is_value = argument.starts_with('-') && !argument.contains('=') && is_secret(argument);
        // A connection string or a header has several words.
        let words: Vec<String> = argument.split(' ').map(word).collect();
        told.push(after_scheme(&words.join(" ")));
    }
    String::from_utf8_lossy(&mask_text(told.join(" ").as_bytes())).into_owned()
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    SECRETS.iter().any(|part| name.contains(part)) || name.ends_with("pwd")
}

/// `NAME=value`, also of several joined by `&`; and the password of `scheme://user:password@host`.
fn word(word: &str) -> String {
    let parts: Vec<String> = word
        .split('&')
        .map(|part| match part.split_once('=') {
            Some((name, value)) if !value.is_empty() && is_secret(name) => format!("{name}={MASKED}"),
            _ => without_password(part),
        })
        .collect();
    parts.join("&")
}

fn without_password(text: &str) -> String {
    let parts = || {
        let (scheme, rest) = text.split_once("://")?;
        let authority = rest.split(['/', '?']).next()?;
        let (user, _) = authority.rsplit_once('@')?;
        let (name, _) = user.split_once(':')?;
        Some(format!("{scheme}://{name}:{MASKED}{}", rest.get(user.len()..)?))
    };
    parts().unwrap_or_else(|| text.to_owned())
}

/// What follows `Bearer` and `Basic`, as in a header.
fn after_scheme(argument: &str) -> String {
    let lower = argument.to_ascii_lowercase();
    for scheme in ["bearer ", "basic "] {
        if let Some(at) = lower.find(scheme)
            && let Some(kept) = argument.get(..at + scheme.len())
        {
            return format!("{kept}{MASKED}");
        }
    }
    argument.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out_in_whichever_form_they_are_given() {
        for (arguments, told) in [
            (&["psql", "-h", "db"] as &[&str], "psql -h db"),
            (&["x", "--password", "hunter2", "y"], "x --password [masked] y"),
            (&["x", "--api-token=hunter2"], "x --api-token=[masked]"),
            (
                &["env", "PGPASSWORD=hunter2", "psql"],
                "env PGPASSWORD=[masked] psql",
            ),
            (
                &["psql", "host=db password=hunter2 user=a"],
                "psql host=db password=[masked] user=a",
            ),
            (
                &["psql", "postgres://app:hunter2@db/shop?sslmode=require"],
                "psql postgres://app:[masked]@db/shop?sslmode=require",
            ),
            (
                &["curl", "-H", "Authorization: Bearer hunter2"],
                "curl -H Authorization: Bearer [masked]",
            ),
            (&["mail", "someone@example.com"], "mail [masked]"),
            (&["x", "--secret"], "x --secret"),
        ] {
            assert_eq!(masked(arguments), told);
        }
    }

    #[test]
    fn this_process_is_told_and_not_one_that_had_its_number() {
        let tgid = std::process::id();
        let start_ns = ProcessStat::of(tgid).unwrap().started_ns + 5;
        assert!(of(ProcessId { tgid, start_ns }).is_some());
        let before = start_ns - 20_000_000;
        assert_eq!(
            of(ProcessId {
                tgid,
                start_ns: before
            }),
            None
        );
    }
}
