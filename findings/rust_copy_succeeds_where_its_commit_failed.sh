#!/usr/bin/env bash
# Outside a transaction block, a COPY commits when the server meets the client's Sync, after it has said that the COPY is complete. An error that
# comes then, of a deferred constraint for instance, is returned by execute() and query() of the Rust crate postgres, which read on. One would
# guess the same of a COPY. But finish() of its writer returns the number of rows as soon as it reads "complete": the rows are not there, and
# no call ever tells. In a transaction, commit() returns the error.
#
# Seen with postgres 0.19.14 (tokio-postgres does the work) and Postgres 15.19. Needs cargo, and builds for some ten seconds.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"
. "$(dirname "$0")/lib/packages.sh"

start_server 15
sql <<'SQL'
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
SQL
rust_with 'postgres = "=0.19.14"' <<'RUST'
use std::io::Write;

/// Three rows, none of which has a parent.
fn copy(mut writer: postgres::CopyInWriter<'_>) -> Result<u64, postgres::Error> {
    writer.write_all(b"1\n2\n3\n").unwrap();
    writer.finish()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let mut client = postgres::Config::new().host(&arguments[1]).user("postgres").dbname("postgres").connect(postgres::NoTls).unwrap();
    let outcome = match arguments[2].as_str() {
        "execute" => client.execute("INSERT INTO child VALUES (1), (2), (3)", &[]),
        "query" => client.query("INSERT INTO child VALUES (1), (2), (3) RETURNING id", &[]).map(|rows| rows.len() as u64),
        "copy" => client.copy_in("COPY child FROM STDIN").and_then(copy),
        "copy in a transaction" => client.transaction().and_then(|mut transaction| {
            let rows = transaction.copy_in("COPY child FROM STDIN").and_then(copy)?;
            transaction.commit().map(|()| rows)
        }),
        _ => unreachable!(),
    };
    let said = outcome.map_or_else(|error| error.code().map_or("?", |code| code.code()).to_owned(), |rows| format!("{rows} rows written"));
    let found: i64 = client.query_one("SELECT count(*) FROM child", &[]).unwrap().get(0);
    println!("{said}; rows: {found}");
}
RUST

refused="23503; rows: 0"
expect "execute:" "$refused" "23503; rows: 0" "$(run_rust execute)"
expect "query:" "$refused" "23503; rows: 0" "$(run_rust query)"
expect "a COPY:" "$refused" "3 rows written; rows: 0" "$(run_rust copy)"
expect "a COPY in a transaction:" "$refused" "23503; rows: 0" "$(run_rust 'copy in a transaction')"
