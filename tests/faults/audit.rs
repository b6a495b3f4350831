//! Commits in their order, with what each changed: an independent account of who was admitted and what had to be announced.
//!
//! Read from the write-ahead log by logical decoding, so nothing of it goes through the extension.

use std::collections::{BTreeMap, HashMap};

use credits_ledger_tests::{Decimal, Session, Uuid};
use postgres::types::PgLsn;

/// A moment as the server prints it: the day, and the microsecond in it.
pub type Moment = (String, u64);

/// A row that a transaction wrote or deleted: the table, and columns with their values.
#[derive(Debug)]
pub struct Change {
    pub table: String,
    pub kind: String,
    columns: HashMap<String, String>,
}

impl Change {
    #[track_caller]
    pub fn text(&self, column: &str) -> &str {
        self.columns.get(column).unwrap_or_else(|| panic!("{column} of {self:?}"))
    }

    #[track_caller]
    pub fn user(&self) -> Uuid {
        self.text("user_id").parse().expect("a user's id")
    }

    #[track_caller]
    pub fn amount(&self) -> Decimal {
        self.text("amount").parse().expect("an amount")
    }
}

/// A transaction that has committed.
#[derive(Debug)]
pub struct Commit {
    pub xid: u64,
    pub lsn: PgLsn,
    pub at: Moment,
    pub changes: Vec<Change>,
}

/// Begins to follow what commits.
pub fn follow(session: &mut Session) {
    session.run("SELECT pg_create_logical_replication_slot('audit', 'test_decoding')");
}

/// What has committed behind `after`, in the order of commits. Prepared transactions appear where they are committed.
///
/// A slot forgets in a crash how far it was read.
pub fn commits(session: &mut Session, after: PgLsn) -> Vec<Commit> {
    // The caller's time zone is that of everything printed.
    session.run("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'");
    let rows = session
        .query(
            "SELECT lsn, data FROM pg_logical_slot_get_changes('audit', NULL, NULL, 'include-timestamp', 'on')",
            &[],
        )
        .unwrap();
    let (mut commits, mut changes) = (Vec::new(), Vec::new());
    for row in rows {
        let (lsn, data): (PgLsn, String) = (row.get(0), row.get(1));
        if let Some(commit) = data.strip_prefix("COMMIT ") {
            let (xid, at) = commit.split_once(" (at ").expect("a commit has its moment");
            let changes = std::mem::take(&mut changes);
            let (xid, at) = (xid.parse().expect("an xid"), moment(at.trim_end_matches(')')));
            if lsn > after {
                commits.push(Commit { xid, lsn, at, changes });
            }
        } else if let Some(change) = data.strip_prefix("table ") {
            changes.push(change_of(change));
        }
    }
    commits
}

/// `schema.table: KIND: column[type]:value column[type]:'value' ...`, and no value of these tests has a quote.
fn change_of(text: &str) -> Change {
    let mut parts = text.splitn(3, ": ");
    let mut next = || parts.next().unwrap_or_default();
    let (table, kind, mut rest) = (next().to_owned(), next().to_owned(), next());
    let mut columns = HashMap::new();
    while let Some((name, behind)) = rest.split_once('[') {
        let (_, value) = behind.split_once("]:").unwrap_or_else(|| panic!("{text}"));
        let (value, behind) = match value.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').unwrap_or_else(|| panic!("{text}")),
            None => value.split_once(' ').unwrap_or((value, "")),
        };
        columns.insert(name.trim_start().to_owned(), value.to_owned());
        rest = behind;
    }
    Change { table, kind, columns }
}

/// A moment of UTC.
pub fn moment(text: &str) -> Moment {
    let parse = || {
        let (day, time) = text.strip_suffix("+00")?.split_once(' ')?;
        let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
        let seconds =
            seconds.split(':').try_fold(0, |sum, part| Some(60 * sum + part.parse::<u64>().ok()?))?;
        let micros: u64 = format!("{fraction:0<6}").parse().ok()?;
        Some((day.to_owned(), 1_000_000 * seconds + micros))
    };
    parse().unwrap_or_else(|| panic!("not a moment: {text}"))
}

/// An open or expired hold.
#[derive(Clone, Debug)]
struct Held {
    user: Uuid,
    amount: Decimal,
    expires_at: Moment,
}

/// What is announced of an account.
#[derive(Debug, Default)]
struct Sides(BTreeMap<Decimal, bool>);

/// What has to be announced: an account crossed this boundary, upwards or not.
pub type Crossed = (Uuid, Decimal, bool);

/// All accounts as of some commit.
#[derive(Debug, Default)]
pub struct Accounts {
    balances: HashMap<Uuid, Decimal>,
    holds: HashMap<String, Held>,
    /// How far below zero; `None` is without end.
    limits: HashMap<Uuid, Option<Decimal>>,
    sides: HashMap<Uuid, Sides>,
}

/// What a commit did to an account.
#[derive(Debug)]
pub struct Effect {
    pub before: Decimal,
    pub after: Decimal,
}

impl Accounts {
    /// Takes a commit in. Returns what it did to what is available of each account, and what it has to announce.
    pub fn apply(&mut self, commit: &Commit) -> (HashMap<Uuid, Effect>, Vec<Crossed>) {
        let users = self.users_of(commit);
        let before: HashMap<Uuid, Decimal> =
            users.iter().map(|user| (*user, self.available(user, &commit.at))).collect();
        let mut rebound = HashMap::new();
        for change in &commit.changes {
            self.change(change, &mut rebound);
        }
        let mut crossed = Vec::new();
        for user in &users {
            self.cross(user, rebound.get(user), &mut crossed);
        }
        let effects = users
            .iter()
            .map(|user| (*user, Effect { before: before[user], after: self.available(user, &commit.at) }));
        (effects.collect(), crossed)
    }

    fn users_of(&self, commit: &Commit) -> Vec<Uuid> {
        let mut users = Vec::new();
        for change in &commit.changes {
            let user = match (change.table.as_str(), change.kind.as_str()) {
                // Of a deleted row there is only its key: the hold's source_id.
                ("credits.holds", "DELETE") => match self.holds.get(change.text("source_id")) {
                    Some(hold) => hold.user,
                    // Made in this transaction.
                    None => continue,
                },
                ("credits.credits_transactions" | "credits.holds" | "credits.spending_limits", _) => {
                    change.user()
                }
                _ => continue,
            };
            if !users.contains(&user) {
                users.push(user);
            }
        }
        users
    }

    fn change(&mut self, change: &Change, rebound: &mut HashMap<Uuid, Vec<Decimal>>) {
        match (change.table.as_str(), change.kind.as_str()) {
            ("credits.credits_transactions", "INSERT") => {
                let is_grant = ["purchase", "admin_grant"].contains(&change.text("transaction_type"));
                let amount = if is_grant { change.amount() } else { -change.amount() };
                *self.balances.entry(change.user()).or_default() += amount;
                self.sides.entry(change.user()).or_default().0.entry(Decimal::ZERO).or_default();
            }
            ("credits.holds", "DELETE") => {
                self.holds.remove(change.text("source_id")).expect("a deleted hold was there");
            }
            ("credits.holds", "INSERT" | "UPDATE") => {
                let hold = Held {
                    user: change.user(),
                    amount: change.amount(),
                    expires_at: moment(change.text("expires_at")),
                };
                self.holds.insert(change.text("source_id").to_owned(), hold);
            }
            ("credits.spending_limits", "DELETE") => {
                self.limits.remove(&change.user());
                rebound.insert(change.user(), Vec::new());
            }
            ("credits.spending_limits", "INSERT" | "UPDATE") => {
                let limit = change.text("overdraft_limit");
                let limit = (limit != "null").then(|| limit.parse().expect("a limit"));
                self.limits.insert(change.user(), limit);
                let thresholds = change.text("thresholds").trim_matches(['{', '}']);
                let thresholds = thresholds.split(',').filter(|threshold| !threshold.is_empty());
                rebound.insert(
                    change.user(),
                    thresholds.map(|threshold| threshold.parse().expect("a threshold")).collect(),
                );
            }
            _ => {}
        }
    }

    /// Thresholds that come with this commit begin on the side where the balance is.
    fn cross(&mut self, user: &Uuid, thresholds: Option<&Vec<Decimal>>, crossed: &mut Vec<Crossed>) {
        let balance = self.balance(user);
        let Sides(sides) = self.sides.entry(*user).or_default();
        if let Some(thresholds) = thresholds {
            sides.retain(|boundary, _| boundary.is_zero() || thresholds.contains(boundary));
            for threshold in thresholds {
                sides.entry(*threshold).or_insert(balance > *threshold);
            }
        }
        let mut now: Vec<Crossed> = Vec::new();
        for (boundary, is_above) in sides {
            if *is_above != (balance > *boundary) {
                *is_above = !*is_above;
                now.push((*user, *boundary, *is_above));
            }
        }
        // Downwards from high to low.
        if now.first().is_some_and(|(.., is_above)| !is_above) {
            now.reverse();
        }
        crossed.extend(now);
    }

    pub fn balance(&self, user: &Uuid) -> Decimal {
        self.balances.get(user).copied().unwrap_or_default()
    }

    /// With the holds that were open for sure at this moment.
    pub fn available(&self, user: &Uuid, at: &Moment) -> Decimal {
        let open = self.holds.values().filter(|hold| hold.user == *user && hold.expires_at > *at);
        self.balance(user) - open.map(|hold| hold.amount).sum::<Decimal>()
    }

    /// How low holds and charges may take what is available.
    pub fn lowest(&self, user: &Uuid) -> Option<Decimal> {
        self.limits.get(user).copied().unwrap_or(Some(Decimal::ZERO)).map(|limit| -limit)
    }

    /// When a hold expires, if it is there.
    pub fn expiry(&self, source: &str) -> Option<(Uuid, Moment)> {
        self.holds.get(source).map(|hold| (hold.user, hold.expires_at.clone()))
    }

    /// Each boundary of the accounts with a transaction and the side announced last, zero included.
    pub fn sides(&self) -> BTreeMap<(Uuid, Decimal), bool> {
        let mut all = BTreeMap::new();
        for (user, Sides(sides)) in &self.sides {
            if self.balances.contains_key(user) {
                all.extend(sides.iter().map(|(boundary, is_above)| ((*user, *boundary), *is_above)));
            }
        }
        all
    }
}
