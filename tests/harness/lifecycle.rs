//! What happens to a cluster's server: it is stopped or killed and goes on, is copied, follows another and is promoted.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use postgres::NoTls;
use postgres::types::PgLsn;

use crate::Session;
use crate::cluster::{Cluster, SUPERUSER};
use crate::database::PATIENCE;

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// In order.
    Fast,
    /// As if it had crashed: it must recover when it goes on.
    Immediate,
}

/// A process that was stopped goes on when this is dropped.
pub struct Paused {
    cluster: Arc<Cluster>,
    pid: i32,
}

impl Drop for Paused {
    fn drop(&mut self) {
        let _ = self.cluster.command(Path::new("kill")).args(["-CONT", &self.pid.to_string()]).status();
    }
}

impl Cluster {
    /// Adds settings, which take effect when the server starts next.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn configure(&self, settings: &str) {
        let path = self.data().join("postgresql.conf");
        let mut file = OpenOptions::new().append(true).open(path).expect("the cluster has a configuration");
        writeln!(file, "{settings}").expect("write the configuration");
    }

    /// Has transaction ids go on in another epoch: this many times 2^32 further. The server is stopped.
    #[track_caller]
    pub fn set_epoch(&self, epoch: u32) {
        self.succeed(self.program("pg_resetwal").arg(format!("--epoch={epoch}")).arg(self.data()));
    }

    /// Starts the server, and waits until it can be connected to.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn resume(&self) {
        let mut start = self.program("pg_ctl");
        // Whatever a server is told, clients hear of no backtrace: `refused` looks.
        start
            .env("RUST_BACKTRACE", "full")
            // Packages that can be moved have a postgres_fdw that looks for libpq where it was built.
            .env("LD_LIBRARY_PATH", self.programs().join("../lib"))
            .args(["start", "--wait", "--pgdata"])
            .arg(self.data())
            .arg("--log")
            .arg(self.folder().join("log"));
        if self.clock().is_file() {
            start.env("LD_PRELOAD", self.clock_library()).env("SERVER_CLOCK", self.clock());
        }
        // A server would hold pipes open.
        let started = start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(started.is_ok_and(|status| status.success()), "the server does not start: {}", self.log());
    }

    /// Stops the server.
    #[track_caller]
    pub fn stop(&self, mode: Shutdown) {
        let mode = match mode {
            Shutdown::Fast => "--mode=fast",
            Shutdown::Immediate => "--mode=immediate",
        };
        self.succeed(self.program("pg_ctl").args(["stop", "--wait", mode, "--pgdata"]).arg(self.data()));
    }

    /// Kills a process of the server, which must recover.
    #[track_caller]
    pub fn kill(&self, pid: i32) {
        self.succeed(self.command(Path::new("kill")).args(["-KILL", &pid.to_string()]));
    }

    /// Stops a process of the server wherever it is, until the guard is dropped.
    #[track_caller]
    pub fn pause(self: &Arc<Self>, pid: i32) -> Paused {
        self.succeed(self.command(Path::new("kill")).args(["-STOP", &pid.to_string()]));
        Paused { cluster: Arc::clone(self), pid }
    }

    /// Waits until the server, which recovers by itself, can be connected to.
    ///
    /// # Panics
    /// If that never comes.
    pub fn until_open(&self) {
        let began = Instant::now();
        while let Err(error) = self.config("postgres", SUPERUSER).connect(NoTls) {
            assert!(began.elapsed() < PATIENCE, "the server does not recover: {error}: {}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// A copy of the running cluster, by pg_basebackup, whose server does not run yet.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Self::empty(self.programs());
        self.succeed(
            self.program("pg_basebackup")
                .args(["--checkpoint=fast", "--no-sync", "--wal-method=stream", "--pgdata"])
                .arg(copy.data()),
        );
        copy.listen_in_its_folder();
        copy
    }

    /// Has the server begin with archive recovery (`recovery`) or as a standby (`standby`).
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn signal(&self, what: &str) {
        std::fs::write(self.data().join(format!("{what}.signal")), "").expect("write the signal file");
    }

    /// A hot standby that follows this cluster.
    #[must_use]
    pub fn standby(&self) -> Arc<Self> {
        let standby = self.copy();
        standby.configure(&format!("primary_conninfo = 'host={} user={SUPERUSER}'", self.folder().display()));
        standby.signal("standby");
        standby.resume();
        Arc::new(standby)
    }

    /// Ends recovery: from now on the server is one of its own.
    #[track_caller]
    pub fn promote(&self) {
        self.succeed(self.program("pg_ctl").args(["promote", "--wait", "--pgdata"]).arg(self.data()));
    }

    /// Waits until this standby has replayed all that the primary has committed by now.
    ///
    /// # Panics
    /// If that never comes.
    pub fn catch_up(&self, primary: &Self) {
        let mut session = Session::connect(&primary.config("postgres", SUPERUSER));
        // What was flushed last may be half a record, which no standby replays; a commit flushes whole ones.
        let written: PgLsn = session.value("SELECT pg_logical_emit_message(true, 'catch up', '')", &[]);
        let mut session = Session::connect(&self.config("postgres", SUPERUSER));
        let began = Instant::now();
        while !session.value::<bool>("SELECT pg_last_wal_replay_lsn() >= $1", &[&written]) {
            assert!(began.elapsed() < PATIENCE, "the standby does not catch up: {}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }
}
