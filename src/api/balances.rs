//! Balances and checkpoints.

use pgrx::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::arguments::{distinct_users, required};
use crate::engine::Id;
use crate::engine::balance::{self, Balance};
use crate::engine::touched::{self, Request};
use crate::error::LedgerError;
use crate::pg::numeric::Numeric;
use crate::pg::{random, xact};

/// `credits.get_user_balance`
#[pg_extern(stable, parallel_restricted)]
fn get_user_balance(user_id: Option<Uuid>) -> Result<Numeric, ErrorReport> {
    Ok(Numeric(balance_of(user_id)?.balance))
}

/// `credits.calculate_balance_with_seq`
#[pg_extern(stable, parallel_restricted)]
fn calculate_balance_with_seq(
    user_id: Option<Uuid>,
) -> Result<TableIterator<'static, (name!(balance, Numeric), name!(latest_seq, Option<i64>))>, ErrorReport> {
    let balance = balance_of(user_id)?;
    Ok(TableIterator::once((Numeric(balance.balance), balance.latest_seq)))
}

fn balance_of(user_id: Option<Uuid>) -> Result<Balance, LedgerError> {
    let user = *required("user_id", user_id)?.as_bytes();
    Ok(balance::read(&[user])?.into_iter().next().unwrap_or_default())
}

/// `credits.get_users_balances_bulk`
#[pg_extern(volatile, parallel_unsafe)]
fn get_users_balances_bulk(
    user_ids: Option<Vec<Option<Uuid>>>,
    checkpoint_refresh_probability: default!(Option<i32>, "NULL"),
) -> Result<TableIterator<'static, (name!(user_id, Uuid), name!(balance, Numeric))>, ErrorReport> {
    let users = distinct_users("user_ids", user_ids)?;
    let one_in = match checkpoint_refresh_probability {
        Some(value) => u32::try_from(value).map_err(|_| LedgerError::NegativeArgument {
            name: "checkpoint_refresh_probability",
            value: value.into(),
        })?,
        None => 0,
    };
    let balances = balance::read(&users)?;
    if one_in > 0 && !xact::is_read_only() {
        let chosen = users.iter().filter(|_| random::one_in(one_in));
        touched::request(chosen, Request::RefreshIfFree)?;
    }
    Ok(TableIterator::new(rows(users, balances, |_| true)))
}

/// `credits.refresh_checkpoint`
#[pg_extern(volatile, parallel_unsafe)]
fn refresh_checkpoint(user_id: Option<Uuid>) -> Result<(), ErrorReport> {
    request_refresh(&[*required("user_id", user_id)?.as_bytes()], c"refresh_checkpoint()")
}

/// `credits.aggregate_user_batches`
#[pg_extern(volatile, parallel_unsafe)]
fn aggregate_user_batches(user_id: Option<Uuid>) -> Result<(), ErrorReport> {
    request_refresh(&[*required("user_id", user_id)?.as_bytes()], c"aggregate_user_batches()")
}

/// `credits.refresh_checkpoints_bulk`
#[pg_extern(volatile, parallel_unsafe)]
fn refresh_checkpoints_bulk(
    user_ids: Option<Vec<Option<Uuid>>>,
) -> Result<TableIterator<'static, (name!(user_id, Uuid), name!(balance, Numeric))>, ErrorReport> {
    let users = distinct_users("user_ids", user_ids)?;
    request_refresh(&users, c"refresh_checkpoints_bulk()")?;
    let balances = balance::read(&users)?;
    Ok(TableIterator::new(rows(users, balances, |balance| balance.latest_seq.is_some())))
}

/// Refreshes happen when the transaction commits.
fn request_refresh(users: &[Id], function: &'static std::ffi::CStr) -> Result<(), ErrorReport> {
    xact::refuse_if_read_only(function);
    Ok(touched::request(users, Request::Refresh)?)
}

fn rows(
    users: Vec<Id>,
    balances: Vec<Balance>,
    keep: impl Fn(&Balance) -> bool + 'static,
) -> impl Iterator<Item = (Uuid, Numeric)> {
    users
        .into_iter()
        .zip(balances)
        .filter(move |(_, balance)| keep(balance))
        .map(|(user, balance)| (Uuid::from_bytes(user), Numeric(balance.balance)))
}
