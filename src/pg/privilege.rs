//! The caller's privileges on the ledger and on holds, checked as a query checks them.

use pgrx::pg_sys;

use super::catalog::Relations;
use super::column::{AnyColumn, Layout};
use super::tables::columns;
use super::tables::transactions::{self, Ledger};

/// Which rows of a table a caller may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// All of them.
    Whole,
    /// Those that pass the policies of row-level security: sums must come from a query, which applies them.
    Filtered,
}

/// Whether the caller may read checkpoints and folded batches: those who may read the whole ledger. The views `checkpoints` and
/// `folded_batches` have the same condition.
pub fn may_see_folded(relations: &Relations) -> bool {
    may_select(relations) && view(relations) == View::Whole
}

/// Whether the caller has SELECT on the ledger as a table, and so on every column.
fn may_select(relations: &Relations) -> bool {
    may(relations.ledger, pg_sys::ACL_SELECT)
}

/// Whether the caller has this privilege on the table.
fn may(table: pg_sys::Oid, privilege: u32) -> bool {
    // SAFETY: a catalog lookup. It raises an error if the table is gone.
    unsafe {
        let result = pg_sys::pg_class_aclcheck(table, pg_sys::GetUserId(), pg_sys::AclMode::from(privilege));
        result == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Whether the caller has this privilege on each of the columns: on the table, or on every one of them.
fn may_on_columns<L: Layout>(table: pg_sys::Oid, privilege: u32, columns: &[AnyColumn<L>]) -> bool {
    let may_on = |column: &AnyColumn<L>| {
        let (number, mode) = (column.attribute_number(), pg_sys::AclMode::from(privilege));
        // SAFETY: a catalog lookup. It raises an error if the table is gone.
        let result = unsafe { pg_sys::pg_attribute_aclcheck(table, number, pg_sys::GetUserId(), mode) };
        result == pg_sys::AclResult::ACLCHECK_OK
    };
    may(table, privilege) || columns.iter().all(may_on)
}

/// Whether a statement of the caller's may delete any row of the table and return it: with DELETE and SELECT on it, and no policy that
/// could leave one out.
pub fn may_delete_and_return_any(table: pg_sys::Oid) -> bool {
    view_of(table) == View::Whole && may(table, pg_sys::ACL_SELECT) && may(table, pg_sys::ACL_DELETE)
}

/// Whether a statement of the caller's may name the table: with USAGE on its schema.
pub fn may_name(table: pg_sys::Oid) -> bool {
    let usage = pg_sys::AclMode::from(pg_sys::ACL_USAGE);
    // SAFETY: catalog lookups. They raise an error if the table is gone.
    unsafe {
        let (schema, role) = (pg_sys::get_rel_namespace(table), pg_sys::GetUserId());
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let result = pg_sys::pg_namespace_aclcheck(schema, role, usage);
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        let result = pg_sys::object_aclcheck(pg_sys::NamespaceRelationId, schema, role, usage);
        result == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Whether another library wants to be asked what each statement may do, as pgaudit and sepgsql do.
pub fn is_overseen() -> bool {
    // SAFETY: reads a global of the server.
    unsafe { (&raw const pg_sys::ExecutorCheckPerms_hook).read() }.is_some()
}

/// Raises 42501 unless the caller may SELECT these columns of the ledger.
pub fn require_select(relations: &Relations, columns: &[AnyColumn<Ledger>]) {
    require(relations.ledger, pg_sys::ACL_SELECT, columns);
}

/// Raises 42501 unless the caller may SELECT these columns of the table.
pub fn require_select_on<L: Layout>(table: pg_sys::Oid, columns: &[AnyColumn<L>]) {
    require(table, pg_sys::ACL_SELECT, columns);
}

/// Raises 42501 unless the caller may INSERT these columns of the ledger.
pub fn require_insert(relations: &Relations, columns: &[AnyColumn<Ledger>]) {
    require(relations.ledger, pg_sys::ACL_INSERT, columns);
}

fn require<L: Layout>(table: pg_sys::Oid, privilege: u32, columns: &[AnyColumn<L>]) {
    if !may_on_columns(table, privilege, columns) {
        // SAFETY: raises the error, with the name of the table, or NULL if it is gone.
        unsafe {
            pg_sys::aclcheck_error(
                pg_sys::AclResult::ACLCHECK_NO_PRIV,
                pg_sys::ObjectType::OBJECT_TABLE,
                pg_sys::get_rel_name(table),
            );
        }
    }
}

/// Whether row-level security filters the ledger for the caller.
pub fn view(relations: &Relations) -> View {
    view_of(relations.ledger)
}

/// Whether row-level security filters the table for the caller.
pub fn view_of(table: pg_sys::Oid) -> View {
    // SAFETY: a catalog lookup. A table that is gone has no row-level security.
    let enabled = unsafe { pg_sys::check_enable_rls(table, pg_sys::InvalidOid, false) };
    if enabled == pg_sys::CheckEnableRlsResult::RLS_ENABLED.cast_signed() {
        View::Filtered
    } else {
        View::Whole
    }
}

/// Whether the caller owns the ledger.
pub fn is_owner(relations: &Relations) -> bool {
    // SAFETY: a catalog lookup.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let is_owner = pg_sys::pg_class_ownercheck(relations.ledger, pg_sys::GetUserId());
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        let is_owner =
            pg_sys::object_ownercheck(pg_sys::RelationRelationId, relations.ledger, pg_sys::GetUserId());
        is_owner
    }
}

/// Whether the caller may insert rows with a `seq` of its choice: whether it has INSERT on that column.
pub fn may_choose_seq(relations: &Relations) -> bool {
    may_on_columns(relations.ledger, pg_sys::ACL_INSERT, &columns![transactions::SEQ])
}

/// Raises 42501 unless the caller may insert rows with a `seq` of its choice.
pub fn require_choosing_seq(relations: &Relations) {
    require_insert(relations, &columns![transactions::SEQ]);
}

/// Whether a statement of the caller's may insert any row into the table that has these columns, and return it: with INSERT on them, SELECT
/// on the table, and no policy that could refuse the row.
pub fn may_insert_and_return_any<L: Layout>(table: pg_sys::Oid, columns: &[AnyColumn<L>]) -> bool {
    view_of(table) == View::Whole
        && may(table, pg_sys::ACL_SELECT)
        && may_on_columns(table, pg_sys::ACL_INSERT, columns)
}
