//! A throwaway server that makes every commit durable, and pgbench against it.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use postgres::{Client, Config, NoTls};

const SUPERUSER: &str = "postgres";

/// Nothing happens in the background while a side is measured: no autovacuum, no checkpoint; a line that needs either
/// asks for it. JIT compiles the reference's larger queries anew at each call and would flatter us.
const SETTINGS: &str = "\
listen_addresses = ''
fsync = on
synchronous_commit = on
full_page_writes = on
shared_buffers = 2GB
max_wal_size = 16GB
checkpoint_timeout = 1d
maintenance_work_mem = 512MB
max_connections = 100
autovacuum = off
jit = off
";

/// A shell owns the server from its first file to its last: it waits on a pipe from this process and removes the server at
/// end of file. `$1` is the folder of the server's programs, `$2` the settings.
const OWNER: &str = r#"
set -eu
folder=$(mktemp -d /var/tmp/credits_ledger_bench.XXXXXX)
trap '"$1/pg_ctl" stop --pgdata="$folder/data" --mode=immediate >/dev/null 2>&1 </dev/null || true; rm -rf "$folder"' EXIT
trap 'exit 1' PIPE HUP INT TERM
{ "$1/initdb" --pgdata="$folder/data" --username=postgres --auth=trust --encoding=UTF8 --no-locale &&
  { echo "$2"; echo "unix_socket_directories = '$folder'"; } >>"$folder/data/postgresql.conf" &&
  "$1/pg_ctl" start --pgdata="$folder/data" --log="$folder/log" --wait </dev/null; } >"$folder/start" 2>&1 ||
  { cat "$folder/start" >&2; exit 1; }
echo "$folder"
read -r _ || true
"#;

/// A running server. It ends with this value.
pub struct Server {
    folder: PathBuf,
    programs: PathBuf,
    /// Whose processes the server's are.
    owner: (u32, u32),
    _owner: Child,
}

/// How a script is run.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    pub database: &'a str,
    /// In pgbench's language.
    pub script: &'a str,
    pub clients: u32,
    pub length: Length,
    /// Settings of the sessions, as `-c name=value`.
    pub options: &'a str,
}

/// How long a load lasts.
#[derive(Clone, Copy)]
pub enum Length {
    Seconds(u64),
    /// Of each client.
    Transactions(u64),
}

/// What pgbench reports.
pub struct Speed {
    pub per_second: f64,
    pub milliseconds: f64,
    /// Of these, what the last statement of the script took.
    pub milliseconds_of_last: f64,
}

impl Server {
    /// Starts a new server, for which `CREDITS_LEDGER_BIN` names the programs and `CREDITS_LEDGER_SERVER_USER` the user.
    pub fn start() -> Result<Self> {
        let variable =
            |name| std::env::var(name).with_context(|| format!("{name} is not set: run `make bench`"));
        let programs = PathBuf::from(variable("CREDITS_LEDGER_BIN")?);
        let user = variable("CREDITS_LEDGER_SERVER_USER")?;
        // Its own process group: the owner must survive Ctrl-C to clean up.
        let (user, group) = (id("-u", &user)?, id("-g", &user)?);
        let mut owner = Command::new("sh")
            .args(["-c", OWNER, "sh"])
            .arg(&programs)
            .arg(SETTINGS)
            .current_dir("/")
            .uid(user)
            .gid(group)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut folder = String::new();
        BufReader::new(owner.stdout.take().expect("is piped")).read_line(&mut folder)?;
        let folder = PathBuf::from(folder.trim_end());
        ensure!(folder.is_dir(), "the server did not start");
        Ok(Self { folder, programs, owner: (user, group), _owner: owner })
    }

    /// A session.
    pub fn connect(&self, database: &str) -> Result<Client> {
        Ok(self.config(database).connect(NoTls)?)
    }

    /// How to open one.
    pub fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.folder).dbname(database).user(SUPERUSER);
        config
    }

    /// Copies a database under a new name.
    pub fn copy_database(&self, from: &str, to: &str) -> Result<()> {
        let mut client = self.connect("postgres")?;
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {to}"))?;
        client.batch_execute(&format!("CREATE DATABASE {to} TEMPLATE {from}"))?;
        Ok(())
    }

    /// Drops a database.
    pub fn drop_database(&self, name: &str) -> Result<()> {
        self.connect("postgres")?.batch_execute(&format!("DROP DATABASE {name}"))?;
        Ok(())
    }

    /// The folder of its socket.
    pub fn socket(&self) -> String {
        self.folder.display().to_string()
    }

    /// A file that the server may write and read.
    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Does the work on the server with another value of a setting that takes a restart.
    pub fn with_setting<T>(&self, name: &str, value: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.restart(&format!("ALTER SYSTEM SET {name} = '{value}'"))?;
        let result = work();
        self.restart(&format!("ALTER SYSTEM RESET {name}"))?;
        result
    }

    fn restart(&self, change: &str) -> Result<()> {
        self.connect("postgres")?.batch_execute(change)?;
        let (user, group) = self.owner;
        let status = Command::new(self.programs.join("pg_ctl"))
            .args(["restart", "--wait", "--mode=fast", "--pgdata"])
            .arg(self.folder.join("data"))
            .arg("--log")
            .arg(self.folder.join("log"))
            .current_dir("/")
            .uid(user)
            .gid(group)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        ensure!(status.success(), "the server did not restart");
        Ok(())
    }

    /// The server's version.
    pub fn version(&self) -> Result<String> {
        Ok(self.connect("postgres")?.query_one("SHOW server_version", &[])?.get(0))
    }

    /// Runs a script with prepared statements.
    pub fn pgbench(&self, load: &Load) -> Result<Speed> {
        let script = std::env::temp_dir().join(format!("credits_ledger_bench_{}.sql", std::process::id()));
        std::fs::write(&script, load.script)?;
        let mut command = Command::new(self.programs.join("pgbench"));
        command.args(["-n", "-r", "-M", "prepared", "-U", SUPERUSER, "-c", &load.clients.to_string()]);
        command.args(["-j", &load.clients.min(2).to_string()]);
        match load.length {
            Length::Seconds(n) => command.args(["-T", &n.to_string()]),
            Length::Transactions(n) => command.args(["-t", &n.to_string()]),
        };
        let output = command
            .arg("-h")
            .arg(&self.folder)
            .arg("-f")
            .arg(&script)
            .arg(load.database)
            .env("PGOPTIONS", load.options)
            .output()?;
        std::fs::remove_file(&script)?;
        let report = String::from_utf8_lossy(&output.stdout);
        // pgbench exits with 2 when a client's transaction failed.
        if !output.status.success() {
            bail!("pgbench: {}\n{report}\nscript: {}", String::from_utf8_lossy(&output.stderr), load.script);
        }
        let number = |label: &str| -> Result<f64> {
            let line =
                report.lines().find_map(|line| line.strip_prefix(label)).context("pgbench's report")?;
            Ok(line.split_whitespace().next().context("a number")?.parse()?)
        };
        // A list of the script's commands with their latencies ends the report.
        let last = report.lines().last().and_then(|line| line.split_whitespace().next());
        Ok(Speed {
            per_second: number("tps = ")?,
            milliseconds: number("latency average = ")?,
            milliseconds_of_last: last.context("pgbench's report")?.parse().context("a latency")?,
        })
    }
}

fn id(flag: &str, user: &str) -> Result<u32> {
    let output = Command::new("id").args([flag, user]).output()?;
    ensure!(output.status.success(), "there is no user {user}");
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}
