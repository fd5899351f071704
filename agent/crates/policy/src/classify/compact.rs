//! A statement's tree without what it doesn't say: no defaults, no places in the text, no values of texts.
//!
//! The grammar's own tree takes some hundred times the text's length. This one is small enough to be kept beside a
//! classification, so that a plan can be made anew when masks or the catalog change.

use std::fmt;

use serde::ser::{self, Serialize};

/// A value of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tree {
    /// A list's entry that isn't there.
    Absent,
    /// A number, or a flag as 1. What is 0 isn't kept.
    Number(i64),
    /// A name or a keyword. Texts of constants aren't kept.
    Text(Box<str>),
    /// Several.
    List(Box<[Tree]>),
    /// A node.
    Node(Box<Node>),
}

/// A node of the grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its kind, by the grammar's name.
    pub(crate) kind: &'static str,
    fields: Box<[(&'static str, Tree)]>,
}

/// A statement's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compact {
    /// Its root.
    pub(crate) root: Tree,
    /// How deep it is, in nodes.
    pub(crate) depth: usize,
    /// About how many bytes it takes.
    pub(crate) bytes: usize,
    /// Whether integers stand where they mean a column of the result by its place, at any level.
    pub(crate) positions: bool,
}

impl Compact {
    /// Of a statement as the grammar gives it.
    pub(crate) fn of(statement: &impl Serialize) -> Option<Self> {
        let mut compactor = Compactor::default();
        let mut root = statement.serialize(&mut compactor).ok()?;
        if !compactor.positions {
            // Texts that differ in integers alone share what is kept.
            root.forget_integers();
        }
        Some(Self {
            root,
            depth: compactor.deepest,
            bytes: compactor.bytes,
            positions: compactor.positions,
        })
    }
}

impl Tree {
    /// The node, if it is one.
    pub(crate) fn node(&self) -> Option<&Node> {
        match self {
            Self::Node(node) => Some(node),
            _ => None,
        }
    }

    /// The entries of a list; one that isn't there is empty.
    pub(crate) fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    fn forget_integers(&mut self) {
        match self {
            Self::List(items) => items.iter_mut().for_each(Self::forget_integers),
            Self::Node(node) if matches!(node.kind, "Ival" | "Integer") => node.fields = Box::default(),
            Self::Node(node) => node
                .fields
                .iter_mut()
                .for_each(|(_, value)| value.forget_integers()),
            Self::Absent | Self::Number(_) | Self::Text(_) => {}
        }
    }

    /// The name that a `String` node holds.
    pub(crate) fn name(&self) -> Option<&str> {
        let node = self.node().filter(|node| node.kind == "String")?;
        Some(node.text("sval"))
    }

    /// The integer of a constant.
    pub(crate) fn integer(&self) -> Option<i64> {
        let node = self.node().filter(|node| node.kind == "AConst")?;
        let value = node.get("val")?.node().filter(|value| value.kind == "Ival")?;
        Some(value.number("ival"))
    }
}

impl Node {
    /// A field that says something.
    pub(crate) fn get(&self, name: &str) -> Option<&Tree> {
        self.fields
            .iter()
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value)
    }

    /// A field that is a node.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.get(name)?.node()
    }

    /// A field that is a list.
    pub(crate) fn list(&self, name: &str) -> &[Tree] {
        self.get(name).map_or(&[], Tree::items)
    }

    /// A field that is a text.
    pub(crate) fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Tree::Text(text)) => text,
            _ => "",
        }
    }

    /// A field that is a number.
    pub(crate) fn number(&self, name: &str) -> i64 {
        match self.get(name) {
            Some(Tree::Number(number)) => *number,
            _ => 0,
        }
    }

    /// A field that is a flag.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.number(name) != 0
    }

    /// The fields that say something.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'static str, &Tree)> {
        self.fields.iter().map(|(name, value)| (*name, value))
    }

    /// The names that a list of `String` nodes holds; `None` where something else is among them.
    pub(crate) fn names(&self, field: &str) -> Option<Vec<&str>> {
        self.list(field).iter().map(Tree::name).collect()
    }
}

#[derive(Debug, Default)]
struct Compactor {
    depth: usize,
    deepest: usize,
    bytes: usize,
    positions: bool,
}

/// A node can't be told.
#[derive(Debug)]
struct Untold;

impl fmt::Display for Untold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the tree holds what it never should")
    }
}

impl std::error::Error for Untold {}

impl ser::Error for Untold {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Bytes of the allocator's own for each piece.
const PIECE: usize = 16;

/// Clauses in which an integer is a place in the list of results.
const BY_PLACE: [&str; 3] = ["sort_clause", "group_clause", "distinct_clause"];

/// Fields that hold an integer of the text and decide nothing.
const LITERALS: [&str; 5] = ["how_many", "modulus", "num", "number", "remainder"];

struct Fields<'a> {
    compactor: &'a mut Compactor,
    kind: &'static str,
    fields: Vec<(&'static str, Tree)>,
}

struct Items<'a> {
    compactor: &'a mut Compactor,
    items: Vec<Tree>,
}

/// Whether an integer stands in a clause directly or in what groups several.
fn holds_integer(tree: &Tree) -> bool {
    if tree.integer().is_some() {
        return true;
    }
    tree.node().is_some_and(|node| match node.kind {
        "SortBy" => node.get("node").is_some_and(holds_integer),
        "GroupingSet" => node.list("content").iter().any(holds_integer),
        "RowExpr" => node.list("args").iter().any(holds_integer),
        "List" => node.list("items").iter().any(holds_integer),
        _ => false,
    })
}

impl<'a> ser::Serializer for &'a mut Compactor {
    type Ok = Tree;
    type Error = Untold;
    type SerializeSeq = Items<'a>;
    type SerializeTuple = Items<'a>;
    type SerializeTupleStruct = ser::Impossible<Tree, Untold>;
    type SerializeTupleVariant = ser::Impossible<Tree, Untold>;
    type SerializeMap = ser::Impossible<Tree, Untold>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = ser::Impossible<Tree, Untold>;

    fn serialize_bool(self, value: bool) -> Result<Tree, Untold> {
        Ok(number(i64::from(value)))
    }
    fn serialize_i8(self, value: i8) -> Result<Tree, Untold> {
        Ok(number(i64::from(value)))
    }
    fn serialize_i16(self, value: i16) -> Result<Tree, Untold> {
        Ok(number(i64::from(value)))
    }
    fn serialize_i32(self, value: i32) -> Result<Tree, Untold> {
        Ok(number(i64::from(value)))
    }
    fn serialize_i64(self, value: i64) -> Result<Tree, Untold> {
        Ok(number(value))
    }
    fn serialize_u8(self, value: u8) -> Result<Tree, Untold> {
        Ok(number(i64::from(value)))
    }
    fn serialize_u16(self, value: u16) -> Result<Tree, Untold> {
        Ok(number(i64::from(value)))
    }
    fn serialize_u32(self, value: u32) -> Result<Tree, Untold> {
        Ok(number(i64::from(value)))
    }
    fn serialize_u64(self, value: u64) -> Result<Tree, Untold> {
        i64::try_from(value).map(number).map_err(|_| Untold)
    }
    fn serialize_f32(self, _: f32) -> Result<Tree, Untold> {
        Ok(Tree::Number(1))
    }
    fn serialize_f64(self, _: f64) -> Result<Tree, Untold> {
        Ok(Tree::Number(1))
    }
    fn serialize_char(self, value: char) -> Result<Tree, Untold> {
        Ok(Tree::Text(value.to_string().into()))
    }
    fn serialize_str(self, value: &str) -> Result<Tree, Untold> {
        if value.is_empty() {
            return Ok(Tree::Absent);
        }
        self.bytes += value.len() + PIECE;
        Ok(Tree::Text(value.into()))
    }
    fn serialize_bytes(self, _: &[u8]) -> Result<Tree, Untold> {
        Err(Untold)
    }
    fn serialize_none(self) -> Result<Tree, Untold> {
        Ok(Tree::Absent)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Tree, Untold> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<Tree, Untold> {
        Ok(Tree::Absent)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<Tree, Untold> {
        Ok(Tree::Absent)
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<Tree, Untold> {
        Err(Untold)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Tree, Untold> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Tree, Untold> {
        // The kinds of nodes are named by their struct; those of constants, too, but for plain values.
        match value.serialize(self)? {
            Tree::Node(mut node) => {
                node.kind = variant;
                Ok(Tree::Node(node))
            }
            other => Ok(other),
        }
    }
    fn serialize_seq(self, length: Option<usize>) -> Result<Items<'a>, Untold> {
        Ok(Items {
            compactor: self,
            items: Vec::with_capacity(length.unwrap_or_default()),
        })
    }
    fn serialize_tuple(self, length: usize) -> Result<Items<'a>, Untold> {
        self.serialize_seq(Some(length))
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Untold> {
        Err(Untold)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Untold> {
        Err(Untold)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Untold> {
        Err(Untold)
    }
    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Fields<'a>, Untold> {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        Ok(Fields {
            compactor: self,
            kind: name,
            fields: Vec::new(),
        })
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Untold> {
        Err(Untold)
    }
}

fn number(value: i64) -> Tree {
    if value == 0 {
        Tree::Absent
    } else {
        Tree::Number(value)
    }
}

impl ser::SerializeSeq for Items<'_> {
    type Ok = Tree;
    type Error = Untold;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Untold> {
        let item = value.serialize(&mut *self.compactor)?;
        self.items.push(item);
        Ok(())
    }

    fn end(self) -> Result<Tree, Untold> {
        if self.items.is_empty() {
            return Ok(Tree::Absent);
        }
        self.compactor.bytes += self.items.len() * size_of::<Tree>() + PIECE;
        Ok(Tree::List(self.items.into_boxed_slice()))
    }
}

impl ser::SerializeTuple for Items<'_> {
    type Ok = Tree;
    type Error = Untold;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Untold> {
        ser::SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<Tree, Untold> {
        ser::SerializeSeq::end(self)
    }
}

impl ser::SerializeStruct for Fields<'_> {
    type Ok = Tree;
    type Error = Untold;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Untold> {
        if LITERALS.contains(&name)
            || name.ends_with("location")
            || name.ends_with("list_start")
            || name.ends_with("list_end")
        {
            return Ok(());
        }
        let value = value.serialize(&mut *self.compactor)?;
        let value = match value {
            Tree::Absent => return Ok(()),
            // What a constant's text says is no matter of ours, and may be a secret.
            Tree::Node(node) if self.kind == "AConst" && node.kind != "Ival" => Tree::Node(Box::new(Node {
                kind: node.kind,
                fields: Box::default(),
            })),
            value => value,
        };
        if BY_PLACE.contains(&name) {
            self.compactor.positions |= value.items().iter().any(holds_integer);
        }
        self.fields.push((name, value));
        Ok(())
    }

    fn end(self) -> Result<Tree, Untold> {
        self.compactor.depth -= 1;
        if self.kind == "Node" {
            // A node around another says nothing by itself.
            return Ok(self
                .fields
                .into_iter()
                .next()
                .map_or(Tree::Absent, |(_, inner)| inner));
        }
        // An integer takes as much whatever it is.
        let fields = if self.kind == "Integer" {
            1
        } else {
            self.fields.len()
        };
        self.compactor.bytes += size_of::<Node>() + fields * size_of::<(&str, Tree)>() + 2 * PIECE;
        Ok(Tree::Node(Box::new(Node {
            kind: self.kind,
            fields: self.fields.into_boxed_slice(),
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Compact {
        let parsed = pg_query::parse(text, pg_query::ParserOptions::DEFAULT).unwrap();
        Compact::of(&parsed.protobuf.stmts[0].stmt).unwrap()
    }

    #[test]
    fn what_is_said_stays() {
        let found = of("select a.x, 5, 'secret' from s.t as a where not a.y");
        let root = found.root.node().unwrap();
        assert_eq!(root.kind, "SelectStmt");
        assert_eq!(root.list("target_list").len(), 3);
        let first = root.list("target_list")[0].node().unwrap().child("val").unwrap();
        assert_eq!(first.kind, "ColumnRef");
        assert_eq!(first.names("fields"), Some(vec!["a", "x"]));
        let second = root.list("target_list")[1].node().unwrap().get("val").unwrap();
        assert_eq!(second.integer(), Some(0), "it is no place in the result");
        let from = root.list("from_clause")[0].node().unwrap();
        assert_eq!(
            (from.kind, from.text("schemaname"), from.text("relname")),
            ("RangeVar", "s", "t")
        );
        assert_eq!(root.child("where_clause").unwrap().kind, "BoolExpr");
        assert!(!format!("{found:?}").contains("secret"));
    }

    #[test]
    fn places_in_clauses_are_seen_at_any_level() {
        assert!(of("select a from t order by 1").positions);
        assert!(of("select * from (select a from t group by (1, 2)) x").positions);
        assert!(of("select 1 union select 2 order by 1 desc").positions);
        assert!(!of("select 1 from t order by a + 1 limit 5").positions);
    }
}
