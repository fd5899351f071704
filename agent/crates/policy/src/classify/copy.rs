//! How COPY TO STDOUT writes its rows.

use serde_json::{Map, Value};

use super::tree::{list, text};

/// How COPY TO STDOUT writes its rows: section "Parameters" of its page in PostgreSQL's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CopyFormat {
    /// Which of the three.
    pub layout: CopyLayout,
    /// Whether a line with the columns' names comes first.
    pub header: bool,
    /// Between two columns.
    pub delimiter: u8,
    /// What stands for null.
    pub null: Vec<u8>,
    /// Around a value of CSV.
    pub quote: u8,
    /// Before a quote in a value of CSV.
    pub escape: u8,
}

/// Formats of COPY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CopyLayout {
    /// Lines in which backslashes escape.
    Text,
    /// Comma-separated values.
    Csv,
    /// The server's own.
    Binary,
}

/// What is known of how a text's COPY TO STDOUT writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum CopyOut {
    /// There is none.
    #[default]
    None,
    /// It, or each of several.
    As(CopyFormat),
    /// It can't be told.
    Unknown,
}

impl CopyOut {
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, other) | (other, Self::None) => other,
            (one, other) if one == other => one,
            _ => Self::Unknown,
        }
    }

    /// Of a statement's tree.
    pub(super) fn of(tree: &Value) -> Self {
        let Some(copy) = tree.pointer("/node/CopyStmt").and_then(Value::as_object) else {
            return Self::None;
        };
        let is = |name: &str| copy.get(name).and_then(Value::as_bool).unwrap_or(false);
        if is("is_from") || is("is_program") || !text(copy, "filename").is_empty() {
            return Self::None;
        }
        read(copy).map_or(Self::Unknown, Self::As)
    }
}

/// The options; `None` where one isn't known or isn't of its kind.
fn read(copy: &Map<String, Value>) -> Option<CopyFormat> {
    let mut layout = CopyLayout::Text;
    let (mut delimiter, mut null, mut quote, mut escape) = (None, None, None, None);
    let mut header = false;
    for option in list(copy, "options") {
        let option = option.pointer("/node/DefElem")?.as_object()?;
        let string = || option.get("arg")?.pointer("/node/String/sval")?.as_str();
        let byte = || match string()?.as_bytes() {
            [byte] => Some(*byte),
            _ => None,
        };
        match text(option, "defname") {
            "format" => {
                layout = match string()? {
                    "text" => CopyLayout::Text,
                    "csv" => CopyLayout::Csv,
                    "binary" => CopyLayout::Binary,
                    _ => return None,
                }
            }
            "delimiter" => delimiter = Some(byte()?),
            "null" => null = Some(string()?.as_bytes().to_vec()),
            "quote" => quote = Some(byte()?),
            "escape" => escape = Some(byte()?),
            "header" => header = truth(option.get("arg"))?,
            // What is masked is quoted anyway.
            "force_quote" | "freeze" | "oids" => {}
            // Uncertainty denies: in others a byte of a character may look like a delimiter.
            "encoding" if is_safe(string()?) => {}
            _ => return None,
        }
    }
    let csv = layout == CopyLayout::Csv;
    let quote = quote.unwrap_or(b'"');
    Some(CopyFormat {
        layout,
        header: header && layout != CopyLayout::Binary,
        delimiter: delimiter.unwrap_or(if csv { b',' } else { b'\t' }),
        null: null.unwrap_or_else(|| if csv { Vec::new() } else { b"\\N".to_vec() }),
        quote,
        escape: escape.unwrap_or(quote),
    })
}

/// Whether no byte of a character of more than one can be one of ASCII. (`src/include/mb/pg_wchar.h`: the server's own encodings.)
fn is_safe(encoding: &str) -> bool {
    // The server looks at letters and digits alone.
    let name: String = encoding
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|letter| letter.to_ascii_lowercase())
        .collect();
    let begins = |names: &[&str]| names.iter().any(|begin| name.starts_with(begin));
    name == "sqlascii"
        || begins(&[
            "utf8", "unicode", "latin", "iso8859", "win", "windows", "koi8", "euc", "abc", "alt", "tcvn",
            "vscii",
        ]) && !begins(&[
            "win932",
            "windows932",
            "win936",
            "windows936",
            "win949",
            "windows949",
            "win950",
            "windows950",
        ])
}

/// Whether a number says something in COPY's options.
pub(super) fn by_number(tree: &Value) -> bool {
    let copy = tree.pointer("/node/CopyStmt").and_then(Value::as_object);
    copy.is_some_and(|copy| {
        list(copy, "options")
            .iter()
            .any(|option| option.pointer("/node/DefElem/arg/node/Integer").is_some())
    })
}

/// `defGetBoolean` of the server: nothing at all is true.
fn truth(value: Option<&Value>) -> Option<bool> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Some(true);
    };
    if let Some(number) = value.pointer("/node/Integer") {
        return match number.get("ival").and_then(Value::as_i64).unwrap_or(0) {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        };
    }
    if let Some(truth) = value.pointer("/node/Boolean") {
        return Some(truth.get("boolval").and_then(Value::as_bool).unwrap_or(false));
    }
    let word = value.pointer("/node/String/sval")?.as_str()?.to_ascii_lowercase();
    match word.as_str() {
        "true" | "on" => Some(true),
        "false" | "off" => Some(false),
        _ => None,
    }
}
