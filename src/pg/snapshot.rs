//! Snapshots: what a scan sees.

use std::cell::UnsafeCell;
use std::rc::Rc;
use std::thread::panicking;

use ledger::coverage::OpenTransactions;
use pgrx::pg_sys;

use super::xact;

// From utils/snapmgr.h, without the guard that pgrx puts around each call: one stands around both of them.
unsafe extern "C-unwind" {
    fn GetLatestSnapshot() -> pg_sys::Snapshot;
    fn RegisterSnapshot(snapshot: pg_sys::Snapshot) -> pg_sys::Snapshot;
}

/// An MVCC snapshot, registered for as long as it is held.
pub struct Snapshot(pg_sys::Snapshot);

impl Snapshot {
    /// As of now, whatever the isolation level.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the calls")]
    pub fn latest() -> Self {
        // SAFETY: runs inside a transaction; registering keeps the snapshot's rows from being vacuumed.
        Self(unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| RegisterSnapshot(GetLatestSnapshot())) })
    }

    /// The one that the running query reads with.
    pub fn active() -> Self {
        // SAFETY: functions are called with an active snapshot.
        Self(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetActiveSnapshot()) })
    }

    /// The transactions that have not ended for this snapshot, the reader's own among them.
    pub fn open_transactions(&self) -> OpenTransactions {
        let latest = xact::latest_possible_id();
        let widen = |id: pg_sys::TransactionId| ledger::coverage::widen(id.into_inner(), latest);
        // SAFETY: a registered snapshot's arrays hold as many ids as its counts say.
        let (xmax, mut listed) = unsafe {
            let snapshot = &*self.0;
            let mut listed: Vec<u64> =
                ids(snapshot.xip, snapshot.xcnt as usize).iter().map(|&id| widen(id)).collect();
            if snapshot.takenDuringRecovery {
                // A standby lists top-level ids and those of subtransactions together, in the second array.
                let count = usize::try_from(snapshot.subxcnt).unwrap_or_default();
                listed.extend(ids(snapshot.subxip, count).iter().map(|&id| widen(id)));
            }
            (widen(snapshot.xmax), listed)
        };
        listed.extend(xact::current_id_if_any());
        OpenTransactions::new(xmax, listed)
    }

    /// Every transaction below this one had ended, also of those that are prepared or of other databases.
    pub fn oldest_open(&self) -> u64 {
        // SAFETY: the snapshot is registered.
        xact::full_id(unsafe { (*self.0).xmin })
    }

    /// The first transaction that had not begun for this snapshot.
    pub const fn next(&self) -> pg_sys::TransactionId {
        // SAFETY: the snapshot is registered.
        unsafe { (*self.0).xmax }
    }

    /// Whether every transaction below this one had ended for the snapshot that the running query reads with.
    pub fn active_sees_all_before(id: pg_sys::TransactionId) -> bool {
        // SAFETY: functions are called with an active snapshot.
        unsafe {
            let active = pg_sys::GetActiveSnapshot();
            pg_sys::TransactionIdPrecedesOrEquals(id, (*active).xmin)
        }
    }

    /// The name of the one that the running query reads with.
    pub fn name_of_active() -> SnapshotName {
        // SAFETY: functions are called with an active snapshot.
        let active = unsafe { &*pg_sys::GetActiveSnapshot() };
        SnapshotName {
            next: active.xmax,
            open: active.xcnt,
            open_on_standby: if active.takenDuringRecovery { active.subxcnt } else { 0 },
            command: active.curcid,
        }
    }

    pub(super) const fn as_raw(&self) -> pg_sys::Snapshot {
        self.0
    }
}

/// Names a snapshot of a session: two with the same name see the same transactions of other sessions, and the same earlier commands of their
/// own. For of the transactions below one `next`, those that are open in a later snapshot were open in an earlier one: as many are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotName {
    next: pg_sys::TransactionId,
    open: u32,
    open_on_standby: i32,
    command: pg_sys::CommandId,
}

/// # Safety
/// `start` points to `count` ids, or `count` is 0.
unsafe fn ids<'a>(start: *const pg_sys::TransactionId, count: usize) -> &'a [pg_sys::TransactionId] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, count) }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: registered by the constructors, unregistered once.
            unsafe { pg_sys::UnregisterSnapshot(self.0) }
        }
    }
}

/// Sees every row that is committed or in flight as of the moment the row is looked at, and says which.
pub struct DirtySnapshot(Box<UnsafeCell<pg_sys::SnapshotData>>);

impl DirtySnapshot {
    /// A new one; it holds nothing of the server's.
    pub fn new() -> Self {
        let data = pg_sys::SnapshotData {
            snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY,
            ..pg_sys::SnapshotData::default()
        };
        Self(Box::new(UnsafeCell::new(data)))
    }

    /// Whether another transaction, one that has not ended, inserted the row that a scan has just found.
    pub(super) fn last_row_is_in_flight(&self) -> bool {
        // SAFETY: the server writes here while a scan looks at a row, not now.
        unsafe { (*self.0.get()).xmin != pg_sys::InvalidTransactionId }
    }

    /// The other transaction that has not ended and has inserted the row that a scan has just found, or is deleting it.
    pub(super) fn writer_of_last_row(&self) -> Option<Writer> {
        // SAFETY: the server writes here while a scan looks at a row, not now.
        let (inserting, deleting) = unsafe { ((*self.0.get()).xmin, (*self.0.get()).xmax) };
        [inserting, deleting].into_iter().find(|&id| id != pg_sys::InvalidTransactionId).map(Writer)
    }
}

/// A transaction that has not ended, or had not a moment ago.
#[derive(Clone, Copy, Debug)]
pub struct Writer(pub(super) pg_sys::TransactionId);

/// Which rows an index scan sees.
pub enum Sight {
    /// The rows that this snapshot sees. A serializable transaction has read them: it takes SIREAD locks.
    AsOf(Rc<Snapshot>),
    /// The rows that this snapshot sees, without SIREAD locks: made by [`Sight::without_siread`].
    WithoutSiread(Rc<Snapshot>),
    /// The rows that are committed or in flight.
    Dirty(DirtySnapshot),
}

impl Sight {
    /// The rows that this snapshot sees, which the transaction is not taken to have read. The server does that for an MVCC
    /// snapshot of a serializable transaction and for no other kind: there, every version of a row is fetched, and asked for
    /// with the snapshot. No other transaction pays for it.
    pub fn without_siread(snapshot: &Rc<Snapshot>) -> Self {
        let snapshot = Rc::clone(snapshot);
        if xact::is_serializable() { Self::WithoutSiread(snapshot) } else { Self::AsOf(snapshot) }
    }

    /// Transactions whose rows are not seen, but for those of the reader's own, and need not be looked for. A SERIALIZABLE
    /// reader looks for them all the same: the server notes what it has looked for, and tells who writes there.
    pub fn unseen_transactions(&self) -> OpenTransactions {
        match self {
            Self::WithoutSiread(snapshot) => snapshot.open_transactions(),
            Self::AsOf(snapshot) if !xact::is_serializable() => snapshot.open_transactions(),
            Self::AsOf(_) | Self::Dirty(_) => OpenTransactions::default(),
        }
    }

    /// What the server is to fetch by.
    pub(super) fn as_raw(&self) -> pg_sys::Snapshot {
        match self {
            Self::AsOf(snapshot) => snapshot.as_raw(),
            Self::WithoutSiread(_) => &raw mut pg_sys::SnapshotAnyData,
            Self::Dirty(snapshot) => snapshot.0.get(),
        }
    }

    /// Whether it sees a row that was fetched by [`as_raw`](Self::as_raw).
    ///
    /// # Safety
    /// The slot holds a row of the table, which is open. The server may raise an error: the caller has a guard around the call.
    #[expect(ffi_unwind_calls, reason = "the caller puts the guard around it")]
    pub(super) unsafe fn sees(&self, table: pg_sys::Relation, slot: *mut pg_sys::TupleTableSlot) -> bool {
        let Self::WithoutSiread(snapshot) = self else { return true };
        // SAFETY: the caller's promise. The server locks the row's page while it looks.
        unsafe {
            let satisfies = (*(*table).rd_tableam).tuple_satisfies_snapshot.expect("every table has one");
            satisfies(table, slot, snapshot.as_raw())
        }
    }
}
