//! Manifest files as the command line names them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kubelet_shim_manifest::{Document, MANIFEST_BYTES_MAX, Pod};
use runtime_control_api::v1::Manifest;

use crate::error::Error;

/// Reads every file; `-` is standard input.
pub(super) fn read(files: &[PathBuf]) -> Result<Vec<Manifest>, Error> {
    files.iter().map(|file| read_one(file)).collect()
}

fn read_one(path: &Path) -> Result<Manifest, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let source: Box<dyn Read> =
        if path.as_os_str() == "-" { Box::new(io::stdin()) } else { Box::new(File::open(path).map_err(failed)?) };
    let limit_bytes = MANIFEST_BYTES_MAX as u64;
    let mut bytes = Vec::new();
    source.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(Error::TooLarge { path: path.to_owned(), limit_bytes });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        failed(io::Error::new(io::ErrorKind::InvalidData, format!("it is not UTF-8 text: {error}")))
    })?;
    Ok(Manifest { file: path.display().to_string(), text })
}

/// The pods of all files, or all that is wrong with all of them.
pub(crate) fn parse(manifests: &[Manifest]) -> Result<Vec<Pod>, Error> {
    let (mut pods, mut mistakes) = (Vec::new(), Vec::new());
    for manifest in manifests {
        match kubelet_shim_manifest::parse(&manifest.file, &manifest.text) {
            Ok(documents) => pods.extend(documents.into_iter().filter_map(|document| match document {
                Document::Pod(pod) => Some(*pod),
                _ => None,
            })),
            Err(errors) => mistakes.push(errors.to_string()),
        }
    }
    if !mistakes.is_empty() {
        return Err(Error::Manifest(mistakes.join("\n")));
    }
    if pods.is_empty() { Err(Error::NoPod) } else { Ok(pods) }
}
