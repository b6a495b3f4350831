//! Inserts: what settlement costs a client that records usage.

use anyhow::Result;

use super::{Bench, Contender, Line};
use crate::report::Bound::AtLeast;
use crate::report::Measured;
use crate::sides::{grant, insert_labelled, insert_usage, settle, user};

pub const LINES: &[Line] = &[
    Line {
        name: "insert-random",
        what: "Single-row usage inserts, 1,000 random users, 8 clients",
        needs: &[],
        run: |bench| {
            let measured = single_rows(bench, "random(1, 1000)", 8, "", &["bare", "ledger"])?;
            Ok(measured.ratio("ledger", "bare", AtLeast(0.90)))
        },
    },
    Line {
        name: "insert-labelled",
        what: "The same in the middle of a day, rows of three keys and five categories a user, and rows of one key without a category",
        needs: &["usage_by_day"],
        run: |bench| {
            let measured = labelled(bench)?;
            Ok(measured.ratio("ledger, labelled", "bare, labelled", AtLeast(0.89)).ratio(
                "ledger",
                "bare",
                AtLeast(0.90),
            ))
        },
    },
    Line {
        name: "insert-hot",
        what: "Single-row usage inserts, one hot user far from zero, 16 clients",
        needs: &[],
        run: |bench| {
            let measured = single_rows(bench, "1", 16, "", &["bare", "ledger", "row-lock fold"])?;
            Ok(measured.ratio("ledger", "bare", AtLeast(0.90)).ratio("ledger", "row-lock fold", AtLeast(2.5)))
        },
    },
    Line {
        name: "insert-hot-2ms",
        what: "Single-row usage inserts, one hot user, 32 clients, commits that take 2 ms",
        needs: &[],
        run: |bench| {
            let slow = "-c commit_delay=2000 -c commit_siblings=0";
            let measured = single_rows(bench, "1", 32, slow, &["bare", "ledger", "row-lock fold"])?;
            Ok(measured.ratio("ledger", "bare", AtLeast(0.90)).ratio(
                "ledger",
                "row-lock fold",
                AtLeast(15.0),
            ))
        },
    },
    Line {
        name: "insert-100-one",
        what: "Inserts of 100 usage rows of one user, 4 clients",
        needs: &[],
        run: |bench| Ok(hundreds(bench, &user(":u"))?.ratio("ledger", "bare", AtLeast(0.92))),
    },
    Line {
        name: "insert-100-many",
        what: "Inserts of 100 usage rows of 100 users, 4 clients",
        needs: &[],
        run: |bench| {
            let measured = hundreds(bench, &user("((:u + i) % 1000 + 1)"))?;
            Ok(measured.ratio("ledger", "bare", AtLeast(0.85)))
        },
    },
];

fn single_rows(
    bench: &Bench,
    user_number: &str,
    clients: u32,
    options: &str,
    sides: &[&'static str],
) -> Result<Measured> {
    bench.with_database(|database, client| {
        grant(client, 1000)?;
        let contender = |&side: &&'static str| -> Contender {
            let insert = |schema: &str| insert_usage(schema, "1", &user(":u"));
            let statement = match side {
                "ledger" => insert("credits"),
                "bare" => insert("bare"),
                _ => format!(
                    "WITH inserted AS ({} RETURNING user_id, amount) \
                     UPDATE fold.balances b SET balance = b.balance - inserted.amount \
                     FROM inserted WHERE b.user_id = inserted.user_id",
                    insert("fold")
                ),
            };
            let script = format!("\\set u {user_number}\n{statement};\n");
            (side, Box::new(move || bench.per_second(database, &script, clients, options)))
        };
        bench.alternate("inserts/s", sides.iter().map(contender).collect())
    })
}

/// Daily totals have a row for each user, day, key and category. The rows without labels are in a database of their own: a refresh of an
/// account writes all of its totals, whoever's turn it is.
fn labelled(bench: &Bench) -> Result<Measured> {
    const UNLABELLED: &str = "unlabelled";
    bench.shared_database(UNLABELLED, |client| {
        grant(client, 1000)?;
        settle(client, 1000, false)
    })?;
    bench.with_database(|labelled, client| {
        grant(client, 1000)?;
        settle(client, 1000, true)?;
        let contender = |(side, schema, is_labelled): (&'static str, &str, bool)| -> Contender {
            let (database, insert) = if is_labelled {
                (labelled, insert_labelled(schema, "generate_series(1, 1)", &user(":u"), ":k", ":c"))
            } else {
                (UNLABELLED, insert_usage(schema, "1", &user(":u")))
            };
            let script =
                format!("\\set u random(1, 1000)\n\\set k random(1, 3)\n\\set c random(1, 5)\n{insert};\n");
            (side, Box::new(move || bench.per_second(database, &script, 8, "")))
        };
        let sides = [
            ("bare", "bare", false),
            ("ledger", "credits", false),
            ("bare, labelled", "bare", true),
            ("ledger, labelled", "credits", true),
        ];
        bench.alternate("inserts/s", sides.map(contender).into())
    })
}

fn hundreds(bench: &Bench, user_of_row: &str) -> Result<Measured> {
    bench.with_database(|database, client| {
        grant(client, 1000)?;
        let contender = |(side, schema): (&'static str, &str)| -> Contender {
            let script = format!("\\set u random(1, 1000)\n{};\n", insert_usage(schema, "100", user_of_row));
            (side, Box::new(move || Ok(100.0 * bench.per_second(database, &script, 4, "")?)))
        };
        bench.alternate("rows/s", [("bare", "bare"), ("ledger", "credits")].map(contender).into())
    })
}
