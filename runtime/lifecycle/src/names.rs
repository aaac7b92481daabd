//! Who holds which name. A name that is taken tells its holder, so that a repeated request can join it.

use std::{collections::HashMap, hash::Hash};

use crate::{Metadata, SandboxId};

/// What makes two requests for a sandbox the same one.
pub type SandboxName = Metadata;

/// What makes two requests for a container the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContainerName {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The name in it.
    pub name: String,
    /// The attempt.
    pub attempt: u32,
}

/// Names and their holders.
#[derive(Debug, Clone)]
pub struct Names<N, I> {
    held: HashMap<N, I>,
}

/// What came of asking for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim<I> {
    /// It is now held by the one who asked.
    Granted,
    /// Somebody holds it.
    Held(I),
}

impl<N, I> Default for Names<N, I> {
    fn default() -> Self {
        Self { held: HashMap::new() }
    }
}

impl<N: Eq + Hash, I: Clone + Eq> Names<N, I> {
    /// Takes `name` for `id`, unless it is held.
    pub fn claim(&mut self, name: N, id: &I) -> Claim<I> {
        match self.held.get(&name) {
            Some(holder) => Claim::Held(holder.clone()),
            None => {
                self.held.insert(name, id.clone());
                Claim::Granted
            }
        }
    }

    /// Gives `name` up if `id` holds it: somebody else's claim isn't touched.
    pub fn release(&mut self, name: &N, id: &I) {
        if self.held.get(name) == Some(id) {
            self.held.remove(name);
        }
    }

    /// All names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &N> {
        self.held.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::{Claim, Names};

    #[test]
    fn a_name_has_one_holder() {
        let mut names = Names::default();
        assert_eq!(names.claim("pod", &1), Claim::Granted);
        assert_eq!(names.claim("pod", &2), Claim::Held(1));
        names.release(&"pod", &2);
        assert_eq!(names.claim("pod", &2), Claim::Held(1));
        names.release(&"pod", &1);
        assert_eq!(names.claim("pod", &2), Claim::Granted);
        assert_eq!(names.names().count(), 1);
    }
}
