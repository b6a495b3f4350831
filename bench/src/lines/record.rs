//! Recording by functions, and taking over what an application has.

use std::cell::Cell;
use std::time::Duration;

use anyhow::Result;

use super::{Bench, Contender, Line, seconds};
use crate::report::Bound::AtLeast;
use crate::report::Measured;
use crate::sides::{grant, user};

pub const LINES: &[Line] = &[
    Line {
        name: "create-transaction",
        what: "create_transaction, 10 accounts, 20 clients",
        needs: &["create_transaction"],
        run: |bench| Ok(one_by_one(bench)?.ratio("ledger", "bare", AtLeast(0.92))),
    },
    Line {
        name: "record-100",
        what: "record_transactions of 100 items of 10 accounts, one client, commits asynchronous",
        needs: &["record_transactions"],
        run: |bench| Ok(by_hundreds(bench)?.ratio("ledger", "bare", AtLeast(0.85))),
    },
    Line {
        name: "import",
        what: "import_transactions of 1 M rows of 1,000 accounts",
        needs: &["import_transactions"],
        run: |bench| Ok(import(bench)?.ratio("ledger", "bare", AtLeast(0.70))),
    },
];

/// What a function returns is what the bare INSERT does.
fn one_by_one(bench: &Bench) -> Result<Measured> {
    bench.with_database(|database, client| {
        grant(client, 10)?;
        let values =
            format!("{}, 'usage', 0.000734, gen_random_uuid()::text, 'chat completion'", user(":u"));
        let statements = [
            (
                "bare",
                format!(
                    "INSERT INTO bare.credits_transactions \
                     (user_id, transaction_type, amount, source_id, description, api_key_id) \
                     VALUES ({values}, md5('key')::uuid) \
                     RETURNING id, user_id, transaction_type, amount, source_id, description, created_at, seq, \
                               fusillade_batch_id, api_key_id"
                ),
            ),
            (
                "ledger",
                format!("SELECT * FROM credits.create_transaction({values}, api_key_id => md5('key')::uuid)"),
            ),
        ];
        let contender = |(side, statement): (&'static str, String)| -> Contender {
            let script = format!("\\set u random(1, 10)\n{statement};\n");
            (side, Box::new(move || bench.per_second(database, &script, 20, "")))
        };
        bench.alternate("transactions/s", statements.map(contender).into())
    })
}

/// Each call sends an array that the client has made before.
fn by_hundreds(bench: &Bench) -> Result<Measured> {
    const ITEMS: u32 = 100;
    // The columns of the bare INSERT, and their types in the array.
    const COLUMNS: &str = "user_id, transaction_type, amount, source_id, description, api_key_id";
    const TYPES: &str = "user_id uuid, transaction_type text, amount numeric, source_id text, description text, api_key_id uuid";
    bench.with_database(|database, client| {
        grant(client, 10)?;
        let sent = Cell::new(0_u32);
        let statements = [
            (
                "bare",
                format!(
                    "INSERT INTO bare.credits_transactions ({COLUMNS}) \
                     SELECT {COLUMNS} FROM jsonb_to_recordset($1::text::jsonb) AS item ({TYPES}) RETURNING id, seq"
                ),
            ),
            ("ledger", "SELECT * FROM credits.record_transactions($1::text::jsonb)".to_owned()),
        ];
        let contender = |(side, statement): (&'static str, String)| -> Contender {
            let sent = &sent;
            let sample = move || {
                let mut client = bench.server.connect(database)?;
                client.batch_execute("SET synchronous_commit = off")?;
                let statement = client.prepare(&statement)?;
                let (mut spent, mut calls) = (Duration::ZERO, 0_u32);
                while spent < Duration::from_secs(bench.scale(2, 1)) {
                    let array = items(sent.replace(sent.get() + 1), ITEMS);
                    spent += Duration::from_secs_f64(seconds(|| {
                        client.query(&statement, &[&array])?;
                        Ok(())
                    })?);
                    calls += 1;
                }
                Ok(f64::from(calls * ITEMS) / spent.as_secs_f64())
            };
            (side, Box::new(sample))
        };
        bench.alternate("items/s", statements.map(contender).into())
    })
}

/// An array that is sent as the call of this number.
fn items(call: u32, count: u32) -> String {
    let item = |number: u32| {
        let [account, key] = [number % 10, number % 3].map(|n| format!("00000000-0000-4000-8000-{n:012}"));
        format!(
            r#"{{"user_id": "{account}", "transaction_type": "usage", "amount": 0.000734, "source_id": "call {call} item {number}", "description": "chat completion", "api_key_id": "{key}"}}"#
        )
    };
    format!("[{}]", (0..count).map(item).collect::<Vec<_>>().join(","))
}

/// The rows of a table of the application's own, into a ledger and a bare table that have none.
fn import(bench: &Bench) -> Result<Measured> {
    const COLUMNS: &str =
        "id, user_id, transaction_type, amount, source_id, description, api_key_id, created_at, seq";
    const SOURCE: &str = "to_import";
    let rows: u32 = bench.scale(1_000_000, 100_000);
    bench.shared_database(SOURCE, |client| {
        client.batch_execute(&format!(
            "CREATE TABLE public.own AS \
             SELECT gen_random_uuid() AS id, {} AS user_id, 'purchase'::text AS transaction_type, 0.000734 AS amount, \
                    gen_random_uuid()::text AS source_id, 'chat completion'::text AS description, md5('key')::uuid AS api_key_id, \
                    clock_timestamp() AS created_at, i::bigint AS seq \
             FROM generate_series(1, {rows}) AS i; \
             ALTER TABLE public.own ADD PRIMARY KEY (id), ADD UNIQUE (source_id), ADD UNIQUE (seq)",
            user("(1 + i % 1000 * 7919 % 1000)")
        ))?;
        Ok(())
    })?;
    let statements = [
        (
            "bare",
            format!(
                "INSERT INTO bare.credits_transactions ({COLUMNS}) OVERRIDING SYSTEM VALUE \
                 SELECT {COLUMNS} FROM public.own ORDER BY seq"
            ),
        ),
        ("ledger", "CALL credits.import_transactions('public.own')".to_owned()),
    ];
    let contender = |(side, statement): (&'static str, String)| -> Contender {
        let sample = move || {
            bench.with_copy(SOURCE, |_, client| {
                Ok(f64::from(rows) / seconds(|| Ok(client.batch_execute(&statement)?))?)
            })
        };
        (side, Box::new(sample))
    };
    bench.alternate("rows/s", statements.map(contender).into())
}
