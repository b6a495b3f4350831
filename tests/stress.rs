//! Writers at once on users near zero, then a look at the ledger at rest: no crossing missed, none announced twice.
//!
//! `CREDITS_LEDGER_STRESS_ROUNDS` sets the number of rounds, for hours of them. A seed repeats what the writers do; what
//! the server makes of it depends on the moment.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use credits_ledger_tests::{
    Database, Decimal, Direction, Listener, Session, Uuid, asked_for, seed, stripe_of,
};
use postgres::Error;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

const WRITERS: usize = 8;

/// Rounds that the same users go through, before new ones take their place: the way of a new user is stressed as well.
const ROUNDS_PER_USERS: u32 = 25;

fn rounds() -> u32 {
    asked_for("CREDITS_LEDGER_STRESS_ROUNDS", 2000)
}

/// What one writer does in a round: a transaction, statement by statement.
struct Work {
    begin: String,
    statements: Vec<String>,
    commits: bool,
}

/// Users of two stripes: most share one, where they meet each other's locks.
fn users(random: &mut StdRng) -> Vec<Uuid> {
    let mut of_stripe = |stripe: Option<u8>| loop {
        let user = Uuid::from_u128(random.random());
        if stripe.is_none_or(|stripe| stripe_of(user) == stripe) {
            return user;
        }
    };
    let first = of_stripe(None);
    let stripe = stripe_of(first);
    vec![first, of_stripe(Some(stripe)), of_stripe(Some(stripe)), of_stripe(None)]
}

/// Values of a row that moves a user towards zero or past it.
fn row(random: &mut StdRng, user: Uuid, balance: Decimal) -> String {
    let far = balance.abs() > Decimal::from(12);
    let up = if far { balance < Decimal::ZERO } else { random.random() };
    let kind =
        *if up { ["purchase", "admin_grant"] } else { ["usage", "admin_removal"] }.choose(random).unwrap();
    let batch =
        if kind == "usage" && random.random_bool(0.5) { format!("'{user}'") } else { "NULL".to_owned() };
    let amount = random.random_range(1..=6);
    format!("('{user}', '{kind}', {amount}, gen_random_uuid()::text, {batch})")
}

fn insert(rows: &[String]) -> String {
    format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
         VALUES {}",
        rows.join(", ")
    )
}

fn work(random: &mut StdRng, users: &[Uuid], balances: &HashMap<Uuid, Decimal>) -> Work {
    let isolation =
        ["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"].choose(random).unwrap();
    let mut order = users.to_vec();
    order.shuffle(random);
    order.truncate(random.random_range(1..=3));
    let rows: Vec<String> = order
        .iter()
        .map(|user| row(random, *user, balances.get(user).copied().unwrap_or_default()))
        .collect();
    let mut statements = Vec::new();
    if random.random_bool(0.3) {
        statements.push(insert(&rows));
    } else {
        for row in rows {
            match random.random_range(0..10) {
                0..2 => statements.extend(["SAVEPOINT s".to_owned(), insert(&[row]), "RELEASE s".to_owned()]),
                2..4 => {
                    statements.extend(["SAVEPOINT s".to_owned(), insert(&[row]), "ROLLBACK TO s".to_owned()])
                }
                _ => statements.push(insert(&[row])),
            }
            if random.random_bool(0.3) {
                statements.push(format!("SELECT pg_sleep({})", random.random_range(0.0..0.002)));
            }
        }
    }
    if random.random_bool(0.1) {
        statements.push(format!("SELECT credits.refresh_checkpoint('{}')", order[0]));
    }
    Work {
        begin: format!("BEGIN ISOLATION LEVEL {isolation}"),
        statements,
        commits: random.random_bool(0.85),
    }
}

fn attempt(session: &mut Session, work: &Work) -> Result<(), Error> {
    session.try_run(&work.begin)?;
    for statement in &work.statements {
        session.try_run(statement)?;
    }
    session.try_run(if work.commits { "COMMIT" } else { "ROLLBACK" })
}

/// Does the work, again and again if it is told to retry. Nothing else may be refused, a deadlock least of all.
fn perform(session: &mut Session, work: &Work) {
    while let Err(error) = attempt(session, work) {
        assert_eq!(error.code().map(|code| code.code()), Some("40001"), "{error:?}");
        session.run("ROLLBACK");
    }
}

/// What is stored about a user.
struct State {
    balance: Decimal,
    sum: Decimal,
    is_positive: bool,
}

fn states(session: &mut Session, users: &[Uuid]) -> HashMap<Uuid, State> {
    let rows = session
        .query(
            "SELECT user_id, credits.get_user_balance(user_id), is_positive,
                    (SELECT coalesce(sum(CASE WHEN transaction_type IN ('purchase', 'admin_grant') THEN amount ELSE -amount END), 0)
                     FROM credits.credits_transactions t WHERE t.user_id = c.user_id)
             FROM credits.user_balance_checkpoints c WHERE user_id = ANY ($1)",
            &[&users],
        )
        .unwrap();
    rows.iter()
        .map(|row| (row.get(0), State { balance: row.get(1), is_positive: row.get(2), sum: row.get(3) }))
        .collect()
}

/// The side of zero that each user was last announced on.
#[derive(Default)]
struct Announced(HashMap<Uuid, Direction>);

impl Announced {
    /// Takes in the notifications of a round: the directions of a user alternate, and the first is up.
    fn follow(&mut self, listener: &mut Listener) {
        for (user, direction) in listener.crossings() {
            let before = self.0.insert(user, direction).unwrap_or(Direction::Down);
            assert_ne!(before, direction, "user {user} was announced twice on the same side");
        }
    }

    fn is_positive(&self, user: &Uuid) -> bool {
        self.0.get(user) == Some(&Direction::Up)
    }
}

/// Writers that each do one piece of work when told, in threads of their own.
struct Writers {
    orders: Vec<Sender<Work>>,
    done: Receiver<()>,
}

impl Writers {
    fn start(db: &Database) -> Self {
        let (report, done) = channel();
        let orders = (0..WRITERS)
            .map(|_| {
                let (order, orders) = channel::<Work>();
                let (mut session, report) = (db.connect(), report.clone());
                thread::spawn(move || {
                    for work in orders {
                        perform(&mut session, &work);
                        report.send(()).expect("the test waits for the writers");
                    }
                });
                order
            })
            .collect();
        Self { orders, done }
    }

    fn perform(&self, work: impl Iterator<Item = Work>) {
        for (order, work) in self.orders.iter().zip(work) {
            order.send(work).expect("the writers live");
        }
        for _ in &self.orders {
            self.done
                .recv_timeout(credits_ledger_tests::database::PATIENCE)
                .expect("every writer comes to an end");
        }
    }
}

#[test]
fn no_crossing_is_missed_and_none_is_announced_twice() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let db = Database::create();
    let mut observer = db.connect();
    let mut listener = db.listen();
    let mut announced = Announced::default();
    let mut writers = Writers::start(&db);
    let (mut current, mut balances) = (Vec::new(), HashMap::new());
    for round in 0..rounds() {
        if round % ROUNDS_PER_USERS == 0 {
            current = users(&mut random);
            balances.clear();
            // New sessions remember nothing of anyone.
            writers = Writers::start(&db);
        }
        writers.perform(
            (0..WRITERS).map(|_| work(&mut random, &current, &balances)).collect::<Vec<_>>().into_iter(),
        );
        announced.follow(&mut listener);
        for (user, state) in states(&mut observer, &current) {
            let at = format!("user {user} after round {round} of CREDITS_LEDGER_SEED={seed}");
            assert_eq!(state.balance, state.sum, "balance of {at}");
            assert_eq!(
                state.is_positive,
                state.sum > Decimal::ZERO,
                "stored state of {at}, whose balance is {}",
                state.sum
            );
            assert_eq!(announced.is_positive(&user), state.is_positive, "last notification of {at}");
            balances.insert(user, state.sum);
        }
        if round % 100 == 99 {
            observer.assert_sound();
        }
    }
    observer.assert_sound();
}
