//! Which room of the source may use which, as `docs/architecture.md` says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The rooms of the library from the lowest up, and whatever else of the library each may name.
const ROOMS: [(&str, &[&str]); 6] = [
    ("pg", &["pg", "error"]),
    ("error", &["pg", "error"]),
    ("settings", &["pg", "settings"]),
    ("engine", &["pg", "error", "settings", "engine"]),
    ("api", &["pg", "error", "settings", "engine", "api"]),
    ("entry", &["pg", "error", "settings", "engine", "api", "entry"]),
];

#[test]
fn a_room_uses_those_below_it_only() {
    let mut found = Vec::new();
    for (room, allowed) in ROOMS {
        let files = files_of_room(room);
        assert!(!files.is_empty(), "there is no room {room}");
        for file in files {
            let named = rooms_named_in(&code(&file), depth(&file));
            let upper = named.into_iter().filter(|name| !allowed.contains(&name.as_str()));
            found.extend(upper.map(|name| format!("{} is in {room} and names {name}", file.display())));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_module_of_the_library_is_in_a_room() {
    let modules: BTreeSet<String> = fs::read_dir(format!("{ROOT}/src"))
        .expect("read src")
        .map(|entry| {
            entry.expect("read src").path().file_stem().expect("a name").to_string_lossy().into_owned()
        })
        .filter(|module| module != "lib")
        .collect();
    assert_eq!(modules, ROOMS.iter().map(|(room, _)| (*room).to_owned()).collect());
}

#[test]
fn unsafe_code_is_in_the_room_pg_only() {
    for file in rust_files(Path::new(&format!("{ROOT}/src"))) {
        if !file.starts_with(format!("{ROOT}/src/pg")) {
            assert!(!has_word(&code(&file), "unsafe"), "{} has unsafe code", file.display());
            assert!(!has_word(&code(&file), "unsafe_code"), "{} allows unsafe code", file.display());
        }
    }
}

#[test]
fn the_crate_of_arithmetic_knows_nothing_of_postgres() {
    let folder = format!("{ROOT}/crates/ledger");
    let manifest = fs::read_to_string(format!("{folder}/Cargo.toml")).expect("read the manifest");
    assert!(!manifest.contains("pgrx"), "crates/ledger depends on pgrx");
    let files = rust_files(Path::new(&folder));
    assert!(!files.is_empty(), "crates/ledger has files");
    for file in files {
        let code = code(&file);
        for word in ["pgrx", "pg_sys"] {
            assert!(!has_word(&code, word), "{} names {word}", file.display());
        }
    }
}

/// What the other tests rely on.
#[test]
fn paths_are_found_however_they_are_written() {
    let named = |code: &str| rooms_named_in(&without_comments(code), 2).into_iter().collect::<Vec<_>>();
    assert_eq!(named("use crate::api::bulk;"), ["api"]);
    assert_eq!(named("use crate::{api, engine::{delta, items}, error};"), ["api", "engine", "error"]);
    assert_eq!(named("fn f() { crate :: engine\n::settle() }"), ["engine"]);
    assert_eq!(named("use super::super::engine::delta;"), ["engine"]);
    assert_eq!(named("use super::super::{api as a, engine};"), ["api", "engine"]);
    assert_eq!(named("$crate::api::x!()"), ["api"]);
    assert_eq!(named("use super::api;"), [""; 0]);
    assert_eq!(named("// crate::api\n/* crate::engine */"), [""; 0]);
    assert_eq!(named("let url = \"http://\"; crate::api::x()"), ["api"]);
}

/// The modules of the library's root that paths name: those that begin with `crate`, or with as many `super` as lead there.
fn rooms_named_in(code: &str, depth: usize) -> BTreeSet<String> {
    let tokens = tokens(code);
    let mut named = BTreeSet::new();
    for start in 0..tokens.len() {
        let path = |steps: usize, root: &str| {
            let steps = [root, "::"].into_iter().cycle().take(2 * steps);
            tokens[start..].iter().map(String::as_str).zip(steps.clone()).filter(|(a, b)| a == b).count()
                == steps.count()
        };
        let rest = if path(1, "crate") {
            &tokens[start + 2..]
        } else if path(depth, "super") {
            &tokens[start + 2 * depth..]
        } else {
            continue;
        };
        named.extend(first_names(rest));
    }
    named
}

/// The name that a path goes on with, or those of a group in braces.
fn first_names(rest: &[String]) -> Vec<String> {
    match rest.first().map(String::as_str) {
        Some("{") => {
            let (mut names, mut open, mut is_first) = (Vec::new(), 1, true);
            for token in &rest[1..] {
                match token.as_str() {
                    "{" => open += 1,
                    "}" if open == 1 => break,
                    "}" => open -= 1,
                    "," if open == 1 => is_first = true,
                    name if open == 1 && is_first => {
                        names.push(name.to_owned());
                        is_first = false;
                    }
                    _ => {}
                }
            }
            names
        }
        Some(name) => vec![name.to_owned()],
        None => Vec::new(),
    }
}

fn tokens(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut last = ' ';
    for character in code.chars() {
        let goes_on = is_of_word(character) && is_of_word(last) || (character, last) == (':', ':');
        match tokens.last_mut() {
            Some(token) if goes_on => token.push(character),
            _ if character.is_whitespace() => {}
            _ => tokens.push(character.into()),
        }
        last = character;
    }
    tokens
}

fn has_word(code: &str, word: &str) -> bool {
    tokens(code).iter().any(|token| token == word)
}

fn is_of_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn code(file: &Path) -> String {
    without_comments(&fs::read_to_string(file).expect("read a source file"))
}

/// The text without comments, and without what its string literals say.
fn without_comments(text: &str) -> String {
    let (mut code, mut rest) = (String::new(), text);
    while let Some(character) = rest.chars().next() {
        let end_of =
            |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
        let passed = if rest.starts_with("//") {
            end_of("\n", 2)
        } else if rest.starts_with("/*") {
            end_of("*/", 2)
        } else if rest.starts_with("'\"'") {
            3
        } else if character == '"' {
            let mut is_escaped = false;
            let ends = rest.char_indices().skip(1).find(|&(_, character)| {
                let ends = character == '"' && !is_escaped;
                is_escaped = character == '\\' && !is_escaped;
                ends
            });
            ends.map_or(rest.len(), |(at, _)| at + 1)
        } else {
            code.push(character);
            rest = &rest[character.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[passed..];
    }
    code
}

/// How many `super` lead from the module of this file to the root of the library.
fn depth(file: &Path) -> usize {
    let path = file.strip_prefix(format!("{ROOT}/src")).expect("a file of the library");
    path.components().count() - usize::from(path.ends_with("mod.rs"))
}

fn files_of_room(room: &str) -> Vec<PathBuf> {
    let file = PathBuf::from(format!("{ROOT}/src/{room}.rs"));
    let folder = PathBuf::from(format!("{ROOT}/src/{room}"));
    let mut files = if folder.is_dir() { rust_files(&folder) } else { Vec::new() };
    files.extend(file.is_file().then_some(file));
    files
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("read a folder") {
        let path = entry.expect("read a folder").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
