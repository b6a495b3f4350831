//! What the caller may see of the ledger, checked as a query would check it.

use pgrx::pg_sys;

use super::catalog::Relations;
use super::column::AnyColumn;
use super::tables::transactions::{self, Ledger};

/// How much of the ledger a caller sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// All of it.
    Whole,
    /// What row-level security lets through: sums must come from a query.
    Filtered,
}

/// Whether the caller may be told what is folded of the ledger. The views `checkpoints` and `folded_batches` say the same.
pub fn may_see_folded(relations: &Relations) -> bool {
    may_select(relations) && view(relations) == View::Whole
}

/// Whether the caller may SELECT every column of the ledger, by a privilege on the table.
fn may_select(relations: &Relations) -> bool {
    may(relations, pg_sys::ACL_SELECT)
}

/// Whether the caller has this privilege on the ledger as a table.
fn may(relations: &Relations, privilege: u32) -> bool {
    // SAFETY: a catalog lookup; the oid was looked up just before.
    unsafe {
        let result = pg_sys::pg_class_aclcheck(
            relations.ledger,
            pg_sys::GetUserId(),
            pg_sys::AclMode::from(privilege),
        );
        result == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Raises 42501 unless the caller may SELECT these columns of the ledger.
pub fn require_select(relations: &Relations, columns: &[AnyColumn<Ledger>]) {
    require(relations, pg_sys::ACL_SELECT, columns);
}

/// Raises 42501 unless the caller may INSERT these columns of the ledger.
pub fn require_insert(relations: &Relations, columns: &[AnyColumn<Ledger>]) {
    require(relations, pg_sys::ACL_INSERT, columns);
}

fn require(relations: &Relations, privilege: u32, columns: &[AnyColumn<Ledger>]) {
    if may(relations, privilege) {
        return;
    }
    // SAFETY: as above.
    unsafe {
        let (table, role) = (relations.ledger, pg_sys::GetUserId());
        let may = |column: &AnyColumn<Ledger>| {
            let column = column.attribute_number();
            pg_sys::pg_attribute_aclcheck(table, column, role, pg_sys::AclMode::from(privilege))
                == pg_sys::AclResult::ACLCHECK_OK
        };
        if !columns.iter().all(may) {
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
    // SAFETY: a catalog lookup.
    let enabled = unsafe { pg_sys::check_enable_rls(relations.ledger, pg_sys::InvalidOid, false) };
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

/// Whether the caller may insert rows with a `seq` of its choice.
pub fn may_choose_seq(relations: &Relations) -> bool {
    let insert = pg_sys::AclMode::from(pg_sys::ACL_INSERT);
    let (table, column) = (relations.ledger, transactions::SEQ.any().attribute_number());
    // SAFETY: as above.
    unsafe {
        let role = pg_sys::GetUserId();
        pg_sys::pg_class_aclcheck(table, role, insert) == pg_sys::AclResult::ACLCHECK_OK
            || pg_sys::pg_attribute_aclcheck(table, column, role, insert) == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Raises 42501 unless the caller may insert rows with a `seq` of its choice.
pub fn require_choosing_seq(relations: &Relations) {
    if may_choose_seq(relations) {
        return;
    }
    // SAFETY: the relation is there.
    unsafe {
        pg_sys::aclcheck_error(
            pg_sys::AclResult::ACLCHECK_NO_PRIV,
            pg_sys::ObjectType::OBJECT_TABLE,
            pg_sys::get_rel_name(relations.ledger),
        );
    }
}
