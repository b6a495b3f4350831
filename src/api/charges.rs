//! Charges: usage that is refused unless what is available to the account covers it.

use ledger::credits::Credits;

use super::arguments::{details, exact_amount, require_source_id};
use super::given::Given;
use super::recording::{self, Recorded, Recording};
use crate::engine::early_refusal::{self, Taking};
use crate::engine::{claims, source_ids};
use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::catalog::Relations;
use crate::pg::text::Text;
use crate::pg::value::Value;
use crate::pg::{privilege, xact};

/// `charge(user_id, amount, source_id, description, fusillade_batch_id, api_key_id, category, metadata)`
pub fn charge(call: &Call<'_>) -> Result<Answer, LedgerError> {
    const USER_ID: Argument = Argument(0, "user_id");
    let (user_id, user) = (call.required_uuid(USER_ID)?, *call.user_id(USER_ID)?);
    let (amount, credits) = call.required_numeric(Argument(1, "amount"))?;
    let source_id = call.required_content(Argument(2, "source_id"))?;
    let credits: Credits = exact_amount(credits)?.into();
    require_source_id(source_id)?;
    let [description, batch, api_key, category, metadata] = details(call, 3)?;
    let key = call.api_key(Argument(5, "api_key_id"));
    xact::refuse_if_read_only(c"charge()");
    let relations = Relations::locked_for_writing().ok_or(LedgerError::NotInstalled)?;
    let columns = [
        Given::new("user_id", user_id),
        Given::new("transaction_type", Value::text_of(b"usage")),
        Given::new("amount", amount),
        Given::new("source_id", Value::text(source_id)),
        description,
        batch,
        api_key,
        category,
        metadata,
    ];
    // Before anything is written, unless a privilege or a policy might refuse the row: that error comes first. A retry is not refused.
    let looks_first = may_insert_and_return_any(&relations)?;
    let refusal = if looks_first {
        early_refusal::refuse_early(&relations, &user, credits, key, Taking::ToCome).err()
    } else {
        None
    };
    let refusal = match refusal {
        Some(refusal) if !source_ids::has_transaction(&relations, source_id) => {
            return Err(refuse_held(&relations, source_id).err().unwrap_or(refusal));
        }
        refusal => refusal,
    };
    let asked = || format!("usage of {credits} for user {user}");
    let recording =
        Recording { source_id, columns: &columns, same: &columns[..3], directly: Some(call.row_type()) };
    let Recorded { transaction, tid, user: stored } =
        recording::record_and_locate(&relations, &recording, asked)?;
    let Some(tid) = tid else { return Ok(transaction) };
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    refuse_held(&relations, source_id)?;
    let charged = stored.unwrap_or(user);
    claims::guard_charge(charged, (tid, xact::current_subtransaction()));
    if !looks_first || charged != user {
        early_refusal::refuse_early(&relations, &charged, credits, key, Taking::Written)?;
    }
    Ok(transaction)
}

/// Refuses the `source_id` of an open hold, which credits would not help, before a lack of credits, which the hold itself may be.
fn refuse_held(relations: &Relations, source_id: Text) -> Result<(), LedgerError> {
    if source_ids::has_open_hold(relations, source_id)? {
        return Err(LedgerError::Held(source_id.to_string()));
    }
    Ok(())
}

/// Whether no privilege or policy could refuse the row.
fn may_insert_and_return_any(relations: &Relations) -> Result<bool, LedgerError> {
    let columns = relations.later_columns()?.of_usage();
    Ok(privilege::may_insert_and_return_any(relations.ledger, &columns))
}
