//! Good and bad values of every type, with what a bad one is refused for.

use credits_ledger_tests::Uuid;
use postgres::types::private::BytesMut;
use postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::verdict::Fault;

pub const TYPES: [&str; 4] = ["purchase", "admin_grant", "admin_removal", "usage"];

/// A value on its way to the server, in one of the two formats of the protocol.
#[derive(Clone, Debug)]
pub enum Wire {
    Null,
    Text(String),
    Binary(Vec<u8>),
}

impl ToSql for Wire {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Binary(bytes) => out.extend_from_slice(bytes),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        if matches!(self, Self::Binary(_)) { Format::Binary } else { Format::Text }
    }

    to_sql_checked!();
}

/// A value, and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Value {
    pub wire: Wire,
    pub fault: Option<Fault>,
}

impl Value {
    pub fn good(text: impl Into<String>) -> Self {
        Self { wire: Wire::Text(text.into()), fault: None }
    }

    pub fn null() -> Self {
        Self { wire: Wire::Null, fault: None }
    }

    /// Refused by the server, whatever it is for.
    pub fn bad(wire: Wire, sqlstates: &'static [&'static str]) -> Self {
        Self { wire, fault: Some(Fault { sqlstates, names: None }) }
    }

    /// Refused with a message that says this.
    pub fn refused(wire: Wire, sqlstates: &'static [&'static str], names: impl Into<String>) -> Self {
        Self { wire, fault: Some(Fault { sqlstates, names: Some(names.into()) }) }
    }
}

pub fn text(text: &str) -> Wire {
    Wire::Text(text.to_owned())
}

/// What the protocol's binary format does not allow: cut short, too long, or nonsense.
pub const BROKEN: &[&str] = &["08P01", "22P03", "54000"];

pub fn bad_uuid(random: &mut StdRng) -> Value {
    match random.random_range(0..3) {
        0 => Value::bad(Wire::Binary(vec![7; [0, 15, 17, 200].choose(random).copied().unwrap()]), BROKEN),
        1 => Value::bad(Wire::Text("f".repeat(100_000)), &["22P02"]),
        _ => {
            let bad =
                ["", "nil", "00000000-0000-0000-0000-00000000000g", "{00000000", "' OR ''='", "\u{202e}"];
            Value::bad(text(bad.choose(random).unwrap()), &["22P02"])
        }
    }
}

/// In one of the forms that the server reads.
pub fn uuid(random: &mut StdRng, uuid: Uuid) -> Value {
    match random.random_range(0..4) {
        0 => Value::good(format!("{{{}}}", uuid.hyphenated())),
        1 => Value::good(uuid.simple().to_string().to_uppercase()),
        2 => Value { wire: Wire::Binary(uuid.as_bytes().to_vec()), fault: None },
        _ => Value::good(uuid.to_string()),
    }
}

/// Text of every kind; short, but for one in a hundred.
pub fn words(random: &mut StdRng) -> String {
    let words = [
        "",
        " ",
        "%",
        "_",
        "\\",
        "%_\\%",
        "\\\\",
        "'",
        "\"",
        "''; DROP SCHEMA credits; --",
        "$1",
        "%s%n%x",
        "NULL",
        "\\N",
        "\\.",
        "{a,b}",
        "\n\r\t",
        "\u{1}\u{7f}",
        "שלום עולם",
        "\u{202e}txet",
        "残高",
        "e\u{301}",
        "😀",
        "\u{feff}",
        "İıß",
        "auto_topup_",
        "Batch",
        "\u{10ffff}",
    ];
    let word = words.choose(random).unwrap();
    match random.random_range(0..100) {
        0 => word.repeat(1_000_000 / word.len().max(1)),
        1..10 => word.repeat(random.random_range(2..200)),
        _ => (*word).to_owned(),
    }
}

/// How long something is held.
pub fn expires_in(random: &mut StdRng, bad: bool) -> Value {
    if bad {
        let refused =
            ["0", "-1 microsecond", "30 days 0.000001 seconds", "-178000000 years", "178000000 years"]
                .choose(random)
                .unwrap();
        return Value::refused(text(refused), &["22023"], "expires_in");
    }
    Value::good(*["1 microsecond", "1 hour", "30 days", "1 day -23:59"].choose(random).unwrap())
}

/// How long ago; nearly forever is too long, and what has a name here must not be negative.
pub fn interval(random: &mut StdRng, bad: bool, not_negative: Option<&str>) -> Value {
    if bad {
        let [nonsense, endless] = [("a while", &["22007"]), ("170000000 years", &["22008"])];
        let (bad, sqlstates) = if random.random() { nonsense } else { endless };
        return Value::bad(text(bad), sqlstates);
    }
    if let Some(name) = not_negative
        && random.random_bool(0.2)
    {
        let negative = ["-1 microsecond", "-1000 years", "1 day -25:00"].choose(random).unwrap();
        return Value::refused(text(negative), &["22023"], format!("argument {name} must not be negative"));
    }
    let below_zero = if not_negative.is_none() { "-1 day" } else { "1 day" };
    Value::good(*["0", "1 microsecond", "1 hour", below_zero, "1000 years"].choose(random).unwrap())
}

/// A table that transactions could be imported from.
pub fn source(random: &mut StdRng, bad: bool) -> Value {
    if bad {
        let (bad, sqlstates): (_, &[_]) = *[
            ("nowhere", &["42P01"][..]),
            ("a.b.c.d", &["42601", "42602", "0A000"]),
            ("\"", &["42602"]),
            ("0", &["42703"]),
            ("4294967295", &["42703"]),
            ("pg_class", &["42703"]),
            ("credits.balances", &["42703"]),
        ]
        .choose(random)
        .unwrap();
        return Value::bad(text(bad), sqlstates);
    }
    Value::good("credits.credits_transactions")
}

/// Never one of this ledger.
pub fn feed_position(random: &mut StdRng) -> Value {
    let other = "10000000-0000-4000-8000-000000000001";
    let (text, is_position) = match random.random_range(0..6) {
        0 => return Value::null(),
        1 => (format!("{other}:{}:{}", random.random::<u64>(), random.random::<i64>()), true),
        2 => (format!("{other}:{}:0", i128::MAX), false),
        3 => (format!("{other}:0{}:{}", random.random::<u32>(), i64::MIN), false),
        4 => (other.to_uppercase(), false),
        _ => (words(random), false),
    };
    let names = if is_position { "is of another ledger" } else { "is no position of a feed" };
    Value::refused(Wire::Text(text), &["22023"], format!("argument feed_position {names}"))
}

/// The idempotency key of something new, or one that is blank or too long.
pub fn source_id(random: &mut StdRng) -> Value {
    match random.random_range(0..10) {
        0 => Value::refused(
            text(["", " ", "\t\n", "\u{a0}\u{2003}"].choose(random).unwrap()),
            &["23514"],
            "source_id",
        ),
        // Hardly compressible: an index has no room for it.
        1 => {
            let long = (0..20_000).map(|_| random.sample(rand::distr::Alphanumeric) as char).collect();
            Value::refused(Wire::Text(long), &["54000"], "")
        }
        _ => {
            let beginning: String = words(random).chars().take(20).collect();
            Value::good(format!("{beginning}-{:032x}", random.random::<u128>()))
        }
    }
}

/// Items that are all refused, each by itself.
pub fn items(random: &mut StdRng, bad: bool) -> Value {
    if bad {
        return match random.random_range(0..3) {
            0 => {
                let not_an_array = ["{}", "1", "null", "\"[]\"", "true"].choose(random).unwrap();
                Value::refused(text(not_an_array), &["22023"], "argument transactions must be a JSON array")
            }
            1 => Value::refused(
                Wire::Text(format!("[{}0]", "0,".repeat(10_000))),
                &["22023"],
                "at most 10000 elements",
            ),
            _ => Value::bad(text(["[", "", "[1e]", "['']", "\u{202e}"].choose(random).unwrap()), &["22P02"]),
        };
    }
    let items = [
        "{}",
        "[]",
        "7",
        "null",
        "[[[[[[[[]]]]]]]]",
        "{\"\": 1}",
        "{\"user_id\": {\"a\": [{}]}}",
        "{\"amount\": 1e1000, \"amount\": -0}",
        "{\"seq\": 1, \"xact_id\": 1, \"reverses\": null}",
        "{\"user_id\": \"10000000-0000-4000-8000-000000000001\", \"transaction_type\": \"usage\", \"amount\": \"NaN\", \"source_id\": \"\"}",
        "{\"user_id\": \"10000000-0000-4000-8000-000000000001\", \"transaction_type\": \"usage\", \"amount\": 1, \"source_id\": null}",
    ];
    let count = [0, 1, 2, 7, 50].choose(random).copied().unwrap();
    let items: Vec<&str> = (0..count).map(|_| *items.choose(random).unwrap()).collect();
    Value::good(format!("[{}]", items.join(",")))
}

/// Not a text of the database's encoding.
pub fn bad_text(random: &mut StdRng) -> Value {
    let bytes: &[u8] = [&b"\0"[..], b"usage\0", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]
        .choose(random)
        .unwrap();
    let wire = match std::str::from_utf8(bytes) {
        Ok(text) if random.random() => Wire::Text(text.to_owned()),
        _ => Wire::Binary(bytes.to_vec()),
    };
    Value::bad(wire, &["22021"])
}

/// A name that is no type of transactions, refused like this.
pub fn unknown_type(random: &mut StdRng, sqlstate: &'static [&'static str], names: &str) -> Value {
    let near = ["Usage", "usage ", "USAGE", "refund", "usag", "usagee", "purchase,usage"];
    let name = if random.random() { words(random) } else { (*near.choose(random).unwrap()).to_owned() };
    Value::refused(Wire::Text(name), sqlstate, names)
}

/// A timestamp in reach of the server.
pub fn date(random: &mut StdRng) -> Value {
    match random.random_range(0..4) {
        0 => {
            let micros = [i64::MIN, i64::MAX, 0, -1].choose(random).unwrap();
            Value { wire: Wire::Binary(micros.to_be_bytes().to_vec()), fault: None }
        }
        _ => {
            let good = [
                "-infinity",
                "infinity",
                "epoch",
                "now",
                "today",
                "4714-11-24 00:00:00 BC",
                "294276-12-31 23:59:59.999999",
                "2000-01-01 00:00:00+15:59",
                "2024-02-29",
                "1970-01-01 00:00:00 UTC",
            ];
            Value::good(*good.choose(random).unwrap())
        }
    }
}

/// One that a row may have.
pub fn row_date(random: &mut StdRng) -> Value {
    loop {
        let date = date(random);
        if !is_infinite(&date) {
            return date;
        }
    }
}

fn is_infinite(date: &Value) -> bool {
    match &date.wire {
        Wire::Text(text) => text.ends_with("infinity"),
        Wire::Binary(bytes) => [i64::MIN, i64::MAX].iter().any(|micros| bytes[..] == micros.to_be_bytes()),
        Wire::Null => false,
    }
}

/// One that a row may not have.
pub fn bad_row_date(random: &mut StdRng) -> Value {
    if random.random_bool(0.2) {
        let infinite = if random.random() { "infinity" } else { "-infinity" };
        return Value::refused(text(infinite), &["23514"], "created_at");
    }
    bad_date(random)
}

pub fn bad_date(random: &mut StdRng) -> Value {
    if random.random_bool(0.3) {
        let micros = [i64::MIN + 1, i64::MAX - 1].choose(random).unwrap();
        return Value::bad(Wire::Binary(micros.to_be_bytes().to_vec()), &["22008"]);
    }
    let bad = [
        "",
        "never",
        "294277-01-01",
        "4715-01-01 BC",
        "2023-02-29",
        "2024-13-01",
        "25:00",
        "99999999999999999999",
        "2024-01-01 99",
    ];
    Value::bad(text(bad.choose(random).unwrap()), &["22007", "22008", "22009"])
}

/// A `date`, in reach of the server unless it is to be bad.
pub fn day(random: &mut StdRng, bad: bool) -> Value {
    match (bad, random.random_bool(0.3)) {
        (true, true) => {
            let days = [i32::MIN + 1, i32::MAX - 1].choose(random).unwrap();
            Value::bad(Wire::Binary(days.to_be_bytes().to_vec()), &["22008"])
        }
        (true, false) => {
            let bad = [
                "",
                "never",
                "5874898-01-01",
                "4715-01-01 BC",
                "2023-02-29",
                "2024-13-01",
                "99999999999999999999",
            ];
            Value::bad(text(bad.choose(random).unwrap()), &["22007", "22008", "22009"])
        }
        (false, true) => {
            let days = [i32::MIN, i32::MAX, 0, -1].choose(random).unwrap();
            Value { wire: Wire::Binary(days.to_be_bytes().to_vec()), fault: None }
        }
        (false, false) => {
            let good = [
                "-infinity",
                "infinity",
                "today",
                "4714-11-24 BC",
                "5874897-12-31",
                "294277-01-01",
                "2024-02-29",
            ];
            Value::good(*good.choose(random).unwrap())
        }
    }
}

/// A whole number of this many bytes. Below zero it is refused with 22023 where that is so.
pub fn number(random: &mut StdRng, bytes: usize, name: &str, may_be_negative: bool) -> Value {
    let (least, most) = if bytes == 4 { (i32::MIN.into(), i32::MAX.into()) } else { (i64::MIN, i64::MAX) };
    match random.random_range(0..10) {
        0 => {
            let beyond = [i128::from(most) + 1, i128::from(least) - 1, i128::MAX];
            Value::bad(Wire::Text(beyond.choose(random).unwrap().to_string()), &["22003"])
        }
        1 => {
            let bad = ["", "one", "1.5", "1e3", "NaN", "--1", "1 2"];
            Value::bad(text(bad.choose(random).unwrap()), &["22P02"])
        }
        2 => Value::bad(Wire::Binary(vec![1; [0, 3, 9].choose(random).copied().unwrap()]), BROKEN),
        3..5 => {
            let number = [-1, -2, least, least + 1].choose(random).copied().unwrap();
            if may_be_negative {
                Value::good(number.to_string())
            } else {
                Value::refused(
                    Wire::Text(number.to_string()),
                    &["22023"],
                    format!("argument {name} must not be negative, but is {number}"),
                )
            }
        }
        _ => {
            let number = [0, 1, 2, 10, 50, 1000, most / 2, most - 1, most].choose(random).copied().unwrap();
            let form = ["", "+", " ", "000"].choose(random).unwrap();
            Value::good(format!("{form}{number}"))
        }
    }
}

/// An array of these elements, as one, with other bounds or of several dimensions; `None` is a NULL in it.
pub fn array(random: &mut StdRng, elements: &[Option<String>]) -> Wire {
    let quoted: Vec<String> = elements
        .iter()
        .map(|element| {
            let quote = |text: &String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            element.as_ref().map_or_else(|| "NULL".to_owned(), quote)
        })
        .collect();
    let list = quoted.join(",");
    let count = quoted.len();
    Wire::Text(match random.random_range(0..6) {
        0 if count > 0 => format!("[-7:{}]={{{list}}}", i64::try_from(count).expect("a few") - 8),
        1 if count > 0 => format!("{{{{{list}}},{{{list}}}}}"),
        2 if count > 0 => format!("[5:5][0:{}]={{{{{list}}}}}", count - 1),
        3 if count > 0 => format!("{{{{{{{{{{{{{list}}}}}}}}}}}}}"),
        _ => format!("{{{list}}}"),
    })
}

/// What is no array, whatever the elements are.
pub fn bad_array(random: &mut StdRng) -> Value {
    let bad: &[u8] = [
        &b""[..],
        &[0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 25],
        &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 25, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1],
        &[0xff; 40],
    ]
    .choose(random)
    .unwrap();
    if random.random() {
        return Value::bad(Wire::Binary(bad.to_vec()), &["08P01", "22P03", "42804", "54000", "22003"]);
    }
    let bad = [
        "",
        "usage",
        "{",
        "}",
        "{{a},{b,c}}",
        "{a},{b}",
        "[1:0]={}",
        "[1:5]={a}",
        "[2147483647:2147483647]={a}",
        "{{{{{{{a}}}}}}}",
        "{\"}",
        "{a,}",
    ];
    Value::bad(text(bad.choose(random).unwrap()), &["22P02", "54000", "2202E"])
}
