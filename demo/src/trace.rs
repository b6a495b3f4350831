//! The requests that are played: a recorded trace, or one made here.
//!
//! A recorded trace is a CSV file with the header `TIMESTAMP,ContextTokens,GeneratedTokens`, as in the LLM inference
//! traces of the Azure Public Dataset. Only the order of its requests is used, not their times: the demo plays
//! them as fast as the server takes them.

use std::path::Path;

use rust_decimal::Decimal;

use crate::random::Random;

const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

/// Credits per million context tokens.
const CONTEXT_PRICE: i64 = 3;
/// Credits per million generated tokens.
const GENERATED_PRICE: i64 = 15;

/// Tokens at which an answer is cut off, unless its client has asked for more.
const LONGEST_ANSWER: u32 = 512;

/// How many tokens one request read and wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub context_tokens: u32,
    pub generated_tokens: u32,
}

impl Request {
    /// What the request costs: exact, because a price per million tokens is a whole number of millionths.
    pub fn price(self) -> Decimal {
        let millionths = i64::from(self.context_tokens) * CONTEXT_PRICE
            + i64::from(self.generated_tokens) * GENERATED_PRICE;
        Decimal::new(millionths, 6)
    }

    /// What it costs at most, as far as that can be said before it is answered.
    pub fn most(self) -> Decimal {
        Self { generated_tokens: self.generated_tokens.max(LONGEST_ANSWER), ..self }.price()
    }
}

/// The requests of a recorded trace. Those without any tokens cost nothing and are left out.
pub fn read(path: &Path) -> Result<Vec<Request>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    text.and_then(|text| parse(&text)).map_err(|error| format!("{}: {error}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Request>, String> {
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Err(format!("the first line must be {HEADER}"));
    }
    let requests = (2..)
        .zip(lines)
        .map(|(number, line)| {
            parse_line(line).ok_or_else(|| format!("line {number} is not a request: {line}"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(requests.into_iter().filter(|request| !request.price().is_zero()).collect())
}

fn parse_line(line: &str) -> Option<Request> {
    let (rest, generated) = line.rsplit_once(',')?;
    let (_, context) = rest.rsplit_once(',')?;
    Some(Request { context_tokens: context.parse().ok()?, generated_tokens: generated.parse().ok()? })
}

/// A trace for those who have none: context from 32 to 8,191 tokens and answers from 8 to 511, each length as
/// likely as its half (log-uniform), like the mix of short questions and long documents that recorded traces show.
pub fn generate(requests: usize, random: &mut Random) -> Vec<Request> {
    std::iter::repeat_with(|| Request {
        context_tokens: log_uniform(random, 5, 8),
        generated_tokens: log_uniform(random, 3, 6),
    })
    .take(requests)
    .collect()
}

/// A number from `2^exponent` up to `2^(exponent + octaves)`, exclusive.
fn log_uniform(random: &mut Random, exponent: u32, octaves: u64) -> u32 {
    let octave = 2_u64.pow(exponent) << random.below(octaves);
    u32::try_from(octave + random.below(octave)).expect("a few thousand tokens fit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_trace_is_read_with_any_line_ending() {
        let requests = parse(&format!(
            "{HEADER}\r\n2023-11-16 18:15:46.68,374,44\r\n2023-11-16 18:15:50,0,0\n\
                                       2023-11-16 18:15:51.99,396,109"
        ));
        let expected = [(374, 44), (396, 109)]
            .map(|(context_tokens, generated_tokens)| Request { context_tokens, generated_tokens });
        assert_eq!(requests, Ok(expected.to_vec()));
    }

    #[test]
    fn what_is_not_a_trace_is_refused_by_name_and_line() {
        assert_eq!(parse("a,b,c\n"), Err(format!("the first line must be {HEADER}")));
        assert_eq!(
            parse(&format!("{HEADER}\n2023-11-16,1,2\n2023-11-16,1,-2\n")),
            Err("line 3 is not a request: 2023-11-16,1,-2".to_owned())
        );
    }

    #[test]
    fn prices_are_exact() {
        let request = Request { context_tokens: 374, generated_tokens: 44 };
        assert_eq!(request.price().to_string(), "0.001782");
        assert_eq!(request.most().to_string(), "0.008802");
    }

    #[test]
    fn the_generated_trace_is_the_same_every_time_and_keeps_its_bounds() {
        let requests = generate(10_000, &mut Random::new(7));
        assert_eq!(requests, generate(10_000, &mut Random::new(7)));
        assert!(requests.iter().all(|request| (32..8192).contains(&request.context_tokens)));
        assert!(requests.iter().all(|request| (8..512).contains(&request.generated_tokens)));
    }
}
