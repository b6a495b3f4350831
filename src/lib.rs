//! Prepaid-credit ledgers inside Postgres.
//!
//! From the outermost room down, each using only those below it:
//!
//! - [`entry`]: what Postgres calls: trigger functions, hooks, callbacks, and the entry points of SQL functions
//! - [`api`]: the SQL functions, arguments in and result out
//! - [`engine`]: checkpoints, deltas and settlement
//! - [`pg`]: everything that touches the server's internals, and the only `unsafe` code
//!
//! Besides, [`error`] has every refusal with its SQLSTATE, for all of them, and [`settings`] every setting, for those above `pg`.
//!
//! Arithmetic and protocol are in the crate `ledger`; tables, types, views and privileges in `sql/schema`. How it all works, and
//! why, is in `docs/architecture.md`.

mod api;
mod engine;
mod entry;
mod error;
mod pg;
mod settings;

::pgrx::pg_module_magic!();

/// Runs when the library is loaded.
#[pgrx::pg_guard]
extern "C-unwind" fn _PG_init() {
    pg::raised::init();
    settings::init();
    entry::init();
}

// pgrx knows no other order than what each file requires, so each requires the one before it.
pgrx::extension_sql_file!("../sql/schema/types.sql", name = "types", bootstrap);
pgrx::extension_sql_file!("../sql/schema/ledger.sql", name = "ledger", requires = ["types"]);
pgrx::extension_sql_file!("../sql/schema/here.sql", name = "here", requires = ["ledger"]);
pgrx::extension_sql_file!("../sql/schema/derived.sql", name = "derived", requires = ["here"]);
pgrx::extension_sql_file!("../sql/schema/limits.sql", name = "limits", requires = ["derived"]);
pgrx::extension_sql_file!("../sql/schema/caps.sql", name = "caps", requires = ["limits"]);
pgrx::extension_sql_file!("../sql/schema/holds.sql", name = "holds", requires = ["caps"]);
pgrx::extension_sql_file!("../sql/schema/balances.sql", name = "balances", requires = ["holds"]);
pgrx::extension_sql_file!("../sql/schema/views.sql", name = "views", requires = ["balances"]);
pgrx::extension_sql_file!("../sql/schema/recording.sql", name = "recording", requires = ["views"]);
pgrx::extension_sql_file!("../sql/schema/spending.sql", name = "spending", requires = ["recording"]);
pgrx::extension_sql_file!("../sql/schema/reads.sql", name = "reads", requires = ["spending"]);
pgrx::extension_sql_file!("../sql/schema/days.sql", name = "days", requires = ["reads"]);
pgrx::extension_sql_file!("../sql/schema/cap_states.sql", name = "cap_states", requires = ["days"]);
pgrx::extension_sql_file!(
    "../sql/schema/operations.sql",
    name = "operations",
    requires = [
        "cap_states",
        api::open_holds::release_expired_holds,
        api::operations::add_up_days,
        api::operations::advance_seq,
        api::operations::redact_account,
        api::operations::refresh_idle_checkpoints,
        api::operations::settlement_statistics
    ]
);
pgrx::extension_sql_file!("../sql/schema/verify.sql", name = "verify", requires = ["operations"]);
pgrx::extension_sql_file!("../sql/schema/guard.sql", name = "guard", requires = ["verify"]);
pgrx::extension_sql_file!("../sql/schema/import.sql", name = "import", requires = ["guard"]);
pgrx::extension_sql_file!("../sql/schema/security.sql", name = "security", requires = ["import"]);
pgrx::extension_sql_file!("../sql/schema/nodes.sql", name = "nodes", requires = ["security"]);
pgrx::extension_sql_file!("../sql/schema/moves.sql", name = "moves", requires = ["nodes"]);
pgrx::extension_sql_file!("../sql/schema/arrivals.sql", name = "arrivals", requires = ["moves"]);
pgrx::extension_sql_file!("../sql/schema/purges.sql", name = "purges", requires = ["arrivals"]);
pgrx::extension_sql_file!("../sql/schema/installation.sql", name = "installation", requires = ["purges"]);
pgrx::extension_sql_file!(
    "../sql/schema/function_comments.sql",
    name = "function_comments",
    requires = [api::balances::refresh_checkpoint, api::balances::aggregate_user_batches,]
);
pgrx::extension_sql_file!("../sql/schema/privileges.sql", name = "privileges", finalize);
