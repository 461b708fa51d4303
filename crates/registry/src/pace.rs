//! A bucket that fills at a steady rate: requests to one registry, bytes of layers in an hour.

use std::time::Duration;

use tokio::time::Instant;

/// How fast the bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Filled in a second.
    pub per_second: f64,
    /// Most that it holds: what may be taken at once after a quiet time.
    pub burst: f64,
}

/// The bucket. More than it holds may be owed: the next one then waits until it is paid back.
#[derive(Debug)]
pub(crate) struct Bucket {
    pace: Pace,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(crate) fn full(pace: Pace) -> Self {
        Self {
            pace,
            level: pace.burst,
            at: Instant::now(),
        }
    }

    /// Takes `amount`, if the bucket has that much, or is full and has never more. Else says how long it
    /// takes until it will.
    pub(crate) fn take(&mut self, amount: f64) -> Result<(), Duration> {
        self.fill();
        let due = amount.min(self.pace.burst);
        // What rounding lost must not make anybody wait once more.
        let lacking = due - self.level;
        if lacking <= 1e-6 {
            self.level -= amount;
            return Ok(());
        }
        Err(self.until_filled(lacking))
    }

    /// Takes `amount` whatever is there, and says how long to wait for it: those who come later wait
    /// behind.
    pub(crate) fn reserve(&mut self, amount: f64) -> Duration {
        self.fill();
        self.level -= amount;
        if self.level >= 0.0 {
            Duration::ZERO
        } else {
            self.until_filled(-self.level)
        }
    }

    /// Gives back what was not used.
    pub(crate) fn put_back(&mut self, amount: f64) {
        self.level = (self.level + amount).min(self.pace.burst);
    }

    fn fill(&mut self) {
        let now = Instant::now();
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = seconds
            .mul_add(self.pace.per_second, self.level)
            .min(self.pace.burst);
        self.at = now;
    }

    fn until_filled(&self, amount: f64) -> Duration {
        // A bucket that never fills: an hour is as good as for ever, and nobody waits that long.
        Duration::try_from_secs_f64(amount / self.pace.per_second)
            .unwrap_or(Duration::from_hours(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        per_second: 2.0,
        burst: 4.0,
    };

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_taken_at_once_and_the_rest_at_the_rate() {
        let mut bucket = Bucket::full(PACE);
        for _ in 0..4 {
            assert_eq!(bucket.take(1.0), Ok(()));
        }
        assert_eq!(bucket.take(1.0), Err(Duration::from_millis(500)));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(bucket.take(1.0), Ok(()));
        tokio::time::advance(Duration::from_hours(1)).await;
        bucket.put_back(100.0);
        assert_eq!(bucket.take(4.0), Ok(()));
        assert!(bucket.take(1.0).is_err(), "it holds no more than its burst");
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_it_holds_is_owed_and_paid_back() {
        let mut bucket = Bucket::full(PACE);
        assert_eq!(bucket.take(10.0), Ok(()));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(bucket.take(1.0), Err(Duration::from_millis(500)));
        assert!(bucket.take(10.0).is_err(), "only a full one");
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_reserve_wait_one_behind_the_other() {
        let mut bucket = Bucket::full(PACE);
        for _ in 0..4 {
            assert_eq!(bucket.reserve(1.0), Duration::ZERO);
        }
        assert_eq!(bucket.reserve(1.0), Duration::from_millis(500));
        assert_eq!(bucket.reserve(1.0), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_that_never_fills_is_empty_and_not_a_defect() {
        let mut bucket = Bucket::full(Pace {
            per_second: 0.0,
            burst: 0.0,
        });
        assert!(bucket.reserve(1.0) >= Duration::from_hours(1));
    }
}
