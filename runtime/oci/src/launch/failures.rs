//! What a failed step means to people.

use runtime_sys::process::Namespaces;

use super::{ESRCH, Launching};
use crate::step::{Step, Target, What};
use crate::{OciError, child};

const ENOTDIR: i32 = 20;

impl Launching {
    pub(super) fn failure(&self, index: usize, errno: i32, detail: &str) -> OciError {
        let not_mapped = |path: &std::ffi::CString| OciError::Owners {
            path: path.to_string_lossy().into_owned(),
            filesystem: detail.to_owned(),
            errno,
        };
        if let Some(Step::Mount(target)) = self.plan.steps.get(index)
            && let Some(error) = self.mount_failure(target, errno)
        {
            return error;
        }
        match self.plan.steps.get(index) {
            Some(Step::Execute(command)) => OciError::CannotExecute { program: command.name.clone(), errno },
            Some(Step::CloneSource(source)) if errno == child::CHANGED => {
                OciError::SourceChanged { path: source.path.to_string_lossy().into_owned() }
            }
            Some(Step::CloneSource(source)) => {
                OciError::Source { path: source.path.to_string_lossy().into_owned(), errno }
            }
            Some(Step::MapOwners { path, .. }) => not_mapped(path),
            Some(Step::CloneLayers(layers)) if !detail.is_empty() => {
                layers.lowers.first().map_or_else(|| OciError::Gone, not_mapped)
            }
            Some(Step::Join(_, Namespaces::PID)) if errno == ESRCH => OciError::TargetGone,
            Some(Step::JoinProcess(..)) if errno == ESRCH => OciError::Gone,
            Some(step) => OciError::Step { step: step.to_string(), errno },
            None => OciError::Step { step: "take a step".to_owned(), errno },
        }
    }

    /// `ENOTDIR` alone would leave people to guess which of two paths is meant.
    fn mount_failure(&self, target: &Target, errno: i32) -> Option<OciError> {
        let destination = || target.destination.to_string_lossy().into_owned();
        let why = match errno {
            child::FILE_ON_DIRECTORY => "the source is no directory, and a directory is there",
            child::DIRECTORY_ON_FILE => "the source is a directory, and something else is there",
            ENOTDIR => "something on the way there is no directory",
            _ => "",
        };
        let path = match &target.what {
            What::Tree(slot) => self.plan.steps.iter().find_map(|step| match step {
                Step::CloneSource(source) if source.slot == *slot => Some(&source.path),
                _ => None,
            }),
            What::Image { sub_path, .. } => sub_path.as_ref(),
            _ => None,
        };
        let path = path?.to_string_lossy().into_owned();
        let of_kernel = errno > 0 && matches!(target.what, What::Image { .. });
        if of_kernel {
            Some(OciError::ImageVolume { sub_path: path, destination: destination(), errno })
        } else {
            (!why.is_empty()).then(|| OciError::Mismatch { path, destination: destination(), why })
        }
    }
}
