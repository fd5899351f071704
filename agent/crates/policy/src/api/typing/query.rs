//! The query of a request, read as `url.ParseQuery` and the server's conversions read it.

use std::borrow::Cow;

use super::{Doubt, selector};

/// The parameters that typing needs, decoded.
#[derive(Default)]
pub(super) struct Query<'a> {
    pub(super) watch: Option<Cow<'a, str>>,
    pub(super) field_selector: Option<Cow<'a, str>>,
    pub(super) label_selector: Option<Cow<'a, str>>,
    timeout_seconds: Option<Cow<'a, str>>,
    limit: Option<Cow<'a, str>>,
    /// All values of `dryRun` are `All`, and there is one.
    pub(super) dry_run: bool,
    pub(super) container: Option<Cow<'a, str>>,
    pub(super) tty: Option<Cow<'a, str>>,
    pub(super) stdin: Option<Cow<'a, str>>,
    pub(super) command: Vec<Cow<'a, str>>,
    ports: Vec<Cow<'a, str>>,
}

impl<'a> Query<'a> {
    /// Reads all of it, so that what the server drops silently (pairs with bad escapes) is seen.
    pub(super) fn read(query: &'a str) -> Result<Self, Doubt> {
        let mut read = Self::default();
        let mut dry_runs = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decoded(key, true)?;
            let value = decoded(value, true)?;
            let single = match key.as_ref() {
                "watch" => &mut read.watch,
                "fieldSelector" => &mut read.field_selector,
                "labelSelector" => &mut read.label_selector,
                "timeoutSeconds" => &mut read.timeout_seconds,
                "limit" => &mut read.limit,
                "container" => &mut read.container,
                "tty" => &mut read.tty,
                "stdin" => &mut read.stdin,
                "dryRun" => {
                    dry_runs = Some(dry_runs.unwrap_or(true) && value == "All");
                    continue;
                }
                "command" => {
                    read.command.push(value);
                    continue;
                }
                "ports" => {
                    read.ports.push(value);
                    continue;
                }
                _ => continue,
            };
            match single {
                Some(before) if *before != value => return Err(Doubt::Twice),
                _ => *single = Some(value),
            }
        }
        read.dry_run = dry_runs == Some(true);
        Ok(read)
    }

    /// The name that the field selector asks for. Nothing, if one of the list's options can't be read: then the server drops
    /// all of them, and refuses the list.
    pub(super) fn selected_name(&self) -> Result<Option<String>, Doubt> {
        let number =
            |value: &Option<Cow<'_, str>>| value.as_deref().is_none_or(|value| value.parse::<i64>().is_ok());
        let Some(name) = self.field_selector.as_deref().and_then(selector::name) else {
            return Ok(None);
        };
        if !number(&self.timeout_seconds) || !number(&self.limit) {
            return Ok(None);
        }
        if !self.label_selector.as_deref().is_none_or(selector::is_labels) {
            return Err(Doubt::Selector);
        }
        Ok(Some(name))
    }

    /// The ports of a port-forward, one a value or several with commas between.
    pub(super) fn ports(&self) -> Result<Vec<u16>, Doubt> {
        self.ports
            .iter()
            .flat_map(|value| value.split(','))
            .map(|port| match port.bytes().all(|byte| byte.is_ascii_digit()) {
                true => port.parse().map_err(|_| Doubt::Value),
                false => Err(Doubt::Value),
            })
            .collect()
    }
}

/// A switch: on, unless it is `0` or `false`. An empty one is on.
pub(super) fn is_true(value: &str) -> Result<bool, Doubt> {
    // The server folds more than ASCII's cases in one place, and less in another.
    if !value.is_ascii() {
        return Err(Doubt::Value);
    }
    Ok(value != "0" && !value.eq_ignore_ascii_case("false"))
}

/// Decodes percent escapes, and in queries `+`, too.
pub(super) fn decoded(text: &str, plus: bool) -> Result<Cow<'_, str>, Doubt> {
    if !text.bytes().any(|byte| byte == b'%' || plus && byte == b'+') {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let high = bytes.next().and_then(digit).ok_or(Doubt::Escape)?;
                let low = bytes.next().and_then(digit).ok_or(Doubt::Escape)?;
                high << 4 | low
            }
            b'+' if plus => b' ',
            _ => byte,
        });
    }
    String::from_utf8(decoded)
        .map(Cow::Owned)
        .map_err(|_| Doubt::Escape)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}
