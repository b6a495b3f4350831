//! What happens to each row that is inserted into the ledger, by its row trigger or by who writes it without a statement: the row is
//! checked where a CHECK constraint would cost more, and noted for settlement.

use super::delta::signed_amount;
use super::{noted, reversals};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::column::AnyColumn;
use crate::pg::column_type::Jsonb;
use crate::pg::row::Row;
use crate::pg::tables::transactions::{self, LaterColumns, Ledger};
use crate::pg::{text, transfer, xact};

/// The most characters that a category may have.
const LONGEST_CATEGORY: usize = 200;

/// The furthest of the columns that the row trigger reads, [`note`] included.
pub fn furthest_read(relations: &Relations) -> AnyColumn<Ledger> {
    let xact_id = transactions::XACT_ID.any();
    relations.later_columns().map_or(xact_id, |LaterColumns { category, metadata, reverses }| {
        xact_id.or_further(category.any()).or_further(metadata.any()).or_further(reverses.any())
    })
}

/// Notes for settlement the user and the signed amount of a row that the transaction has inserted, and what the row takes back. Raises
/// 23514 for a row with an infinite date, a blank `source_id`, a category that is too long, or metadata that is no object.
pub fn note(row: &Row<'_, Ledger>, relations: &Relations) {
    let later = relations.later_columns().unwrap_or_else(|error| error.raise());
    require_category_and_metadata(row, later).unwrap_or_else(|error| error.raise());
    let source_id = row.get(transactions::SOURCE_ID);
    let is_infinite = matches!(row.get(transactions::CREATED_AT), i64::MIN | i64::MAX);
    // Earlier versions accepted such rows: a restore, a subscriber and another node must still take them.
    if (is_infinite || text::is_blank(&source_id)) && !is_stored_already() {
        if is_infinite {
            LedgerError::InfiniteDate.raise()
        }
        LedgerError::BlankSourceId { what: "source_id", value: text::shown(&source_id) }.raise()
    }
    let user = row.get(transactions::USER_ID);
    noted::note_row(user, signed_amount(row));
    if let Some(original) = row.get(later.reverses)
        && !is_stored_already()
    {
        reversals::note(user, original);
    }
}

/// Whether the rows that come are stored elsewhere already: what is stored must be storable again.
fn is_stored_already() -> bool {
    xact::restores_or_replicates() || transfer::is_any()
}

/// Raises what CHECK constraints on these columns would. Constraints cost more: the server reads and plans each of them for every
/// statement, which takes at least 9,000 instructions, though nearly all rows have NULL in both columns.
fn require_category_and_metadata(row: &Row<'_, Ledger>, later: LaterColumns) -> Result<(), LedgerError> {
    let LaterColumns { category, metadata, .. } = later;
    require_object(row.get(metadata).is_none_or(Jsonb::is_object))?;
    row.get(category).map_or(Ok(()), |category| require_category(&category))
}

/// Refuses a category with too many characters.
pub fn require_category(category: &[u8]) -> Result<(), LedgerError> {
    let characters = text::characters(category);
    if characters > LONGEST_CATEGORY {
        return Err(LedgerError::CategoryTooLong { characters, longest: LONGEST_CATEGORY });
    }
    Ok(())
}

/// Refuses metadata that is not an object.
pub fn require_object(is_object: bool) -> Result<(), LedgerError> {
    if is_object { Ok(()) } else { Err(LedgerError::MetadataIsNoObject) }
}
