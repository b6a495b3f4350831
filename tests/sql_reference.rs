//! `docs/sql.md` describes what the catalog has: every function with its signature and its arguments, every relation with its
//! columns, every setting with its default, every SQLSTATE.

use std::path::Path;

use credits_ledger_tests::Database;

use crate::pages::Page;

fn reference() -> Page {
    Page::read(Path::new("docs/sql.md"))
}

/// What `docs/sql.md` shows for each routine that is no trigger, in the order of names.
#[test]
fn the_sql_reference_has_every_function_with_its_signature() {
    let page = reference();
    let db = Database::create();
    let routines = db.connect().query(
        r"SELECT proname::text,
                 regexp_replace(
                     'credits.' || proname || '('
                     || regexp_replace(replace(pg_get_function_arguments(oid), 'IN ', ''), '(DEFAULT (NULL|''[^'']*''))::[a-z0-9 ]+(\[\])?', '\1', 'g')
                     || ')' || coalesce(' RETURNS ' || pg_get_function_result(oid), ''),
                     'timestamp with time zone', 'timestamptz', 'g'),
                 coalesce(proargnames[1 : pronargs], '{}')
          FROM pg_proc WHERE pronamespace = 'credits'::regnamespace ORDER BY 1",
        &[],
    ).expect("ask the catalog");
    let internal =
        page.section("## Functions that nobody calls").expect("there is such a section").join("\n");
    let mut wrong = Vec::new();
    for routine in &routines {
        let (name, signature, arguments): (String, String, Vec<String>) =
            (routine.get(0), routine.get(1), routine.get(2));
        let Some(section) = page.section(&format!("### {name}")) else {
            if !internal.contains(&format!("`{name}(")) {
                wrong.push(format!("{name} has no section"));
            }
            continue;
        };
        let shown: String = section
            .iter()
            .skip_while(|line| **line != "```text")
            .skip(1)
            .take_while(|line| !line.starts_with("```"))
            .map(|line| line.trim())
            .collect::<Vec<_>>()
            .join(" ");
        let shown = shown.replace("( ", "(").replace(" )", ")");
        if shown != signature {
            wrong.push(format!("{name}: the page shows\n  {shown}\nthe catalog\n  {signature}"));
        }
        let described: Vec<String> =
            first_cells(&section, "| argument | |").into_iter().map(|name| name.replace('"', "")).collect();
        if described != arguments {
            wrong.push(format!("{name}: the page describes {described:?}, the catalog has {arguments:?}"));
        }
        if !section.contains(&"```console")
            || !section.iter().any(|line| line.contains(&format!("credits.{name}(")))
        {
            wrong.push(format!("{name} has no example"));
        }
    }
    assert!(routines.len() > 40, "{}", routines.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_sql_reference_has_every_relation_with_its_columns() {
    let page = reference();
    let db = Database::create();
    let relations = db.connect().query(
        "SELECT CASE relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' ELSE 'type' END, relname::text,
                array_agg(attname || ' ' || replace(format_type(atttypid, NULL), 'timestamp with time zone', 'timestamptz')
                          ORDER BY attnum)
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped
         WHERE relnamespace = 'credits'::regnamespace AND relkind IN ('r', 'v', 'c') GROUP BY 1, 2",
        &[],
    ).expect("ask the catalog");
    assert!(relations.len() > 15, "{}", relations.len());
    let types = page.section("## Types").expect("there is such a section");
    let mut wrong = Vec::new();
    for relation in &relations {
        let (kind, name, columns): (String, String, Vec<String>) =
            (relation.get(0), relation.get(1), relation.get(2));
        let described: Vec<String> = match kind.as_str() {
            "type" => types
                .iter()
                .find(|line| line.starts_with(&format!("| `{name}` |")))
                .map(|line| line.split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect())
                .unwrap_or_default(),
            // What a table or another view has already is not repeated.
            "view"
                if [
                    "checkpoints",
                    "folded_batches",
                    "folded_days",
                    "uncovered_transactions",
                    "users_without_checkpoint",
                ]
                .contains(&name.as_str()) =>
            {
                let is_there =
                    page.prose().iter().any(|line| line.starts_with("### View") && line.contains(&name));
                if is_there { continue } else { Vec::new() }
            }
            "view" => columns_of(&page, &format!("### View {name}")),
            _ => columns_of(&page, &format!("### Table {name}")),
        };
        if described != columns {
            wrong.push(format!(
                "{kind} {name}: the page describes {described:?}, the catalog has {columns:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_sql_reference_has_every_setting_with_its_default() {
    let page = reference();
    let section = page.section("## Settings").expect("there is such a section");
    let db = Database::create();
    let mut session = db.connect();
    session.run("LOAD 'credits_ledger'");
    let settings: Vec<String> = session.values(
        "SELECT format('| `%s` | `%s` |', name, boot_val) FROM pg_settings WHERE name LIKE 'credits\\_ledger.%' ORDER BY name",
        &[],
    );
    assert!(settings.len() >= 5, "{settings:?}");
    let described: Vec<&str> = section.iter().filter(|line| line.starts_with("| `")).copied().collect();
    let agree = described.len() == settings.len()
        && settings.iter().zip(&described).all(|(setting, line)| line.starts_with(setting.as_str()));
    assert!(agree, "the page describes {described:#?}, the server has {settings:#?}");
}

/// What the errors of the library are in SQL. A new one is added here, and to the page.
const SQLSTATES: [(&str, &str); 19] = [
    ("ACTIVE_SQL_TRANSACTION", "25001"),
    ("CHECK_VIOLATION", "23514"),
    ("DATATYPE_MISMATCH", "42804"),
    ("DATA_CORRUPTED", "XX001"),
    ("DATETIME_FIELD_OVERFLOW", "22008"),
    ("FEATURE_NOT_SUPPORTED", "0A000"),
    ("INSUFFICIENT_PRIVILEGE", "42501"),
    ("INVALID_PARAMETER_VALUE", "22023"),
    ("INVALID_TRANSACTION_STATE", "25000"),
    ("NOT_NULL_VIOLATION", "23502"),
    ("NO_DATA_FOUND", "P0002"),
    ("NULL_VALUE_NOT_ALLOWED", "22004"),
    ("NUMERIC_VALUE_OUT_OF_RANGE", "22003"),
    ("OBJECT_NOT_IN_PREREQUISITE_STATE", "55000"),
    ("PROGRAM_LIMIT_EXCEEDED", "54000"),
    ("TRIGGERED_ACTION_EXCEPTION", "09000"),
    ("T_R_SERIALIZATION_FAILURE", "40001"),
    ("UNDEFINED_OBJECT", "42704"),
    ("UNIQUE_VIOLATION", "23505"),
];

#[test]
fn the_sql_reference_has_every_sqlstate() {
    let page = reference();
    let described = page.section("## Errors").expect("there is such a section");
    let described: Vec<&str> = described
        .iter()
        .filter_map(|line| line.strip_prefix("| "))
        .filter_map(|line| line.split(" |").next())
        .collect();
    let mut wrong = Vec::new();
    for rest in include_str!("../src/error/sqlstate.rs").split("ERRCODE_").skip(1) {
        let end =
            rest.find(|letter: char| !letter.is_ascii_uppercase() && letter != '_').expect("a name ends");
        let name = &rest[..end];
        match SQLSTATES.iter().find(|(known, _)| *known == name) {
            Some((_, code)) if described.iter().any(|codes| codes.split(", ").any(|each| each == *code)) => {}
            Some((_, code)) => wrong.push(format!("the page does not describe {code}, {name}")),
            None => wrong.push(format!("{name} is not known here")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn columns_of(page: &Page, heading: &str) -> Vec<String> {
    page.section(heading).map_or_else(Vec::new, |section| first_cells(&section, "| column | |"))
}

/// What stands between backquotes in the first cells of a table.
fn first_cells(section: &[&str], head: &str) -> Vec<String> {
    section
        .iter()
        .skip_while(|line| **line != head)
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}
