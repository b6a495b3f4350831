//! Which accounts this ledger has, if it is one of many nodes behind a router: all but those of the buckets that `bucket_states` lists as not
//! here.
//!
//! Whether a bucket is here, and what is read or written of it, must be of one moment. A commit asks once it has the stripe, as of now: whoever
//! changes the table keeps commits out until the change is visible. A reader asks as of the snapshot that it reads with: that may not see all
//! rows that have arrived, though the bucket is here by now.
//!
//! Each session keeps what it has read. A change of the table sends an invalidation of the ledger, by which
//! [`catalog::ledger_generation`] changes. Where the table is empty, a commit compares that, and nothing else.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;

use ledger::bucket::{BUCKETS, Buckets};
use ledger::coverage::OpenTransactions;
use ledger::id::UserId;
use pgrx::pg_sys;

use super::catalog::{self, Relations};
use super::relation::{Access, Index, Table};
use super::scan::IndexScan;
use super::snapshot::{Sight, Snapshot, SnapshotName};
use super::tables::bucket_states;
use super::{transfer, xact};
use crate::error::LedgerError;

/// The seed of the hash that `credits.bucket_of` has, of hash partitions, and what these add to it modulo [`BUCKETS`].
const SEED: u64 = 8_816_678_312_871_386_365;
const ADDED: u64 = 227;

// From common/hashfn.h.
unsafe extern "C" {
    safe fn hash_bytes_extended(bytes: *const u8, length: i32, seed: u64) -> u64;
}

/// What the table says of buckets that are not simply here.
#[derive(Clone, Copy, Debug, Default)]
struct States {
    /// Not here, or not yet.
    not_here: Buckets,
    /// Not yet.
    arriving: Buckets,
    /// Here, and about to leave: nobody is prepared.
    moving: Buckets,
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

thread_local! {
    static LAST_READ: Cell<Option<LastRead>> = const { Cell::new(None) };
    static STATES: Cell<States> = Cell::default();
    /// The transactions that were open for the snapshot with which the table was read last.
    static OPEN_THEN: RefCell<OpenTransactions> = RefCell::default();
    /// The buckets that are not here for a snapshot of a query, with the [`catalog::ledger_generation`] as of which that was read.
    static SEEN: Cell<Option<(u64, SnapshotName, Buckets)>> = const { Cell::new(None) };
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
    let States { not_here, arriving, .. } = STATES.get();
    let is_copied = |user: &UserId| arriving.contains(of_user(user)) && transfer::is_begun(of_user(user));
    let refused = users.find(|user| is_read.is_err() || not_here.contains(of_user(user)) && !is_copied(user));
    refused.map_or(Ok(()), |user| Err(LedgerError::NotHere { user: *user }))
}

/// Whether what the transaction writes of this account are copies of what another node has. The table has been read, by [`require_at_commit`] or
/// [`require_for_reader`].
pub fn is_copied(user: &UserId) -> bool {
    transfer::is_any() && STATES.get().arriving.contains(of_user(user)) && transfer::is_begun(of_user(user))
}

/// Whether the transaction removes what is left here of this account, which is another node's by now.
pub fn is_left_behind(relations: &Relations, user: &UserId) -> bool {
    transfer::is_any() && is_left(of_user(user), &states_now(relations))
}

/// Whether the transaction removes what is left here of a bucket that is another node's by now.
pub fn any_left_behind(relations: &Relations) -> bool {
    if !transfer::is_any() {
        return false;
    }
    let states = states_now(relations);
    (0..BUCKETS).any(|bucket| is_left(bucket, &states))
}

/// Whether the transaction transfers the bucket, and that is elsewhere.
fn is_left(bucket: u64, states: &States) -> bool {
    transfer::is_begun(bucket) && states.not_here.contains(bucket) && !states.arriving.contains(bucket)
}

fn states_now(relations: &Relations) -> States {
    catalog::accept_invalidations();
    read_now(relations);
    STATES.get()
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
    let States { not_here, moving, .. } = STATES.get();
    for user in users {
        let bucket = of_user(user);
        if not_here.contains(bucket) {
            return Err(LedgerError::NotHere { user: *user });
        } else if moving.contains(bucket) {
            return Err(LedgerError::PreparedMove { user: *user });
        }
    }
    Ok(())
}

/// Refuses accounts that this node does not have in the snapshot of the running query. Whoever brings an account here reads what has come.
pub fn require_for_reader(users: &[UserId]) -> Result<(), LedgerError> {
    let not_here = not_here_for_reader(|moving| users.iter().any(|user| moving.contains(of_user(user))));
    let Some(not_here) = not_here else { return Ok(()) };
    let refused = users.iter().find(|user| not_here.contains(of_user(user)) && !is_copied(user));
    refused.map_or(Ok(()), |user| Err(LedgerError::NotHere { user: *user }))
}

/// The buckets that this node does not have in the snapshot of the running query; `None` if it has all.
pub fn not_here() -> Option<Buckets> {
    not_here_for_reader(|moving| !moving.is_empty()).filter(|not_here| !not_here.is_empty())
}

/// Whether this node has the account in the snapshot of the running query: for a scan, which asks for each row.
pub fn is_here(user: &UserId) -> bool {
    let not_here = seen_by_active().unwrap_or_else(|| {
        let not_here = not_here().unwrap_or_default();
        remember(not_here);
        not_here
    });
    !not_here.contains(of_user(user))
}

/// Buckets that are not here in the snapshot of the running query; `None` if that is known to see all here.
///
/// `asks` is given the buckets that are about to leave, and says whether the caller asks for one of them. If so, the table is read with
/// the snapshot: such a bucket may have left by a transaction that the snapshot sees and whose invalidations have not arrived. For any
/// other bucket, what was read as of now serves: that it was about to leave was announced by a transaction before that one.
fn not_here_for_reader(asks: impl FnOnce(&Buckets) -> bool) -> Option<Buckets> {
    // Where the extension is not installed, the function says so itself.
    let relations = Relations::lookup()?;
    catalog::accept_invalidations();
    if has_all() && Snapshot::active_sees_all_before(last_read_next()) {
        return None;
    }
    // Neither a snapshot can be taken nor the table be read as of now while workers of a parallel query run.
    if !xact::is_parallel() {
        read_now(&relations);
        if !asks(&STATES.get().moving) {
            let open = Snapshot::active().open_transactions();
            if OPEN_THEN.with_borrow(|then| open.is_as_late_as(then)) {
                return Some(STATES.get().not_here);
            }
        }
    }
    if let Some(not_here) = seen_by_active() {
        return Some(not_here);
    }
    let table = Table::open(relations.bucket_states?, Access::Read);
    let index = Index::primary_key_of(&table);
    let States { not_here, .. } = read(table, index, &Rc::new(Snapshot::active()));
    remember(not_here);
    Some(not_here)
}

/// What was found with the snapshot of the running query, unless the table has changed since: its own transaction may have changed it.
fn seen_by_active() -> Option<Buckets> {
    let (generation, name, not_here) = SEEN.get()?;
    (generation == catalog::ledger_generation() && name == Snapshot::name_of_active()).then_some(not_here)
}

/// Keeps what was found with the snapshot of the running query.
fn remember(not_here: Buckets) {
    SEEN.set(Some((catalog::ledger_generation(), Snapshot::name_of_active(), not_here)));
}

/// Has all sessions read the table again when the transaction has committed. The commit is on disk before anybody learns of it, also under
/// `synchronous_commit = off`: if this node gives a bucket away and then crashes, it must know as well as the node that has taken it.
pub fn announce_change(relations: &Relations) {
    catalog::invalidate_ledger(relations.ledger);
    xact::commit_to_disk();
}

/// Whether this table is `bucket_states`.
pub fn is_table(relations: &Relations, table: pg_sys::Oid) -> bool {
    relations.bucket_states == Some(table)
}

fn has_all() -> bool {
    LAST_READ.get().is_some_and(|last| last.is_empty && last.generation == catalog::ledger_generation())
}

fn last_read_next() -> pg_sys::TransactionId {
    LAST_READ.get().map_or(pg_sys::InvalidTransactionId, |last| last.next)
}

/// The bucket of an account.
pub fn of_user(user: &UserId) -> u64 {
    let bytes = user.as_bytes();
    let hash = hash_bytes_extended(bytes.as_ptr(), 16, SEED);
    (hash % BUCKETS + ADDED) % BUCKETS
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
    if LAST_READ.get().is_some_and(|last| last.generation == catalog::ledger_generation()) {
        return Ok(());
    }
    let opened = relations.bucket_states.map(|oid| {
        let table = open(oid, Access::Read)?;
        open_key(&table).map(|index| (table, index))
    });
    let opened = opened.transpose()?;
    // Invalidations may have arrived with the locks. One that arrives from here on has the next caller read again.
    let generation = catalog::ledger_generation();
    let snapshot = Rc::new(Snapshot::latest());
    let states = opened.map_or_else(States::default, |(table, index)| read(table, index, &snapshot));
    let is_empty = states.not_here.is_empty() && states.moving.is_empty();
    LAST_READ.set(Some(LastRead { generation, is_empty, next: snapshot.next() }));
    STATES.set(states);
    OPEN_THEN.set(snapshot.open_transactions());
    Ok(())
}

fn read(table: Table, index: Index, snapshot: &Rc<Snapshot>) -> States {
    let mut scan = IndexScan::new(table, index, Sight::without_siread(snapshot), 0, bucket_states::STATE);
    scan.seek(&[]);
    let mut states = States::default();
    while let Some(row) = scan.next() {
        let Ok(bucket) = u64::try_from(row.get(bucket_states::BUCKET)) else { continue };
        match row.get(bucket_states::STATE).as_ref() {
            b"moving" => states.moving.insert(bucket),
            b"arriving" => {
                states.not_here.insert(bucket);
                states.arriving.insert(bucket);
            }
            _ => states.not_here.insert(bucket),
        }
    }
    states
}
