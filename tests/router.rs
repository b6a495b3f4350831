//! The install script of the router has a route for every function of the ledger, and every column of its tables. `router/check` runs it.

use std::process::Command;

use credits_ledger_tests::Database;
use credits_ledger_tests::cluster::Cluster;

#[test]
fn every_function_has_a_route() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let db = Database::create();
    let output = Command::new(format!("{root}/router/generate"))
        .arg(db.name())
        .env("CREDITS_LEDGER_BIN", Cluster::programs_under_test())
        .env("PGHOST", Cluster::shared().folder())
        .env_remove("PGPORT")
        .output()
        .expect("run router/generate");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // That of the ledger, as the Makefile reads it.
    let manifest = std::fs::read_to_string(format!("{root}/Cargo.toml")).expect("read the manifest");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = "))
        .expect("a version")
        .replace('"', "");
    let script = std::fs::read_to_string(format!("{root}/router/credits_ledger_router--{version}.sql"))
        .expect("read the script of this version");
    let generated = String::from_utf8(output.stdout).expect("text");
    let differing = generated.lines().zip(script.lines()).find(|(generated, script)| generated != script);
    assert!(
        generated == script,
        "the script of the router is of another ledger: say make router-schema. {differing:?}"
    );
}
