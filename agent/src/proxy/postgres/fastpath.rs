//! Functions that clients call by number, in FunctionCall messages.
//!
//! The numbers of the server's own functions are fixed by its source (`pg_proc.dat`) and the same in all versions. libpq and
//! pgjdbc call those of large objects so, and nothing else.

/// A statement that calls the same function, by which the call is decided. `None` for a number that isn't known.
///
/// What it is called with doesn't matter to what it may do.
pub(crate) fn called(function: u32) -> Option<&'static [u8]> {
    let text: &[u8] = match function {
        715 => b"SELECT pg_catalog.lo_create($1)",
        764 => b"SELECT pg_catalog.lo_import($1)",
        765 => b"SELECT pg_catalog.lo_export($1, $2)",
        767 => b"SELECT pg_catalog.lo_import($1, $2)",
        952 => b"SELECT pg_catalog.lo_open($1, $2)",
        953 => b"SELECT pg_catalog.lo_close($1)",
        954 => b"SELECT pg_catalog.loread($1, $2)",
        955 => b"SELECT pg_catalog.lowrite($1, $2)",
        956 => b"SELECT pg_catalog.lo_lseek($1, $2, $3)",
        957 => b"SELECT pg_catalog.lo_creat($1)",
        958 => b"SELECT pg_catalog.lo_tell($1)",
        964 => b"SELECT pg_catalog.lo_unlink($1)",
        1004 => b"SELECT pg_catalog.lo_truncate($1, $2)",
        3170 => b"SELECT pg_catalog.lo_lseek64($1, $2, $3)",
        3171 => b"SELECT pg_catalog.lo_tell64($1)",
        3172 => b"SELECT pg_catalog.lo_truncate64($1, $2)",
        3457 => b"SELECT pg_catalog.lo_from_bytea($1, $2)",
        3458 => b"SELECT pg_catalog.lo_get($1)",
        3459 => b"SELECT pg_catalog.lo_get($1, $2, $3)",
        3460 => b"SELECT pg_catalog.lo_put($1, $2, $3)",
        _ => return None,
    };
    Some(text)
}
