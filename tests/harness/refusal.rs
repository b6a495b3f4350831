//! What an error must be.

use std::fmt::Debug;

use postgres::Error;
use postgres::error::DbError;

/// Results that must be errors of the server.
pub trait Refused {
    /// The error, which must have this SQLSTATE.
    #[track_caller]
    fn refused(self, sqlstate: &str) -> DbError;
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
}
