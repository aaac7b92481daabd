//! Variables whose values are no text. `process.env` of the runtime specification is text, so such a variable travels as a
//! NUL, which no other one can contain, and the hexadecimal digits of its bytes: a word between engine and supervisor, like
//! the sources of the pod's own mounts. Execs inherit it with the process that they are copied from.

use std::fmt::Write as _;

/// `name=value`, or the word for it.
pub(super) fn variable(name: &str, value: &[u8]) -> String {
    if let Ok(value) = std::str::from_utf8(value) {
        return format!("{name}={value}");
    }
    let mut word = String::from('\0');
    for byte in name.bytes().chain([b'=']).chain(value.iter().copied()) {
        write!(word, "{byte:02x}").expect("writing to a string can't fail");
    }
    word
}

#[cfg(test)]
mod tests {
    use super::variable;

    #[test]
    fn text_is_itself_and_bytes_are_digits() {
        assert_eq!(variable("A", "é".as_bytes()), "A=é");
        assert_eq!(variable("A", &[0xff, 0x01]), "\x00413dff01");
    }
}
