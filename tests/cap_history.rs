//! Months of an account with spend caps, against a model that knows nothing of the engine: transactions that are open at once, usage of any
//! date, changes of caps, and a clock that goes on. A seed repeats a history.

use std::collections::{BTreeMap, BTreeSet};

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::listener::CAP_CHANNEL;
use credits_ledger_tests::{Database, Listener, Session, Uuid, seed, user};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// Hours since 2026-11-01 00:00 UTC, a Sunday.
pub type Hour = i64;

/// The days on which months begin, from November 2026 on.
const MONTHS: [i64; 8] = [0, 30, 61, 92, 120, 151, 181, 212];

const PERIODS: [Option<&str>; 4] = [None, Some("daily"), Some("weekly"), Some("monthly")];

#[derive(Clone, Debug)]
pub struct Usage {
    pub key: Option<u32>,
    pub dated: Hour,
    pub amount: i64,
}

#[derive(Clone, Debug)]
pub struct Cap {
    pub keys: Option<BTreeSet<u32>>,
    period: Option<&'static str>,
    pub amount: i64,
    since: Hour,
}

impl Cap {
    /// The window that an hour lies in: its first, and the first after it.
    pub fn window(&self, hour: Hour) -> (Hour, Option<Hour>) {
        let day = hour.div_euclid(24);
        let (start, end) = match self.period {
            None => return (self.since, None),
            Some("daily") => (day, day + 1),
            Some("weekly") => {
                let monday = day - (day - 1).rem_euclid(7);
                (monday, monday + 7)
            }
            _ => {
                let next = MONTHS.iter().position(|&first| first > day).expect("no history is that long");
                (MONTHS[next - 1], MONTHS[next])
            }
        };
        (self.since.max(start * 24), Some(end * 24))
    }

    /// Whether usage with this key counts.
    pub fn has(&self, key: Option<u32>) -> bool {
        self.keys.as_ref().is_none_or(|keys| key.is_some_and(|key| keys.contains(&key)))
    }

    pub fn spent(&self, usage: &[Usage], now: Hour) -> i64 {
        let (start, end) = self.window(now);
        let counts = |usage: &&Usage| {
            usage.dated >= start && end.is_none_or(|end| usage.dated < end) && self.has(usage.key)
        };
        usage.iter().filter(counts).map(|usage| usage.amount).sum()
    }
}

/// What the account has committed, and what listeners believe.
#[derive(Default)]
struct Model {
    usage: Vec<Usage>,
    caps: BTreeMap<u32, Cap>,
    /// Until when each cap was announced to be reached.
    reached: BTreeMap<u32, Hour>,
}

impl Model {
    /// What a commit announces, now that this is what there is.
    fn announced(&mut self, now: Hour) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut open, mut reached) = (BTreeSet::new(), BTreeSet::new());
        self.reached.retain(|_, until| *until > now);
        let known: Vec<u32> = self.reached.keys().copied().collect();
        for id in known {
            if self.caps.get(&id).is_none_or(|cap| cap.spent(&self.usage, now) < cap.amount) {
                self.reached.remove(&id);
                open.insert(format!("{} open", cap_id(id)));
            }
        }
        for (&id, cap) in &self.caps {
            let until = cap.window(now).1;
            let announced = until.unwrap_or(Hour::MAX);
            if cap.spent(&self.usage, now) >= cap.amount && self.reached.get(&id) != Some(&announced) {
                self.reached.insert(id, announced);
                reached.insert(format!(
                    "{} {}",
                    cap_id(id),
                    until.map_or("null".to_owned(), |until| until.to_string())
                ));
            }
        }
        (open, reached)
    }
}

pub fn cap_id(number: u32) -> Uuid {
    Uuid::from_u128(0x2000_0000_0000_4000_8000_0000_0000_0000 + u128::from(number))
}

pub fn key(number: u32) -> Uuid {
    Uuid::from_u128(0x3000_0000_0000_4000_8000_0000_0000_0000 + u128::from(number))
}

fn sql_keys(keys: Option<&BTreeSet<u32>>) -> String {
    keys.map_or("NULL".to_owned(), |keys| {
        let keys: Vec<String> = keys.iter().map(|&number| key(number).to_string()).collect();
        format!("'{{{}}}'", keys.join(","))
    })
}

pub fn at(hour: Hour) -> String {
    format!("timestamptz '2026-11-01 00:00+00' + interval '{hour} hours'")
}

fn quoted(period: Option<&str>) -> String {
    period.map_or("NULL".to_owned(), |period| format!("'{period}'"))
}

/// What was heard since the last look, as the model says it: what is open, then what is reached.
fn heard(listener: &mut Listener, session: &mut Session) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut open, mut reached) = (BTreeSet::new(), BTreeSet::new());
    for notification in
        listener.drain().into_iter().filter(|notification| notification.channel == CAP_CHANNEL)
    {
        let (id, state, hour): (Uuid, String, Option<i64>) = {
            let row = session
                .query_one(
                    "SELECT (p->>'cap_id')::uuid, p->>'state',
                            (extract(epoch FROM (p->>'resets_at')::timestamptz - '2026-11-01 00:00+00') / 3600)::bigint
                     FROM (SELECT $1::text::jsonb) AS s(p)",
                    &[&notification.payload],
                )
                .unwrap();
            (row.get(0), row.get(1), row.get(2))
        };
        let is_new = if state == "open" {
            assert!(reached.is_empty(), "open comes before reached");
            open.insert(format!("{id} open"))
        } else {
            reached.insert(format!("{id} {}", hour.map_or("null".to_owned(), |hour| hour.to_string())))
        };
        assert!(is_new, "announced twice: {}", notification.payload);
    }
    (open, reached)
}

/// A session with what its transaction has written, if one is open.
struct Client {
    session: Session,
    usage: Option<Vec<Usage>>,
}

fn random_keys(random: &mut StdRng) -> Option<BTreeSet<u32>> {
    random
        .random_bool(0.6)
        .then(|| (0..random.random_range(1..3)).map(|_| random.random_range(1..4)).collect())
}

/// Statements that change caps, which are done to `caps`, too.
pub fn change(random: &mut StdRng, caps: &mut BTreeMap<u32, Cap>, now: Hour) -> String {
    let id = random.random_range(0..5);
    let Some(cap) = caps.get_mut(&id) else {
        let cap = Cap {
            keys: random_keys(random),
            period: *PERIODS.choose(random).unwrap(),
            amount: random.random_range(1..40),
            since: *[-10_000, now, now - 30].choose(random).unwrap(),
        };
        let statement = format!(
            "INSERT INTO credits.spend_caps (id, user_id, api_key_ids, period, amount, since) VALUES ('{}', '{}', {}, {}, {}, {})",
            cap_id(id),
            user(1),
            sql_keys(cap.keys.as_ref()),
            quoted(cap.period),
            cap.amount,
            at(cap.since)
        );
        caps.insert(id, cap);
        return statement;
    };
    let set = match random.random_range(0..6) {
        0 => {
            caps.remove(&id);
            return format!("DELETE FROM credits.spend_caps WHERE id = '{}'", cap_id(id));
        }
        1 => {
            cap.keys = random_keys(random);
            format!("api_key_ids = {}", sql_keys(cap.keys.as_ref()))
        }
        2 => {
            cap.period = *PERIODS.choose(random).unwrap();
            format!("period = {}", quoted(cap.period))
        }
        3 => {
            cap.since = now;
            format!("since = {}", at(now))
        }
        _ => {
            cap.amount = random.random_range(1..60);
            format!("amount = {}", cap.amount)
        }
    };
    format!("UPDATE credits.spend_caps SET {set} WHERE id = '{}'", cap_id(id))
}

/// Half past the hour, so that no boundary comes while a test runs.
pub fn set_clock(cluster: &Cluster, now: Hour) {
    let day = now.div_euclid(24);
    let month = MONTHS.iter().rposition(|&first| first <= day).expect("it is November or later");
    let (year, number) = if month < 2 { (2026, month + 11) } else { (2027, month - 1) };
    cluster.set_clock(&format!(
        "{year}-{number:02}-{:02} {:02}:30+00",
        day - MONTHS[month] + 1,
        now.rem_euclid(24)
    ));
}

#[test]
fn what_is_announced_is_what_happened() {
    let seed = seed();
    let random = &mut StdRng::seed_from_u64(seed);
    let cluster = Cluster::start_with_clock("");
    let mut now: Hour = 10;
    set_clock(&cluster, now);
    let db = Database::create_in(&cluster);
    let mut listener = db.listen();
    let mut observer = db.connect();
    observer.grant(user(1), 1_000_000.into());
    let mut clients: Vec<Client> = (0..3).map(|_| Client { session: db.connect(), usage: None }).collect();
    let mut model = Model::default();
    let mut reached = 0;
    for step in 0..700 {
        let place = random.random_range(0..clients.len());
        let client = &mut clients[place];
        let mut commits = false;
        match random.random_range(0..20) {
            0..=8 => {
                let pending = client.usage.get_or_insert_with(|| {
                    client.session.run("BEGIN");
                    Vec::new()
                });
                let dated = match random.random_range(0..6) {
                    0 => now + random.random_range(-60..200),
                    _ => now,
                };
                let row = Usage {
                    key: random.random_bool(0.8).then(|| random.random_range(1..4)),
                    dated,
                    amount: random.random_range(1..7),
                };
                client.session.run(&format!(
                    "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, api_key_id, created_at)
                     VALUES ('{}', 'usage', {}, gen_random_uuid(), {}, {} + interval '10 minutes')",
                    user(1),
                    row.amount,
                    row.key.map_or("NULL".to_owned(), |number| format!("'{}'", key(number))),
                    at(row.dated)
                ));
                pending.push(row);
            }
            9..=14 => {
                if let Some(usage) = client.usage.take() {
                    client.session.run("COMMIT");
                    model.usage.extend(usage);
                    commits = true;
                }
            }
            15 => {
                if client.usage.take().is_some() {
                    client.session.run("ROLLBACK");
                }
            }
            16 | 17 => {
                let statement = change(random, &mut model.caps, now);
                observer.run(&statement);
                commits = true;
            }
            18 => {
                observer.grant(user(1), 1.into());
                commits = true;
            }
            _ => {
                now = (now + random.random_range(1..40)).min(24 * 200);
                set_clock(&cluster, now);
            }
        }
        let expected = if commits { model.announced(now) } else { Default::default() };
        reached += expected.1.len();
        assert_eq!(heard(&mut listener, &mut observer), expected, "step {step} of seed {seed}, at {now}");
        let spent: Vec<i64> =
            observer.values("SELECT spent::bigint FROM credits.spend_cap_states ORDER BY cap_id", &[]);
        let of_model: Vec<i64> = model.caps.values().map(|cap| cap.spent(&model.usage, now)).collect();
        assert_eq!(spent, of_model, "step {step} of seed {seed}, at {now}");
    }
    assert!(reached > 10, "seed {seed} reaches next to nothing: {reached}");
}
