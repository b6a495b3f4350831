//! The Postgres cluster that the tests of a process share, and further ones for tests that disturb others.
//!
//! A shell owns the folder of a cluster. It waits on a pipe from the test process, and stops and removes the cluster at
//! end of file: that comes when the cluster is dropped or the process ends, however it ends.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};

use postgres::{Client, Config, NoTls};

use crate::lifecycle::Shutdown;

/// Role that owns everything.
pub const SUPERUSER: &str = "postgres";

/// Database that every test's own is copied from.
pub const TEMPLATE: &str = "ledger_template";

/// synchronous_standby_names names a standby that does not exist, so that a session with synchronous_commit = on stays
/// inside its commit until it is told to go on; no other session waits for it.
const SETTINGS: &str = "\
listen_addresses = ''
unix_socket_permissions = 0700
fsync = off
synchronous_commit = local
synchronous_standby_names = 'nobody'
max_connections = 200
max_prepared_transactions = 20
log_min_messages = warning
log_line_prefix = '%m [%p] %d '
";

/// `$1` is the folder of the server's programs. In memory a database is made in a tenth of the time that it takes on a disk, and
/// most tests do little else; no test needs what it writes to outlast the machine. A process that a test has killed is not worth
/// mentioning.
const OWNER: &str = r#"
set -eu
memory=/dev/shm
[ -w "$memory" ] && [ "$(df -Pk "$memory" | awk 'END { print $4 }')" -ge 4000000 ] || memory=/tmp
folder=$(mktemp -d "${TMPDIR:-$memory}/credits_ledger_tests.XXXXXX")
data=$folder/data log=$folder/log
remove() {
  "$1/pg_ctl" stop --pgdata="$data" --mode=immediate >/dev/null 2>&1 </dev/null || true
  grep -E 'PANIC|TRAP|terminated by signal' "$log" 2>/dev/null | grep -v 'terminated by signal 9' >&2 || true
  rm -rf "$folder"
}
trap 'remove "$1"' EXIT
trap 'exit 1' PIPE HUP INT TERM
echo "$folder"
read -r _ || true
"#;

/// A cluster. Its server may be stopped and go on: see `lifecycle`.
pub struct Cluster {
    folder: PathBuf,
    programs: PathBuf,
    user: User,
    /// Holds the pipe that keeps the cluster alive.
    _owner: Child,
}

/// Who the server runs as.
struct User {
    uid: u32,
    gid: u32,
}

impl Cluster {
    /// The cluster of this process.
    #[must_use]
    pub fn shared() -> Arc<Self> {
        static SHARED: LazyLock<Arc<Cluster>> = LazyLock::new(Cluster::start);
        Arc::clone(&SHARED)
    }

    /// A new cluster.
    #[must_use]
    pub fn start() -> Arc<Self> {
        Self::start_with("")
    }

    /// A new cluster with further settings, lines of `postgresql.conf` that override those of every cluster.
    #[must_use]
    pub fn start_with(settings: &str) -> Arc<Self> {
        let cluster = Self::as_made();
        cluster.configure(settings);
        cluster.resume();
        Arc::new(cluster)
    }

    /// A new cluster with the template of databases, whose server does not run yet: a copy of one that the process makes once,
    /// which takes a fifth of the time.
    pub(crate) fn as_made() -> Self {
        static MADE: LazyLock<Arc<Cluster>> = LazyLock::new(|| {
            let made = Cluster::initialize(&Cluster::programs_under_test(), "").begin();
            made.stop(Shutdown::Fast);
            made
        });
        let cluster = Self::empty(MADE.programs());
        cluster.succeed(cluster.command(Path::new("cp")).arg("-R").arg(MADE.data()).arg(cluster.folder()));
        cluster.listen_in_its_folder();
        cluster
    }

    /// Starts the server for the first time and makes the template of databases.
    #[must_use]
    pub fn begin(self) -> Arc<Self> {
        self.resume();
        self.execute("postgres", &format!("CREATE DATABASE {TEMPLATE}"));
        self.execute(TEMPLATE, "CREATE EXTENSION credits_ledger");
        Arc::new(self)
    }

    /// The folder of the server's programs that the tests are run for.
    #[must_use]
    pub fn programs_under_test() -> PathBuf {
        PathBuf::from(environment("CREDITS_LEDGER_BIN"))
    }

    /// A new cluster of these programs, whose server does not run yet.
    ///
    /// # Panics
    /// If there is none to be had.
    #[must_use]
    pub fn initialize(programs: &Path, settings: &str) -> Self {
        let cluster = Self::empty(programs);
        // Checksums whatever the major: some have them by default, and pg_upgrade wants them alike.
        cluster.succeed(
            cluster
                .program("initdb")
                .args([
                    "--username=postgres",
                    "--auth=trust",
                    "--encoding=UTF8",
                    "--no-locale",
                    "--no-sync",
                    "--data-checksums",
                ])
                .arg("--pgdata")
                .arg(cluster.data()),
        );
        cluster.configure(SETTINGS);
        cluster.configure(settings);
        cluster.listen_in_its_folder();
        cluster
    }

    pub(crate) fn listen_in_its_folder(&self) {
        self.configure(&format!("unix_socket_directories = '{}'", self.folder().display()));
    }

    /// A folder for a cluster of these programs, without data.
    pub(crate) fn empty(programs: &Path) -> Self {
        let user = User::named(&environment("CREDITS_LEDGER_SERVER_USER"));
        // Its own process group: Ctrl-C is for the tests, and the owner must survive it to clean up.
        let mut owner = user
            .command("sh")
            .args(["-c", OWNER, "sh"])
            .arg(programs)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start a shell");
        let mut folder = String::new();
        let stdout = owner.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut folder).expect("read the cluster's folder");
        let folder = PathBuf::from(folder.trim_end());
        assert!(folder.is_dir(), "there is no folder for a cluster");
        Self { folder, programs: programs.to_owned(), user, _owner: owner }
    }

    /// How to connect to a database as a role.
    #[must_use]
    pub fn config(&self, database: &str, role: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.folder).dbname(database).user(role);
        config
    }

    /// Runs statements outside of any test's database, or before there is one.
    pub fn execute(&self, database: &str, sql: &str) {
        let mut client: Client = self
            .config(database, SUPERUSER)
            .connect(NoTls)
            .unwrap_or_else(|e| panic!("connect to {database}: {e}"));
        client.batch_execute(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// One of the server's programs (`psql`, `pg_dump`), set up to reach this cluster.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        self.command(&self.programs.join(name))
    }

    /// Any program, as the server's user.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = self.user.command(program);
        command.current_dir(self.folder()).env("PGHOST", self.folder()).env("PGUSER", SUPERUSER);
        command
    }

    /// Fails if the log tells of a crash, a leak, or anything else that no test asks for.
    ///
    /// # Panics
    /// If it does.
    #[track_caller]
    pub fn assert_quiet_log(&self) {
        // A SERIALIZABLE transaction may be told by a refresh that it would have to be tried again.
        let bad = |line: &&str| {
            ["PANIC:", "TRAP:", "terminated by signal", "WARNING:"].iter().any(|word| line.contains(word))
                || line.contains("is put off") && !line.contains("SERIALIZATION_FAILURE")
        };
        let log = std::fs::read(self.folder.join("log")).expect("read the server's log");
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().filter(bad).collect();
        assert!(lines.is_empty(), "in the server's log: {lines:#?}");
    }

    /// Runs a program that must succeed, and returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn succeed(&self, command: &mut Command) -> String {
        let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {printed}{complaint}{}", self.log());
        printed
    }

    /// Where the socket is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the data are.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The folder of the server's programs.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs
    }
}

impl User {
    fn named(name: &str) -> Self {
        let id = |flag: &str| {
            let output = Command::new("id").args([flag, name]).output().expect("run id");
            let text = String::from_utf8(output.stdout).expect("id prints a number");
            text.trim().parse().unwrap_or_else(|_| panic!("there is no user {name}"))
        };
        Self { uid: id("-u"), gid: id("-g") }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        // A server that is asked for backtraces adds them to its errors.
        command.uid(self.uid).gid(self.gid).env_remove("RUST_BACKTRACE");
        command
    }
}

fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test`"))
}
