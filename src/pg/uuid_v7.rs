//! Uuids of version 7, as this session makes them: see [`ledger::uuid_v7`].

use std::cell::Cell;

use ledger::uuid_v7::Tick;

use super::{random, xact};

/// The server's epoch, in microseconds since 1970: `POSTGRES_EPOCH_JDATE` less `UNIX_EPOCH_JDATE`, in days.
const SERVER_EPOCH: i64 = (2_451_545 - 2_440_588) * 86_400_000_000;

thread_local! {
    static LAST: Cell<Tick> = const { Cell::new(Tick::NONE) };
}

/// The next uuid of this session: after all that it has made before, and not before the present, to the microsecond.
pub fn next() -> [u8; 16] {
    let tick = LAST.get().next(xact::now().saturating_add(SERVER_EPOCH));
    LAST.set(tick);
    tick.uuid(random::bits())
}
