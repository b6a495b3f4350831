//! Tables of which storing a row is all that an INSERT does, and deleting one all that a DELETE does, but for what a trigger of the
//! extension notes. There, a row may be written without a statement.
//!
//! An owner may add triggers, constraints, rules, defaults and policies. So this looks at the table as it is, and where anything is
//! other than the extension has made it, a statement does the work.

use std::cell::Cell;
use std::ffi::{CStr, c_char};

use pgrx::pg_sys;

use super::catalog;
use super::column::Layout;
use super::description;
use super::relation::Table;
use super::search_path::SearchPath;
use super::tables::holds::Holds;
use super::tables::transactions::Ledger;

/// What the extension has made of a table whose rows are written without a statement.
pub trait Plain: Layout {
    /// The trigger that notes its rows, and its function in `credits`.
    const NOTING_TRIGGER: &'static CStr;
    /// The events that this fires on.
    const NOTED: u32;
    /// The column that is numbered by a sequence, if there is one.
    const NUMBERED: Option<&'static str>;
    /// The columns that have defaults or are generated, in their order, with the expressions as the server writes them.
    const DEFAULTS: &'static [(&'static str, &'static CStr)];
    /// The checks, by name, with their expressions.
    const CHECKS: &'static [(&'static CStr, &'static CStr)];
    /// Where the verdict of this table is kept.
    const PLACE: usize;
}

const INSERT: u32 = pg_sys::TRIGGER_TYPE_INSERT;
const UPDATE: u32 = pg_sys::TRIGGER_TYPE_UPDATE;
const DELETE: u32 = pg_sys::TRIGGER_TYPE_DELETE;

const AMOUNT_IS_EXACT: (&CStr, &CStr) = (c"amount_is_positive_and_exact", c"credits.is_amount(amount)");

impl Plain for Ledger {
    const NOTING_TRIGGER: &'static CStr = c"note_transaction";
    const NOTED: u32 = INSERT;
    const NUMBERED: Option<&'static str> = Some("seq");
    const DEFAULTS: &'static [(&'static str, &'static CStr)] = &[
        ("id", c"credits.uuid_v7()"),
        ("created_at", c"clock_timestamp()"),
        ("xact_id", c"credits.current_xact_id(seq)"),
    ];
    const CHECKS: &'static [(&'static CStr, &'static CStr)] = &[
        AMOUNT_IS_EXACT,
        (c"batch_is_usage", c"credits.may_have_batch(transaction_type, fusillade_batch_id)"),
        (c"transaction_type_is_known", c"credits.is_transaction_type(transaction_type)"),
    ];
    const PLACE: usize = 0;
}

impl Plain for Holds {
    const NOTING_TRIGGER: &'static CStr = c"note_hold";
    const NOTED: u32 = INSERT | UPDATE | DELETE;
    const NUMBERED: Option<&'static str> = None;
    const DEFAULTS: &'static [(&'static str, &'static CStr)] = &[("created_at", c"clock_timestamp()")];
    const CHECKS: &'static [(&'static CStr, &'static CStr)] = &[AMOUNT_IS_EXACT];
    const PLACE: usize = 1;
}

/// What was found of a table.
#[derive(Clone, Copy)]
struct Verdict {
    /// [`catalog::ledger_generation`] before: it holds until that changes.
    generation: u64,
    table: pg_sys::Oid,
    is_plain: bool,
}

const NONE: Verdict = Verdict { generation: u64::MAX, table: pg_sys::InvalidOid, is_plain: false };

thread_local! {
    static VERDICTS: [Cell<Verdict>; 2] = const { [const { Cell::new(NONE) }; 2] };
}

/// Whether the table is as the extension has made it. It is open for writing, so that it stays so to the end of the transaction. The
/// first call after a change of the table reads its definition.
pub fn is_plain<L: Plain>(table: &Table) -> bool {
    VERDICTS.with(|verdicts| {
        let generation = catalog::ledger_generation();
        let relation = table.as_raw();
        // SAFETY: the table is open.
        let oid = unsafe { (*relation).rd_id };
        let last = verdicts[L::PLACE].get();
        if last.generation == generation && last.table == oid {
            return last.is_plain;
        }
        // SAFETY: the table is open.
        let is_plain = unsafe {
            is_ordinary(relation)
                && has_columns::<L>(relation)
                && has_triggers::<L>(relation)
                && has_expressions::<L>(relation)
        };
        verdicts[L::PLACE].set(Verdict { generation, table: oid, is_plain });
        is_plain
    })
}

/// Whether it is a table of its own, without rules.
///
/// # Safety
/// The table is open.
unsafe fn is_ordinary(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let class = &*(*relation).rd_rel;
        class.relkind == pg_sys::RELKIND_RELATION.cast_signed()
            && !class.relispartition
            && (*relation).rd_rules.is_null()
    }
}

/// Whether it has exactly the columns that the extension has made, without dropped ones, and NOT NULL on none but those that are made so.
///
/// # Safety
/// The table is open.
unsafe fn has_columns<L: Plain>(relation: pg_sys::Relation) -> bool {
    let count = L::DEFINITION.names.len();
    // SAFETY: the caller's promise; no column past the last is asked for, and a name ends with NUL.
    unsafe {
        let columns = (*relation).rd_att;
        description::count(columns) == count
            && (0..count).all(|number| {
                let column = description::column(columns, number);
                let name = CStr::from_ptr(column.attname.data.as_ptr());
                let is_of = |names: &[&str]| names.iter().any(|known| name.to_bytes() == known.as_bytes());
                !column.attisdropped
                    && is_of(L::DEFINITION.names)
                    && (!column.attnotnull || !L::DEFINITION.may_be_null(&name.to_string_lossy()))
                    && (column.attidentity != 0) == L::NUMBERED.is_some_and(|numbered| is_of(&[numbered]))
            })
    }
}

/// Whether the only trigger of inserts, and of deletions where it fires on those, is the one that notes them, behind the row and in
/// every session.
///
/// # Safety
/// The table is open.
unsafe fn has_triggers<L: Plain>(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise; the description has as many triggers as it says. A catalog lookup may process an invalidation of the
    // table, and the server then makes the description anew and frees this one: the only lookup comes last.
    unsafe {
        let Some(triggers) = (*relation).trigdesc.as_ref() else { return false };
        let count = usize::try_from(triggers.numtriggers).unwrap_or_default();
        let mut fire = (0..count)
            .map(|number| &*triggers.triggers.add(number))
            .filter(|trigger| kind(trigger) & L::NOTED & (INSERT | DELETE) != 0);
        let (Some(trigger), None) = (fire.next(), fire.next()) else { return false };
        CStr::from_ptr(trigger.tgname) == L::NOTING_TRIGGER
            && kind(trigger) == pg_sys::TRIGGER_TYPE_ROW | L::NOTED
            && trigger.tgenabled == pg_sys::TRIGGER_FIRES_ALWAYS.cast_signed()
            && trigger.tgqual.is_null()
            && trigger.tgnattr == 0
            && !trigger.tgdeferrable
            && is_function(trigger.tgfoid, L::NOTING_TRIGGER)
    }
}

/// When a trigger fires: the bits of `tgtype`.
fn kind(trigger: &pg_sys::Trigger) -> u32 {
    u32::from(trigger.tgtype.cast_unsigned())
}

/// Whether it is the function of this name in `credits`.
///
/// # Safety
/// As every catalog lookup.
unsafe fn is_function(oid: pg_sys::Oid, name: &CStr) -> bool {
    // SAFETY: the caller's promise; a name is NULL if the function or the schema is gone, or ends with a zero byte.
    unsafe {
        let is = |found: *mut c_char, name: &CStr| !found.is_null() && CStr::from_ptr(found) == name;
        is(pg_sys::get_func_name(oid), name)
            && is(pg_sys::get_namespace_name(pg_sys::get_func_namespace(oid)), c"credits")
    }
}

/// Whether its defaults, generated columns and checks are those that the extension has made, and no others.
///
/// # Safety
/// The table is open.
unsafe fn has_expressions<L: Plain>(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise; there are as many of each as the description says. An owner of the table could otherwise write an
    // operator of another schema as the server's own.
    unsafe {
        let _path = SearchPath::pinned();
        let columns = (*relation).rd_att;
        let Some(constraints) = (*columns).constr.as_ref() else { return false };
        let (defaults, checks) = (usize::from(constraints.num_defval), usize::from(constraints.num_check));
        let has_default = |number| {
            let default = &*constraints.defval.add(number);
            let place = usize::try_from(default.adnum - 1).unwrap_or_default();
            let name = CStr::from_ptr(description::column(columns, place).attname.data.as_ptr());
            L::DEFAULTS.iter().any(|&(column, expression)| {
                name.to_bytes() == column.as_bytes() && is_written(relation, default.adbin, expression)
            })
        };
        let has_check = |number| {
            let check = &*constraints.check.add(number);
            L::CHECKS.iter().any(|&(name, expression)| {
                CStr::from_ptr(check.ccname) == name && is_written(relation, check.ccbin, expression)
            })
        };
        defaults == L::DEFAULTS.len()
            && checks == L::CHECKS.len()
            && (0..defaults).all(has_default)
            && (0..checks).all(has_check)
    }
}

/// Whether the server writes the stored expression so.
///
/// # Safety
/// The table is open, and the expression is one of its own.
unsafe fn is_written(relation: pg_sys::Relation, stored: *mut c_char, expression: &CStr) -> bool {
    // SAFETY: the caller's promise; the server's texts end with a zero byte.
    unsafe {
        if stored.is_null() {
            return false;
        }
        let name = (*(*relation).rd_rel).relname.data.as_ptr();
        let context = pg_sys::deparse_context_for(name, (*relation).rd_id);
        let node = pg_sys::stringToNode(stored).cast::<pg_sys::Node>();
        CStr::from_ptr(pg_sys::deparse_expression(node, context, false, false)) == expression
    }
}
