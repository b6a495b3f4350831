//! The hint of each error: what a client can do about it.

use super::LedgerError;
use crate::pg::definition::Role;
use crate::pg::shape::Change;

impl LedgerError {
    /// What to do instead, if that is not plain from the message.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NullElement(_) => Some("Remove the NULLs from the array."),
            Self::UnknownType { .. } => {
                Some("The transaction types are purchase, admin_grant, admin_removal and usage.")
            }
            Self::Amount { .. } => Some(
                "An amount is above 0 and has at most 13 integer and 15 fractional digits; it is never rounded.",
            ),
            Self::BatchOnNonUsage(_) => {
                Some("Leave fusillade_batch_id NULL for purchases, grants and removals.")
            }
            Self::MalformedPosition(_) => {
                Some("Pass the feed_position of a row that transactions_after has returned, as it is.")
            }
            Self::OtherLedgersPosition(_) => Some(
                "A restored ledger, a subscriber and an extension made anew have feeds of their own: begin anew, with NULL.",
            ),
            Self::TooManyElements { .. } => Some("Split it into several calls."),
            Self::SourceIdConflict { .. } => Some(
                "A retry must repeat the account, the type and the amount; a new transaction needs its own source_id.",
            ),
            Self::ReversalOfReversal(_) => {
                Some("Record a transaction of its own: admin_grant adds credits, admin_removal takes them.")
            }
            Self::Reversal { .. } => Some(
                "All reversals of a transaction together take back at most its amount, in its account: admin_removal of purchases \
                 and grants, admin_grant of usage and removals.",
            ),
            Self::PreparedReversal => Some("Use COMMIT: it checks what is taken back."),
            Self::InsufficientCredits { .. } => Some(
                "Grant or buy credits, release holds that are not needed, or raise overdraft_limit in credits.spending_limits.",
            ),
            Self::NotHere { .. } | Self::BucketNotHere(_) => Some(
                "Look up which node has it, and ask there; while it is being moved, none answers for a moment.",
            ),
            Self::NoClass { .. } => {
                Some("A modulus is a power of two, at most 1024; a remainder is below it.")
            }
            Self::PreparedMove { .. } => Some("Use COMMIT, or come again on the node that will have it."),
            Self::SpendCapReached { .. } => Some(
                "Wait until it resets, release holds that are not needed, or change the cap in credits.spend_caps.",
            ),
            Self::HoldConflict { .. } => {
                Some("A retry must repeat user_id and amount; a new hold needs its own source_id.")
            }
            Self::CapturedAlready(_) => Some("A new hold needs a source_id of its own."),
            Self::Held(_) => {
                Some("Use capture_hold to charge what is held; another charge needs a source_id of its own.")
            }
            Self::NoHold(_) => Some(
                "It was released, or it expired and was deleted; create_transaction records usage without a hold.",
            ),
            Self::HoldOfLater(_) => Some("Retry the transaction."),
            Self::HoldLeftOut(_) => {
                Some("Nothing was held, extended or released: a BEFORE trigger returned NULL.")
            }
            Self::PreparedRedaction | Self::PreparedTransfer => {
                Some("Use COMMIT: others wait for what it holds, and would until COMMIT PREPARED.")
            }
            Self::PreparedHold => Some(
                "Use COMMIT: whether it is covered is decided when it is, and COMMIT PREPARED cannot refuse.",
            ),
            Self::RewrittenWithHold(_) => Some(
                "Whether it is covered cannot be told any more. Use CLUSTER in a transaction of its own.",
            ),
            Self::BlankSourceId { .. } => {
                Some("It is the idempotency key: give each transaction one of its own, and a retry the same.")
            }
            Self::SourceIdTooLong { .. } => {
                Some("A longer one fits only where it can be compressed: use a digest of it.")
            }
            Self::InfiniteDate => Some("Leave it out for the time now."),
            Self::CategoryTooLong { .. } => Some(
                "It is a label: a model, a product, a tier. Longer texts go into description or metadata.",
            ),
            Self::MetadataIsNoObject => Some("Give what you have a key: {\"value\": ...}."),
            Self::SeqTooHigh(_) => Some(
                "Leave seq to the ledger, or stay below 4611686018427387904: no row may use up the numbers of those that follow.",
            ),
            Self::LeftOut(_) => Some(
                "Nothing was recorded: a BEFORE trigger returned NULL, or gave the row a source_id that is taken.",
            ),
            Self::UncheckedRows(_) => Some("Redact the account in a later transaction."),
            Self::MalformedCheckpoint(_) => Some(
                "Delete its row from credits.user_balance_checkpoints: the commit makes it anew from the ledger.",
            ),
            Self::StoredNumber { role: Role::Derived, .. } => Some(
                "Somebody has changed it by hand. Delete the user's row from credits.user_balance_checkpoints: the commit makes it \
                 anew from the ledger, batches and days included.",
            ),
            Self::StoredNumber { .. } => Some(
                "Somebody has written it past the constraint that keeps it out. Give the row a number of credits.",
            ),
            Self::OtherVersion { library, objects } if numbers(objects) < numbers(library) => {
                Some("Run ALTER EXTENSION credits_ledger UPDATE in this database.")
            }
            Self::OtherVersion { .. } => Some(
                "Reconnect: the session loaded the library before the update. If that does not help, the server needs the \
                 newer library, and a restart if it preloads it.",
            ),
            Self::Missing(_) => {
                Some("It was dropped or renamed. Bring it back as sql/credits_ledger--VERSION.sql has it.")
            }
            Self::InvalidIndex(_) => {
                Some("It is being built, or that has failed: REINDEX INDEX of its name builds it.")
            }
            Self::IndexNotPlain(_) => {
                Some("Drop it. Indexes of the derived tables are on plain columns and rows.")
            }
            Self::Committing => {
                Some("Another library inserts at the end of transactions; it must do so before.")
            }
            Self::PreparedDeletion => {
                Some("Use COMMIT: it makes the checkpoints anew, with the sides that were announced.")
            }
            Self::UnknownPeriod(_) => Some("The periods are daily, weekly and monthly."),
            Self::TooManyCaps { .. } => {
                Some("Give one cap several keys, or delete caps that are not needed.")
            }
            Self::PreparedLimits => {
                Some("Use COMMIT: it copies what has changed into the accounts' checkpoints.")
            }
            Self::ClearedNotNull(_) => Some("Its owner has made it so. Drop NOT NULL from it first."),
            Self::HoldsTransactions => Some(
                "They are the only record of everybody's credits. A superuser who wants them gone says \
                 SET credits_ledger.allow_drop = on first.",
            ),
            Self::HasRows(_) => Some(
                "Nothing else knows what is in them. A superuser who wants them gone says SET credits_ledger.allow_drop = on first.",
            ),
            Self::OtherColumn { .. } => Some(
                "Its owner has altered it. Give it back the type that sql/credits_ledger--VERSION.sql has.",
            ),
            Self::NullColumn { .. } => {
                Some("Somebody has dropped NOT NULL from the column. Give the row a value there.")
            }
            Self::NoValue { .. } => Some("Drop the column, or allow NULL in it."),
            Self::OtherResultType => {
                Some("ALTER TYPE has changed a type that functions of the ledger return: change it back.")
            }
            Self::KeepsItsShape { role, change, .. } => Some(hint_of_shape(*role, change)),
            Self::ForeignStamp { .. } => Some(
                "It is computed where a row lands, never copied. Replicate the ledger by CREATE PUBLICATION, which leaves it out; \
                 pglogical does not.",
            ),
            Self::HoldChanged { .. } => Some("Release it, and make another one with a source_id of its own."),
            Self::HoldsTruncated => Some("Use DELETE: its commit settles the accounts."),
            Self::AppendOnly(_) => Some(
                "Record another transaction instead: reverse_transaction takes one back, admin_grant adds credits, admin_removal \
                 takes them.",
            ),
            _ => None,
        }
    }
}

/// What to do instead.
const fn hint_of_shape(role: Role, change: &Change) -> &'static str {
    match (role, change) {
        (_, Change::GotParent | Change::GotChild) => {
            "Statements on one of the two tables would reach rows of the other, past its triggers. A view with UNION ALL reads \
             both."
        }
        (_, Change::RenamedBeside(_)) => "The extension and dumps know it by the name that it was made with.",
        (Role::Ledger | Role::Dumped, Change::GotRule) => {
            "A rule turns a statement into another before the ledger sees it. Use a trigger."
        }
        (Role::Ledger | Role::Dumped, Change::LostCheck(_) | Change::LostKey(_)) => {
            "A dump would be restored with it, and without all rows if one of them does not pass."
        }
        (Role::Ledger, Change::Stamped) => {
            "What was folded would be added once more: balances go by the stamps that rows were inserted with."
        }
        (Role::Ledger, _) => {
            "A dump has the rows and not the change, so that a restore would lose them. What belongs to a transaction goes into \
             metadata, or into a table of your own keyed by id."
        }
        (Role::Dumped, _) => {
            "A dump has the rows and not the change, so that a restore would lose them. What is yours goes into a table of your own."
        }
        (Role::Derived, Change::GotTrigger) => {
            "What the engine writes fires no triggers. REINDEX, CLUSTER and VACUUM FULL are the tools for this table, not \
             those that copy what triggers tell them, as pg_repack does."
        }
        (Role::Derived, Change::GotNotNull(_)) => {
            "The engine writes the table itself, and NULL where there is no value."
        }
        (Role::Derived, _) => {
            "The engine writes the table itself. What belongs to an account goes into a table of your own keyed by user_id."
        }
        (Role::ResultType, _) => {
            "Functions of the ledger return rows of this type. Choose columns in a query, or make a type of your own."
        }
    }
}

/// A version as its numbers, which compare as versions do.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|number| number.parse().ok()).collect()
}
