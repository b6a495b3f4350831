//! Months of an account with enforced spend caps, against a model that knows nothing of the engine: holds and charges of several sessions
//! whose transactions are open at once, plain usage of any date, changes of caps, and a clock that goes on. A seed repeats a history.

use std::collections::{BTreeMap, BTreeSet};

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::{Database, Refused, Session, Uuid, seed, user};
use postgres::Error;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};

use crate::cap_history::{Cap, Hour, Usage, at, cap_id, change, key, set_clock};

const STEPS: u32 = 1200;

#[derive(Clone, Debug)]
struct Hold {
    key: Option<u32>,
    amount: i64,
    /// It is open up to a quarter past this hour.
    until: Hour,
}

/// What was asked for: with which key, how much, and what a charge is dated.
type Asked = (Option<u32>, i64, Option<Hour>);

/// What there is: committed, or as a transaction sees it.
#[derive(Clone, Debug, Default)]
struct Account {
    usage: Vec<Usage>,
    holds: BTreeMap<u32, Hold>,
}

impl Account {
    /// What is left of a cap. Of the charges that are asked for, those with another date count, too.
    fn left(&self, cap: &Cap, asked: &[Asked], now: Hour) -> i64 {
        let held =
            self.holds.values().filter(|hold| hold.until > now && cap.has(hold.key)).map(|hold| hold.amount);
        let (start, end) = cap.window(now);
        let elsewhere = asked.iter().filter(|(key, _, dated)| {
            cap.has(*key) && dated.is_some_and(|dated| dated < start || end.is_some_and(|end| dated >= end))
        });
        let elsewhere = elsewhere.map(|(_, amount, _)| amount).sum::<i64>();
        cap.amount - cap.spent(&self.usage, now) - held.sum::<i64>() - elsewhere
    }

    /// The enforced caps that refuse what is asked for.
    fn refusing(
        &self,
        caps: &BTreeMap<u32, Cap>,
        enforced: &BTreeSet<u32>,
        asked: &[Asked],
        now: Hour,
    ) -> Vec<u32> {
        let refuses =
            |cap: &Cap| asked.iter().any(|(key, ..)| cap.has(*key)) && self.left(cap, asked, now) < 0;
        caps.iter().filter(|(id, cap)| enforced.contains(id) && refuses(cap)).map(|(&id, _)| id).collect()
    }
}

/// What an open transaction has done, and has to have covered.
#[derive(Clone, Debug, Default)]
struct Pending {
    usage: Vec<Usage>,
    charges: Vec<Asked>,
    made: BTreeMap<u32, Hold>,
    gone: BTreeSet<u32>,
    /// Until when holds are open that it has extended.
    extended: BTreeMap<u32, Hour>,
}

impl Pending {
    /// What the transaction sees.
    fn sees(&self, committed: &Account) -> Account {
        let mut account = committed.clone();
        account.usage.extend(self.usage.iter().cloned());
        account.holds.retain(|number, _| !self.gone.contains(number));
        for (number, until) in &self.extended {
            account.holds.get_mut(number).expect("it is there").until = *until;
        }
        account.holds.extend(self.made.clone());
        account
    }

    /// What it asks for when it commits: its charges, the holds that it has made, and those that had expired before it extended them.
    fn asked(&self, committed: &Account, now: Hour) -> Vec<Asked> {
        let anew =
            self.extended.keys().map(|number| &committed.holds[number]).filter(|hold| hold.until <= now);
        let holds = self.made.values().chain(anew).map(|hold| (hold.key, hold.amount, None));
        self.charges.iter().copied().chain(holds).collect()
    }
}

struct Client {
    session: Session,
    pending: Option<Pending>,
    /// The holds that it has made: each is touched by one session, so that nobody waits for another.
    own: BTreeSet<u32>,
}

fn sql_key(number: Option<u32>) -> String {
    number.map_or("NULL".to_owned(), |number| format!("'{}'", key(number)))
}

fn random_key(random: &mut StdRng) -> Option<u32> {
    random.random_bool(0.8).then(|| random.random_range(1..4))
}

/// The cap that refused.
fn refused(error: Error) -> u32 {
    let detail = Err::<(), _>(error).refused("LC002").detail().expect("it has a detail").to_owned();
    (0..10).find(|&number| detail.contains(&cap_id(number).to_string())).unwrap_or_else(|| panic!("{detail}"))
}

/// How often each thing happened, or the history shows nothing.
#[derive(Debug, Default)]
struct Happened {
    admitted: u32,
    refused_early: u32,
    refused_at_commit: u32,
    turned: u32,
}

#[test]
fn what_is_refused_is_what_exceeds_a_cap() {
    let seed = seed();
    let random = &mut StdRng::seed_from_u64(seed);
    let cluster = Cluster::start_with_clock("");
    let mut now: Hour = 10;
    set_clock(&cluster, now);
    let db = Database::create_in(&cluster);
    let mut observer = db.connect();
    observer.grant(user(1), 1_000_000.into());
    let mut clients: Vec<Client> =
        (0..3).map(|_| Client { session: db.connect(), pending: None, own: BTreeSet::new() }).collect();
    for client in &mut clients {
        client.session.run("SET lock_timeout = '50s'");
    }
    let (mut committed, mut caps, mut enforced) = (Account::default(), BTreeMap::new(), BTreeSet::new());
    let mut numbers = 0..;
    let mut happened = Happened::default();
    for step in 0..STEPS {
        let said = format!("step {step} of seed {seed}, at {now}");
        let place = random.random_range(0..clients.len());
        let kind = random.random_range(0..24);
        if (0..16).contains(&kind) {
            let Client { session, pending, own } = &mut clients[place];
            let pending = pending.get_or_insert_with(|| {
                session.run("BEGIN");
                Pending::default()
            });
            let before = pending.clone();
            let (call, asked) = act(random, kind, pending, &committed, own, &mut numbers, now);
            let Some(call) = call else { continue };
            session.run("SAVEPOINT s");
            let outcome = session.try_run(&call);
            // Early, only what is asked for last counts with a date outside of the window, and it may not.
            let sees = pending.sees(&committed);
            let asked: Vec<Asked> = asked.into_iter().collect();
            let undated: Vec<Asked> = asked.iter().map(|&(key, amount, _)| (key, amount, None)).collect();
            let may = sees.refusing(&caps, &enforced, &asked, now);
            let must = sees.refusing(&caps, &enforced, &undated, now);
            match outcome {
                Err(error) => {
                    let cap = refused(error);
                    assert!(may.contains(&cap), "{said}: {call} is refused by {cap}, not one of {may:?}");
                    session.run("ROLLBACK TO s");
                    *pending = before;
                    happened.refused_early += 1;
                }
                Ok(()) => {
                    assert_eq!(must, [], "{said}: {call} is not refused");
                    if random.random_bool(0.1) {
                        session.run("ROLLBACK TO s");
                        *pending = before;
                    }
                }
            }
            session.run("RELEASE s");
        } else if kind < 20 {
            let client = &mut clients[place];
            let Some(pending) = client.pending.take() else { continue };
            if random.random_bool(0.1) {
                client.session.run("ROLLBACK");
                continue;
            }
            let asked = pending.asked(&committed, now);
            let sees = pending.sees(&committed);
            let refusing = sees.refusing(&caps, &enforced, &asked, now);
            match client.session.try_run("COMMIT") {
                Err(error) => {
                    let cap = refused(error);
                    assert!(refusing.contains(&cap), "{said}: refused by {cap}, not one of {refusing:?}");
                    happened.refused_at_commit += 1;
                }
                Ok(()) => {
                    assert_eq!(refusing, [], "{said}: {asked:?} is not refused");
                    happened.admitted += u32::from(!asked.is_empty());
                    client.own.extend(pending.made.keys());
                    client.own.retain(|number| !pending.gone.contains(number));
                    committed = sees;
                }
            }
        } else if kind < 22 {
            let statement = change(random, &mut caps, now);
            observer.run(&statement);
            enforced.retain(|id| caps.contains_key(id));
            if let Some((&id, cap)) = caps.iter_mut().choose(random) {
                let is_enforced = random.random_bool(0.8);
                if is_enforced {
                    enforced.insert(id)
                } else {
                    enforced.remove(&id)
                };
                // So much that something is left.
                cap.amount += random.random_range(0..30) - committed.left(cap, &[], now).min(0);
                observer.run(&format!(
                    "UPDATE credits.spend_caps SET is_enforced = {is_enforced}, amount = {} WHERE id = '{}'",
                    cap.amount,
                    cap_id(id)
                ));
            }
        } else {
            let next = (now + random.random_range(1..40)).min(24 * 200);
            // A hold that has expired before it commits would ask for nothing.
            let pending = clients.iter().filter_map(|client| client.pending.as_ref());
            let untils = pending
                .flat_map(|p| p.made.values().map(|hold| hold.until).chain(p.extended.values().copied()));
            if untils.min().is_none_or(|until| next < until) {
                happened.turned += u32::from(next.div_euclid(24) != now.div_euclid(24));
                now = next;
                set_clock(&cluster, now);
            }
        }
    }
    for client in clients.iter_mut().filter(|client| client.pending.is_some()) {
        client.session.run("ROLLBACK");
    }
    let held: i64 = observer.value("SELECT coalesce(sum(amount), 0)::bigint FROM credits.holds", &[]);
    assert_eq!(held, committed.holds.values().map(|hold| hold.amount).sum::<i64>(), "seed {seed}");
    let Happened { admitted, refused_early, refused_at_commit, turned } = happened;
    assert!(
        admitted > 30 && refused_early > 10 && refused_at_commit > 3 && turned > 10,
        "seed {seed} shows next to nothing: {happened:?}"
    );
    observer.assert_sound();
}

/// The statement of a step in a transaction, done to what is pending, too, and what it asks for.
fn act(
    random: &mut StdRng,
    kind: i32,
    pending: &mut Pending,
    committed: &Account,
    own: &BTreeSet<u32>,
    numbers: &mut impl Iterator<Item = u32>,
    now: Hour,
) -> (Option<String>, Option<Asked>) {
    let account: Uuid = user(1);
    let (key, amount) = (random_key(random), random.random_range(1..7));
    let number = numbers.next().expect("there is no end of them");
    match kind {
        0..5 => {
            let hours = [2, 30, 200, 700].into_iter().choose(random).expect("there are some");
            pending.made.insert(number, Hold { key, amount, until: now + hours });
            let call = format!(
                "SELECT credits.create_hold('{account}', {amount}, 'hold {number}', '{hours} hours -15 minutes', api_key_id => {})",
                sql_key(key)
            );
            (Some(call), Some((key, amount, None)))
        }
        5..9 => {
            pending.usage.push(Usage { key, dated: now, amount });
            pending.charges.push((key, amount, Some(now)));
            let call = format!(
                "SELECT credits.charge('{account}', {amount}, 'charge {number}', api_key_id => {})",
                sql_key(key)
            );
            (Some(call), Some((key, amount, Some(now))))
        }
        9 | 10 => {
            let dated = if random.random_bool(0.3) { now + random.random_range(-60..200) } else { now };
            pending.usage.push(Usage { key, dated, amount });
            let call = format!(
                "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, api_key_id, created_at)
                 VALUES ('{account}', 'usage', {amount}, 'plain {number}', {}, {} + interval '10 minutes')",
                sql_key(key),
                at(dated)
            );
            (Some(call), None)
        }
        _ => {
            let touched =
                |number: &u32| pending.gone.contains(number) || pending.extended.contains_key(number);
            let Some(number) = own.iter().filter(|number| !touched(number)).choose(random).copied() else {
                return (None, None);
            };
            let hold = committed.holds[&number].clone();
            match kind {
                11 | 12 => {
                    pending.gone.insert(number);
                    pending.usage.push(Usage { key: hold.key, dated: now, amount });
                    (Some(format!("SELECT credits.capture_hold('hold {number}', {amount})")), None)
                }
                13 | 14 => {
                    pending.gone.insert(number);
                    (Some(format!("SELECT credits.release_hold('hold {number}')")), None)
                }
                _ => {
                    let hours = random.random_range(40..600);
                    pending.extended.insert(number, now + hours);
                    let asked = (hold.until <= now).then_some((hold.key, hold.amount, None));
                    (
                        Some(format!(
                            "SELECT credits.extend_hold('hold {number}', '{hours} hours -15 minutes')"
                        )),
                        asked,
                    )
                }
            }
        }
    }
}
