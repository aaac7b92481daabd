//! `podwright import`: images from an archive, through the node's socket.

use std::fs::File;
use std::io::{self, Read};

use runtime_control_api::ARCHIVE_CHUNK_BYTES_MAX;
use runtime_control_api::v1::ImportRequest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::cli::Import;
use crate::client::Client;
use crate::error::{Error, refused};
use crate::output;
use crate::verbs::Answer;

/// Messages between the file and the socket.
const MESSAGES_AHEAD_MAX: usize = 8;

pub(super) async fn run(mut client: Client, arguments: Import) -> Answer {
    let path = arguments.file;
    let source: Box<dyn Read + Send> = if path.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(&path).map_err(|source| Error::Read { path: path.clone(), source })?)
    };
    let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD_MAX);
    let name = arguments.name.unwrap_or_default();
    let reading = tokio::task::spawn_blocking(move || read(source, name, &sender));
    let answer = client.control.import(ReceiverStream::new(receiver)).await;
    // A broken file matters more than what the node makes of its first half.
    if let Ok(Err(source)) = reading.await {
        return Err(Error::Read { path, source });
    }
    for name in answer.map_err(refused(format!("import {path:?}")))?.into_inner().names {
        output::line(&name);
    }
    Ok(0)
}

fn read(mut source: Box<dyn Read + Send>, name: String, sender: &mpsc::Sender<ImportRequest>) -> io::Result<()> {
    let mut first = Some(name);
    loop {
        let mut data = Vec::with_capacity(ARCHIVE_CHUNK_BYTES_MAX);
        let count = source.by_ref().take(ARCHIVE_CHUNK_BYTES_MAX as u64).read_to_end(&mut data)?;
        let name = first.take();
        // The first message is sent even when the file is empty, so that the node says so.
        if count == 0 && name.is_none() {
            return Ok(());
        }
        // The node has answered before the end: its answer says why.
        if sender.blocking_send(ImportRequest { name: name.unwrap_or_default(), data }).is_err() {
            return Ok(());
        }
    }
}
