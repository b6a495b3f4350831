//! Two nodes between which buckets of accounts move, and the mover, step by step as `models/README.md` has it.

use uuid::Uuid;

use crate::{Database, Session, user};

/// Two nodes, and a session of the mover's to each.
pub struct Nodes {
    /// Where the accounts are.
    pub old: Database,
    /// Where they go.
    pub new: Database,
    /// Who moves them.
    pub mover: Mover,
}

/// The mover's sessions.
pub struct Mover {
    /// At the old node.
    pub old: Session,
    /// At the new one.
    pub new: Session,
}

/// What the nodes say of a bucket's accounts before the old one holds it.
pub struct Collected {
    accounts: String,
    /// Others may have come since this transaction.
    since: String,
}

impl Nodes {
    /// Two nodes, of which the second has none of these buckets.
    #[must_use]
    pub fn create(buckets: &[i32]) -> Self {
        Self::beside(Database::create(), buckets)
    }

    /// Two nodes, of which the first is this database, and the second has none of these buckets.
    ///
    /// # Panics
    /// If the second has disowned others.
    #[must_use]
    pub fn beside(old: Database, buckets: &[i32]) -> Self {
        let new = old.create_beside();
        let mut mover = Mover { old: old.connect(), new: new.connect() };
        mover.old.run("SELECT credits.set_node_number(0)");
        mover.new.run("SELECT credits.set_node_number(1)");
        let disowned: i32 = mover.new.value("SELECT credits.disown_buckets($1)", &[&buckets]);
        assert_eq!(usize::try_from(disowned).ok(), Some(buckets.len()));
        Self { old, new, mover }
    }
}

impl Mover {
    /// Has the new node expect the bucket. Returns from where on it lacks rows.
    pub fn expect(&mut self, bucket: i32) -> Option<String> {
        let ledger: String = self.old.value("SELECT credits.get_ledger()", &[]);
        self.new.value("SELECT credits.expect_bucket($1, $2)::text", &[&bucket, &ledger])
    }

    /// Copies what there is of the bucket's rows from this position on, for good. Returns how many were missing, and the next position.
    pub fn copy(&mut self, bucket: i32, from: Option<&str>) -> (i64, String) {
        let below: String = self.old.value("SELECT pg_snapshot_xmin(pg_current_snapshot())::text", &[]);
        let rows = self.rows(bucket, from, Some(&below));
        let received = self.new.value(
            "SELECT credits.receive_transactions($1, $2::text::jsonb, $3::text::xid8)",
            &[&bucket, &rows, &below],
        );
        (received, below)
    }

    /// What there is of the bucket's rows from the one position on, below the other.
    pub fn rows(&mut self, bucket: i32, from: Option<&str>, below: Option<&str>) -> String {
        self.old.value(
            "SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]')::text FROM credits.bucket_transactions($1, $2::text::xid8, $3::text::xid8) t",
            &[&bucket, &from, &below],
        )
    }

    /// Copies these rows to the new node. Returns how many it lacked.
    pub fn receive(&mut self, bucket: i32, rows: &str) -> i64 {
        self.new.value("SELECT credits.receive_transactions($1, $2::text::jsonb)", &[&bucket, &rows])
    }

    /// Collects the bucket's accounts.
    pub fn collect(&mut self, bucket: i32) -> Collected {
        let left: String = self.new.value("SELECT credits.bucket_accounts($1)::text", &[&bucket]);
        let row = self
            .old
            .query_one(
                "SELECT (credits.bucket_accounts($1) || $2::text::uuid[])::text, pg_snapshot_xmin(pg_current_snapshot())::text",
                &[&bucket, &left],
            )
            .unwrap();
        Collected { accounts: row.get(0), since: row.get(1) }
    }

    /// Copies the rest, and what else the new node must have; both are committed there. Returns the handover.
    ///
    /// # Panics
    /// If what was announced of an account is not in the handover.
    pub fn hand_over(&mut self, bucket: i32, from: Option<&str>, collected: &Collected) -> String {
        let rest = self.rows(bucket, from, None);
        self.receive(bucket, &rest);
        let handover = self.handover(bucket, collected);
        let left_out: Vec<String> = self.old.values(
            "SELECT a::text FROM jsonb_array_elements(credits.bucket_handover($1) -> 'accounts') a
             WHERE (a ->> 'is_positive' = 'true' OR a ->> 'thresholds' IS NOT NULL OR a ->> 'cap_ids' IS NOT NULL)
               AND NOT $2::text::jsonb -> 'accounts' @> jsonb_build_array(a)",
            &[&bucket, &handover],
        );
        assert_eq!(left_out, Vec::<String>::new());
        self.new
            .run(&format!("SELECT credits.receive_handover({bucket}, '{}')", handover.replace('\'', "''")));
        handover
    }

    /// What the new node must have, of the bucket that is held.
    pub fn handover(&mut self, bucket: i32, collected: &Collected) -> String {
        self.old.value(
            "SELECT credits.bucket_handover($1, $2::text::uuid[], $3::text::xid8)::text",
            &[&bucket, &collected.accounts, &collected.since],
        )
    }

    /// Has the new node take the bucket over. Returns whether it had not yet.
    pub fn activate(&mut self, bucket: i32, handover: &str) -> bool {
        self.new.value("SELECT credits.activate_bucket($1, $2::text::jsonb)", &[&bucket, &handover])
    }

    /// What the old node and the new one say of the bucket.
    pub fn state(&mut self, bucket: i32) -> [String; 2] {
        [&mut self.old, &mut self.new].map(|node| node.value("SELECT credits.bucket_state($1)", &[&bucket]))
    }

    /// All steps up to the commit point. Returns the handover.
    pub fn give_away(&mut self, bucket: i32) -> String {
        let collected = self.collect(bucket);
        self.give_away_collected(bucket, &collected)
    }

    /// All steps up to the commit point, but that the accounts were collected before. Returns the handover.
    pub fn give_away_collected(&mut self, bucket: i32, collected: &Collected) -> String {
        let from = self.expect(bucket);
        let (_, from) = self.copy(bucket, from.as_deref());
        self.old.run(&format!("SELECT credits.start_moving_bucket({bucket})"));
        let (_, from) = self.copy(bucket, Some(&from));
        self.old.run(&format!("BEGIN; SELECT credits.hold_bucket({bucket})"));
        self.hand_over(bucket, Some(&from), collected);
        let handover = self.old.value(
            "SELECT credits.give_away_bucket($1, NULL, $2::text::uuid[], $3::text::xid8)::text",
            &[&bucket, &collected.accounts, &collected.since],
        );
        self.old.run("COMMIT");
        handover
    }

    /// All steps.
    ///
    /// # Panics
    /// If the nodes do not say so afterwards.
    pub fn move_bucket(&mut self, bucket: i32) {
        let handover = self.give_away(bucket);
        assert_eq!(self.state(bucket), ["elsewhere", "arriving"]);
        assert!(self.activate(bucket, &handover));
        assert_eq!(self.state(bucket), ["elsewhere", "here"]);
    }
}

/// The bucket of a user.
pub fn bucket_of(session: &mut Session, user: Uuid) -> i32 {
    session.value("SELECT credits.bucket_of($1)", &[&user])
}

/// Accounts that share a bucket with the first one, itself included.
#[must_use]
pub fn accounts_of_a_bucket(count: usize) -> (i32, Vec<Uuid>) {
    let db = Database::create();
    let mut session = db.connect();
    let bucket = bucket_of(&mut session, user(1));
    let mut accounts = vec![user(1)];
    let mut number: i64 = 100;
    while accounts.len() < count {
        accounts.extend(session.values::<Uuid>(
            "SELECT u FROM (SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid AS u FROM generate_series($1::bigint, $1 + 9999) n) drawn
             WHERE credits.bucket_of(u) = $2",
            &[&number, &bucket],
        ));
        number += 10_000;
    }
    accounts.truncate(count);
    (bucket, accounts)
}
