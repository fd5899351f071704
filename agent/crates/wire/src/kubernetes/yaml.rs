//! YAML, as the API server writes it, and as its clients may.
//!
//! Values are replaced where they stand, and everything else stays as it came: the server reads YAML 1.1, and what is written again
//! might mean something else. What was written is read once more, and has to be what was read before but for what was replaced.

mod stream;

use std::borrow::Cow;
use std::ops::Range;

use granit_parser::{Event, Options, Parser, ScalarStyle};

use super::schema::Type;
use super::walk::{Begin, Is, Leaf, Literal, Open, Syntax, Walk};
use super::{Fields, MAX_OBJECT, Malformed, json};

pub use stream::Stream;

/// So many values and keys an object may have: each takes more room here than in the text.
const MAX_NODES: usize = 500_000;

/// Goes over one object. Everything is as with [`json::object`].
///
/// # Errors
/// When it isn't an object in YAML, or isn't plain enough: anchors, aliases, tags, merge keys, several documents.
pub fn object<F: Fields>(
    bytes: &[u8],
    of: Option<Type>,
    fields: &mut F,
    out: &mut Vec<u8>,
) -> Result<bool, Malformed> {
    let of = of.map_or(Is::Told(Type::UNKNOWN), Is::Known);
    walk(bytes, fields, out, |walk| walk.object(None, of))
}

/// Goes over one document, and nothing after it.
fn walk<'s, F: Fields>(
    bytes: &'s [u8],
    fields: &mut F,
    out: &mut Vec<u8>,
    go: impl FnOnce(&mut Walk<'_, 's, Yaml<'s>, F>) -> Result<(), Malformed>,
) -> Result<bool, Malformed> {
    let before = out.len();
    let walked = Yaml::new(bytes).and_then(|yaml| {
        let mut walk = Walk::new(yaml, bytes, fields, out);
        go(&mut walk)?;
        if walk.syntax().at != walk.syntax().nodes.len() {
            return Err(Malformed::Form);
        }
        let replaced = walk.replaced();
        let nodes = std::mem::take(&mut walk.syntax().nodes);
        let changed = walk.finish();
        if changed {
            let written = out.get(before..).unwrap_or_default();
            if !differ_at_most(&nodes, &Yaml::new(written)?, written, replaced) {
                return Err(Malformed::Form);
            }
        }
        Ok(changed)
    });
    if walked.is_err() {
        out.truncate(before);
    }
    walked
}

/// Whether `after` is `before`, but for so many leaves that stand there as replacements are written.
fn differ_at_most(before: &[Node<'_>], after: &Yaml<'_>, source: &[u8], at_most: usize) -> bool {
    let mut differing = 0;
    let is_written = |node: &Node<'_>| match node.what {
        What::Text(_) => source.get(node.span.start) == Some(&b'"'),
        What::Null | What::Scalar(_) => true,
        What::Object | What::List | What::End => false,
    };
    let alike = before.len() == after.nodes.len()
        && before.iter().zip(&after.nodes).all(|(before, after)| {
            let alike = before.what == after.what && before.key == after.key;
            differing += usize::from(!alike);
            alike || (before.what.is_leaf() && is_written(after) && !before.key && !after.key)
        });
    alike && differing <= at_most
}

/// A reader of YAML that is there as a whole.
#[derive(Debug)]
pub(super) struct Yaml<'s> {
    nodes: Vec<Node<'s>>,
    at: usize,
}

#[derive(Debug)]
struct Node<'s> {
    what: What<'s>,
    key: bool,
    span: Range<usize>,
    /// The node behind all that belongs to it.
    after: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum What<'s> {
    Object,
    List,
    End,
    Null,
    Text(Cow<'s, str>),
    Scalar(Cow<'s, str>),
}

impl What<'_> {
    fn is_leaf(&self) -> bool {
        matches!(self, Self::Null | Self::Text(_) | Self::Scalar(_))
    }
}

impl<'s> Yaml<'s> {
    pub(super) fn new(bytes: &'s [u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_OBJECT {
            return Err(Malformed::Long);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed::Form)?;
        let mut options = Options::default();
        options.disallow_directives = true;
        options.set_emit_comments(false);
        let mut nodes: Vec<Node<'s>> = Vec::new();
        // What was opened: where, and whether a key comes next in it.
        let mut open: Vec<(usize, Option<bool>)> = Vec::new();
        let mut documents = 0;
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = event.map_err(|_| Malformed::Form)?;
            let mut span = span.byte_range().ok_or(Malformed::Form)?;
            if let Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..) = event {
                // The parser has it begin with its text, not with what says that it is one.
                let before = nodes.last().map_or(0, |node| node.span.end);
                let said = text
                    .get(before..span.start)
                    .and_then(indicator)
                    .ok_or(Malformed::Form)?;
                span.start = before + said;
            }
            let key = match open.last_mut() {
                Some((_, Some(next))) => std::mem::replace(next, !*next),
                _ => false,
            };
            let what = match event {
                Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
                Event::DocumentStart(..) => {
                    documents += 1;
                    continue;
                }
                Event::Scalar(text, style, 0, None) => scalar(text, style, key)?,
                Event::MappingStart(_, 0, None) if !key => {
                    open.push((nodes.len(), Some(true)));
                    What::Object
                }
                Event::SequenceStart(_, 0, None) if !key => {
                    open.push((nodes.len(), None));
                    What::List
                }
                Event::MappingEnd | Event::SequenceEnd => {
                    let (opened, _) = open.pop().ok_or(Malformed::Form)?;
                    let after = nodes.len() + 1;
                    nodes.get_mut(opened).ok_or(Malformed::Form)?.after = after;
                    What::End
                }
                // Anchors, aliases and tags; keys that are no texts.
                _ => return Err(Malformed::Form),
            };
            if nodes.len() == MAX_NODES {
                return Err(Malformed::Long);
            }
            let after = nodes.len() + 1;
            nodes.push(Node {
                what,
                key,
                span,
                after,
            });
        }
        if documents != 1 || !only_quoted_breaks(text, &nodes) {
            return Err(Malformed::Form);
        }
        Ok(Self { nodes, at: 0 })
    }

    /// Nothing comes after what was read.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.at == self.nodes.len() {
            Ok(())
        } else {
            Err(Malformed::Form)
        }
    }

    /// Whether every text without quotes is one to all readers: others take `0x10`, `010` and `1_000` for numbers, and dates for times.
    pub(super) fn is_plain(&self, source: &[u8]) -> bool {
        let quoted =
            |node: &Node<'_>| matches!(source.get(node.span.start), Some(b'"' | b'\'' | b'|' | b'>'));
        self.nodes.iter().all(|node| match &node.what {
            What::Text(text) => quoted(node) || !may_be_number(text),
            // Of a key it is how it is written that counts.
            _ => true,
        })
    }

    fn next(&mut self) -> Result<&Node<'s>, Malformed> {
        let node = self.nodes.get(self.at).ok_or(Malformed::Form)?;
        self.at += 1;
        Ok(node)
    }
}

/// Whether YAML 1.1 may have a number or a time where 1.2 has a text. `10.0.0.1`, `1Gi` and `80:8080` are texts to both.
fn may_be_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let bare: String = unsigned.chars().filter(|char| *char != '_').collect();
    if let Some(rest) = bare.strip_prefix('0')
        && let Some(digits) = rest.strip_prefix(['x', 'X', 'o', 'O', 'b', 'B'])
    {
        return digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    }
    let lower = bare.to_ascii_lowercase();
    let year = bare.split('-').next().unwrap_or_default();
    let is_date =
        year.len() == 4 && year.len() < bare.len() && year.bytes().all(|byte| byte.is_ascii_digit());
    // Rust takes what Go takes, and more: `inf`, too.
    let first = bare.bytes().next().unwrap_or(b'a');
    is_date
        || matches!(lower.as_str(), ".inf" | ".nan")
        || (first.is_ascii_digit() || first == b'.') && bare.parse::<f64>().is_ok()
}

/// Where it is said that a block comes next.
fn indicator(before: &str) -> Option<usize> {
    let mut comment = false;
    let mut last = '\n';
    before.char_indices().find_map(|(at, char)| {
        comment = (comment && char != '\n') || (char == '#' && last.is_whitespace());
        last = char;
        (!comment && matches!(char, '|' | '>')).then_some(at)
    })
}

/// YAML 1.1 ends lines at these, which 1.2 doesn't: where they stand in quotes alone, lines are the same to both.
fn only_quoted_breaks(text: &str, nodes: &[Node<'_>]) -> bool {
    let breaks = ['\u{85}', '\u{2028}', '\u{2029}'];
    text.match_indices(breaks).all(|(at, _)| {
        let begun = nodes.partition_point(|node| node.span.start <= at);
        let last = begun.checked_sub(1).and_then(|index| nodes.get(index));
        last.is_some_and(|node| {
            node.span.contains(&at) && matches!(text.as_bytes().get(node.span.start), Some(b'"' | b'\''))
        })
    })
}

/// What a scalar stands for, as the server reads it.
fn scalar<'s>(text: Cow<'s, str>, style: ScalarStyle, key: bool) -> Result<What<'s>, Malformed> {
    if style != ScalarStyle::Plain {
        return Ok(What::Text(text));
    }
    let what = match &*text {
        "<<" => return Err(Malformed::Form),
        "" | "~" | "null" | "Null" | "NULL" => What::Null,
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            What::Scalar(Cow::Borrowed("true"))
        }
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            What::Scalar(Cow::Borrowed("false"))
        }
        other if Literal::new(other).is_some() => What::Scalar(text),
        _ => What::Text(text),
    };
    // Keys are texts in the end.
    Ok(match what {
        What::Scalar(text) if key => What::Text(text),
        What::Null if key => What::Text(Cow::Borrowed("null")),
        what => what,
    })
}

impl<'s> Syntax<'s> for Yaml<'s> {
    type Mark = usize;

    fn mark(&self) -> usize {
        self.at
    }

    fn go(&mut self, mark: usize) {
        self.at = mark;
    }

    fn begin(&mut self) -> Result<Begin<'s>, Malformed> {
        Ok(match &self.next()?.what {
            What::Object => Begin::Object(Open::new(None)),
            What::List => Begin::List(Open::new(None)),
            What::Null => Begin::Leaf(Leaf::Null),
            What::Text(text) => Begin::Leaf(Leaf::Text(text.clone())),
            What::Scalar(scalar) => Begin::Leaf(Leaf::Scalar(scalar.clone())),
            What::End => return Err(Malformed::Form),
        })
    }

    fn key(&mut self, _open: &mut Open) -> Result<Option<Cow<'s, str>>, Malformed> {
        match &self.next()?.what {
            What::Text(key) => Ok(Some(key.clone())),
            What::End => Ok(None),
            _ => Err(Malformed::Form),
        }
    }

    fn more(&mut self, _open: &mut Open) -> Result<bool, Malformed> {
        if self.next()?.what == What::End {
            return Ok(false);
        }
        self.at -= 1;
        Ok(true)
    }

    fn skip(&mut self) -> Result<(), Malformed> {
        self.at = self.next()?.after;
        Ok(())
    }

    fn span(&self, from: usize) -> Range<usize> {
        let at = |index: usize| {
            self.nodes
                .get(index)
                .map(|node| node.span.clone())
                .unwrap_or_default()
        };
        at(from).start..at(self.at.saturating_sub(1)).end
    }

    fn trimmed(source: &[u8]) -> usize {
        // A block ends with its line, which what comes next needs.
        source.trim_ascii_end().len()
    }

    fn text(out: &mut Vec<u8>, text: &str) {
        quote(out, text);
    }

    fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
        json::Json::bytes(out, bytes);
    }

    fn literal(out: &mut Vec<u8>, literal: Literal<'_>) {
        json::Json::literal(out, literal);
    }
}

/// Writes a text in double quotes: as in JSON, but what isn't printable in YAML is escaped as well.
fn quote(out: &mut Vec<u8>, text: &str) {
    let is_printable = |char: char| {
        !matches!(
            char,
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
    };
    if text.chars().all(is_printable) {
        return json::quote(out, text);
    }
    let mut quoted = Vec::new();
    json::quote(&mut quoted, text);
    for char in String::from_utf8_lossy(&quoted).chars() {
        if is_printable(char) {
            out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            out.extend_from_slice(format!("\\u{:04x}", u32::from(char)).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
