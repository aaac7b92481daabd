//! YAML as a tree that knows where each piece stands, and the cursor that reads it field by field.

use std::{cell::RefCell, collections::BTreeMap, fmt};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::{error::Mistake, words};

/// A YAML value, positions kept on every value and key.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Node {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        i64::try_from(value).map(Node::Integer).map_err(|_| E::custom("number too large: it must be below 2^63"))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = access.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = access.next_entry()? {
            map.push(entry);
        }
        Ok(Node::Map(map))
    }
}

/// Where a piece of text stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

impl Place {
    pub(crate) fn of<T>(spanned: &Spanned<T>) -> Self {
        Self { line: spanned.referenced.line(), column: spanned.referenced.column() }
    }
}

/// Collects all mistakes of a file; reading goes on after each, so that one run names them all.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) file: String,
    pub(crate) mistakes: RefCell<Vec<Mistake>>,
}

/// Most mistakes that are told of one file: more is noise.
const MISTAKES_MAX: usize = 50;

impl Reader {
    pub(crate) fn say(&self, place: Place, field: &str, message: impl Into<String>) {
        let mut mistakes = self.mistakes.borrow_mut();
        if mistakes.len() < MISTAKES_MAX {
            mistakes.push(Mistake {
                file: self.file.clone(),
                line: place.line,
                column: place.column,
                field: field.to_owned(),
                message: message.into(),
            });
        }
    }
}

/// One value under the cursor.
#[derive(Debug, Clone)]
pub(crate) struct Value<'a> {
    reader: &'a Reader,
    pub(crate) node: &'a Node,
    pub(crate) place: Place,
    pub(crate) path: String,
}

impl<'a> Value<'a> {
    pub(crate) fn root(reader: &'a Reader, node: &'a Spanned<Node>) -> Self {
        Self { reader, node: &node.value, place: Place::of(node), path: String::new() }
    }

    pub(crate) fn file(&self) -> &str {
        &self.reader.file
    }

    pub(crate) fn wrong(&self, message: impl Into<String>) {
        self.reader.say(self.place, &self.path, message);
    }

    fn not_a<T>(&self, wanted: &str) -> Option<T> {
        self.wrong(format!("must be {wanted}, but is {}", self.node.kind()));
        None
    }

    pub(crate) fn text(&self) -> Option<&'a str> {
        match self.node {
            Node::Text(text) => Some(text),
            Node::Integer(_) | Node::Float(_) | Node::Boolean(_) => {
                self.wrong(format!("must be a string, but is {}; put it in quotes", self.node.kind()));
                None
            }
            _ => self.not_a("a string"),
        }
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        match self.node {
            Node::Boolean(value) => Some(*value),
            _ => self.not_a("true or false"),
        }
    }

    /// A whole number within bounds.
    pub(crate) fn integer(&self, min: i64, max: i64) -> Option<i64> {
        match self.node {
            Node::Integer(value) if (min..=max).contains(value) => Some(*value),
            Node::Integer(value) => {
                self.wrong(format!("must be from {min} to {max}, but is {value}"));
                None
            }
            _ => self.not_a("a whole number"),
        }
    }

    /// A scalar as text, for words that may look like numbers (quantities, ports).
    pub(crate) fn scalar(&self) -> Option<String> {
        match self.node {
            Node::Text(text) => Some(text.clone()),
            Node::Integer(value) => Some(value.to_string()),
            Node::Float(value) => Some(value.to_string()),
            _ => self.not_a("a string or a number"),
        }
    }

    pub(crate) fn list(&self) -> Vec<Value<'a>> {
        match self.node {
            Node::List(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| Value {
                    reader: self.reader,
                    node: &item.value,
                    place: Place::of(item),
                    path: format!("{}[{index}]", self.path),
                })
                .collect(),
            Node::Null => Vec::new(),
            _ => self.not_a("a list").unwrap_or_default(),
        }
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.list().iter().filter_map(|item| item.text().map(str::to_owned)).collect()
    }

    pub(crate) fn fields(&self) -> Option<Fields<'a>> {
        match self.node {
            Node::Map(entries) => Some(Fields { value: self.clone(), entries, known: Vec::new() }),
            Node::Null => Some(Fields { value: self.clone(), entries: &[], known: Vec::new() }),
            _ => self.not_a("a map"),
        }
    }

    pub(crate) fn text_map(&self) -> BTreeMap<String, String> {
        let Node::Map(entries) = self.node else {
            return if matches!(self.node, Node::Null) {
                BTreeMap::new()
            } else {
                self.not_a("a map").unwrap_or_default()
            };
        };
        entries
            .iter()
            .filter_map(|(key, node)| {
                let value = Value {
                    reader: self.reader,
                    node: &node.value,
                    place: Place::of(node),
                    path: format!("{}.{}", self.path, key.value),
                };
                Some((key.value.clone(), value.text()?.to_owned()))
            })
            .collect()
    }

    /// One of a few words, each with its meaning.
    pub(crate) fn word<T: Clone>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(value.clone());
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).filter(|word| !word.is_empty()).collect();
        let hint = words::nearest(text, known.iter().copied())
            .map_or_else(|| format!("it is one of {}", known.join(", ")), |near| format!("did you mean `{near}`?"));
        self.wrong(format!("`{text}` is not known here; {hint}"));
        None
    }
}

/// A map under the cursor. Every field is taken by name; what is left at the end is a mistake.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    pub(crate) value: Value<'a>,
    entries: &'a [(Spanned<String>, Spanned<Node>)],
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    fn path_of(&self, name: &str) -> String {
        if self.value.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.value.path) }
    }

    /// The field's value; `null` counts as absent, as in Kubernetes.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<Value<'a>> {
        self.known.push(name);
        let (_, node) = self.entries.iter().find(|(key, _)| key.value == name)?;
        (!matches!(node.value, Node::Null)).then(|| Value {
            reader: self.value.reader,
            node: &node.value,
            place: Place::of(node),
            path: self.path_of(name),
        })
    }

    /// Whether there is a field that nobody took; `finish` tells it.
    pub(crate) fn has_more(&self) -> bool {
        self.entries.iter().any(|(key, _)| !self.known.contains(&key.value.as_str()))
    }

    /// Like `take`, but its absence is a mistake.
    pub(crate) fn need(&mut self, name: &'static str) -> Option<Value<'a>> {
        let value = self.take(name);
        if value.is_none() {
            self.value.reader.say(self.value.place, &self.path_of(name), "is required");
        }
        value
    }

    /// Tells each field that nobody took: `refused` are real fields with the reason why they don't work here.
    pub(crate) fn finish(self, refused: &[(&'static str, &str)]) {
        for (key, node) in self.entries {
            let name = key.value.as_str();
            // An empty value of a refused field asks for nothing (`kubectl get -o yaml` prints many).
            if self.known.contains(&name) {
                continue;
            }
            let message = if let Some((_, reason)) = refused.iter().find(|(field, _)| *field == name) {
                if is_empty(&node.value) {
                    continue;
                }
                format!("field `{}` is not supported: {reason}", self.path_of(name))
            } else {
                let words = self.known.iter().copied().chain(refused.iter().map(|(field, _)| *field));
                match words::nearest(name, words) {
                    Some(near) => format!("unknown field `{name}`; did you mean `{near}`?"),
                    None => format!("unknown field `{name}`"),
                }
            };
            self.value.reader.say(Place::of(key), &self.path_of(name), message);
        }
    }
}

fn is_empty(node: &Node) -> bool {
    match node {
        Node::Null | Node::Boolean(false) => true,
        Node::Text(text) => text.is_empty(),
        Node::List(items) => items.is_empty(),
        Node::Map(entries) => entries.is_empty(),
        Node::Boolean(true) | Node::Integer(_) | Node::Float(_) => false,
    }
}
