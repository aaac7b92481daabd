//! Names that become parts of paths, links and commands.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name of a network or plugin; a file name can be no longer either.
const NAME_BYTES_MAX: usize = 128;
/// Longest container id: it names a file of the cache. The specification sets no limit.
const CONTAINER_BYTES_MAX: usize = 200;
/// Longest name of a link: `IFNAMSIZ` less the NUL.
const INTERFACE_BYTES_MAX: usize = 15;

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing is named by it.
    #[error("{what} is empty")]
    Empty {
        /// What was to be named.
        what: &'static str,
    },
    /// It is longer than anything that has to hold it.
    #[error("{what} has {bytes} bytes, at most {max} are allowed")]
    Long {
        /// What was to be named.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// It holds a character that could change what the name means.
    #[error("{what} {name:?} may hold {allowed} only")]
    Character {
        /// What was to be named.
        what: &'static str,
        /// The name as it came.
        name: String,
        /// What may stand in it.
        allowed: &'static str,
    },
}

struct Rule {
    what: &'static str,
    max: usize,
    allowed: &'static str,
    first: fn(char) -> bool,
    rest: fn(char) -> bool,
}

fn alphanumeric(letter: char) -> bool {
    letter.is_ascii_alphanumeric()
}

/// A plugin's type becomes the name of a program: `../../bin/sh` was CVE-2021-20206.
const PLUGIN: Rule = Rule {
    what: "the plugin type",
    max: NAME_BYTES_MAX,
    allowed: "a-z, 0-9, '-' and '_', and begin with a letter or digit",
    first: |letter| letter.is_ascii_lowercase() || letter.is_ascii_digit(),
    rest: |letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-' || letter == '_',
};
const NETWORK: Rule = Rule {
    what: "the network's name",
    max: NAME_BYTES_MAX,
    allowed: "letters, digits, '_', '.' and '-', and begin with a letter or digit",
    first: alphanumeric,
    rest: |letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-'),
};
const CONTAINER: Rule = Rule { what: "the container id", max: CONTAINER_BYTES_MAX, ..NETWORK };
const INTERFACE: Rule = Rule {
    what: "the link's name",
    max: INTERFACE_BYTES_MAX,
    allowed: "letters, digits, '_', '.' and '-', and begin with a letter or digit",
    first: alphanumeric,
    rest: |letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-'),
};

impl Rule {
    fn check(&self, name: &str) -> Result<(), NameError> {
        let mut letters = name.chars();
        let Some(first) = letters.next() else { return Err(NameError::Empty { what: self.what }) };
        if name.len() > self.max {
            return Err(NameError::Long { what: self.what, bytes: name.len(), max: self.max });
        }
        if (self.first)(first) && letters.all(self.rest) {
            return Ok(());
        }
        Err(NameError::Character { what: self.what, name: name.to_owned(), allowed: self.allowed })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $rule:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the name; [`NameError`] says what is wrong with it.
            pub fn parse(name: impl Into<String>) -> Result<Self, NameError> {
                let name = name.into();
                $rule.check(&name)?;
                Ok(Self(name))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::parse(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The type of a plugin, which is the name of its program: no path can be made of it.
    PluginType,
    PLUGIN
);
name!(
    /// The name of a network; unique on the host.
    NetworkName,
    NETWORK
);
name!(
    /// The id under which a container (for us: a sandbox) is attached.
    ContainerName,
    CONTAINER
);
name!(
    /// The name of a network link.
    InterfaceName,
    INTERFACE
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2021_20206_a_type_is_never_a_path() {
        for bad in ["../../bin/sh", "/bin/sh", "a/b", ".", "..", "", "-rf", "Bridge", "a b", "a\0", "a\n"] {
            assert!(PluginType::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["bridge", "host-local", "cilium-cni", "10gig", "aws_cni"] {
            assert!(PluginType::parse(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn links_and_networks() {
        assert!(InterfaceName::parse("podwright0").is_ok());
        assert!(InterfaceName::parse("sixteen-letters0").is_err());
        assert!(InterfaceName::parse("a/b").is_err());
        assert!(NetworkName::parse("k8s.pod_network-1").is_ok());
        assert!(NetworkName::parse("../x").is_err());
        assert!(ContainerName::parse("f".repeat(64)).is_ok());
        assert!(ContainerName::parse("f".repeat(201)).is_err());
    }

    #[test]
    fn serde_checks_too() {
        assert!(serde_json::from_str::<PluginType>("\"../x\"").is_err());
        assert_eq!(serde_json::to_string(&PluginType::parse("bridge").unwrap()).unwrap(), "\"bridge\"");
    }
}
