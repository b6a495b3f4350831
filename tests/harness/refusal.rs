//! What an error must be.

use std::error::Error as _;
use std::fmt::Debug;
use std::io;

use postgres::Error;
use postgres::error::DbError;

/// Results that must be errors of the server.
pub trait Refused {
    /// The error, which must have this SQLSTATE.
    #[track_caller]
    fn refused(self, sqlstate: &str) -> DbError;

    /// The server has ended the session, with this SQLSTATE if the client has read so much: the connection may be gone before.
    #[track_caller]
    fn ended(self, sqlstate: &str);
}

impl<T: Debug> Refused for Result<T, Error> {
    #[track_caller]
    fn refused(self, sqlstate: &str) -> DbError {
        let error = match self {
            Ok(result) => panic!("expected SQLSTATE {sqlstate}, but it succeeded: {result:?}"),
            Err(error) => error,
        };
        let error =
            error.as_db_error().unwrap_or_else(|| panic!("not an answer of the server: {error:?}")).clone();
        assert_eq!(error.code().code(), sqlstate, "{error:?}");
        let has_backtrace =
            error.detail().is_some_and(|detail| detail.contains("pgrx") || detail.contains(".rs:"));
        assert!(!has_backtrace, "{error:?}");
        error
    }

    #[track_caller]
    fn ended(self, sqlstate: &str) {
        let error = self.expect_err("a session that is ended answers nothing");
        let is_lost = error.is_closed() || error.source().is_some_and(|cause| cause.is::<io::Error>());
        assert!(is_lost || error.code().is_some_and(|code| code.code() == sqlstate), "{error:?}");
    }
}
