//! Random numbers.

use std::cell::Cell;

use pgrx::pg_sys;
use pgrx::prelude::*;

/// How many words are drawn at once. That costs little more than drawing one, since each time OpenSSL is first asked for its state.
const DRAWN: usize = 64;

thread_local! {
    /// The words that are drawn, and how many of them are not given out. No process inherits any: it draws its own, since no SQL has run
    /// in the process that it was forked from.
    static WORDS: ([Cell<u64>; DRAWN], Cell<usize>) = const { ([const { Cell::new(0) }; DRAWN], Cell::new(0)) };
}

/// 64 bits that nobody can foresee, from the server's source of them. None is given out twice.
pub fn bits() -> u64 {
    WORDS.with(|(words, left)| {
        if left.get() == 0 {
            draw(words);
            left.set(DRAWN);
        }
        let place = left.get() - 1;
        left.set(place);
        words[place].take()
    })
}

fn draw(words: &[Cell<u64>; DRAWN]) {
    // SAFETY: fills so many bytes, and a cell may be written to through a shared reference.
    let is_drawn = unsafe { pg_sys::pg_strong_random(words.as_ptr().cast_mut().cast(), size_of_val(words)) };
    if !is_drawn {
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "could not generate random values");
    }
}

/// `true` once in `n` calls on average. Draws as the SQL function `random()` does.
pub fn one_in(n: u32) -> bool {
    // SAFETY: drandom takes no argument and returns a float8 in [0, 1).
    let drawn = unsafe { pgrx::direct_function_call::<f64>(pg_sys::drandom, &[]) };
    drawn.is_some_and(|drawn| drawn * f64::from(n) < 1.0)
}
