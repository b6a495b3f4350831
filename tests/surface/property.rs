//! Random sessions against the model: after every few steps every function, with every combination of filters, must
//! answer what a naive ledger answers for the rows that the session sees.
//!
//! One thread steps all the sessions, so a seed repeats a run. `CREDITS_LEDGER_STEPS` asks for a longer one.

use std::time::{Duration, SystemTime};

use credits_ledger_tests::{Database, Decimal, Session, Uuid, asked_for, seed, user};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::calls::{Calls, Filters, Page, Transaction};
use crate::model::{Model, cut};

const STEPS: u32 = 1500;
const STEPS_BETWEEN_CHECKS: u32 = 30;
const SESSIONS: usize = 4;
const USERS: u32 = 3;
const TYPES: [&str; 4] = ["purchase", "admin_grant", "admin_removal", "usage"];
const WORDS: [&str; 6] = ["Request", "request 100%", "a_b", r"back\slash", "Batch job", ""];

/// A session, and what it must see.
struct Stepped {
    session: Session,
    /// Rows not committed yet, by savepoint; `None` outside of a transaction.
    pending: Option<Vec<Vec<Transaction>>>,
    /// What a REPEATABLE READ transaction has seen since it began.
    snapshot: Option<Model>,
}

struct World {
    random: StdRng,
    committed: Model,
    sources: u32,
}

impl World {
    fn row(&mut self) -> Transaction {
        let random = &mut self.random;
        let batch = random.random_bool(0.5);
        let kind = if batch { "usage" } else { TYPES.choose(random).unwrap() };
        self.sources += 1;
        let prefix = if random.random_ratio(1, 6) { "auto_topup_" } else { "autoXtopup_" };
        let words = WORDS.choose(random).map(|word| (*word).to_owned());
        Transaction {
            id: Uuid::from_u128(random.random()),
            user_id: user(random.random_range(0..USERS)),
            transaction_type: kind.to_owned(),
            amount: Decimal::new(random.random_range(1..1_000_000_000_000), random.random_range(6..=15)),
            source_id: format!("{prefix}{}", self.sources),
            description: if random.random_bool(0.2) { None } else { words },
            created_at: date(random),
            seq: 0,
            fusillade_batch_id: batch.then(|| Uuid::from_u128(random.random_range(0..12))),
            api_key_id: random.random_bool(0.3).then(|| Uuid::from_u128(7)),
        }
    }

    fn filters(&mut self, given: u32) -> Filters {
        let random = &mut self.random;
        let search = ["", "REQUEST", "%", "_", r"\", "bat", "batch", "batches", "00"].choose(random).unwrap();
        let types: &[&str] =
            [&[][..], &["usage"], &["purchase", "admin_grant"], &TYPES].choose(random).copied().unwrap();
        // Dates of rows, so that the bounds themselves are met.
        let dates: Vec<SystemTime> = self.committed.rows.iter().map(|row| row.created_at).collect();
        let mut bounds = [0; 2].map(|_| dates.choose(random).copied().unwrap_or(SystemTime::UNIX_EPOCH));
        bounds.sort();
        Filters {
            search: (given & 1 != 0).then(|| (*search).to_owned()),
            types: (given & 2 != 0).then(|| types.iter().map(|&name| name.to_owned()).collect()),
            start: (given & 4 != 0).then_some(bounds[0]),
            end: (given & 8 != 0).then_some(bounds[1]),
        }
    }

    fn page(&mut self) -> Page {
        let random = &mut self.random;
        let newest = self.committed.rows.iter().map(|row| row.seq).max().unwrap_or(0);
        Page {
            skip: if random.random_bool(0.5) { 0 } else { random.random_range(0..30) },
            limit: random.random_bool(0.8).then(|| random.random_range(0..40)),
            before_seq: random.random_bool(0.4).then(|| random.random_range(0..newest + 2)),
        }
    }
}

/// Of the last two months, near whole hours, so that rows share dates and seconds.
fn date(random: &mut StdRng) -> SystemTime {
    let hour = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() / 3600;
    let micros = [0, 499_999, 500_000, 999_999].choose(random).copied().unwrap_or_default();
    SystemTime::UNIX_EPOCH
        + Duration::from_secs((hour - random.random_range(0..24 * 60)) * 3600)
        + Duration::from_micros(micros)
}

const COLUMNS: &str = "id, user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id, created_at";

impl Stepped {
    fn new(session: Session) -> Self {
        Self { session, pending: None, snapshot: None }
    }

    fn step(&mut self, world: &mut World) {
        match world.random.random_range(0..100) {
            0..25 => self.insert(world, 1),
            25..40 => {
                let rows = world.random.random_range(2..8);
                self.insert(world, rows);
            }
            40..50 => self.copy(world),
            50..56 => self.create_transaction(world),
            56..62 => self.insert_again(world),
            62..70 => {
                let user = user(world.random.random_range(0..USERS));
                self.session.refresh(user);
            }
            70..80 if self.pending.is_none() => self.begin(world),
            80..86 if self.pending.is_some() => {
                self.session.run("SAVEPOINT s");
                self.pending.as_mut().expect("in a transaction").push(Vec::new());
            }
            86..90 => self.leave_savepoint(world),
            90..96 if self.pending.is_some() => {
                self.session.run("COMMIT");
                let rows = self.pending.take().expect("in a transaction").into_iter().flatten();
                world.committed.rows.extend(rows);
                self.snapshot = None;
            }
            96.. if self.pending.is_some() => {
                self.session.run("ROLLBACK");
                self.pending = None;
                self.snapshot = None;
            }
            _ => {}
        }
    }

    fn begin(&mut self, world: &mut World) {
        if world.random.random_bool(0.5) {
            self.session.run("BEGIN");
        } else {
            self.session.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
            // The first statement takes the snapshot.
            self.session.run("SELECT 1");
            self.snapshot = Some(world.committed.clone());
        }
        self.pending = Some(vec![Vec::new()]);
    }

    fn leave_savepoint(&mut self, world: &mut World) {
        let Some(frames) = self.pending.as_mut().filter(|frames| frames.len() > 1) else { return };
        let rows = frames.pop().expect("more than one");
        if world.random.random_bool(0.5) {
            self.session.run("RELEASE SAVEPOINT s");
            frames.last_mut().expect("more than one").extend(rows);
        } else {
            self.session.run("ROLLBACK TO SAVEPOINT s; RELEASE SAVEPOINT s");
        }
    }

    /// Takes over the rows just written, with the seq that the server gave them.
    fn wrote(&mut self, world: &mut World, mut rows: Vec<Transaction>) {
        let sql = "SELECT seq FROM credits.credits_transactions WHERE source_id = $1";
        for row in &mut rows {
            row.seq = self.session.value(sql, &[&row.source_id]);
        }
        match self.pending.as_mut().and_then(|frames| frames.last_mut()) {
            Some(frame) => frame.extend(rows),
            None => world.committed.rows.extend(rows),
        }
    }

    fn insert(&mut self, world: &mut World, count: usize) {
        let rows: Vec<Transaction> = (0..count).map(|_| world.row()).collect();
        let sql = format!(
            "INSERT INTO credits.credits_transactions ({COLUMNS})
             SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::numeric[], $5::text[], $6::text[], $7::uuid[],
                                  $8::uuid[], $9::timestamptz[])"
        );
        macro_rules! column {
            ($name:ident) => {
                &rows.iter().map(|row| row.$name.clone()).collect::<Vec<_>>()
            };
        }
        self.session
            .execute(
                &sql,
                &[
                    column!(id),
                    column!(user_id),
                    column!(transaction_type),
                    column!(amount),
                    column!(source_id),
                    column!(description),
                    column!(fusillade_batch_id),
                    column!(api_key_id),
                    column!(created_at),
                ],
            )
            .expect("insert");
        self.wrote(world, rows);
    }

    fn copy(&mut self, world: &mut World) {
        let rows: Vec<Transaction> = (0..world.random.random_range(1..10))
            .map(|_| Transaction { api_key_id: None, ..world.row() })
            .collect();
        let sql = "COPY credits.credits_transactions (id, user_id, transaction_type, amount, source_id, description,
                   fusillade_batch_id, created_at) FROM STDIN";
        let mut text = String::new();
        for row in &rows {
            let or_null = |text: Option<String>| text.unwrap_or_else(|| r"\N".into());
            text += &format!(
                "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
                row.id,
                row.user_id,
                row.transaction_type,
                row.amount,
                row.source_id,
                or_null(row.description.as_ref().map(|text| text.replace('\\', r"\\"))),
                or_null(row.fusillade_batch_id.map(|id| id.to_string())),
                timestamp_text(&mut self.session, row.created_at),
            );
        }
        let mut writer = self.session.copy_in(sql).expect("copy");
        std::io::Write::write_all(&mut writer, text.as_bytes()).expect("copy");
        writer.finish().expect("copy");
        self.wrote(world, rows);
    }

    fn create_transaction(&mut self, world: &mut World) {
        let row = world.row();
        let sql = "SELECT (t).* FROM credits.create_transaction($1, $2, $3, $4, $5, $6, $7) t";
        let parameters: [&(dyn postgres::types::ToSql + Sync); 7] = [
            &row.user_id,
            &row.transaction_type,
            &row.amount,
            &row.source_id,
            &row.description,
            &row.fusillade_batch_id,
            &row.api_key_id,
        ];
        let created = Transaction::from(&self.session.query_one(sql, &parameters).expect("create"));
        let expected =
            Transaction { id: created.id, created_at: created.created_at, seq: created.seq, ..row };
        assert_eq!(created, expected);
        self.wrote(world, vec![created]);
    }

    /// A source_id that is there already: nothing happens.
    fn insert_again(&mut self, world: &mut World) {
        let Some(row) = world.committed.rows.choose(&mut world.random) else { return };
        let sql = "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                   VALUES ($1, 'usage', 1, $2) ON CONFLICT (source_id) DO NOTHING";
        // Under REPEATABLE READ, a row that came after the snapshot is a serialization failure instead.
        if self.snapshot.is_none() {
            let inserted = self.session.execute(sql, &[&row.user_id, &row.source_id]).expect("insert");
            assert_eq!(inserted, 0);
        }
    }

    /// What this session sees.
    fn sees(&self, world: &World) -> Model {
        let mut model = self.snapshot.as_ref().unwrap_or(&world.committed).clone();
        model.rows.extend(self.pending.iter().flatten().flatten().cloned());
        model
    }

    fn check(&mut self, world: &mut World) {
        let model = self.sees(world);
        let session = &mut self.session;
        let user = user(world.random.random_range(0..=USERS));
        for given in 0..16 {
            let (filters, page) = (world.filters(given), world.page());
            let said = format!("{user} {filters:?} {page:?}");
            let rows = model.list(Some(user), &filters);
            assert_eq!(session.list_user(user, &filters, &page), cut(&rows, |row| row.seq, &page), "{said}");
            assert_eq!(session.count_user(user, &filters), length(&rows), "{said}");
            let rows = model.list(None, &filters);
            assert_eq!(session.list_all(&filters, &page), cut(&rows, |row| row.seq, &page), "{said}");
            assert_eq!(session.count_all(&filters), length(&rows), "{said}");
            let items = model.list_grouped(user, &filters);
            assert_eq!(
                session.list_grouped(user, &filters, &page),
                cut(&items, |item| item.seq, &page),
                "{said}"
            );
            assert_eq!(session.count_grouped(user, &filters), length(&items), "{said}");
            let count: u8 = world.random.random_range(0..40);
            let sum = session.sum_recent(user, i64::from(count), &filters);
            assert_eq!(sum, model.sum_recent(user, usize::from(count), &filters), "{count} {said}");
            let sum = session.sum_recent_grouped(user, i64::from(count), &filters);
            assert_eq!(sum, model.sum_recent_grouped(user, usize::from(count), &filters), "{count} {said}");
            let date = filters.start.unwrap_or_else(|| date(&mut world.random));
            assert_eq!(session.sum_after(user, date), model.sum_after(user, date), "{date:?}");
            assert_eq!(
                session.sum_after_grouped(user, date),
                model.sum_after_grouped(user, date),
                "{date:?}"
            );
        }
        let month = this_month(session);
        let totals = model.topups(&month);
        assert_eq!(session.topups(user), totals.get(&user).copied().unwrap_or_default());
        let mut users: Vec<Uuid> = (0..=USERS).map(credits_ledger_tests::user).collect();
        users.extend_from_within(..2);
        assert_eq!(session.topups_bulk(&users), totals.into_iter().collect::<Vec<_>>());
        assert_eq!(session.balance(user), model.sum_recent(user, usize::MAX, &Filters::default()));
        if let Some(row) = model.rows.choose(&mut world.random) {
            let sql = "SELECT * FROM credits.get_transaction_by_id($1)";
            let found = session.query(sql, &[&row.id]).expect("by id");
            assert_eq!(found.iter().map(Transaction::from).collect::<Vec<_>>(), std::slice::from_ref(row));
            let sql = "SELECT credits.transaction_exists_by_source_id($1)";
            assert!(session.value::<bool>(sql, &[&row.source_id]));
            assert!(!session.value::<bool>(sql, &[&format!("{}?", row.source_id)]));
        }
    }
}

fn length<T>(list: &[T]) -> i64 {
    i64::try_from(list.len()).expect("a few")
}

fn timestamp_text(session: &mut Session, date: SystemTime) -> String {
    session.value("SELECT $1::timestamptz::text", &[&date])
}

fn this_month(session: &mut Session) -> std::ops::Range<SystemTime> {
    let row = session
        .query_one(
            "SELECT m AT TIME ZONE 'UTC', (m + interval '1 month') AT TIME ZONE 'UTC'
             FROM date_trunc('month', now() AT TIME ZONE 'UTC') m",
            &[],
        )
        .expect("this month");
    row.get(0)..row.get(1)
}

#[test]
fn every_function_agrees_with_a_naive_ledger() {
    let steps = asked_for("CREDITS_LEDGER_STEPS", STEPS);
    let mut world = World { random: StdRng::seed_from_u64(seed()), committed: Model::default(), sources: 0 };
    let db = Database::create();
    // A short interval, so that most rows are folded and few are not.
    let mut sessions: Vec<Stepped> = (0..SESSIONS)
        .map(|_| {
            let mut session = db.connect();
            session.run("SET credits_ledger.checkpoint_interval = 20");
            Stepped::new(session)
        })
        .collect();
    for step in 1..=steps {
        let which = world.random.random_range(0..SESSIONS);
        sessions[which].step(&mut world);
        if step % STEPS_BETWEEN_CHECKS == 0 {
            let which = world.random.random_range(0..SESSIONS);
            sessions[which].check(&mut world);
        }
    }
    for stepped in &mut sessions {
        if stepped.pending.take().is_some() {
            stepped.session.run("ROLLBACK");
        }
        stepped.snapshot = None;
        stepped.check(&mut world);
    }
    let folded: i64 = sessions[0].session.value("SELECT count(*) FROM credits.batch_aggregates", &[]);
    assert!(folded > 0, "no batch was folded: the test has looked at deltas only");
    sessions[0].session.assert_sound();
}

/// Pages of a past period, from a history that is longer than what is looked through first, with rows dated back.
#[test]
fn pages_of_a_period_agree_with_plain_sql() {
    let mut random = StdRng::seed_from_u64(seed());
    let db = Database::create();
    let mut session = db.connect();
    session.execute("SELECT setseed($1)", &[&random.random_range(0.0..1.0)]).expect("seed");
    // One row in ten is dated up to a year back; what comes after the refresh is not folded.
    for refresh in [true, false] {
        session.run(&format!(
            "INSERT INTO credits.credits_transactions
                 (user_id, transaction_type, amount, source_id, fusillade_batch_id, created_at)
             SELECT '{}', 'usage', n, gen_random_uuid()::text,
                    CASE WHEN random() < 0.5 THEN ('{}' || to_char(n / 40, 'FM000'))::uuid END,
                    timestamptz '2026-01-01' + (n - CASE WHEN random() < 0.1 THEN 5000 * random() ELSE 0 END) * interval '2 hours'
             FROM generate_series(1, 4000) n",
            user(1),
            "00000000-0000-4000-8000-000000000"
        ));
        if refresh {
            session.refresh(user(1));
        }
    }
    session.run("ANALYZE credits.credits_transactions");
    let dates: Vec<SystemTime> =
        session.values("SELECT created_at FROM credits.credits_transactions ORDER BY created_at", &[]);
    let last: i64 = session.value("SELECT max(seq) FROM credits.credits_transactions", &[]);
    let rows = "SELECT seq, created_at FROM credits.credits_transactions";
    let items = "SELECT max(seq) AS seq, min(created_at) AS created_at FROM credits.credits_transactions
                 GROUP BY coalesce(fusillade_batch_id, id)";
    for _ in 0..300 {
        let mut bounds = [0; 2].map(|_| dates[random.random_range(0..dates.len())]);
        bounds.sort();
        let filters = Filters {
            start: random.random_bool(0.7).then_some(bounds[0]),
            end: random.random_bool(0.7).then_some(bounds[1]),
            ..Filters::default()
        };
        let page = Page {
            skip: random.random_range(0..100),
            limit: random.random_bool(0.9).then(|| random.random_range(0..200)),
            before_seq: random.random_bool(0.5).then(|| random.random_range(0..last)),
        };
        let mut plain = |source: &str| -> Vec<i64> {
            session.values(
                &format!(
                    "SELECT seq FROM ({source}) s WHERE ($1::timestamptz IS NULL OR created_at >= $1)
                     AND ($2::timestamptz IS NULL OR created_at <= $2) AND ($3::bigint IS NULL OR seq < $3)
                     ORDER BY seq DESC OFFSET $4 LIMIT $5"
                ),
                &[&filters.start, &filters.end, &page.before_seq, &page.skip, &page.limit],
            )
        };
        let (expected_rows, expected_items) = (plain(rows), plain(items));
        let listed = session.list_user(user(1), &filters, &page);
        assert_eq!(
            listed.iter().map(|row| row.seq).collect::<Vec<_>>(),
            expected_rows,
            "{filters:?} {page:?}"
        );
        let listed = session.list_all(&filters, &page);
        assert_eq!(
            listed.iter().map(|row| row.seq).collect::<Vec<_>>(),
            expected_rows,
            "{filters:?} {page:?}"
        );
        let listed = session.list_grouped(user(1), &filters, &page);
        assert_eq!(
            listed.iter().map(|item| item.seq).collect::<Vec<_>>(),
            expected_items,
            "{filters:?} {page:?}"
        );
    }
}
