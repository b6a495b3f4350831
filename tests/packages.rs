//! What packages are made from: versions that agree, the test that packagers run, and the layout of an image.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::{Database, dec, user};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).expect("read a file")
}

/// `make check-meta` has the rest of META.json.
#[test]
fn packages_have_the_version_of_the_library() {
    let manifest = file("Cargo.toml");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .expect("Cargo.toml has a version");
    let meta = file("META.json");
    let quoted = format!("\"version\": \"{version}\"");
    assert_eq!(meta.matches(&quoted).count(), 2, "META.json: of the distribution, and of what it provides");
    let script = format!("sql/credits_ledger--{version}.sql");
    assert!(meta.contains(&format!("\"file\": \"{script}\"")) && Path::new(ROOT).join(&script).is_file());
    let changelog = file("debian/changelog");
    assert!(changelog.starts_with(&format!("credits-ledger ({version}-")), "debian/changelog: {changelog}");
}

/// `make installcheck` against a server that runs already, on every major.
#[test]
fn installcheck_passes() {
    let cluster = Cluster::start();
    let outcome = Command::new("make")
        .current_dir(ROOT)
        .arg("installcheck")
        .arg(format!("PG_CONFIG={}", cluster.programs().join("pg_config").display()))
        .env("PGHOST", cluster.folder())
        .env("PGUSER", "postgres")
        .env_remove("PGPORT")
        .output()
        .expect("make runs");
    let differences = Path::new(ROOT).join("target/installcheck/regression.diffs");
    let differences = fs::read_to_string(differences).unwrap_or_default();
    assert!(outcome.status.success(), "{outcome:?}\n{differences}");
}

/// Files outside of the server's own folders, as CloudNativePG mounts them from an image: Postgres 18 finds the control file by
/// `extension_control_path`, and the library by `dynamic_library_path` although the control file says `$libdir`.
#[test]
fn an_image_is_found_by_its_paths() {
    let db = Database::create_empty_alone();
    let mut session = db.connect();
    if session.server_version() < 180_000 {
        return;
    }
    let installed = |name: &str| {
        let output = db.cluster().program("pg_config").arg(name).output().expect("run pg_config");
        String::from_utf8(output.stdout).expect("a path is UTF-8").trim().to_owned()
    };
    let image = std::env::temp_dir().join(format!("credits_ledger-image-{}", std::process::id()));
    let _ = fs::remove_dir_all(&image);
    for folder in ["", "lib", "share", "share/extension"] {
        fs::create_dir(image.join(folder)).expect("make a folder");
        fs::set_permissions(image.join(folder), fs::Permissions::from_mode(0o755))
            .expect("let the server in");
    }
    let library = Path::new(&installed("--pkglibdir")).join("credits_ledger.so");
    fs::copy(library, image.join("lib/credits_ledger.so")).expect("copy the library");
    let scripts = Path::new(&installed("--sharedir")).join("extension");
    for entry in fs::read_dir(scripts).expect("list extensions") {
        let entry = entry.expect("read an entry");
        if entry.file_name().to_string_lossy().starts_with("credits_ledger") {
            fs::copy(entry.path(), image.join("share/extension").join(entry.file_name()))
                .expect("copy a file");
        }
    }

    let here = image.display();
    let extension_paths = format!("ALTER SYSTEM SET extension_control_path = '{here}/share'");
    // Found first; plpgsql, whose functions say `$libdir` too, is found by the second.
    let library_paths = format!("ALTER SYSTEM SET dynamic_library_path = '{here}/lib:$libdir'");
    for setting in [extension_paths, library_paths, "SELECT pg_reload_conf()".to_owned()] {
        session.run(&setting);
    }
    db.until("SELECT current_setting('dynamic_library_path') <> '$libdir'", &[]);
    let mut session = db.connect();
    session.run("CREATE EXTENSION credits_ledger");
    session.grant(user(1), dec!(1));
    session.assert_as_made();
    let mapped: Vec<String> = session.values(
        "SELECT DISTINCT substring(line FROM '/.*') FROM regexp_split_to_table(pg_read_file('/proc/self/maps'), E'\n') line
         WHERE line LIKE '%credits_ledger.so'",
        &[],
    );
    assert_eq!(mapped, [format!("{here}/lib/credits_ledger.so")]);
    fs::remove_dir_all(&image).expect("remove the image");
}
