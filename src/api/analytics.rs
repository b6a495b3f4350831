//! Labels from the application's analytics table: where a request came from, and its service level.
//!
//! The table belongs to the application and may be absent, or lack a column: each label then has its default. Labels
//! are looked up for the rows of a page only, by the table's own keys: its `id` for single rows, which have it as
//! their `source_id`, and its `fusillade_batch_id` for batches. The `source_id`s of the page are cast to the type of the
//! key where they are the very text of such a value, but for batches, whose ids are at hand; the key is never cast to
//! text.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::pg::analytics::{Column, Table, find_table};
use crate::settings;

/// `request_origin` of a batch that the table does not know.
pub const DEFAULT_ORIGIN: &str = "fusillade";
/// `batch_sla` of such a batch.
pub const DEFAULT_SLA: &str = "";

/// What the labels add to a query over `page`: two expressions and the joins that they need.
pub struct Labels {
    pub request_origin: String,
    pub batch_sla: String,
    pub joins: String,
}

impl Labels {
    /// The labels that the analytics table gives, as the caller finds it; `None` without one.
    pub fn find() -> Option<Self> {
        settings::analytics_table().and_then(|name| find_table(&name)).and_then(Self::of_table)
    }

    /// The labels that items have where there is no analytics table.
    pub fn defaults() -> Self {
        let of_batch = |label: &str| format!("CASE WHEN page.batch_id IS NOT NULL THEN '{label}' END");
        Self {
            request_origin: of_batch(DEFAULT_ORIGIN),
            batch_sla: of_batch(DEFAULT_SLA),
            joins: String::new(),
        }
    }

    fn of_table(table: Table) -> Option<Self> {
        let name = table.quoted()?;
        let label = |column: &CStr| {
            let present = table.column(column).and_then(|_| column.to_str().ok());
            present.map_or_else(|| "NULL::text".to_owned(), |column| format!("{column}::text"))
        };
        let (origin, source, sla) =
            (label(c"request_origin"), label(c"batch_request_source"), label(c"batch_sla"));
        let join = |alias: &str, columns: &str, key: Option<String>| {
            let condition = key.unwrap_or_else(|| "false".into());
            format!(
                " LEFT JOIN LATERAL (SELECT {columns} FROM {name} a WHERE {condition} LIMIT 1) {alias} ON true"
            )
        };
        let of_single = table.column(c"id").and_then(|id| source_id_is("a.id", &id));
        let of_batch = table.column(c"fusillade_batch_id").and_then(|batch| match batch.base_type {
            pg_sys::UUIDOID => Some("a.fusillade_batch_id = page.batch_id".into()),
            // For a batch, source_id is the batch's id as text.
            _ => source_id_is("a.fusillade_batch_id", &batch),
        });
        Some(Self {
            request_origin: format!(
                "CASE WHEN page.batch_id IS NOT NULL \
                 THEN coalesce(nullif(of_batch.source, ''), '{DEFAULT_ORIGIN}') ELSE of_single.origin END"
            ),
            batch_sla: format!(
                "CASE WHEN page.batch_id IS NOT NULL THEN coalesce(of_batch.sla, '{DEFAULT_SLA}') ELSE of_single.sla END"
            ),
            joins: join(
                "of_single",
                &format!("{origin} AS origin, {sla} AS sla"),
                of_single.map(|key| format!("page.batch_id IS NULL AND {key}")),
            ) + &join(
                "of_batch",
                &format!("{source} AS source, {sla} AS sla"),
                of_batch.map(|key| format!("page.batch_id IS NOT NULL AND {key}")),
            ),
        })
    }
}

/// The condition that `key`, a column of this kind, has the page's `source_id` as its text; `None` for a type that
/// cannot be asked so. CASE keeps a text that is no such value from being cast.
fn source_id_is(key: &str, column: &Column) -> Option<String> {
    let cast = |pattern: &str, fits: &str, to: &str| {
        format!("CASE WHEN page.source_id ~ '^{pattern}$' {fits} THEN page.source_id::{to} END")
    };
    let integer =
        |fits: &str| cast("(0|-?[1-9][0-9]{0,18})", &format!("AND page.source_id::numeric {fits}"), "int8");
    let value = match column.base_type {
        pg_sys::INT8OID => integer("BETWEEN -9223372036854775808 AND 9223372036854775807"),
        pg_sys::INT4OID => integer("BETWEEN -2147483648 AND 2147483647"),
        pg_sys::INT2OID => integer("BETWEEN -32768 AND 32767"),
        pg_sys::UUIDOID => cast("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "", "uuid"),
        pg_sys::TEXTOID | pg_sys::VARCHAROID => format!("(page.source_id{})", column.collate()),
        _ => return None,
    };
    Some(format!("{key} = {value}"))
}
