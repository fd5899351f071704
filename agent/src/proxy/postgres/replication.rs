//! Commands of replication connections: section "Streaming Replication Protocol".

/// First words of what the server reads by its replication grammar and never as SQL. Capitals only, as its scanner has them.
const COMMANDS: [&[u8]; 10] = [
    b"ALTER_REPLICATION_SLOT",
    b"BASE_BACKUP",
    b"CREATE_REPLICATION_SLOT",
    b"DROP_REPLICATION_SLOT",
    b"IDENTIFY_SYSTEM",
    b"READ_REPLICATION_SLOT",
    b"SHOW",
    b"START_REPLICATION",
    b"TIMELINE_HISTORY",
    b"UPLOAD_MANIFEST",
];

/// Whether a replication connection's server takes this text for one of its commands. It is then no SQL, whatever follows: where
/// the server is too old to know the word, its SQL grammar refuses the whole text for it.
pub(crate) fn is_command(text: &[u8]) -> bool {
    let begin = text
        .iter()
        .position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0c));
    let rest = text.get(begin.unwrap_or_default()..).unwrap_or_default();
    // An identifier goes on with letters, digits, `_`, `$` and bytes above ASCII.
    let end = rest
        .iter()
        .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)));
    let word = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    COMMANDS.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::is_command;

    #[test]
    fn commands_are_told_from_sql_by_their_first_word() {
        for text in [
            "IDENTIFY_SYSTEM",
            " \n\tBASE_BACKUP (LABEL 'x')",
            "SHOW data_directory_mode;",
            "SHOW;DROP TABLE x",
        ] {
            assert!(is_command(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "  ",
            "identify_system",
            "IDENTIFY_SYSTEMS",
            "SHOW$ x",
            "SHOW\u{e9}",
            "SELECT 1",
            "/* */ SHOW x",
            "(SHOW)",
            "DROP TABLE x",
        ] {
            assert!(!is_command(text.as_bytes()), "{text}");
        }
    }
}
