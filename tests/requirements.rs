//! `make build-release`, and so `make install`, says what it needs before it begins.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A folder with just these programs of the machine's, as the only one of PATH.
struct Machine(PathBuf);

impl Machine {
    fn with(name: &str, programs: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("credits_ledger-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("make a folder");
        for program in programs.iter().chain(&["bash", "env", "sed"]) {
            let found = std::env::split_paths(&std::env::var_os("PATH").expect("there is a PATH"))
                .map(|folder| folder.join(program))
                .find(|path| path.is_file());
            symlink(found.unwrap_or_else(|| panic!("{program} is here")), folder.join(program))
                .expect("link a program");
        }
        Self(folder)
    }

    /// A pg_config that says what it is asked to.
    fn has_pg_config(&self, version: &str, headers: &Path) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join("pg_config");
        let script = format!(
            "#!/usr/bin/env bash\ncase $1 in --version) echo '{version}' ;; *) echo '{}' ;; esac\n",
            headers.display()
        );
        fs::write(&path, script).expect("write a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it a program");
        path
    }

    fn asks(&self, pg_config: Option<&Path>) -> Output {
        let mut script = Command::new(self.0.join("bash"));
        script.arg(format!("{ROOT}/tools/requirements.sh")).args(pg_config).env_clear().env("PATH", &self.0);
        script.output().expect("bash runs")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is missing, which must be said on standard error and nowhere else.
fn missing(output: &Output) -> String {
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
    String::from_utf8(output.stderr.clone()).expect("the script writes UTF-8")
}

#[test]
fn everything_that_is_missing_is_named_at_once() {
    let bare = Machine::with("bare", &[]);
    let said = missing(&bare.asks(None));
    for package in [
        "PG_CONFIG=",
        "postgresql-server-dev-all",
        "postgresql-server-devel",
        "rustup",
        "gcc",
        "clang",
        "python3-pip",
    ] {
        assert!(said.contains(package), "{package}: {said}");
    }
}

#[test]
fn the_headers_are_those_of_the_server() {
    let machine = Machine::with("headers", &["cargo", "cc"]);
    let pg_config = machine.has_pg_config("PostgreSQL 16.4 (Debian)", &machine.0);
    let said = missing(&machine.asks(Some(&pg_config)));
    assert!(said.contains("postgresql-server-dev-16") && said.contains("postgresql16-devel"), "{said}");
    assert!(!said.contains("rustup") && !said.contains("gcc"), "{said}");
    fs::write(machine.0.join("postgres.h"), "").unwrap();
    symlink("/bin/true", machine.0.join("clang")).unwrap();
    // The one that PATH finds, and the one that is given.
    for given in [None, Some(pg_config.as_path())] {
        let output = machine.asks(given);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), pg_config.to_string_lossy());
    }
}

#[test]
fn a_server_that_it_is_not_for_is_told() {
    let machine = Machine::with("old", &["cargo", "cc"]);
    let pg_config = machine.has_pg_config("PostgreSQL 13.9", &machine.0);
    assert!(missing(&machine.asks(Some(&pg_config))).contains("14 to 18"));
    let nowhere = machine.0.join("nowhere");
    assert!(missing(&machine.asks(Some(&nowhere))).contains("cannot be run"));
}
