//! Balances, what is available of them, and checkpoints.

use std::collections::HashSet;

use ledger::id::UserId;
use ledger::settlement::Request;
use pgrx::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::arguments::required;
use crate::engine::available::{self, Available};
use crate::engine::balance::{self, Balance};
use crate::engine::noted;
use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::column_value::ColumnValue;
use crate::pg::{random, xact};

const USER_ID: Argument = Argument(0, "user_id");
const USER_IDS: Argument = Argument(0, "user_ids");

/// `get_user_balance(user_id)`
pub fn get_user_balance(call: &Call<'_>) -> Result<Answer, LedgerError> {
    Ok(Answer::credits(balance_of(call)?.balance))
}

/// `calculate_balance_with_seq(user_id)`
pub fn calculate_balance_with_seq(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let Balance { balance, latest_seq, .. } = balance_of(call)?;
    let latest_seq = latest_seq.map_or(ColumnValue::Null, ColumnValue::Int8);
    call.result_rows(&[pg_sys::NUMERICOID, pg_sys::INT8OID]).put([ColumnValue::Credits(balance), latest_seq]);
    Ok(Answer::rows())
}

fn balance_of(call: &Call<'_>) -> Result<Balance, LedgerError> {
    let user = *call.user_id(USER_ID)?;
    Ok(balance::read(&[user])?.into_iter().next().unwrap_or_default())
}

/// `get_users_balances_bulk(user_ids, checkpoint_refresh_probability)`
pub fn get_users_balances_bulk(call: &Call<'_>) -> Result<Answer, LedgerError> {
    const PROBABILITY: Argument = Argument(1, "checkpoint_refresh_probability");
    let users = distinct(call.user_ids(USER_IDS)?);
    let one_in = match call.integer(PROBABILITY) {
        Some(value) => u32::try_from(value)
            .map_err(|_| LedgerError::NegativeArgument { name: PROBABILITY.name(), value: value.into() })?,
        None => 0,
    };
    let balances = balance::read(&users)?;
    if one_in > 0 && !xact::is_read_only() {
        let chosen = users.iter().filter(|_| random::one_in(one_in));
        noted::request(chosen, Request::RefreshIfFree)?;
    }
    Ok(rows(call, &users, &balances, |_| true))
}

/// `get_available_balance(user_id)`
pub fn get_available_balance(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let user = *call.user_id(USER_ID)?;
    let available = available::read(&[user])?.into_iter().next().unwrap_or_default();
    Ok(Answer::credits(available.available))
}

/// `get_available_balances_bulk(user_ids)`
pub fn get_available_balances_bulk(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let users = distinct(call.user_ids(USER_IDS)?);
    let read = available::read(&users)?;
    let numeric = pg_sys::NUMERICOID;
    let result = call.result_rows(&[pg_sys::UUIDOID, numeric, numeric, numeric]);
    for (user, Available { balance, held, available }) in users.iter().zip(read) {
        let [balance, held, available] = [balance, held, available].map(ColumnValue::Credits);
        result.put([ColumnValue::Uuid(user.as_bytes()), balance, held, available]);
    }
    Ok(Answer::rows())
}

/// `visible_held(user_id)`
pub fn visible_held(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let user = *call.user_id(USER_ID)?;
    Ok(Answer::credits(available::held(&[user])?.into_iter().next().unwrap_or_default()))
}

/// `credits.refresh_checkpoint`
#[pg_extern(volatile, parallel_unsafe)]
fn refresh_checkpoint(user_id: Option<Uuid>) -> Result<(), ErrorReport> {
    Ok(request_refresh(&[user(user_id)?], c"refresh_checkpoint()")?)
}

/// `credits.aggregate_user_batches`
#[pg_extern(volatile, parallel_unsafe)]
fn aggregate_user_batches(user_id: Option<Uuid>) -> Result<(), ErrorReport> {
    Ok(request_refresh(&[user(user_id)?], c"aggregate_user_batches()")?)
}

/// `refresh_checkpoints_bulk(user_ids)`
pub fn refresh_checkpoints_bulk(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let users = distinct(call.user_ids(USER_IDS)?);
    request_refresh(&users, c"refresh_checkpoints_bulk()")?;
    let balances = balance::read(&users)?;
    Ok(rows(call, &users, &balances, |balance| balance.latest_seq.is_some()))
}

fn user(user_id: Option<Uuid>) -> Result<UserId, LedgerError> {
    Ok(UserId::from_bytes(*required("user_id", user_id)?.as_bytes()))
}

/// Has the commit refresh the checkpoints of these users, and wait for the locks that this takes. Raises 25006 where nothing may be written.
fn request_refresh(users: &[UserId], function: &'static std::ffi::CStr) -> Result<(), LedgerError> {
    xact::refuse_if_read_only(function);
    noted::request(users, Request::Refresh)
}

/// Puts the users whose balance is to be shown into the result.
fn rows(
    call: &Call<'_>,
    users: &[UserId],
    balances: &[Balance],
    is_shown: impl Fn(&Balance) -> bool,
) -> Answer {
    let result = call.result_rows(&[pg_sys::UUIDOID, pg_sys::NUMERICOID]);
    for (user, balance) in users.iter().zip(balances).filter(|(_, balance)| is_shown(balance)) {
        result.put([ColumnValue::Uuid(user.as_bytes()), ColumnValue::Credits(balance.balance)]);
    }
    Answer::rows()
}

/// The users, each once, in the order of their first appearance.
fn distinct(mut users: Vec<UserId>) -> Vec<UserId> {
    let mut seen = HashSet::new();
    users.retain(|user| seen.insert(*user));
    users
}
