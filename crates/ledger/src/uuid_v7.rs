//! Uuids of version 7, which are ordered by the time at which they were made
//! ([RFC 9562](https://www.rfc-editor.org/rfc/rfc9562), section 5.7).
//!
//! | bits | |
//! |---|---|
//! | 48 | milliseconds since 1970 |
//! | 4 | the version, 7 |
//! | 12 | the fraction of the millisecond, in steps of 1/4096: method 3 of section 6.2 |
//! | 2 | the variant |
//! | 62 | random |
//!
//! The 60 bits of time are one number, a **tick**. Each uuid of a session has a later tick than the one before: that of the clock, or the next
//! tick if the clock has not moved on or has gone back. So the uuids of a session ascend whatever the clock does. Random bits tell uuids
//! of several sessions apart. The server's own `uuidv7()`, which Postgres has since 18, does the same.

/// The tick of the uuid that a session has made last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u64);

/// Bits of the fraction of a millisecond.
const FRACTION_BITS: u32 = 12;
/// The last tick, in the year 10889.
const LAST: u64 = (1 << 60) - 1;

impl Tick {
    /// That of a session which has made none yet.
    pub const NONE: Self = Self(0);

    /// The tick of the next uuid, at this moment, in microseconds since 1970. After the last tick it stays the same.
    #[must_use]
    pub fn next(self, micros: i64) -> Self {
        let micros = u64::try_from(micros).unwrap_or_default();
        let (millis, fraction) = (micros / 1000, micros % 1000);
        let clock = (millis.min(LAST >> FRACTION_BITS) << FRACTION_BITS) + (fraction << FRACTION_BITS) / 1000;
        Self(clock.max(self.0 + 1).min(LAST))
    }

    /// The uuid of this tick, with 62 of these bits, which are random.
    #[must_use]
    pub fn uuid(self, random: u64) -> [u8; 16] {
        const VERSION: u64 = 7 << FRACTION_BITS;
        const VARIANT: u64 = 0b10 << 62;
        let fraction = self.0 & ((1 << FRACTION_BITS) - 1);
        let high = (self.0 >> FRACTION_BITS) << 16 | VERSION | fraction;
        let low = VARIANT | random >> 2;
        (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(uuid: [u8; 16]) -> u128 {
        u128::from_be_bytes(uuid)
    }

    /// Appendix A.6 of the RFC.
    #[test]
    fn the_example_of_the_rfc() {
        let tick = Tick(0x017f_22e2_79b0 << FRACTION_BITS | 0xcc3);
        let random = 0x18c4_dc0c_0c07_398f << 2;
        assert_eq!(number(tick.uuid(random)), 0x017f_22e2_79b0_7cc3_98c4_dc0c_0c07_398f);
    }

    #[test]
    fn version_and_variant_stand_whatever_the_bits() {
        for tick in [0, 1, LAST] {
            for random in [0, u64::MAX] {
                let uuid = Tick(tick).uuid(random);
                assert_eq!((uuid[6] >> 4, uuid[8] >> 6), (7, 0b10), "{tick} {random}");
            }
        }
    }

    /// RFC 9562, section 6.2: a client reads the milliseconds from the first 48 bits.
    #[test]
    fn a_tick_is_a_moment() {
        let at = |micros| number(Tick::NONE.next(micros).uuid(0));
        assert_eq!(at(1_645_557_742_000_000) >> 80, 1_645_557_742_000);
        assert_eq!(at(1_645_557_742_000_999) >> 80, 1_645_557_742_000);
        assert_eq!(at(1_645_557_742_001_000) >> 80, 1_645_557_742_001);
        // Half a millisecond is half of 4096.
        assert_eq!(at(1_645_557_742_000_500) >> 64 & 0xfff, 2048);
    }

    /// So uuids of two sessions are ordered as their moments are, to the microsecond.
    #[test]
    fn every_microsecond_has_a_tick_of_its_own() {
        let ticks: Vec<_> = (0..2001).map(|micros| Tick::NONE.next(1_000_000 + micros)).collect();
        assert!(ticks.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn uuids_ascend_whatever_the_clock_does() {
        let mut tick = Tick::NONE;
        let mut last = 0;
        for micros in
            [1_000_000, 1_000_000, 1_000_001, 5, -1, i64::MIN, 0, 1_000_001, 1_000_002, 2_000_000, 1_000_000]
        {
            for random in [u64::MAX, 0] {
                tick = tick.next(micros);
                let uuid = number(tick.uuid(random));
                assert!(uuid > last, "{micros}");
                last = uuid;
            }
        }
        // One that went back has not moved the time of the uuids on by more than a tick for each.
        assert_eq!(last >> 80, 2_000);
    }

    #[test]
    fn the_end_of_time_is_no_overflow() {
        assert_eq!(number(Tick::NONE.next(i64::MAX).uuid(u64::MAX)) >> 80, (1 << 48) - 1);
        assert_eq!(Tick(LAST).next(i64::MAX), Tick(LAST));
        assert_eq!(Tick(LAST).next(0), Tick(LAST));
    }
}
