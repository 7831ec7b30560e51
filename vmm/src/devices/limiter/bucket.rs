//! A token bucket, exact to the billionth of a token.

use std::time::{Duration, Instant};

use super::Rate;

/// Billionths in one: tokens are counted in billionths, so that a rate times a number of nanoseconds is a number of tokens without rounding.
const BILLION: u128 = 1_000_000_000;

/// A token bucket. Time is what the caller says it is; it must not run backwards ([`Instant`] doesn't), and where it does it stands still.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Tokens in a second, which is billionths of a token in a nanosecond.
    per_second: u64,
    burst: u64,
    /// In billionths. `u128`: no product of a `u64` and a billion, nor a sum of two, overflows it.
    level: u128,
    /// When `level` was true.
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        let (per_second, burst) = (rate.per_second.max(1), rate.burst.max(1));
        Self { per_second, burst, level: u128::from(burst) * BILLION, at: now }
    }

    /// How long until `tokens` can be taken: zero if they can now.
    pub fn wait(&mut self, tokens: u64, now: Instant) -> Duration {
        self.fill(tokens, now);
        let missing = (u128::from(tokens) * BILLION).saturating_sub(self.level);
        // Rounded up: when the wait is over the tokens are there.
        let nanoseconds = missing.div_ceil(u128::from(self.per_second));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Takes `tokens`, all of them or none. False if they aren't there.
    pub fn take(&mut self, tokens: u64, now: Instant) -> bool {
        self.fill(tokens, now);
        match self.level.checked_sub(u128::from(tokens) * BILLION) {
            Some(rest) => self.level = rest,
            None => return false,
        }
        true
    }

    /// Adds what time has brought since the last call. `wanted` raises the brim for a request beyond the burst: what it has been waiting for is kept.
    fn fill(&mut self, wanted: u64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        let gained = elapsed.as_nanos().saturating_mul(u128::from(self.per_second));
        let brim = u128::from(self.burst.max(wanted)) * BILLION;
        self.level = self.level.saturating_add(gained).min(brim);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_more_than_rate_times_time_and_the_burst(
            per_second in 1..5_000_000_000u64,
            burst in 1..1_000_000u64,
            steps in prop::collection::vec((0..2_000_000_000u64, 0..2_000_000u64), 1..200),
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(Rate { per_second, burst }, start);
            let mut nanoseconds = 0;
            // When and how much.
            let mut passed: Vec<(u64, u64)> = Vec::new();
            let mut largest = 0;
            for (pause, tokens) in steps {
                nanoseconds += pause;
                largest = largest.max(tokens);
                if bucket.take(tokens, start + Duration::from_nanos(nanoseconds)) {
                    passed.push((nanoseconds, tokens));
                }
                let total: u128 = passed.iter().map(|(_, tokens)| u128::from(*tokens) * BILLION).sum();
                prop_assert!(total <= u128::from(per_second) * u128::from(nanoseconds) + u128::from(burst) * BILLION);
            }
            for (index, (from, _)) in passed.iter().enumerate() {
                let mut total = 0;
                for (until, tokens) in &passed[index..] {
                    total += u128::from(*tokens) * BILLION;
                    let allowed = u128::from(per_second) * u128::from(until - from) + u128::from(burst.max(largest)) * BILLION;
                    prop_assert!(total <= allowed);
                }
            }
        }

        #[test]
        fn nobody_starves(per_second in 0..u64::MAX, burst in 0..u64::MAX, requests in prop::collection::vec(any::<u64>(), 1..50)) {
            let start = Instant::now();
            let mut bucket = Bucket::new(Rate { per_second, burst }, start);
            // Time in nanoseconds; ends where Instant does.
            let mut now = start;
            for tokens in requests {
                let wait = bucket.wait(tokens, now);
                let bound = (u128::from(tokens) * BILLION).div_ceil(u128::from(per_second.max(1)));
                prop_assert!(wait.as_nanos() <= bound);
                let Some(then) = now.checked_add(wait).filter(|_| wait < Duration::from_secs(1 << 32)) else { break };
                if !wait.is_zero() {
                    prop_assert!(!bucket.clone().take(tokens, then - Duration::from_nanos(1)), "not a nanosecond early");
                }
                now = then;
                prop_assert!(bucket.take(tokens, now), "a wait that is over ends in tokens");
            }
        }
    }

    #[test]
    fn time_that_runs_backwards_brings_nothing() {
        let now = Instant::now() + Duration::from_secs(10);
        let mut bucket = Bucket::new(Rate { per_second: 1, burst: 5 }, now);
        assert!(bucket.take(5, now));
        assert!(!bucket.take(1, now - Duration::from_secs(5)));
        assert!(!bucket.take(1, now));
        assert!(bucket.take(1, now + Duration::from_secs(1)));
    }
}
