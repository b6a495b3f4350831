//! What a ledger holds, to be compared with what a copy of it holds.

use rust_decimal::dec;
use uuid::Uuid;

use crate::{Session, user};

/// Options (`PGOPTIONS`) of a restore that announces nobody's first credit as news.
pub const SILENT: &str =
    "-c credits_ledger.config_channel= -c credits_ledger.crossing_channel= -c credits_ledger.cap_channel=";

/// The tables whose rows are dumped.
const DUMPED: [&str; 10] = [
    "credits.bucket_states",
    "credits.credits_transactions",
    "credits.credits_transactions_seq_seq",
    "credits.dumped_row_security",
    "credits.holds",
    "credits.node",
    "credits.purged_buckets",
    "credits.spend_caps",
    "credits.spending_limits",
    "credits.taken_buckets",
];

/// Users that [`Session::record_history`] records something for.
pub const USERS: u32 = 6;

/// What must survive a move to another database. Stamps and checkpoints belong to the database that they are in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    rows: String,
    balances: String,
    batches: String,
}

impl Session {
    /// The feed behind a position: the last position, if there are rows, and the `source_id`s.
    ///
    /// # Errors
    /// If the position is refused.
    pub fn feed(&mut self, after: Option<&str>) -> Result<(Option<String>, Vec<String>), postgres::Error> {
        let rows = self
            .query("SELECT feed_position, source_id FROM credits.transactions_after($1, NULL)", &[&after])?;
        Ok((rows.last().map(|row| row.get(0)), rows.iter().map(|row| row.get(1)).collect()))
    }

    /// `pg_dump` dumps the rows of what users fill, and of nothing that is derived.
    #[track_caller]
    pub fn assert_dumps_what_users_fill(&mut self) {
        let dumped: Vec<String> = self.values(
            "SELECT unnest(extconfig)::regclass::text FROM pg_extension WHERE extname = 'credits_ledger' ORDER BY 1",
            &[],
        );
        assert_eq!(dumped, DUMPED);
    }

    /// What the ledger holds.
    #[track_caller]
    pub fn contents(&mut self) -> Contents {
        Contents {
            rows: self.value(
                "SELECT count(*) || ' rows ' || md5(string_agg(
                            concat_ws('|', id, user_id, transaction_type, amount, source_id, description,
                                      fusillade_batch_id, api_key_id, created_at, seq, category, metadata, reverses), ',' ORDER BY seq))
                 FROM credits.credits_transactions",
                &[],
            ),
            balances: self.value(
                "SELECT string_agg(concat_ws(' ', user_id, trim_scale(balance), is_positive), ', ' ORDER BY user_id)
                 FROM credits.balances",
                &[],
            ),
            batches: self.value(
                "SELECT string_agg(b::text, ', ' ORDER BY user_id, fusillade_batch_id)
                 FROM (SELECT fusillade_batch_id, user_id, trim_scale(total_amount), transaction_count, max_seq, created_at
                       FROM credits.batches) b",
                &[],
            ),
        }
    }

    /// Records a bit of everything: users above, below and at zero, batches, amounts of every scale, what was taken back and
    /// what was rolled back, rows that a checkpoint covers and rows that none does yet.
    pub fn record_history(&mut self) {
        for round in 0..120_u32 {
            let (user, batch) = (user(round % (USERS - 2)), Uuid::from_u128(u128::from(round % 7)));
            self.grant(user, dec!(1.000000000000001));
            self.charge_batch(user, batch, dec!(0.50));
            if round == 80 {
                (0..USERS).for_each(|number| self.refresh(crate::user(number)));
            }
        }
        self.run("BEGIN");
        self.charge(user(0), dec!(1));
        self.run("SAVEPOINT s");
        self.charge(user(0), dec!(1000));
        self.run("ROLLBACK TO s");
        self.grant(user(1), dec!(9999999999999.999999999999999));
        self.charge(user(1), dec!(9999999999990));
        self.run("COMMIT");
        self.charge(user(USERS - 2), dec!(1000));
        // What no new row may be like, of before that was so.
        self.run(&format!(
            "SET check_function_bodies = off;
             INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at)
             VALUES ('{}', 'admin_grant', 3, ' ', '-infinity');
             RESET check_function_bodies",
            user(2)
        ));
        self.run(&format!(
            "SELECT credits.create_transaction('{}', 'purchase', 2, 'auto_topup_1', 'Automatic top-up')",
            user(USERS - 1)
        ));
        self.charge(user(USERS - 1), dec!(2));
        // Two parts of one and all of another, with a category.
        self.run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, category)
             VALUES ('{0}', 'usage', 3, 'taken back', 'model'), ('{0}', 'admin_grant', 5, 'given by mistake', NULL);
             SELECT credits.reverse_transaction(id, 'part ' || n, n)
             FROM credits.credits_transactions, generate_series(1, 2) n WHERE source_id = 'taken back';
             SELECT credits.reverse_transaction(id, 'all of it')
             FROM credits.credits_transactions WHERE source_id = 'given by mistake'",
            user(0)
        ));
        self.run("BEGIN");
        self.grant(user(1), dec!(100));
        self.run("ROLLBACK");
    }

    /// Gives users of [`Session::record_history`], and one without transactions, boundaries of every kind, spend caps, and holds that are open and
    /// that have expired.
    pub fn record_holds_and_limits(&mut self) {
        for (number, limit, thresholds) in [
            (0, "0", "{5, 0.5, -1000}"),
            (1, "NULL", "{}"),
            (2, "2.5", "{-1}"),
            (3, "0", "{}"),
            (USERS, "7", "{1}"),
        ] {
            self.run(&format!(
                "INSERT INTO credits.spending_limits VALUES ('{}', {limit}, '{thresholds}', '2026-01-01')",
                user(number)
            ));
        }
        for (number, keys, period, amount) in [
            (0, "NULL", "NULL", "0.000000000000001"),
            (0, "ARRAY[gen_random_uuid(), gen_random_uuid()]", "'monthly'", "1"),
            (1, "NULL", "'daily'", "9999999999999.999999999999999"),
            (USERS, "NULL", "'weekly'", "3"),
        ] {
            self.run(&format!(
                "INSERT INTO credits.spend_caps (user_id, api_key_ids, period, amount, since, is_enforced)
                 VALUES ('{}', {keys}, {period}, {amount}, '2020-01-01', {number} = 1)",
                user(number)
            ));
        }
        for (number, source_id, expires_at) in [
            (0, "open", "now() + '1 day'"),
            (0, "endless", "'infinity'"),
            (1, "gone", "'2026-01-01'"),
            (USERS, "none", "now()"),
        ] {
            self.run(&format!(
                "INSERT INTO credits.holds (source_id, user_id, amount, category, metadata, created_at, expires_at)
                 VALUES ('{source_id}', '{}', 0.250, 'model', '{{\"n\": 1}}', '2025-12-31', {expires_at})",
                user(number)
            ));
        }
    }

    /// All holds, limits and caps, as text.
    #[track_caller]
    pub fn holds_and_limits(&mut self) -> Vec<String> {
        self.values(
            "SELECT h::text FROM credits.holds h UNION ALL SELECT l::text FROM credits.spending_limits l
             UNION ALL SELECT c::text FROM credits.spend_caps c ORDER BY 1",
            &[],
        )
    }
}
