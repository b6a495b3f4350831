//! `schema LIBRARY CONTROL_FILE VERSION` prints the install script that pgrx recorded in a built library.
//!
//! It is what `cargo pgrx schema` does, for machines without cargo-pgrx. The line numbers in pgrx's comments are
//! left out, so that the script changes only when the SQL does.

use std::error::Error;

use object::{Object, ObjectSection};
use pgrx_sql_entity_graph::section::decode_entities;
use pgrx_sql_entity_graph::{ControlFile, PgrxSql, SqlGraphEntity};

const EXTENSION: &str = "credits_ledger";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [library, control, version] = args.as_slice() else {
        return Err("usage: schema LIBRARY CONTROL_FILE VERSION".into());
    };
    let bytes = std::fs::read(library)?;
    let elf = object::File::parse(&*bytes)?;
    let section = elf.section_by_name(".pgrxsc").ok_or("the library has no .pgrxsc section")?;

    let mut entities =
        vec![SqlGraphEntity::ExtensionRoot(ControlFile::from_path_with_cargo_version(control, version)?)];
    entities.extend(decode_entities(section.data()?)?);
    let script = PgrxSql::build(entities.into_iter(), EXTENSION.to_string(), false)?.to_sql()?;

    for line in script.lines() {
        match line.strip_prefix("-- ").and_then(|rest| rest.rsplit_once(".rs:")) {
            Some((file, _)) => println!("-- {file}.rs"),
            None => println!("{line}"),
        }
    }
    Ok(())
}
