//! `vendor.com/class=device`.

use std::fmt;

/// A device's full name, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QualifiedName<'a> {
    vendor: &'a str,
    class: &'a str,
    device: &'a str,
}

impl<'a> QualifiedName<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        let (kind, device) = text.split_once('=').ok_or("has no \"=\": a name is vendor.com/class=device")?;
        let (vendor, class) = self::kind(kind)?;
        self::device(device)?;
        Ok(Self { vendor, class, device })
    }
}

impl fmt::Display for QualifiedName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}={}", self.vendor, self.class, self.device)
    }
}

/// `vendor.com/class`.
pub(super) fn kind(text: &str) -> Result<(&str, &str), String> {
    let (vendor, class) = text.split_once('/').ok_or("has no \"/\": a kind is vendor.com/class")?;
    part("vendor", vendor, First::Letter, b"-_.")?;
    part("class", class, First::Letter, b"-_.")?;
    Ok((vendor, class))
}

/// A device's name within its kind.
pub(super) fn device(text: &str) -> Result<(), String> {
    part("device", text, First::LetterOrDigit, b"-_.:")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    Letter,
    LetterOrDigit,
}

fn part(what: &str, text: &str, first: First, between: &[u8]) -> Result<(), String> {
    let bytes = text.as_bytes();
    let begins = bytes.first().is_some_and(|byte| match first {
        First::Letter => byte.is_ascii_alphabetic(),
        First::LetterOrDigit => byte.is_ascii_alphanumeric(),
    });
    let ends = bytes.last().is_some_and(u8::is_ascii_alphanumeric);
    let inner = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || between.contains(byte));
    if begins && ends && inner {
        Ok(())
    } else {
        Err(format!("{:?} is no name of a {what}", text.chars().take(100).collect::<String>()))
    }
}

#[cfg(test)]
mod tests {
    use super::QualifiedName;

    #[test]
    fn names() {
        for good in ["vendor.com/gpu=0", "v/c=a", "vendor.com/gpu=GPU-1:2.3_4", "a-b.c/d_e.f=all"] {
            assert_eq!(QualifiedName::parse(good).map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for bad in
            ["", "gpu", "v/c", "v/c=", "/c=a", "v/=a", "1v/c=a", "v/c/d=a", "v/c=a b", "v/c=-a", "v/c=a-", "v/c=a=b"]
        {
            assert!(QualifiedName::parse(bad).is_err(), "{bad}");
        }
    }
}
