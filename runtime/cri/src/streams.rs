//! The streaming server's view of the engine: sessions are made of its execs, attachments and connections.

use std::sync::Arc;

use runtime_engine::{Engine, EngineError, Streams, Wanted};
use runtime_streaming::{
    AttachRequest, Backend, BackendError, BoxFuture, Connection, ExecRequest, ExitStatus, Input, Output, Session, Size,
    StreamingError, Terminal,
};
use tonic::Status;

use crate::error::{chain, invalid};

/// The engine behind the streaming server.
pub fn backend(engine: Arc<Engine>) -> Arc<dyn Backend> {
    Arc::new(Sessions(engine))
}

struct Sessions(Arc<Engine>);

impl Backend for Sessions {
    fn exec<'a>(&'a self, request: &'a ExecRequest) -> BoxFuture<'a, Result<Session, BackendError>> {
        Box::pin(async move {
            let ExecRequest { container, command, stdin, stdout, stderr, tty } = request;
            let wanted = Wanted { stdin: *stdin, stdout: *stdout, stderr: *stderr, tty: *tty };
            let id = self.0.find_container(container).map_err(said)?;
            let mut started = self.0.exec(&id, command.clone(), wanted).await.map_err(said)?;
            let streams = std::mem::take(&mut started.streams);
            // Dropped, the command is killed with all that it started.
            Ok(session(streams, async move {
                let exit = started.ended().await.map_err(said)?;
                Ok(ExitStatus { code: exit.code })
            }))
        })
    }

    fn attach<'a>(&'a self, request: &'a AttachRequest) -> BoxFuture<'a, Result<Session, BackendError>> {
        Box::pin(async move {
            let AttachRequest { container, stdin, stdout, stderr, tty } = request;
            let wanted = Wanted { stdin: *stdin, stdout: *stdout, stderr: *stderr, tty: *tty };
            let id = self.0.find_container(container).map_err(said)?;
            let mut attached = self.0.attach(&id, wanted).await.map_err(said)?;
            let streams = std::mem::take(&mut attached.streams);
            // The end of the container is the end of the session, and whatever its code, no failure of the session's.
            Ok(session(streams, async move {
                attached.ended().await;
                Ok(ExitStatus { code: 0 })
            }))
        })
    }

    fn connect<'a>(&'a self, sandbox: &'a str, port: u16) -> BoxFuture<'a, Result<Box<dyn Connection>, BackendError>> {
        Box::pin(async move {
            let id = self.0.find_sandbox(sandbox).map_err(said)?;
            let stream = self.0.port_forward(&id, port).await.map_err(said)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}

fn session(
    streams: Streams,
    ended: impl Future<Output = Result<ExitStatus, BackendError>> + Send + 'static,
) -> Session {
    let Streams { stdin, stdout, stderr, terminal } = streams;
    Session {
        stdin: stdin.map(|input| Box::new(input) as Input),
        stdout: stdout.map(|output| Box::new(output) as Output),
        stderr: stderr.map(|output| Box::new(output) as Output),
        terminal: terminal.map(|terminal| {
            Box::new(move |Size { width, height }: Size| {
                if let Err(error) = terminal.resize(height, width) {
                    tracing::debug!(error = chain(&error), "a terminal was not resized");
                }
            }) as Terminal
        }),
        ended: Box::pin(ended),
    }
}

fn said(error: EngineError) -> BackendError {
    BackendError { message: chain(&error) }
}

/// Which streams a client asks for, checked as the CRI has it.
pub(crate) fn check(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<(), Status> {
    if tty && stderr {
        return Err(invalid("stderr", "a terminal has one stream of output: tty and stderr exclude each other"));
    }
    if !(stdin || stdout || stderr) {
        return Err(invalid("streams", "one of stdin, stdout and stderr must be asked for"));
    }
    Ok(())
}

/// Of the streaming server.
pub(crate) fn refused(error: &StreamingError) -> Status {
    match error {
        StreamingError::TooManyTokens { .. } | StreamingError::TooManySessions { .. } => {
            Status::resource_exhausted(chain(error))
        }
        StreamingError::Bind { .. } | StreamingError::Random { .. } => Status::internal(chain(error)),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::check;

    #[test]
    fn streams_as_the_cri_has_them() {
        for (streams, good) in [
            ([true, false, false, false], true),
            ([false, true, true, false], true),
            ([true, true, false, true], true),
            ([false, false, false, false], false),
            ([false, false, false, true], false),
            ([true, true, true, true], false),
        ] {
            let [stdin, stdout, stderr, tty] = streams;
            let code = check(stdin, stdout, stderr, tty).err().map(|status| status.code());
            assert_eq!(code, if good { None } else { Some(Code::InvalidArgument) }, "{streams:?}");
        }
    }
}
