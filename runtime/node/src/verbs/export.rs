//! `podwright export`: images as one OCI archive.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use runtime_control_api::v1::{ExportRequest, ExportResponse};
use tonic::Streaming;

use crate::cli::Export;
use crate::client::Client;
use crate::error::{Error, refused};
use crate::verbs::Answer;

pub(super) async fn run(mut client: Client, arguments: Export) -> Answer {
    let what = format!("export {}", arguments.images.join(", "));
    let answer =
        client.control.export(ExportRequest { names: arguments.images }).await.map_err(refused(what.clone()))?;
    let parts = answer.into_inner();
    let path = arguments.output;
    if path.as_os_str() == "-" {
        return write(parts, &mut io::stdout(), &path, what).await.map(|()| 0);
    }
    // Beside its place until it is complete: half an archive under the right name would be taken for a whole one.
    let partial = partial_name(&path);
    let failed = |source| Error::Write { path: path.clone(), source };
    let mut file = File::create_new(&partial).map_err(failed)?;
    let written = match write(parts, &mut file, &path, what).await {
        Ok(()) => fs::rename(&partial, &path).map_err(failed),
        Err(error) => Err(error),
    };
    if written.is_err() {
        // The error that is told is the first one.
        drop(fs::remove_file(&partial));
    }
    written.map(|()| 0)
}

/// Writes on this thread: there is nothing else to do on it.
async fn write(
    mut from: Streaming<ExportResponse>,
    to: &mut impl Write,
    path: &Path,
    what: String,
) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    while let Some(part) = from.message().await.map_err(refused(what.clone()))? {
        to.write_all(&part.data).map_err(failed)?;
    }
    to.flush().map_err(failed)
}

fn partial_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    PathBuf::from(name)
}
