//! The settings. All are for superusers only: a client must not be able to silence a notification, or to drop
//! the ledger.

use std::ffi::CString;

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::pg::{extension, guc};

/// `credits_ledger.checkpoint_interval`: rows that a checkpoint may lag behind before a commit refreshes it, and a quarter of them
/// where the commit had to read all of them. Fewer make the first read of a new session cheaper, more make commits cheaper.
static CHECKPOINT_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(64);

/// `credits_ledger.config_channel`: receives `credits_transactions:{microseconds}` once for each
/// transaction in which anyone crosses zero, or a spend cap changes its state; empty: off.
static CONFIG_CHANNEL: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"auth_config_changed"));

/// `credits_ledger.crossing_channel`: receives as JSON who crossed and in which direction; empty: off.
static CROSSING_CHANNEL: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"credits_balance_crossed"));

/// `credits_ledger.cap_channel`: receives as JSON which spend cap was reached or is open again; empty: off.
static CAP_CHANNEL: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"credits_spend_cap"));

/// `credits_ledger.analytics_table`: where the grouped list finds its labels, if it exists.
static ANALYTICS_TABLE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"http_analytics"));

/// `credits_ledger.allow_drop`: whether tables that hold transactions, holds, limits or caps may be dropped.
static ALLOW_DROP: GucSetting<bool> = GucSetting::<bool>::new(false);

/// `credits_ledger.shared_memory_size`: the most dynamic shared memory that sessions publish folds and headroom in, in kB.
static SHARED_MEMORY_SIZE: GucSetting<i32> = GucSetting::<i32>::new(12 << 10);

/// Defines the settings; called once, when the library is loaded.
pub fn init() {
    GucRegistry::define_int_guc(
        c"credits_ledger.checkpoint_interval",
        c"Rows that a checkpoint may lag behind before a commit refreshes it.",
        c"Fewer make the first balance of a new session cheaper, more make commits cheaper.",
        &CHECKPOINT_INTERVAL,
        1,
        1_000_000,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"credits_ledger.shared_memory_size",
        c"Most dynamic shared memory that sessions publish what they know about accounts in.",
        c"It begins small and grows with the accounts that are met. What has been taken stays until the server restarts.",
        &SHARED_MEMORY_SIZE,
        2 << 10,
        64 << 20,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    for (name, description, setting) in [
        (
            c"credits_ledger.config_channel",
            c"Channel notified once by a commit that makes balances cross zero or reaches spend caps, with credits_transactions:{microseconds}; empty: off.",
            &CONFIG_CHANNEL,
        ),
        (
            c"credits_ledger.crossing_channel",
            c"Channel notified of each crossing of zero or of a threshold, with the user and the direction; empty: off.",
            &CROSSING_CHANNEL,
        ),
        (
            c"credits_ledger.cap_channel",
            c"Channel notified of each spend cap that is reached, or open again by a change of it; empty: off.",
            &CAP_CHANNEL,
        ),
    ] {
        guc::define_channel(name, description, setting);
    }
    guc::define_table_name(
        c"credits_ledger.analytics_table",
        c"Table that request_origin and batch_sla of the grouped list come from, if it exists.",
        &ANALYTICS_TABLE,
    );
    GucRegistry::define_bool_guc(
        c"credits_ledger.allow_drop",
        c"Whether tables that hold transactions, holds, limits or caps may be dropped.",
        c"",
        &ALLOW_DROP,
        GucContext::Suset,
        GucFlags::default(),
    );
    guc::reserve_prefix(extension::NAME);
}

/// Rows that a checkpoint may lag behind.
pub fn checkpoint_interval() -> i64 {
    CHECKPOINT_INTERVAL.get().into()
}

/// The most bytes of dynamic shared memory that sessions publish folds and headroom in.
pub fn shared_memory_size() -> usize {
    usize::try_from(SHARED_MEMORY_SIZE.get()).unwrap_or_default() << 10
}

/// The channel for `credits_transactions:{microseconds}`, unless it is off.
pub fn config_channel() -> Option<CString> {
    unless_off(&CONFIG_CHANNEL)
}

/// The channel for who crossed in which direction, unless it is off.
pub fn crossing_channel() -> Option<CString> {
    unless_off(&CROSSING_CHANNEL)
}

/// The channel for which spend cap was reached or is open again, unless it is off.
pub fn cap_channel() -> Option<CString> {
    unless_off(&CAP_CHANNEL)
}

fn unless_off(channel: &GucSetting<Option<CString>>) -> Option<CString> {
    channel.get().filter(|channel| !channel.is_empty())
}

/// Whether a ledger that holds transactions may be dropped.
pub fn allow_drop() -> bool {
    ALLOW_DROP.get()
}

/// The name of the analytics table.
pub fn analytics_table() -> Option<CString> {
    ANALYTICS_TABLE.get()
}
