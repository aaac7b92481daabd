//! What was done is undone newest first, to the end, and all failures are told.

use std::{future::Future, pin::Pin};

use crate::EngineError;

type Step = Pin<Box<dyn Future<Output = Result<(), EngineError>> + Send>>;

/// What would have to be undone if the operation failed now.
#[derive(Default)]
pub(crate) struct Undo(Vec<(&'static str, Step)>);

impl Undo {
    /// Adds a step. Push it before the step that it undoes begins: half done must be undone too.
    pub(crate) fn push(
        &mut self,
        what: &'static str,
        step: impl Future<Output = Result<(), EngineError>> + Send + 'static,
    ) {
        self.0.push((what, Box::pin(step)));
    }

    /// Runs every step, newest first, and tells all that failed: a leak is worse than a long log.
    pub(crate) async fn run(self) -> Vec<(&'static str, EngineError)> {
        let mut failed = Vec::new();
        for (what, step) in self.0.into_iter().rev() {
            if let Err(error) = step.await {
                tracing::warn!(step = what, error = &error as &dyn std::error::Error, "could not be undone");
                failed.push((what, error));
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::Undo;
    use crate::EngineError;

    #[tokio::test]
    async fn newest_first_to_the_end() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for (name, fails) in [("first", false), ("second", true), ("third", false)] {
            let order = Arc::clone(&order);
            undo.push(name, async move {
                order.lock().expect("not poisoned").push(name);
                if fails { Err(EngineError::Interrupted) } else { Ok(()) }
            });
        }
        let failed = undo.run().await;
        assert_eq!(*order.lock().expect("not poisoned"), ["third", "second", "first"]);
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].0, "second");
    }
}
