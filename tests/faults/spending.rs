//! Holds, charges and plain usage at once, whose commits are then gone through in their order by [`audit`]: nobody who must be
//! covered commits below a limit, and each crossing is heard once, whoever changes boundaries, prepares, or is killed.
//!
//! `CREDITS_LEDGER_SPENDING_ROUNDS` asks for more. A seed repeats what the clients do; what the server makes of it depends on
//! the moment.
//!
//! [`audit`]: super::audit

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::thread;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::listener::CROSSING_CHANNEL;
use credits_ledger_tests::{
    Database, Decimal, Listener, Refused, Session, Shutdown, Uuid, asked_for, seed, user,
};
use postgres::Error;
use postgres::types::PgLsn;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use super::audit::{self, Accounts, Commit, Crossed, Moment, moment};

const CLIENTS: u32 = 6;
const USERS: u32 = 4;
const TRANSACTIONS: u32 = 50;

/// Everything that commits is decoded, and an acknowledged commit is in the log.
const SETTINGS: &str = "\
wal_level = logical
synchronous_commit = local
synchronous_standby_names = ''
credits_ledger.checkpoint_interval = 4
";

fn rounds() -> u32 {
    asked_for("CREDITS_LEDGER_SPENDING_ROUNDS", 6)
}

/// What a round adds to clients that hold, charge, capture, release and extend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing that may take an account below its limit.
    Strict,
    /// Plain usage, removals, and captures of more than was held.
    Plain,
    /// Sessions are terminated in the middle of something.
    Terminated,
    /// And transactions that are prepared.
    Prepared,
    /// The server is killed in the middle of it.
    Crashed,
}

const KINDS: [Kind; 6] =
    [Kind::Strict, Kind::Plain, Kind::Terminated, Kind::Strict, Kind::Prepared, Kind::Crashed];

impl Kind {
    const fn has_plain_usage(self) -> bool {
        !matches!(self, Self::Strict)
    }

    /// Whether clients end between a hold and its capture: then all holds are short.
    const fn kills(self) -> bool {
        matches!(self, Self::Terminated | Self::Crashed)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Commit,
    Rollback,
    Prepare,
}

/// A transaction of a client.
#[derive(Debug)]
struct Work {
    statements: Vec<String>,
    /// Accounts for which a hold that it made or a charge stands at its commit.
    guarded: Vec<Uuid>,
    /// Holds of others that it extends.
    extended: Vec<String>,
    end: End,
}

fn plain(random: &mut StdRng, user: Uuid, source: &str, kinds: &[&str]) -> String {
    let kind = kinds.choose(random).unwrap();
    let amount = random.random_range(1..=9);
    format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         VALUES ('{user}', '{kind}', {amount}, '{source}')"
    )
}

/// Another set of boundaries. Only accounts that have some already, lest two insert the same row and wait for each other.
fn boundaries(random: &mut StdRng, user: Uuid) -> String {
    let mut thresholds: Vec<i32> = vec![-40, -10, -3, 2, 5, 11, 30, 60];
    thresholds.shuffle(random);
    thresholds.truncate(random.random_range(0..6));
    let limit = ["0", "5", "25", "NULL"].choose(random).unwrap();
    format!(
        "UPDATE credits.spending_limits SET thresholds = '{{{}}}', overdraft_limit = {limit} WHERE user_id = '{user}'",
        thresholds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    )
}

fn work(random: &mut StdRng, kind: Kind, name: &str, held: &[String]) -> Work {
    let isolation =
        ["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"].choose(random).unwrap();
    let end = match random.random_range(0..10) {
        0 => End::Rollback,
        1..5 if kind == Kind::Prepared => End::Prepare,
        _ => End::Commit,
    };
    let mut work = Work {
        statements: vec![format!("BEGIN ISOLATION LEVEL {isolation}")],
        guarded: Vec::new(),
        extended: Vec::new(),
        end,
    };
    let mut order: Vec<Uuid> = (0..USERS).map(user).collect();
    order.shuffle(random);
    order.truncate(random.random_range(1..=3));
    for (number, user) in order.into_iter().enumerate() {
        step(random, kind, user, &format!("{name}-{number}"), &mut work);
    }
    // One lock at most that others wait for before they commit: else clients could wait for each other, by their own fault.
    if random.random_bool(0.4) {
        if let Some(source) = held.choose(random).filter(|_| random.random_bool(0.85)) {
            others_hold(random, kind, source, &mut work);
        } else if end != End::Prepare {
            let account = user(random.random_range(1..USERS));
            let change = boundaries(random, account);
            work.statements.push(change);
        }
    }
    work
}

/// What a transaction does for one account.
fn step(random: &mut StdRng, kind: Kind, user: Uuid, source: &str, work: &mut Work) {
    let amount = random.random_range(1..=6);
    let expires_in = if kind.kills() || random.random_bool(0.3) { "60 milliseconds" } else { "1 hour" };
    let hold = format!("SELECT credits.create_hold('{user}', {amount}, '{source}', '{expires_in}')");
    let charge = format!("SELECT credits.charge('{user}', {amount}, '{source}')");
    let grant = plain(random, user, source, &["purchase", "admin_grant"]);
    let savepoint = |statement, end: &str| ["SAVEPOINT s".to_owned(), statement, end.to_owned()];
    let choice = random.random_range(0..14);
    if work.end == End::Prepare || choice < 4 {
        let usage = plain(random, user, source, &["usage", "admin_removal"]);
        let is_usage = kind.has_plain_usage() && random.random_bool(0.6);
        let row = if is_usage { usage } else { grant };
        match choice {
            0 => work.statements.extend(savepoint(row, "RELEASE s")),
            1 => work.statements.extend(savepoint(row, "ROLLBACK TO s")),
            _ => work.statements.push(row),
        }
        return;
    }
    match choice {
        4..6 => work.statements.push(hold),
        6 => work.statements.extend([hold, format!("SELECT credits.capture_hold('{source}')")]),
        7 => {
            work.statements.extend([hold, format!("SELECT credits.release_hold('{source}')")]);
            return;
        }
        8 => {
            work.statements.extend([hold, format!("SELECT credits.extend_hold('{source}', '{expires_in}')")])
        }
        9 => {
            work.statements.extend(savepoint(hold, "ROLLBACK TO s"));
            return;
        }
        10 => work.statements.extend(savepoint(charge, "RELEASE s")),
        11 => work.statements.extend([hold, format!("SELECT credits.capture_hold('{source}', 0.5)")]),
        _ => work.statements.push(charge),
    }
    work.guarded.push(user);
}

/// Something with a hold that has committed.
fn others_hold(random: &mut StdRng, kind: Kind, source: &str, work: &mut Work) {
    let choices = if work.end == End::Prepare { 3 } else { 5 };
    work.statements.push(match random.random_range(0..choices) {
        0 if kind.has_plain_usage() => format!("SELECT credits.capture_hold('{source}', 9)"),
        0 | 1 => format!("SELECT credits.capture_hold('{source}', 0.5)"),
        2 => format!("SELECT credits.release_hold('{source}')"),
        3 => format!("SELECT credits.capture_hold('{source}')"),
        _ => {
            work.extended.push(source.to_owned());
            format!("SELECT credits.extend_hold('{source}', '60 milliseconds')")
        }
    });
}

/// What must hold of a transaction if it commits.
#[derive(Debug)]
struct Claim {
    /// Whatever committed before this was visible, or its locks were still held, when the transaction decided.
    window: PgLsn,
    /// Not later than its decision.
    at: Moment,
    guarded: Vec<Uuid>,
    extended: Vec<String>,
}

/// What the clients know of their commits.
#[derive(Default)]
struct Claims {
    by_xid: HashMap<u64, Claim>,
    /// Of the commits not answered yet: where the log was before them.
    unanswered: BTreeMap<u32, PgLsn>,
}

struct Client {
    number: u32,
    session: Session,
    random: StdRng,
    kind: Kind,
    name: String,
    claims: Arc<Mutex<Claims>>,
}

/// What ends a client.
#[derive(Debug)]
struct Gone;

impl Client {
    /// Works until it has done its share, or its server is gone. A terminated session is replaced.
    fn run(mut self, db: &Database) {
        for number in 0..TRANSACTIONS {
            if self.transaction(&format!("{}-{number}", self.name)).is_err() {
                match self.kind {
                    Kind::Terminated => self.session = connect(db),
                    Kind::Crashed => return,
                    _ => panic!("a session has ended by itself"),
                }
            }
        }
    }

    fn transaction(&mut self, name: &str) -> Result<(), Gone> {
        let known = self.session.query("SELECT source_id FROM credits.holds ORDER BY random() LIMIT 3", &[]);
        let held: Vec<String> = self.or_gone(known)?.iter().map(|row| row.get(0)).collect();
        let work = work(&mut self.random, self.kind, name, &held);
        let done = work.statements.iter().try_for_each(|statement| self.session.try_run(statement));
        let ended = match done {
            Ok(()) => self.end(&work, name),
            Err(error) => Err(error),
        };
        self.claims.lock().unwrap().unanswered.remove(&self.number);
        if let Err(error) = ended {
            self.tolerate(&error, &work)?;
            let rolled_back = self.session.try_run("ROLLBACK");
            self.or_gone(rolled_back)?;
        }
        if self.kind == Kind::Terminated && self.random.random_bool(0.03) {
            // Perhaps itself.
            let terminated = self.session.try_run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'a client' ORDER BY random() LIMIT 1",
            );
            self.or_gone(terminated)?;
        }
        if self.random.random_bool(0.02) {
            let released = self.session.try_run("SELECT credits.release_expired_holds('0', 3)");
            self.or_gone(released)?;
        }
        Ok(())
    }

    fn end(&mut self, work: &Work, name: &str) -> Result<(), Error> {
        match work.end {
            End::Rollback => return self.session.try_run("ROLLBACK"),
            End::Commit => {}
            End::Prepare => self.session.try_run(&format!("PREPARE TRANSACTION '{name}'"))?,
        }
        let now = "SELECT pg_current_wal_insert_lsn(), clock_timestamp() AT TIME ZONE 'UTC' || '+00',
                          pg_current_xact_id_if_assigned()::text";
        let row = self.session.query_one(now, &[])?;
        let (lsn, at): (PgLsn, String) = (row.get(0), row.get(1));
        {
            let mut claims = self.claims.lock().unwrap();
            let window = claims.unanswered.values().copied().chain([lsn]).min().expect("one at least");
            claims.unanswered.insert(self.number, lsn);
            // What is prepared, or has not written, claims nothing.
            if let (End::Commit, Some(xid)) = (work.end, row.get::<_, Option<&str>>(2)) {
                let claim = Claim {
                    window,
                    at: moment(&at),
                    guarded: work.guarded.clone(),
                    extended: work.extended.clone(),
                };
                claims.by_xid.insert(xid.parse().expect("an xid"), claim);
            }
        }
        self.session.try_run(&match work.end {
            End::Prepare if self.random.random_bool(0.8) => format!("COMMIT PREPARED '{name}'"),
            End::Prepare => format!("ROLLBACK PREPARED '{name}'"),
            _ => "COMMIT".to_owned(),
        })
    }

    /// Refusals, serialization failures, and holds that others have ended. Nothing else, a deadlock least of all.
    fn tolerate(&self, error: &Error, work: &Work) -> Result<(), Gone> {
        let Some(code) = error.code().filter(|code| !code.code().starts_with("57P")) else {
            return self.or_gone(Err(error));
        };
        let tolerated = match code.code() {
            "LC001" => work.end != End::Prepare,
            "40001" => true,
            // A hold that is there no more: captured with another amount, or released.
            "23505" | "P0002" => true,
            _ => false,
        };
        assert!(tolerated, "{error:?} of {work:?}");
        Ok(())
    }

    fn or_gone<T, E: std::fmt::Debug>(&self, result: Result<T, E>) -> Result<T, Gone> {
        result.map_err(|error| {
            assert!(self.kind.kills(), "{error:?}");
            Gone
        })
    }
}

/// What a payload says.
fn crossed(payload: &str) -> Crossed {
    let parse = || {
        let rest = payload.strip_prefix("{\"user_id\":\"")?.strip_suffix("\"}")?;
        let (user, rest) = rest.split_once("\",\"direction\":\"")?;
        let (direction, threshold) = rest.split_once("\",\"threshold\":\"").unwrap_or((rest, "0"));
        let is_up = match direction {
            "up" => true,
            "down" => false,
            _ => return None,
        };
        Some((user.parse().ok()?, threshold.parse().ok()?, is_up))
    };
    parse().unwrap_or_else(|| panic!("not the payload of a crossing: {payload}"))
}

/// What was announced of each account, in order.
type Told = HashMap<Uuid, Vec<(Decimal, bool)>>;

fn by_user(crossed: impl IntoIterator<Item = Crossed>) -> Told {
    let mut told = Told::new();
    for (user, boundary, is_up) in crossed {
        told.entry(user).or_default().push((boundary, is_up));
    }
    told
}

fn heard(listener: &mut Listener) -> Told {
    let notifications = listener.drain();
    let crossings = notifications.iter().filter(|n| n.channel == CROSSING_CHANNEL);
    by_user(crossings.map(|n| crossed(&n.payload)))
}

struct Test {
    cluster: Arc<Cluster>,
    database: String,
    random: StdRng,
    accounts: Accounts,
    /// Commits up to here have been gone through.
    audited: PgLsn,
    /// Where in which run.
    at: String,
}

impl Test {
    fn open(&self) -> Database {
        Database::open(&self.cluster, &self.database)
    }

    fn round(&mut self, round: u32, kind: Kind) {
        let db = self.open();
        let mut listener = db.listen();
        self.make_ready(&db, kind);
        let (told, _) = self.audit(&db, &Claims::default());
        assert_eq!(heard(&mut listener), told, "before {}", self.at);

        let before = self.accounts.sides();
        let claims = self.load(&db, round, kind);
        if kind == Kind::Crashed {
            drop(listener);
            let db = self.open();
            self.audit(&db, &claims);
            let mut listener = db.listen();
            self.look(&db, &mut listener, kind);
            return;
        }
        let (mut told, rebound) = self.audit(&db, &claims);
        if kind == Kind::Prepared {
            // What COMMIT PREPARED crosses is announced by the next settlement.
            self.settle(&db);
            self.audit(&db, &Claims::default());
            self.assert_alternating(&before, &rebound, &heard(&mut listener));
        } else {
            let mut heard = heard(&mut listener);
            for user in (0..USERS).map(user) {
                assert_eq!(heard.remove(&user), told.remove(&user), "announced of {user} in {}", self.at);
            }
        }
        self.look(&db, &mut listener, kind);
    }

    /// Accounts near their limits. One has no boundaries but zero.
    fn make_ready(&mut self, db: &Database, kind: Kind) {
        let mut session = db.connect();
        for user in (1..USERS).map(user) {
            session.run(&format!(
                "INSERT INTO credits.spending_limits VALUES ('{user}', 10, '{{-3, 5}}') ON CONFLICT DO NOTHING"
            ));
        }
        if kind.kills() {
            session.run("SELECT credits.release_hold(source_id) FROM credits.holds");
        }
        for user in (0..USERS).map(user) {
            let missing = Decimal::from(self.random.random_range(20..60)) - session.balance(user);
            if missing > Decimal::ZERO {
                session.grant(user, missing);
            }
        }
    }

    /// Has the clients at work until they are done, or the server is killed under them.
    fn load(&mut self, db: &Database, round: u32, kind: Kind) -> Claims {
        let claims = Arc::<Mutex<Claims>>::default();
        let kills_one: bool = self.random.random();
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                let client = Client {
                    number,
                    session: connect(db),
                    random: StdRng::seed_from_u64(self.random.random()),
                    kind,
                    name: format!("round-{round}-{number}"),
                    claims: Arc::clone(&claims),
                };
                scope.spawn(move || client.run(db));
            }
            if kind == Kind::Crashed {
                db.until(
                    "SELECT count(*) > 60 FROM credits.credits_transactions WHERE starts_with(source_id, $1)",
                    &[&format!("round-{round}-")],
                );
                self.crash(db, kills_one);
            }
        });
        // The clients have seen it go.
        match kind {
            Kind::Crashed if kills_one => self.cluster.until_open(),
            Kind::Crashed => self.cluster.resume(),
            _ => {}
        }
        let claims = Arc::into_inner(claims).expect("the clients are done");
        claims.into_inner().expect("no client panicked")
    }

    /// Kills a client's backend, at which the server sends all others away, or stops the whole server where it is.
    fn crash(&self, db: &Database, kills_one: bool) {
        if kills_one {
            let client = "SELECT coalesce(min(pid), pg_backend_pid()) FROM pg_stat_activity WHERE application_name = 'a client'";
            let pid = db.observe(|observer| observer.value(client, &[]));
            self.cluster.kill(pid);
        } else {
            self.cluster.stop(Shutdown::Immediate);
        }
    }

    /// Goes through what has committed. Returns what had to be announced, and whose boundaries were changed.
    fn audit(&mut self, db: &Database, claims: &Claims) -> (Told, HashSet<Uuid>) {
        let (mut told, mut rebound) = (Vec::new(), HashSet::new());
        let mut uncovered: Vec<(PgLsn, Uuid, Decimal)> = Vec::new();
        for commit in audit::commits(&mut db.connect(), self.audited) {
            self.audited = commit.lsn;
            let claim = claims.by_xid.get(&commit.xid);
            let guarded = claim.map(|claim| self.guarded(claim)).unwrap_or_default();
            let (effects, crossed) = self.accounts.apply(&commit);
            for (user, effect) in effects {
                if let Some(claim) = claim.filter(|_| guarded.contains(&user)) {
                    // What needed no cover may have committed since this was decided.
                    let since = uncovered.iter().filter(|(lsn, of, _)| *lsn > claim.window && *of == user);
                    let since: Decimal = since.map(|(.., amount)| amount).sum();
                    let lowest = self.accounts.lowest(&user);
                    assert!(
                        lowest.is_none_or(|lowest| effect.after + since >= lowest),
                        "{user} went from {} to {} (and {since} before that), below {lowest:?}, by {commit:?} in {}",
                        effect.before,
                        effect.after,
                        self.at
                    );
                } else if effect.after < effect.before {
                    uncovered.push((commit.lsn, user, effect.before - effect.after));
                }
            }
            told.extend(crossed);
            rebound.extend(rebound_by(&commit));
        }
        (by_user(told), rebound)
    }

    /// For whom a transaction must be covered: an extension, if the hold had expired by then.
    fn guarded(&self, claim: &Claim) -> Vec<Uuid> {
        let extended = claim.extended.iter().filter_map(|source| self.accounts.expiry(source));
        let anew = extended.filter(|(_, expires_at)| *expires_at <= claim.at).map(|(user, _)| user);
        claim.guarded.iter().copied().chain(anew).collect()
    }

    /// One commit more of each account.
    fn settle(&self, db: &Database) {
        let mut session = db.connect();
        (0..USERS).for_each(|number| session.grant(user(number), Decimal::ONE));
    }

    /// Each boundary that stayed is announced on alternate sides, and on the right one last.
    fn assert_alternating(
        &self,
        before: &BTreeMap<(Uuid, Decimal), bool>,
        rebound: &HashSet<Uuid>,
        heard: &Told,
    ) {
        let mut sides = before.clone();
        for (user, crossings) in heard.iter().filter(|(user, _)| !rebound.contains(user)) {
            for (boundary, is_up) in crossings {
                let side = sides.insert((*user, *boundary), *is_up);
                assert_ne!(side, Some(*is_up), "{user} was announced twice at {boundary} in {}", self.at);
            }
        }
        for (at, is_above) in self.accounts.sides().iter().filter(|((user, _), _)| !rebound.contains(user)) {
            assert_eq!(sides.get(at), Some(is_above), "announced last of {at:?} in {}", self.at);
        }
    }

    /// At rest: what is stored is true, nothing is stranded, and a client alone is refused exactly what does not fit.
    fn look(&mut self, db: &Database, listener: &mut Listener, kind: Kind) {
        let mut session = db.connect();
        session.assert_sound();
        let stored =
            session.query("SELECT user_id, threshold, is_above FROM credits.thresholds", &[]).unwrap();
        let stored: BTreeMap<(Uuid, Decimal), bool> =
            stored.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
        assert_eq!(stored, self.accounts.sides(), "sides after {}", self.at);

        db.until("SELECT NOT EXISTS (SELECT FROM credits.holds WHERE expires_at BETWEEN now() AND now() + '1 minute')", &[]);
        if kind.kills() {
            let open: i64 =
                session.value("SELECT count(*) FROM credits.balances, credits.list_holds(user_id)", &[]);
            assert_eq!(open, 0, "all holds were short in {}", self.at);
        }
        for user in (0..USERS).map(user) {
            self.admit_alone(&mut session, user);
        }
        assert_eq!(heard(listener), Told::new(), "holds cross nothing: {}", self.at);
        session.run("SELECT credits.release_expired_holds('0')");
        session.assert_sound();
    }

    fn admit_alone(&self, session: &mut Session, user: Uuid) {
        let now: String = session.value("SELECT now() AT TIME ZONE 'UTC' || '+00'", &[]);
        let available = self.accounts.available(&user, &moment(&now));
        let answered: Decimal = session.value("SELECT credits.get_available_balance($1)", &[&user]);
        assert_eq!(answered, available, "available of {user} after {}", self.at);
        let hold = |amount: Decimal| format!("SELECT credits.create_hold('{user}', {amount}, 'alone')");
        let Some(lowest) = self.accounts.lowest(&user) else {
            session.run(&hold(Decimal::from(1_000_000)));
            session.run("SELECT credits.release_hold('alone')");
            return;
        };
        let (room, little) = (available - lowest, Decimal::new(1, 15));
        session.try_run(&hold(room.max(Decimal::ZERO) + little)).refused("LC001");
        if room > Decimal::ZERO {
            session.run(&hold(room));
            session
                .try_run(&format!("SELECT credits.charge('{user}', {little}, 'one more')"))
                .refused("LC001");
            session.run("SELECT credits.release_hold('alone')");
        }
    }
}

fn connect(db: &Database) -> Session {
    let mut session = db.connect();
    session.run("SET application_name = 'a client'");
    session
}

fn rebound_by(commit: &Commit) -> impl Iterator<Item = Uuid> {
    commit.changes.iter().filter(|change| change.table == "credits.spending_limits").map(audit::Change::user)
}

#[test]
fn nobody_who_must_be_covered_commits_below_a_limit() {
    let seed = seed();
    let cluster = Cluster::start_with(SETTINGS);
    let db = Database::create_in(&cluster);
    audit::follow(&mut db.connect());
    let mut test = Test {
        cluster,
        database: db.name().to_owned(),
        random: StdRng::seed_from_u64(seed),
        accounts: Accounts::default(),
        audited: PgLsn::from(0),
        at: String::new(),
    };
    drop(db);
    for (round, kind) in (0..rounds()).zip(KINDS.into_iter().cycle()) {
        test.at = format!("round {round} ({kind:?}) of CREDITS_LEDGER_SEED={seed}");
        test.round(round, kind);
    }
    let log = test.cluster.log();
    assert!(!log.contains("PANIC") && !log.contains("terminated by signal 11"), "{log}");
}
