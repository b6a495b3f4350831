//! The one error type: everything that this extension refuses, with its message. Its SQLSTATE is in [`sqlstate`], its detail in [`detail`],
//! its hint in [`hint`].

mod detail;
mod hint;
mod sqlstate;

use ledger::caps::{CapRefusal, MOST_CAPS};
use ledger::credits::{AmountError, Credits, SumOutOfRange};
use ledger::id::{TransactionId, UserId};
use ledger::numeric::DecodeError;
use ledger::reversal::Refusal;
use ledger::transaction_type::TransactionType;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use thiserror::Error;

use crate::pg::definition::Role;
use crate::pg::raised;
use crate::pg::shape::Change;

/// What can be wrong with a call. Every message names the offending argument or value.
#[derive(Debug, Error)]
pub enum LedgerError {
    // Arguments.
    /// A required argument is NULL.
    #[error("argument {0} must not be NULL")]
    NullArgument(&'static str),
    /// An array argument holds a NULL.
    #[error("argument {0} must not contain NULL")]
    NullElement(&'static str),
    /// A `jsonb` argument that is not an array.
    #[error("argument {0} must be a JSON array")]
    NotAnArray(&'static str),
    /// An array argument of too many elements.
    #[error("argument {name} must have at most {most} elements, but has {count}")]
    TooManyElements {
        /// The argument.
        name: &'static str,
        /// How many it may have.
        most: usize,
        /// How many it has.
        count: usize,
    },
    /// A count, limit, offset or probability is below zero.
    #[error("argument {name} must not be negative, but is {value}")]
    NegativeArgument {
        /// The argument.
        name: &'static str,
        /// Its value.
        value: i64,
    },
    /// An interval is below zero.
    #[error("argument {name} must not be negative, but is {value}")]
    NegativeInterval {
        /// The argument.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// An interval that reaches back to before the earliest timestamp.
    #[error("argument {name} reaches back further than timestamps do: {value}")]
    IntervalOutOfRange {
        /// The argument.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A period that ends before it has begun.
    #[error("argument period_end must be after period_start, {start}, but is {end}")]
    EmptyPeriod {
        /// Where it begins.
        start: String,
        /// Where it ends.
        end: String,
    },
    /// The time for which credits are to be held.
    #[error("argument expires_in must be above 0 and at most 30 days, but is {0}")]
    ExpiresIn(String),
    /// A name that is not one of the four transaction types.
    #[error("argument {name} has an unknown transaction type: \"{value}\"")]
    UnknownType {
        /// The argument.
        name: &'static str,
        /// The name given.
        value: String,
    },
    /// A text that is no position of the feed.
    #[error("argument feed_position is no position of a feed: \"{0}\"")]
    MalformedPosition(String),
    /// A position of another ledger's feed.
    #[error("argument feed_position is of another ledger: \"{0}\"")]
    OtherLedgersPosition(String),
    /// A number that is not that of a bucket.
    #[error("bucket must be 0 to 1023, not {0}")]
    NoBucket(i32),
    /// There is no class of buckets with these numbers.
    #[error("there is no class of buckets with modulus {modulus} and remainder {remainder}")]
    NoClass {
        /// What the numbers of buckets are divided by.
        modulus: i32,
        /// What they leave.
        remainder: i32,
    },

    // What a row of the ledger or of `holds` may say.
    /// An amount that cannot be kept exactly.
    #[error("argument amount is not a valid amount: {}{error}", value.as_ref().map(|value| format!("{value}, ")).unwrap_or_default())]
    Amount {
        /// Its value, where it could be read.
        value: Option<String>,
        /// What is wrong with it.
        error: AmountError,
    },
    /// A batch on a row that is not usage.
    #[error("argument fusillade_batch_id is allowed on usage only, not on {0}")]
    BatchOnNonUsage(TransactionType),
    /// A source_id that is empty or nothing but white space.
    #[error("{what} must not be blank, but is \"{value}\"")]
    BlankSourceId {
        /// Where it was given.
        what: &'static str,
        /// The blank text.
        value: String,
    },
    /// A source_id that does not fit into its index.
    #[error("argument source_id has {bytes} bytes, more than the {longest} that fit its index")]
    SourceIdTooLong {
        /// Its length.
        bytes: usize,
        /// What fits for certain.
        longest: usize,
    },
    /// A `created_at` of plus or minus infinity.
    #[error("created_at must not be infinite")]
    InfiniteDate,
    /// A category with too many characters.
    #[error("category must not have more than {longest} characters, but has {characters}")]
    CategoryTooLong {
        /// Its length.
        characters: usize,
        /// The most that it may have.
        longest: usize,
    },
    /// Metadata without keys: a list, a text, a number.
    #[error("metadata must be a JSON object")]
    MetadataIsNoObject,
    /// A `seq` so high that hardly any would be left above it.
    #[error("seq {0} is too high for a transaction")]
    SeqTooHigh(i64),
    /// A ledger row comes with the stamp of another transaction than the one that brings it.
    #[error("xact_id is {stamped} in a row that transaction {current} brings")]
    ForeignStamp {
        /// What the row says.
        stamped: u64,
        /// The transaction.
        current: u64,
    },

    // Keys that are taken, and rows that triggers of the application keep out.
    /// The source_id is taken by a transaction with another content.
    #[error(
        "source_id \"{source_id}\" is taken by another transaction: asked for {asked}, stored is {}",
        stored.as_deref().unwrap_or("one that the caller may not see")
    )]
    SourceIdConflict {
        /// The idempotency key.
        source_id: String,
        /// The transaction asked for.
        asked: String,
        /// The one stored; `None` if the caller may not see it.
        stored: Option<String>,
    },
    /// The id is taken by another transaction.
    #[error(
        "id {id} is taken by another transaction, {}",
        stored.as_ref().map_or("which the caller may not see".to_owned(), |stored| format!("with source_id \"{stored}\""))
    )]
    IdConflict {
        /// The id.
        id: String,
        /// The source_id of the one stored; `None` if the caller may not see it.
        stored: Option<String>,
    },
    /// The source_id of a hold is taken by another hold.
    #[error(
        "source_id \"{source_id}\" is taken by another hold: asked for {asked}, stored is {}",
        stored.as_deref().unwrap_or("one that the caller may not see")
    )]
    HoldConflict {
        /// The idempotency key.
        source_id: String,
        /// The hold asked for.
        asked: String,
        /// The one stored; `None` if the caller may not see it.
        stored: Option<String>,
    },
    /// The source_id of a hold is that of a transaction.
    #[error(
        "source_id \"{0}\" is taken by a transaction: a hold with it was captured already, or it was recorded without one"
    )]
    CapturedAlready(String),
    /// The source_id of a charge is that of an open hold.
    #[error("source_id \"{0}\" is that of an open hold")]
    Held(String),
    /// A trigger of the application changed a key of the row to one that is taken.
    #[error(
        "a trigger on credits_transactions gave the transaction with source_id \"{0}\" a source_id or id that is taken"
    )]
    KeyChangedToTaken(String),
    /// A trigger of the application kept the row from being inserted.
    #[error("a trigger on credits_transactions left out the transaction with source_id \"{0}\"")]
    LeftOut(String),
    /// A trigger of the application kept a hold from being inserted, extended or deleted.
    #[error("a trigger on holds left out the hold with source_id \"{0}\"")]
    HoldLeftOut(String),

    // Holds, limits and caps.
    /// What an account has does not cover a hold or a charge.
    #[error(
        "user {user} has insufficient credits: {asked} asked for, {available} available{}",
        if *overdraft_limit > Credits::ZERO { format!(", overdraft limit {overdraft_limit}") } else { String::new() }
    )]
    InsufficientCredits {
        /// The account.
        user: UserId,
        /// What was to be held or charged.
        asked: Credits,
        /// What was there for it.
        available: Credits,
        /// How far below zero the account may go.
        overdraft_limit: Credits,
    },
    /// An enforced spend cap does not allow what was to be held or charged.
    #[error("user {user} would exceed spend cap {}: {} asked for, {} remaining", .refusal.id, .refusal.asked, .refusal.remaining)]
    SpendCapReached {
        /// The account.
        user: UserId,
        /// The cap, and what is left of it.
        refusal: CapRefusal,
    },
    /// An account gets too many spend caps.
    #[error("user {user} has {count} spend caps: at most {MOST_CAPS} are allowed")]
    TooManyCaps {
        /// The account.
        user: UserId,
        /// How many it would have.
        count: usize,
    },
    /// A spend cap has a period that is none, which its owner has let in.
    #[error("a row of spend_caps has the unknown period \"{0}\"")]
    UnknownPeriod(String),
    /// No hold has the source_id.
    #[error("there is no hold with source_id \"{0}\"")]
    NoHold(String),
    /// A hold that the transaction's snapshot does not see.
    #[error(
        "could not serialize access: the hold with source_id \"{0}\" has changed since the transaction began"
    )]
    HoldOfLater(String),
    /// Something of a hold is about to be changed that is for good.
    #[error("only expires_at of a hold may be updated, not {column}")]
    HoldChanged {
        /// The column.
        column: String,
    },
    /// All holds are about to be deleted without being looked at.
    #[error("holds cannot be truncated")]
    HoldsTruncated,
    /// A transaction that has made or extended a hold, or charged, has rewritten the table.
    #[error("{0} was rewritten by a transaction that has made or extended a hold, or charged")]
    RewrittenWithHold(&'static str),

    // Reversals.
    /// No transaction has this id, or none that the caller may see.
    #[error("there is no transaction {0}")]
    UnknownTransaction(TransactionId),
    /// A transaction that takes back another one was to be taken back.
    #[error("transaction {0} is a reversal, which cannot be reversed")]
    ReversalOfReversal(TransactionId),
    /// A row takes back what it may not.
    #[error("transaction {original} cannot be reversed so: {refusal}")]
    Reversal {
        /// The transaction that the row names.
        original: TransactionId,
        /// What is wrong.
        refusal: Refusal,
    },

    // Accounts of other nodes.
    /// An account of a bucket that this node does not have.
    #[error("account {user} is not on this node")]
    NotHere {
        /// The account.
        user: UserId,
    },
    /// A bucket that this node does not have.
    #[error("bucket {0} is not on this node")]
    BucketNotHere(u64),

    // Transactions that cannot do it.
    /// A function that keeps stripes to the end of its transaction was called in one of several statements.
    #[error("{0} cannot run inside a transaction block")]
    InTransactionBlock(&'static str),
    /// A ledger row is inserted when its transaction has been settled already.
    #[error("credits_transactions cannot be inserted into while the transaction commits")]
    Committing,
    /// A transaction that has made or extended a hold, or charged, is about to be prepared.
    #[error("a transaction that has made or extended a hold, or charged, cannot be prepared")]
    PreparedHold,
    /// A transaction with reversals is about to be prepared.
    #[error("a transaction that has reversed transactions cannot be prepared")]
    PreparedReversal,
    /// A transaction that has changed boundaries is about to be prepared.
    #[error("a transaction that has changed rows of spending_limits or spend_caps cannot be prepared")]
    PreparedLimits,
    /// A transaction that has deleted checkpoints is about to be prepared.
    #[error("a transaction that has deleted rows of user_balance_checkpoints cannot be prepared")]
    PreparedDeletion,
    /// A transaction that has redacted an account is about to be prepared.
    #[error("a transaction that has redacted an account cannot be prepared")]
    PreparedRedaction,
    /// A transaction that transfers a bucket is about to be prepared.
    #[error("a transaction that transfers a bucket cannot be prepared")]
    PreparedTransfer,
    /// A transaction that has written of a bucket which is about to leave is to be prepared.
    #[error(
        "cannot PREPARE a transaction that has written of account {user}: it is being moved to another node"
    )]
    PreparedMove {
        /// The account.
        user: UserId,
    },

    // What is refused to all, or to all but the owner.
    /// A ledger row is about to be changed.
    #[error("credits_transactions is append-only: {0} is refused")]
    AppendOnly(&'static str),
    /// What only the owner of the ledger may do.
    #[error("must be owner of the ledger")]
    NotOwner,
    /// Rows of the account that the redacting transaction has inserted, where keys are checked after a row is inserted.
    #[error("the transaction has inserted rows of user {0} whose foreign or unique keys may be unchecked")]
    UncheckedRows(UserId),
    /// A column that is to be cleared has been made NOT NULL. The server reads such a column without looking whether it is NULL.
    #[error("column {0} is NOT NULL, so it cannot be cleared")]
    ClearedNotNull(String),
    /// A ledger that holds transactions is about to be dropped.
    #[error("credits_transactions holds transactions: dropping it is refused")]
    HoldsTransactions,
    /// Another table that users fill is about to be dropped with what they wrote.
    #[error("{0} has rows: dropping it is refused")]
    HasRows(&'static str),
    /// A table or type would get a shape that the engine or a dump cannot do with.
    #[error("{name} keeps the shape that it was made with: {change} is refused")]
    KeepsItsShape {
        /// The table or type.
        name: &'static str,
        /// What it is to the engine.
        role: Role,
        /// What would be changed.
        change: Change,
    },

    // What is not as the extension made it.
    /// The extension is not installed in this database.
    #[error("credits_ledger is not installed in this database")]
    NotInstalled,
    /// The library and the SQL objects are of different versions.
    #[error("the library of credits_ledger is version {library}, but its SQL objects are version {objects}")]
    OtherVersion {
        /// Of the library.
        library: &'static str,
        /// Of the SQL objects.
        objects: String,
    },
    /// Something of the extension's that the engine cannot do without.
    #[error("{0} is missing")]
    Missing(String),
    /// An index that the engine reads by does not have all rows.
    #[error("index credits.{0} is not valid")]
    InvalidIndex(&'static str),
    /// An index that the engine cannot maintain.
    #[error("index {0} on a derived table is unique, or has a predicate, an expression or a deferred check")]
    IndexNotPlain(String),
    /// A column of a table is not what the extension made it.
    #[error("column {number} of {table} is not of the type that it was made with")]
    OtherColumn {
        /// The table.
        table: &'static str,
        /// The place of the column, from 1.
        number: usize,
    },
    /// A composite type that a function returns is not what the extension made it.
    #[error("the result type has other columns than it was made with")]
    OtherResultType,
    /// A derived table has a column that the engine has no value for.
    #[error("column {column} of {table} must not be NULL, and the engine knows no value for it")]
    NoValue {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// NULL where the extension's own constraints rule it out.
    #[error("column {column} of {table} is NULL, which the ledger cannot read")]
    NullColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A checkpoint row that the engine cannot have written.
    #[error("the checkpoint of user {0} is malformed")]
    MalformedCheckpoint(UserId),
    /// A number that the ledger cannot have written.
    #[error("column {column} of {table} cannot be read for user {user}: {error}")]
    StoredNumber {
        /// The table.
        table: String,
        /// What the table is to the engine.
        role: Role,
        /// The column.
        column: String,
        /// Whose row it is.
        user: UserId,
        /// What is wrong with the number.
        error: DecodeError,
    },

    // Arithmetic.
    /// A sum that does not fit the engine's 128-bit arithmetic.
    #[error("the sum of credits is out of range")]
    SumOutOfRange,
}

impl LedgerError {
    /// Raises it, where there is no caller to return it to.
    pub fn raise(self) -> ! {
        if let Some(sqlstate) = self.own_sqlstate() {
            raised::raise(sqlstate, &self.to_string(), self.detail().as_deref(), self.hint());
        }
        ErrorReport::from(self).report(PgLogLevel::ERROR);
        unreachable!("an error report does not return")
    }
}

impl From<SumOutOfRange> for LedgerError {
    fn from(_: SumOutOfRange) -> Self {
        Self::SumOutOfRange
    }
}

impl From<LedgerError> for ErrorReport {
    fn from(error: LedgerError) -> Self {
        let mut report = ErrorReport::new(error.sqlstate(), error.to_string(), "credits_ledger");
        if let Some(hint) = error.hint() {
            report = report.set_hint(hint);
        }
        report
    }
}
