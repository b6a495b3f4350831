//! Spend caps: what they cost an account that is far from them, and one that has to look at each commit.

use anyhow::Result;

use super::limits::inserts_after;
use super::{Bench, Line};
use crate::report::Bound::AtLeast;
use crate::report::Measured;
use crate::sides::{grant, settle, user};

pub const LINES: &[Line] = &[
    Line {
        name: "insert-capped",
        what: "Single-row usage inserts, 1,000 random users, 8 clients, with a monthly cap each that is far, and without",
        needs: &["note_caps"],
        run: |bench| Ok(far(bench)?.ratio("ledger, capped", "ledger, none", AtLeast(0.98))),
    },
    Line {
        name: "insert-idle-cap",
        what: "Single-row usage inserts, one hot user with 1 M rows in a year, 16 clients, with a yearlong cap on an idle key that is \
               all but reached, so that each commit looks, and without",
        needs: &["note_caps"],
        run: |bench| Ok(idle(bench)?.ratio("ledger, capped", "ledger, none", AtLeast(0.5))),
    },
];

/// The same users, all with a million, in two databases, in the middle of a day.
fn far(bench: &Bench) -> Result<Measured> {
    const WITHOUT: &str = "without_caps";
    bench.shared_database(WITHOUT, |client| {
        grant(client, 1000)?;
        settle(client, 1000, false)
    })?;
    let set = format!(
        "INSERT INTO credits.spend_caps (user_id, period, amount, since) \
         SELECT {}, 'monthly', 1000000, '2000-01-01' FROM generate_series(1, 1000) AS i",
        user("i")
    );
    inserts_after(bench, WITHOUT, "ledger, capped", &set, "random(1, 1000)", 8)
}

/// The cap is on a key that nobody uses, with next to nothing left: any charge of the account may be one of that key.
fn idle(bench: &Bench) -> Result<Measured> {
    const WITHOUT: &str = "without_idle_cap";
    let rows = bench.scale(1_000_000, 50_000);
    bench.shared_database(WITHOUT, |client| {
        grant(client, 1)?;
        client.batch_execute(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, api_key_id, created_at) \
             SELECT {0}, 'usage', 0.001, 'year-' || i, md5((i % 3)::text)::uuid, now() - i * (interval '365 days' / {rows}) \
             FROM generate_series(1, {rows}) AS i; \
             SELECT credits.refresh_checkpoint({0})",
            user("1")
        ))?;
        client.batch_execute("VACUUM ANALYZE credits.credits_transactions")?;
        Ok(())
    })?;
    let set = format!(
        "INSERT INTO credits.spend_caps (user_id, api_key_ids, amount, since) \
         VALUES ({}, ARRAY[md5('idle')::uuid], 0.000000000000001, now() - interval '365 days')",
        user("1")
    );
    inserts_after(bench, WITHOUT, "ledger, capped", &set, "1", 16)
}
