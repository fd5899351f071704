//! What a SQL text does, by PostgreSQL's own grammar.
//!
//! The syntax tree is walked generically, every field of every node, so that a statement hidden anywhere in another is found
//! without this crate naming the place. What a node does is looked up by its kind; a kind of statement that isn't in the table
//! is `unknown`.

mod catalog;
mod compact;
mod condition;
mod copy;
mod effects;
mod functions;
mod lasting;
mod shape;
mod tree;
mod walk;

pub(crate) use catalog::is_catalog;
pub(crate) use compact::{Compact, Node, Tree};
pub(crate) use copy::CopyOut;
pub use copy::{CopyFormat, CopyLayout};
pub(crate) use functions::is_pure;
pub use lasting::Lasting;
pub(crate) use shape::{Output, Shape};
pub use walk::PathMove;
pub(crate) use walk::any_relation;

use std::sync::Arc;

use bailiff_model::{EffectSet, RelationRef, SqlEffect, Statement};

/// Words, operators and brackets in a text. Each nests the tree by at most one level, and a level was measured to take less
/// than [`STACK_PER_LEVEL`] of stack.
pub(crate) const MAX_NESTING: usize = 32_768;

/// Bytes of stack that one level of nesting takes at most, in an unoptimised build.
pub(crate) const STACK_PER_LEVEL: usize = 16 * 1024;

/// Session settings that decide how a text is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// `standard_conforming_strings`: whether a backslash in '…' is a plain character.
    pub standard_conforming_strings: bool,
    /// Whether unqualified names are known to mean what the target's `searchPath` says. Once the session may have moved its
    /// search_path they may mean anything.
    pub search_path_trusted: bool,
    /// The server's major version. What a newer grammar reads as the server's own, an older server takes for anybody's function.
    pub server: u32,
    /// Whether the server surely reads names as this grammar does. In an encoding other than UTF-8 it folds and cuts those with letters
    /// beyond ASCII in its own way.
    pub names_are_utf8: bool,
}

/// The newest version that the grammar knows.
const NEWEST: u32 = 18;

impl Default for Settings {
    fn default() -> Self {
        Self {
            standard_conforming_strings: true,
            search_path_trusted: true,
            server: NEWEST,
            names_are_utf8: true,
        }
    }
}

/// A text's statements, classified.
#[derive(Debug, Clone, Default)]
pub struct Classified {
    statements: Vec<Statement>,
    shapes: Vec<Shape>,
    /// The statements' trees, where they can be told.
    trees: Vec<Option<Arc<Compact>>>,
    moves: PathMove,
    lasting: Lasting,
    copy_out: CopyOut,
    literals_name_types: bool,
    literals_decide: bool,
    length: usize,
}

impl Classified {
    /// The statements, in order. None for an empty text.
    #[must_use]
    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// Everything that any of them does.
    #[must_use]
    pub fn effects(&self) -> EffectSet {
        self.statements
            .iter()
            .fold(EffectSet::EMPTY, |all, statement| all.union(statement.effects))
    }

    /// Whether the values of integer literals matter: positions in ORDER BY and its kind, the precision that makes two
    /// types of `float`, and conditions such as `1 = 1`. Otherwise a text that differs in free-standing integers alone has the same classification.
    #[must_use]
    pub fn literal_sensitive(&self) -> bool {
        self.literals_name_types
            || self.literals_decide
            || self.shapes.iter().any(|shape| shape.positions)
            || self.trees.iter().flatten().any(|tree| tree.positions)
    }

    /// Whether unqualified names may mean something else after it. [`Ruling::moves_search_path`](crate::Ruling) knows more:
    /// whether they go on meaning what the target's `searchPath` says.
    #[must_use]
    pub fn moves_search_path(&self) -> bool {
        self.moves != PathMove::Stays
    }

    /// What of it outlives its answer.
    #[must_use]
    pub fn lasting(&self) -> Lasting {
        self.lasting
    }

    pub(crate) fn copy_out(&self) -> &CopyOut {
        &self.copy_out
    }

    /// Where unqualified names are looked for after it.
    #[must_use]
    pub fn moves(&self) -> &PathMove {
        &self.moves
    }

    /// The relations of all statements, and what is done with each.
    pub fn touched(&self) -> impl Iterator<Item = (&RelationRef, Touch)> {
        self.statements.iter().flat_map(|statement| {
            let any =
                |effects: &[SqlEffect]| effects.iter().any(|effect| statement.effects.contains(*effect));
            let rows = [
                SqlEffect::Insert,
                SqlEffect::Update,
                SqlEffect::Delete,
                SqlEffect::Truncate,
                SqlEffect::Copy,
                SqlEffect::Unknown,
            ];
            let touch = if any(&rows) {
                Some(Touch::Written)
            } else {
                any(&[SqlEffect::Alter]).then_some(Touch::Altered)
            };
            let read = statement.reads.iter().map(|relation| (relation, Touch::Read));
            let written = statement.writes.iter();
            read.chain(written.filter_map(move |relation| Some((relation, touch?))))
        })
    }

    /// The same in a session whose search_path may be anything: a function's bare name may then be anybody's.
    pub(crate) fn distrusted(&self) -> Self {
        let mut all = self.clone();
        for statement in &mut all.statements {
            if statement
                .functions
                .iter()
                .any(|function| function.schema.is_none() && function.name != "set_config")
            {
                statement.effects = statement.effects.with(SqlEffect::Execute);
                all.lasting = all.lasting.and(Lasting::CODE);
            }
        }
        all
    }

    /// Length of the text and of what is kept of its tree, in bytes: a measure of the memory that this takes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// A statement's tree.
    pub(crate) fn compact(&self, place: usize) -> Option<&Compact> {
        self.trees.get(place)?.as_deref()
    }

    pub(crate) fn shapes(&self) -> &[Shape] {
        &self.shapes
    }
}

/// What is done with a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Touch {
    /// Its rows are read.
    Read,
    /// Its rows are changed.
    Written,
    /// It is changed itself. What is made or dropped isn't touched by it.
    Altered,
}

/// Why it can't be told what a text does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unclassified {
    /// The grammar doesn't know it.
    #[error("the text can't be parsed")]
    Syntax,
    /// It is too deeply nested to be parsed safely.
    #[error("the text has more than {MAX_NESTING} words and operators")]
    TooDeep,
    /// The parser ended in a way that it never should.
    #[error("the parser failed")]
    Failed,
}

/// Classifies a text. Needs [`MAX_NESTING`] × [`STACK_PER_LEVEL`] bytes of stack: see [`ParserPool`](crate::ParserPool).
pub fn classify(text: &str, settings: &Settings) -> Result<Classified, Unclassified> {
    if nesting_bound(text) > MAX_NESTING {
        return Err(Unclassified::TooDeep);
    }
    let options = if settings.standard_conforming_strings {
        pg_query::ParserOptions::DEFAULT
    } else {
        pg_query::ParserOptions::DISABLE_STANDARD_CONFORMING_STRINGS
    };
    let parsed = pg_query::parse(text, options).map_err(|_| Unclassified::Syntax)?;
    let mut classified = Classified {
        // Wherever the word stands: being wrong only costs a place in a cache.
        literals_name_types: text
            .as_bytes()
            .windows(b"float".len())
            .any(|word| word.eq_ignore_ascii_case(b"float")),
        length: text.len(),
        ..Classified::default()
    };
    for raw in &parsed.protobuf.stmts {
        // Uncertainty denies: a statement without a tree would do nothing.
        let statement = raw.stmt.as_ref().ok_or(Unclassified::Failed)?;
        let tree = serde_json::to_value(statement).map_err(|_| Unclassified::Failed)?;
        let mut walked = walk::statement(&tree, settings.server);
        // Uncertainty denies: what the server makes of such a name can't be told.
        if !settings.names_are_utf8 && tree::has_foreign_name(&tree) {
            walked.statement.effects = walked.statement.effects.with(SqlEffect::Unknown);
            walked.lasting = Lasting::ANYTHING;
        }
        classified.moves = match (std::mem::take(&mut classified.moves), walked.moves) {
            (PathMove::Stays, moves) | (moves, PathMove::Stays) => moves,
            _ => PathMove::Anywhere,
        };
        classified.literals_decide |= walked.by_number || copy::by_number(&tree);
        classified.lasting = classified.lasting.and(walked.lasting);
        let compact = Compact::of(statement).map(Arc::new);
        classified.length += compact.as_ref().map_or(0, |compact| compact.bytes);
        classified.trees.push(compact);
        classified.copy_out = std::mem::take(&mut classified.copy_out).and(CopyOut::of(&tree));
        classified.shapes.push(shape::Shape::of(&tree));
        classified.statements.push(walked.statement);
    }
    Ok(classified)
}

/// How many things a text has that can each nest the tree by a level: words, operator characters, brackets. Those inside of
/// strings and comments count too where telling them apart would take a lexer; that only makes the bound larger.
pub(crate) fn nesting_bound(text: &str) -> usize {
    let mut bound = 0;
    let mut in_word = false;
    let mut in_string = false;
    let plain_strings = !text.contains(['\\', '"', '$']) && !text.contains("--") && !text.contains("/*");
    for byte in text.bytes() {
        if byte == b'\'' && plain_strings {
            in_string = !in_string;
        }
        if in_string {
            in_word = false;
            continue;
        }
        let word = byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80;
        if word && !in_word {
            bound += 1;
        }
        in_word = word || (in_word && byte.is_ascii_digit());
        if b"+-*/<>=~!@#%^&|`?:([".contains(&byte) {
            bound += 1;
        }
    }
    bound
}
