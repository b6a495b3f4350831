//! The SQL functions that are written against the server's own calling convention: the names that files of `sql/schema` declare,
//! and what answers them.

use crate::api::{
    balances, bulk, charges, checks, days, feed, grouped, holds, moves, new_hold, nodes, open_holds,
    recording, reversals, statements, topup, transactions,
};
use crate::pg::entry_point::entry_points;
use crate::pg::{stamp, uuid_v7};

// Databases of 0.2.0 call these by the names that pgrx gave them.
entry_points! { functions:
    get_user_balance_wrapper => balances::get_user_balance;
    calculate_balance_with_seq_wrapper => balances::calculate_balance_with_seq;
    get_users_balances_bulk_wrapper => balances::get_users_balances_bulk;
    refresh_checkpoints_bulk_wrapper => balances::refresh_checkpoints_bulk;
    create_transaction_wrapper => recording::create_transaction;
}

entry_points! { functions:
    get_available_balance => balances::get_available_balance;
    get_available_balances_bulk => balances::get_available_balances_bulk;
    visible_held => balances::visible_held;
    record_transactions => bulk::record_transactions;
    reverse_transaction => reversals::reverse_transaction;
    create_hold => new_hold::create_hold;
    capture_hold => holds::capture_hold;
    release_hold => holds::release_hold;
    extend_hold => holds::extend_hold;
    charge => charges::charge;
    owned_buckets => nodes::owned_buckets;
    has_all_buckets => nodes::has_all_buckets;
    is_here => nodes::is_here;
    require_class => nodes::require_class;
    begin_transfer => moves::begin_transfer;
    wait_for_transaction => moves::wait_for_transaction;
    hold_stripes => moves::hold_stripes;
    holds_stripes => moves::holds_stripes;
}

entry_points! { reading_functions:
    transactions_after => feed::transactions_after;
    get_transaction_by_id => transactions::get_transaction_by_id;
    transaction_exists_by_source_id => transactions::transaction_exists_by_source_id;
    list_user_transactions => transactions::list_user_transactions;
    list_all_transactions => transactions::list_all_transactions;
    count_user_transactions => transactions::count_user_transactions;
    count_all_transactions => transactions::count_all_transactions;
    sum_recent_transactions => transactions::sum_recent_transactions;
    sum_transactions_after_date => statements::sum_transactions_after_date;
    get_user_balance_at => statements::get_user_balance_at;
    account_statement => statements::account_statement;
    usage_by_day => days::usage_by_day;
    list_user_transactions_with_balance => transactions::list_user_transactions_with_balance;
    list_transactions_with_batches => grouped::list_transactions_with_batches;
    count_transactions_with_batches => grouped::count_transactions_with_batches;
    sum_recent_transactions_grouped => grouped::sum_recent_transactions_grouped;
    sum_transactions_after_date_grouped => grouped::sum_transactions_after_date_grouped;
    list_holds => open_holds::list_holds;
    get_monthly_auto_topup_spend => topup::get_monthly_auto_topup_spend;
    get_monthly_auto_topup_spend_bulk => topup::get_monthly_auto_topup_spend_bulk;
}

entry_points! { functions:
    is_amount => checks::is_amount;
    is_transaction_type => checks::is_transaction_type;
    may_have_batch => checks::may_have_batch;
}

// `credits.current_xact_id(bigint)`, which stamps a ledger row with this `seq`: called for every row.
entry_points! { from_bigint_to_xid8:
    current_xact_id => stamp::give;
}

// `credits.uuid_v7()`, the default of the ledger's column `id`.
entry_points! { returning_uuid:
    uuid_v7 => uuid_v7::next;
}

// `credits.current_xact_id_support(internal)` of 0.1.0, for databases that are not updated yet: a planner support function, whose
// NULL says that it has no support to give.
entry_points! { returning_null:
    current_xact_id_support => no_support;
}

const fn no_support() {}
