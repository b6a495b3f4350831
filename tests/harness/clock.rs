//! A server whose clock a test sets. It runs on from there, as clocks do.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Session;
use crate::cluster::{Cluster, SUPERUSER};

/// What the server loads before the C library: `harness/clock.c`.
static LIBRARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/clock.c");
    let built = std::env::temp_dir().join(format!("credits_ledger_tests_clock_{}.so", std::process::id()));
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&built).arg(source).arg("-ldl");
    assert!(compiler.status().expect("there is a C compiler").success(), "harness/clock.c does not compile");
    let library = std::fs::read(&built).expect("read what was compiled");
    let _ = std::fs::remove_file(&built);
    library
});

impl Cluster {
    /// A new cluster with a clock of its own, and further settings.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_with_clock(settings: &str) -> Arc<Self> {
        let cluster = Self::as_made();
        cluster.configure(settings);
        std::fs::write(cluster.clock(), 0_i64.to_ne_bytes()).expect("write the clock");
        std::fs::write(cluster.clock_library(), &*LIBRARY).expect("write the library of the clock");
        cluster.resume();
        Arc::new(cluster)
    }

    /// Sets the clock of a cluster that has one of its own to this `timestamptz`.
    ///
    /// # Panics
    /// If it has none.
    pub fn set_clock(&self, time: &str) {
        let mut session = Session::connect(&self.config("postgres", SUPERUSER));
        let micros: i64 = session
            .value(&format!("SELECT (extract(epoch FROM timestamptz '{time}') * 1000000)::bigint"), &[]);
        let real = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_micros();
        let ahead = micros - i64::try_from(real).expect("it is before 292277");
        // In place: the server has mapped the file, and dies of a signal if it reads the clock where the file has no end yet.
        let clock =
            OpenOptions::new().write(true).open(self.clock()).expect("the cluster has a clock of its own");
        clock.write_all_at(&ahead.to_ne_bytes(), 0).expect("write the clock");
        let is_set: bool = session.value(
            &format!("SELECT clock_timestamp() >= '{time}' AND clock_timestamp() < timestamptz '{time}' + interval '1 minute'"),
            &[],
        );
        assert!(is_set, "the server's clock does not follow");
    }

    /// Where the clock is, if the cluster has one of its own.
    pub(crate) fn clock(&self) -> PathBuf {
        self.folder().join("clock")
    }

    pub(crate) fn clock_library(&self) -> PathBuf {
        self.folder().join("clock.so")
    }
}
