//! What is known of a type: what can stand in place of its values, and whether they can hold a text.

use bailiff_policy::ValueType;

/// A type, as far as masking goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any text, in text and binary format alike.
    Text,
    /// A text that is padded with blanks.
    Padded,
    /// XML as a text: a part of it that is cut anywhere isn't XML.
    Xml,
    /// JSON as a text.
    Json,
    /// JSON, behind a version's byte in binary format.
    Jsonb,
    /// An integer of so many bytes, with a sign or without.
    Integer { bytes: u8, signed: bool },
    /// A number of any length.
    Numeric,
    /// Sixteen bytes.
    Uuid,
    /// Bytes.
    Bytea,
    /// An array of another built-in type, by its number.
    Array(u32),
    /// A row of any columns.
    Record,
    /// An array or row of which the catalog tells what is in it: its place among the [`Shapes`].
    Shape(u16),
    /// A value that can't hold a text: dates, floats, addresses.
    Plain,
    /// What can't be told; every type that didn't come with the server.
    Unknown,
}

/// Array types that came with the server, and their elements' types. (`pg_type`, oid and typelem.)
const ARRAYS: &[(u32, u32)] = &[
    (143, 142),
    (199, 114),
    (271, 5069),
    (651, 650),
    (719, 718),
    (775, 774),
    (791, 790),
    (1000, 16),
    (1001, 17),
    (1002, 18),
    (1003, 19),
    (1005, 21),
    (1007, 23),
    (1009, 25),
    (1014, 1042),
    (1015, 1043),
    (1016, 20),
    (1017, 600),
    (1018, 601),
    (1019, 602),
    (1020, 603),
    (1021, 700),
    (1022, 701),
    (1027, 604),
    (1028, 26),
    (1040, 829),
    (1041, 869),
    (1115, 1114),
    (1182, 1082),
    (1183, 1083),
    (1185, 1184),
    (1187, 1186),
    (1231, 1700),
    (1270, 1266),
    (1561, 1560),
    (1563, 1562),
    (2201, 1790),
    (2287, 2249),
    (2951, 2950),
    (3221, 3220),
    (3643, 3614),
    (3807, 3802),
    (3905, 3904),
    (3907, 3906),
    (3909, 3908),
    (3911, 3910),
    (3913, 3912),
    (3927, 3926),
];

/// Types of the server that can't hold a text: booleans, floats, dates and times, bits, money, network addresses, geometry, internal
/// numbers, ranges and multiranges of those.
const PLAIN: &[u32] = &[
    16, 18, 27, 28, 29, 600, 601, 602, 603, 604, 628, 650, 700, 701, 718, 774, 790, 829, 869, 1082, 1083,
    1114, 1184, 1186, 1266, 1560, 1562, 2278, 3220, 3904, 3906, 3908, 3910, 3912, 3926, 4451, 4532, 4533,
    4534, 4535, 4536, 5069,
];

impl Kind {
    /// What is known of the type of a number in `pg_type`.
    pub(crate) fn of(oid: u32) -> Self {
        match oid {
            // text, varchar, name, unknown, refcursor, cstring
            25 | 1043 | 19 | 705 | 1790 | 2275 => Self::Text,
            142 => Self::Xml,
            1042 => Self::Padded,
            114 => Self::Json,
            3802 => Self::Jsonb,
            20 => Self::Integer {
                bytes: 8,
                signed: true,
            },
            21 => Self::Integer {
                bytes: 2,
                signed: true,
            },
            23 => Self::Integer {
                bytes: 4,
                signed: true,
            },
            26 => Self::Integer {
                bytes: 4,
                signed: false,
            },
            1700 => Self::Numeric,
            2950 => Self::Uuid,
            17 => Self::Bytea,
            2249 => Self::Record,
            oid if PLAIN.binary_search(&oid).is_ok() => Self::Plain,
            oid => match ARRAYS.binary_search_by_key(&oid, |(array, _)| *array) {
                Ok(place) => ARRAYS
                    .get(place)
                    .map_or(Self::Unknown, |(_, element)| Self::Array(*element)),
                Err(_) => Self::Unknown,
            },
        }
    }

    /// What stands between the elements of a type's arrays in text format.
    pub(crate) fn delimiter(element: u32) -> u8 {
        // Boxes alone have another.
        if element == 603 { b';' } else { b',' }
    }
}

/// What the catalog tells of the arrays and rows of a result's columns.
#[derive(Debug, Default)]
pub(crate) struct Shapes(Vec<Shape>);

/// What is in an array or row.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Elements of a type.
    Array(Kind),
    /// Columns, each of its type.
    Row(Box<[Kind]>),
}

impl Shapes {
    /// Takes in what a type is made of.
    pub(crate) fn take(&mut self, of: &ValueType) -> Kind {
        let shape = match of {
            ValueType::BuiltIn(oid) => return Kind::of(*oid),
            ValueType::Text => return Kind::Text,
            ValueType::Unknown => return Kind::Unknown,
            ValueType::Array(element) => Shape::Array(self.take(element)),
            ValueType::Row(columns) => Shape::Row(columns.iter().map(|column| self.take(column)).collect()),
        };
        // Uncertainty denies: there is no place for more.
        let Ok(place) = u16::try_from(self.0.len()) else {
            return Kind::Unknown;
        };
        self.0.push(shape);
        Kind::Shape(place)
    }

    pub(crate) fn get(&self, place: u16) -> Option<&Shape> {
        self.0.get(usize::from(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted() {
        assert!(PLAIN.is_sorted() && ARRAYS.is_sorted());
        assert!(
            ARRAYS
                .iter()
                .all(|(_, element)| !matches!(Kind::of(*element), Kind::Array(_)))
        );
    }
}
