//! The built-in types of the API: which fields they have, by number as in protobuf and by name as in JSON, and what the fields hold.
//!
//! The table is `schema.txt`, which is made from the API's own Go types; a test holds that it is as the pinned release has it. What
//! isn't in it (custom resources, types of aggregated servers) is [`Type::UNKNOWN`] with all that lies below.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The type of an object by what it says of itself, such as `apps/v1` and `Deployment`; lists and `Status` have one, too.
#[must_use]
pub fn lookup(api_version: &str, kind: &str) -> Option<Type> {
    let found = |version: &str| {
        let versions = TABLE.kinds.get(kind)?;
        versions.iter().find(|(other, _)| *other == version)
    };
    // These two belong to every group, and the table has them once.
    let (_, message) = match kind {
        "DeleteOptions" | "WatchEvent" => found("v1"),
        _ => found(api_version),
    }?;
    Some(Type::message(*message))
}

/// The type of a resource's objects, such as `v1` and `configmaps`. Resources are called after their kinds, and a few aren't.
#[must_use]
pub fn of_resource(api_version: &str, resource: &str) -> Option<Type> {
    let is_called = |kind: &str| {
        let kind = kind.to_ascii_lowercase();
        match resource.strip_prefix(kind.as_str()) {
            Some("s") => !kind.ends_with('s'),
            Some("es") => kind.ends_with('s'),
            // Endpoints are called as they are.
            Some("") => kind.ends_with("ts"),
            _ => kind
                .strip_suffix('y')
                .is_some_and(|kind| resource.strip_prefix(kind) == Some("ies")),
        }
    };
    let found = TABLE.kinds.iter().find_map(|(kind, versions)| {
        let (_, message) = versions.iter().find(|(version, _)| *version == api_version)?;
        is_called(kind).then_some(*message)
    });
    found.map(Type::message)
}

/// What a field holds, or an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type {
    wrap: Wrap,
    of: Single,
}

/// Whether there is one of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrap {
    One,
    List,
    Map,
}

/// What a single value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Single {
    /// What the table doesn't have.
    Unknown,
    /// A text.
    Text,
    /// Bytes: base64 in JSON.
    Bytes,
    /// True or false.
    Bool,
    /// A whole number.
    Int,
    /// A number of 64 bits with a fraction.
    Double,
    /// `500Mi`: a message with a text in protobuf.
    Quantity,
    /// Seconds, in JSON by RFC 3339.
    Time,
    /// The same with microseconds.
    MicroTime,
    /// Nanoseconds, in JSON like `1m0s`.
    Duration,
    /// A number or a text, such as a port.
    IntOrString,
    /// An object of any kind: `RawExtension`.
    Raw,
    /// Any JSON, as bytes in a message: `FieldsV1` and `JSON`.
    Json,
    /// A message of the table.
    Message(Index),
}

/// Which message of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index(u16);

impl Type {
    /// Single what the table doesn't have. Nothing is said of its members either.
    pub const UNKNOWN: Self = Self::one(Single::Unknown);

    /// Single a member, or of what a key of a map leads to. JSON's names count: what protobuf keeps in a message of its own, and JSON
    /// doesn't, is a member here. `apiVersion` and `kind` are in no message and so unknown.
    #[must_use]
    pub fn member(self, name: &str) -> Self {
        match (self.wrap, self.of) {
            (Wrap::Map, of) => Self::one(of),
            (Wrap::One, Single::Message(index)) => TABLE
                .messages
                .get(usize::from(index.0))
                .and_then(|message| message.named(name))
                .unwrap_or(Self::UNKNOWN),
            _ => Self::UNKNOWN,
        }
    }

    /// Single an element of a list.
    #[must_use]
    pub fn element(self) -> Self {
        match (self.wrap, self.of) {
            (Wrap::List, of) => Self::one(of),
            // Lists with a name of their own are messages in protobuf, and so is what may be one value or several.
            (Wrap::One, Single::Message(_)) => self
                .fields()
                .iter()
                .find(|field| field.name.is_empty() && field.holds.is_list())
                .map_or(Self::UNKNOWN, |field| field.holds.element()),
            _ => Self::UNKNOWN,
        }
    }

    /// The field with a number, where this is a message and has one.
    #[must_use]
    pub fn field(self, number: u32) -> Option<&'static Field> {
        let fields = self.fields();
        // Most messages count their fields from 1 without a gap.
        let usual = number
            .checked_sub(1)
            .and_then(|index| fields.get(usize::try_from(index).ok()?));
        match usual {
            Some(field) if field.number == number => usual,
            _ => fields
                .binary_search_by_key(&number, |field| field.number)
                .ok()
                .and_then(|index| fields.get(index)),
        }
    }

    /// Whether nothing is known of it.
    #[must_use]
    pub fn is_unknown(self) -> bool {
        self.of == Single::Unknown
    }

    /// Whether it is one value of bytes, which are base64 in JSON.
    #[must_use]
    pub fn is_bytes(self) -> bool {
        self.is(Single::Bytes)
    }

    /// Whether it is one quantity, such as `500Mi`: a text or a number in JSON.
    #[must_use]
    pub fn is_quantity(self) -> bool {
        self.is(Single::Quantity)
    }

    /// Whether it is one time: a text by RFC 3339 in JSON.
    #[must_use]
    pub fn is_time(self) -> bool {
        self.is(Single::Time) || self.is(Single::MicroTime)
    }

    /// Whether it is one duration: a text such as `1m0s` in JSON.
    #[must_use]
    pub fn is_duration(self) -> bool {
        self.is(Single::Duration)
    }

    /// Whether it is one value that is a number or a text, such as a port.
    #[must_use]
    pub fn is_int_or_string(self) -> bool {
        self.is(Single::IntOrString)
    }

    /// Whether it is a list. (What may be one value or several isn't.)
    #[must_use]
    pub fn is_list(self) -> bool {
        self.wrap == Wrap::List
    }

    /// Whether it is a map, whose keys are texts.
    #[must_use]
    pub fn is_map(self) -> bool {
        self.wrap == Wrap::Map
    }

    /// What one of it is: an element of a list, what a key of a map leads to, or the value itself.
    #[must_use]
    pub fn single(self) -> Single {
        self.of
    }

    fn is(self, of: Single) -> bool {
        self == Self::one(of)
    }

    const fn one(of: Single) -> Self {
        Self { wrap: Wrap::One, of }
    }

    const fn message(index: u16) -> Self {
        Self::one(Single::Message(Index(index)))
    }

    /// All fields, where this is a message.
    pub(super) fn fields(self) -> &'static [Field] {
        match (self.wrap, self.of) {
            (Wrap::One, Single::Message(index)) => TABLE
                .messages
                .get(usize::from(index.0))
                .map_or(&[], |message| &message.fields),
            _ => &[],
        }
    }
}

/// A field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// As in protobuf.
    pub number: u32,
    /// As in JSON. Empty where JSON has what the field holds in place of the message: its members are then the message's.
    pub name: &'static str,
    /// What it holds.
    pub holds: Type,
}

struct Message {
    /// By number.
    fields: Box<[Field]>,
    /// By name, with those of fields that have none.
    named: Box<[(&'static str, Type)]>,
}

impl Message {
    fn named(&self, name: &str) -> Option<Type> {
        let index = self.named.binary_search_by_key(&name, |(name, _)| name).ok()?;
        self.named.get(index).map(|(_, holds)| *holds)
    }
}

struct Table {
    messages: Box<[Message]>,
    /// Versions and messages by kind.
    kinds: HashMap<&'static str, Vec<(&'static str, u16)>>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| Table::read(include_str!("schema.txt")));

impl Table {
    /// A line that can't be read is left out, which makes a type unknown: a test holds that there is none.
    fn read(text: &'static str) -> Self {
        let numbers: HashMap<&str, u16> = text
            .lines()
            .filter(|line| begins_message(line))
            .zip(0..)
            .collect();
        let mut fields: Vec<Vec<Field>> = Vec::with_capacity(numbers.len());
        let mut kinds: HashMap<&str, Vec<(&str, u16)>> = HashMap::new();
        for line in text.lines() {
            if begins_message(line) {
                fields.push(Vec::new());
            } else if let Some((version, kind, message)) = kind(line) {
                if let Some(message) = numbers.get(message) {
                    kinds.entry(kind).or_default().push((version, *message));
                }
            } else if let (Some(field), Some(last)) = (field(line, &numbers), fields.last_mut()) {
                last.push(field);
            }
        }
        let named: Vec<Box<[_]>> = fields
            .iter()
            .map(|own| {
                let mut named = Vec::new();
                name(own, &fields, &mut named, 0);
                named.sort_unstable_by_key(|(name, _)| *name);
                named.into()
            })
            .collect();
        let messages = fields.into_iter().zip(named).map(|(fields, named)| Message {
            fields: fields.into(),
            named,
        });
        Self {
            messages: messages.collect(),
            kinds,
        }
    }
}

fn begins_message(line: &str) -> bool {
    !line.starts_with(['#', ' ', '='])
}

/// `= apps/v1 Deployment apps/v1.Deployment`
fn kind(line: &'static str) -> Option<(&'static str, &'static str, &'static str)> {
    let mut words = line.strip_prefix("= ")?.split(' ');
    Some((words.next()?, words.next()?, words.next()?))
}

/// ` 11 labels {text`
fn field(line: &'static str, numbers: &HashMap<&str, u16>) -> Option<Field> {
    let mut words = line.strip_prefix(' ')?.split(' ');
    let number = words.next()?.parse().ok()?;
    let name = words.next().filter(|name| *name != "-").unwrap_or_default();
    let holds = words.next()?;
    let (wrap, word) = if let Some(word) = holds.strip_prefix('[') {
        (Wrap::List, word)
    } else if let Some(word) = holds.strip_prefix('{') {
        (Wrap::Map, word)
    } else {
        (Wrap::One, holds)
    };
    let of = match word {
        "text" => Single::Text,
        "bytes" => Single::Bytes,
        "bool" => Single::Bool,
        "int" => Single::Int,
        "double" => Single::Double,
        "quantity" => Single::Quantity,
        "time" => Single::Time,
        "microtime" => Single::MicroTime,
        "duration" => Single::Duration,
        "intorstring" => Single::IntOrString,
        "raw" => Single::Raw,
        "fieldset" | "json" => Single::Json,
        message => Single::Message(Index(*numbers.get(message)?)),
    };
    Some(Field {
        number,
        name,
        holds: Type { wrap, of },
    })
}

/// Collects names, those of messages whose members JSON has in place of them, too. Those lie in each other three deep at most.
fn name(own: &[Field], all: &[Vec<Field>], named: &mut Vec<(&'static str, Type)>, depth: usize) {
    for field in own {
        if !field.name.is_empty() {
            named.push((field.name, field.holds));
        } else if let (Wrap::One, Single::Message(index)) = (field.holds.wrap, field.holds.of)
            && let Some(inner) = all.get(usize::from(index.0))
            && depth < 8
        {
            name(inner, all, named, depth + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_of(version: &str, kind: &str, path: &[&str]) -> Type {
        let root = lookup(version, kind).unwrap();
        path.iter().fold(root, |at, name| match *name {
            "*" => at.element(),
            name => at.member(name),
        })
    }

    #[test]
    fn every_line_is_read() {
        let text = include_str!("schema.txt");
        let lines = text.lines().filter(|line| !line.starts_with('#')).count();
        let fields: usize = TABLE.messages.iter().map(|message| message.fields.len()).sum();
        let kinds: usize = TABLE.kinds.values().map(Vec::len).sum();
        assert_eq!(lines, TABLE.messages.len() + fields + kinds);
        assert!(TABLE.messages.len() > 500 && kinds > 300);
        for message in &TABLE.messages {
            assert!(message.fields.is_sorted_by(|a, b| a.number < b.number));
            assert!(
                message.named.is_sorted_by(|a, b| a.0 < b.0),
                "a name stands twice"
            );
        }
    }

    #[test]
    fn fields_are_found_by_name() {
        assert!(type_of("v1", "Secret", &["data", "password"]).is_bytes());
        assert!(!type_of("v1", "Secret", &["stringData", "password"]).is_bytes());
        assert!(type_of("v1", "SecretList", &["items", "*", "data", "x"]).is_bytes());
        assert!(type_of("v1", "ConfigMap", &["binaryData", "x"]).is_bytes());
        assert!(type_of("v1", "ConfigMap", &["metadata", "creationTimestamp"]).is_time());
        let limits = [
            "spec",
            "template",
            "spec",
            "containers",
            "*",
            "resources",
            "limits",
            "cpu",
        ];
        assert!(type_of("apps/v1", "Deployment", &limits).is_quantity());
        let port = ["spec", "containers", "*", "livenessProbe", "httpGet", "port"];
        assert!(type_of("v1", "Pod", &port).is_int_or_string());
        // Two messages deep in protobuf.
        let config = type_of("v1", "Pod", &["spec", "volumes", "*", "secret", "secretName"]);
        assert_eq!(config.single(), Single::Text);
        // A list with a name of its own, in a map.
        let extra = ["spec", "extra", "scopes", "*"];
        assert_eq!(
            type_of("authorization.k8s.io/v1", "SubjectAccessReview", &extra).single(),
            Single::Text
        );
        // One schema, or several.
        let schema = [
            "spec",
            "versions",
            "*",
            "schema",
            "openAPIV3Schema",
            "properties",
            "a",
            "items",
        ];
        for end in [&["description"][..], &["*", "description"]] {
            let path: Vec<&str> = schema.iter().chain(end).copied().collect();
            let found = type_of("apiextensions.k8s.io/v1", "CustomResourceDefinition", &path);
            assert_eq!(found.single(), Single::Text, "{path:?}");
        }
        for unknown in [
            &["kind"][..],
            &["spec"],
            &["data", "a", "b"],
            &["data", "*"],
            &["*"],
        ] {
            assert!(type_of("v1", "Secret", unknown).is_unknown(), "{unknown:?}");
        }
    }

    #[test]
    fn fields_are_found_by_number() {
        let secret = lookup("v1", "Secret").unwrap();
        let data = secret.field(2).unwrap();
        assert_eq!((data.name, data.holds.is_map()), ("data", true));
        assert_eq!(data.holds.single(), Single::Bytes);
        let metadata = secret.field(1).unwrap().holds;
        // There is a gap in the numbers.
        assert_eq!(metadata.field(17).unwrap().name, "managedFields");
        assert_eq!(metadata.field(16), None);
        assert_eq!(metadata.field(0), None);
        assert_eq!(metadata.field(u32::MAX), None);
        assert_eq!(data.holds.field(1), None);
        assert_eq!(Type::UNKNOWN.field(1), None);
    }

    #[test]
    fn resources_are_found_by_their_kinds() {
        for (version, resource, kind) in [
            ("v1", "secrets", "Secret"),
            ("v1", "endpoints", "Endpoints"),
            ("v1", "componentstatuses", "ComponentStatus"),
            ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
            ("networking.k8s.io/v1", "ingresses", "Ingress"),
            ("apps/v1", "deployments", "Deployment"),
        ] {
            let found = of_resource(version, resource);
            assert!(found.is_some() && found == lookup(version, kind), "{resource}");
        }
        for (version, resource) in [
            ("v1", "deployments"),
            ("v1", "secret"),
            ("v1", ""),
            ("apps/v1", "secrets"),
        ] {
            assert_eq!(of_resource(version, resource), None, "{resource}");
        }
    }

    #[test]
    fn kinds_are_found_in_their_versions_alone() {
        assert!(lookup("v1", "Deployment").is_none());
        assert!(lookup("apps/v1", "Deployment").is_some());
        assert!(lookup("example.com/v1", "Secret").is_none());
        assert!(lookup("", "").is_none());
        assert!(lookup("policy/v1", "DeleteOptions").is_some());
        assert!(lookup("v1", "Status").is_some());
        assert!(lookup("meta.k8s.io/v1", "Table").is_none());
    }
}
