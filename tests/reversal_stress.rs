//! Clients at once that take the same transactions back: all reversals together never exceed one, and none is refused that fits,
//! whoever rolls back, retries or is killed.
//!
//! `CREDITS_LEDGER_STRESS_REVERSALS` sets how often transactions are taken back, for hours of it.

use std::thread;

use credits_ledger_tests::{
    Database, Decimal, Outcome, Racer, Refused, Session, Uuid, asked_for, seed, stripe_of,
};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

const CLIENTS: usize = 8;

fn rounds() -> u32 {
    asked_for("CREDITS_LEDGER_STRESS_REVERSALS", 20)
}

/// A transaction to take back.
struct Original {
    id: Uuid,
    account: Uuid,
    opposite: &'static str,
}

/// Some of one account, others of its stripe and of another one, of all types.
fn originals(session: &mut Session, random: &mut StdRng) -> Vec<Original> {
    let mut account = |is_wanted: &dyn Fn(u8) -> bool| loop {
        let account = Uuid::from_u128(random.random());
        if is_wanted(stripe_of(account)) {
            return account;
        }
    };
    let first = account(&|_| true);
    let beside = account(&|stripe| stripe == stripe_of(first));
    let other = account(&|stripe| stripe != stripe_of(first));
    let kinds = [
        ("purchase", "admin_removal"),
        ("usage", "admin_grant"),
        ("admin_removal", "admin_grant"),
        ("admin_grant", "admin_removal"),
    ];
    [first, first, beside, other]
        .into_iter()
        .zip(kinds)
        .map(|(account, (kind, opposite))| {
            let (id, amount) = (Uuid::from_u128(random.random()), Decimal::from(random.random_range(10..60)));
            session
                .execute(
                    "INSERT INTO credits.credits_transactions (id, user_id, transaction_type, amount, source_id)
                     VALUES ($1::uuid, $2, $3, $4, $1::text)",
                    &[&id, &account, &kind, &amount],
                )
                .unwrap();
            Original { id, account, opposite }
        })
        .collect()
}

impl Original {
    fn call(&self, source: &str, amount: u32) -> String {
        format!("SELECT credits.reverse_transaction('{}', '{source}', {amount})", self.id)
    }

    /// By hand: only the commit checks it.
    fn insert(&self, source: &str, amount: u32) -> String {
        format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, reverses)
             VALUES ('{}', '{}', {amount}, '{source}', '{}')",
            self.account, self.opposite, self.id
        )
    }
}

/// What a client tries in one transaction, statement by statement.
fn attempt(random: &mut StdRng, originals: &[Original], name: &str) -> Vec<String> {
    let isolation =
        ["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"].choose(random).unwrap();
    let mut statements = vec![format!("BEGIN ISOLATION LEVEL {isolation}")];
    let mut order: Vec<&Original> = originals.iter().collect();
    order.shuffle(random);
    order.truncate(random.random_range(1..=3));
    for (number, original) in order.into_iter().enumerate() {
        let (amount, source) = (random.random_range(1..=4), format!("{name}-{number}"));
        let (call, insert) = (original.call(&source, amount), original.insert(&source, amount));
        match random.random_range(0..8) {
            0..2 => statements.push(call),
            2..4 => statements.push(insert),
            4 => statements.extend(["SAVEPOINT s".to_owned(), insert, "ROLLBACK TO s".to_owned(), call]),
            5 => statements.extend(["SAVEPOINT s".to_owned(), call, "ROLLBACK TO s".to_owned(), insert]),
            // A retry records nothing.
            6 => statements.extend([call.clone(), call]),
            // More than there is: it is refused, and the transaction goes on without it.
            _ => statements.extend([
                format!(
                    "DO $$ BEGIN PERFORM credits.reverse_transaction('{}', '{source}-x', 100);
                     EXCEPTION WHEN check_violation THEN END $$",
                    original.id
                ),
                call,
            ]),
        }
    }
    statements.push(if random.random_bool(0.8) { "COMMIT" } else { "ROLLBACK" }.to_owned());
    statements
}

/// Takes back until something is refused; then what is left of each transaction, in pieces of 1.
fn take_back(mut racer: Racer<'_>, mut random: StdRng, originals: &[Original], name: &str, kills: bool) {
    for number in 0.. {
        let statements = attempt(&mut random, originals, &format!("{name}-{number}"));
        if racer.perform(&statements) == Outcome::Refused {
            break;
        }
        if kills && random.random_bool(0.1) {
            racer.kill_one();
        }
        racer.allow_killing();
    }
    racer.forbid_killing();
    for original in originals {
        loop {
            let source = format!("{name}-{:x}", random.random::<u64>());
            let statement =
                if random.random() { original.call(&source, 1) } else { original.insert(&source, 1) };
            if racer.perform(&[statement]) == Outcome::Refused {
                break;
            }
        }
    }
}

/// What is left of a transaction, by plain SQL.
fn left(session: &mut Session, original: &Original) -> Decimal {
    session.value(
        "SELECT o.amount - coalesce((SELECT sum(r.amount) FROM credits.credits_transactions r WHERE r.reverses = o.id), 0)
         FROM credits.credits_transactions o WHERE o.id = $1",
        &[&original.id],
    )
}

#[test]
fn exactly_what_there_was_is_taken_back() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let db = Database::create();
    let mut observer = db.connect();
    for round in 0..rounds() {
        let originals = originals(&mut observer, &mut random);
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (racer, random) = (Racer::new(&db, "23514"), StdRng::seed_from_u64(random.random()));
                let originals = &originals;
                scope.spawn(move || {
                    take_back(racer, random, originals, &format!("{round}-{client}"), round % 2 == 1);
                });
            }
        });
        for original in &originals {
            let left = left(&mut observer, original);
            assert_eq!(left, Decimal::ZERO, "left of {} in round {round} of {seed}", original.id);
            let error = observer.try_run(&original.call("one more", 1)).refused("23514");
            assert!(error.message().contains("0 is left"), "{}", error.message());
        }
        observer.assert_sound();
    }
}
