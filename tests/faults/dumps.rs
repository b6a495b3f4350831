//! Every way to dump and restore a ledger, into a server whose transaction ids are far below and far above those of the old
//! one. What is derived is made anew, by one settlement of each user.

use std::path::Path;
use std::sync::Arc;

use credits_ledger_tests::cluster::{Cluster, TEMPLATE};
use credits_ledger_tests::contents::{Contents, SILENT, USERS};
use credits_ledger_tests::{Database, Direction, Refused, Session, Uuid, user};

/// How a ledger is dumped and restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Plain,
    Custom,
    ParallelCustom,
    ParallelDirectory,
    DataOnly,
    ParallelDataOnly,
}

impl Way {
    pub const ALL: [Self; 6] = [
        Self::Plain,
        Self::Custom,
        Self::ParallelCustom,
        Self::ParallelDirectory,
        Self::DataOnly,
        Self::ParallelDataOnly,
    ];

    const fn dump_options(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &["--format=plain"],
            Self::Custom | Self::ParallelCustom => &["--format=custom"],
            Self::ParallelDirectory => &["--format=directory", "--jobs=2"],
            Self::DataOnly => &["--format=plain", "--data-only"],
            Self::ParallelDataOnly => &["--format=directory", "--jobs=2", "--data-only"],
        }
    }

    /// pg_restore's; `None` for a script, which is run by psql.
    const fn restore_options(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Plain | Self::DataOnly => None,
            Self::Custom => Some(&["--single-transaction"]),
            Self::ParallelCustom | Self::ParallelDirectory => Some(&["--jobs=2"]),
            Self::ParallelDataOnly => Some(&["--jobs=2", "--data-only"]),
        }
    }

    /// The database that is restored into has the extension only if the dump does not bring it.
    pub const fn template(self) -> &'static str {
        match self {
            Self::DataOnly | Self::ParallelDataOnly => TEMPLATE,
            _ => "template0",
        }
    }
}

pub fn dump(from: &Database, way: Way, into: &Path) {
    let cluster = from.cluster();
    let mut pg_dump = cluster.program("pg_dump");
    let dumped = pg_dump.args(way.dump_options()).arg("--file").arg(into).arg(from.name()).output().unwrap();
    // Nor a warning about something of the extension's that cannot be dumped.
    assert_eq!((dumped.status.success(), String::from_utf8_lossy(&dumped.stderr).as_ref()), (true, ""));
}

pub fn restore(from: &Path, way: Way, into: &Database, options: &str) {
    let cluster = into.cluster();
    let mut program = match way.restore_options() {
        None => {
            let mut psql = cluster.program("psql");
            psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", into.name(), "--file"]);
            psql
        }
        Some(options) => {
            let mut pg_restore = cluster.program("pg_restore");
            pg_restore.args(["--exit-on-error", "--dbname", into.name()]).args(options);
            pg_restore
        }
    };
    cluster.succeed(program.env("PGOPTIONS", options).arg(from));
}

/// A cluster whose transaction ids are below those of any cluster in use, and one that has wrapped around three times.
fn young_and_old() -> [Arc<Cluster>; 2] {
    let old = Cluster::initialize(&Cluster::programs_under_test(), "");
    old.set_epoch(3);
    [Cluster::start(), old.begin()]
}

pub fn new_database(cluster: &Arc<Cluster>, name: &str, template: &str) -> Database {
    cluster.execute("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template}"));
    Database::open(cluster, name)
}

/// The ledger that was restored is the same and goes on.
#[track_caller]
fn assert_restored(db: &Database, contents: &Contents) {
    let (mut session, mut listener) = (db.connect(), db.listen());
    assert_eq!(session.contents(), *contents);
    session.assert_sound();
    session.assert_as_made();
    // One COPY, one settlement.
    let row = session
        .query_one(
            "SELECT (SELECT count(DISTINCT xact_id) FROM credits.credits_transactions),
                    (SELECT count(*) FROM credits.user_balance_checkpoints WHERE xmin = min_xmin),
                    (SELECT count(*) FROM credits.users_without_checkpoint)
             FROM (SELECT min(xmin::text)::xid AS min_xmin FROM credits.user_balance_checkpoints) first",
            &[],
        )
        .expect("ask who wrote what");
    let written: (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(written, (1, i64::from(USERS), 0));

    let last: i64 = session.value("SELECT max(seq) FROM credits.credits_transactions", &[]);
    for number in 0..USERS {
        let balance = session.balance(user(number));
        if balance > 0.into() {
            session.charge(user(number), balance);
            assert_eq!(listener.crossings(), [(user(number), Direction::Down)]);
        } else {
            session.charge(user(number), 1.into());
            assert_eq!(listener.crossings(), []);
        }
    }
    let later: bool = session
        .value("SELECT bool_and(seq > $1) FROM credits.list_all_transactions(\"limit\" => 6)", &[&last]);
    assert!(later, "new rows come after the old ones");
    for number in 0..USERS {
        session.refresh(user(number));
    }
    session.assert_sound();
}

#[test]
fn every_way_to_restore_gives_the_same_ledger() {
    let [young, old] = young_and_old();
    for (from, into) in [(&young, &old), (&old, &young)] {
        let ledger = Database::create_in(from);
        ledger.connect().record_history();
        let contents = ledger.connect().contents();
        let (position, read) = ledger.connect().feed(None).unwrap();
        for (number, way) in Way::ALL.into_iter().enumerate() {
            println!("{way:?}");
            let file = from.folder().join(format!("dump_{number}"));
            dump(&ledger, way, &file);
            let restored = new_database(into, &format!("restored_{number}"), way.template());
            let mut listener = restored.listen();
            restore(&file, way, &restored, SILENT);
            assert_eq!(listener.drain(), []);
            assert_restored(&restored, &contents);
            // Its feed is another one.
            let mut session = restored.connect();
            session.feed(position.as_deref()).refused("22023");
            assert!(session.feed(None).unwrap().1.len() > read.len());
        }
        // Under another name in the same cluster.
        let file = from.folder().join("dump");
        dump(&ledger, Way::Plain, &file);
        let restored = new_database(from, "another_name", "template0");
        restore(&file, Way::Plain, &restored, SILENT);
        assert_restored(&restored, &contents);
        assert_eq!(ledger.connect().contents(), contents);
    }
}

/// Whichever comes first of its number, its rows and where its sequence was.
#[test]
fn a_restored_node_numbers_its_rows_as_it_did() {
    let cluster = Cluster::start();
    let node = Database::create_in(&cluster);
    node.connect().run("SELECT credits.set_node_number(5)");
    node.connect().run(&format!("SELECT credits.disown_buckets(ARRAY[credits.bucket_of('{}')])", user(99)));
    node.connect().record_history();
    for (number, way) in Way::ALL.into_iter().enumerate() {
        println!("{way:?}");
        let file = cluster.folder().join(format!("node_{number}"));
        dump(&node, way, &file);
        let restored = new_database(&cluster, &format!("node_{number}"), way.template());
        restore(&file, way, &restored, SILENT);
        let mut session = restored.connect();
        let last: i64 = session.value("SELECT max(seq) FROM credits.credits_transactions", &[]);
        session.grant(user(0), 1.into());
        let drawn: i64 = session.value("SELECT max(seq) FROM credits.credits_transactions", &[]);
        assert!(drawn > last);
        assert_eq!((drawn % 1024, session.value("SELECT credits.get_node_number()", &[])), (5, Some(5)));
        session
            .try_run(&format!(
                "SELECT credits.create_transaction('{}', 'admin_grant', 1, 'elsewhere')",
                user(99)
            ))
            .refused("LC003");
        session.assert_as_made();
    }
}

/// A node keeps rows of accounts that have left it, and has rows of some that are arriving: a dump has those of accounts that are there, and
/// whichever comes first, rows or buckets, is restored.
#[test]
fn a_dump_has_the_accounts_that_a_node_has() {
    let cluster = Cluster::start();
    let node = Database::create_in(&cluster);
    let mut admin = node.connect();
    admin.record_history();
    let tables = ["credits_transactions", "holds", "spending_limits", "spend_caps"];
    for number in 0..USERS {
        admin.run(&format!(
            "INSERT INTO credits.spending_limits (user_id, overdraft_limit) VALUES ('{0}', 7) ON CONFLICT DO NOTHING;
             INSERT INTO credits.spend_caps (user_id, amount) VALUES ('{0}', 60);
             INSERT INTO credits.holds (user_id, amount, source_id, expires_at) VALUES ('{0}', 2, 'held for {number}', now() + interval '1 day')",
            user(number)
        ));
    }
    admin.run(&format!(
        "INSERT INTO credits.bucket_states (bucket, state)
         VALUES (credits.bucket_of('{}'), 'elsewhere'), (credits.bucket_of('{}'), 'arriving'), (credits.bucket_of('{}'), 'moving')",
        user(0),
        user(1),
        user(2)
    ));
    let rows = |session: &mut Session, condition: &str| {
        tables.map(|table| {
            session.values::<String>(
                &format!("SELECT (to_jsonb(t) - 'xact_id' - 'updated_at')::text FROM credits.{table} t WHERE {condition} ORDER BY 1"),
                &[],
            )
        })
    };
    let here = rows(&mut admin, "credits.is_here(user_id)");
    let all = rows(&mut admin, "true");
    assert!(here.iter().zip(&all).all(|(here, all)| !here.is_empty() && here.len() < all.len()));
    for (number, way) in Way::ALL.into_iter().enumerate() {
        println!("{way:?}");
        let file = cluster.folder().join(format!("kept_{number}"));
        dump(&node, way, &file);
        let restored = new_database(&cluster, &format!("kept_{number}"), way.template());
        restore(&file, way, &restored, SILENT);
        let mut session = restored.connect();
        assert_eq!(rows(&mut session, "true"), here);
        session.assert_sound();
        session.assert_as_made();
        for (number, is_here) in [(0, false), (1, false), (2, true)] {
            let charged = session.try_run(&format!(
                "SELECT credits.create_transaction('{}', 'usage', 1, 'after {number}')",
                user(number)
            ));
            if is_here {
                charged.unwrap();
            } else {
                charged.refused("LC003");
            }
        }
    }
}

/// Without the options, each user above zero crosses once, as new users do.
#[test]
fn a_restore_announces_each_first_credit_once() {
    let cluster = Cluster::start();
    let ledger = Database::create_in(&cluster);
    ledger.connect().record_history();
    let positive: Vec<Uuid> =
        ledger.connect().values("SELECT user_id FROM credits.balances WHERE balance > 0 ORDER BY 1", &[]);
    for way in [Way::Plain, Way::ParallelDataOnly] {
        let file = cluster.folder().join(format!("{way:?}"));
        dump(&ledger, way, &file);
        let restored = new_database(&cluster, &format!("announced_{way:?}").to_lowercase(), way.template());
        let mut listener = restored.listen();
        restore(&file, way, &restored, "");
        let mut announced = listener.crossings();
        announced.sort_by_key(|(user, _)| *user);
        let expected: Vec<_> = positive.iter().map(|user| (*user, Direction::Up)).collect();
        assert_eq!(announced, expected);
    }
}

#[test]
fn a_whole_cluster_is_dumped_and_restored() {
    let cluster = Cluster::start();
    let ledger = Database::create_in(&cluster);
    ledger.connect().record_history();
    let contents = ledger.connect().contents();
    let other = Database::create_in(&cluster);
    other.connect().grant(user(0), 7.into());
    let file = cluster.folder().join("dump");
    cluster.succeed(cluster.program("pg_dumpall").arg("--file").arg(&file));

    let new = Cluster::initialize(&Cluster::programs_under_test(), "");
    new.resume();
    // Not stopping at errors: the superuser is there already.
    new.succeed(
        new.program("psql")
            .env("PGOPTIONS", SILENT)
            .args(["--no-psqlrc", "--quiet", "postgres", "--file"])
            .arg(&file),
    );
    let new = Arc::new(new);
    assert_restored(&Database::open(&new, ledger.name()), &contents);
    assert_eq!(Database::open(&new, other.name()).connect().balance(user(0)), 7.into());
}
