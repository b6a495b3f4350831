//! Taking transactions back.

use ledger::credits::Credits;
use ledger::id::{TransactionId, UserId};
use ledger::reversal::{Original, Refusal};
use ledger::transaction_type::TransactionType;
use pgrx::{Uuid, pg_sys};

use super::arguments::{exact_amount, require_source_id};
use super::given::Given;
use super::nodes::and_here;
use super::recording::{self, Recording, record};
use crate::engine::reversals;
use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::catalog::Relations;
use crate::pg::numeric::Numeric;
use crate::pg::statement::Statement;
use crate::pg::text::Text;
use crate::pg::value::Value;
use crate::pg::xact;

/// A transaction that is to be taken back, and what its reversal has of it.
struct Found {
    original: Original,
    api_key_id: Option<Uuid>,
    category: Option<Vec<u8>>,
    source_id: Vec<u8>,
}

impl Found {
    /// The row of a reversal: of the same account, key and category, and of the opposite type.
    fn reversal<'a>(
        &'a self,
        amount: Credits,
        source_id: Text,
        description: Option<Value<'a>>,
        reverses: Given<'a>,
    ) -> [Given<'a>; 8] {
        let Self { original, api_key_id, category, source_id: reversed } = self;
        let kind = original.kind.map_or(TransactionType::AdminGrant, TransactionType::of_reversal);
        let default_description = || Value::text_of(&[b"Reversal of ", &reversed[..]].concat());
        let api_key_id = api_key_id.as_ref().map(|key| Value::uuid(key.as_bytes()));
        [
            Given::new("user_id", Value::uuid(original.user.as_bytes())),
            Given::new("transaction_type", Value::text_of(kind.name().as_bytes())),
            Given::new("amount", Value::credits(amount)),
            Given::new("source_id", Value::text(source_id)),
            Given::new("description", description.unwrap_or_else(default_description)),
            Given::optional("api_key_id", pg_sys::UUIDOID, api_key_id),
            Given::optional("category", pg_sys::TEXTOID, category.as_deref().map(Value::text_of)),
            reverses,
        ]
    }
}

/// `reverse_transaction(transaction_id, source_id, amount, description)`
pub fn reverse_transaction(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let id = call.transaction_id(Argument(0, "transaction_id"))?;
    let source_id = call.required_content(Argument(1, "source_id"))?;
    let given = call.numeric(Argument(2, "amount")).map(|(_, credits)| exact_amount(credits)).transpose()?;
    require_source_id(source_id)?;
    let given = given.map(Credits::from);
    xact::refuse_if_read_only(c"reverse_transaction()");
    // Before the indexes, which it reads by: they are kept locked.
    let relations = Relations::locked_for_writing().ok_or(LedgerError::NotInstalled)?;
    let found = find(id).ok_or(LedgerError::UnknownTransaction(*id))?;
    let original = found.original;
    if original.is_reversal {
        return Err(LedgerError::ReversalOfReversal(*id));
    }
    let left = reversals::left(id, original)?;
    let amount = given.unwrap_or(left);
    let reverses = Given::new("reverses", Value::uuid(id.as_bytes()));
    let mut same = vec![reverses];
    same.extend(given.map(|given| Given::new("amount", Value::credits(given))));
    let is_refused = amount > left || !left.is_positive();
    if is_refused
        && let Some(existing) = recording::find(source_id, &same)
        && existing.is_same
    {
        return Ok(existing.transaction);
    }
    // Where nothing is left, the row does not stay.
    let recorded = if amount.is_positive() { amount } else { original.amount };
    let columns = found.reversal(recorded, source_id, call.text(Argument(3, "description")), reverses);
    let asked = || match given {
        Some(amount) => format!("a reversal of {amount} of transaction {id}"),
        None => format!("a reversal of transaction {id}"),
    };
    // Also where it is to be refused: an old snapshot may not see the stored row of which this is a retry, and then the server says so.
    let transaction =
        record(&relations, &Recording { source_id, columns: &columns, same: &same, directly: None }, asked)?;
    if is_refused {
        let refusal = Refusal::Exceeds { left, asked: given.unwrap_or(original.amount) };
        return Err(LedgerError::Reversal { original: *id, refusal });
    }
    // There, the ledger's trigger notes no reversals.
    if xact::restores_or_replicates() {
        reversals::note(original.user, *id);
    }
    Ok(transaction)
}

/// The transaction with this id, if the caller may see it.
fn find(id: &TransactionId) -> Option<Found> {
    let mut find = Statement::of_caller();
    let id = find.bind(Value::uuid(id.as_bytes()));
    let sql = format!(
        "SELECT user_id, transaction_type, amount, reverses IS NOT NULL, api_key_id, category, source_id \
         FROM credits.credits_transactions WHERE id OPERATOR(pg_catalog.=) {id}{}",
        and_here("user_id")
    );
    let bytes = |text: Text| text.as_bytes().to_vec();
    find.first_row(&sql, |row| {
        let Numeric(amount) = row.value(3)?;
        let original = Original {
            user: UserId::from_bytes(*row.value::<Uuid>(1)?.as_bytes()),
            kind: TransactionType::from_name(row.value::<Text>(2)?.as_bytes()),
            amount,
            is_reversal: row.value(4)?,
        };
        Some(Found {
            original,
            api_key_id: row.value(5),
            category: row.value(6).map(bytes),
            source_id: row.value(7).map(bytes)?,
        })
    })?
}
