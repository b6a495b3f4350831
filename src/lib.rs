//! Prepaid-credit ledgers inside Postgres.
//!
//! - `api`: the SQL functions, arguments in and result out
//! - `pg`: everything that touches the server's internals, and the only `unsafe` code
//! - [`error`]: every refusal with its SQLSTATE
//!
//! Arithmetic and protocol are in the crate `ledger`, tables and types in `sql/schema`.

mod error;
mod pg;

::pgrx::pg_module_magic!();

pgrx::extension_sql_file!("../sql/schema/types.sql", name = "types", bootstrap);
pgrx::extension_sql_file!("../sql/schema/ledger.sql", name = "ledger", requires = ["types"]);
pgrx::extension_sql_file!("../sql/schema/derived.sql", name = "derived", requires = ["ledger"]);
