//! What is being made, by its name: a second request for the same thing waits for the first one's outcome, whatever becomes
//! of the client that asked first.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

use crate::{EngineError, world::lock};

type Outcome<I> = Option<Result<I, Arc<EngineError>>>;

/// All that are under way.
#[derive(Debug)]
pub(crate) struct Flights<N, I>(Mutex<HashMap<N, watch::Receiver<Outcome<I>>>>);

/// What came of asking.
pub(crate) enum Entered<'a, N: Eq + Hash, I> {
    /// The caller makes it.
    First(Flight<'a, N, I>),
    /// Somebody else does.
    Under(Waiting<I>),
}

/// Held by who makes it. Dropped without an outcome, it ends the others' waiting, too.
pub(crate) struct Flight<'a, N: Eq + Hash, I> {
    all: &'a Flights<N, I>,
    name: N,
    outcome: watch::Sender<Outcome<I>>,
}

/// For somebody else's outcome.
pub(crate) struct Waiting<I>(watch::Receiver<Outcome<I>>);

impl<N, I> Default for Flights<N, I> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<N: Eq + Hash + Clone, I: Clone> Flights<N, I> {
    /// Joins the flight of that name, or begins one.
    pub(crate) fn enter(&self, name: &N) -> Entered<'_, N, I> {
        let mut all = lock(&self.0);
        if let Some(receiver) = all.get(name) {
            return Entered::Under(Waiting(receiver.clone()));
        }
        let (outcome, receiver) = watch::channel(None);
        all.insert(name.clone(), receiver);
        Entered::First(Flight { all: self, name: name.clone(), outcome })
    }
}

impl<N: Eq + Hash, I: Clone> Flight<'_, N, I> {
    /// Tells everybody.
    pub(crate) fn land(self, result: Result<I, EngineError>) -> Result<I, EngineError> {
        // First off the list, then told: whoever comes in between finds what was made.
        lock(&self.all.0).remove(&self.name);
        match result {
            Ok(made) => {
                self.outcome.send_replace(Some(Ok(made.clone())));
                Ok(made)
            }
            Err(error) => {
                let error = Arc::new(error);
                self.outcome.send_replace(Some(Err(Arc::clone(&error))));
                Err(EngineError::Joined(error))
            }
        }
    }
}

impl<N: Eq + Hash, I> Drop for Flight<'_, N, I> {
    fn drop(&mut self) {
        if self.outcome.borrow().is_none() {
            lock(&self.all.0).remove(&self.name);
        }
    }
}

impl<I: Clone> Waiting<I> {
    /// What became of it.
    pub(crate) async fn outcome(mut self) -> Result<I, EngineError> {
        let told = self.0.wait_for(Option::is_some).await.map_err(|_| EngineError::Interrupted)?;
        match told.as_ref() {
            Some(Ok(made)) => Ok(made.clone()),
            Some(Err(error)) => Err(EngineError::Joined(Arc::clone(error))),
            None => Err(EngineError::Interrupted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn first<'a>(flights: &'a Flights<&'static str, u8>, name: &'static str) -> Flight<'a, &'static str, u8> {
        match flights.enter(&name) {
            Entered::First(flight) => flight,
            Entered::Under(_) => panic!("{name} is under way"),
        }
    }

    fn joins(flights: &Flights<&'static str, u8>, name: &'static str) -> Waiting<u8> {
        match flights.enter(&name) {
            Entered::Under(waiting) => waiting,
            Entered::First(_) => panic!("{name} is not under way"),
        }
    }

    #[tokio::test]
    async fn the_second_gets_what_the_first_made() {
        let flights = Flights::default();
        let flight = first(&flights, "a");
        let (waiting, other) = (joins(&flights, "a"), first(&flights, "b"));
        assert!(matches!(flight.land(Ok(7)), Ok(7)));
        assert!(matches!(waiting.outcome().await, Ok(7)));
        // It is over: the next one looks for itself.
        drop(first(&flights, "a"));
        let waiting = joins(&flights, "b");
        assert_eq!(other.land(Err(EngineError::invalid("x", "y"))).expect_err("failed").kind(), Kind::Invalid);
        assert_eq!(waiting.outcome().await.expect_err("failed").kind(), Kind::Invalid);
    }

    #[tokio::test]
    async fn one_that_is_lost_holds_nobody_up() {
        let flights = Flights::default();
        let flight = first(&flights, "a");
        let waiting = joins(&flights, "a");
        drop(flight);
        assert_eq!(waiting.outcome().await.expect_err("lost").kind(), Kind::Unavailable);
        drop(first(&flights, "a"));
    }
}
