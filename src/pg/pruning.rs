//! When pages of derived tables are pruned.
//!
//! The server prunes a page when a scan comes to it and less of it is free than the fillfactor would leave. What the fillfactor leaves is
//! what updates use: so of a derived table, that is after each of them, and costs 10,000 instructions and a record in the log. The scans of
//! the engine have a page pruned when it is nearly full, as the server does where there is no fillfactor. What that costs is that a row's
//! earlier versions are passed over, at most as many as there is room for.

use pgrx::pg_sys;

use super::column::Layout;
use super::definition::Role;
use super::fetch::Tid;
use super::relation::Table;

/// The server's least: a tenth of a page.
const LEAST_FREE: usize = pg_sys::BLCKSZ as usize / 10;

// From access/heapam.h, access/tableam.h, storage/bufmgr.h and storage/bufpage.h, without the guard that pgrx puts around each call: the
// caller has one.
unsafe extern "C-unwind" {
    fn GetHeapamTableAmRoutine() -> *const pg_sys::TableAmRoutine;
    fn ReleaseAndReadBuffer(
        buffer: pg_sys::Buffer,
        relation: pg_sys::Relation,
        block: pg_sys::BlockNumber,
    ) -> pg_sys::Buffer;
    fn PageGetHeapFreeSpace(page: pg_sys::Page) -> usize;
    fn heap_page_prune_opt(relation: pg_sys::Relation, buffer: pg_sys::Buffer);
}

/// Has a fetch come to the page of a tuple id before the server does, which prunes only pages that a fetch has just come to. Does nothing
/// for tables whose rows are not updated by the engine.
///
/// # Safety
/// The fetch is one of the table's that has begun, the tuple id's block is within the table, and the caller has a guard around the call.
#[expect(ffi_unwind_calls, reason = "the caller puts the guard around it")]
pub unsafe fn come_to_page<L: Layout>(table: &Table, fetch: *mut pg_sys::IndexFetchTableData, tid: Tid) {
    if !matches!(L::DEFINITION.role, Role::Derived) {
        return;
    }
    let relation = table.as_raw();
    // SAFETY: of a heap, the fetch is a heap's, which has the last page that it came to pinned, or none. It is left as the server leaves it.
    unsafe {
        if (*relation).rd_tableam != GetHeapamTableAmRoutine() {
            return;
        }
        let fetch = fetch.cast::<pg_sys::IndexFetchHeapData>();
        let block = pgrx::itemptr::item_pointer_get_block_number(&raw const tid);
        let before = (*fetch).xs_cbuf;
        let buffer = ReleaseAndReadBuffer(before, relation, block);
        (*fetch).xs_cbuf = buffer;
        // Not locked, as the server looks at it: what it finds may be out of date.
        if buffer != before && PageGetHeapFreeSpace(pg_sys::BufferGetPage(buffer)) < LEAST_FREE {
            heap_page_prune_opt(relation, buffer);
        }
    }
}
