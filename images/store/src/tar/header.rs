//! One header block: fields, numbers, checksum.

use super::Problem;

/// Tar's unit.
pub(super) const BLOCK_BYTES: usize = 512;
/// The same for lengths of files.
pub(super) const BLOCK_BYTES_U64: u64 = 512;

const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..263;
const MAJOR: std::ops::Range<usize> = 329..337;
const MINOR: std::ops::Range<usize> = 337..345;
const PREFIX: std::ops::Range<usize> = 345..500;
const OLD_PAIRS: std::ops::Range<usize> = 386..482;
const OLD_EXTENDED: usize = 482;
const OLD_REAL_SIZE: std::ops::Range<usize> = 483..495;
const STAR_TRAILER: std::ops::Range<usize> = 508..512;

/// A header whose checksum is right.
#[derive(Debug)]
pub(super) struct Header([u8; BLOCK_BYTES]);

/// What stands behind a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    OldRegular,
    Regular,
    Hardlink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
    Extended,
    Global,
    LongName,
    LongLink,
    Sparse,
}

impl Header {
    pub(super) fn new(block: [u8; BLOCK_BYTES]) -> Result<Self, Problem> {
        let told = number(&block[CHECKSUM]).ok_or(Problem::Number("checksum"))?;
        let counted = |index: &usize| !CHECKSUM.contains(index);
        let spaces = i64::try_from(CHECKSUM.len()).unwrap_or(0) * i64::from(b' ');
        let unsigned: i64 = (0..BLOCK_BYTES).filter(counted).map(|index| i64::from(block[index])).sum();
        // Some old writers added signed bytes; every reader accepts both.
        let signed: i64 =
            (0..BLOCK_BYTES).filter(counted).map(|index| i64::from(i8::from_ne_bytes([block[index]]))).sum();
        if told != unsigned + spaces && told != signed + spaces {
            return Err(Problem::Checksum);
        }
        // star's own format has a shorter prefix field; one who doesn't know it reads another name.
        if block[MAGIC].starts_with(b"ustar") && block[STAR_TRAILER] == *b"tar\0" {
            return Err(Problem::Record("star's old format"));
        }
        Ok(Self(block))
    }

    pub(super) fn flag(&self) -> Result<Flag, Problem> {
        Ok(match self.0[TYPE] {
            0 => Flag::OldRegular,
            b'0' => Flag::Regular,
            b'1' => Flag::Hardlink,
            b'2' => Flag::Symlink,
            b'3' => Flag::Character,
            b'4' => Flag::Block,
            b'5' => Flag::Directory,
            b'6' => Flag::Fifo,
            b'x' => Flag::Extended,
            b'g' => Flag::Global,
            b'L' => Flag::LongName,
            b'K' => Flag::LongLink,
            b'S' => Flag::Sparse,
            other => return Err(Problem::Type(other)),
        })
    }

    /// The name, with POSIX's prefix; GNU has other things in that place.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.0[NAME]);
        let prefix = until_nul(&self.0[PREFIX]);
        if self.0[MAGIC] != *b"ustar\0" || prefix.is_empty() {
            return name;
        }
        [prefix, name].join(&b'/')
    }

    pub(super) fn link(&self) -> Vec<u8> {
        until_nul(&self.0[LINK])
    }

    pub(super) fn size(&self) -> Result<u64, Problem> {
        self.field(SIZE, "size")
    }

    pub(super) fn uid(&self) -> Result<u32, Problem> {
        self.field(UID, "uid").and_then(|id| owner(id).ok_or(Problem::Number("uid")))
    }

    pub(super) fn gid(&self) -> Result<u32, Problem> {
        self.field(GID, "gid").and_then(|id| owner(id).ok_or(Problem::Number("gid")))
    }

    pub(super) fn major(&self) -> Result<u32, Problem> {
        const MAJOR_MAX: u64 = 0xfff;
        let major = self.field(MAJOR, "major number")?;
        // mknod has 12 bits for it and 20 for the minor; more would wrap around into another device.
        if major > MAJOR_MAX { Err(Problem::Number("major number")) } else { Ok(u32::try_from(major).unwrap_or(0)) }
    }

    pub(super) fn minor(&self) -> Result<u32, Problem> {
        const MINOR_MAX: u64 = 0xf_ffff;
        let minor = self.field(MINOR, "minor number")?;
        if minor > MINOR_MAX { Err(Problem::Number("minor number")) } else { Ok(u32::try_from(minor).unwrap_or(0)) }
    }

    /// The twelve permission bits; the file's kind above them is told by the type.
    pub(super) fn mode(&self) -> Result<u32, Problem> {
        let mode = self.field(MODE, "mode")?;
        Ok(u32::try_from(mode & 0o7777).unwrap_or(0))
    }

    /// Of a file with holes in GNU's old way: the first pairs of its map, and whether blocks with more of them follow.
    pub(super) fn sparse(&self) -> (&[u8], bool) {
        (&self.0[OLD_PAIRS], self.0[OLD_EXTENDED] != 0)
    }

    /// The size with the holes.
    pub(super) fn real_size(&self) -> Result<u64, Problem> {
        self.field(OLD_REAL_SIZE, "real size")
    }

    pub(super) fn modified(&self) -> Result<i64, Problem> {
        number(&self.0[MTIME]).ok_or(Problem::Number("mtime"))
    }

    fn field(&self, range: std::ops::Range<usize>, name: &'static str) -> Result<u64, Problem> {
        number(&self.0[range]).and_then(|value| u64::try_from(value).ok()).ok_or(Problem::Number(name))
    }
}

/// A uid or gid. 2^32-1 is none: it means "leave it" to chown.
pub(super) fn owner(id: u64) -> Option<u32> {
    u32::try_from(id).ok().filter(|id| *id != u32::MAX)
}

/// What stands before the first NUL.
pub(super) fn until_nul(field: &[u8]) -> Vec<u8> {
    field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// A number: octal digits between spaces and NULs (nothing means 0), or GNU's base 256, also negative.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base_256(field),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    const BLANK: [u8; 2] = [b' ', 0];
    let start = field.iter().position(|byte| !BLANK.contains(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let length = digits.iter().position(|byte| BLANK.contains(byte)).unwrap_or(digits.len());
    // Behind the digits only blanks: "0\x007" would be 0 to one reader and 7 to another.
    if digits[length..].iter().any(|byte| !BLANK.contains(byte)) {
        return None;
    }
    digits[..length].iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

fn base_256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    // Bit 7 marks the format, bit 6 is the sign.
    let negative = first & 0x40 != 0;
    let start = if negative { i64::from(*first) - 256 } else { i64::from(first & 0x3f) };
    rest.iter().try_fold(start, |value, byte| value.checked_mul(256)?.checked_add(i64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let check = |field: &[u8], expected: Option<i64>| assert_eq!(number(field), expected, "{field:?}");
        check(b"0000644\0", Some(0o644));
        check(b"   644 \0", Some(0o644));
        check(b"\0\0\0\0\0\0\0\0", Some(0));
        check(b"        ", Some(0));
        check(b"77777777", Some(0o77_777_777));
        check(b"644 7\0\0\0", None);
        check(b"0000648\0", None);
        check(b"-000001\0", None);
        check(b"\x80\0\0\0\0\0\0\x05", Some(5));
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1));
        check(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX));
        check(b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None);
        check(b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None);
        check(b"777777777777", Some(0o777_777_777_777));
    }
}
