//! A layer on its way in: bytes from the registry are hashed and kept as they are, decompressed, hashed again, unpacked;
//! all in one pass of one thread.

use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::os::fd::OwnedFd;

use sha2::{Digest as _, Sha256};

use crate::compression::{Compression, Decoder, Joined, sniff};
use crate::digest::Digest;
use crate::limits::{LAYER_BYTES_MAX, RATIO_FREE_BYTES, RATIO_MAX};
use crate::tar::Archive;
use crate::unpack::{UnpackError, Unpacked, unpack};

/// What is read from the decompressor at once: large files go out in pieces of this size.
const OUTPUT_BUFFER_BYTES: usize = 256 * 1024;

/// A layer that didn't come in, and why.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The stream broke off.
    #[error("its bytes stopped coming")]
    Source(#[source] io::Error),
    /// The blob can't be kept.
    #[error("its blob can't be written")]
    Write(#[source] io::Error),
    /// More bytes than the manifest says.
    #[error("it is longer than the {expected} bytes that the manifest says")]
    TooLong {
        /// In bytes.
        expected: u64,
    },
    /// Fewer bytes than the manifest says.
    #[error("it has {found} bytes, the manifest says {expected}")]
    TooShort {
        /// In bytes.
        expected: u64,
        /// In bytes.
        found: u64,
    },
    /// The bytes aren't those that the manifest means.
    #[error("its digest is {found}, the manifest says {expected}")]
    Digest {
        /// In the manifest.
        expected: Digest,
        /// Of the bytes.
        found: Digest,
    },
    /// The unpacked bytes aren't those that the configuration means.
    #[error("its tar archive has the digest {found}, the image's configuration says {expected}")]
    DiffId {
        /// In the configuration.
        expected: Digest,
        /// Of the bytes.
        found: Digest,
    },
    /// The bytes are packed in another way than the media type says.
    #[error("its media type says {declared}, its bytes are {found}")]
    Compression {
        /// In the manifest.
        declared: &'static str,
        /// By the first bytes.
        found: &'static str,
    },
    /// More than a layer may have.
    #[error("it unpacks to more than {LAYER_BYTES_MAX} bytes")]
    Bomb,
    /// Too compressible to be true.
    #[error("it unpacks to more than {RATIO_MAX} times its size")]
    Ratio,
    /// There are bytes behind the end of the compressed stream.
    #[error("there is more behind the end of its compressed stream")]
    Trailing,
    /// Its entries can't be unpacked.
    #[error("it can't be unpacked")]
    Unpack(#[source] UnpackFailure),
}

/// Why a layer's entries can't be unpacked; the chain of sources names the entry and the cause.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct UnpackFailure(#[from] UnpackError);

/// Where a layer's bytes go.
pub(crate) struct Destination {
    /// Where the blob's bytes go, and how many of the first ones are there already; `None` when all are.
    pub(crate) blob: Option<(File, u64)>,
    /// An empty directory for the tree.
    pub(crate) root: OwnedFd,
    /// A directory beside it for what is replaced on the way.
    pub(crate) trash: OwnedFd,
}

/// What is known of a layer before its bytes come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
    pub(crate) diff_id: Digest,
    /// `None`: whatever the bytes say.
    pub(crate) compression: Option<Compression>,
}

/// Takes a layer in. Nothing is synced or named here.
pub(crate) fn take_layer(
    expected: &Expected,
    reader: &mut dyn Read,
    destination: Destination,
) -> Result<Unpacked, LayerError> {
    let source = Source {
        inner: reader,
        kept_bytes: destination.blob.as_ref().map_or(0, |(_file, kept_bytes)| *kept_bytes),
        sink: destination.blob.map(|(file, _kept_bytes)| file),
        hash: Sha256::new(),
        count: 0,
        size_max: expected.size_bytes,
        failure: None,
    };
    let (found, source) = match sniff(source) {
        Ok(sniffed) => sniffed,
        Err(error) => return Err(LayerError::Source(error)),
    };
    if let Some(declared) = expected.compression
        && declared != found
        && expected.size_bytes != 0
    {
        return Err(LayerError::Compression { declared: declared.name(), found: found.name() });
    }
    let decoder = Decoder::new(found, source).map_err(LayerError::Source)?;
    let counted = Counted { decoder, hash: Sha256::new(), count: 0, failure: None };
    let mut archive = Archive::new(BufReader::with_capacity(OUTPUT_BUFFER_BYTES, counted));
    let unpacked = unpack(&mut archive, destination.root, destination.trash);
    let counted = archive.into_inner().into_inner();
    settle(expected, unpacked, counted)
}

/// Says what came of it: of several causes the one that is nearest to the bytes.
fn settle(
    expected: &Expected,
    unpacked: Result<Unpacked, UnpackError>,
    counted: Counted<'_>,
) -> Result<Unpacked, LayerError> {
    let diff_id = Digest::from_hash(counted.hash);
    let decoder_failure = counted.failure;
    let mut buffered = counted.decoder.into_inner();
    let mut source = match unpacked {
        Ok(_) => {
            let rest = buffered.read(&mut [0]);
            let mut source = buffered.into_inner().rest;
            match (rest, source.failure.take()) {
                (_, Some(failure)) => return Err(failure),
                (Ok(0), None) => source,
                (Ok(_), None) => return Err(LayerError::Trailing),
                (Err(error), None) => return Err(LayerError::Source(error)),
            }
        }
        Err(_) => buffered.into_inner().rest,
    };
    if let Some(failure) = source.failure.take().or(decoder_failure) {
        return Err(failure);
    }
    let unpacked = unpacked.map_err(|error| LayerError::Unpack(UnpackFailure(error)))?;
    if let Some(mut sink) = source.sink.take() {
        sink.flush().map_err(LayerError::Write)?;
    }
    check_blob(expected, source.count, source.hash)?;
    if diff_id != expected.diff_id {
        return Err(LayerError::DiffId { expected: expected.diff_id, found: diff_id });
    }
    Ok(unpacked)
}

fn check_blob(expected: &Expected, count: u64, hash: Sha256) -> Result<(), LayerError> {
    if count != expected.size_bytes {
        return Err(LayerError::TooShort { expected: expected.size_bytes, found: count });
    }
    let found = Digest::from_hash(hash);
    if found != expected.digest {
        return Err(LayerError::Digest { expected: expected.digest, found });
    }
    Ok(())
}

/// Takes a blob in without looking inside.
pub(crate) fn take_blob(digest: Digest, size_bytes: u64, reader: &mut dyn Read, sink: File) -> Result<(), LayerError> {
    let mut source = Source {
        inner: reader,
        sink: Some(sink),
        kept_bytes: 0,
        hash: Sha256::new(),
        count: 0,
        size_max: size_bytes,
        failure: None,
    };
    let mut buffer = vec![0; OUTPUT_BUFFER_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(_length) => {}
            Err(error) => return Err(source.failure.take().unwrap_or(LayerError::Source(error))),
        }
    }
    let expected = Expected { digest, size_bytes, diff_id: digest, compression: None };
    check_blob(&expected, source.count, source.hash)
}

/// The compressed bytes: counted, hashed, kept.
struct Source<'a> {
    inner: &'a mut dyn Read,
    sink: Option<File>,
    /// Bytes at the beginning that the sink has already.
    kept_bytes: u64,
    hash: Sha256,
    count: u64,
    size_max: u64,
    /// The first thing that went wrong here; readers above only see that something did.
    failure: Option<LayerError>,
}

impl Source<'_> {
    fn fail(&mut self, failure: LayerError) -> io::Error {
        let error = io::Error::other(failure.to_string());
        self.failure.get_or_insert(failure);
        error
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = match self.inner.read(buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(self.fail(LayerError::Source(error))),
        };
        let bytes = &buffer[..length];
        self.count = self.count.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        if self.count > self.size_max {
            return Err(self.fail(LayerError::TooLong { expected: self.size_max }));
        }
        self.hash.update(bytes);
        let known = usize::try_from(self.kept_bytes).unwrap_or(usize::MAX).min(length);
        self.kept_bytes -= u64::try_from(known).unwrap_or(self.kept_bytes);
        if let Some(sink) = &mut self.sink
            && let Err(error) = sink.write_all(&bytes[known..])
        {
            return Err(self.fail(LayerError::Write(error)));
        }
        Ok(length)
    }
}

/// The uncompressed bytes: counted, hashed, limited.
struct Counted<'a> {
    decoder: Decoder<BufReader<Joined<Source<'a>>>>,
    hash: Sha256,
    count: u64,
    failure: Option<LayerError>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.decoder.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.count = self.count.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        let compressed = self.decoder.get_ref().get_ref().rest.count;
        let failure = if self.count > LAYER_BYTES_MAX {
            LayerError::Bomb
        } else if self.count > RATIO_FREE_BYTES && self.count / RATIO_MAX > compressed {
            LayerError::Ratio
        } else {
            return Ok(length);
        };
        let error = io::Error::other(failure.to_string());
        self.failure.get_or_insert(failure);
        Err(error)
    }
}
