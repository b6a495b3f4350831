//! Rows to record, whole or spoilt, by every way to record them.

use std::collections::BTreeMap;
use std::io::Write;

use credits_ledger_tests::{Session, Uuid};
use postgres::Error;
use postgres::types::ToSql;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedMutRandom, IndexedRandom};

use crate::amounts;
use crate::functions::CREATE;
use crate::values::{self, TYPES, Value, Wire};
use crate::verdict::{Expected, Fault, short};

/// A transaction as it must be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub user: Uuid,
    pub kind: &'static str,
    /// Of 10^-15.
    pub units: i128,
    pub description: Option<String>,
    pub batch: Option<Uuid>,
    pub api_key: Option<Uuid>,
}

impl Row {
    /// What it adds to the balance.
    pub fn signed(&self) -> i128 {
        if matches!(self.kind, "purchase" | "admin_grant") { self.units } else { -self.units }
    }

    fn any(random: &mut StdRng, users: &[Uuid]) -> Self {
        let kind = *TYPES.choose(random).unwrap();
        let digits = random.random_range(1..=28);
        let batch = kind == "usage" && random.random();
        Self {
            user: *users.choose(random).unwrap(),
            kind,
            units: random.random_range(1..10_i128.pow(digits)),
            description: random.random_bool(0.7).then(|| values::words(random)),
            batch: batch.then(|| *users.choose(random).unwrap()),
            api_key: random.random_bool(0.3).then(|| *users.choose(random).unwrap()),
        }
    }
}

/// What a row is made of, in the order of the arguments of [`CREATE`].
pub const COLUMNS: [&str; 7] =
    ["user_id", "transaction_type", "amount", "source_id", "description", "fusillade_batch_id", "api_key_id"];

/// Rows by their `source_id`.
pub type Rows = BTreeMap<String, Row>;

/// How rows are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Create,
    Insert,
    Copy,
    Json,
}

impl Way {
    /// A value that can be sent: COPY in text format and JSON know no binary ones, and JSON no zero bytes.
    fn takes(self, random: &mut StdRng, make: impl Fn(&mut StdRng) -> Value) -> Value {
        loop {
            let value = make(random);
            let can_be_sent = match &value.wire {
                Wire::Binary(_) => matches!(self, Self::Create | Self::Insert),
                Wire::Text(text) => self != Self::Json || !text.contains('\0'),
                Wire::Null => true,
            };
            if can_be_sent {
                return value;
            }
        }
    }

    /// Whether a transaction that is there already with the same content is not refused.
    const fn retries(self) -> bool {
        matches!(self, Self::Create | Self::Json)
    }
}

/// A row on its way to the ledger.
#[derive(Clone, Debug)]
struct Draft {
    source_id: String,
    row: Row,
    columns: Vec<(&'static str, Value)>,
    /// It is there already, with the same content.
    is_retry: bool,
}

impl Draft {
    /// A row with a new source_id, or one that is there already.
    fn new(random: &mut StdRng, way: Way, users: &[Uuid], known: Option<&(String, Row)>) -> Self {
        let mut row = Row::any(random, users);
        let mut source_id = format!(
            "{}-{:032x}",
            values::words(random).chars().take(20).collect::<String>(),
            random.random::<u128>()
        );
        let taken = known.filter(|_| random.random_bool(if way.retries() { 0.2 } else { 0.02 }));
        let (mut taken_fault, mut is_retry) = (None, false);
        if let Some((id, stored)) = taken {
            source_id.clone_from(id);
            is_retry = way.retries() && random.random();
            if is_retry {
                (row.user, row.kind, row.units) = (stored.user, stored.kind, stored.units);
                row.batch = row.batch.filter(|_| row.kind == "usage");
            } else {
                row.units = if stored.units == 1 { 2 } else { 1 };
                taken_fault = Some(Fault { sqlstates: &["23505"], names: Some("source_id".into()) });
            }
        }
        let optional = |text: Option<String>| text.map_or_else(Value::null, Value::good);
        let uuid = |random: &mut StdRng, id: Uuid| way.takes(random, |random| values::uuid(random, id));
        let id = |random: &mut StdRng, id: Option<Uuid>| id.map_or_else(Value::null, |id| uuid(random, id));
        let whole = [
            id(random, Some(row.user)),
            Value::good(row.kind),
            amounts::amount(random, row.units),
            Value { fault: taken_fault, ..Value::good(source_id.clone()) },
            optional(row.description.clone()),
            id(random, row.batch),
            id(random, row.api_key),
        ];
        let mut columns: Vec<(&'static str, Value)> = COLUMNS.into_iter().zip(whole).collect();
        if way != Way::Create {
            let own = Uuid::from_u128(random.random());
            columns.push(("id", id(random, Some(own))));
            columns.push(("created_at", way.takes(random, values::row_date)));
        }
        Self { source_id, row, columns, is_retry }
    }

    /// Puts something wrong into one of the columns.
    fn spoil(&mut self, random: &mut StdRng, way: Way) {
        let (name, value) = self.columns.choose_mut(random).expect("there are columns");
        let name = *name;
        // Of JSON, null is as good as nothing.
        let has_default = way == Way::Json && matches!(name, "id" | "created_at");
        let required = !matches!(name, "description" | "fusillade_batch_id" | "api_key_id") && !has_default;
        if required && random.random_bool(0.2) {
            let sqlstates: &[&str] = if way == Way::Create { &["22004"] } else { &["23502"] };
            *value = Value::refused(Wire::Null, sqlstates, name);
            return;
        }
        *value = match name {
            "fusillade_batch_id" if self.row.kind != "usage" && random.random() => {
                Value::refused(Wire::Text(self.row.user.to_string()), &["23514"], "batch")
            }
            "user_id" | "fusillade_batch_id" | "api_key_id" | "id" => way.takes(random, values::bad_uuid),
            "transaction_type" if random.random_bool(0.8) => match way {
                Way::Create => values::unknown_type(random, &["22023"], name),
                // No usage, hence no row of a batch.
                _ if self.row.batch.is_some() => values::unknown_type(random, &["23514"], "batch"),
                _ => values::unknown_type(random, &["23514"], name),
            },
            "source_id" if random.random_bool(0.2) => {
                let blank = ["", " ", "\t\n", "\u{a0}"].choose(random).unwrap();
                Value::refused(Wire::Text((*blank).to_owned()), &["23514"], "source_id")
            }
            // Hardly compressible: an index has no room for it.
            "source_id" if random.random() => {
                let long: String =
                    (0..20_000).map(|_| random.sample(rand::distr::Alphanumeric) as char).collect();
                Value::refused(Wire::Text(long), &["54000"], "")
            }
            "amount" => way.takes(random, amounts::bad_amount),
            "created_at" => way.takes(random, values::bad_row_date),
            // Every text that can be sent is one.
            _ if way == Way::Json => return,
            _ => values::bad_text(random),
        };
    }

    fn faults(&self) -> impl Iterator<Item = Fault> {
        self.columns.iter().filter_map(|(_, value)| value.fault.clone())
    }
}

/// Records a few rows in one call, each of them whole or spoilt; returns those that are in the ledger now. `known` is
/// there already.
pub fn record(
    session: &mut Session,
    random: &mut StdRng,
    users: &[Uuid],
    known: Option<&(String, Row)>,
    tolerated: &[&'static str],
) -> Rows {
    let way = *[Way::Create, Way::Insert, Way::Insert, Way::Copy, Way::Json].choose(random).unwrap();
    let count = if way == Way::Create { 1 } else { *[1, 1, 2, 5, 40].choose(random).unwrap() };
    let mut drafts: Vec<Draft> = (0..count).map(|_| Draft::new(random, way, users, known)).collect();
    if random.random() {
        drafts.choose_mut(random).expect("at least one").spoil(random, way);
    }
    if way == Way::Json {
        return record_json(session, random, drafts, tolerated);
    }
    let mut expected =
        Expected { faults: drafts.iter().flat_map(Draft::faults).collect(), tolerated: tolerated.to_vec() };
    // One statement may say the same source_id twice.
    let mut sources: Vec<&str> = drafts.iter().map(|draft| draft.source_id.as_str()).collect();
    sources.sort_unstable();
    sources.dedup();
    if sources.len() < drafts.len() {
        expected.faults.push(Fault { sqlstates: &["23505"], names: Some("source_id".into()) });
    }
    let result = match way {
        Way::Create => create(session, &drafts[0]),
        Way::Insert => insert(session, &drafts),
        Way::Copy => {
            let columns = names(&drafts[0]);
            expected.faults.extend(spoil_copy(random, &mut drafts));
            copy(session, &columns, &drafts)
        }
        Way::Json => unreachable!("recorded above"),
    };
    match expected.judge(result, &(way, &drafts)) {
        Some(()) => drafts
            .into_iter()
            .filter(|draft| !draft.is_retry)
            .map(|draft| (draft.source_id, draft.row))
            .collect(),
        None => Rows::new(),
    }
}

/// Takes back what is there, or a part of it, or more than there is; returns the row that does.
pub fn reverse(
    session: &mut Session,
    random: &mut StdRng,
    (original, row): &(String, Row),
    tolerated: &[&'static str],
) -> Rows {
    let found = session.query_one(
        "SELECT id, reverses IS NOT NULL,
                trunc(1e15 * (amount - (SELECT coalesce(sum(r.amount), 0) FROM credits.credits_transactions r
                                        WHERE r.reverses = t.id)))::text
         FROM credits.credits_transactions t WHERE source_id = $1",
        &[original],
    );
    let mut expected = Expected { faults: Vec::new(), tolerated: tolerated.to_vec() };
    let Some(found) = expected.judge(found, original) else { return Rows::new() };
    let (id, is_reversal): (Uuid, bool) = (found.get(0), found.get(1));
    let left: i128 = found.get::<_, String>(2).parse().expect("a whole number");
    let units = match random.random_range(0..6) {
        0 => None,
        1 => Some(left + 1),
        2 => Some(left.max(1)),
        _ => Some(random.random_range(1..=left.max(1))),
    };
    let amount = match units {
        None => Value::null(),
        Some(_) if random.random_bool(0.1) => amounts::bad_amount(random),
        Some(units) => amounts::amount(random, units),
    };
    let source_id = values::source_id(random);
    let description = if random.random() { Value::null() } else { Value::good(values::words(random)) };
    expected.faults.extend([&amount, &source_id].into_iter().filter_map(|value| value.fault.clone()));
    let refused = |sqlstates, names: &str| Fault { sqlstates, names: Some(names.to_owned()) };
    if is_reversal {
        expected.faults.push(refused(&["22023"], "is a reversal"));
    } else if left == 0 || units.is_some_and(|units| units > left) {
        // The largest amount and the smallest step are none.
        let sqlstates: &[&str] = &["23514"];
        expected.faults.push(Fault { sqlstates, names: None });
    }
    let call =
        [&Value::good(id.to_string()), &source_id, &amount, &description].map(|value| value.wire.clone());
    let parameters = call.each_ref().map(|wire| wire as &(dyn ToSql + Sync));
    let reversed = session.execute("SELECT credits.reverse_transaction($1, $2, $3, $4)", &parameters);
    if expected.judge(reversed, &(original, &call)).is_none() {
        return Rows::new();
    }
    let text = |value: &Value| match &value.wire {
        Wire::Text(text) => Some(text.clone()),
        _ => None,
    };
    let reversal = Row {
        user: row.user,
        kind: if row.signed() > 0 { "admin_removal" } else { "admin_grant" },
        units: units.unwrap_or(left),
        description: text(&description).or_else(|| Some(format!("Reversal of {original}"))),
        batch: None,
        api_key: row.api_key,
    };
    text(&source_id).map(|source_id| (source_id, reversal)).into_iter().collect()
}

fn parameters(drafts: &[Draft]) -> Vec<&(dyn ToSql + Sync)> {
    let columns = drafts.iter().flat_map(|draft| &draft.columns);
    columns.map(|(_, value)| &value.wire as &(dyn ToSql + Sync)).collect()
}

fn create(session: &mut Session, draft: &Draft) -> Result<(), Error> {
    let arguments: Vec<String> =
        draft.columns.iter().zip(1..).map(|((name, _), n)| format!("{name} => ${n}")).collect();
    let sql =
        format!("SELECT source_id, trim_scale(amount)::text FROM credits.{CREATE}({})", arguments.join(", "));
    let row = session.query_one(&sql, &parameters(std::slice::from_ref(draft)))?;
    assert_eq!(row.get::<_, &str>(0), draft.source_id);
    assert_eq!(row.get::<_, &str>(1), amounts::decimal(draft.row.units));
    Ok(())
}

/// Each item has an outcome of its own.
fn record_json(
    session: &mut Session,
    random: &mut StdRng,
    drafts: Vec<Draft>,
    tolerated: &[&'static str],
) -> Rows {
    let items: Vec<String> = drafts.iter().map(|draft| json(random, draft)).collect();
    let result = session.query(
        "SELECT outcome, detail FROM credits.record_transactions($1::text::jsonb) ORDER BY item",
        &[&format!("[{}]", items.join(","))],
    );
    let expected = Expected { faults: Vec::new(), tolerated: tolerated.to_vec() };
    let Some(outcomes) = expected.judge(result, &drafts) else { return Rows::new() };
    assert_eq!(outcomes.len(), drafts.len());
    let is_recorded = |draft: &Draft, outcome: &str, detail: Option<&str>| {
        let faults: Vec<Fault> = draft.faults().collect();
        let fits = match outcome {
            "recorded" => faults.is_empty() && !draft.is_retry,
            // A date is looked at where a row is inserted: a retry is told of the stored one, whatever date it gives.
            "exists" => {
                draft.is_retry && faults.iter().all(|fault| fault.names.as_deref() == Some("created_at"))
            }
            "conflict" => faults.iter().any(|fault| fault.sqlstates.contains(&"23505")),
            _ => faults.iter().any(|fault| {
                fault.names.as_deref().is_none_or(|name| detail.is_some_and(|detail| detail.contains(name)))
            }),
        };
        assert!(
            fits,
            "{outcome} {detail:?}, expected {faults:?}, retry {}: {}",
            draft.is_retry,
            short(draft)
        );
        outcome == "recorded"
    };
    outcomes
        .iter()
        .zip(drafts)
        .filter(|(row, draft)| is_recorded(draft, row.get(0), row.get(1)))
        .map(|(_, draft)| (draft.source_id, draft.row))
        .collect()
}

/// A draft as an object. An amount may be a number.
fn json(random: &mut StdRng, draft: &Draft) -> String {
    let columns = draft.columns.iter().map(|(name, value)| {
        let value = match &value.wire {
            Wire::Null => "null".to_owned(),
            Wire::Text(text) if *name == "amount" && is_number(text) && random.random() => text.clone(),
            Wire::Text(text) => quoted(text),
            Wire::Binary(_) => panic!("no text: {value:?}"),
        };
        format!("\"{name}\":{value}")
    });
    format!("{{{}}}", columns.collect::<Vec<_>>().join(","))
}

/// In one of the forms that JSON has for numbers.
fn is_number(text: &str) -> bool {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    is_digits(whole) && is_digits(fraction) && (whole == "0" || !whole.starts_with('0'))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\0'..' ' => quoted += &format!("\\u{:04x}", u32::from(character)),
            _ => quoted.push(character),
        }
    }
    quoted + "\""
}

fn names(draft: &Draft) -> String {
    draft.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn insert(session: &mut Session, drafts: &[Draft]) -> Result<(), Error> {
    let width = drafts[0].columns.len();
    let row = |n: usize| {
        let places: Vec<String> = (1..=width).map(|column| format!("${}", n * width + column)).collect();
        format!("({})", places.join(", "))
    };
    let rows: Vec<String> = (0..drafts.len()).map(row).collect();
    let sql = format!(
        "INSERT INTO credits.credits_transactions ({}) VALUES {}",
        names(&drafts[0]),
        rows.join(", ")
    );
    session.execute(&sql, &parameters(drafts)).map(|_| ())
}

/// A line may lack a column, or have one too many.
fn spoil_copy(random: &mut StdRng, drafts: &mut [Draft]) -> Option<Fault> {
    if random.random_bool(0.9) {
        return None;
    }
    let draft = drafts.choose_mut(random)?;
    if random.random() {
        draft.columns.push(("", Value::good("1")));
    } else {
        draft.columns.pop();
    }
    Some(Fault { sqlstates: &["22P04"], names: None })
}

fn copy(session: &mut Session, columns: &str, drafts: &[Draft]) -> Result<(), Error> {
    let mut writer = session.copy_in(&format!("COPY credits.credits_transactions ({columns}) FROM STDIN"))?;
    let mut lines = Vec::new();
    for draft in drafts {
        for (n, (_, value)) in draft.columns.iter().enumerate() {
            if n > 0 {
                lines.push(b'\t');
            }
            match &value.wire {
                Wire::Null => lines.extend(b"\\N"),
                Wire::Text(text) => escape(text.as_bytes(), &mut lines),
                // No text of any encoding.
                Wire::Binary(bytes) => escape(bytes, &mut lines),
            }
        }
        lines.push(b'\n');
    }
    // A refusal that comes while the lines are written is told at the end.
    let _ = writer.write_all(&lines);
    writer.finish().map(|_| ())
}

fn escape(bytes: &[u8], line: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'\\' => line.extend(b"\\\\"),
            b'\t' => line.extend(b"\\t"),
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            _ => line.push(byte),
        }
    }
}
