//! Files with holes, in the four ways that GNU tar has written them: old headers, PAX 0.0, 0.1 and 1.0. A hole costs no
//! byte of the archive, so the size of the whole is limited by itself.

use super::Problem;
use super::header::number;
use crate::limits::{SPARSE_BYTES_MAX, SPARSE_FRAGMENTS_MAX};

/// Where the data of a file with holes belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// Of the whole file, holes included.
    pub(crate) real_bytes: u64,
    /// Offset and length of each piece of data, in order, no two overlapping.
    pub(crate) fragments: Vec<(u64, u64)>,
}

/// What the records of an extended header say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) name: Option<Vec<u8>>,
    major: Option<u64>,
    minor: Option<u64>,
    real_bytes: Option<u64>,
    /// Offsets and lengths by turns.
    numbers: Vec<u64>,
}

/// Where the map is.
pub(super) enum Map {
    Known(Sparse),
    /// In front of the data; the size of the whole is this.
    InData(u64),
}

const BROKEN: Problem = Problem::Record("a map of holes that contradicts itself");

impl Told {
    /// Takes the record `GNU.sparse.` + `key`; `decimal` reads a number.
    pub(super) fn take(
        &mut self,
        key: &[u8],
        value: &[u8],
        decimal: impl Fn(&[u8]) -> Option<u64>,
    ) -> Result<(), Problem> {
        let one = || decimal(value).ok_or(Problem::Number("sparse record"));
        match key {
            b"name" if self.name.is_none() && !value.contains(&0) => self.name = Some(value.to_vec()),
            b"major" if self.major.is_none() => self.major = Some(one()?),
            b"minor" if self.minor.is_none() => self.minor = Some(one()?),
            b"size" | b"realsize" if self.real_bytes.is_none() => self.real_bytes = Some(one()?),
            b"offset" if self.numbers.len().is_multiple_of(2) => self.numbers.push(one()?),
            b"numbytes" if !self.numbers.len().is_multiple_of(2) => self.numbers.push(one()?),
            b"map" if self.numbers.is_empty() => {
                for number in value.split(|byte| *byte == b',') {
                    self.numbers.push(decimal(number).ok_or(Problem::Number("sparse map"))?);
                }
            }
            // The count is told by what is counted.
            b"numblocks" => {}
            _ => return Err(BROKEN),
        }
        if self.numbers.len() > 2 * SPARSE_FRAGMENTS_MAX { Err(Problem::Holes) } else { Ok(()) }
    }

    /// What it comes to for data of so many bytes; `None`: the file has no holes.
    pub(super) fn map(self, stored_bytes: u64) -> Result<Option<Map>, Problem> {
        match (self.major.unwrap_or(0), self.minor.unwrap_or(0), self.real_bytes) {
            (0, 0, None) if self.numbers.is_empty() && self.major.is_none() => Ok(None),
            (1, 0, Some(real_bytes)) if self.numbers.is_empty() => Ok(Some(Map::InData(real_bytes))),
            (0, 0 | 1, Some(real_bytes)) => {
                Sparse::checked(real_bytes, &self.numbers, stored_bytes).map(|sparse| Some(Map::Known(sparse)))
            }
            _ => Err(BROKEN),
        }
    }
}

impl Sparse {
    /// From offsets and lengths by turns, for data of so many bytes.
    pub(super) fn checked(real_bytes: u64, numbers: &[u64], stored_bytes: u64) -> Result<Self, Problem> {
        if real_bytes > SPARSE_BYTES_MAX || numbers.len() > 2 * SPARSE_FRAGMENTS_MAX {
            return Err(Problem::Holes);
        }
        let (pairs, rest) = numbers.as_chunks::<2>();
        let mut end: u64 = 0;
        let mut sum: u64 = 0;
        let mut fragments = Vec::with_capacity(pairs.len());
        for [offset, bytes] in pairs {
            if *offset < end {
                return Err(BROKEN);
            }
            end = offset.checked_add(*bytes).ok_or(BROKEN)?;
            sum = sum.checked_add(*bytes).ok_or(BROKEN)?;
            if *bytes > 0 {
                fragments.push((*offset, *bytes));
            }
        }
        if !rest.is_empty() || end > real_bytes || sum != stored_bytes {
            return Err(BROKEN);
        }
        Ok(Self { real_bytes, fragments })
    }
}

/// Bytes of an offset and a length in an old header.
const PAIR_BYTES: usize = 24;

/// Adds the pairs of an old header, or of a block that goes on with it.
pub(super) fn old_pairs(field: &[u8], numbers: &mut Vec<u64>) -> Result<(), Problem> {
    for pair in field.chunks_exact(PAIR_BYTES) {
        // A length of nothing ends the list, also where the file does.
        if pair[PAIR_BYTES / 2] == 0 {
            break;
        }
        for half in pair.chunks_exact(PAIR_BYTES / 2) {
            let number = number(half).and_then(|value| u64::try_from(value).ok());
            numbers.push(number.ok_or(Problem::Number("sparse map"))?);
        }
    }
    if numbers.len() > 2 * SPARSE_FRAGMENTS_MAX { Err(Problem::Holes) } else { Ok(()) }
}
