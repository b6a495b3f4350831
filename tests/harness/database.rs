//! A database for one test, and who is waiting for whom in it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use postgres::types::ToSql;
use rust_decimal::Decimal;

use crate::cluster::{Cluster, SUPERUSER, TEMPLATE};
use crate::{Listener, Session, user};

/// How long a test waits for something that must happen. No test measures time: only a broken one ever waits this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a session has a stripe in a mode.
const HAS_A_STRIPE: &str = "SELECT EXISTS (SELECT FROM pg_locks
                                           WHERE pid = $1 AND locktype = 'advisory' AND objsubid = 193 AND mode = $2 AND granted)";

/// A database with the extension, empty at first. In the shared cluster it is dropped when its test has passed.
pub struct Database {
    cluster: Arc<Cluster>,
    name: String,
    /// Of the shared cluster, which outlives it.
    dropped_at_end: bool,
    /// Looks at the other sessions.
    observer: Mutex<Session>,
}

impl Database {
    /// A database of the test's own.
    ///
    /// Transaction ids belong to the cluster: what other tests leave open for a while holds watermarks back here too.
    #[must_use]
    pub fn create() -> Self {
        Self::from_template(&Cluster::shared(), TEMPLATE, true)
    }

    /// A database in a cluster of its own, for a test that would disturb others.
    #[must_use]
    pub fn create_alone() -> Self {
        Self::create_in(&Cluster::start())
    }

    /// A further database with the extension in the same cluster.
    #[must_use]
    pub fn create_beside(&self) -> Self {
        Self::from_template(&self.cluster, TEMPLATE, self.dropped_at_end)
    }

    /// A database without the extension.
    #[must_use]
    pub fn create_empty() -> Self {
        Self::from_template(&Cluster::shared(), "template0", true)
    }

    /// A database without the extension, in a cluster of its own.
    #[must_use]
    pub fn create_empty_alone() -> Self {
        Self::from_template(&Cluster::start(), "template0", false)
    }

    /// A database of the test's own in this encoding.
    #[must_use]
    pub fn create_encoded(encoding: &str) -> Self {
        Self::create_from_template0(&format!("ENCODING '{encoding}'"))
    }

    /// A database of the test's own in UTF-8, whose texts are ordered by this locale of the machine's.
    #[must_use]
    pub fn create_ordered_by(locale: &str) -> Self {
        Self::create_from_template0(&format!("ENCODING 'UTF8' LOCALE '{locale}'"))
    }

    /// A database of the test's own in which user 1 has so many credits, and a session of the superuser.
    #[must_use]
    pub fn create_with(credits: Decimal) -> (Self, Session) {
        let db = Self::create();
        let mut session = db.connect();
        session.grant(user(1), credits);
        (db, session)
    }

    fn create_from_template0(options: &str) -> Self {
        let db = Self::from_template(&Cluster::shared(), &format!("template0 {options}"), true);
        db.observe(|observer| observer.run("CREATE EXTENSION credits_ledger"));
        db
    }

    /// A database in a cluster of the test's own.
    #[must_use]
    pub fn create_in(cluster: &Arc<Cluster>) -> Self {
        Self::from_template(cluster, TEMPLATE, false)
    }

    fn from_template(cluster: &Arc<Cluster>, template: &str, dropped_at_end: bool) -> Self {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", CREATED.fetch_add(1, Ordering::Relaxed));
        cluster.execute("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template}"));
        let mut database = Self::open(cluster, &name);
        database.dropped_at_end = dropped_at_end;
        database
    }

    /// A database that is there already in a cluster of the test's own.
    #[must_use]
    pub fn open(cluster: &Arc<Cluster>, name: &str) -> Self {
        let observer = Mutex::new(Session::connect(&cluster.config(name, SUPERUSER)));
        Self { cluster: Arc::clone(cluster), name: name.to_owned(), dropped_at_end: false, observer }
    }

    /// The cluster that it is in.
    #[must_use]
    pub const fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A session of the superuser.
    #[must_use]
    pub fn connect(&self) -> Session {
        self.connect_as(SUPERUSER)
    }

    /// A session of a role.
    #[must_use]
    pub fn connect_as(&self, role: &str) -> Session {
        Session::connect(&self.cluster.config(&self.name, role))
    }

    /// Sessions of the superuser that have settled before, so that none of them attaches to shared memory later on.
    #[must_use]
    pub fn connect_settled<const N: usize>(&self) -> [Session; N] {
        let mut sessions = std::array::from_fn(|_| self.connect());
        for session in &mut sessions {
            session.run("SET lock_timeout = '50s'");
            session.grant(user(90), Decimal::ONE);
        }
        sessions
    }

    /// A new role without any privilege. Roles belong to the cluster: the name is made this database's own.
    #[must_use]
    pub fn create_role(&self, name: &str) -> String {
        let role = format!("{}_{name}", self.name);
        self.observe(|observer| observer.run(&format!("CREATE ROLE {role} LOGIN")));
        role
    }

    /// Listens to the ledger's channels from now on.
    #[must_use]
    pub fn listen(&self) -> Listener {
        Listener::new(self.connect())
    }

    /// Waits until a session waits for a lock that another holds.
    pub fn until_blocked(&self, pid: i32) {
        self.until(
            "SELECT EXISTS (SELECT FROM pg_stat_activity
                            WHERE pid = $1 AND wait_event_type = 'Lock' AND cardinality(pg_blocking_pids(pid)) > 0)",
            &[&pid],
        );
    }

    /// Waits until a session has done what it was asked for last, which is this, or waits for a lock that another holds.
    pub fn until_blocked_or_done(&self, pid: i32, sql: &str) {
        self.until(
            "SELECT (query = $2 AND (state LIKE 'idle%'
                        OR wait_event_type = 'Lock' AND cardinality(pg_blocking_pids(pid)) > 0)) IS TRUE
             FROM pg_stat_activity WHERE pid = $1",
            &[&pid, &sql],
        );
    }

    /// Waits until the settlement of a session has a stripe in this mode.
    pub fn until_it_has_a_stripe(&self, pid: i32, mode: &str) {
        self.until(HAS_A_STRIPE, &[&pid, &mode]);
    }

    /// Waits until a session that the server has ended is gone: its client is told before its locks are released.
    pub fn until_gone(&self, pid: i32) {
        self.until("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", &[&pid]);
    }

    /// Whether the settlement of a session has a stripe in this mode.
    pub fn has_a_stripe(&self, pid: i32, mode: &str) -> bool {
        self.observe(|observer| observer.value(HAS_A_STRIPE, &[&pid, &mode]))
    }

    /// Waits until a query answers true.
    ///
    /// # Panics
    /// If it never does.
    #[track_caller]
    pub fn until(&self, query: &str, parameters: &[&(dyn ToSql + Sync)]) {
        let began = Instant::now();
        while !self.observe(|observer| observer.value::<bool>(query, parameters)) {
            assert!(began.elapsed() < PATIENCE, "never came true: {query}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs something in the session that no test steps.
    ///
    /// # Panics
    /// If an earlier use panicked.
    pub fn observe<T>(&self, look: impl FnOnce(&mut Session) -> T) -> T {
        look(&mut self.observer.lock().expect("the observer works"))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.dropped_at_end && !thread::panicking() {
            self.cluster.execute("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}
