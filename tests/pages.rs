//! The pages of this repository: links lead to files and headings that exist, and what they name is there. `readme` runs what they
//! show, `sql_reference` compares `docs/sql.md` with the catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

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

    /// Reads one, from the root of the repository.
    pub fn read(path: &Path) -> Self {
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
    pub fn prose(&self) -> Vec<&str> {
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
    pub fn section(&self, heading: &str) -> Option<Vec<&str>> {
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
