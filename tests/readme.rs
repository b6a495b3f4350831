//! The pages say what is so: README.md, CONTRIBUTING.md and each page of `docs/`. Their SQL runs, their psql sessions answer what they show, and
//! their shell commands are among those that `.ci/run` runs. `pages` has the rest: links, and what the catalog must agree with.
//!
//! The SQL of a page, ```` ```console ```` sessions and ```` ```sql ```` blocks, is one script from top to bottom, run by
//! one psql in a database of the page's own, with the scripts that the page has psql run. A page that does not show
//! `CREATE EXTENSION` finds it made. Marks between the statements tell which output belongs to which.

use std::io::Write;
use std::process::Stdio;

use credits_ledger_tests::Database;

use crate::pages::{Block, Page};

const CI: &str = include_str!("../.ci/run");

/// Ends the output of a statement, on both streams.
const MARK: &str = "-- end of statement --";

/// The pages that are run.
fn pages() -> Vec<Page> {
    Page::all()
        .into_iter()
        .filter(|page| page.path == "README.md" || page.path.starts_with("docs/"))
        .collect()
}

/// A statement of the page, and the output below it; a ```` ```sql ```` block shows none and must only succeed.
struct Statement {
    sql: String,
    shown: Option<String>,
}

/// The statements of a psql session: a prompt `demo=#` begins one, other prompts go on with it, and output follows.
fn session(lines: &[String]) -> Vec<Statement> {
    let mut statements: Vec<Statement> = Vec::new();
    for line in lines {
        if let Some(sql) = line.strip_prefix("demo=# ") {
            statements.push(Statement { sql: sql.to_owned(), shown: Some(String::new()) });
            continue;
        }
        let statement = statements.last_mut().expect("a session begins with a prompt");
        if let Some(sql) =
            ["demo-# ", "demo(# ", "demo'# ", "demo$# "].iter().find_map(|prompt| line.strip_prefix(prompt))
        {
            statement.sql.push('\n');
            statement.sql.push_str(sql);
        } else if let Some(shown) = &mut statement.shown {
            shown.push_str(line);
            shown.push('\n');
        }
    }
    statements
}

/// A call of psql with a script of this project.
fn script(command: &str) -> Option<Statement> {
    let (_, file) = command.strip_prefix("psql ")?.split_once("-f ")?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    // A session of its own ends with the script's settings.
    let sql = format!("\\i {folder}/{file}\n\\set ON_ERROR_STOP off");
    Some(Statement { sql, shown: None })
}

fn statements(blocks: &[Block]) -> Vec<Statement> {
    blocks
        .iter()
        .flat_map(|block| match block.language.as_str() {
            "console" => session(&block.lines),
            "sql" => vec![Statement { sql: block.lines.join("\n"), shown: None }],
            _ => block.lines.iter().filter_map(|line| script(line)).collect(),
        })
        .collect()
}

/// What psql answers to each statement: its results, then its messages.
fn run(statements: &[Statement]) -> Vec<String> {
    // Roles belong to the cluster, and what other tests leave open would hold the feed back.
    let database = Database::create_empty_alone();
    if !statements.iter().any(|statement| statement.sql.starts_with("CREATE EXTENSION")) {
        database.connect().run("CREATE EXTENSION credits_ledger");
    }
    let mut psql = database
        .cluster()
        .program("psql")
        .args(["--no-psqlrc", "--pset=pager=off", "--dbname", database.name()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start psql");
    let mut script = String::new();
    for statement in statements {
        script.push_str(&format!("{}\n\\echo '{MARK}'\n\\warn '{MARK}'\n", statement.sql));
    }
    psql.stdin.take().expect("stdin is piped").write_all(script.as_bytes()).expect("psql reads the script");
    let output = psql.wait_with_output().expect("psql ends");
    let [results, messages] = [output.stdout, output.stderr].map(|bytes| {
        let text = String::from_utf8(bytes).expect("psql prints UTF-8");
        text.split(&format!("{MARK}\n")).map(str::to_owned).collect::<Vec<_>>()
    });
    assert_eq!((results.len(), messages.len()), (statements.len() + 1, statements.len() + 1), "{messages:?}");
    results
        .iter()
        .zip(&messages)
        .take(statements.len())
        .map(|(result, message)| format!("{result}{message}"))
        .collect()
}

/// The process id is another one each time.
fn without_pid(text: &str) -> String {
    let line = |line: &str| match line.split_once("server process with PID ") {
        Some((before, _)) => format!("{before}server process"),
        None => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Whether this server refuses what the page shows of later majors: 14 has no views that run for who reads them.
fn is_refused(statement: &str, server_version: i32) -> bool {
    server_version < 150_000
        && ["make_class_views", "credits_classes."].iter().any(|name| statement.contains(name))
}

#[test]
fn psql_answers_what_the_pages_show() {
    let server_version: i32 = Database::create_empty().connect().server_version();
    let mut wrong = Vec::new();
    for page in pages() {
        let statements = statements(&page.blocks());
        let shows = statements.iter().any(|statement| statement.shown.is_some());
        assert!(
            shows || !["README.md", "docs/sql.md"].contains(&page.path.as_str()),
            "{} has no session",
            page.path
        );
        if statements.is_empty() {
            continue;
        }
        let answers = run(&statements);
        wrong.extend(
            statements
                .iter()
                .zip(answers)
                .filter(|(statement, _)| !is_refused(&statement.sql, server_version))
                .filter(|(statement, answer)| match &statement.shown {
                    Some(shown) => without_pid(answer) != without_pid(shown),
                    None => answer.contains("ERROR"),
                })
                .map(|(statement, answer)| format!("{}: {}\n{answer}", page.path, statement.sql)),
        );
    }
    assert!(wrong.is_empty(), "psql answers otherwise than a page shows:\n{}", wrong.join("\n"));
}

/// A command with the values of its variables left out: CI has other paths and tries every major.
fn shape(command: &str) -> Vec<&str> {
    command.split_whitespace().map(|word| word.split_once('=').map_or(word, |(name, _)| name)).collect()
}

#[test]
fn ci_runs_the_commands_of_the_pages() {
    let mut commands = Vec::new();
    for page in pages() {
        let blocks = page.blocks();
        commands
            .extend(blocks.into_iter().filter(|block| block.language == "sh").flat_map(|block| block.lines));
    }
    assert!(!commands.is_empty(), "no page has a shell command");
    for command in commands {
        // Who runs it is the reader's affair.
        let command = command.strip_prefix("sudo ").unwrap_or(&command);
        assert!(
            CI.lines().any(|line| line.trim().strip_prefix("step ").is_some_and(|ran| ran_as(ran, command))),
            ".ci/run does not run: {command}"
        );
    }
}

/// Whether a line of `.ci/run` is this command. A quoted value may hold spaces: only the words in front of it count.
fn ran_as(line: &str, command: &str) -> bool {
    let words = shape(command);
    shape(line).iter().take(words.len()).eq(words.iter()) && line.contains('=') == command.contains('=')
}
