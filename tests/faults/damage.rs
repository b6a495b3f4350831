//! A ledger with a damaged block: what reads the block fails as it does in Postgres, and the session goes on.

use std::fs::OpenOptions;
use std::io::Write;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::{Database, Refused, Shutdown, dec, user};

/// An error that the server raises while the feed reads a block must not pass over frames of the library: what they leave
/// behind would make another error of the session, later on, reach the client as an internal one.
#[test]
fn an_error_of_a_block_read_leaves_nothing_behind() {
    let cluster = Cluster::start();
    let db = Database::create_in(&cluster);
    let mut session = db.connect();
    for _ in 0..10 {
        session.grant(user(1), dec!(1));
    }
    session.run(
        "CREATE ROLE outsider;
         GRANT USAGE ON SCHEMA credits TO outsider;
         GRANT EXECUTE ON FUNCTION credits.refresh_idle_checkpoints(interval, bigint) TO outsider;
         CHECKPOINT",
    );
    let ledger: String = session.value("SELECT pg_relation_filepath('credits.credits_transactions')", &[]);
    drop(session);
    cluster.stop(Shutdown::Fast);
    let mut file = OpenOptions::new().write(true).open(cluster.data().join(ledger)).unwrap();
    file.write_all(&[0xff; 24]).expect("overwrite the header of the first block");
    drop(file);
    cluster.resume();

    let mut session = db.connect();
    for _ in 0..2 {
        session.try_run("SELECT * FROM credits.transactions_after()").refused("XX001");
        session.run("SET ROLE outsider");
        let refused = session.try_run("SELECT credits.refresh_idle_checkpoints('0')").refused("42501");
        assert_eq!(refused.message(), "permission denied for view checkpoints");
        session.run("RESET ROLE");
    }
}
