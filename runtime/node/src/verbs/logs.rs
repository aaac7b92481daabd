//! `podwright logs`: what containers wrote.

use std::collections::HashMap;

use runtime_control_api::v1::{ListPodsRequest, LogLine, LogsRequest, PodKey};

use crate::cli::{Logs, PodName};
use crate::client::Client;
use crate::error::{Error, refused};
use crate::output;
use crate::verbs::Answer;

/// A line that is longer is shown in pieces.
const LINE_BYTES_MAX: usize = 1024 * 1024;

pub(super) async fn run(mut client: Client, arguments: Logs) -> Answer {
    let prefix = arguments.container.is_none() && has_several(&mut client, &arguments.pod).await;
    let style = Style {
        prefix: if prefix { Prefix::Container } else { Prefix::None },
        time: if arguments.timestamps { Time::Shown } else { Time::Hidden },
    };
    let request = LogsRequest {
        pod: Some(PodKey { namespace: arguments.pod.namespace.clone(), name: arguments.pod.name.clone() }),
        container: arguments.container.unwrap_or_default(),
        follow: arguments.follow,
        previous: arguments.previous,
        tail_lines: arguments.tail,
    };
    let what = || refused(format!("logs of {}", arguments.pod));
    let mut lines = client.control.logs(request).await.map_err(what())?.into_inner();
    let mut joiner = Joiner::default();
    while let Some(line) = lines.message().await.map_err(what())? {
        let Some(whole) = joiner.push(line) else { continue };
        // A reader that went away has what it wanted.
        if print(&whole, style).is_err() {
            return Ok(0);
        }
    }
    Ok(0)
}

/// Whether lines of several containers may come, so that each must say whose it is.
async fn has_several(client: &mut Client, pod: &PodName) -> bool {
    let found: Result<_, Error> = client.control.list_pods(ListPodsRequest {}).await.map_err(refused("pods"));
    let pods = found.map(|answer| answer.into_inner().pods).unwrap_or_default();
    pods.iter()
        .find(|found| found.key.as_ref().is_some_and(|key| key.name == pod.name && key.namespace == pod.namespace))
        .is_none_or(|found| found.containers.len() > 1)
}

/// What stands before a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    None,
    Container,
}

/// Whether the time stands before a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    Hidden,
    Shown,
}

/// How lines are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) prefix: Prefix,
    pub(super) time: Time,
}

/// Puts the pieces of long lines together: two containers' pieces must not run into each other.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    pieces: HashMap<(String, String), Vec<u8>>,
}

impl Joiner {
    /// The line, once its last piece is there.
    pub(super) fn push(&mut self, mut piece: LogLine) -> Option<LogLine> {
        let key = (piece.container.clone(), piece.stream.clone());
        if piece.partial {
            let pending = self.pieces.entry(key.clone()).or_default();
            pending.append(&mut piece.line);
            if pending.len() < LINE_BYTES_MAX {
                return None;
            }
        }
        if let Some(mut start) = self.pieces.remove(&key) {
            start.append(&mut piece.line);
            piece.line = start;
        }
        Some(piece)
    }
}

/// One line, on the stream that the container wrote it to.
pub(super) fn print(line: &LogLine, style: Style) -> std::io::Result<()> {
    let text = render(line, style);
    if line.stream == "stderr" { output::error_bytes(&text) } else { output::bytes(&text) }
}

fn render(line: &LogLine, style: Style) -> Vec<u8> {
    let mut text = Vec::with_capacity(line.line.len() + 64);
    if style.time == Time::Shown
        && let Ok(at) = jiff::Timestamp::from_nanosecond(i128::from(line.at_unix_nanos))
    {
        text.extend_from_slice(format!("{at:.9} ").as_bytes());
    }
    if style.prefix == Prefix::Container {
        text.extend_from_slice(format!("[{}] ", line.container).as_bytes());
    }
    text.extend_from_slice(&line.line);
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use runtime_control_api::v1::LogLine;

    use super::{Joiner, Prefix, Style, Time, render};

    fn piece(container: &str, text: &str, partial: bool) -> LogLine {
        LogLine {
            container: container.to_owned(),
            stream: "stdout".to_owned(),
            line: text.as_bytes().to_vec(),
            partial,
            at_unix_nanos: 1_500_000_000_000_000_001,
        }
    }

    #[test]
    fn pieces_of_two_containers_stay_apart() {
        let mut joiner = Joiner::default();
        assert!(joiner.push(piece("a", "one ", true)).is_none());
        assert_eq!(joiner.push(piece("b", "whole", false)).expect("whole").line, b"whole");
        assert!(joiner.push(piece("a", "two ", true)).is_none());
        assert_eq!(joiner.push(piece("a", "three", false)).expect("whole").line, b"one two three");
    }

    #[test]
    fn a_line_without_end_is_passed_on_in_pieces() {
        let mut joiner = Joiner::default();
        let half = "x".repeat(super::LINE_BYTES_MAX / 2);
        assert!(joiner.push(piece("a", &half, true)).is_none());
        assert_eq!(joiner.push(piece("a", &half, true)).expect("long enough").line.len(), super::LINE_BYTES_MAX);
        assert_eq!(joiner.push(piece("a", "end", false)).expect("whole").line, b"end");
    }

    #[test]
    fn what_stands_before_a_line() {
        let line = piece("web", "hello", false);
        let check = |prefix, time, expected: &str| {
            assert_eq!(String::from_utf8(render(&line, Style { prefix, time })).expect("text"), expected);
        };
        check(Prefix::None, Time::Hidden, "hello\n");
        check(Prefix::Container, Time::Hidden, "[web] hello\n");
        check(Prefix::Container, Time::Shown, "2017-07-14T02:40:00.000000001Z [web] hello\n");
    }
}
