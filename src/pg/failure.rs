//! Errors that were caught: whose they are and what they say.

use std::ffi::CStr;

use pgrx::pg_sys::panic::CaughtError;

use super::column::Layout;
use super::raised::Raised;
use super::tables::transactions::Ledger;

/// What is known of an error.
#[derive(Debug)]
pub struct Failure {
    /// `None` for an error of our own making.
    sqlstate: Option<[u8; 5]>,
    constraint: Option<String>,
    /// The message of the error.
    pub message: String,
}

impl Failure {
    /// The error that was caught.
    pub fn of(error: &CaughtError) -> Self {
        match error {
            CaughtError::RustPanic { payload, ereport } => match payload.downcast_ref::<Raised>() {
                Some(raised) => Self {
                    sqlstate: Some(unpacked(raised.sqlstate())),
                    constraint: raised.constraint(),
                    message: raised.message(),
                },
                None => Self { sqlstate: None, constraint: None, message: ereport.message().to_owned() },
            },
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => Self {
                sqlstate: Some(unpacked(report.sql_error_code() as i32)),
                constraint: None,
                message: report.message().to_owned(),
            },
        }
    }

    /// Whether the error is about the transaction, the session or the server, and not about a row that was to be written.
    pub fn concerns_the_transaction(&self) -> bool {
        self.sqlstate.is_none_or(|state| {
            matches!(&state[..2], b"25" | b"40" | b"53" | b"57" | b"58")
                || matches!(&state, b"55P03" | b"XX001" | b"XX002")
        })
    }

    /// The unique constraint of the ledger that a row was refused by, since its `source_id` or `id` is taken.
    pub fn ledger_key(&self) -> Option<&'static CStr> {
        let constraint = self.constraint.as_ref().filter(|_| self.sqlstate == Some(*b"23505"))?;
        Ledger::DEFINITION.keys.iter().copied().find(|key| key.to_bytes() == constraint.as_bytes())
    }
}

/// An SQLSTATE as its five characters, of which the server keeps six bits each.
fn unpacked(code: i32) -> [u8; 5] {
    std::array::from_fn(|place| b'0' + u8::try_from(code >> (6 * place) & 0x3f).unwrap_or_default())
}
