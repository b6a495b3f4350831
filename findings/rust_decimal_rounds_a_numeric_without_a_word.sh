#!/usr/bin/env bash
# rust_decimal's Decimal, which postgres, tokio-postgres and sqlx read a numeric into, has 96 bits: 28 or 29 digits in all. A number with more digits
# before the point than it can hold is an error, as one would expect of a type for money. One that has too many behind it is rounded, and the
# row arrives without a word: 15 digits on either side of the point are too many already.
#
# Seen with rust_decimal 1.43.0, postgres 0.19.14 and Postgres 15.19; sqlx 0.9.0 does the same with 15 digits on either side, and refuses 35 behind
# the point. Needs cargo, and builds for some ten seconds.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"
. "$(dirname "$0")/lib/packages.sh"

start_server 15
rust_with 'postgres = "=0.19.14"' \
  'rust_decimal = { version = "=1.43.0", default-features = false, features = ["std", "db-postgres"] }' <<'RUST'
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let mut client = postgres::Config::new().host(&arguments[1]).user("postgres").dbname("postgres").connect(postgres::NoTls).unwrap();
    let row = client.query_one(&format!("SELECT numeric '{}'", arguments[2]), &[]).unwrap();
    match row.try_get::<_, rust_decimal::Decimal>(0) {
        Ok(decimal) => println!("{decimal}"),
        Err(_) => println!("refused"),
    }
}
RUST

expect "1234567890123.123456789012345, 13 digits and 15:" "1234567890123.123456789012345" "1234567890123.123456789012345" \
  "$(run_rust 1234567890123.123456789012345)"
expect "30 digits before the point:" "refused" "refused" "$(run_rust 123456789012345678901234567890)"
expect "123456789012345.123456789012345, 15 digits and 15:" "refused" "123456789012345.12345678901234" \
  "$(run_rust 123456789012345.123456789012345)"
