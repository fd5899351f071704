//! Lists of schemas as PostgreSQL writes them.

/// The schemas of a search_path's value, as `SplitIdentifierString` of PostgreSQL takes it apart. `None` where it isn't such
/// a list: a name in quotes may hold commas, and quotes that are doubled.
pub(crate) fn schemas(value: &str) -> Option<Vec<String>> {
    let mut schemas = Vec::new();
    let mut rest = value.trim_start_matches(is_space);
    loop {
        let name;
        if let Some(quoted) = rest.strip_prefix('"') {
            (name, rest) = unquote(quoted)?;
        } else {
            let end = rest
                .find(|c: char| c == ',' || c == '"' || is_space(c))
                .unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if word.is_empty() {
                return None;
            }
            (name, rest) = (word.to_ascii_lowercase(), after);
        }
        schemas.push(name);
        rest = rest.trim_start_matches(is_space);
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start_matches(is_space),
            None if rest.is_empty() => return Some(schemas),
            None => return None,
        }
    }
}

/// A name up to its closing quote, and what follows.
fn unquote(mut rest: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                name.push('"');
                rest = after;
            }
            None => return Some((name, after)),
        }
    }
}

/// `scanner_isspace`.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_apart_as_the_server_takes_them() {
        let read = |value| schemas(value).map(|schemas| schemas.join("|"));
        for (value, expected) in [
            ("public", "public"),
            ("\"$user\", public", "$user|public"),
            (" A ,\"B\" ", "a|B"),
            ("\"x,public\"", "x,public"),
            ("\"\"\"public\"\"\"", "\"public\""),
            ("\" public\"", " public"),
        ] {
            assert_eq!(read(value).as_deref(), Some(expected), "{value}");
        }
        for value in ["", ",", "a,", "a b", "\"a", "\"a\"b", "a\"b\""] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
