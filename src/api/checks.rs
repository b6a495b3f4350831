//! What the CHECK constraints of the tables ask. The server reads and plans the expression of a constraint in every statement, and a call is
//! the shortest expression there is. All are STRICT: of NULL they are not asked.

use ledger::transaction_type::TransactionType;

use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};

const TRANSACTION_TYPE: Argument = Argument(0, "transaction_type");

/// `is_amount(amount)`
pub fn is_amount(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let (_, credits) = call.required_numeric(Argument(0, "amount"))?;
    Ok(Answer::bool(credits.is_ok_and(|credits| credits.require_amount().is_ok())))
}

/// `is_transaction_type(transaction_type)`
pub fn is_transaction_type(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let name = call.required_content(TRANSACTION_TYPE)?;
    Ok(Answer::bool(TransactionType::from_name(name.as_bytes()).is_some()))
}

/// `may_have_batch(transaction_type, fusillade_batch_id)`
pub fn may_have_batch(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let name = call.required_content(TRANSACTION_TYPE)?;
    Ok(Answer::bool(TransactionType::from_name(name.as_bytes()).is_some_and(TransactionType::may_have_batch)))
}
