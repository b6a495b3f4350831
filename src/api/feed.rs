//! The ledger read forward, for projections and exports.

use std::{array, iter};

use ledger::id::LedgerId;

use super::filters::not_negative;
use crate::engine::feed::{self, Feed, Position, START};
use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::catalog::Relations;
use crate::pg::column_value::ColumnValue;
use crate::pg::definition;
use crate::pg::memory::Scratch;
use crate::pg::privilege::{self, View};
use crate::pg::statement::Statement;
use crate::pg::tables::columns;
use crate::pg::tables::transactions::{self, CREDIT_TRANSACTION_NAMES};
use crate::pg::value::Value;
use crate::pg::wal;

/// Columns of `credits.feed_item`: the position, and those of the ledger that the feed shows.
const COLUMNS: usize = 14;

/// Most rows that are looked for at once.
const CHUNK: i64 = 10_000;

/// `transactions_after(feed_position, limit)`
pub fn transactions_after(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let limit = call.bigint(Argument(1, "limit")).map(|limit| not_negative("limit", limit)).transpose()?;
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    let ledger = feed::ledger_id(&relations)?;
    let after = call.content(Argument(0, "feed_position"));
    let after = after.map_or(Ok(START), |text| read(&text.to_string(), &ledger))?;
    let shown_columns = feed::shown_columns(&relations)?;
    privilege::require_select(&relations, &shown_columns);
    privilege::require_select(&relations, &columns![transactions::XACT_ID]);
    // A position is kept by whoever asks. After a crash that has lost the commit of its row, ids up to it would be given out again.
    wal::flush();
    if privilege::view(&relations) == View::Filtered {
        return Ok(visible(call, &relations, &ledger, after, limit));
    }
    let result = call.result_rows(definition::FEED_ITEM.columns);
    let mut feed = Feed::open(&relations);
    let mut memory = Scratch::new("credits_ledger feed");
    let (mut after, mut left) = (after, limit.unwrap_or(i64::MAX));
    while left > 0 {
        let count = usize::try_from(left.min(CHUNK)).unwrap_or_default();
        let page = feed.page(after, count);
        for &(position, place) in &page {
            let (shown, row) = (written(&ledger, position), feed.row(place));
            memory.step(|| {
                let mut values = iter::once(ColumnValue::Text(&shown)).chain(row.values(shown_columns));
                result.put::<COLUMNS>(array::from_fn(|_| values.next().unwrap_or(ColumnValue::Null)));
            });
        }
        let (Some(&(last, _)), true) = (page.last(), page.len() == count) else { break };
        after = last;
        left -= CHUNK.min(left);
    }
    Ok(Answer::rows())
}

/// The rows that row-level security shows to the caller.
fn visible<'call>(
    call: &Call<'call>,
    relations: &Relations,
    ledger: &'call LedgerId,
    after: Position,
    limit: Option<i64>,
) -> Answer {
    let mut statement = Statement::new();
    let ledger = statement.bind(Value::uuid(ledger.as_bytes()));
    let stamp = statement.bind(Value::xid8(after.stamp));
    let seq = statement.bind(Value::bigint(after.seq));
    let copying = feed::copying(relations, &(after.stamp..feed::end()));
    let copying = statement.bind(Value::xid8s(copying.into_iter()));
    let end = statement.bind(Value::xid8(feed::end()));
    let limit =
        limit.map(|limit| format!(" LIMIT {}", statement.bind(Value::bigint(limit)))).unwrap_or_default();
    statement.plan_each_time();
    statement.answer_rows(
        &format!(
            "SELECT {ledger}::text || ':' || xact_id::text || ':' || seq::text, {}, category, metadata, reverses \
             FROM credits.credits_transactions \
             WHERE xact_id >= {stamp} AND xact_id < {end} AND (xact_id > {stamp} OR seq > {seq}) AND xact_id <> ALL ({copying}) \
             ORDER BY xact_id, credits_transactions.seq{limit}",
            *CREDIT_TRANSACTION_NAMES
        ),
        call,
    )
}

/// The text of a position, which clients keep: the id of the ledger, the stamp and the `seq` of a row.
fn written(ledger: &LedgerId, Position { stamp, seq }: Position) -> String {
    format!("{ledger}:{stamp}:{seq}")
}

/// The position that a text from [`written`] stands for. An error if the text is anything else, or another ledger's.
fn read(text: &str, ledger: &LedgerId) -> Result<Position, LedgerError> {
    let parts: Vec<&str> = text.split(':').collect();
    let position = match parts[..] {
        [name, stamp, seq] => {
            stamp.parse().ok().zip(seq.parse().ok()).map(|(stamp, seq)| (name, Position { stamp, seq }))
        }
        _ => None,
    };
    let Some((name, position)) = position else {
        return Err(LedgerError::MalformedPosition(text.to_owned()));
    };
    if written(ledger, position) == text {
        return Ok(position);
    }
    let is_name = |name: &str| {
        let shape = |(place, byte): (usize, u8)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        };
        name.len() == 36 && name.bytes().enumerate().all(shape)
    };
    Err(if is_name(name) && text.ends_with(&format!(":{}:{}", position.stamp, position.seq)) {
        LedgerError::OtherLedgersPosition(text.to_owned())
    } else {
        LedgerError::MalformedPosition(text.to_owned())
    })
}
