//! A command in the container.

use std::time::Duration;

use kubelet_shim_reconcile::ProbeResult;
use runtime_cri_api::v1::ExecSyncResponse;
use tonic::{Code, Status};

use super::{Verdict, tidy};
use crate::cri::Cri;

pub(super) async fn probe(cri: &Cri, id: &str, command: &[String], timeout: Duration) -> Verdict {
    match cri.exec(id, command, Some(timeout)).await {
        Ok(answer) if answer.exit_code == 0 => (ProbeResult::Success, String::new()),
        Ok(answer) => {
            let text = output(&answer);
            let message = if text.is_empty() { format!("command ended with code {}", answer.exit_code) } else { text };
            (ProbeResult::Failure, message)
        }
        Err(status) => failed(command, timeout, &status),
    }
}

/// Tells the container's fault from the runtime's.
fn failed(command: &[String], timeout: Duration, status: &Status) -> Verdict {
    let message = status.message();
    if status.code() == Code::DeadlineExceeded {
        return (ProbeResult::Failure, format!("command timed out after {} s: {command:?}", timeout.as_secs()));
    }
    let lower = message.to_ascii_lowercase();
    let cannot = ["executable file not found", "no such file or directory", "permission denied", "cannot execute"];
    if cannot.iter().any(|words| lower.contains(words)) && status.code() != Code::Unavailable {
        return (ProbeResult::Unrunnable, format!("command {command:?} cannot be run: {message}"));
    }
    (ProbeResult::Error, message.to_owned())
}

pub(super) fn output(answer: &ExecSyncResponse) -> String {
    let stdout = tidy(&answer.stdout);
    let stderr = tidy(&answer.stderr);
    if stdout.is_empty() || stderr.is_empty() { stdout + &stderr } else { format!("{stdout} {stderr}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_fault() {
        let check = |status: Status, want: ProbeResult| {
            assert_eq!(failed(&["/x".to_owned()], Duration::from_secs(1), &status).0, want, "{status:?}");
        };
        check(Status::deadline_exceeded("too slow"), ProbeResult::Failure);
        check(Status::unknown("exec: \"/x\": stat /x: no such file or directory"), ProbeResult::Unrunnable);
        check(Status::internal("cannot execute \"/x\" in the container: permission denied"), ProbeResult::Unrunnable);
        check(Status::unavailable("connect: no such file or directory"), ProbeResult::Error);
        check(Status::not_found("no container"), ProbeResult::Error);
        check(Status::internal("clone3: out of memory"), ProbeResult::Error);
    }
}
