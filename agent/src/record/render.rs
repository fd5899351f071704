//! Values as PostgreSQL writes them as texts. (Formats: the `…send` functions of the server's `src/backend/utils/adt`.)

mod numbers;
mod times;

use std::fmt::Write as _;

/// How deep arrays and rows may be nested.
const DEPTH: usize = 8;

/// A type's name, where it is one of the server's own.
pub(super) fn type_name(oid: u32) -> Option<&'static str> {
    NAMES
        .iter()
        .find(|(_, known, _)| *known == oid)
        .map(|(name, ..)| *name)
        .or_else(|| {
            ARRAYS
                .iter()
                .find(|(_, known)| *known == oid)
                .map(|(name, _)| *name)
        })
}

/// A value in binary format as a text. `None` where the type isn't known or the value isn't one of it.
pub(super) fn text_of(oid: u32, bytes: &[u8]) -> Option<String> {
    let mut out = String::new();
    write_value(oid, bytes, &mut out, 0)?;
    Some(out)
}

/// Whether values of a type can't hold what detectors look for: a date with a time looks like many a number.
pub(super) fn is_no_text(oid: u32) -> bool {
    NAMES.iter().any(|(_, known, kind)| {
        *known == oid
            && matches!(
                kind,
                Kind::Bool
                    | Kind::Uuid
                    | Kind::Date
                    | Kind::Time
                    | Kind::TimeTz
                    | Kind::Timestamp
                    | Kind::TimestampTz
                    | Kind::Interval
                    | Kind::Inet
                    | Kind::Mac
                    | Kind::Lsn
                    | Kind::Tid
            )
    })
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[derive(Clone, Copy)]
enum Kind {
    Bool,
    Bytes,
    Text,
    Int2,
    Int4,
    Int8,
    Unsigned4,
    Unsigned8,
    Float4,
    Float8,
    Numeric,
    Uuid,
    Jsonb,
    Date,
    Time,
    TimeTz,
    Timestamp,
    TimestampTz,
    Interval,
    Inet,
    Mac,
    Bits,
    Lsn,
    Tid,
    Point,
    Range(u32),
    Row,
}

/// Names, numbers in `pg_type` and formats.
const NAMES: [(&str, u32, Kind); 45] = [
    ("bool", 16, Kind::Bool),
    ("bytea", 17, Kind::Bytes),
    ("char", 18, Kind::Text),
    ("name", 19, Kind::Text),
    ("int8", 20, Kind::Int8),
    ("int2", 21, Kind::Int2),
    ("int4", 23, Kind::Int4),
    ("text", 25, Kind::Text),
    ("oid", 26, Kind::Unsigned4),
    ("tid", 27, Kind::Tid),
    ("xid", 28, Kind::Unsigned4),
    ("cid", 29, Kind::Unsigned4),
    ("json", 114, Kind::Text),
    ("xml", 142, Kind::Text),
    ("point", 600, Kind::Point),
    ("cidr", 650, Kind::Inet),
    ("float4", 700, Kind::Float4),
    ("float8", 701, Kind::Float8),
    ("unknown", 705, Kind::Text),
    ("macaddr8", 774, Kind::Mac),
    ("macaddr", 829, Kind::Mac),
    ("inet", 869, Kind::Inet),
    ("bpchar", 1042, Kind::Text),
    ("varchar", 1043, Kind::Text),
    ("date", 1082, Kind::Date),
    ("time", 1083, Kind::Time),
    ("timestamp", 1114, Kind::Timestamp),
    ("timestamptz", 1184, Kind::TimestampTz),
    ("interval", 1186, Kind::Interval),
    ("timetz", 1266, Kind::TimeTz),
    ("bit", 1560, Kind::Bits),
    ("varbit", 1562, Kind::Bits),
    ("numeric", 1700, Kind::Numeric),
    ("record", 2249, Kind::Row),
    ("cstring", 2275, Kind::Text),
    ("uuid", 2950, Kind::Uuid),
    ("pg_lsn", 3220, Kind::Lsn),
    ("jsonb", 3802, Kind::Jsonb),
    ("int4range", 3904, Kind::Range(23)),
    ("numrange", 3906, Kind::Range(1700)),
    ("tsrange", 3908, Kind::Range(1114)),
    ("tstzrange", 3910, Kind::Range(1184)),
    ("daterange", 3912, Kind::Range(1082)),
    ("int8range", 3926, Kind::Range(20)),
    ("xid8", 5069, Kind::Unsigned8),
];

/// Arrays say in each value what they are of.
const ARRAYS: [(&str, u32); 32] = [
    ("xml[]", 143),
    ("json[]", 199),
    ("cidr[]", 651),
    ("macaddr8[]", 775),
    ("bool[]", 1000),
    ("bytea[]", 1001),
    ("char[]", 1002),
    ("name[]", 1003),
    ("int2[]", 1005),
    ("int4[]", 1007),
    ("text[]", 1009),
    ("bpchar[]", 1014),
    ("varchar[]", 1015),
    ("int8[]", 1016),
    ("point[]", 1017),
    ("float4[]", 1021),
    ("float8[]", 1022),
    ("oid[]", 1028),
    ("macaddr[]", 1040),
    ("inet[]", 1041),
    ("timestamp[]", 1115),
    ("date[]", 1182),
    ("time[]", 1183),
    ("timestamptz[]", 1185),
    ("interval[]", 1187),
    ("numeric[]", 1231),
    ("timetz[]", 1270),
    ("bit[]", 1561),
    ("varbit[]", 1563),
    ("uuid[]", 2951),
    ("jsonb[]", 3807),
    ("int4range[]", 3905),
];

fn write_value(oid: u32, bytes: &[u8], out: &mut String, depth: usize) -> Option<()> {
    if depth > DEPTH {
        return None;
    }
    let Some((.., kind)) = NAMES.iter().find(|(_, known, _)| *known == oid) else {
        ARRAYS.iter().find(|(_, known)| *known == oid)?;
        return array(bytes, out, depth);
    };
    let mut cursor = Cursor(bytes);
    match kind {
        Kind::Bool => out.push(if cursor.u8()? != 0 { 't' } else { 'f' }),
        Kind::Bytes => {
            let _ = write!(out, "\\x{}", hex(cursor.rest()));
        }
        Kind::Text => out.push_str(std::str::from_utf8(cursor.rest()).ok()?),
        Kind::Int2 => write!(out, "{}", i16::from_be_bytes(cursor.array()?)).ok()?,
        Kind::Int4 => write!(out, "{}", i32::from_be_bytes(cursor.array()?)).ok()?,
        Kind::Int8 => write!(out, "{}", i64::from_be_bytes(cursor.array()?)).ok()?,
        Kind::Unsigned4 => write!(out, "{}", u32::from_be_bytes(cursor.array()?)).ok()?,
        Kind::Unsigned8 => write!(out, "{}", u64::from_be_bytes(cursor.array()?)).ok()?,
        Kind::Float4 => numbers::float4(f32::from_be_bytes(cursor.array()?), out),
        Kind::Float8 => numbers::float8(f64::from_be_bytes(cursor.array()?), out),
        Kind::Numeric => numbers::numeric(&mut cursor, out)?,
        Kind::Uuid => uuid(cursor.array()?, out),
        Kind::Jsonb => {
            if cursor.u8()? != 1 {
                return None;
            }
            out.push_str(std::str::from_utf8(cursor.rest()).ok()?);
        }
        Kind::Date => times::date(i32::from_be_bytes(cursor.array()?), out),
        Kind::Time => times::time(i64::from_be_bytes(cursor.array()?), out)?,
        Kind::TimeTz => {
            times::time(i64::from_be_bytes(cursor.array()?), out)?;
            times::zone(i32::from_be_bytes(cursor.array()?), out);
        }
        Kind::Timestamp => times::timestamp(i64::from_be_bytes(cursor.array()?), "", out)?,
        Kind::TimestampTz => times::timestamp(i64::from_be_bytes(cursor.array()?), "+00", out)?,
        Kind::Interval => times::interval(&mut cursor, out)?,
        Kind::Inet => inet(&mut cursor, out)?,
        Kind::Mac => {
            for (place, byte) in cursor.rest().iter().enumerate() {
                let colon = if place > 0 { ":" } else { "" };
                let _ = write!(out, "{colon}{byte:02x}");
            }
        }
        Kind::Bits => bits(&mut cursor, out)?,
        Kind::Lsn => {
            let (high, low) = (cursor.u32()?, cursor.u32()?);
            let _ = write!(out, "{high:X}/{low:X}");
        }
        Kind::Tid => {
            let (block, offset) = (cursor.u32()?, u16::from_be_bytes(cursor.array()?));
            let _ = write!(out, "({block},{offset})");
        }
        Kind::Point => {
            out.push('(');
            numbers::float8(f64::from_be_bytes(cursor.array()?), out);
            out.push(',');
            numbers::float8(f64::from_be_bytes(cursor.array()?), out);
            out.push(')');
        }
        Kind::Range(of) => range(&mut cursor, *of, out, depth)?,
        Kind::Row => row(&mut cursor, out, depth)?,
    }
    cursor.0.is_empty().then_some(())
}

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(u8::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.array()?))
    }

    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.array()?))
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A value with its length before it; -1 is null.
    fn value(&mut self) -> Option<Option<&'a [u8]>> {
        match self.i32()? {
            -1 => Some(None),
            length => self.bytes(usize::try_from(length).ok()?).map(Some),
        }
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

fn uuid(bytes: [u8; 16], out: &mut String) {
    for (place, byte) in bytes.iter().enumerate() {
        let dash = if matches!(place, 4 | 6 | 8 | 10) { "-" } else { "" };
        let _ = write!(out, "{dash}{byte:02x}");
    }
}

fn inet(cursor: &mut Cursor<'_>, out: &mut String) -> Option<()> {
    let (family, bits, is_cidr, length) = (cursor.u8()?, cursor.u8()?, cursor.u8()?, cursor.u8()?);
    let (address, whole): (std::net::IpAddr, u8) = match (family, length) {
        (2, 4) => (cursor.array::<4>()?.into(), 32),
        (3, 16) => (cursor.array::<16>()?.into(), 128),
        _ => return None,
    };
    let _ = write!(out, "{address}");
    if is_cidr != 0 || bits != whole {
        let _ = write!(out, "/{bits}");
    }
    Some(())
}

fn bits(cursor: &mut Cursor<'_>, out: &mut String) -> Option<()> {
    let count = usize::try_from(cursor.i32()?).ok()?;
    let bytes = cursor.rest();
    if bytes.len() != count.div_ceil(8) {
        return None;
    }
    let all = bytes
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> (7 - bit) & 1));
    out.extend(all.take(count).map(|bit| if bit == 1 { '1' } else { '0' }));
    Some(())
}

/// Writes a text in quotes where array or row syntax would read it as something else.
fn quoted(text: &str, special: impl Fn(char) -> bool, doubled: bool, out: &mut String) {
    let plain = !text.is_empty()
        && !text.eq_ignore_ascii_case("null")
        && !text.contains(|letter: char| {
            special(letter) || matches!(letter, '"' | '\\') || letter.is_ascii_whitespace()
        });
    if plain {
        return out.push_str(text);
    }
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' if doubled => out.push(letter),
            '"' | '\\' => out.push('\\'),
            _ => {}
        }
        out.push(letter);
    }
    out.push('"');
}

/// `array_out`: braces, a dimension within the other, lower bounds before where they aren't 1.
fn array(bytes: &[u8], out: &mut String, depth: usize) -> Option<()> {
    let mut cursor = Cursor(bytes);
    let (dimensions, _nulls, of) = (cursor.i32()?, cursor.i32()?, cursor.u32()?);
    let dimensions = usize::try_from(dimensions).ok().filter(|count| *count <= 6)?;
    if dimensions == 0 {
        out.push_str("{}");
        return Some(());
    }
    let mut sizes = Vec::with_capacity(dimensions);
    let mut bounds = String::new();
    let mut odd = false;
    for _ in 0..dimensions {
        let (size, lower) = (cursor.i32()?, cursor.i32()?);
        odd |= lower != 1;
        let _ = write!(bounds, "[{lower}:{}]", i64::from(lower) + i64::from(size) - 1);
        // Each element takes four bytes at least: nothing is done for more than are there.
        sizes.push(
            usize::try_from(size)
                .ok()
                .filter(|size| *size <= bytes.len() / 4)?,
        );
    }
    if odd {
        let _ = write!(out, "{bounds}=");
    }
    elements(&mut cursor, &sizes, of, out, depth)?;
    cursor.0.is_empty().then_some(())
}

fn elements(cursor: &mut Cursor<'_>, sizes: &[usize], of: u32, out: &mut String, depth: usize) -> Option<()> {
    let (size, inner) = sizes.split_first()?;
    out.push('{');
    for place in 0..*size {
        if place > 0 {
            out.push(',');
        }
        if !inner.is_empty() {
            elements(cursor, inner, of, out, depth)?;
            continue;
        }
        match cursor.value()? {
            None => out.push_str("NULL"),
            Some(value) => {
                let mut text = String::new();
                write_value(of, value, &mut text, depth + 1)?;
                quoted(&text, |letter| matches!(letter, '{' | '}' | ','), false, out);
            }
        }
    }
    out.push('}');
    Some(())
}

/// `record_out`.
fn row(cursor: &mut Cursor<'_>, out: &mut String, depth: usize) -> Option<()> {
    let fields = cursor.i32()?;
    out.push('(');
    for place in 0..fields {
        if place > 0 {
            out.push(',');
        }
        let of = cursor.u32()?;
        if let Some(value) = cursor.value()? {
            let mut text = String::new();
            write_value(of, value, &mut text, depth + 1)?;
            let special = |letter| matches!(letter, '(' | ')' | ',');
            // Unlike in arrays, an unquoted NULL is a text.
            if text.eq_ignore_ascii_case("null") {
                out.push_str(&text);
            } else {
                quoted(&text, special, true, out);
            }
        }
    }
    out.push(')');
    Some(())
}

/// `range_out`. Flags as in `rangetypes.h`.
fn range(cursor: &mut Cursor<'_>, of: u32, out: &mut String, depth: usize) -> Option<()> {
    const EMPTY: u8 = 1;
    const LOWER_IN: u8 = 2;
    const UPPER_IN: u8 = 4;
    const LOWER_OPEN: u8 = 8;
    const UPPER_OPEN: u8 = 16;
    let flags = cursor.u8()?;
    if flags & EMPTY != 0 {
        out.push_str("empty");
        return Some(());
    }
    let bound = |cursor: &mut Cursor<'_>, out: &mut String| {
        let mut text = String::new();
        write_value(of, cursor.value()??, &mut text, depth + 1)?;
        let special = |letter| matches!(letter, '(' | ')' | '[' | ']' | ',');
        quoted(&text, special, true, out);
        Some(())
    };
    out.push(if flags & LOWER_IN != 0 { '[' } else { '(' });
    if flags & LOWER_OPEN == 0 {
        bound(cursor, out)?;
    }
    out.push(',');
    if flags & UPPER_OPEN == 0 {
        bound(cursor, out)?;
    }
    out.push(if flags & UPPER_IN != 0 { ']' } else { ')' });
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_value_of_its_type_has_no_text() {
        assert_eq!(text_of(23, &[0, 0, 0, 7]).as_deref(), Some("7"));
        assert_eq!(text_of(23, &[0, 0, 7]), None);
        assert_eq!(text_of(23, &[0, 0, 0, 7, 0]), None);
        assert_eq!(text_of(25, b"\xff"), None);
        assert_eq!(text_of(999_999, b"x"), None);
        assert_eq!(text_of(3802, b"\x02{}"), None);
        // An array that says it has two thousand million elements.
        let huge = [
            0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1,
        ];
        assert_eq!(text_of(1007, &huge), None);
        let rows = [0x7f, 0xff, 0xff, 0xff];
        assert_eq!(text_of(2249, &rows), None);
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        let mut state = 1_u64;
        let mut bytes = Vec::new();
        for round in 0..20_000_usize {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            if round % 40 == 0 {
                bytes.clear();
            }
            bytes.push(if state & 1 << 40 == 0 {
                0
            } else {
                (state >> 56) as u8
            });
            for (_, oid, _) in NAMES {
                let _ = text_of(oid, &bytes);
            }
            let _ = text_of(1009, &bytes);
        }
    }
}
