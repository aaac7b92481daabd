//! `CNI_ARGS`: `KEY=value;KEY=value`.

use std::collections::BTreeMap;

/// Longest `CNI_ARGS` that is read; a pod's names need a few hundred bytes.
const ARGS_BYTES_MAX: usize = 16 * 1024;

/// Why `CNI_ARGS` can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// A part has no `=` or an empty key.
    #[error("CNI_ARGS: {part:?} is not KEY=value")]
    Pair {
        /// The part as it came.
        part: String,
    },
    /// A key or value would break the list apart, or end the variable.
    #[error("CNI_ARGS: the value of {key} may hold neither ';' nor NUL")]
    Separator {
        /// The key of the value.
        key: String,
    },
    /// Longer than is read.
    #[error("CNI_ARGS has {bytes} bytes, at most {ARGS_BYTES_MAX} are read")]
    Long {
        /// Its length.
        bytes: usize,
    },
}

/// The pairs of `CNI_ARGS`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Args(BTreeMap<String, String>);

/// What a Kubernetes runtime tells a plugin of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodArgs {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_INFRA_CONTAINER_ID`: the sandbox.
    pub sandbox: String,
    /// `K8S_POD_UID`.
    pub uid: String,
}

impl Args {
    /// Reads the variable's text. Empty parts are passed over, of equal keys the last one counts.
    pub fn parse(text: &str) -> Result<Self, ArgsError> {
        if text.len() > ARGS_BYTES_MAX {
            return Err(ArgsError::Long { bytes: text.len() });
        }
        let mut pairs = BTreeMap::new();
        for part in text.split(';').filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((key, value)) if !key.is_empty() => pairs.insert(key.to_owned(), value.to_owned()),
                _ => return Err(ArgsError::Pair { part: part.to_owned() }),
            };
        }
        Ok(Self(pairs))
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The variable's text.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(";")
    }
}

impl PodArgs {
    /// The variable for a plugin. `IgnoreUnknown` lets one that doesn't know the pod's words pass over them.
    pub fn args(&self) -> Result<Args, ArgsError> {
        let mut pairs = BTreeMap::from([("IgnoreUnknown".to_owned(), "1".to_owned())]);
        for (key, value) in [
            ("K8S_POD_NAMESPACE", &self.namespace),
            ("K8S_POD_NAME", &self.name),
            ("K8S_POD_INFRA_CONTAINER_ID", &self.sandbox),
            ("K8S_POD_UID", &self.uid),
        ] {
            if value.contains([';', '\0']) {
                return Err(ArgsError::Separator { key: key.to_owned() });
            }
            pairs.insert(key.to_owned(), value.clone());
        }
        Ok(Args(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_there_and_back() {
        let pod = PodArgs { namespace: "default".into(), name: "web".into(), sandbox: "ab".into(), uid: "u".into() };
        let text = pod.args().unwrap().text();
        assert_eq!(
            text,
            "IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID=ab;K8S_POD_NAME=web;K8S_POD_NAMESPACE=default;K8S_POD_UID=u"
        );
        assert_eq!(Args::parse(&text).unwrap().get("K8S_POD_NAME"), Some("web"));
        let split = PodArgs { name: "web;K8S_POD_NAMESPACE=kube-system".into(), ..pod };
        assert_eq!(split.args(), Err(ArgsError::Separator { key: "K8S_POD_NAME".into() }));
    }

    #[test]
    fn bad_text() {
        assert!(Args::parse("A").is_err());
        assert!(Args::parse("=1").is_err());
        assert!(Args::parse(&"A=1;".repeat(5000)).is_err());
        assert_eq!(Args::parse(";;A=b=c;").unwrap().get("A"), Some("b=c"));
    }
}
