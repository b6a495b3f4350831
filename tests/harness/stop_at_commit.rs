//! Commits that are stopped when others see them and have not been told of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use postgres::Error;

use crate::cluster::Cluster;
use crate::database::PATIENCE;
use crate::lifecycle::Paused;
use crate::{Background, Database, Session};

/// The module in which sessions stop: `harness/stop_at_commit.c`.
static MODULE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/stop_at_commit.c");
    let built = std::env::temp_dir().join(format!("credits_ledger_tests_stop_{}.so", std::process::id()));
    let headers = Command::new(Cluster::programs_under_test().join("pg_config"))
        .arg("--includedir-server")
        .output()
        .expect("there is a pg_config");
    let headers = String::from_utf8(headers.stdout).expect("a path");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-I", headers.trim(), "-o"]).arg(&built).arg(source);
    assert!(
        compiler.status().expect("there is a C compiler").success(),
        "harness/stop_at_commit.c does not compile"
    );
    let module = std::fs::read(&built).expect("read what was compiled");
    let _ = std::fs::remove_file(&built);
    module
});

/// A transaction whose commit is visible, and of which no session has received an invalidation.
pub struct StoppedCommit {
    stopped: Paused,
    commit: Background<Result<(), Error>>,
}

impl Database {
    /// Commits a session's transaction but for what comes behind its being visible, up to [`StoppedCommit::release`].
    ///
    /// # Panics
    /// If the commit does not get there.
    #[must_use]
    pub fn stop_commit(&self, mut session: Session) -> StoppedCommit {
        let module: PathBuf = self.cluster().folder().join("stop_at_commit.so");
        std::fs::write(&module, &*MODULE).expect("write the module");
        session.run(&format!("LOAD '{}'", module.display()));
        let commit = session.background(|session| session.try_run("COMMIT"));
        let began = Instant::now();
        while !is_stopped(commit.pid()) {
            assert!(began.elapsed() < PATIENCE, "the commit does not stop");
            thread::sleep(Duration::from_millis(2));
        }
        StoppedCommit { stopped: self.cluster().pause(commit.pid()), commit }
    }
}

fn is_stopped(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && line.contains("T (stopped)"))
}

impl StoppedCommit {
    /// Lets the commit end.
    ///
    /// # Panics
    /// If it fails.
    pub fn release(self) {
        drop(self.stopped);
        self.commit.finish().1.expect("the stopped commit succeeds");
    }
}
