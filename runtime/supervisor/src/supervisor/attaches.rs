//! Clients that join a running container's streams.

use std::os::fd::OwnedFd;

use runtime_sys::epoll::Interest;
use runtime_wire::{Answer, AttachSpec, FailureKind, Stdin};

use super::requests::no_such_container;
use super::{Outcome, Supervisor, Token};
use crate::attach::{CLIENT_PIPES_MAX, ClientPipe};
use crate::container::{Container, Stage, Terminal};
use crate::convert::failure;
use crate::warn::warn;

impl Supervisor {
    pub(super) fn attach(&mut self, spec: &AttachSpec, descriptors: Vec<OwnedFd>) -> Outcome {
        let id = &spec.container;
        let container = self.find(id).ok_or_else(|| no_such_container(id))?;
        let streams = [spec.stdout, spec.stderr].into_iter().enumerate().filter(|(_, wanted)| *wanted);
        let wanted: Vec<(u64, usize)> = streams.map(|(stream, _)| (self.number(), stream)).collect();
        let Some(Container { stage, stdin, terminal, .. }) = self.containers.get_mut(&container) else {
            return Err(no_such_container(id));
        };
        let refused = |why: &str| Err(failure(FailureKind::Refused, format!("attach to container {id}: {why}")));
        let live = match stage {
            Stage::Running { live, .. } => live,
            Stage::Checking { .. } | Stage::Created { .. } | Stage::Launching { .. } => {
                return refused("it is not running; it is started first");
            }
            Stage::Ending(_) | Stage::Exited { .. } => return refused("it has ended"),
        };
        if live.attached.len() + wanted.len() > CLIENT_PIPES_MAX {
            return refused(&format!("clients have {CLIENT_PIPES_MAX} pipes to it already"));
        }
        let kernel = |what: &str, error: &dyn std::fmt::Display| {
            failure(FailureKind::Kernel, format!("attach to container {id}: {what}: {error}"))
        };
        let mut pipes = Vec::new();
        for ((number, stream), descriptor) in wanted.into_iter().zip(descriptors) {
            // A stream that the container has closed ends at once: its pipe is dropped here.
            if live.outputs.get(stream).is_some_and(Option::is_some) {
                let pipe = ClientPipe::new(number, stream, descriptor);
                pipes.push(pipe.map_err(|error| kernel("a client's pipe can't be written", &error))?);
            }
        }
        let terminal = *terminal != Terminal::No && live.input.is_some();
        let input = spec.stdin && *stdin != Stdin::Closed && live.input.is_some();
        let beside = match (&live.input, *stdin) {
            // The only one: closed by the client, the container reads the end.
            (Some(_), Stdin::Once) if input && !terminal => live.input.take(),
            (Some(ours), _) if input || terminal => {
                Some(ours.try_clone().map_err(|error| kernel("its standard input can't be handed out", &error))?)
            }
            _ => None,
        };
        for pipe in pipes {
            let token = Token::Client(pipe.number()).pack();
            match self.epoll.add(pipe.descriptor(), token, Interest::Hangup) {
                Ok(()) => live.attached.add(pipe),
                Err(error) => warn(format_args!("container {id}: an attached client is not watched: {error}")),
            }
        }
        Ok((Answer::Attached { terminal, input }, beside.into_iter().collect()))
    }

    /// The reader of a client's pipe is gone.
    pub(super) fn client_left(&mut self, number: u64) {
        let found = self.containers.values_mut().find_map(|container| {
            let client = container.live()?.attached.remove(number)?;
            Some((container.id.clone(), client))
        });
        if let Some((container, client)) = found {
            self.detach(&container, client);
        }
    }

    /// A client's pipe is closed: its reader sees the end after all that it was given.
    pub(super) fn detach(&self, container: &str, client: ClientPipe) {
        self.unwatch(client.descriptor());
        let missing = client.close();
        if missing > 0 {
            warn(format_args!("container {container}: an attached client did not read {missing} bytes of output"));
        }
    }
}
