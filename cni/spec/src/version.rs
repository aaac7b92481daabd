//! Versions of the specification.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The versions that are spoken, oldest first.
pub const SUPPORTED: [Version; 3] = [Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

/// A version of the specification. 0.4.0 and 1.0.0 differ in the configuration list and in `ips[].version`, 1.0.0 and
/// 1.1.0 in GC, STATUS and a few more words of links and routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Version {
    /// 0.4.0: CHECK, `prevResult`.
    V0_4_0,
    /// 1.0.0: lists only.
    V1_0_0,
    /// 1.1.0: GC and STATUS.
    V1_1_0,
}

/// A version that isn't spoken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cniVersion {asked:?} is not supported: 0.4.0, 1.0.0 and 1.1.0 are")]
pub struct VersionError {
    /// The version as it came.
    pub asked: String,
}

impl Version {
    /// The version's text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

impl TryFrom<String> for Version {
    type Error = VersionError;
    fn try_from(asked: String) -> Result<Self, VersionError> {
        SUPPORTED.into_iter().find(|version| version.as_str() == asked).ok_or(VersionError { asked })
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.as_str().to_owned()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The answer to the VERSION command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionInfo {
    /// The version in which this answer is written.
    pub cni_version: Version,
    /// The versions that the plugin speaks; ones that are unknown here too.
    pub supported_versions: Vec<String>,
}

impl VersionInfo {
    /// What the bundled plugins answer.
    #[must_use]
    pub fn ours() -> Self {
        Self {
            cni_version: Version::V1_1_0,
            supported_versions: SUPPORTED.iter().map(|version| version.to_string()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let info = serde_json::to_string(&VersionInfo::ours()).unwrap();
        assert_eq!(info, r#"{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}"#);
        let error = serde_json::from_str::<Version>("\"0.3.1\"").unwrap_err().to_string();
        assert!(error.contains("0.3.1") && error.contains("1.1.0"), "{error}");
    }
}
