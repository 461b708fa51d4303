//! What a scrub may use of a node: bytes read and CPU time, each a bucket that fills with time.
//!
//! Pure: it gets the time and what was used, and says how long to wait. Work is done first and paid for
//! afterwards, so a bucket can be in debt; over any time longer than its own capacity it is never exceeded.

use std::num::NonZeroU64;
use std::time::Duration;

/// Unused bytes that may be read at once.
const BYTES_KEPT: u64 = 1;

/// Unused CPU time that may be used at once, in seconds of the budget: a small layer is compared at first
/// sight without a pause.
const CPU_KEPT: u64 = 60;

/// What is allowed; `None` means as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes read in a second.
    pub bytes: Option<NonZeroU64>,
    /// CPU time used in a second.
    pub cpu: Option<Duration>,
}

impl Limits {
    /// Whether anything is limited.
    pub const fn is_any(&self) -> bool {
        self.bytes.is_some() || self.cpu.is_some()
    }
}

/// What is left of the allowance.
#[derive(Clone, Debug)]
pub struct Budget {
    bytes: Option<Bucket>,
    cpu: Option<Bucket>,
}

impl Budget {
    /// A full budget. `now` is a time that only goes forward.
    pub fn new(limits: Limits, now: Duration) -> Self {
        let cpu = |share: Duration| u64::try_from(share.as_nanos()).unwrap_or(u64::MAX);
        Self {
            bytes: limits
                .bytes
                .map(|bytes| Bucket::new(bytes.get(), BYTES_KEPT, now)),
            cpu: limits
                .cpu
                .map(|share| Bucket::new(cpu(share), CPU_KEPT, now)),
        }
    }

    /// Pays for what was done, and says how long nothing more may be done.
    pub fn spend(&mut self, now: Duration, bytes: u64, cpu: Duration) -> Duration {
        let nanos = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
        let waits = [(&mut self.bytes, bytes), (&mut self.cpu, nanos)]
            .into_iter()
            .filter_map(|(bucket, units)| Some(bucket.as_mut()?.spend(now, units)));
        waits.max().unwrap_or_default()
    }
}

/// Units that come back with time. Counted in billionths of a unit, so that nothing is lost to rounding
/// however often it is asked.
#[derive(Clone, Debug)]
struct Bucket {
    per_second: u64,
    capacity: i128,
    level: i128,
    filled: Duration,
}

const BILLION: i128 = 1_000_000_000;

impl Bucket {
    fn new(per_second: u64, seconds_kept: u64, now: Duration) -> Self {
        let capacity = i128::from(per_second.max(1))
            .saturating_mul(i128::from(seconds_kept))
            .saturating_mul(BILLION);
        Self {
            per_second: per_second.max(1),
            capacity,
            level: capacity,
            filled: now,
        }
    }

    fn spend(&mut self, now: Duration, units: u64) -> Duration {
        let elapsed = now.saturating_sub(self.filled).as_nanos();
        let elapsed = i128::try_from(elapsed).unwrap_or(i128::MAX);
        let come = elapsed.saturating_mul(i128::from(self.per_second));
        self.filled = self.filled.max(now);
        self.level = self.level.saturating_add(come).min(self.capacity);
        self.level = self
            .level
            .saturating_sub(i128::from(units).saturating_mul(BILLION));
        let debt = self.level.saturating_neg().max(0);
        let nanos =
            debt.saturating_add(i128::from(self.per_second) - 1) / i128::from(self.per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn limits(bytes: Option<u64>, cpu: Option<Duration>) -> Limits {
        let bytes = bytes.and_then(NonZeroU64::new);
        Limits { bytes, cpu }
    }

    /// Works in steps and waits as it is told; gives the time that this took.
    fn time_for(limits: Limits, steps: u32, bytes: u64, cpu: Duration) -> Duration {
        let mut now = Duration::ZERO;
        let mut budget = Budget::new(limits, now);
        for _step in 0..steps {
            now += budget.spend(now, bytes, cpu);
        }
        now
    }

    #[test]
    fn bytes_are_read_no_faster_than_allowed() {
        let limits = limits(Some(32 * MIB), None);
        // 64 seconds' worth, of which one may be read at once.
        let took = time_for(limits, 2_048, MIB, Duration::ZERO);
        assert_eq!(took, Duration::from_secs(63));
    }

    #[test]
    fn cpu_time_is_limited_on_its_own_and_the_slower_of_both_decides() {
        let share = Duration::from_millis(3);
        let cpu_only = limits(None, Some(share));
        let step = Duration::from_millis(6);
        let took = time_for(cpu_only, 130, 0, step);
        assert_eq!(took, Duration::from_secs(2 * 130 - CPU_KEPT));
        let both = limits(Some(32 * MIB), Some(share));
        assert_eq!(time_for(both, 130, MIB, step), took);
    }

    #[test]
    fn without_limits_nothing_waits() {
        assert!(!Limits::default().is_any());
        let took = time_for(Limits::default(), 100, u64::MAX, Duration::from_secs(1_000));
        assert_eq!(took, Duration::ZERO);
    }

    #[test]
    fn a_long_rest_is_not_saved_up() {
        let limits = limits(Some(MIB), None);
        let mut budget = Budget::new(limits, Duration::ZERO);
        let later = Duration::from_secs(1_000_000);
        assert_eq!(budget.spend(later, MIB, Duration::ZERO), Duration::ZERO);
        let wait = budget.spend(later, MIB, Duration::ZERO);
        assert_eq!(wait, Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn whatever_the_steps_the_allowance_holds(
            steps in prop::collection::vec((0_u64..100 * MIB, 0_u64..2_000), 1..200),
        ) {
            let allowed = limits(Some(32 * MIB), Some(Duration::from_millis(3)));
            let (mut now, mut bytes, mut cpu) = (Duration::ZERO, 0, Duration::ZERO);
            let mut budget = Budget::new(allowed, now);
            for (read, used) in steps {
                let used = Duration::from_micros(used);
                (bytes, cpu) = (bytes + read, cpu + used);
                now += budget.spend(now, read, used);
                prop_assert!(u128::from(bytes) * 1_000_000_000 <= u128::from(32 * MIB) * (now.as_nanos() + 1_000_000_000));
                prop_assert!(cpu.as_nanos() * 1_000 <= 3 * (now.as_nanos() + 60_000_000_000));
            }
        }
    }
}
