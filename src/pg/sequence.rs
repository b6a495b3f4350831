//! The sequence of the ledger's column `seq`, and how it is advanced past a row that was inserted with a `seq` of its own.
//!
//! The server has no function that only ever advances a sequence: `setval` sets it back if other sessions have called `nextval`
//! meanwhile. So this reads the tuple on the sequence's page, and changes it under the exclusive lock of the page, with the same
//! WAL record as `nextval`: see `nextval_internal` in the server's `commands/sequence.c`.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicI64, Ordering};

use ledger::sequence::{Definition, Sequence};
use pgrx::pg_sys;

use super::catalog::{self, Relations};
use super::raised::call_out;
use super::relation::{Access, INVALID_SUBTRANSACTION, Table, file_made_by};
use super::{tables, xact};

/// How many numbers ahead `nextval` writes to the WAL; after a crash they are skipped. `SEQ_LOG_VALS` of commands/sequence.c.
const LOGGED_AHEAD: i64 = 32;

/// `XLOG_SEQ_LOG` of commands/sequence.h, and the constants that its record needs. They are the same in all majors.
const XLOG_SEQ_LOG: u8 = 0;
const RM_SEQ_ID: pg_sys::RmgrId = 15;
const REGBUF_WILL_INIT: u8 = 6;
const _: () = assert!(
    pg_sys::RmgrIds::RM_SEQ_ID == RM_SEQ_ID as u32 && pg_sys::REGBUF_WILL_INIT == REGBUF_WILL_INIT as u32
);

/// `FormData_pg_sequence_data`
#[repr(C)]
struct SequenceData {
    last_value: i64,
    log_cnt: i64,
    is_called: bool,
}

/// `FormData_pg_sequence`
#[repr(C)]
struct CatalogRow {
    seqrelid: pg_sys::Oid,
    seqtypid: pg_sys::Oid,
    seqstart: i64,
    seqincrement: i64,
    seqmax: i64,
}

/// `xl_seq_rec`, which the tuple follows.
#[repr(C)]
struct LogRecord {
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    locator: pg_sys::RelFileNode,
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    locator: pg_sys::RelFileLocator,
}

// From storage/bufmgr.h, access/xlog.h, access/xloginsert.h and, not bound by pgrx, commands/sequence.h, without the guard that pgrx puts
// around each call: one stands around all.
unsafe extern "C-unwind" {
    fn nextval_internal(sequence: pg_sys::Oid, checks_privilege: bool) -> i64;
    fn relation_open(oid: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> pg_sys::Relation;
    fn relation_close(relation: pg_sys::Relation, lock: pg_sys::LOCKMODE);
    fn ReadBuffer(relation: pg_sys::Relation, block: pg_sys::BlockNumber) -> pg_sys::Buffer;
    fn ReleaseBuffer(buffer: pg_sys::Buffer);
    fn LockBuffer(buffer: pg_sys::Buffer, mode: i32);
    fn UnlockReleaseBuffer(buffer: pg_sys::Buffer);
    fn MarkBufferDirty(buffer: pg_sys::Buffer);
    fn GetRedoRecPtr() -> pg_sys::XLogRecPtr;
    fn XLogBeginInsert();
    fn XLogRegisterBuffer(block: u8, buffer: pg_sys::Buffer, flags: u8);
    fn XLogRegisterData(data: *const c_void, length: u32);
    fn XLogInsert(manager: pg_sys::RmgrId, kind: u8) -> pg_sys::XLogRecPtr;
}

thread_local! {
    /// The generation of the ledger's caches for which the sequence was looked up, and the sequence.
    static FOUND: Cell<(u64, pg_sys::Oid)> = const { Cell::new((0, pg_sys::InvalidOid)) };
    /// The transaction that has locked the sequence.
    static LOCKED_BY: Cell<u64> = const { Cell::new(0) };
}

/// The sequence of the ledger's column `seq`, locked as `nextval` locks it; `None` if the owner has dropped the identity.
pub(super) fn of(relations: &Relations) -> Option<pg_sys::Oid> {
    let generation = catalog::ledger_generation();
    let sequence = match FOUND.get() {
        (found_for, sequence) if found_for == generation && sequence != pg_sys::InvalidOid => sequence,
        _ => {
            let ledger = Table::open(relations.ledger, Access::Read);
            let column = tables::transactions::SEQ.any().attribute_number();
            #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
            let table = relations.ledger;
            #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
            let table = ledger.as_raw();
            // SAFETY: the table is open.
            let sequence = unsafe { pg_sys::getIdentitySequence(table, column, true) };
            drop(ledger);
            FOUND.set((generation, sequence));
            LOCKED_BY.set(0);
            sequence
        }
    };
    if sequence == pg_sys::InvalidOid {
        return None;
    }
    let transaction = xact::current_id();
    if LOCKED_BY.get() != transaction {
        // SAFETY: any oid can be locked. The top transaction's resource owner is current meanwhile, as in `nextval`, so that a
        // savepoint which is rolled back does not release the lock; an error between the assignments ends the transaction.
        unsafe {
            let owner = pg_sys::CurrentResourceOwner;
            pg_sys::CurrentResourceOwner = pg_sys::TopTransactionResourceOwner;
            pg_sys::LockRelationOid(sequence, pg_sys::RowExclusiveLock.cast_signed());
            pg_sys::CurrentResourceOwner = owner;
        }
        LOCKED_BY.set(transaction);
    }
    Some(sequence)
}

/// The next number of the sequence.
#[expect(ffi_unwind_calls, reason = "`call_out` stands around the call")]
pub(super) fn next(sequence: pg_sys::Oid) -> i64 {
    let checks_privilege = false;
    // SAFETY: what the server does for an identity column, whoever inserts. It raises an error where there is no number left.
    unsafe { call_out(|| nextval_internal(sequence, checks_privilege)) }
}

/// What the sequence has on its page, if it has not reached this number; `None` if it has. It may have reached the number
/// meanwhile.
#[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
pub(super) fn look(sequence: pg_sys::Oid, number: i64) -> Option<Sequence> {
    // SAFETY: the sequence is locked, so its page exists. An error of the server jumps over frames without destructors only.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            let relation = relation_open(sequence, pg_sys::NoLock.cast_signed());
            let buffer = ReadBuffer(relation, 0);
            let data = tuple(pg_sys::BufferGetPage(buffer)).data;
            // Read without the lock of the page: an aligned word is read whole, and the sequence only ascends.
            let last_value = AtomicI64::from_ptr(&raw mut (*data).last_value).load(Ordering::Relaxed);
            let found = Sequence { last_value, is_called: (&raw const (*data).is_called).read_volatile() };
            ReleaseBuffer(buffer);
            relation_close(relation, pg_sys::NoLock.cast_signed());
            found.is_behind(number).then_some(found)
        })
    }
}

/// Advances the sequence past this number, unless it is past it already or its maximum does not allow that. As with `nextval`, a
/// rollback does not undo it.
#[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
pub(super) fn follow(sequence: pg_sys::Oid, number: i64) {
    let Some(definition) = definition(sequence) else { return };
    let record_length = u32::try_from(size_of::<LogRecord>()).unwrap_or_default();
    // SAFETY: the steps of `nextval_internal`: the sequence is locked, and its page is changed under the page's exclusive lock
    // and in a critical section, in which the server turns an error into a PANIC. Any other error jumps over frames without
    // destructors only.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            let relation = relation_open(sequence, pg_sys::NoLock.cast_signed());
            let buffer = ReadBuffer(relation, 0);
            LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE.cast_signed());
            let page = pg_sys::BufferGetPage(buffer).cast::<pg_sys::PageHeaderData>();
            let tuple = tuple(page.cast());
            let data = tuple.data;
            let found = Sequence { last_value: (*data).last_value, is_called: (*data).is_called };
            if let Some(next) = found.following(number, definition) {
                let still_logged = (*data)
                    .log_cnt
                    .saturating_sub((next.last_value - found.last_value) / definition.increment);
                let is_logged = found.is_called && still_logged >= 0 && lsn(page) > GetRedoRecPtr();
                pg_sys::CritSectionCount += 1;
                MarkBufferDirty(buffer);
                if is_logged {
                    (*data).log_cnt = still_logged;
                } else {
                    let ahead = (definition.max.saturating_sub(next.last_value) / definition.increment)
                        .clamp(0, LOGGED_AHEAD);
                    if needs_log(relation) {
                        (*data).last_value = next.last_value + ahead * definition.increment;
                        (*data).is_called = true;
                        (*data).log_cnt = 0;
                        let record = LogRecord {
                            #[cfg(any(feature = "pg14", feature = "pg15"))]
                            locator: (*relation).rd_node,
                            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
                            locator: (*relation).rd_locator,
                        };
                        XLogBeginInsert();
                        XLogRegisterBuffer(0, buffer, REGBUF_WILL_INIT);
                        XLogRegisterData((&raw const record).cast(), record_length);
                        XLogRegisterData(tuple.header.cast(), tuple.length);
                        set_lsn(page, XLogInsert(RM_SEQ_ID, XLOG_SEQ_LOG));
                    }
                    (*data).log_cnt = ahead;
                }
                (*data).last_value = next.last_value;
                (*data).is_called = true;
                pg_sys::CritSectionCount -= 1;
            }
            UnlockReleaseBuffer(buffer);
            relation_close(relation, pg_sys::NoLock.cast_signed());
        });
    }
}

/// The only tuple of a sequence, on its page.
struct SequenceTuple {
    header: pg_sys::HeapTupleHeader,
    length: u32,
    data: *mut SequenceData,
}

/// # Safety
/// The page is the first of a sequence, and pinned.
unsafe fn tuple(page: pg_sys::Page) -> SequenceTuple {
    // SAFETY: the caller's promise; the tuple neither moves nor changes its length.
    unsafe {
        let item = pg_sys::PageGetItemId(page, 1);
        let header = page.cast::<u8>().add((*item).lp_off() as usize);
        let tuple = header.cast::<pg_sys::HeapTupleHeaderData>();
        SequenceTuple {
            header: tuple,
            length: (*item).lp_len(),
            data: header.add(usize::from((*tuple).t_hoff)).cast(),
        }
    }
}

/// # Safety
/// The page is pinned and locked.
unsafe fn lsn(page: *const pg_sys::PageHeaderData) -> pg_sys::XLogRecPtr {
    // SAFETY: the caller's promise.
    let lsn = unsafe { (*page).pd_lsn };
    u64::from(lsn.xlogid) << 32 | u64::from(lsn.xrecoff)
}

/// # Safety
/// The page is pinned and locked exclusively.
unsafe fn set_lsn(page: *mut pg_sys::PageHeaderData, lsn: pg_sys::XLogRecPtr) {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
    // SAFETY: the caller's promise.
    unsafe { (*page).pd_lsn = pg_sys::PageXLogRecPtr { xlogid: half(lsn >> 32), xrecoff: half(lsn) } }
}

/// `RelationNeedsWAL` of utils/rel.h
///
/// # Safety
/// The relation is open.
unsafe fn needs_log(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        (*(*relation).rd_rel).relpersistence == pg_sys::RELPERSISTENCE_PERMANENT.cast_signed()
            && (pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_REPLICA.cast_signed()
                || ((*relation).rd_createSubid == INVALID_SUBTRANSACTION
                    && file_made_by(relation) == INVALID_SUBTRANSACTION))
    }
}

fn definition(sequence: pg_sys::Oid) -> Option<Definition> {
    // SAFETY: a catalog lookup; the row is one of pg_sequence, and its values are copied before it is released.
    unsafe {
        let row = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::SEQRELID.cast_signed(),
            pg_sys::Datum::from(sequence),
        );
        if row.is_null() {
            return None;
        }
        let header = (*row).t_data;
        let values = header.cast::<u8>().add(usize::from((*header).t_hoff)).cast::<CatalogRow>();
        let definition = Definition { increment: (*values).seqincrement, max: (*values).seqmax };
        pg_sys::ReleaseSysCache(row);
        Some(definition)
    }
}
