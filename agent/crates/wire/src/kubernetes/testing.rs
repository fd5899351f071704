//! Fields that tests look at: by paths, as policies name them.

use super::{Fields, Replacement, Value};

/// What is replaced, and by what.
#[derive(Debug, Default)]
pub(super) struct Paths {
    pub(super) paths: Vec<Vec<String>>,
    pub(super) texts: bool,
    pub(super) cells: bool,
    /// What was asked about, as it was asked.
    pub(super) asked: Vec<String>,
    /// Namespaces and names of the objects.
    pub(super) objects: Vec<(Option<String>, Option<String>)>,
    pub(super) empty: bool,
}

/// How deep it is, and which paths lead there.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    depth: usize,
    paths: u64,
}

impl Paths {
    /// Paths like `spec.containers.*.env.*.value`.
    pub(super) fn new(paths: &[&str]) -> Self {
        Self {
            paths: paths
                .iter()
                .map(|path| path.split('.').map(str::to_owned).collect())
                .collect(),
            ..Self::default()
        }
    }

    fn below(&self, at: At, key: &str) -> At {
        let leads = |path: &Vec<String>| path.get(at.depth).is_some_and(|part| part == "*" || part == key);
        let paths = self.paths.iter().enumerate();
        At {
            depth: at.depth + 1,
            paths: paths
                .filter(|(number, path)| at.paths & (1 << number) != 0 && leads(path))
                .fold(0, |all, (number, _)| all | 1 << number),
        }
    }
}

/// What stands in place of a value that is masked.
pub(super) const MASK: &str = "[masked \"\\\u{1}\u{e9}]";

impl Fields for Paths {
    type At = At;

    const NAMED: bool = true;

    fn object(&mut self, namespace: Option<&str>, name: Option<&str>) -> At {
        self.objects
            .push((namespace.map(str::to_owned), name.map(str::to_owned)));
        At {
            depth: 0,
            paths: (1 << self.paths.len()) - 1,
        }
    }

    fn member(&mut self, at: At, key: &str) -> At {
        self.below(at, key)
    }

    fn element(&mut self, at: At, _index: usize, name: Option<&str>) -> At {
        self.below(at, name.unwrap_or_default())
    }

    fn passes(&self, at: At) -> bool {
        at.paths == 0
    }

    fn replace(&mut self, at: At, value: Value<'_>) -> Option<Replacement> {
        let ends =
            |number: usize, path: &Vec<String>| at.paths & (1 << number) != 0 && path.len() == at.depth;
        if !self
            .paths
            .iter()
            .enumerate()
            .any(|(number, path)| ends(number, path))
        {
            return None;
        }
        self.asked.push(match value {
            Value::Text(text) => format!("text {text}"),
            Value::Bytes(bytes) => format!("bytes {}", String::from_utf8_lossy(bytes)),
            Value::Scalar(scalar) => format!("scalar {scalar}"),
        });
        Some(match value {
            _ if self.empty => Replacement::Empty,
            Value::Scalar(_) => Replacement::Value(b"7".to_vec()),
            Value::Text(_) | Value::Bytes(_) => Replacement::Value(MASK.as_bytes().to_vec()),
        })
    }

    fn hides_texts(&self) -> bool {
        self.texts
    }

    fn hides_cells(&self) -> bool {
        self.cells
    }
}
