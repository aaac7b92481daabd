//! Archives in and out.

use std::io::{self, BufWriter, Write};

use images_service::{Images, PipeWriter, pipe};
use runtime_control_api::ARCHIVE_CHUNK_BYTES_MAX;
use runtime_control_api::v1::{ExportResponse, ImportRequest, ImportResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::pull::status;

/// Messages between the store and the socket; each holds up to [`ARCHIVE_CHUNK_BYTES_MAX`].
const MESSAGES_AHEAD_MAX: usize = 4;

/// Reads an archive from a client.
pub(super) async fn import(images: &Images, mut parts: Streaming<ImportRequest>) -> Result<ImportResponse, Status> {
    let Some(first) = parts.message().await? else {
        return Err(Status::invalid_argument("the archive is empty"));
    };
    let name = Some(first.name).filter(|name| !name.is_empty());
    let (writer, reader) = pipe();
    let feeding = tokio::spawn(feed(writer, first.data, parts));
    let imported = images.import(reader, name.as_deref()).await;
    if let Err(error) = &imported
        // What stopped the client's bytes is the cause; that the archive then ended too early is its effect.
        && let Ok(Err(broken)) = feeding.await
    {
        tracing::debug!(%error, "an import was given up by its client");
        return Err(broken);
    }
    Ok(ImportResponse { names: imported.map_err(|error| status(&error))? })
}

async fn feed(writer: PipeWriter, first: Vec<u8>, mut parts: Streaming<ImportRequest>) -> Result<(), Status> {
    let mut data = first;
    loop {
        // A reader that is gone has its answer already.
        if !data.is_empty() && writer.write(data.into()).await.is_err() {
            return Ok(());
        }
        match parts.message().await? {
            Some(part) => data = part.data,
            None => {
                // As above.
                let _ = writer.finish().await;
                return Ok(());
            }
        }
    }
}

/// Writes images to a client.
pub(super) fn export(images: Images, names: Vec<String>) -> ReceiverStream<Result<ExportResponse, Status>> {
    let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD_MAX);
    tokio::spawn(async move {
        let out = BufWriter::with_capacity(ARCHIVE_CHUNK_BYTES_MAX, Messages(sender.clone()));
        if let Err(error) = images.export(&names, out).await {
            // A client that is gone needs no answer.
            drop(sender.send(Err(status(&error))).await);
        }
    });
    ReceiverStream::new(receiver)
}

/// Writing blocks its thread while the client reads slowly: the store writes on a thread of its own.
struct Messages(mpsc::Sender<Result<ExportResponse, Status>>);

impl Write for Messages {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let part = &data[..data.len().min(ARCHIVE_CHUNK_BYTES_MAX)];
        self.0
            .blocking_send(Ok(ExportResponse { data: part.to_vec() }))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone"))?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
