//! Which accounts this ledger has, where it is one of many nodes behind a router: all but those of the buckets that `bucket_states` lists.
//!
//! Whose bucket it is and what is read or written of it are of one moment. A commit asks once it has the stripe, as of now: whoever changes
//! the table keeps commits out until the change is visible. A reader asks as of the snapshot that it reads with: rows that arrived
//! after that are not the whole account, though the bucket is here by now.
//!
//! Each backend keeps what it has read. A change of the table sends an invalidation of the ledger, by which
//! [`catalog::ledger_generation`] changes. Where the table is empty, a commit compares that, and nothing else.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;

use ledger::coverage::OpenTransactions;
use ledger::id::UserId;
use pgrx::pg_sys;

use super::catalog::{self, Relations};
use super::relation::{Access, Index, Table};
use super::scan::IndexScan;
use super::snapshot::{Sight, Snapshot};
use super::tables::bucket_states;
use super::xact;
use crate::error::LedgerError;

/// How many buckets there are.
const BUCKETS: u64 = 1024;

/// The seed of the hash that `credits.bucket_of` has, of hash partitions, and what these add to it modulo [`BUCKETS`].
const SEED: u64 = 8_816_678_312_871_386_365;
const ADDED: u64 = 227;

// From common/hashfn.h.
unsafe extern "C" {
    safe fn hash_bytes_extended(bytes: *const u8, length: i32, seed: u64) -> u64;
}

/// What the table says of a bucket that is not simply here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BucketState {
    /// Here, and about to leave: nobody is prepared.
    Moving,
    /// Not here, or not yet.
    NotHere,
}

#[derive(Clone, Copy)]
struct LastRead {
    /// [`catalog::ledger_generation`] before the table was read: what was read holds until that changes.
    generation: u64,
    /// Whether it had no row.
    is_empty: bool,
    /// Every transaction below this one had ended, or is in [`OPEN_THEN`].
    next: pg_sys::TransactionId,
}

/// Buckets that are not simply here, by number.
type States = Vec<(u64, BucketState)>;

thread_local! {
    static LAST_READ: Cell<Option<LastRead>> = const { Cell::new(None) };
    static STATES: RefCell<States> = const { RefCell::new(Vec::new()) };
    /// The transactions that were open for the snapshot that it was read with.
    static OPEN_THEN: RefCell<OpenTransactions> = RefCell::default();
}

/// Refuses accounts that this node does not have. The transaction has their stripe, and has processed all invalidations since.
pub fn require_at_commit<'a>(
    relations: &Relations,
    mut users: impl Iterator<Item = &'a UserId>,
) -> Result<(), LedgerError> {
    if has_all() {
        return Ok(());
    }
    // A stripe is held, so no lock is waited for. Who finds the table locked is told to ask again.
    let is_read = read_if_changed(relations, Table::open_if_free, Index::primary_key_if_free);
    let elsewhere = users.find(|user| is_read.is_err() || state_of(user) == Some(BucketState::NotHere));
    elsewhere.map_or(Ok(()), |user| Err(LedgerError::NotHere { user: *user }))
}

/// Refuses to prepare a transaction that has written of accounts that are not here, or about to leave.
pub fn require_to_prepare<'a>(
    relations: &Relations,
    users: impl Iterator<Item = &'a UserId>,
) -> Result<(), LedgerError> {
    catalog::accept_invalidations();
    if has_all() {
        return Ok(());
    }
    read_now(relations);
    for user in users {
        match state_of(user) {
            Some(BucketState::NotHere) => return Err(LedgerError::NotHere { user: *user }),
            Some(BucketState::Moving) => return Err(LedgerError::PreparedMove { user: *user }),
            None => {}
        }
    }
    Ok(())
}

/// Refuses accounts that this node does not have in the snapshot of the running query.
pub fn require_for_reader(users: &[UserId]) -> Result<(), LedgerError> {
    // Where the extension is not installed, the function says so itself.
    let Some(relations) = Relations::lookup() else { return Ok(()) };
    catalog::accept_invalidations();
    if has_all() && Snapshot::active_sees_all_before(last_read_next()) {
        return Ok(());
    }
    // Neither a snapshot can be taken nor anything be kept while workers of a parallel query run.
    if !xact::is_parallel() {
        read_now(&relations);
    }
    let active = Rc::new(Snapshot::active());
    let is_as_late =
        !xact::is_parallel() && OPEN_THEN.with_borrow(|then| active.open_transactions().is_as_late_as(then));
    let elsewhere =
        |states: &States| users.iter().find(|user| find(states, user) == Some(BucketState::NotHere)).copied();
    let elsewhere = if is_as_late {
        STATES.with_borrow(elsewhere)
    } else {
        let Some(states) = relations.bucket_states else { return Ok(()) };
        let table = Table::open(states, Access::Read);
        let index = Index::primary_key_of(&table);
        elsewhere(&read(table, index, &active))
    };
    elsewhere.map_or(Ok(()), |user| Err(LedgerError::NotHere { user }))
}

/// Has all sessions read the table again when the transaction has committed.
pub fn announce_change(relations: &Relations) {
    catalog::invalidate_ledger(relations.ledger);
}

/// `bucket_states`, if that is this table.
pub fn is_table(relations: &Relations, table: pg_sys::Oid) -> bool {
    relations.bucket_states == Some(table)
}

fn has_all() -> bool {
    LAST_READ.get().is_some_and(|last| last.is_empty && last.generation == catalog::ledger_generation())
}

fn last_read_next() -> pg_sys::TransactionId {
    LAST_READ.get().map_or(pg_sys::InvalidTransactionId, |last| last.next)
}

fn bucket_of(user: &UserId) -> u64 {
    let bytes = user.as_bytes();
    let hash = hash_bytes_extended(bytes.as_ptr(), 16, SEED);
    (hash % BUCKETS + ADDED) % BUCKETS
}

fn find(states: &States, user: &UserId) -> Option<BucketState> {
    let bucket = bucket_of(user);
    let place = states.binary_search_by_key(&bucket, |(bucket, _)| *bucket).ok()?;
    states.get(place).map(|(_, state)| *state)
}

fn state_of(user: &UserId) -> Option<BucketState> {
    STATES.with_borrow(|states| find(states, user))
}

/// Reads the table as of now, if it may have changed since it was read, waiting for its locks.
fn read_now(relations: &Relations) {
    let Ok(()) = read_if_changed(
        relations,
        |oid, access| Ok::<_, Infallible>(Table::open(oid, access)),
        |table| Ok(Index::primary_key_of(table)),
    );
}

/// Reads the table as of now, if it may have changed since it was read. The error is that of opening it.
fn read_if_changed<E>(
    relations: &Relations,
    open: impl Fn(pg_sys::Oid, Access) -> Result<Table, E>,
    open_key: impl Fn(&Table) -> Result<Index, E>,
) -> Result<(), E> {
    loop {
        let generation = catalog::ledger_generation();
        if LAST_READ.get().is_some_and(|last| last.generation == generation) {
            return Ok(());
        }
        let opened = relations.bucket_states.map(|oid| {
            let table = open(oid, Access::Read)?;
            open_key(&table).map(|index| (table, index))
        });
        let opened = opened.transpose()?;
        let snapshot = Rc::new(Snapshot::latest());
        let states = opened.map_or_else(Vec::new, |(table, index)| read(table, index, &snapshot));
        LAST_READ.set(Some(LastRead { generation, is_empty: states.is_empty(), next: snapshot.next() }));
        STATES.set(states);
        OPEN_THEN.set(snapshot.open_transactions());
        // An invalidation may have arrived with the locks.
    }
}

fn read(table: Table, index: Index, snapshot: &Rc<Snapshot>) -> States {
    let mut scan = IndexScan::new(table, index, Sight::without_siread(snapshot), 0, bucket_states::STATE);
    scan.seek(&[]);
    let mut states = Vec::new();
    while let Some(row) = scan.next() {
        let state = match row.get(bucket_states::STATE).as_ref() {
            b"moving" => BucketState::Moving,
            _ => BucketState::NotHere,
        };
        states.extend(u64::try_from(row.get(bucket_states::BUCKET)).ok().map(|bucket| (bucket, state)));
    }
    states
}
