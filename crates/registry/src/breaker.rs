//! Leaves a host alone after it has failed several times in a row, longer each time: a registry that is
//! down must not be asked by a whole fleet, and must not cost every look its deadline.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::FetchError;

/// Failures in a row after which a host is left alone.
const TRIES: u32 = 5;
/// How long, the first time; doubled each time after.
const FIRST_REST: Duration = Duration::from_secs(30);
/// How long at most: nobody waits longer than this for the first answer of a registry that is back.
const MAX_REST: Duration = Duration::from_mins(10);

/// What is known of one host.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    /// In a row.
    failures: u32,
    rest: Option<Rest>,
}

#[derive(Debug)]
struct Rest {
    until: Instant,
    length: Duration,
    after: FetchError,
    /// Somebody is trying whether the host is back.
    is_tried: bool,
}

impl Breaker {
    /// Whether the host may be asked now. After a rest one request finds out for all.
    pub(crate) fn ask(&mut self, now: Instant) -> Result<(), FetchError> {
        let Some(rest) = &mut self.rest else {
            return Ok(());
        };
        if now < rest.until || rest.is_tried {
            return Err(FetchError::LeftAlone {
                after: Box::new(rest.after.clone()),
            });
        }
        rest.is_tried = true;
        Ok(())
    }

    /// It answered, whatever it said.
    pub(crate) fn answered(&mut self) {
        *self = Self::default();
    }

    /// It failed. `jitter` lengthens a rest, so that a fleet does not come back all at once.
    pub(crate) fn failed(
        &mut self,
        error: FetchError,
        now: Instant,
        jitter: impl FnOnce(Duration) -> Duration,
    ) {
        self.failures = self.failures.saturating_add(1);
        let length = match &self.rest {
            Some(rest) if rest.is_tried => rest.length.saturating_mul(2).min(MAX_REST),
            None if self.failures >= TRIES => FIRST_REST,
            // Not yet often enough, or sent before the rest began.
            Some(_) | None => return,
        };
        let Some(until) = now.checked_add(jitter(length)) else {
            return;
        };
        self.rest = Some(Rest {
            until,
            length,
            after: error,
            is_tried: false,
        });
    }

    /// A request ended without saying anything about the host: nobody waited for it.
    pub(crate) fn gave_up(&mut self) {
        if let Some(rest) = &mut self.rest {
            rest.is_tried = false;
        }
    }

    /// Whether it is left alone, or about to be tried.
    pub(crate) const fn is_resting(&self) -> bool {
        self.rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &mut Breaker, now: Instant) {
        breaker.failed(FetchError::Server(500), now, |pause| pause);
    }

    fn resting(breaker: &mut Breaker, now: Instant) -> bool {
        breaker.ask(now).is_err()
    }

    #[test]
    fn a_host_is_left_alone_after_failures_in_a_row_only() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            for _ in 1..TRIES {
                fail(&mut breaker, now);
            }
            breaker.answered();
            assert!(!resting(&mut breaker, now));
        }
        for _ in 0..TRIES {
            assert!(!resting(&mut breaker, now));
            fail(&mut breaker, now);
        }
        assert_eq!(
            breaker.ask(now),
            Err(FetchError::LeftAlone {
                after: Box::new(FetchError::Server(500))
            })
        );
    }

    #[test]
    fn one_request_finds_out_for_all_and_rests_grow_to_a_bound() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..TRIES {
            fail(&mut breaker, now);
        }
        let mut rest = FIRST_REST;
        for _ in 0..10 {
            assert!(resting(&mut breaker, now + rest - Duration::from_secs(1)));
            now += rest;
            assert!(!resting(&mut breaker, now), "the one that tries");
            assert!(resting(&mut breaker, now), "the others");
            fail(&mut breaker, now);
            rest = (rest * 2).min(MAX_REST);
        }
        assert_eq!(rest, MAX_REST);
        now += rest;
        assert!(!resting(&mut breaker, now));
        breaker.answered();
        assert!(!resting(&mut breaker, now) && !breaker.is_resting());
    }

    #[test]
    fn a_try_that_nobody_waited_for_does_not_leave_the_host_alone_for_ever() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..TRIES {
            fail(&mut breaker, now);
        }
        now += FIRST_REST;
        assert!(!resting(&mut breaker, now));
        breaker.gave_up();
        assert!(!resting(&mut breaker, now));
    }
}
