//! What a DDL command says, as far as the guard asks.

use std::ffi::{CStr, c_char};
use std::marker::PhantomData;

use pgrx::PgList;
use pgrx::pg_sys::{self, AlterTableType as Alter, NodeTag};

use super::{description, extension};

/// DEPENDENCY_INTERNAL: how an identity column has its sequence.
const IDENTITY_DEPENDENCY: c_char = b'i'.cast_signed();

/// The command that an event trigger runs for.
#[derive(Clone, Copy, Debug)]
pub struct Command<'call>(*mut pg_sys::Node, PhantomData<&'call pg_sys::Node>);

/// Tells a command from others that are under way at the same time. One that has ended may have had the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandId(*mut pg_sys::Node);

/// What a command changes at a table and no dump of an extension's table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The table.
    pub table: pg_sys::Oid,
    /// Which kind of thing.
    pub what: &'static str,
}

impl LeftOut {
    const POLICY: &str = "policy";
    const ROW_SECURITY: &str = "row-level security";

    /// Whether it is row-level security, which `dumped_row_security` carries where the table's rows are dumped.
    pub fn is_row_security(&self) -> bool {
        [Self::POLICY, Self::ROW_SECURITY].contains(&self.what)
    }
}

impl<'call> Command<'call> {
    /// # Safety
    /// `statement` is NULL or a parsed command, valid for `'call`.
    pub(super) const unsafe fn new(statement: *mut pg_sys::Node) -> Self {
        Self(statement, PhantomData)
    }

    /// The identity by which a command is found again at its end.
    pub const fn id(&self) -> CommandId {
        CommandId(self.0)
    }

    /// The command as this kind of node, if it is one.
    fn as_node<T>(&self, tag: NodeTag) -> Option<&'call T> {
        // SAFETY: a node's tag says what it is.
        unsafe { (!self.0.is_null() && (*self.0).type_ == tag).then(|| &*self.0.cast::<T>()) }
    }

    /// Whether it is one of those that applications run every day, and cannot change a table that is there already.
    pub fn only_makes_something_new(&self) -> bool {
        let is = |tag| self.as_node::<pg_sys::Node>(tag).is_some();
        is(NodeTag::T_CreateTableAsStmt)
            || is(NodeTag::T_ViewStmt)
            || is(NodeTag::T_RefreshMatViewStmt)
            || self
                .as_node::<pg_sys::CreateStmt>(NodeTag::T_CreateStmt)
                .is_some_and(|create| create.inhRelations.is_null())
    }

    /// Whether it creates or updates the extension.
    pub fn is_of_extension(&self) -> bool {
        let name = self
            .as_node::<pg_sys::CreateExtensionStmt>(NodeTag::T_CreateExtensionStmt)
            .map(|create| create.extname)
            .or_else(|| {
                self.as_node::<pg_sys::AlterExtensionStmt>(NodeTag::T_AlterExtensionStmt)
                    .map(|alter| alter.extname)
            });
        // SAFETY: a name ends with NUL.
        name.is_some_and(|name| unsafe { CStr::from_ptr(name) } == extension::NAME)
    }

    /// The table that it makes an index on which the engine cannot maintain, and the name of the index.
    pub fn index_that_is_not_plain(&self) -> Option<(pg_sys::Oid, String)> {
        let index = self.as_node::<pg_sys::IndexStmt>(NodeTag::T_IndexStmt)?;
        // SAFETY: the columns of an index are nodes of this kind.
        let has_expression = unsafe {
            PgList::<pg_sys::IndexElem>::from_pg(index.indexParams)
                .iter_ptr()
                .any(|column| !(*column).expr.is_null())
        };
        let is_plain = !has_expression && index.whereClause.is_null() && !index.unique;
        // SAFETY: the parse tree lives as long as the command, and the node's tag says that it is such a statement.
        (!is_plain).then(|| unsafe { (resolve(index.relation), name_of(index.idxname)) })
    }

    /// The table that it adds a constraint to.
    pub fn adds_constraint_to(&self) -> Option<pg_sys::Oid> {
        let alter = self.as_node::<pg_sys::AlterTableStmt>(NodeTag::T_AlterTableStmt)?;
        // SAFETY: the parse tree lives as long as the command, and the node's tag says that it is such a statement.
        unsafe {
            subcommands(alter).any(|kind| kind == Alter::AT_AddConstraint).then(|| resolve(alter.relation))
        }
    }

    /// What `pg_dump` leaves out of what it does, since an extension's table comes without.
    pub fn left_out_of_dumps(&self) -> Vec<LeftOut> {
        let one = |table, what| vec![LeftOut { table, what }];
        // SAFETY: the statement is valid, and its tag says what it is.
        unsafe {
            if let Some(index) = self.as_node::<pg_sys::IndexStmt>(NodeTag::T_IndexStmt) {
                return one(resolve(index.relation), "index");
            }
            if let Some(trigger) = self.as_node::<pg_sys::CreateTrigStmt>(NodeTag::T_CreateTrigStmt) {
                return one(resolve(trigger.relation), "trigger");
            }
            if let Some(policy) = self.as_node::<pg_sys::CreatePolicyStmt>(NodeTag::T_CreatePolicyStmt) {
                return one(resolve(policy.table), LeftOut::POLICY);
            }
            if let Some(policy) = self.as_node::<pg_sys::AlterPolicyStmt>(NodeTag::T_AlterPolicyStmt) {
                return one(resolve(policy.table), LeftOut::POLICY);
            }
            if let Some(statistics) = self.as_node::<pg_sys::CreateStatsStmt>(NodeTag::T_CreateStatsStmt) {
                let table = PgList::<pg_sys::RangeVar>::from_pg(statistics.relations).get_ptr(0);
                return one(table.map_or(pg_sys::InvalidOid, |table| resolve(table)), "statistics object");
            }
            if let Some(alter) = self.as_node::<pg_sys::AlterSeqStmt>(NodeTag::T_AlterSeqStmt) {
                let defines_it_anew =
                    PgList::<pg_sys::DefElem>::from_pg(alter.options).iter_ptr().any(|option| {
                        match CStr::from_ptr((*option).defname).to_bytes() {
                            b"restart" => false,
                            // The step of nodes: the number that `set_node_number` gives one is in the dump, and brings it.
                            b"increment" => pg_sys::defGetInt64(option) != 1024,
                            _ => true,
                        }
                    });
                return if defines_it_anew {
                    one(numbered_by(resolve(alter.sequence)), SEQ)
                } else {
                    Vec::new()
                };
            }
            let Some(alter) = self.as_node::<pg_sys::AlterTableStmt>(NodeTag::T_AlterTableStmt) else {
                return Vec::new();
            };
            let table = resolve(alter.relation);
            let mut all: Vec<LeftOut> = Vec::new();
            for what in subcommands(alter).filter_map(left_out) {
                if all.iter().all(|other| other.what != what) {
                    all.push(LeftOut { table, what });
                }
            }
            all
        }
    }
}

/// What of the numbering a dump leaves out.
const SEQ: &str = "setting of seq";

/// What a subcommand of `ALTER TABLE` changes that no dump has. Not here is what comes back by itself, what is meant for a
/// while, and what the guard refuses.
fn left_out(subcommand: Alter::Type) -> Option<&'static str> {
    match subcommand {
        Alter::AT_AddConstraint | Alter::AT_AlterConstraint => Some("constraint"),
        Alter::AT_SetNotNull => Some("constraint NOT NULL"),
        Alter::AT_ColumnDefault => Some("default of a column"),
        Alter::AT_SetIdentity => Some(SEQ),
        Alter::AT_SetStatistics
        | Alter::AT_SetOptions
        | Alter::AT_ResetOptions
        | Alter::AT_SetStorage
        | Alter::AT_SetCompression => Some("setting of a column"),
        Alter::AT_SetRelOptions | Alter::AT_ResetRelOptions | Alter::AT_ReplaceRelOptions => {
            Some("storage setting")
        }
        Alter::AT_SetTableSpace => Some("tablespace"),
        Alter::AT_ReplicaIdentity => Some("replica identity"),
        Alter::AT_ChangeOwner => Some("owner"),
        Alter::AT_EnableRowSecurity
        | Alter::AT_DisableRowSecurity
        | Alter::AT_ForceRowSecurity
        | Alter::AT_NoForceRowSecurity => Some(LeftOut::ROW_SECURITY),
        _ => None,
    }
}

/// # Safety
/// The statement is valid.
unsafe fn subcommands(alter: &pg_sys::AlterTableStmt) -> impl Iterator<Item = Alter::Type> {
    // SAFETY: the list holds nodes of this kind.
    unsafe {
        let list = PgList::<pg_sys::AlterTableCmd>::from_pg(alter.cmds);
        let kinds: Vec<Alter::Type> = list.iter_ptr().map(|command| (*command).subtype).collect();
        kinds.into_iter()
    }
}

/// The table whose identity column has its values from this sequence; `InvalidOid` if there is none.
///
/// # Safety
/// As every catalog lookup.
unsafe fn numbered_by(sequence: pg_sys::Oid) -> pg_sys::Oid {
    let (mut table, mut column) = (pg_sys::InvalidOid, 0);
    // SAFETY: the caller's promise.
    let is_numbered =
        unsafe { pg_sys::sequenceIsOwned(sequence, IDENTITY_DEPENDENCY, &raw mut table, &raw mut column) };
    if is_numbered { table } else { pg_sys::InvalidOid }
}

/// The relation of this name in the caller's search_path; `InvalidOid` if there is none.
///
/// # Safety
/// NULL or valid.
unsafe fn resolve(name: *const pg_sys::RangeVar) -> pg_sys::Oid {
    if name.is_null() {
        return pg_sys::InvalidOid;
    }
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::RangeVarGetRelidExtended(
            name,
            pg_sys::NoLock.cast_signed(),
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        )
    }
}

/// # Safety
/// NULL or a name that ends with NUL.
unsafe fn name_of(name: *const c_char) -> String {
    if name.is_null() {
        return "without a name".to_owned();
    }
    // SAFETY: the caller's promise.
    unsafe { description::text(name) }
}
