//! The error answer of a plugin.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The specification's error codes; 100 and above are the plugins' own.
pub mod code {
    /// The configuration's version is not spoken.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A key of the configuration is not served.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or gone; DEL isn't needed.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A required `CNI_*` variable is missing or bad.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO_FAILURE: u32 = 5;
    /// The content can't be decoded.
    pub const DECODING_FAILURE: u32 = 6;
    /// The configuration is not valid.
    pub const INVALID_CONFIG: u32 = 7;
    /// Try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: the plugin can't serve ADD.
    pub const PLUGIN_NOT_AVAILABLE: u32 = 50;
    /// STATUS: the plugin can't serve ADD, and containers that exist have lost their connection.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// The first code that is a plugin's own.
    pub const PLUGIN_OWN: u32 = 100;
}

/// What a plugin prints when it fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniError {
    /// The version in which this answer is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni_version: Option<String>,
    /// One of [`code`].
    pub code: u32,
    /// One short sentence.
    pub msg: String,
    /// More, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.msg, self.code)?;
        match &self.details {
            Some(details) if !details.is_empty() => write!(f, ": {details}"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for CniError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specification_s_example() {
        let text = r#"{"cniVersion":"1.1.0","code":7,"msg":"Invalid Configuration","details":"Network 192.168.0.0/31 too small to allocate from."}"#;
        let error: CniError = serde_json::from_str(text).unwrap();
        assert_eq!(error.code, code::INVALID_CONFIG);
        assert_eq!(serde_json::to_string(&error).unwrap(), text);
        assert_eq!(
            error.to_string(),
            "Invalid Configuration (code 7): Network 192.168.0.0/31 too small to allocate from."
        );
    }
}
