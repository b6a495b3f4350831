//! The entry points of the functions that read or record rows: the names that `balances.sql`, `reads.sql` and `recording.sql` in
//! `sql/schema` declare, and what answers them.

use pgrx::pg_sys;

use super::call;
use super::function_info::function_info_v1;
use crate::api::{balances, bulk, feed, grouped, recording, topup, transactions};

macro_rules! entry_points {
    ($answer:path: $($info:ident, $name:ident => $body:path;)*) => {$(
        function_info_v1!($info);

        #[unsafe(no_mangle)]
        extern "C-unwind" fn $name(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            // SAFETY: the server calls this function, with its own call information.
            unsafe { $answer(fcinfo, $body) }
        }
    )*};
}

// By the names that pgrx gave them, which databases of 0.2.0 have them under.
entry_points! { call::answer:
    pg_finfo_get_user_balance_wrapper, get_user_balance_wrapper => balances::get_user_balance;
    pg_finfo_calculate_balance_with_seq_wrapper, calculate_balance_with_seq_wrapper
        => balances::calculate_balance_with_seq;
    pg_finfo_get_users_balances_bulk_wrapper, get_users_balances_bulk_wrapper => balances::get_users_balances_bulk;
    pg_finfo_refresh_checkpoints_bulk_wrapper, refresh_checkpoints_bulk_wrapper
        => balances::refresh_checkpoints_bulk;
    pg_finfo_create_transaction_wrapper, create_transaction_wrapper => recording::create_transaction;
}

entry_points! { call::answer:
    pg_finfo_record_transactions, record_transactions => bulk::record_transactions;
}

entry_points! { call::answer_read:
    pg_finfo_transactions_after, transactions_after => feed::transactions_after;
    pg_finfo_get_transaction_by_id, get_transaction_by_id => transactions::get_transaction_by_id;
    pg_finfo_transaction_exists_by_source_id, transaction_exists_by_source_id
        => transactions::transaction_exists_by_source_id;
    pg_finfo_list_user_transactions, list_user_transactions => transactions::list_user_transactions;
    pg_finfo_list_all_transactions, list_all_transactions => transactions::list_all_transactions;
    pg_finfo_count_user_transactions, count_user_transactions => transactions::count_user_transactions;
    pg_finfo_count_all_transactions, count_all_transactions => transactions::count_all_transactions;
    pg_finfo_sum_recent_transactions, sum_recent_transactions => transactions::sum_recent_transactions;
    pg_finfo_sum_transactions_after_date, sum_transactions_after_date => transactions::sum_transactions_after_date;
    pg_finfo_list_transactions_with_batches, list_transactions_with_batches => grouped::list_transactions_with_batches;
    pg_finfo_count_transactions_with_batches, count_transactions_with_batches
        => grouped::count_transactions_with_batches;
    pg_finfo_sum_recent_transactions_grouped, sum_recent_transactions_grouped
        => grouped::sum_recent_transactions_grouped;
    pg_finfo_sum_transactions_after_date_grouped, sum_transactions_after_date_grouped
        => grouped::sum_transactions_after_date_grouped;
    pg_finfo_get_monthly_auto_topup_spend, get_monthly_auto_topup_spend => topup::get_monthly_auto_topup_spend;
    pg_finfo_get_monthly_auto_topup_spend_bulk, get_monthly_auto_topup_spend_bulk
        => topup::get_monthly_auto_topup_spend_bulk;
}
