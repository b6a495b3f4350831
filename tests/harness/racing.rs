//! A client among others that race it: what comes of its transactions, whoever is killed meanwhile.

use postgres::Error;

use crate::{Database, Session};

/// What came of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It committed, or rolled back as it wanted to.
    Done,
    /// With the SQLSTATE that the client reckons with.
    Refused,
    /// Not serializable.
    Retry,
    /// Somebody has terminated the session.
    Killed,
}

/// A client whose transactions are refused with one SQLSTATE and fail in no other way, by a deadlock least of all.
pub struct Racer<'a> {
    db: &'a Database,
    session: Session,
    refused: &'static str,
}

impl<'a> Racer<'a> {
    /// Of the sessions that may be killed.
    const NAME: &'static str = "a client";

    /// A client that reckons with this SQLSTATE.
    #[must_use]
    pub fn new(db: &'a Database, refused: &'static str) -> Self {
        Self { db, session: db.connect(), refused }
    }

    /// Runs one statement after the other. Connects anew if the session was killed.
    ///
    /// # Panics
    /// If one fails in a way that the client does not reckon with.
    pub fn perform(&mut self, statements: &[String]) -> Outcome {
        let result = statements.iter().try_for_each(|statement| self.session.try_run(statement));
        let outcome = self.outcome(result);
        let is_over = outcome == Outcome::Done || self.session.try_run("ROLLBACK").is_ok();
        if outcome == Outcome::Killed || !is_over {
            self.session = self.db.connect();
        }
        outcome
    }

    fn outcome(&self, result: Result<(), Error>) -> Outcome {
        let Err(error) = result else { return Outcome::Done };
        match error.code().map(|code| code.code()) {
            Some(code) if code == self.refused => Outcome::Refused,
            Some("40001") => Outcome::Retry,
            Some("57P01") => Outcome::Killed,
            _ if self.session.is_closed() => Outcome::Killed,
            _ => panic!("{error:?}"),
        }
    }

    /// Lets others kill the session from here on.
    pub fn allow_killing(&mut self) {
        self.perform(&[format!("SET application_name = '{}'", Self::NAME)]);
    }

    /// Lets nobody kill the session from here on.
    pub fn forbid_killing(&mut self) {
        self.perform(&["RESET application_name".to_owned()]);
    }

    /// Kills a client that may be killed, perhaps itself.
    pub fn kill_one(&mut self) {
        self.perform(&[format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = '{}' ORDER BY random() LIMIT 1",
            Self::NAME
        )]);
    }
}
