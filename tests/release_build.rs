//! `make build-release` as a user, then `make install` as somebody who has no compiler.
//!
//! In a copy of what the Makefile needs, with a cargo that writes a file: what is tested is what is built and when.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What the Makefile looks at, beside sources.
const COPIED: [&str; 5] =
    ["Makefile", "Cargo.toml", "Cargo.lock", "credits_ledger.control", "tools/requirements.sh"];

/// What the Makefile runs that every machine has.
const PROGRAMS: [&str; 11] =
    ["bash", "cat", "cp", "env", "find", "head", "install", "make", "mkdir", "rm", "sed"];

/// A checkout with one source file, a server to install into, and programs that stand for the compiler.
struct Checkout(PathBuf);

impl Checkout {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("credits_ledger-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        for inner in ["tools", "src", "crates/ledger", "sql/schema", "bin", "machine", "server/extension"] {
            fs::create_dir_all(folder.join(inner)).expect("make a folder");
        }
        for file in COPIED {
            fs::copy(Path::new(ROOT).join(file), folder.join(file)).expect("copy a file");
        }
        for file in ["src/lib.rs", "sql/credits_ledger--1.sql", "server/postgres.h"] {
            fs::write(folder.join(file), "").expect("write a file");
        }
        for program in PROGRAMS {
            let path = std::env::var_os("PATH").expect("there is a PATH");
            let found =
                std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
            symlink(
                found.unwrap_or_else(|| panic!("{program} is here")),
                folder.join("machine").join(program),
            )
            .expect("link a program");
        }
        let checkout = Self(folder);
        checkout.program(
            "pg_config",
            &format!(
                "case $1 in --version) echo 'PostgreSQL 15.4' ;; *) echo '{}' ;; esac",
                checkout.server().display()
            ),
        );
        for tool in ["cc", "clang"] {
            checkout.program(tool, "");
        }
        checkout.program(
            "cargo",
            "mkdir -p target/pg15/release; echo built >> target/pg15/release/libcredits_ledger.so",
        );
        checkout
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.0.join("bin").join(name);
        fs::write(&path, format!("#!/usr/bin/env bash\n{script}\n")).expect("write a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it a program");
    }

    fn server(&self) -> PathBuf {
        self.0.join("server")
    }

    /// Runs make with this target, and without cargo unless `has_cargo`: root has none under sudo.
    fn make(&self, target: &str, has_cargo: bool) -> Output {
        let folder = |name: &str| self.0.join(name).display().to_string();
        let path =
            if has_cargo { format!("{}:{}", folder("bin"), folder("machine")) } else { folder("machine") };
        Command::new("make")
            .current_dir(&self.0)
            .args([target, &format!("PG_CONFIG={}/pg_config", folder("bin"))])
            .env_clear()
            .env("PATH", path)
            .output()
            .expect("make runs")
    }

    /// How often the installed library was built.
    fn installed_build(&self) -> usize {
        fs::read_to_string(self.server().join("credits_ledger.so")).map_or(0, |text| text.lines().count())
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn succeeds(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_a_user_has_built_is_installed_without_cargo() {
    let checkout = Checkout::new("two-steps");
    succeeds(&checkout.make("build-release", true));
    assert_eq!(checkout.installed_build(), 0, "a build installs nothing");
    succeeds(&checkout.make("install", false));
    assert_eq!(checkout.installed_build(), 1);
    let extension = checkout.server().join("extension");
    for file in ["credits_ledger.control", "credits_ledger--1.sql"] {
        assert!(extension.join(file).is_file(), "{file}");
    }
    succeeds(&checkout.make("install", true));
    assert_eq!(checkout.installed_build(), 1, "nothing has changed: it is not built again");
    succeeds(&checkout.make("uninstall", false));
    assert!(!checkout.server().join("credits_ledger.so").exists());
    assert_eq!(fs::read_dir(extension).unwrap().count(), 0);
}

#[test]
fn an_old_build_is_not_installed() {
    let checkout = Checkout::new("old-build");
    succeeds(&checkout.make("build-release", true));
    let later = fs::metadata(checkout.0.join("target/pg15/install/pg_config")).unwrap().modified().unwrap()
        + std::time::Duration::from_secs(5);
    fs::File::options()
        .append(true)
        .open(checkout.0.join("src/lib.rs"))
        .unwrap()
        .set_modified(later)
        .unwrap();
    let refused = checkout.make("install", false);
    assert!(!refused.status.success(), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("make build-release") && said.contains("cargo"), "{said}");
    assert_eq!(checkout.installed_build(), 0);
    succeeds(&checkout.make("install", true));
    assert_eq!(checkout.installed_build(), 2);
}

#[test]
fn a_build_for_another_server_is_not_installed() {
    let checkout = Checkout::new("other-server");
    succeeds(&checkout.make("build-release", true));
    fs::write(checkout.0.join("target/pg15/install/pg_config"), "/elsewhere/pg_config\n").unwrap();
    assert!(!checkout.make("install", false).status.success());
    assert_eq!(checkout.installed_build(), 0);
}
