//! A strict reader of tar archives: ustar, GNU long names, PAX records.
//!
//! Tar readers disagree wherever the format is loose, and what one reader skips another one unpacks. So this one accepts
//! what Go's archive/tar, GNU tar and libarchive all read alike, and refuses the rest by name: double or
//! global names, sizes on entries without data, doubtful numbers, anything but zeros behind the end. The data length of an
//! entry is its PAX size where there is one, the header's otherwise, for the entry itself and for finding the next.

use std::io::{self, BufRead, Read};

use crate::limits::{EXTENDED_HEADER_BYTES_MAX, SPARSE_BYTES_MAX, SPARSE_FRAGMENTS_MAX};

mod header;
mod pax;
mod sparse;

use header::{BLOCK_BYTES, Flag, Header};
use pax::Records;
pub(crate) use sparse::Sparse;
use sparse::{Map, old_pairs};

/// One entry; its data, if any, are read with [`Archive::chunk`] before the next one is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: EntryKind,
    /// The name as it stands there: hostile.
    pub(crate) path: Vec<u8>,
    /// Length of the data; 0 but for regular files.
    pub(crate) size_bytes: u64,
    /// The twelve permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) modified: (i64, u32),
    /// Extended attributes, unchecked.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data belong, of a file with holes.
    pub(crate) sparse: Option<Sparse>,
}

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Regular,
    Directory,
    Fifo,
    /// Target as it stands there.
    Hardlink(Vec<u8>),
    /// Target as it stands there.
    Symlink(Vec<u8>),
    Character(u32, u32),
    Block(u32, u32),
}

/// An archive that can't be read, and where.
#[derive(Debug, thiserror::Error)]
#[error("the archive is broken at byte {offset}")]
pub(crate) struct TarError {
    /// Of the header in question, in the uncompressed archive.
    pub(crate) offset: u64,
    #[source]
    pub(crate) problem: Problem,
}

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("it can't be read")]
    Read(#[source] io::Error),
    #[error("it ends in the middle of an entry")]
    Truncated,
    #[error("the header's checksum is wrong")]
    Checksum,
    #[error("the header's {0} is no number that fits")]
    Number(&'static str),
    #[error("entries of type {:?} aren't unpacked", char::from(*.0))]
    Type(u8),
    #[error("a sparse file of more than {SPARSE_BYTES_MAX} bytes, or in more than {SPARSE_FRAGMENTS_MAX} pieces")]
    Holes,
    #[error("{0} has data, which readers disagree about")]
    UnexpectedData(&'static str),
    #[error("an extended header of {0} bytes; at most {EXTENDED_HEADER_BYTES_MAX} are read")]
    HeaderTooLong(u64),
    #[error("the extended header is broken: {0}")]
    Record(&'static str),
    #[error("the extended header says {0:?} twice, or in two ways")]
    Twice(String),
    #[error("a global header sets {0:?}, which readers disagree about")]
    Global(String),
    #[error("an extended header stands before no entry")]
    Dangling,
    #[error("there is more behind the end of the archive")]
    Trailing,
}

/// A reader of entries in their order.
#[derive(Debug)]
pub(crate) struct Archive<R> {
    reader: R,
    /// Bytes read so far.
    offset: u64,
    /// Data of the current entry that is still unread.
    data_bytes: u64,
    /// Zeros that fill the current entry's last block.
    padding_bytes: u64,
    ended: bool,
}

/// Everything that stands before an entry and belongs to it.
#[derive(Debug, Default)]
struct Before {
    records: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Before {
    fn is_empty(&self) -> bool {
        self.records.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, offset: 0, data_bytes: 0, padding_bytes: 0, ended: false }
    }

    /// The reader beneath.
    pub(crate) fn into_inner(self) -> R {
        self.reader
    }

    /// The next entry; `None` at the end. What is left of the current one's data is skipped.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_entry()?;
        if self.ended {
            return Ok(None);
        }
        let start = self.offset;
        let at = |problem| TarError { offset: start, problem };
        let mut before = Before::default();
        loop {
            let Some(header) = self.header().map_err(at)? else {
                return if before.is_empty() { Ok(None) } else { Err(at(Problem::Dangling)) };
            };
            match header.flag().map_err(at)? {
                Flag::Extended => {
                    let body = self.extended(&header).map_err(at)?;
                    let records = Records::parse(&body).map_err(at)?;
                    if before.records.replace(records).is_some() {
                        return Err(at(Problem::Twice("extended header".to_owned())));
                    }
                }
                Flag::Global => {
                    let body = self.extended(&header).map_err(at)?;
                    if !before.is_empty() {
                        return Err(at(Problem::Dangling));
                    }
                    Records::parse(&body).and_then(Records::refuse_effects).map_err(at)?;
                }
                Flag::LongName => {
                    let body = self.extended(&header).map_err(at)?;
                    if before.long_name.replace(header::until_nul(&body)).is_some() {
                        return Err(at(Problem::Twice("long name".to_owned())));
                    }
                }
                Flag::LongLink => {
                    let body = self.extended(&header).map_err(at)?;
                    if before.long_link.replace(header::until_nul(&body)).is_some() {
                        return Err(at(Problem::Twice("long link".to_owned())));
                    }
                }
                flag => {
                    let holes = self.old_holes(&header, flag, before.records.as_mut()).map_err(at)?;
                    let mut entry = entry(&header, flag, before).map_err(at)?;
                    self.expect_data(entry.size_bytes);
                    self.holes(&mut entry, holes).map_err(at)?;
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// The next piece of the current entry's data, empty at its end. [`Self::consume`] says how much was used.
    pub(crate) fn chunk(&mut self) -> Result<&[u8], TarError> {
        let offset = self.offset;
        let at = |problem| TarError { offset, problem };
        if self.data_bytes == 0 {
            return Ok(&[]);
        }
        let buffer = self.reader.fill_buf().map_err(|error| at(Problem::Read(error)))?;
        if buffer.is_empty() {
            return Err(at(Problem::Truncated));
        }
        let length = usize::try_from(self.data_bytes).unwrap_or(usize::MAX).min(buffer.len());
        Ok(&buffer[..length])
    }

    /// Marks so many bytes of the last chunk as used.
    pub(crate) fn consume(&mut self, length: usize) {
        self.reader.consume(length);
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        self.offset += length;
        self.data_bytes = self.data_bytes.saturating_sub(length);
    }

    /// Reads to the end of the stream behind the archive's end. Only zeros may stand there: whatever else is a second
    /// archive that another reader might unpack.
    pub(crate) fn finish(&mut self) -> Result<(), TarError> {
        loop {
            let offset = self.offset;
            let at = |problem| TarError { offset, problem };
            let buffer = self.reader.fill_buf().map_err(|error| at(Problem::Read(error)))?;
            if buffer.is_empty() {
                return Ok(());
            }
            if buffer.iter().any(|byte| *byte != 0) {
                return Err(at(Problem::Trailing));
            }
            let length = buffer.len();
            self.reader.consume(length);
            self.offset += u64::try_from(length).unwrap_or(u64::MAX);
        }
    }

    fn expect_data(&mut self, size_bytes: u64) {
        self.data_bytes = size_bytes;
        self.padding_bytes = size_bytes.wrapping_neg() % header::BLOCK_BYTES_U64;
    }

    fn skip_entry(&mut self) -> Result<(), TarError> {
        self.data_bytes += self.padding_bytes;
        self.padding_bytes = 0;
        loop {
            let length = self.chunk()?.len();
            if length == 0 {
                return Ok(());
            }
            self.consume(length);
        }
    }

    /// The next header block; `None` at the end: two blocks of zeros, one and nothing more, or nothing more at all.
    fn header(&mut self) -> Result<Option<Header>, Problem> {
        let Some(block) = self.block()? else {
            self.ended = true;
            return Ok(None);
        };
        if block.iter().any(|byte| *byte != 0) {
            return Header::new(block).map(Some);
        }
        self.ended = true;
        match self.block()? {
            Some(second) if second.iter().any(|byte| *byte != 0) => Err(Problem::Trailing),
            _zeros => Ok(None),
        }
    }

    /// The map of a file with holes, where the headers have it.
    fn old_holes(
        &mut self,
        header: &Header,
        flag: Flag,
        records: Option<&mut Records>,
    ) -> Result<Option<Map>, Problem> {
        let told = records.map(|records| {
            let mut told = std::mem::take(&mut records.sparse);
            records.sparse_name = told.name.take();
            (told, records.size_bytes)
        });
        let stored_bytes = told.as_ref().and_then(|(_told, size)| *size).map_or_else(|| header.size(), Ok)?;
        if flag != Flag::Sparse {
            let Some((told, _size)) = told else { return Ok(None) };
            let map = told.map(stored_bytes)?;
            let wrong = map.is_some() && flag != Flag::Regular;
            return if wrong { Err(Problem::Record("holes in what is no file")) } else { Ok(map) };
        }
        let (pairs, mut more) = header.sparse();
        let mut numbers = Vec::new();
        old_pairs(pairs, &mut numbers)?;
        while more {
            let block = self.block()?.ok_or(Problem::Truncated)?;
            more = block[CONTINUED_AT] != 0;
            old_pairs(&block[..CONTINUED_AT], &mut numbers)?;
        }
        Sparse::checked(header.real_size()?, &numbers, stored_bytes).map(|sparse| Some(Map::Known(sparse)))
    }

    /// Gives an entry its map; one that stands in front of the data is read from there.
    fn holes(&mut self, entry: &mut Entry, holes: Option<Map>) -> Result<(), Problem> {
        let real_bytes = match holes {
            None => return Ok(()),
            Some(Map::Known(sparse)) => {
                entry.sparse = Some(sparse);
                return Ok(());
            }
            Some(Map::InData(real_bytes)) => real_bytes,
        };
        let mut text = Text { left: 0, block: [0; BLOCK_BYTES] };
        let count = text.number(self)?;
        let count = usize::try_from(count).ok().filter(|count| *count <= SPARSE_FRAGMENTS_MAX).ok_or(Problem::Holes)?;
        let numbers = (0..2 * count).map(|_number| text.number(self)).collect::<Result<Vec<_>, _>>()?;
        entry.size_bytes = self.data_bytes;
        entry.sparse = Some(Sparse::checked(real_bytes, &numbers, self.data_bytes)?);
        Ok(())
    }

    /// A whole block; `None` when the stream ends before its first byte.
    fn block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, Problem> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(Problem::Truncated),
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Problem::Read(error)),
            }
        }
        self.offset += header::BLOCK_BYTES_U64;
        Ok(Some(block))
    }

    /// The body of an extended header.
    fn extended(&mut self, header: &Header) -> Result<Vec<u8>, Problem> {
        let size_bytes = header.size()?;
        if size_bytes > EXTENDED_HEADER_BYTES_MAX {
            return Err(Problem::HeaderTooLong(size_bytes));
        }
        let mut body = Vec::new();
        // `take` so that nothing is reserved on the word of a header.
        self.reader.by_ref().take(size_bytes).read_to_end(&mut body).map_err(Problem::Read)?;
        if u64::try_from(body.len()).ok() != Some(size_bytes) {
            return Err(Problem::Truncated);
        }
        self.offset += size_bytes;
        self.expect_data(size_bytes);
        self.data_bytes = 0;
        self.skip_entry().map_err(|error| error.problem)?;
        Ok(body)
    }
}

/// Where a block that goes on with an old map says whether another one follows.
const CONTINUED_AT: usize = 504;

/// Numbers in front of the data, each on a line, in whole blocks.
struct Text {
    left: usize,
    block: [u8; BLOCK_BYTES],
}

impl Text {
    fn number<R: BufRead>(&mut self, archive: &mut Archive<R>) -> Result<u64, Problem> {
        const DIGITS_MAX: usize = 19;
        let mut value: u64 = 0;
        for digits in 0..=DIGITS_MAX {
            if self.left == 0 {
                archive.data_bytes =
                    archive.data_bytes.checked_sub(header::BLOCK_BYTES_U64).ok_or(Problem::Truncated)?;
                self.block = archive.block()?.ok_or(Problem::Truncated)?;
                self.left = BLOCK_BYTES;
            }
            let byte = self.block[BLOCK_BYTES - self.left];
            self.left -= 1;
            match byte {
                b'0'..=b'9' => value = value.saturating_mul(10).saturating_add(u64::from(byte - b'0')),
                b'\n' if digits > 0 => return Ok(value),
                _ => break,
            }
        }
        Err(Problem::Number("sparse map"))
    }
}

/// Joins a header and what stood before it.
fn entry(header: &Header, flag: Flag, before: Before) -> Result<Entry, Problem> {
    let mut records = before.records.unwrap_or_default();
    let path = one_of("path", records.path.take(), before.long_name)?.unwrap_or_else(|| header.path());
    // The name that it would have without holes; the other is made up.
    let path = records.sparse_name.take().unwrap_or(path);
    let link = one_of("linkpath", records.link.take(), before.long_link)?.unwrap_or_else(|| header.link());
    let size_bytes = match records.size_bytes {
        Some(size_bytes) => size_bytes,
        None => header.size()?,
    };
    let (kind, named) = match flag {
        // Before POSIX a directory was a regular file whose name ends in a slash; only type NUL is read so.
        Flag::OldRegular if path.ends_with(b"/") => (EntryKind::Directory, "a directory"),
        Flag::OldRegular | Flag::Regular | Flag::Sparse => (EntryKind::Regular, ""),
        Flag::Directory => (EntryKind::Directory, "a directory"),
        Flag::Fifo => (EntryKind::Fifo, "a FIFO"),
        Flag::Hardlink => (EntryKind::Hardlink(link), "a hard link"),
        Flag::Symlink => (EntryKind::Symlink(link), "a symbolic link"),
        Flag::Character => (EntryKind::Character(header.major()?, header.minor()?), "a device"),
        Flag::Block => (EntryKind::Block(header.major()?, header.minor()?), "a device"),
        Flag::Extended | Flag::Global | Flag::LongName | Flag::LongLink => return Err(Problem::Dangling),
    };
    if kind != EntryKind::Regular && size_bytes != 0 {
        return Err(Problem::UnexpectedData(named));
    }
    let modified = match records.modified {
        Some(modified) => modified,
        None => (header.modified()?, 0),
    };
    Ok(Entry {
        kind,
        path,
        size_bytes,
        mode: header.mode()?,
        uid: match records.uid {
            Some(uid) => uid,
            None => header.uid()?,
        },
        gid: match records.gid {
            Some(gid) => gid,
            None => header.gid()?,
        },
        modified,
        xattrs: records.xattrs,
        sparse: None,
    })
}

/// A value that may come in two ways, but not in both at once: readers differ in which of them wins.
fn one_of(what: &str, pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Problem> {
    match (pax, gnu) {
        (Some(_), Some(_)) => Err(Problem::Twice(what.to_owned())),
        (value, None) | (None, value) => Ok(value),
    }
}

#[cfg(test)]
mod tests;
