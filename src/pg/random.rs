//! Chance.

use pgrx::pg_sys;

/// `true` once in `n` calls on average. Draws as the SQL function `random()` does.
pub fn one_in(n: u32) -> bool {
    // SAFETY: drandom takes no argument and returns a float8 in [0, 1).
    let drawn = unsafe { pgrx::direct_function_call::<f64>(pg_sys::drandom, &[]) };
    drawn.is_some_and(|drawn| drawn * f64::from(n) < 1.0)
}
