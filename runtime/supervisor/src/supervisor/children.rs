//! Children that have ended: ours, and those that became ours because their parents are gone.

use runtime_sys::signals::{Child, peek_child, reap_child};
use runtime_wire::{Event, FailureKind};

use super::{Alive, Supervisor};
use crate::container::Stage;
use crate::convert::failure;
use crate::exec::ExecStage;
use crate::warn::warn;

/// Whether a dead child was already met in this round and is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    First,
    Again,
}

impl Supervisor {
    /// Takes every child that has ended. Signals of one kind are merged, so one SIGCHLD may stand for many.
    ///
    /// Each is looked at before it is reaped: while it is a zombie its pid can't be given to another process, so the pid
    /// says whose it is.
    pub(super) fn reap(&mut self) {
        let mut last = None;
        loop {
            let child = match peek_child() {
                Ok(Some(child)) => child,
                Ok(None) => return,
                Err(error) => return warn(error),
            };
            let met = if last == Some(child.pid) { Met::Again } else { Met::First };
            last = Some(child.pid);
            if !self.child_ended(child, met) {
                return warn(format_args!("process {} has ended but can't be reaped", child.pid));
            }
        }
    }

    /// `false`: the child is still there and nothing can be done about it.
    fn child_ended(&mut self, child: Child, met: Met) -> bool {
        if let Some(number) = number_of(&self.containers, |container| container.pid() == Some(child.pid)) {
            let launching =
                matches!(self.containers.get(&number).map(|container| &container.stage), Some(Stage::Launching { .. }));
            if launching {
                // The library reaps what did not reach its program; what did is running now, and met again.
                self.progress(number);
                if met == Met::Again {
                    let why = "start a container: its process ended without a word";
                    self.abandon_start(number, &failure(FailureKind::Kernel, why));
                }
                return true;
            }
            return self.take(child, |this| this.first_process_ended(number, child.end));
        }
        if let Some(number) = number_of(&self.execs, |exec| exec.pid() == child.pid) {
            let launching =
                matches!(self.execs.get(&number).map(|exec| &exec.stage), Some(ExecStage::Launching { .. }));
            if launching {
                self.progress_exec(number);
                if met == Met::Again {
                    let why = "exec in a container: its process ended without a word";
                    self.abandon_exec(number, failure(FailureKind::Kernel, why));
                }
                return true;
            }
            return self.take(child, |this| this.exec_ended(number, child.end));
        }
        if self.sandbox.as_ref().is_some_and(|sandbox| sandbox.process.pid == child.pid && sandbox.alive == Alive::Yes)
        {
            return self.take(child, Self::pause_ended);
        }
        if met == Met::First && self.look_at_launches() {
            return true;
        }
        self.take(child, |_| ())
    }

    /// Reaps, then does what follows from it.
    fn take(&mut self, child: Child, then: impl FnOnce(&mut Self)) -> bool {
        match reap_child(child.pid) {
            Ok(Some(_)) => {
                then(self);
                true
            }
            Ok(None) => false,
            Err(error) => {
                warn(error);
                false
            }
        }
    }

    /// One-shot children have no pid here; those that are done reap themselves when asked. A launch may have gone on in
    /// another process, whose pid is known once it is asked. `true`: there was one to ask.
    fn look_at_launches(&mut self) -> bool {
        let containers: Vec<u64> = self
            .containers
            .iter()
            .filter(|(_, container)| matches!(container.stage, Stage::Checking { .. } | Stage::Launching { .. }))
            .map(|(number, _)| *number)
            .collect();
        let launching = self.execs.iter().filter(|(_, exec)| matches!(exec.stage, ExecStage::Launching { .. }));
        let execs: Vec<u64> = launching.map(|(number, _)| *number).collect();
        for number in &containers {
            self.progress(*number);
        }
        for number in &execs {
            self.progress_exec(*number);
        }
        !containers.is_empty() || !execs.is_empty()
    }

    fn pause_ended(&mut self) {
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.alive = Alive::No;
        }
        self.tell(Event::SandboxExited);
    }
}

fn number_of<T>(objects: &std::collections::BTreeMap<u64, T>, is: impl Fn(&T) -> bool) -> Option<u64> {
    objects.iter().find(|(_, object)| is(object)).map(|(number, _)| *number)
}
