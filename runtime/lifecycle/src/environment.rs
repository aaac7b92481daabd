//! Variables. A value is bytes: the kernel and CRI know no encoding.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One variable.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentVariable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: EnvironmentValue,
}

/// Values are often secrets: only the name is printed.
impl fmt::Debug for EnvironmentVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

/// A variable's value: any bytes. In a record it is text, or a list of numbers where it is no UTF-8.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EnvironmentValue(Vec<u8>);

impl EnvironmentValue {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Values are often secrets.
impl fmt::Debug for EnvironmentValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl From<Vec<u8>> for EnvironmentValue {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&str> for EnvironmentValue {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written<T, B> {
    Text(T),
    Bytes(B),
}

impl Serialize for EnvironmentValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => Written::<&str, &[u8]>::Text(text),
            Err(_) => Written::Bytes(self.0.as_slice()),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EnvironmentValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Written::<String, Vec<u8>>::deserialize(deserializer)? {
            Written::Text(text) => text.into_bytes(),
            Written::Bytes(bytes) => bytes,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::EnvironmentVariable;

    #[test]
    fn any_bytes_survive_a_record_and_are_not_printed() {
        for (value, written) in [("text", "\"text\""), ("", "\"\"")] {
            let variable = EnvironmentVariable { name: "A".to_owned(), value: value.into() };
            let text = serde_json::to_string(&variable).expect("serializable");
            assert_eq!(text, format!("{{\"name\":\"A\",\"value\":{written}}}"));
            assert_eq!(serde_json::from_str::<EnvironmentVariable>(&text).expect(&text), variable);
        }
        let raw = EnvironmentVariable { name: "A".to_owned(), value: vec![0xff, b'x', 0xc3].into() };
        let text = serde_json::to_string(&raw).expect("serializable");
        assert_eq!(serde_json::from_str::<EnvironmentVariable>(&text).expect(&text), raw);
        assert_eq!(format!("{raw:?} {:?}", raw.value), "A=… …");
    }
}
