//! Calls of all functions that the catalog has.

use credits_ledger_tests::{Session, Uuid};
use postgres::types::ToSql;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::amounts;
use crate::values::{self, TYPES, Value, Wire};
use crate::verdict::{Expected, Fault};

/// Called as [`crate::rows`] are recorded: what is wrong depends on several arguments at once.
pub const CREATE: &str = "create_transaction";

/// Called as [`crate::rows::reverse`] has it, too: of what is there, depends on what is left.
pub const REVERSE: &str = "reverse_transaction";

/// Not called: they are about buckets, and how a node numbers rows. [`crate::moves`] has bad values of theirs, and `buckets` and `kept_rows` in the target `ledger`.
pub const SHAPE_THE_NODE: [&str; 10] = [
    "bucket_accounts",
    "bucket_digest",
    "bucket_state",
    "bucket_transactions",
    "disown_buckets",
    "get_ledger",
    "make_class_views",
    "own_buckets",
    "require_class",
    "set_node_number",
];

/// A function of the extension.
#[derive(Clone, Debug)]
pub struct Function {
    pub name: String,
    /// Of a type that no client has values of: a trigger, or support for the planner.
    pub internal: bool,
    pub arguments: Vec<Argument>,
}

#[derive(Clone, Debug)]
pub struct Argument {
    pub name: String,
    kind: String,
    has_default: bool,
}

impl Function {
    /// All of them, from the catalog.
    pub fn all(session: &mut Session) -> Vec<Self> {
        let rows = session
            .query(
                "SELECT p.proname::text, a.name, a.type::regtype::text, a.n > pronargs - pronargdefaults,
                        prorettype IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype)
                 FROM pg_proc p
                 LEFT JOIN LATERAL unnest(proargtypes::oid[], proargnames[1:pronargs]) WITH ORDINALITY a (type, name, n)
                     ON true
                 WHERE pronamespace = 'credits'::regnamespace AND prokind = 'f' ORDER BY p.oid, a.n",
                &[],
            )
            .expect("read the catalog");
        let mut functions: Vec<Self> = Vec::new();
        for row in rows {
            let name: String = row.get(0);
            if functions.last().is_none_or(|last| last.name != name) {
                functions.push(Self { name, internal: row.get(4), arguments: Vec::new() });
            }
            let function = functions.last_mut().expect("pushed above");
            if let Some(kind) = row.get::<_, Option<String>>(2) {
                let argument: Option<String> = row.get(1);
                function.arguments.push(Argument {
                    name: argument.unwrap_or_default(),
                    kind,
                    has_default: row.get(3),
                });
            }
        }
        functions
    }

    /// Calls it with values of all kinds; some with a default are left out.
    pub fn call(
        &self,
        session: &mut Session,
        random: &mut StdRng,
        users: &[Uuid],
        tolerated: &[&'static str],
    ) {
        let mut expected = Expected { tolerated: tolerated.to_vec(), ..Expected::default() };
        if self.internal {
            let nulls = vec!["NULL"; self.arguments.len()].join(", ");
            let sql = format!("SELECT credits.{}({nulls})", self.name);
            let error = session.try_run(&sql).expect_err(&sql);
            let sqlstate = error.code().map(|code| code.code().to_owned());
            // As the protocol demands of a trigger, or for want of such a value.
            assert!(
                ["39P01", "39P03", "0A000", "42883"].map(Some).contains(&sqlstate.as_deref()),
                "{sql}: {error:?}"
            );
            return;
        }
        // Values are good enough for a call to succeed half of the time, however many arguments it has.
        let spoils = random.random::<bool>();
        let given: Vec<&Argument> =
            self.arguments.iter().filter(|argument| !argument.has_default || random.random()).collect();
        let values: Vec<Value> =
            given.iter().map(|argument| argument.value(random, users, &self.name, spoils)).collect();
        expected.faults.extend(values.iter().filter_map(|value| value.fault.clone()));
        // There may be no such hold, and credits may not cover what is asked for.
        expected.tolerated.extend(match self.name.as_str() {
            "capture_hold" => &["P0002"][..],
            "create_hold" | "charge" => &["LC001"],
            "extend_hold" => &["P0002", "LC001"],
            // Where it is called inside a transaction.
            "add_up_days" => &["25001"],
            // A period that ends before it begins.
            "account_statement" => &["22023"],
            _ => &[],
        });
        // The ids of transactions are not those of users: rows::reverse has those.
        if self.name == REVERSE {
            let names = Some("there is no transaction".to_owned());
            expected.faults.push(Fault { sqlstates: &["P0002"], names });
        }
        let arguments: Vec<String> =
            given.iter().zip(1..).map(|(argument, n)| format!("\"{}\" => ${n}", argument.name)).collect();
        let sql = format!("SELECT * FROM credits.{}({})", self.name, arguments.join(", "));
        let parameters: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|value| &value.wire as &(dyn ToSql + Sync)).collect();
        expected.judge(session.query(&sql, &parameters), &(&sql, &values));
    }
}

/// Functions that look for a `source_id`, whatever it is like.
const LOOK_UP: [&str; 4] = ["transaction_exists_by_source_id", "capture_hold", "release_hold", "extend_hold"];

/// What constraints ask: whether a value is good, whatever it is.
const OF_CONSTRAINTS: [&str; 3] = ["is_amount", "is_transaction_type", "may_have_batch"];

/// What a view is made with, in SQL.
const OF_A_VIEW: &str = "visible_spend";

impl Argument {
    /// A good value, or one that need not be, if `spoils`.
    fn value(&self, random: &mut StdRng, users: &[Uuid], function: &str, spoils: bool) -> Value {
        if spoils && random.random_bool(0.1) {
            // seq is ignored, a constraint takes NULL as the server does, a view takes NULLs for what has no bound, though not for the
            // account, and the bucket of NULL is NULL.
            let needed =
                ["skip", "idle", "grace", "expires_in"].contains(&self.name.as_str()) || !self.has_default;
            let takes_null = ["seq", "thresholds"].contains(&self.name.as_str())
                || (function == OF_A_VIEW && self.name != "user_id")
                || function == "bucket_of"
                || OF_CONSTRAINTS.contains(&function);
            return if !needed || takes_null {
                Value::null()
            } else {
                Value::refused(Wire::Null, &["22004"], format!("argument {} must not be NULL", self.name))
            };
        }
        for _ in 0..100 {
            let value = self.any(random, users, function);
            if spoils || value.fault.is_none() {
                return value;
            }
        }
        panic!("{function} takes no value for {}", self.name);
    }

    fn any(&self, random: &mut StdRng, users: &[Uuid], function: &str) -> Value {
        let name = self.name.as_str();
        let bad = random.random_bool(0.2);
        match (self.kind.as_str(), name) {
            ("uuid", _) if bad => values::bad_uuid(random),
            // Of nobody who has credits: what is charged is kept account of elsewhere.
            ("uuid", "user_id") if function == "charge" => values::uuid(random, Uuid::from_u128(0xc4)),
            ("uuid", _) => {
                let user = *users.choose(random).unwrap();
                values::uuid(random, user)
            }
            ("uuid[]" | "text[]", _) if bad && random.random() => values::bad_array(random),
            ("uuid[]", _) => {
                let count = [0, 1, 2, 7, 7, 3000].choose(random).copied().unwrap();
                let elements = (0..count).map(|_| Some(users.choose(random).unwrap().to_string())).collect();
                self.array(random, elements, bad && function != OF_A_VIEW)
            }
            ("text[]", "transaction_types") => {
                let count = [0, 1, 2, 7, 7, 3000].choose(random).copied().unwrap();
                let elements: Vec<_> =
                    (0..count).map(|_| Some((*TYPES.choose(random).unwrap()).to_owned())).collect();
                if bad && random.random() {
                    let names = format!("argument {name} has an unknown transaction type: ");
                    let unknown = values::unknown_type(random, &["22023"], &names);
                    let Wire::Text(text) = &unknown.wire else { panic!("a name is a text") };
                    let wire = values::array(random, &[&elements[..], &[Some(text.clone())]].concat());
                    return Value { wire, ..unknown };
                }
                self.array(random, elements, bad)
            }
            ("text", "search" | "source_id" | "description") if bad => values::bad_text(random),
            // What is recorded has one, and it is not blank.
            ("text", "source_id") if !LOOK_UP.contains(&function) => values::source_id(random),
            ("text", "search" | "source_id" | "description") => Value::good(values::words(random)),
            ("numeric", "amount") if bad && OF_CONSTRAINTS.contains(&function) => {
                Value::good(*["NaN", "-Infinity", "0", "1e131071", "1e-16383"].choose(random).unwrap())
            }
            ("text", "transaction_type") if bad => Value::good("refund"),
            ("text", "transaction_type") => Value::good(*TYPES.choose(random).unwrap()),
            ("numeric", "amount") if bad => amounts::bad_amount(random),
            ("numeric", "amount") => {
                let digits = random.random_range(1..=28);
                let units = random.random_range(1..10_i128.pow(digits));
                amounts::amount(random, units)
            }
            ("bigint", "skip" | "limit" | "count") => values::number(random, 8, name, false),
            ("bigint", "before_seq" | "seq") => values::number(random, 8, name, true),
            ("bigint", "past") if bad => {
                Value::refused(Wire::Text(i64::MAX.to_string()), &["23514"], "is too high")
            }
            ("bigint", "past") => Value::good(*["-5", "0", "7", "1000"].choose(random).unwrap()),
            ("integer", "bucket") if bad => Value::refused(
                Wire::Text((*["-1", "1024", "2147483647"].choose(random).unwrap()).to_owned()),
                &["22023"],
                "bucket must be 0 to 1023",
            ),
            ("integer", "bucket") => Value::good(*["0", "1023"].choose(random).unwrap()),
            ("integer", "checkpoint_refresh_probability") => values::number(random, 4, name, false),
            ("interval", "expires_in") => values::expires_in(random, bad),
            ("text", "category") if bad => Value::refused(
                Wire::Text("c".repeat(201)),
                &["23514"],
                "category must not have more than 200",
            ),
            ("text", "category") => Value::good("a model"),
            ("jsonb", "metadata") if bad => {
                Value::refused(Wire::Text("[1]".to_owned()), &["23514"], "metadata must be a JSON object")
            }
            ("jsonb", "metadata") => Value::good("{\"key\": [1, null]}"),
            ("interval", "idle") => values::interval(random, bad, None),
            ("interval", "grace") => values::interval(random, bad, Some(name)),
            ("numeric[]", "thresholds") if bad => values::bad_array(random),
            ("numeric[]", "thresholds") => Value::good(
                *["{}", "{1,-2.5}", "{0,NULL}", "{NaN,Infinity}", "[2:3]={1,1.0}", "{{1},{2}}"]
                    .choose(random)
                    .unwrap(),
            ),
            ("regclass", "source") => values::source(random, bad),
            ("text", "feed_position") => values::feed_position(random),
            ("jsonb", "transactions") => values::items(random, bad),
            ("date", _) => values::day(random, bad),
            ("timestamp with time zone", _) if bad => values::bad_date(random),
            ("timestamp with time zone", _) => values::date(random),
            (kind, _) => panic!("what may the argument {name} {kind} of {function} be? Say so here"),
        }
    }

    fn array(&self, random: &mut StdRng, mut elements: Vec<Option<String>>, with_null: bool) -> Value {
        if with_null {
            let place = random.random_range(0..=elements.len());
            elements.insert(place, None);
            let wire = values::array(random, &elements);
            return Value::refused(wire, &["22004"], format!("argument {} must not contain NULL", self.name));
        }
        Value { wire: values::array(random, &elements), fault: None }
    }
}
