//! SHA-256 digests as images name them.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The SHA-256 of something, written `sha256:` and 64 lower-case hexadecimal digits. No other algorithm is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub(crate) fn from_hash(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }

    /// The 64 digits: the name of a file in the store.
    #[must_use]
    pub fn hex(&self) -> String {
        let digit = |nibble: u8| char::from(HEX_DIGITS[usize::from(nibble & 15)]);
        self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
    }

    /// Reads the 64 digits alone.
    ///
    /// # Errors
    /// Anything but 64 lower-case hexadecimal digits.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        let refused = || DigestError { text: hex.chars().take(SHOWN_CHARACTERS_MAX).collect() };
        let value = |digit: u8| HEX_DIGITS.iter().position(|known| *known == digit);
        let digits = hex.as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(refused());
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) = (value(pair[0]).ok_or_else(refused)?, value(pair[1]).ok_or_else(refused)?);
            *byte = u8::try_from(high * 16 + low).map_err(|_beyond| refused())?;
        }
        Ok(Self(bytes))
    }
}

/// How much of a wrong digest is shown.
const SHOWN_CHARACTERS_MAX: usize = 100;

/// A text that is no digest of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not `sha256:` and 64 lower-case hexadecimal digits")]
pub struct DigestError {
    text: String,
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let refused = || DigestError { text: text.chars().take(SHOWN_CHARACTERS_MAX).collect() };
        Self::from_hex(text.strip_prefix("sha256:").ok_or_else(refused)?).map_err(|_hex| refused())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_written_one_way_only() {
        let good = format!("sha256:{}", "0123456789abcdef".repeat(4));
        assert_eq!(good.parse::<Digest>().unwrap().to_string(), good);
        let upper = good.to_uppercase();
        let cut = &good[..good.len() - 1];
        let long = format!("{good}0");
        for bad in [&upper, cut, &long, "", "sha256:", "md5:00", "sha256:../../etc/passwd", &good[7..], "sha256:\0"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(format!("sha256:{}", "é".repeat(32)).parse::<Digest>().is_err());
    }

    #[test]
    fn the_empty_digest_is_known() {
        let known = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), known);
    }
}
