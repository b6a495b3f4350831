//! What a function refuses, with which SQLSTATE, naming which argument.

use credits_ledger_tests::{Database, Refused};

const USER: &str = "'10000000-0000-4000-8000-000000000001'::uuid";

/// Calls of the functions with `{}` for one argument, and the name of that argument.
fn calls(with: &[&str]) -> Vec<(String, &'static str)> {
    const LISTS: [&str; 4] = [
        "list_user_transactions({user}, {args})",
        "list_user_transactions_with_balance({user}, {args})",
        "list_transactions_with_batches({user}, {args})",
        "list_all_transactions({args})",
    ];
    const COUNTS: [&str; 3] = [
        "count_user_transactions({user}, {args})",
        "count_transactions_with_batches({user}, {args})",
        "count_all_transactions({args})",
    ];
    let mut calls = Vec::new();
    let mut add = |functions: &[&str], argument: &'static str| {
        for function in functions {
            let argument_given = format!("{argument} => {}", with[0]);
            let call = function.replace("{user}", USER).replace("{args}", &argument_given);
            calls.push((call, argument.trim_matches('"')));
        }
    };
    for argument in &with[1..] {
        match *argument {
            "skip" => add(&LISTS, "skip"),
            "limit" => add(&LISTS, "\"limit\""),
            "transaction_types" => {
                add(&LISTS, "transaction_types");
                add(&COUNTS, "transaction_types");
            }
            "count" => add(
                &[
                    "sum_recent_transactions({user}, {args})",
                    "sum_recent_transactions_grouped({user}, {args})",
                ],
                "count",
            ),
            "after_date" => add(
                &[
                    "sum_transactions_after_date({user}, {args})",
                    "sum_transactions_after_date_grouped({user}, {args})",
                ],
                "after_date",
            ),
            "at" => add(&["get_user_balance_at({user}, {args})"], "at"),
            "period_start" => {
                add(&["account_statement({user}, {args}, period_end => now())"], "period_start");
            }
            "period_end" => add(&["account_statement({user}, {args}, period_start => now())"], "period_end"),
            "user_ids" => add(&["get_monthly_auto_topup_spend_bulk({args})"], "user_ids"),
            "transaction_id" => add(&["get_transaction_by_id({args})"], "transaction_id"),
            "source_id" => add(&["transaction_exists_by_source_id({args})"], "source_id"),
            "user_id" => add(
                &[
                    "list_user_transactions({args})",
                    "list_user_transactions_with_balance({args})",
                    "usage_by_day({args})",
                    "get_user_balance_at({args}, at => now())",
                    "account_statement({args}, period_start => now(), period_end => 'infinity')",
                    "list_transactions_with_batches({args})",
                    "count_user_transactions({args})",
                    "count_transactions_with_batches({args})",
                    "sum_recent_transactions({args}, count => 1)",
                    "sum_recent_transactions_grouped({args}, count => 1)",
                    "sum_transactions_after_date({args}, after_date => now())",
                    "sum_transactions_after_date_grouped({args}, after_date => now())",
                    "get_monthly_auto_topup_spend({args})",
                ],
                "user_id",
            ),
            unknown => panic!("no function has {unknown}"),
        }
    }
    calls
}

/// Each of the calls is refused, with an error that names the argument and, where it has one, the value.
#[track_caller]
fn assert_refused(with: &[&str], sqlstate: &str, value: &str) {
    let db = Database::create();
    let mut session = db.connect();
    for (call, argument) in calls(with) {
        let error = session.try_run(&format!("SELECT * FROM credits.{call}")).refused(sqlstate);
        assert!(error.message().contains(&format!("argument {argument} ")), "{call}: {}", error.message());
        assert!(error.message().contains(value), "{call}: {}", error.message());
    }
}

#[test]
fn null_for_a_required_argument() {
    let arguments = [
        "user_id",
        "skip",
        "count",
        "after_date",
        "at",
        "period_start",
        "period_end",
        "user_ids",
        "transaction_id",
        "source_id",
    ];
    assert_refused(&[&["NULL"][..], &arguments].concat(), "22004", "NULL");
}

#[test]
fn null_inside_an_array() {
    assert_refused(&["ARRAY['usage', NULL]", "transaction_types"], "22004", "must not contain NULL");
    assert_refused(&["ARRAY[NULL]::uuid[]", "user_ids"], "22004", "must not contain NULL");
}

#[test]
fn a_negative_number() {
    assert_refused(&["-1", "skip", "limit", "count"], "22023", "-1");
    assert_refused(&["-9223372036854775808", "skip", "limit", "count"], "22023", "-9223372036854775808");
}

#[test]
fn an_unknown_type() {
    assert_refused(&["ARRAY['usage', 'Usage']", "transaction_types"], "22023", "\"Usage\"");
    assert_refused(&["ARRAY['']", "transaction_types"], "22023", "\"\"");
}

#[test]
fn null_elsewhere_is_the_default() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         SELECT '10000000-0000-4000-8000-000000000001', 'purchase', 1, n::text FROM generate_series(1, 3) n",
    );
    for call in [
        "(SELECT count(*) FROM credits.list_user_transactions({user}, 0, NULL, NULL, NULL, NULL, NULL, NULL))",
        "(SELECT count(*) FROM credits.list_user_transactions_with_balance({user}, 0, NULL, NULL, NULL, NULL, NULL, NULL))",
        "(SELECT count(*) FROM credits.list_transactions_with_batches({user}, 0, NULL, NULL, NULL, NULL, NULL, NULL))",
        "(SELECT sum(transaction_count)::bigint FROM credits.usage_by_day({user}, NULL, NULL))",
        "(SELECT count(*) FROM credits.list_all_transactions(0, NULL, NULL, NULL, NULL, NULL, NULL))",
        "credits.count_user_transactions({user}, NULL, NULL, NULL, NULL)",
        "credits.count_transactions_with_batches({user}, NULL, NULL, NULL, NULL)",
        "credits.count_all_transactions(NULL, NULL, NULL, NULL)",
        "credits.sum_recent_transactions({user}, 9, NULL, NULL)::bigint",
        "credits.sum_recent_transactions_grouped({user}, 9, NULL, NULL)::bigint",
    ] {
        let call = call.replace("{user}", USER);
        assert_eq!(session.value::<i64>(&format!("SELECT {call}"), &[]), 3, "{call}");
    }
}

/// An array of several dimensions, or with other bounds, is a list of its elements.
#[test]
fn arrays_of_any_shape() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         SELECT '10000000-0000-4000-8000-000000000001', 'purchase', 1, 'auto_topup_' || n FROM generate_series(1, 3) n",
    );
    let types = "credits.count_all_transactions(transaction_types => '{{usage,usage},{usage,purchase}}')";
    assert_eq!(session.value::<i64>(&format!("SELECT {types}"), &[]), 3);
    let bulk = format!(
        "credits.get_monthly_auto_topup_spend_bulk(ARRAY[[{USER}, {USER}], [{USER}, gen_random_uuid()]])"
    );
    assert_eq!(session.value::<i64>(&format!("SELECT sum(total)::bigint FROM {bulk}"), &[]), 3);
    let bulk = format!("credits.get_monthly_auto_topup_spend_bulk(('[5:5]={{' || {USER} || '}}')::uuid[])");
    assert_eq!(session.value::<i64>(&format!("SELECT sum(total)::bigint FROM {bulk}"), &[]), 3);
    let bulk = "credits.get_monthly_auto_topup_spend_bulk('{}')";
    assert_eq!(session.value::<i64>(&format!("SELECT count(*) FROM {bulk}"), &[]), 0);
}

/// No list is as long as the largest number, and none is refused for it.
#[test]
fn the_largest_numbers() {
    let db = Database::create();
    let mut session = db.connect();
    // One single row; of a batch two rows that are folded and one that is not.
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
         SELECT {USER}, 'usage', 1, n::text, CASE WHEN n > 1 THEN {USER} END FROM generate_series(1, 3) n;
         SELECT credits.refresh_checkpoint({USER});
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
         VALUES ({USER}, 'usage', 1, 'late', {USER})"
    ));
    for largest in [i64::MAX, i64::MAX - 1, i64::MAX / 2, i64::MAX / 2 + 1] {
        for (call, expected) in [
            ("(SELECT count(*) FROM credits.list_user_transactions({user}, 0, {n}))", 4),
            ("(SELECT count(*) FROM credits.list_user_transactions({user}, {n}, {n}))", 0),
            ("(SELECT count(*) FROM credits.list_user_transactions_with_balance({user}, 0, {n}))", 4),
            ("(SELECT count(*) FROM credits.list_user_transactions_with_balance({user}, {n}, {n}))", 0),
            ("(SELECT count(*) FROM credits.list_all_transactions(1, {n}))", 3),
            ("(SELECT count(*) FROM credits.list_transactions_with_batches({user}, 0, {n}))", 2),
            ("(SELECT count(*) FROM credits.list_transactions_with_batches({user}, 1, {n}))", 1),
            ("(SELECT count(*) FROM credits.list_transactions_with_batches({user}, {n}, {n}))", 0),
            ("credits.sum_recent_transactions({user}, {n})::bigint", -4),
            ("credits.sum_recent_transactions_grouped({user}, {n})::bigint", -4),
        ] {
            let call = call.replace("{user}", USER).replace("{n}", &largest.to_string());
            assert_eq!(session.value::<i64>(&format!("SELECT {call}"), &[]), expected, "{call}");
        }
    }
}

#[test]
fn without_a_grant_nothing_is_read() {
    let db = Database::create();
    let role = db.create_role("reader");
    db.connect().run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role}"
    ));
    let mut session = db.connect_as(&role);
    for call in [
        "list_user_transactions({user})",
        "list_all_transactions()",
        "list_transactions_with_batches({user})",
        "count_user_transactions({user})",
        "count_all_transactions()",
        "count_transactions_with_batches({user})",
        "sum_recent_transactions({user}, 1)",
        "sum_recent_transactions_grouped({user}, 1)",
        "sum_transactions_after_date({user}, now())",
        "sum_transactions_after_date_grouped({user}, now())",
        "list_user_transactions_with_balance({user})",
        "usage_by_day({user})",
        "get_user_balance_at({user}, now())",
        "account_statement({user}, '2026-01-01', '2026-02-01')",
        "get_transaction_by_id({user})",
        "transaction_exists_by_source_id('x')",
        "get_monthly_auto_topup_spend({user})",
        "get_monthly_auto_topup_spend_bulk(ARRAY[{user}])",
    ] {
        let call = call.replace("{user}", USER);
        session.try_run(&format!("SELECT * FROM credits.{call}")).refused("42501");
    }
    db.connect().run(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA credits TO {role}"));
    assert_eq!(session.value::<i64>("SELECT credits.count_all_transactions()", &[]), 0);
    session.run(&format!("SELECT * FROM credits.list_transactions_with_batches({USER})"));
}
