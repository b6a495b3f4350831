//! The detail of an error: what its message says, for programs.

use ledger::caps::CapRefusal;

use super::LedgerError;

impl LedgerError {
    /// A JSON object, with amounts as exact as they are: of the errors that a client is expected to handle.
    pub(super) fn detail(&self) -> Option<String> {
        match self {
            Self::InsufficientCredits { user, asked, available, overdraft_limit } => Some(format!(
                "{{\"user_id\":\"{user}\",\"asked\":\"{asked}\",\"available\":\"{available}\",\"overdraft_limit\":\"{overdraft_limit}\"}}"
            )),
            Self::NotHere { user } => Some(format!("{{\"user_id\":\"{user}\"}}")),
            Self::BucketNotHere(bucket) => Some(format!("{{\"bucket\":{bucket}}}")),
            Self::SpendCapReached { user, refusal: CapRefusal { id, asked, remaining } } => Some(format!(
                "{{\"cap_id\":\"{id}\",\"user_id\":\"{user}\",\"asked\":\"{asked}\",\"remaining\":\"{remaining}\"}}"
            )),
            _ => None,
        }
    }
}
