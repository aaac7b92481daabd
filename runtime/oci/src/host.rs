//! What is looked up once in a supervisor's life.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use runtime_sys::SysResult;
use runtime_sys::privileges::{self, Capabilities};
use runtime_sys::procfs::ProcHandle;
use runtime_sys::{features, process};

use crate::OciError;
use crate::error::During;
use crate::plan::Facts;
use crate::step::OverlayForm;

/// The machine and the calling process.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) proc: ProcHandle,
    /// The caller's own process-id namespace, to come back to.
    pub(crate) own_pids: OwnedFd,
    pub(crate) facts: Facts,
}

/// Looked up at the first call.
pub(crate) fn host() -> Result<&'static Host, OciError> {
    static HOST: OnceLock<SysResult<Host>> = OnceLock::new();
    HOST.get_or_init(look).as_ref().map_err(Clone::clone).during(|| "look at this machine".to_owned())
}

fn look() -> SysResult<Host> {
    let proc = ProcHandle::new()?;
    let own_pids = proc.open_namespace(c"self/ns/pid")?;
    let overlay =
        if features::overlay_takes_single_layers() { OverlayForm::LayerByLayer } else { OverlayForm::ShortNames };
    let facts = Facts {
        last_capability: privileges::last_capability()?,
        bounding: privileges::bounding()?,
        beyond_own: privileges::effective()?.contains(Capabilities::SYS_RESOURCE),
        oom_score_adj: proc.read(c"self/oom_score_adj")?.trim().parse().unwrap_or(0),
        overlay,
    };
    Ok(Host { proc, own_pids, facts })
}

impl Host {
    /// Runs `work` with the caller's later children in another process-id namespace; the caller itself stays where it is.
    pub(crate) fn with_children_in<T>(
        &self,
        pids: Option<&OwnedFd>,
        work: impl FnOnce() -> Result<T, OciError>,
    ) -> Result<T, OciError> {
        use std::os::fd::AsFd;
        let Some(pids) = pids else { return work() };
        let step = || "join the process-id namespace".to_owned();
        process::setns(pids.as_fd(), process::Namespaces::PID).during(step)?;
        let answer = work();
        // Before the answer is looked at: a child made later would be born in the wrong namespace.
        process::setns(self.own_pids.as_fd(), process::Namespaces::PID)
            .during(|| "leave the process-id namespace".to_owned())?;
        answer
    }
}
