//! Sessions that do something in the background, or are held in the middle of their commit.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use postgres::Error;

use crate::{Database, Session};

/// A session that is busy in a thread of its own.
pub struct Background<T> {
    pid: i32,
    thread: JoinHandle<(Session, T)>,
}

impl<T: Send + 'static> Background<T> {
    /// Process id of its backend.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the work to end, but for no longer than this.
    pub fn wait_at_most(&self, longest: Duration) {
        let began = Instant::now();
        while !self.thread.is_finished() && began.elapsed() < longest {
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for the work to end and gives the session back with its result.
    ///
    /// # Panics
    /// If the work did.
    #[must_use]
    pub fn finish(self) -> (Session, T) {
        self.thread.join().expect("the background work does not panic")
    }
}

impl Session {
    /// Does something in a thread.
    #[must_use]
    pub fn background<T: Send + 'static>(
        mut self,
        work: impl FnOnce(&mut Self) -> T + Send + 'static,
    ) -> Background<T> {
        let pid = self.pid();
        let thread = thread::spawn(move || {
            let result = work(&mut self);
            (self, result)
        });
        Background { pid, thread }
    }
}

/// A transaction inside its commit: it has settled its users and written its commit record, holds its locks, and no one
/// sees its rows yet.
///
/// If it notifies, every other notifying commit of the cluster waits for it, a [`Listener::drain`] included: Postgres
/// keeps notifications in the order of commits.
///
/// [`Listener::drain`]: crate::Listener::drain
pub struct HeldCommit<'a> {
    database: &'a Database,
    commit: Background<Result<(), Error>>,
}

impl Database {
    /// Commits a session's transaction but for the end of it, which comes with [`HeldCommit::release`].
    #[must_use]
    pub fn hold_commit(&self, mut session: Session) -> HeldCommit<'_> {
        session.run("SET LOCAL synchronous_commit = on");
        let commit = session.background(|session| session.try_run("COMMIT"));
        self.until(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep')",
            &[&commit.pid()],
        );
        HeldCommit { database: self, commit }
    }
}

impl HeldCommit<'_> {
    /// Lets the commit end.
    ///
    /// # Panics
    /// If it fails.
    pub fn release(self) -> Session {
        // A cancelled wait for a standby does not undo the commit: it ends at once, with a warning.
        let pid = self.commit.pid();
        self.database.observe(|observer| observer.value::<bool>("SELECT pg_cancel_backend($1)", &[&pid]));
        let (session, committed) = self.commit.finish();
        committed.expect("the held commit succeeds");
        session
    }
}
