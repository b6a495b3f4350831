//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

pub const USAGE: &str = "\
usage: demo --database CONNECTION [--trace FILE] [--requests N] [--users N] [--writers N] [--seed N]
            [--picture FILE --new-node HOST/DBNAME]

  --database CONNECTION  libpq connection string of an empty database, as a superuser
  --trace FILE           replay this trace (CSV: TIMESTAMP,ContextTokens,GeneratedTokens)
  --requests N           without a trace, make one of N requests (default 20000)
  --users N              accounts that the requests come from (default 200)
  --writers N            connections that write at once (default 8)
  --seed N               of every random choice (default 1)
  --picture FILE         the database is that of a router: rows a node over time are drawn into FILE, as SVG
  --new-node HOST/DBNAME the node that is added on the way: a folder of a socket, and a database with credits_ledger";

/// What to play, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Args {
    pub database: String,
    pub trace: Option<PathBuf>,
    pub requests: usize,
    pub users: usize,
    pub writers: usize,
    pub seed: u64,
    pub nodes: Option<Nodes>,
}

/// What is played over a router and its nodes.
#[derive(Debug, PartialEq, Eq)]
pub struct Nodes {
    pub picture: PathBuf,
    /// Host and database.
    pub new_node: (String, String),
}

impl Args {
    /// Reads the arguments that follow the program's name.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self {
            database: String::new(),
            trace: None,
            requests: 20_000,
            users: 200,
            writers: 8,
            seed: 1,
            nodes: None,
        };
        let (mut picture, mut new_node) = (None, None);
        let mut arguments = arguments;
        while let Some(option) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
            match option.as_str() {
                "--database" => args.database = value,
                "--trace" => args.trace = Some(value.into()),
                "--requests" => args.requests = positive(&option, &value)?,
                "--users" => args.users = positive(&option, &value)?,
                "--writers" => args.writers = positive(&option, &value)?,
                "--seed" => args.seed = number(&option, &value)?,
                "--picture" => picture = Some(value.into()),
                "--new-node" => new_node = Some(place(&value)?),
                _ => return Err(format!("unknown option {option}")),
            }
        }
        if args.database.is_empty() {
            return Err("--database is missing".to_owned());
        }
        args.nodes = match (picture, new_node) {
            (Some(picture), Some(new_node)) => Some(Nodes { picture, new_node }),
            (None, None) => None,
            _ => return Err("--picture and --new-node go together".to_owned()),
        };
        Ok(args)
    }
}

fn place(value: &str) -> Result<(String, String), String> {
    let (host, database) =
        value.rsplit_once('/').ok_or_else(|| format!("--new-node is not HOST/DBNAME: {value}"))?;
    Ok((host.to_owned(), database.to_owned()))
}

fn number<T: FromStr>(option: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{option} is not a number: {value}"))
}

fn positive(option: &str, value: &str) -> Result<usize, String> {
    match number(option, value)? {
        0 => Err(format!("{option} must be at least 1")),
        count => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_replace_the_defaults() {
        let args = parse("--database dbname=demo --trace a.csv --users 3 --seed 0").expect("valid");
        assert_eq!((args.users, args.writers, args.seed), (3, 8, 0));
        assert_eq!(args.trace, Some("a.csv".into()));
    }

    #[test]
    fn a_node_is_a_folder_and_a_database() {
        let args = parse("--database d --picture p.svg --new-node /var/tmp/n4/demo").expect("valid");
        let new_node = ("/var/tmp/n4".to_owned(), "demo".to_owned());
        assert_eq!(args.nodes, Some(Nodes { picture: "p.svg".into(), new_node }));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, message) in [
            ("", "--database is missing"),
            ("--database", "--database needs a value"),
            ("--database d --users 0", "--users must be at least 1"),
            ("--database d --seed x", "--seed is not a number: x"),
            ("--database d --picture p.svg", "--picture and --new-node go together"),
            ("--database d --picture p.svg --new-node n4", "--new-node is not HOST/DBNAME: n4"),
            ("--databse d", "unknown option --databse"),
        ] {
            assert_eq!(parse(line), Err(message.to_owned()));
        }
    }
}
