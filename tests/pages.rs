//! The pages of this repository, and what must agree with them: links lead to files and headings that exist, and `docs/sql.md`
//! describes what the catalog has. `readme` runs what they show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use credits_ledger_tests::Database;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A fenced block of a page.
pub struct Block {
    /// What stands behind the fence.
    pub language: String,
    /// Its lines.
    pub lines: Vec<String>,
}

/// A Markdown file.
pub struct Page {
    /// From the root of the repository, with slashes.
    pub path: String,
    text: String,
}

impl Page {
    /// Every one of the repository, in the order of their paths.
    pub fn all() -> Vec<Self> {
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::from(ROOT)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("list a folder") {
                let path = entry.expect("read an entry").path();
                let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
                if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
                    folders.push(path);
                } else if name.ends_with(".md") {
                    found.push(Self::read(path.strip_prefix(ROOT).expect("it is below the root")));
                }
            }
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
        assert!(
            found.len() >= 7,
            "pages are missing: {:?}",
            found.iter().map(|page| &page.path).collect::<Vec<_>>()
        );
        found
    }

    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(Path::new(ROOT).join(path)).expect("read a page");
        Self { path: path.to_string_lossy().replace('\\', "/"), text }
    }

    /// Its fenced blocks.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut inside = false;
        for line in self.text.lines() {
            match (line.strip_prefix("```"), inside) {
                (Some(language), false) => {
                    blocks.push(Block { language: language.to_owned(), lines: Vec::new() });
                    inside = true;
                }
                (Some(_), true) => inside = false,
                (None, true) => blocks.last_mut().expect("a block is open").lines.push(line.to_owned()),
                (None, false) => {}
            }
        }
        assert!(!inside, "{}: a block is not closed", self.path);
        blocks
    }

    /// Its lines outside of fenced blocks.
    fn prose(&self) -> Vec<&str> {
        let mut inside = false;
        let keep = |line: &&str| {
            let is_fence = line.starts_with("```");
            inside ^= is_fence;
            !is_fence && !inside
        };
        self.text.lines().filter(keep).collect()
    }

    /// The targets of its links.
    fn links(&self) -> Vec<String> {
        let prose = self.prose().join("\n");
        prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
    }

    /// What a link can have behind `#`: its headings, as GitHub names them.
    fn anchors(&self) -> BTreeSet<String> {
        let anchor = |heading: &str| {
            heading
                .to_lowercase()
                .chars()
                .filter_map(|character| match character {
                    ' ' => Some('-'),
                    '-' | '_' => Some(character),
                    _ => character.is_alphanumeric().then_some(character),
                })
                .collect()
        };
        self.prose()
            .iter()
            .filter(|line| line.starts_with('#'))
            .map(|line| anchor(line.trim_start_matches('#').trim()))
            .collect()
    }

    /// The lines from a heading of this level to the next of it or of a higher one, without fences.
    fn section(&self, heading: &str) -> Option<Vec<&str>> {
        let level = heading.split(' ').next().expect("a heading has a level").len();
        let mut lines = self.text.lines();
        lines.find(|line| *line == heading)?;
        let ends = |line: &&str| {
            let marks = line.chars().take_while(|character| *character == '#').count();
            (1..=level).contains(&marks) && line[marks..].starts_with(' ')
        };
        Some(lines.take_while(|line| !ends(line)).collect())
    }
}

#[test]
fn links_lead_somewhere() {
    let pages = Page::all();
    let anchors: BTreeMap<&str, BTreeSet<String>> =
        pages.iter().map(|page| (page.path.as_str(), page.anchors())).collect();
    let mut broken = Vec::new();
    for page in &pages {
        for link in page.links().iter().filter(|link| !link.starts_with("http")) {
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { page.path.clone() } else { beside(&page.path, file) };
            let leads = Path::new(ROOT).join(&target).exists()
                && anchor.is_none_or(|anchor| {
                    anchors.get(target.as_str()).is_some_and(|known| known.contains(anchor))
                });
            if !leads {
                broken.push(format!("{}: {link}", page.path));
            }
        }
    }
    assert!(broken.is_empty(), "links to nowhere:\n{}", broken.join("\n"));
}

/// A path that a page names, from the root.
fn beside(page: &str, file: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in file.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Files that pages name in code, without a link: `tests/stress.rs`, `src/pg/xact.rs`.
#[test]
fn files_that_pages_name_exist() {
    let mut missing = Vec::new();
    for page in Page::all().iter().filter(|page| page.path != "CHANGELOG.md") {
        for name in page.prose().join("\n").split('`').skip(1).step_by(2) {
            let is_path = name.contains('/')
                && [".rs", ".sql", ".pml", ".md", ".sh"].iter().any(|ending| name.ends_with(ending))
                && !name.contains(['*', ' ', '{'])
                && !name.chars().any(char::is_uppercase);
            if is_path
                && !Path::new(ROOT).join(name).exists()
                && !Path::new(ROOT).join(beside(&page.path, name)).exists()
            {
                missing.push(format!("{}: {name}", page.path));
            }
        }
    }
    assert!(missing.is_empty(), "pages name files that are not there:\n{}", missing.join("\n"));
}

/// Code that `docs/architecture.md` names: `Coverage::serves`, and what stands behind "model:".
#[test]
fn what_the_architecture_names_is_in_the_source() {
    let page = Page::read(Path::new("docs/architecture.md"));
    let prose = page.prose().join("\n");
    let (source, models) = (text_below("src", "rs") + &text_below("crates", "rs"), text_below("models", ""));
    let mut missing: Vec<&str> = prose
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.contains("::"))
        .filter(|name| {
            let item = name.rsplit("::").next().expect("a path has a last part");
            let is_item = |kind: &str| source.contains(&format!("{kind} {item}"));
            !["fn", "struct", "enum", "const", "mod"].iter().any(|kind| is_item(kind))
        })
        .collect();
    let labels = prose.split("model: ").skip(1).flat_map(|rest| {
        let cell = rest.split(['|', ';']).next().expect("a split has a first part");
        cell.split('`').skip(1).step_by(2)
    });
    missing.extend(labels.filter(|label| !models.contains(label)));
    assert!(prose.contains("model: ") && prose.contains("::"), "architecture.md names nothing");
    assert!(missing.is_empty(), "architecture.md names what is nowhere: {missing:?}");
}

/// The text of all files below a folder whose names end like this.
fn text_below(folder: &str, ending: &str) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(Path::new(ROOT).join(folder)).expect("list a folder") {
        let path = entry.expect("read an entry").path();
        let inner = path.strip_prefix(ROOT).expect("it is below the root").to_string_lossy().into_owned();
        if path.is_dir() {
            text += &text_below(&inner, ending);
        } else if inner.ends_with(ending) {
            text += &fs::read_to_string(&path).unwrap_or_default();
        }
    }
    text
}

/// What `docs/sql.md` shows for each routine that is no trigger, in the order of names.
#[test]
fn the_sql_reference_has_every_function_with_its_signature() {
    let page = Page::read(Path::new("docs/sql.md"));
    let db = Database::create();
    let routines = db.connect().query(
        r"SELECT proname::text,
                 regexp_replace(
                     'credits.' || proname || '('
                     || regexp_replace(replace(pg_get_function_arguments(oid), 'IN ', ''), '(DEFAULT (NULL|''[^'']*''))::[a-z ]+(\[\])?', '\1', 'g')
                     || ')' || coalesce(' RETURNS ' || pg_get_function_result(oid), ''),
                     'timestamp with time zone', 'timestamptz', 'g'),
                 coalesce(proargnames[1 : pronargs], '{}')
          FROM pg_proc WHERE pronamespace = 'credits'::regnamespace ORDER BY 1",
        &[],
    ).expect("ask the catalog");
    let internal =
        page.section("## Functions that nobody calls").expect("there is such a section").join("\n");
    let mut wrong = Vec::new();
    for routine in &routines {
        let (name, signature, arguments): (String, String, Vec<String>) =
            (routine.get(0), routine.get(1), routine.get(2));
        let Some(section) = page.section(&format!("### {name}")) else {
            if !internal.contains(&format!("`{name}(")) {
                wrong.push(format!("{name} has no section"));
            }
            continue;
        };
        let shown: String = section
            .iter()
            .skip_while(|line| **line != "```text")
            .skip(1)
            .take_while(|line| !line.starts_with("```"))
            .map(|line| line.trim())
            .collect::<Vec<_>>()
            .join(" ");
        let shown = shown.replace("( ", "(").replace(" )", ")");
        if shown != signature {
            wrong.push(format!("{name}: the page shows\n  {shown}\nthe catalog\n  {signature}"));
        }
        let described: Vec<String> =
            first_cells(&section, "| argument | |").into_iter().map(|name| name.replace('"', "")).collect();
        if described != arguments {
            wrong.push(format!("{name}: the page describes {described:?}, the catalog has {arguments:?}"));
        }
        if !section.contains(&"```console")
            || !section.iter().any(|line| line.contains(&format!("credits.{name}(")))
        {
            wrong.push(format!("{name} has no example"));
        }
    }
    assert!(routines.len() > 40, "{}", routines.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_sql_reference_has_every_relation_with_its_columns() {
    let page = Page::read(Path::new("docs/sql.md"));
    let db = Database::create();
    let relations = db.connect().query(
        "SELECT CASE relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' ELSE 'type' END, relname::text,
                array_agg(attname || ' ' || replace(format_type(atttypid, NULL), 'timestamp with time zone', 'timestamptz')
                          ORDER BY attnum)
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped
         WHERE relnamespace = 'credits'::regnamespace AND relkind IN ('r', 'v', 'c') GROUP BY 1, 2",
        &[],
    ).expect("ask the catalog");
    assert!(relations.len() > 15, "{}", relations.len());
    let types = page.section("## Types").expect("there is such a section");
    let mut wrong = Vec::new();
    for relation in &relations {
        let (kind, name, columns): (String, String, Vec<String>) =
            (relation.get(0), relation.get(1), relation.get(2));
        let described: Vec<String> = match kind.as_str() {
            "type" => types
                .iter()
                .find(|line| line.starts_with(&format!("| `{name}` |")))
                .map(|line| line.split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect())
                .unwrap_or_default(),
            // What a table or another view has already is not repeated.
            "view"
                if [
                    "checkpoints",
                    "folded_batches",
                    "uncovered_transactions",
                    "users_without_checkpoint",
                ]
                .contains(&name.as_str()) =>
            {
                let is_there =
                    page.prose().iter().any(|line| line.starts_with("### View") && line.contains(&name));
                if is_there { continue } else { Vec::new() }
            }
            "view" => columns_of(&page, &format!("### View {name}")),
            _ => columns_of(&page, &format!("### Table {name}")),
        };
        if described != columns {
            wrong.push(format!(
                "{kind} {name}: the page describes {described:?}, the catalog has {columns:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_sql_reference_has_every_setting_with_its_default() {
    let page = Page::read(Path::new("docs/sql.md"));
    let section = page.section("## Settings").expect("there is such a section");
    let db = Database::create();
    let mut session = db.connect();
    session.run("LOAD 'credits_ledger'");
    let settings: Vec<String> = session.values(
        "SELECT format('| `%s` | `%s` |', name, boot_val) FROM pg_settings WHERE name LIKE 'credits\\_ledger.%' ORDER BY name",
        &[],
    );
    assert!(settings.len() >= 5, "{settings:?}");
    let described: Vec<&str> = section.iter().filter(|line| line.starts_with("| `")).copied().collect();
    let agree = described.len() == settings.len()
        && settings.iter().zip(&described).all(|(setting, line)| line.starts_with(setting.as_str()));
    assert!(agree, "the page describes {described:#?}, the server has {settings:#?}");
}

fn columns_of(page: &Page, heading: &str) -> Vec<String> {
    page.section(heading).map_or_else(Vec::new, |section| first_cells(&section, "| column | |"))
}

/// What stands between backquotes in the first cells of a table.
fn first_cells(section: &[&str], head: &str) -> Vec<String> {
    section
        .iter()
        .skip_while(|line| **line != head)
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}
