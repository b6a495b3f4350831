//! Everything that can be asked of a ledger, to compare the answers of two servers.

use credits_ledger_tests::contents::USERS;
use credits_ledger_tests::{Session, user};

/// Each reading function, called for every user where it takes one. `{user}` is the user, `{users}` are all and one more.
const CALLS: &[&str] = &[
    "get_user_balance({user})",
    "calculate_balance_with_seq({user})",
    "get_users_balances_bulk({users})",
    "get_users_balances_bulk({users}, 1)",
    "get_available_balance({user})",
    "get_available_balances_bulk({users})",
    "list_holds({user}, \"limit\" => NULL)",
    "get_transaction_by_id((SELECT id FROM credits.credits_transactions WHERE user_id = {user} ORDER BY seq LIMIT 1))",
    "transaction_exists_by_source_id('auto_topup_1')",
    "list_user_transactions({user}, \"limit\" => NULL)",
    "list_user_transactions({user}, 1, 3, before_seq => 100, transaction_types => '{usage}')",
    "list_user_transactions_with_balance({user}, \"limit\" => NULL)",
    "list_user_transactions_with_balance({user}, 1, 3, before_seq => 100, transaction_types => '{usage}')",
    "usage_by_day({user})",
    "usage_by_day({user}, '2000-01-01', current_date)",
    "get_user_balance_at({user}, now() - interval '1 day')",
    "get_user_balance_at({user}, 'infinity')",
    "account_statement({user}, now() - interval '1 day', 'infinity')",
    "list_all_transactions(\"limit\" => NULL)",
    "list_all_transactions(2, 5, search => 'top-up')",
    "list_transactions_with_batches({user}, \"limit\" => NULL)",
    "list_transactions_with_batches({user}, 1, 4, start_date => now() - interval '1 day')",
    "count_user_transactions({user})",
    "count_all_transactions()",
    "count_transactions_with_batches({user})",
    "sum_recent_transactions({user}, 7)",
    "sum_recent_transactions_grouped({user}, 7)",
    "sum_transactions_after_date({user}, '2000-01-01')",
    "sum_transactions_after_date_grouped({user}, '2000-01-01')",
    "get_monthly_auto_topup_spend({user})",
    "get_monthly_auto_topup_spend_bulk({users})",
    // No rows: which there are depends on what is open, and has tests of its own.
    "transactions_after(\"limit\" => 0)",
    "are_thresholds('{1, -2.5}')",
    "is_amount(2.5)",
    "is_transaction_type('usage')",
    "may_have_batch('usage', {user})",
    "visible_balances()",
    "visible_held({user})",
    "visible_caps()",
    "visible_spend({user}, NULL, '2000-01-01', NULL)",
    "visible_batches()",
    "verify_ledger()",
    "verify_installation()",
    "bucket_of({user})",
    "get_node_number()",
    "owns_bucket(1)",
    "owned_buckets()",
    "has_all_buckets()",
    "is_here({user})",
    "require_class(4, 3)",
    "get_ledger()",
    "bucket_state(1)",
    "bucket_accounts(credits.bucket_of({user}))",
    "bucket_digest(credits.bucket_of({user}))",
    // In which order is not said, and stamps are of the cluster.
    "bucket_transactions(credits.bucket_of({user}), NULL, NULL)",
    "holds_stripes(1)",
    "refuse_prepared('{}')",
    "wait_for_transaction(3)",
    "require_same_rows(1, '{\"accounts\": []}')",
    "require_handover(1, '{\"ledger\": \"x\", \"seq\": 1, \"position\": \"1\", \"accounts\": [], \"holds\": [], \"limits\": [], \"caps\": []}')",
    "row_security()",
    // Nothing is left to be made.
    "restore_row_security()",
    "import_query('credits.credits_transactions')",
    "unimportable_transactions('credits.credits_transactions')",
];

/// Not those that tell of one server's sessions, or of what it has folded so far.
const VIEWS: [&str; 4] = ["balances", "batches", "users_without_checkpoint", "uncovered_transactions"];

/// What writes, called as a client would.
pub const WRITES: &[&str] = &[
    "create_transaction({user}, 'usage', 1, 'written')",
    "record_transactions('[{\"source_id\": \"written at once\"}]')",
    "refresh_checkpoint({user})",
    "charge({user}, 1, 'charged')",
    "extend_hold('held', '1 hour')",
    "release_hold('held')",
    "capture_hold('held')",
    "create_hold({user}, 1, 'held')",
    "reverse_transaction((SELECT id FROM credits.credits_transactions WHERE user_id = {user} LIMIT 1), 'taken back')",
    "redact_account({user})",
    "refresh_checkpoints_bulk(ARRAY[{user}]::uuid[])",
    "aggregate_user_batches({user})",
    "add_up_days(ARRAY[{user}]::uuid[])",
    "refresh_idle_checkpoints('0')",
    "advance_seq(1000000)",
    "set_node_number(1)",
    "disown_buckets(ARRAY[1])",
    "own_buckets(ARRAY[1])",
    "begin_transfer(1)",
    "hold_stripes(1)",
    "lock_bucket(1, '{here}')",
    "start_moving_bucket(1)",
    "stop_moving_bucket(1)",
    "hold_bucket(1)",
    "bucket_handover(1)",
    "give_away_bucket(1)",
    "drop_holds_and_boundaries(1)",
    "put_holds_and_boundaries(1, '{}')",
    "expect_bucket(1, 'another')",
    "receive_transactions(1, '[]')",
    "receive_handover(1, '{\"ledger\": \"x\", \"seq\": 1, \"position\": \"1\", \"accounts\": [], \"holds\": [], \"limits\": [], \"caps\": []}')",
    "activate_bucket(1, '{\"ledger\": \"x\", \"seq\": 1, \"position\": \"1\", \"accounts\": [], \"holds\": [], \"limits\": [], \"caps\": []}')",
    "return_bucket(1)",
    "purge_bucket(1)",
    "release_expired_holds('0')",
];

/// A call of the list, for a user.
pub fn call(call: &str, number: u32) -> String {
    let users: Vec<String> = (0..=USERS).map(|number| format!("'{}'", user(number))).collect();
    let users = format!("ARRAY[{}]::uuid[]", users.join(", "));
    format!("credits.{}", call.replace("{user}", &format!("'{}'", user(number))).replace("{users}", &users))
}

/// What a session is asked.
pub trait Answers {
    /// Every answer to every question.
    fn answers(&mut self) -> Vec<(String, Option<String>)>;
    /// Fails if a function of the extension is not known here.
    fn assert_all_are_asked(&mut self);
}

impl Answers for Session {
    fn answers(&mut self) -> Vec<(String, Option<String>)> {
        let calls = CALLS.iter().flat_map(|function| {
            let users = if function.contains("{user}") { USERS } else { 1 };
            (0..users).map(|number| call(function, number))
        });
        let views = VIEWS.iter().map(|view| format!("credits.{view}"));
        let asked: Vec<String> = calls.chain(views).collect();
        asked
            .into_iter()
            .map(|from| {
                // Lists come in their order, sets in any.
                let order = if from.contains("list_") { "" } else { " ORDER BY answer::text" };
                let sql = format!("SELECT string_agg(answer::text, E'\\n'{order}) FROM {from} AS answer");
                let answer = self.value(&sql, &[]);
                (from, answer)
            })
            .collect()
    }

    fn assert_all_are_asked(&mut self) {
        let functions: Vec<String> = self.values(
            "SELECT DISTINCT proname::text FROM pg_proc
             WHERE pronamespace = 'credits'::regnamespace AND prokind = 'f'
               AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
               AND proname NOT IN ('current_xact_id', 'make_class_views', 'settlement_statistics', 'uuid_v7')",
            &[],
        );
        let is_asked = |function: &String| {
            CALLS.iter().chain(WRITES).any(|call| call.split('(').next() == Some(function.as_str()))
        };
        let missing: Vec<&String> = functions.iter().filter(|function| !is_asked(function)).collect();
        assert!(missing.is_empty(), "neither among CALLS nor WRITES: {missing:?}");
    }
}
