//! Names of entries: hostile text becomes single components, or is refused.

use crate::limits::{COMPONENT_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX};

/// A name that leads nowhere but down: no `..`, no NUL, no empty component, each short enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name<'a> {
    components: Vec<&'a [u8]>,
    /// The name ended in a slash, so it means a directory.
    pub(super) directory: bool,
}

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("the name is empty")]
    Empty,
    #[error("the name has `..` in it")]
    Up,
    #[error("the name has NUL in it")]
    Nul,
    #[error("a component is longer than {COMPONENT_BYTES_MAX} bytes")]
    LongComponent,
    #[error("the name is longer than {PATH_BYTES_MAX} bytes")]
    Long,
    #[error("the name is deeper than {PATH_DEPTH_MAX} directories")]
    Deep,
    #[error("the name means a directory, the entry isn't one")]
    Slash,
    #[error("the name has the reserved prefix `.wh.` and is no whiteout")]
    Reserved,
}

impl<'a> Name<'a> {
    /// Splits a name. A leading slash means the root of the image, as it does to every reader.
    pub(super) fn parse(raw: &'a [u8]) -> Result<Self, NameError> {
        if raw.is_empty() {
            return Err(NameError::Empty);
        }
        if raw.len() > PATH_BYTES_MAX {
            return Err(NameError::Long);
        }
        let mut components = Vec::new();
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(NameError::Up),
                long if long.len() > COMPONENT_BYTES_MAX => return Err(NameError::LongComponent),
                odd if odd.contains(&0) => return Err(NameError::Nul),
                plain => components.push(plain),
            }
            if components.len() > PATH_DEPTH_MAX {
                return Err(NameError::Deep);
            }
        }
        Ok(Self { components, directory: raw.ends_with(b"/") })
    }

    /// Its components with single slashes between them.
    pub(super) fn path(&self) -> Vec<u8> {
        self.components.join(&b'/')
    }

    /// The directory's components and the last one; `None` for the root itself.
    pub(super) fn split(&self) -> Option<(&[&'a [u8]], &'a [u8])> {
        self.components.split_last().map(|(last, parent)| (parent, *last))
    }
}

/// What a last component means in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker<'a> {
    /// An ordinary name.
    None,
    /// What has this name in the layers below is gone.
    Whiteout(&'a [u8]),
    /// Everything in the layers below that lies in this directory is gone.
    Opaque,
    /// Book-keeping of aufs that old builders left behind; nothing of the image.
    Metadata,
}

const WHITEOUT: &[u8] = b".wh.";

/// Reads the marker in a name.
pub(super) fn marker<'a>(parent: &[&[u8]], last: &'a [u8]) -> Result<Marker<'a>, NameError> {
    const AUFS: [&[u8]; 3] = [b".wh..wh.aufs", b".wh..wh.plnk", b".wh..wh.orph"];
    if parent.iter().chain([&last]).any(|component| AUFS.contains(component)) {
        return Ok(Marker::Metadata);
    }
    if parent.iter().any(|component| component.starts_with(WHITEOUT)) {
        return Err(NameError::Reserved);
    }
    match last.strip_prefix(WHITEOUT) {
        None => Ok(Marker::None),
        Some(b".wh..opq") => Ok(Marker::Opaque),
        Some(b"" | b"." | b"..") => Err(NameError::Reserved),
        Some(hidden) if hidden.starts_with(WHITEOUT) => Err(NameError::Reserved),
        Some(hidden) => Ok(Marker::Whiteout(hidden)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_1_to_17_names() {
        let check = |raw: &str, expected: Result<&str, NameError>| {
            let found = Name::parse(raw.as_bytes()).map(|name| name.components.join(&b'/'));
            assert_eq!(found, expected.map(|path| path.as_bytes().to_vec()), "{raw:?}");
        };
        check("../x", Err(NameError::Up));
        check("a/../../x", Err(NameError::Up));
        check("a/../b", Err(NameError::Up));
        check("/abs", Ok("abs"));
        check("//abs", Ok("abs"));
        check("./", Ok(""));
        check(".", Ok(""));
        check("/", Ok(""));
        check("a//b/./c", Ok("a/b/c"));
        check("..", Err(NameError::Up));
        check("", Err(NameError::Empty));
        check("a\0b", Err(NameError::Nul));
        check(&"x".repeat(255), Ok(&"x".repeat(255)));
        check(&"x".repeat(256), Err(NameError::LongComponent));
        check(&"a/".repeat(2048), Err(NameError::Long));
        check(&"a/".repeat(1025), Err(NameError::Deep));
        check("a\n\x1b[31m", Ok("a\n\x1b[31m"));
        check("-rf", Ok("-rf"));
        check("C:\\x", Ok("C:\\x"));
        check("...", Ok("..."));
        assert!(Name::parse(b"a/").unwrap().directory);
        assert_eq!(Name::parse(b"\xff\xfe").unwrap().components, [b"\xff\xfe"]);
    }

    #[test]
    fn cases_39_to_47_whiteout_names() {
        let check = |last: &str, expected: Result<Marker<'_>, NameError>| {
            assert_eq!(marker(&[b"d"], last.as_bytes()), expected, "{last:?}");
        };
        check(".wh...", Err(NameError::Reserved));
        check(".wh.", Err(NameError::Reserved));
        check(".wh..", Err(NameError::Reserved));
        check(".wh..wh..opq", Ok(Marker::Opaque));
        check(".wh..wh.plnk", Ok(Marker::Metadata));
        check(".wh..wh.other", Err(NameError::Reserved));
        check(".wh.x", Ok(Marker::Whiteout(b"x")));
        check(".wh..x", Ok(Marker::Whiteout(b".x")));
        check(".what", Ok(Marker::None));
        assert_eq!(marker(&[b".wh.d"], b"x"), Err(NameError::Reserved));
        assert_eq!(marker(&[b".wh..wh.plnk"], b"x"), Ok(Marker::Metadata));
    }
}
