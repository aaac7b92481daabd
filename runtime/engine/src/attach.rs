//! A client joins a running container's streams.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
};

use runtime_lifecycle::ContainerId;
use runtime_wire::{Answer, AttachSpec, Request};

use crate::{
    Engine, EngineError, Streams, Wanted,
    streams::{input_of, output},
    supervisor::{Ask, Brings},
    world::Container,
};

/// A client that is attached. It ends when the streams are dropped, or with the container.
#[derive(Debug)]
pub struct Attached {
    /// Its ends. What it doesn't read in time is dropped and counted by the supervisor, never waited for.
    pub streams: Streams,
    container: Arc<Container>,
}

impl Attached {
    /// Returns once the container has ended.
    pub async fn ended(&self) {
        self.container.ended().await;
    }
}

impl Engine {
    /// Attaches to a running container. Its standard input is only there where it was created with one, and where no
    /// earlier client ended it.
    pub async fn attach(&self, id: &ContainerId, wanted: Wanted) -> Result<Attached, EngineError> {
        let container = self.running(id)?;
        let link = self.world.sandbox(&container.sandbox)?.link()?;
        let stdout = wanted.stdout.then(output).transpose()?;
        let stderr = wanted.stderr.then(output).transpose()?;
        let descriptors: Vec<BorrowedFd<'_>> =
            [&stdout, &stderr].into_iter().flatten().map(|(_, writer)| writer.as_fd()).collect();
        let spec =
            AttachSpec { container: id.to_string(), stdin: wanted.stdin, stdout: wanted.stdout, stderr: wanted.stderr };
        let asked = Ask {
            step: "attach",
            request: Request::Attach(spec),
            descriptors: &descriptors,
            brings: Brings::AsAnswered,
            deadline: self.config.limits.supervisor_answer,
        };
        let (answer, beside) = link.ask(asked).await?;
        let Answer::Attached { terminal, input } = answer else { return Err(link.protocol("attach")) };
        if wanted.stdin && !input {
            return Err(EngineError::NoStandardInput { id: id.clone() });
        }
        // The writing ends here are dropped with these, so that the supervisor's are the only ones.
        let streams = Streams {
            stdout: stdout.map(|(output, _)| output),
            stderr: stderr.map(|(output, _)| output),
            ..Streams::default()
        };
        let streams = match beside {
            Some(master) if terminal => streams.with_terminal_input(master, Wanted { stdin: input, ..wanted })?,
            Some(writer) if input => Streams { stdin: Some(input_of(writer)?), ..streams },
            None if !terminal && !input => streams,
            _ => return Err(link.protocol("attach")),
        };
        Ok(Attached { streams, container })
    }
}
