//! Memory that is given back in steps, for work that can be long.

use pgrx::PgMemoryContexts;

/// A memory context in which work runs step by step: what a step allocates is given back at its end.
pub struct Scratch(PgMemoryContexts);

impl Scratch {
    /// A new one, below the current context.
    pub fn new(name: &'static str) -> Self {
        Self(PgMemoryContexts::new(name))
    }

    /// Runs one step in it. The result must not point to memory of the server's: that is given back right after.
    pub fn step<R: 'static>(&mut self, work: impl FnOnce() -> R) -> R {
        // SAFETY: everything opened in the step is closed in it, and the result owns what it holds.
        unsafe {
            let result = self.0.switch_to(|_| work());
            self.0.reset();
            result
        }
    }
}
