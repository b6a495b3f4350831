//! Whether an answer is as it must be.

use std::fmt::Debug;

use postgres::Error;

/// What a call is refused for.
#[derive(Clone, Debug)]
pub struct Fault {
    /// One of these.
    pub sqlstates: &'static [&'static str],
    /// What the message must say then.
    pub names: Option<String>,
}

/// What the answer to a call may be.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Something is wrong with the call: it must be refused for one of these. Otherwise it must succeed.
    pub faults: Vec<Fault>,
    /// SQLSTATEs that it may have in any case: of what is around it.
    pub tolerated: Vec<&'static str>,
}

impl Expected {
    /// The answer, if it is one; a refusal must be among those expected.
    #[track_caller]
    pub fn judge<T>(&self, result: Result<T, Error>, call: &dyn Debug) -> Option<T> {
        let error = match result {
            Ok(answer) if self.faults.is_empty() => return Some(answer),
            Ok(_) => panic!("{} must be refused: {:?}", short(call), self.faults),
            Err(error) => error,
        };
        let Some(refusal) = error.as_db_error() else { panic!("{}: no answer: {error:?}", short(call)) };
        let (sqlstate, message) = (refusal.code().code(), refusal.message());
        let fits = |fault: &Fault| {
            fault.sqlstates.contains(&sqlstate)
                && fault.names.as_ref().is_none_or(|name| message.contains(name.as_str()))
        };
        assert!(
            self.tolerated.contains(&sqlstate) || self.faults.iter().any(fits),
            "refused with {sqlstate} {}, expected {self:?}: {}",
            short(&message),
            short(call)
        );
        None
    }
}

/// Values may be megabytes long.
pub fn short(value: &dyn Debug) -> String {
    let mut text = format!("{value:?}");
    if let Some((end, _)) = text.char_indices().nth(2000) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}
