//! Chance.

use std::cell::Cell;

use pgrx::pg_sys;
use pgrx::prelude::*;

/// How many random uuids are drawn at once: that costs little more than to draw one.
const DRAWN: usize = 64;

thread_local! {
    /// The uuids that are drawn and not given out, and how many those are.
    static UUIDS: Cell<([[u8; 16]; DRAWN], usize)> = const { Cell::new(([[0; 16]; DRAWN], 0)) };
}

/// A random uuid, as the SQL function `gen_random_uuid()` makes it.
pub fn uuid() -> [u8; 16] {
    let (mut uuids, mut left) = UUIDS.get();
    if left == 0 {
        // SAFETY: fills so many bytes.
        if !unsafe { pg_sys::pg_strong_random(uuids.as_mut_ptr().cast(), size_of_val(&uuids)) } {
            ereport!(ERROR, PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "could not generate random values");
        }
        left = DRAWN;
    }
    left -= 1;
    let mut uuid = uuids[left];
    UUIDS.set((uuids, left));
    // Version 4, and the variant of RFC 4122.
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// `true` once in `n` calls on average. Draws as the SQL function `random()` does.
pub fn one_in(n: u32) -> bool {
    // SAFETY: drandom takes no argument and returns a float8 in [0, 1).
    let drawn = unsafe { pgrx::direct_function_call::<f64>(pg_sys::drandom, &[]) };
    drawn.is_some_and(|drawn| drawn * f64::from(n) < 1.0)
}
