//! Amounts, and numbers that are none.

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::values::{BROKEN, Value, Wire, text};

/// An amount of this many units of 10^-15, in one of the forms that the server reads.
pub fn amount(random: &mut StdRng, units: i128) -> Value {
    let plain = decimal(units);
    let point = if plain.contains('.') { "" } else { "." };
    Value::good(match random.random_range(0..7) {
        0 => format!("  +{plain} "),
        1 => format!("000000{plain}"),
        2 => format!("{plain}{point}{}", "0".repeat([1, 30, 5000].choose(random).copied().unwrap())),
        3 => format!("{units}e-15"),
        4 => format!("0.{units:0>40}E+25"),
        _ => plain,
    })
}

/// Units of 10^-15 without trailing zeros.
pub fn decimal(units: i128) -> String {
    let (sign, units) = (if units < 0 { "-" } else { "" }, units.unsigned_abs());
    let one = 10_u128.pow(15);
    let text = format!("{sign}{}.{:015}", units / one, units % one);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A number that is no amount, or no number.
pub fn bad_amount(random: &mut StdRng) -> Value {
    let numbers = [
        "0",
        "-0",
        "+0",
        "0.000",
        "-0.0000000000000001",
        "-1",
        "0.0000000000000001",
        "1.0000000000000001",
        "10000000000000",
        "99999999999999",
        "10000000000000.0",
        "9999999999999.9999999999999999",
        "1e13",
        "1e-16",
        "1e131071",
        "-1e131071",
        "1e-16383",
        "123456789012345678901234567890.5",
        "NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "inf",
        "170141183460469231731687303715884105728",
        "0.00000000000000000000000000000000000000001",
    ];
    match random.random_range(0..5) {
        0 => {
            let bad =
                ["", "ten", "1,5", "1e", "1e-16384", "1e131072", "1e1000000", "--1", "1 2", "e5", "0.0.1"];
            Value::bad(text(bad.choose(random).unwrap()), &["22P02", "22003"])
        }
        1 => {
            // Digits, weight, sign and scale: a digit of 10000, a sign that is none, fewer digits than there should be.
            let bad = [
                &[0, 1, 0, 0, 0, 0, 0, 0, 0x27, 0x10][..],
                &[0, 1, 0, 0, 0x12, 0x34, 0, 0, 0, 1],
                &[0, 9, 0, 0, 0, 0, 0, 0, 0, 1],
                &[0],
            ];
            Value::bad(Wire::Binary(bad.choose(random).unwrap().to_vec()), BROKEN)
        }
        2 => Value::refused(
            Wire::Text(format!("1.{}", "7".repeat(random.random_range(16..4000)))),
            &["23514"],
            "amount",
        ),
        _ => Value::refused(text(numbers.choose(random).unwrap()), &["23514"], "amount"),
    }
}
