//! A file of several documents.

use std::{cell::RefCell, collections::BTreeMap, fmt};

use serde_saphyr::Spanned;

use crate::{
    error::{ManifestErrors, Mistake},
    pod::{Metadata, Pod},
    read,
    tree::{Fields, Node, Reader, Value},
};

/// Longest manifest. etcd's limit for an object is 1.5 MiB; a file in a watched directory may be anybody's.
pub const MANIFEST_BYTES_MAX: usize = 1024 * 1024;
/// Most documents in one file.
pub const PODS_MAX: usize = 500;
/// Deepest nesting; a pod needs about ten.
const DEPTH_MAX: usize = 40;
/// Most values in one file, aliases expanded: an alias bomb ends here.
const NODES_MAX: usize = 100_000;

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// A pod.
    Pod(Box<Pod>),
    /// A ConfigMap: checked and kept; nothing can refer to it yet.
    ConfigMap(Named),
    /// A Secret: checked and kept; nothing can refer to it yet.
    Secret(Named),
}

/// Named data.
#[derive(Clone, PartialEq, Eq)]
pub struct Named {
    /// Name, namespace, labels.
    pub metadata: Metadata,
    /// `data` as written (of a Secret: base64).
    pub data: BTreeMap<String, String>,
    /// `stringData` of a Secret.
    pub plain: BTreeMap<String, String>,
}

/// Tells the keys, never the values: they may be secrets.
impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.data.keys().chain(self.plain.keys()).collect();
        f.debug_struct("Named").field("metadata", &self.metadata).field("keys", &keys).finish()
    }
}

/// Reads all documents of a manifest.
///
/// `file` is the name that messages use. No document is returned when one of them is wrong.
///
/// # Errors
/// Everything that is wrong with the text.
pub fn parse(file: &str, text: &str) -> Result<Vec<Document>, ManifestErrors> {
    let alone = |line, column, message: String| {
        let mistake = Mistake { file: file.to_owned(), line, column, field: String::new(), message };
        ManifestErrors(vec![mistake])
    };
    if text.len() > MANIFEST_BYTES_MAX {
        return Err(alone(
            0,
            0,
            format!("is {} bytes long; a manifest has at most {MANIFEST_BYTES_MAX} bytes", text.len()),
        ));
    }
    let roots = tree(text).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |place| (place.line(), place.column()));
        alone(line, column, plain_message(&error))
    })?;
    let reader = Reader { file: file.to_owned(), mistakes: RefCell::default() };
    let mut documents = Vec::new();
    let mut keys = BTreeMap::new();
    for root in roots.iter().filter(|root| !matches!(root.value, Node::Null)) {
        let value = Value::root(&reader, root);
        let Some(document) = value.fields().and_then(document) else { continue };
        let (kind, metadata) = match &document {
            Document::Pod(pod) => ("Pod", &pod.metadata),
            Document::ConfigMap(named) => ("ConfigMap", &named.metadata),
            Document::Secret(named) => ("Secret", &named.metadata),
        };
        let key = (kind, metadata.namespace.clone(), metadata.name.clone());
        if let Some(line) = keys.insert(key, value.place.line) {
            value.wrong(format!(
                "{kind} `{}/{}` stands twice; it also begins at line {line}",
                metadata.namespace, metadata.name
            ));
        }
        documents.push(document);
    }
    let mut mistakes = reader.mistakes.into_inner();
    if !mistakes.is_empty() {
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        return Err(ManifestErrors(mistakes));
    }
    if documents.is_empty() {
        return Err(alone(0, 0, "holds no document; a pod begins with `apiVersion: v1` and `kind: Pod`".to_owned()));
    }
    Ok(documents)
}

fn tree(text: &str) -> Result<Vec<Spanned<Node>>, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_documents: PODS_MAX,
            max_nodes: NODES_MAX,
            max_events: 4 * NODES_MAX,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_total_scalar_bytes: 4 * MANIFEST_BYTES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: NODES_MAX,
            max_replay_stack_depth: 16,
        },
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options)
}

/// The parser's own sentence without the place, which stands before it already.
fn plain_message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.split(" at line ").next().unwrap_or(&text).trim().to_owned();
    let first = text.lines().next().unwrap_or_default();
    format!("is not valid YAML: {}", crate::words::shortened(first))
}

fn document(mut root: Fields<'_>) -> Option<Document> {
    let version = root.need("apiVersion").and_then(|value| Some((value.text()?, value)));
    let kind = root.need("kind").and_then(|value| Some((value.text()?, value)));
    let (Some((version, version_value)), Some((kind, kind_value))) = (version, kind) else { return None };
    match (version, kind) {
        ("v1", "Pod") => read::pod(root).map(|pod| Document::Pod(Box::new(pod))),
        ("v1", "ConfigMap") => named(root, &["binaryData"]).map(Document::ConfigMap),
        ("v1", "Secret") => named(root, &[]).map(Document::Secret),
        (_, "Pod" | "ConfigMap" | "Secret") => {
            version_value.wrong(format!("`{version}` is not known; a {kind} has `apiVersion: v1`"));
            None
        }
        (_, "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "CronJob") => {
            kind_value.wrong(format!(
                "a {kind} needs controllers, which a single host doesn't have: write its pod template as `kind: Pod`"
            ));
            None
        }
        (_, "Service" | "Ingress") => {
            kind_value.wrong(format!("a {kind} needs a cluster: publish a port with `ports[].hostPort` instead"));
            None
        }
        (_, other) => {
            let hint = match crate::words::nearest(other, ["Pod", "ConfigMap", "Secret"].into_iter()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "a manifest holds documents of kind Pod, ConfigMap or Secret".to_owned(),
            };
            kind_value.wrong(format!("kind `{}` is not known; {hint}", crate::words::shortened(other)));
            None
        }
    }
}

fn named(mut root: Fields<'_>, ignored: &[&'static str]) -> Option<Named> {
    for name in ignored {
        root.take(name);
    }
    root.take("immutable");
    root.take("type");
    let metadata = root.need("metadata").and_then(|value| read::metadata(&value));
    let data = root.take("data").map(|value| value.text_map()).unwrap_or_default();
    let plain = root.take("stringData").map(|value| value.text_map()).unwrap_or_default();
    root.finish(&[]);
    Some(Named { metadata: metadata?, data, plain })
}

#[cfg(test)]
mod tests;
