//! Progress of a pull to everybody who looks.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::Sender;

use crate::PullEvent;

/// How many may look at one pull; whoever comes later sees nothing of it.
const WATCHERS_MAX: usize = 64;

/// The watchers of one pull. A full or closed channel misses events: nobody's terminal slows a pull down.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    watchers: Vec<Sender<PullEvent>>,
    /// For those who come later.
    resolved: Option<PullEvent>,
}

impl Progress {
    pub(crate) fn watch(&self, watcher: Sender<PullEvent>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolved) = inner.resolved.clone() {
            let _missed = watcher.try_send(resolved);
        }
        if inner.watchers.len() < WATCHERS_MAX {
            inner.watchers.push(watcher);
        }
    }

    /// Nobody hears anything any more: a watcher that reads to the end of its channel comes to one.
    fn close(&self) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.watchers = Vec::new();
    }

    pub(crate) fn tell(&self, event: PullEvent) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.watchers.retain(|watcher| {
            let _missed = watcher.try_send(event.clone());
            !watcher.is_closed()
        });
        if matches!(event, PullEvent::Resolved { .. }) {
            inner.resolved = Some(event);
        }
    }
}

/// Closes the channels of a pull's watchers when the pull ends, in whatever way.
#[derive(Debug)]
pub(crate) struct CloseAtEnd(pub(crate) Arc<Progress>);

impl Drop for CloseAtEnd {
    fn drop(&mut self) {
        self.0.close();
    }
}
