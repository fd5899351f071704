//! The shape of a SQL text, as a key under which its classification is kept.

/// A text's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normal {
    /// The text itself is the key.
    Exact,
    /// The key stands in the scratch buffer: each free-standing decimal integer became one NUL byte.
    Lifted,
}

/// More digits may be of another type than `integer`; such a literal stays as it is.
const MAX_DIGITS: usize = 9;

/// Lifts integer literals out of a text, where two texts with the same key surely have the same tokens but for those.
///
/// Surely means: under every value of `standard_conforming_strings`, and in every client encoding in which no byte of a
/// longer character looks like ASCII. So nothing is lifted from texts with double quotes, backslashes, `U&`, comments, NULs or
/// dollar quotes, where telling inside from outside takes more than counting single quotes. Inside strings nothing is lifted.
/// A digit run next to a letter, a digit, `_`, `$`, `.`, a quote or a byte above ASCII is a part of something else, and stays; so
/// does one behind `e-` and `e+`, which may be an exponent.
pub fn normalise(text: &[u8], scratch: &mut Vec<u8>) -> Normal {
    scratch.clear();
    let mut lifted = false;
    let mut in_string = false;
    let mut before = b' ';
    let mut before_that = b' ';
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let next = after.first().copied().unwrap_or(b' ');
        match byte {
            b'"' | b'\\' | 0 => return Normal::Exact,
            b'\'' => in_string = !in_string,
            _ if in_string => {}
            b'$' if !next.is_ascii_digit() => return Normal::Exact,
            b'&' if matches!(before, b'u' | b'U') => return Normal::Exact,
            b'-' if next == b'-' => return Normal::Exact,
            b'/' if next == b'*' => return Normal::Exact,
            b'0'..=b'9' if !joins(before) && !may_begin_exponent(before_that, before) => {
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let follows = rest.get(digits).copied().unwrap_or(b' ');
                let (run, after) = rest.split_at(digits);
                if digits <= MAX_DIGITS && !joins(follows) {
                    scratch.push(0);
                    lifted = true;
                } else {
                    scratch.extend_from_slice(run);
                }
                (before_that, before) = (b'0', b'0');
                rest = after;
                continue;
            }
            _ => {}
        }
        scratch.push(byte);
        (before_that, before) = (before, byte);
        rest = after;
    }
    if lifted && !in_string {
        Normal::Lifted
    } else {
        Normal::Exact
    }
}

/// Whether a digit run next to this byte may be a part of something longer.
fn joins(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.' | b'\'') || byte >= 0x80
}

/// Whether what follows may be the exponent of a number: `1e-5`.
fn may_begin_exponent(letter: u8, sign: u8) -> bool {
    matches!(letter, b'e' | b'E') && matches!(sign, b'+' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Option<Vec<u8>> {
        let mut scratch = Vec::new();
        matches!(normalise(text.as_bytes(), &mut scratch), Normal::Lifted).then_some(scratch)
    }

    #[test]
    fn literals_are_lifted() {
        assert_eq!(
            key("SELECT a FROM t WHERE id = 12345;").unwrap(),
            b"SELECT a FROM t WHERE id = \0;"
        );
        assert_eq!(key("SELECT 1,22 , -3"), key("SELECT 4,5 , -66"));
        assert_eq!(key("SELECT 'a 1', 2").unwrap(), b"SELECT 'a 1', \0");
        assert_eq!(key("SELECT $1, 2").unwrap(), b"SELECT $1, \0");
    }

    #[test]
    fn what_is_part_of_something_else_stays() {
        for text in [
            "t1",
            "1.5",
            ".5 x",
            "1e5",
            "1e-5",
            "1.E+5",
            "x_1",
            "\u{e9}1",
            "$1",
            "1a",
            "0x1F",
            "1_000",
            "1234567890",
            "'1'",
        ] {
            assert_eq!(key(&format!("SELECT {text}")), None, "{text}");
        }
    }

    #[test]
    fn where_inside_and_outside_are_hard_to_tell_nothing_is_lifted() {
        for text in [
            "SELECT \"patients 1\"",
            "SELECT 1 -- ' 2",
            "SELECT 1 /* ' */ 2",
            r"SELECT E'\'' 1",
            "SELECT $$ 1 $$",
            "SELECT $a$ 1 $a$",
            "SELECT U&'x' 1",
            "SELECT 'open 1",
        ] {
            assert_eq!(key(text), None, "{text}");
        }
    }
}
