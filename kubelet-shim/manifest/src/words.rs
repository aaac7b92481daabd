//! Names as Kubernetes checks them, and the nearest word to a misspelt one.

use crate::tree::Value;

/// Longest DNS-1123 label.
const LABEL_BYTES_MAX: usize = 63;
/// Longest DNS-1123 subdomain.
const SUBDOMAIN_BYTES_MAX: usize = 253;
/// Longest port name (an IANA service name).
const PORT_NAME_BYTES_MAX: usize = 15;

/// The word that is at most two edits (of at least three times as many letters) away.
pub(crate) fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Distance costs the product of the lengths, and the word is the manifest's.
    if word.len() > LABEL_BYTES_MAX {
        return None;
    }
    words
        .map(|known| (distance(&word.to_ascii_lowercase(), &known.to_ascii_lowercase()), known))
        .filter(|(distance, known)| *distance <= 2.min(known.len() / 3).max(usize::from(known.len() > 2)))
        .min()
        .map(|(_, known)| known)
}

fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (corner + usize::from(a != *b)).min(above + 1).min(row[j] + 1);
            corner = above;
        }
    }
    row[right.len()]
}

pub(crate) fn is_label(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= LABEL_BYTES_MAX
        && bytes.iter().all(|b| inside(*b) || *b == b'-')
        && bytes.first().is_some_and(|b| inside(*b))
        && bytes.last().is_some_and(|b| inside(*b))
}

pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_BYTES_MAX && text.split('.').all(is_label)
}

fn is_port_name(text: &str) -> bool {
    is_label(text)
        && text.len() <= PORT_NAME_BYTES_MAX
        && !text.contains("--")
        && text.bytes().any(|b| b.is_ascii_lowercase())
}

/// `prefix/name` or `name`, as keys of labels and annotations are.
fn is_qualified(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(is_subdomain) && is_label_word(name) && !name.is_empty()
}

/// Letters, digits, `-_.`, beginning and ending with a letter or digit; may be empty.
fn is_label_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_BYTES_MAX
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && bytes.first().is_none_or(u8::is_ascii_alphanumeric)
        && bytes.last().is_none_or(u8::is_ascii_alphanumeric)
}

impl Value<'_> {
    fn checked(&self, good: fn(&str) -> bool, rule: &str) -> Option<String> {
        let text = self.text()?;
        if good(text) {
            return Some(text.to_owned());
        }
        self.wrong(format!("{:?} is not valid: {rule}", shortened(text)));
        None
    }

    pub(crate) fn label_name(&self) -> Option<String> {
        self.checked(is_label, "use at most 63 lower-case letters, digits and `-`, not at the ends")
    }

    pub(crate) fn subdomain_name(&self) -> Option<String> {
        self.checked(is_subdomain, "use lower-case letters, digits, `-` and `.`, a letter or digit at each end")
    }

    pub(crate) fn port_name(&self) -> Option<String> {
        self.checked(is_port_name, "use at most 15 lower-case letters, digits and `-`, with at least one letter")
    }

    /// A path that begins with a slash and never goes up.
    pub(crate) fn absolute_path(&self) -> Option<String> {
        self.checked(
            |path| path.starts_with('/') && !path.contains('\0') && !path.split('/').any(|part| part == ".."),
            "it must begin with `/` and not hold `..`",
        )
    }

    /// A map of labels, keys and values checked.
    pub(crate) fn labels(&self) -> std::collections::BTreeMap<String, String> {
        let labels = self.annotations();
        for (key, value) in &labels {
            if !is_label_word(value) {
                self.wrong(format!(
                    "value {:?} of label `{key}` is not valid: use at most 63 letters, digits, `-`, `_` and `.`",
                    shortened(value)
                ));
            }
        }
        labels
    }

    /// A map of annotations, keys checked.
    pub(crate) fn annotations(&self) -> std::collections::BTreeMap<String, String> {
        let map = self.text_map();
        for key in map.keys().filter(|key| !is_qualified(key)) {
            self.wrong(format!("key {:?} is not valid: it is `name` or `prefix/name`", shortened(key)));
        }
        map
    }
}

/// A hostile word must not fill the screen.
pub(crate) fn shortened(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(SHOWN_CHARS_MAX).chain(['…']).collect()
}
