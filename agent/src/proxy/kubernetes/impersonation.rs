//! As whom a request asks to act, read as the API server reads it.
//!
//! Source: `k8s.io/apiserver/pkg/endpoints/filters`, `impersonation.go`. What it would read in part, or not at all, is refused here:
//! the first of several users, an empty one, a group without a user.

use bailiff_model::Impersonation;
use hyper::header::{HeaderMap, HeaderValue};

/// What every such header begins with. Names are in lower case here, whatever was sent.
pub(super) const PREFIX: &str = "impersonate-";

/// Bytes of all its headers' values, at most: who acts as somebody is kept in the record.
const MAX: usize = 64 * 1024;

/// As whom a request asks to act; `None` where it says nothing of it.
pub(super) fn of(headers: &HeaderMap) -> Result<Option<Box<Impersonation>>, &'static str> {
    let mut other = Impersonation::default();
    let mut said = false;
    let mut total = 0;
    for (name, value) in headers {
        let Some(what) = name.as_str().strip_prefix(PREFIX) else {
            continue;
        };
        said = true;
        total += what.len() + value.len();
        if total > MAX {
            return Err("the request's Impersonate headers are longer than 64 KiB");
        }
        let value = text(value)?;
        match what {
            "user" if !other.user.is_empty() => return Err("Impersonate-User is given several times"),
            "user" => other.user = value,
            "group" => other.groups.push(value),
            "uid" if other.uid.is_some() => return Err("Impersonate-Uid is given several times"),
            "uid" => other.uid = Some(value),
            _ => match what.strip_prefix("extra-") {
                Some(key) => other.extra.push((decoded(key), value)),
                // Uncertainty denies: a newer server may read it.
                None => return Err("the request has an Impersonate header that the agent doesn't know"),
            },
        }
    }
    if !said {
        return Ok(None);
    }
    if other.user.is_empty() {
        return Err("the request has Impersonate headers and no Impersonate-User");
    }
    Ok(Some(Box::new(other)))
}

fn text(value: &HeaderValue) -> Result<String, &'static str> {
    match std::str::from_utf8(value.as_bytes()) {
        Ok("") => Err("an Impersonate header of the request is empty"),
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err("an Impersonate header of the request isn't UTF-8"),
    }
}

/// A key that was escaped wrongly is its own name.
fn decoded(key: &str) -> String {
    let (mut rest, mut out) = (key.bytes(), Vec::with_capacity(key.len()));
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next()?).to_digit(16);
        out.push(match byte {
            b'%' => match (digit(), digit()) {
                (Some(high), Some(low)) => u8::try_from(high << 4 | low).unwrap_or_default(),
                _ => return key.to_owned(),
            },
            byte => byte,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderName;

    fn read(headers: &[(&str, &[u8])]) -> Result<Option<Box<Impersonation>>, &'static str> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        of(&map)
    }

    #[test]
    fn it_is_read_as_the_api_server_reads_it() {
        assert_eq!(read(&[("Authorization", b"Bearer a")]), Ok(None));
        let other = read(&[
            ("IMPERSONATE-USER", b"jane, root"),
            ("impersonate-group", b"a,b"),
            ("Impersonate-Group", b"c"),
            ("Impersonate-Uid", b"1-2"),
            ("Impersonate-Extra-Example.com%2FScopes", b"view"),
            ("Impersonate-Extra-a%4a", b"\xc3\xa9"),
            ("Impersonate-Extra-a%zz", b"1"),
            ("Impersonate-Extra-a%4", b"2"),
            ("Impersonate-Extra-", b"3"),
        ]);
        let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let expected = Impersonation {
            user: "jane, root".to_owned(),
            groups: vec!["a,b".to_owned(), "c".to_owned()],
            uid: Some("1-2".to_owned()),
            extra: vec![
                text("example.com/scopes", "view"),
                text("aJ", "\u{e9}"),
                text("a%zz", "1"),
                text("a%4", "2"),
                text("", "3"),
            ],
        };
        assert_eq!(other, Ok(Some(Box::new(expected))));
    }

    #[test]
    fn what_it_would_read_in_part_is_refused() {
        for (headers, expected) in [
            (
                &[("impersonate-user", &b"a"[..]), ("Impersonate-User", b"b")][..],
                "several times",
            ),
            (
                &[("impersonate-user", b"a"), ("impersonate-user", b"a")],
                "several times",
            ),
            (&[("impersonate-user", b"")], "is empty"),
            (
                &[("impersonate-user", b"a"), ("impersonate-group", b"")],
                "is empty",
            ),
            (
                &[
                    ("impersonate-user", b"a"),
                    ("impersonate-uid", b"1"),
                    ("impersonate-uid", b"2"),
                ],
                "several times",
            ),
            (&[("impersonate-group", b"a")], "no Impersonate-User"),
            (&[("impersonate-extra-a", b"a")], "no Impersonate-User"),
            (&[("impersonate-uid", b"a")], "no Impersonate-User"),
            (&[("impersonate-user", b"\xff")], "isn't UTF-8"),
            (
                &[("impersonate-user", b"a"), ("impersonate-verb", b"a")],
                "doesn't know",
            ),
        ] {
            let refused = read(headers);
            assert!(refused.is_err_and(|why| why.contains(expected)), "{expected}");
        }
    }
}
