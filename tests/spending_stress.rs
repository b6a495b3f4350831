//! Clients at once against limits: exactly as many holds and charges are admitted as fit, whoever rolls back, releases, retries
//! or is killed.
//!
//! `CREDITS_LEDGER_STRESS_FILLS` sets how often accounts are filled up, for hours of it. A seed repeats what the clients
//! try; what the server makes of it depends on the moment.

use std::collections::HashMap;
use std::thread;

use credits_ledger_tests::{
    Database, Decimal, Outcome, Racer, Refused, Session, Uuid, asked_for, seed, stripe_of,
};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

const CLIENTS: usize = 8;

fn fills() -> u32 {
    asked_for("CREDITS_LEDGER_STRESS_FILLS", 20)
}

/// Whether what was taken may be given back: then an account may have room again after a client was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    TakeOnly,
    GiveBack,
}

/// Accounts with some room each, of which two share a stripe. Some may overdraw; one has nothing, and another is not there.
fn accounts(session: &mut Session, random: &mut StdRng) -> Vec<Uuid> {
    let mut of_stripe = |stripe: Option<u8>| loop {
        let account = Uuid::from_u128(random.random());
        if stripe.is_none_or(|stripe| stripe_of(account) == stripe) {
            return account;
        }
    };
    let first = of_stripe(None);
    let accounts = vec![first, of_stripe(Some(stripe_of(first))), of_stripe(None)];
    for account in &accounts {
        let (balance, overdraft) = (random.random_range(0..150), random.random_range(0..100));
        if balance > 0 {
            session.grant(*account, balance.into());
        }
        if random.random_bool(0.7) {
            session.run(&format!(
                "INSERT INTO credits.spending_limits (user_id, overdraft_limit, thresholds)
                 VALUES ('{account}', {overdraft}, '{{-10, 20}}')"
            ));
        }
    }
    accounts
}

/// What a client tries in one transaction, statement by statement.
fn attempt(random: &mut StdRng, accounts: &[Uuid], kind: Kind, name: &str) -> Vec<String> {
    let isolation =
        ["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"].choose(random).unwrap();
    let mut statements = vec![format!("BEGIN ISOLATION LEVEL {isolation}")];
    let mut order = accounts.to_vec();
    order.shuffle(random);
    order.truncate(random.random_range(1..=3));
    for (number, account) in order.iter().enumerate() {
        let (amount, source) = (random.random_range(1..=5), format!("{name}-{number}"));
        let hold = format!("SELECT credits.create_hold('{account}', {amount}, '{source}')");
        let charge = format!("SELECT credits.charge('{account}', {amount}, '{source}')");
        let (capture, release) = (
            format!("SELECT credits.capture_hold('{source}')"),
            format!("SELECT credits.release_hold('{source}')"),
        );
        match random.random_range(0..12) {
            0..3 => statements.push(hold),
            3 => statements.extend([hold, capture]),
            4 => statements.extend([hold.clone(), release, hold]),
            5 => statements.extend([hold, format!("SELECT credits.extend_hold('{source}', '2 hours')")]),
            6 => statements.extend(["SAVEPOINT s".to_owned(), hold, "ROLLBACK TO s".to_owned(), charge]),
            7 => statements.extend(["SAVEPOINT s".to_owned(), charge, "RELEASE s".to_owned()]),
            // A retry records nothing, and is refused as little as the first was.
            8 => statements.extend([charge.clone(), charge]),
            _ => statements.push(charge),
        }
    }
    if random.random_bool(0.3) {
        // Of holds that have committed: their amounts stay taken, or some of them come back.
        let held =
            "SELECT source_id, amount FROM credits.holds ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED";
        statements.push(match (kind, random.random_range(0..3)) {
            (Kind::GiveBack, 0) => {
                format!("SELECT credits.capture_hold(source_id, ceil(amount / 2)) FROM ({held}) h")
            }
            (Kind::GiveBack, 1) => format!("SELECT credits.release_hold(source_id) FROM ({held}) h"),
            _ => format!("SELECT credits.capture_hold(source_id) FROM ({held}) h"),
        });
    }
    statements.push(if random.random_bool(0.8) { "COMMIT" } else { "ROLLBACK" }.to_owned());
    statements
}

struct Client<'a> {
    racer: Racer<'a>,
    random: StdRng,
    accounts: &'a [Uuid],
    kind: Kind,
    name: String,
}

impl Client<'_> {
    /// Takes until something is refused; then what is left of each account, in pieces of 1.
    fn fill(mut self, kills: bool) {
        for number in 0.. {
            let statements =
                attempt(&mut self.random, self.accounts, self.kind, &format!("{}-{number}", self.name));
            if self.racer.perform(&statements) == Outcome::Refused {
                break;
            }
            if kills && self.random.random_bool(0.05) {
                self.racer.kill_one();
            }
            // Only sessions in the middle of filling are killed.
            self.racer.allow_killing();
        }
        // What is refused from here on is the last that this client has asked for.
        self.racer.forbid_killing();
        for account in self.accounts {
            while self.take_one(*account) {}
        }
    }

    /// Whether it was admitted, or has to be tried again.
    fn take_one(&mut self, account: Uuid) -> bool {
        let source = format!("{}-{:x}", self.name, self.random.random::<u64>());
        let statement = if self.random.random() {
            format!("SELECT credits.create_hold('{account}', 1, '{source}')")
        } else {
            format!("SELECT credits.charge('{account}', 1, '{source}')")
        };
        self.racer.perform(&[statement]) != Outcome::Refused
    }
}

/// How much can be taken of each account, by plain SQL.
fn room(session: &mut Session, accounts: &[Uuid]) -> HashMap<Uuid, Decimal> {
    let rows = session
        .query(
            "SELECT a, coalesce((SELECT sum(CASE WHEN transaction_type IN ('purchase', 'admin_grant') THEN amount ELSE -amount END)
                                 FROM credits.credits_transactions WHERE user_id = a), 0)
                       - coalesce((SELECT sum(amount) FROM credits.holds WHERE user_id = a AND expires_at > now()), 0)
                       + coalesce((SELECT overdraft_limit FROM credits.spending_limits WHERE user_id = a), 0),
                    credits.get_available_balance(a)
                       + coalesce((SELECT overdraft_limit FROM credits.spending_limits WHERE user_id = a), 0)
             FROM unnest($1::uuid[]) a",
            &[&accounts],
        )
        .unwrap();
    rows.iter()
        .map(|row| {
            let (account, room, answered): (Uuid, Decimal, Decimal) = (row.get(0), row.get(1), row.get(2));
            assert_eq!(answered, room, "get_available_balance of {account}");
            (account, room)
        })
        .collect()
}

/// Alone, a client is refused exactly where an amount does not fit.
fn fill_alone(session: &mut Session, random: &mut StdRng, accounts: &[Uuid], name: &str) {
    let rooms = room(session, accounts);
    for (account, mut room) in rooms {
        assert!(room >= Decimal::ZERO, "{account} was taken below its limit: {room}");
        for number in 0.. {
            let amount = Decimal::from(random.random_range(1..=7));
            let what = ["charge", "create_hold"].choose(random).unwrap();
            let result = session.try_run(&format!(
                "SELECT credits.{what}('{account}', {amount}, '{name}-{account}-{number}')"
            ));
            if amount <= room {
                result.unwrap_or_else(|error| panic!("{amount} of {room}: {error:?}"));
                room -= amount;
            } else {
                result.refused("LC001");
            }
            if room == Decimal::ZERO {
                break;
            }
        }
    }
}

#[test]
fn exactly_as_many_are_admitted_as_fit() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let db = Database::create();
    let mut observer = db.connect();
    for fill in 0..fills() {
        let kind = if fill % 2 == 0 { Kind::TakeOnly } else { Kind::GiveBack };
        let kills = fill % 4 >= 2;
        let accounts = accounts(&mut observer, &mut random);
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let client = Client {
                    racer: Racer::new(&db, "LC001"),
                    random: StdRng::seed_from_u64(random.random()),
                    accounts: &accounts,
                    kind,
                    name: format!("fill-{fill}-{client}"),
                };
                scope.spawn(move || client.fill(kills));
            }
        });
        let rooms = room(&mut observer, &accounts);
        let at = format!("fill {fill} ({kind:?}) of CREDITS_LEDGER_SEED={seed}");
        assert!(
            rooms.values().all(|room| *room >= Decimal::ZERO),
            "more was taken than fits in {at}: {rooms:?}"
        );
        if kind == Kind::TakeOnly {
            assert!(rooms.values().all(Decimal::is_zero), "refused, and fits, in {at}: {rooms:?}");
        }
        fill_alone(&mut observer, &mut random, &accounts, &format!("alone-{fill}"));
        observer.assert_sound();
    }
}
