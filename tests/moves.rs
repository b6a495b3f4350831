//! A bucket of accounts moves from one node to another while it is charged: what the nodes do. The mover stands here, step by step as
//! `models/README.md` has it.

use credits_ledger_tests::contents::USERS;
use credits_ledger_tests::{Database, Direction, Refused, Session, Uuid, dec, user};

/// Two nodes, and a session of the mover's to each.
pub struct Nodes {
    /// Where the accounts are.
    pub old: Database,
    pub new: Database,
    pub mover: Mover,
}

/// The mover's sessions.
pub struct Mover {
    pub old: Session,
    pub new: Session,
}

impl Nodes {
    /// The second node has none of these buckets.
    pub fn create(buckets: &[i32]) -> Self {
        let old = Database::create();
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

    fn rows(&mut self, bucket: i32, from: Option<&str>, below: Option<&str>) -> String {
        self.old.value(
            "SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]')::text FROM credits.bucket_transactions($1, $2::text::xid8, $3::text::xid8) t",
            &[&bucket, &from, &below],
        )
    }

    /// Copies the rest, and what else the new node must have; both are committed there. Returns the handover.
    pub fn hand_over(&mut self, bucket: i32, from: Option<&str>) -> String {
        let rest = self.rows(bucket, from, None);
        self.new.value::<i64>("SELECT credits.receive_transactions($1, $2::text::jsonb)", &[&bucket, &rest]);
        let handover: String = self.old.value("SELECT credits.bucket_handover($1)::text", &[&bucket]);
        self.new
            .run(&format!("SELECT credits.receive_handover({bucket}, '{}')", handover.replace('\'', "''")));
        handover
    }

    pub fn activate(&mut self, bucket: i32, handover: &str) -> bool {
        self.new.value("SELECT credits.activate_bucket($1, $2::text::jsonb)", &[&bucket, &handover])
    }

    fn state(&mut self, bucket: i32) -> [String; 2] {
        [&mut self.old, &mut self.new].map(|node| node.value("SELECT credits.bucket_state($1)", &[&bucket]))
    }

    /// All steps up to the commit point.
    fn give_away(&mut self, bucket: i32) -> String {
        let from = self.expect(bucket);
        let (_, from) = self.copy(bucket, from.as_deref());
        self.old.run(&format!("SELECT credits.start_moving_bucket({bucket})"));
        let (_, from) = self.copy(bucket, Some(&from));
        self.old.run(&format!("BEGIN; SELECT credits.hold_bucket({bucket})"));
        let handover = self.hand_over(bucket, Some(&from));
        self.old.run(&format!("SELECT credits.give_away_bucket({bucket}); COMMIT"));
        handover
    }

    pub fn move_bucket(&mut self, bucket: i32) {
        let handover = self.give_away(bucket);
        assert_eq!(self.state(bucket), ["elsewhere", "arriving"]);
        assert!(self.activate(bucket, &handover));
        assert_eq!(self.state(bucket), ["elsewhere", "here"]);
    }
}

fn bucket_of(session: &mut Session, user: Uuid) -> i32 {
    session.value("SELECT credits.bucket_of($1)", &[&user])
}

/// The buckets of the users of a history, and of one without rows.
fn buckets() -> Vec<i32> {
    let db = Database::create();
    let mut session = db.connect();
    let mut buckets: Vec<i32> = (0..=USERS).map(|number| bucket_of(&mut session, user(number))).collect();
    buckets.sort_unstable();
    buckets.dedup();
    buckets
}

#[test]
fn a_bucket_moves_with_all_that_its_accounts_have() {
    let buckets = buckets();
    let mut nodes = Nodes::create(&buckets);
    let mut admin = nodes.old.connect();
    admin.record_history();
    admin.record_holds_and_limits();
    let (contents, boundaries) = (admin.contents(), admin.holds_and_limits());
    let announced = "SELECT string_agg(format('%s %s %s %s %s %s %s', user_id, is_positive, crossed_at, thresholds, thresholds_below, cap_ids, caps_reached_until), ', ' ORDER BY user_id)
                     FROM credits.user_balance_checkpoints";
    let levels: String = admin.value(announced, &[]);
    let mut listeners = [nodes.old.listen(), nodes.new.listen()];
    for &bucket in &buckets {
        nodes.mover.move_bucket(bucket);
    }
    let mut moved = nodes.new.connect();
    assert_eq!(moved.contents(), contents);
    assert_eq!(moved.holds_and_limits(), boundaries);
    assert_eq!(moved.value::<String>(announced, &[]), levels);
    for listener in &mut listeners {
        assert_eq!(listener.drain(), []);
    }
    moved.assert_sound();
    moved.assert_as_made();
    admin.assert_as_made();
    assert_eq!(admin.holds_and_limits(), Vec::<String>::new());
    for bucket in buckets {
        let digest = "SELECT format('%s', d) FROM credits.bucket_digest($1) d";
        let [kept, here] =
            [&mut admin, &mut moved].map(|session| session.value::<String>(digest, &[&bucket]));
        assert_eq!(kept, here);
    }
    // Both nodes go on.
    moved.grant(user(4), dec!(2000));
    admin
        .try_run(&format!("SELECT credits.create_transaction('{}', 'usage', 1, 'late')", user(4)))
        .refused("LC003");
    assert_eq!(listeners[1].crossings(), [(user(4), Direction::Up)]);
    assert_eq!(listeners[0].drain(), []);
    moved.assert_sound();
}
