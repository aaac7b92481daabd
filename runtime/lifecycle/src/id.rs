//! The two kinds of id.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Length of an id, in hexadecimal digits: 256 random bits, as other runtimes have it.
pub const ID_DIGITS: usize = 64;

/// Text that isn't an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id: {ID_DIGITS} lower-case hexadecimal digits are expected")]
pub struct BadId {
    /// The text, cut to a readable length.
    pub text: String,
}

fn check(text: &str) -> Result<(), BadId> {
    let good = text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if good { Ok(()) } else { Err(BadId { text: text.chars().take(80).collect() }) }
}

macro_rules! id {
    ($name:ident, $what:literal) => {
        #[doc = $what]
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The id made of 32 random bytes.
            pub fn from_random(bytes: [u8; ID_DIGITS / 2]) -> Self {
                use std::fmt::Write as _;
                let mut text = String::with_capacity(ID_DIGITS);
                for byte in bytes {
                    write!(text, "{byte:02x}").expect("writing to a string can't fail");
                }
                Self(text.into_boxed_str())
            }

            /// All digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 digits, for people.
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                check(text).map(|()| Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;

            fn try_from(text: String) -> Result<Self, BadId> {
                check(&text).map(|()| Self(text.into_boxed_str()))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.short())
            }
        }
    };
}

id!(SandboxId, "A sandbox's id.");
id!(ContainerId, "A container's id.");

#[cfg(test)]
mod tests {
    use super::{ContainerId, SandboxId};

    #[test]
    fn ids_are_64_lower_case_hexadecimal_digits() {
        let good = "0123456789abcdef".repeat(4);
        for (text, valid) in [
            (good.clone(), true),
            (good.to_uppercase(), false),
            (good[1..].to_owned(), false),
            (format!("{good}0"), false),
            (format!("{}/", &good[1..]), false),
            (format!("{}\0", &good[1..]), false),
            (String::new(), false),
            ("../".repeat(21) + "x", false),
        ] {
            assert_eq!(text.parse::<SandboxId>().is_ok(), valid, "{text:?}");
            let json = serde_json::to_string(&text).expect("a string");
            assert_eq!(serde_json::from_str::<ContainerId>(&json).is_ok(), valid, "{text:?}");
        }
    }

    #[test]
    fn random_bytes_make_an_id() {
        let id = ContainerId::from_random([0xa5; 32]);
        assert_eq!(id.as_str(), "a5".repeat(32));
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert_eq!(id.short(), "a5a5a5a5a5a5");
    }
}
