//! PAX extended headers: `LENGTH KEY=VALUE\n`, each record exactly so long.

use super::Problem;
use super::header::owner;
use super::sparse::Told;
use crate::limits::XATTRS_MAX;

/// What the records of one header say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size_bytes: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) modified: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Told,
    /// Out of `sparse`.
    pub(super) sparse_name: Option<Vec<u8>>,
}

/// Digits of a record's length: more than the longest header needs.
const LENGTH_DIGITS_MAX: usize = 8;

impl Records {
    pub(super) fn parse(mut body: &[u8]) -> Result<Self, Problem> {
        let mut records = Self::default();
        while !body.is_empty() {
            let (record, rest) = split_record(body)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(Problem::Record("a record without `=`"))?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            records.take(key, value)?;
            body = rest;
        }
        Ok(records)
    }

    /// A global header may comment; what it says about entries, readers disagree about.
    pub(super) fn refuse_effects(self) -> Result<(), Problem> {
        if self == Self::default() { Ok(()) } else { Err(Problem::Global("an attribute of entries".to_owned())) }
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if self.xattrs.len() >= XATTRS_MAX {
                return Err(Problem::Record("too many extended attributes"));
            }
            if self.xattrs.iter().any(|(known, _)| known == name) {
                return Err(Problem::Twice(key.escape_ascii().to_string()));
            }
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.take(key, value, decimal);
        }
        // An empty value takes a former record back: the header's field counts.
        if value.is_empty() {
            return Ok(());
        }
        match key {
            b"path" => once("path", &mut self.path, text(value)?),
            b"linkpath" => once("linkpath", &mut self.link, text(value)?),
            b"size" => once("size", &mut self.size_bytes, decimal(value).ok_or(Problem::Number("PAX size"))?),
            b"uid" => once("uid", &mut self.uid, id(value).ok_or(Problem::Number("PAX uid"))?),
            b"gid" => once("gid", &mut self.gid, id(value).ok_or(Problem::Number("PAX gid"))?),
            b"mtime" => once("mtime", &mut self.modified, moment(value).ok_or(Problem::Number("PAX mtime"))?),
            // atime, ctime, uname, gname, comment, charset and vendors' own: nothing that a layer's tree shows.
            _ => Ok(()),
        }
    }
}

fn split_record(body: &[u8]) -> Result<(&[u8], &[u8]), Problem> {
    let space = body.iter().take(LENGTH_DIGITS_MAX + 1).position(|byte| *byte == b' ');
    let space = space.ok_or(Problem::Record("a record without its length"))?;
    let length = decimal(&body[..space]).and_then(|length| usize::try_from(length).ok());
    let length = length.ok_or(Problem::Record("a record's length is no number"))?;
    // At least the number, the space, and the newline.
    if length < space + 2 || length > body.len() {
        return Err(Problem::Record("a record's length leads out of the header"));
    }
    if body[length - 1] != b'\n' {
        return Err(Problem::Record("a record doesn't end in a newline"));
    }
    Ok((&body[space + 1..length - 1], &body[length..]))
}

fn once<T>(key: &str, place: &mut Option<T>, value: T) -> Result<(), Problem> {
    match place.replace(value) {
        None => Ok(()),
        Some(_former) => Err(Problem::Twice(key.to_owned())),
    }
}

fn text(value: &[u8]) -> Result<Vec<u8>, Problem> {
    if value.contains(&0) { Err(Problem::Record("a name with NUL")) } else { Ok(value.to_vec()) }
}

/// Plain decimal digits, no sign.
fn decimal(value: &[u8]) -> Option<u64> {
    let valid = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_digits| valid)?.parse().ok().filter(|size| i64::try_from(*size).is_ok())
}

fn id(value: &[u8]) -> Option<u32> {
    decimal(value).and_then(owner)
}

/// Seconds, perhaps negative, perhaps with a fraction; what is finer than nanoseconds is cut.
fn moment(value: &[u8]) -> Option<(i64, u32)> {
    const NANOS_DIGITS: usize = 9;
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(NANOS_DIGITS);
    let nanos = digits.fold(0_u32, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    match (negative, nanos) {
        (false, nanos) => Some((seconds, nanos)),
        (true, 0) => Some((-seconds, 0)),
        // -1.25 is 0.75 after -2.
        (true, nanos) => Some(((-seconds).checked_sub(1)?, 1_000_000_000 - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let check = |text: &str, expected| assert_eq!(moment(text.as_bytes()), expected, "{text}");
        check("0", Some((0, 0)));
        check("12.5", Some((12, 500_000_000)));
        check("12.", Some((12, 0)));
        check("12.9999999999", Some((12, 999_999_999)));
        check("-1", Some((-1, 0)));
        check("-1.25", Some((-2, 750_000_000)));
        for bad in ["", "-", ".5", "1.2.3", "1e9", "+1", "9223372036854775808", " 1"] {
            check(bad, None);
        }
    }

    #[test]
    fn case_64_records_are_exactly_so_long() {
        let parse = |body: &str| Records::parse(body.as_bytes());
        assert_eq!(
            parse("8 path=x").unwrap_err().to_string(),
            "the extended header is broken: a record doesn't end in a newline"
        );
        assert_eq!(parse("9 path=x\n").unwrap().path.unwrap(), b"x");
        for bad in [
            "99 path=x\n",
            "4 path=x\n",
            "9path=x\n",
            "-9 path=x\n",
            "18446744073709551616 path=x\n",
            "2 ",
            "1 \n",
            "11 path=x\n",
            "8 pathx\n",
            " 9 path=x\n",
            "9 path=x\nmore",
            "9 path=\0\n",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
