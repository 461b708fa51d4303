//! Keeps a scrub within its budget while it reads: what a part has used is paid for as it goes, and within a
//! large file the thread itself waits. It decides no order and knows no layer.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::setpriority_process;
use rustix::thread::gettid;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::queue::Speed;
use crate::files::budget::{Budget, Limits};
use crate::telemetry::{Metrics, Pause};
use crate::worker::Progress;

/// A debt that is paid between two parts, when nothing is open; more is waited for at once.
const PAID_LATER: Duration = Duration::from_secs(2);

/// How often a waiting thread says that it is well, and asks whether it is still needed.
const STEP: Duration = Duration::from_secs(1);

/// The nicest of all: such a thread takes what nobody else wants.
const NICEST: i32 = 19;

/// One budget for all parts.
#[derive(Debug)]
pub(super) struct Pace {
    limits: Limits,
    budget: Mutex<Budget>,
    metrics: Metrics,
}

impl Pace {
    pub(super) fn new(limits: Limits, metrics: Metrics) -> Self {
        let budget = Mutex::new(Budget::new(limits, clock(ClockId::Monotonic)));
        Self {
            limits,
            budget,
            metrics,
        }
    }

    /// Whether the scrub is to be slower than it can be.
    pub(super) const fn is_limited(&self) -> bool {
        self.limits.is_any()
    }

    /// Makes this thread the last in every queue, where something is limited. Without the right to, its
    /// budget alone must do.
    pub(super) fn lower_priority(&self) {
        if self.is_limited() {
            let _nice = setpriority_process(Some(gettid()), NICEST);
            let _idle = holdfast_sys::priority::idle_io();
        }
    }

    /// The meter of the part that this thread does; `bytes` grows while it reads.
    pub(super) fn meter<'a>(
        &'a self,
        speed: Speed,
        bytes: &'a AtomicU64,
        progress: &'a Progress,
    ) -> Meter<'a> {
        Meter {
            pace: self,
            speed,
            bytes,
            progress,
            begun: clock(ClockId::Monotonic),
            waited: Cell::new(Duration::ZERO),
            paid_bytes: Cell::new(bytes.load(Ordering::Relaxed)),
            paid_cpu: Cell::new(clock(ClockId::ThreadCPUTime)),
        }
    }
}

/// What one part has used and not paid for.
#[derive(Debug)]
pub(super) struct Meter<'a> {
    pace: &'a Pace,
    speed: Speed,
    bytes: &'a AtomicU64,
    progress: &'a Progress,
    begun: Duration,
    waited: Cell<Duration>,
    paid_bytes: Cell<u64>,
    paid_cpu: Cell<Duration>,
}

impl Meter<'_> {
    /// Asked now and then while reading: true when nobody needs the rest.
    pub(super) fn is_over(&self) -> bool {
        let wait = self.pay();
        if wait > PAID_LATER {
            self.wait(wait);
        }
        self.progress.is_over()
    }

    /// How long this part was worked at.
    pub(super) fn worked(&self) -> Duration {
        let since = clock(ClockId::Monotonic).saturating_sub(self.begun);
        since.saturating_sub(self.waited.get())
    }

    /// Pays for what was used since; gives how long nothing more may be used. What is read at once is
    /// counted, and costs the budget nothing.
    pub(super) fn pay(&self) -> Duration {
        let (bytes, cpu) = (
            self.bytes.load(Ordering::Relaxed),
            clock(ClockId::ThreadCPUTime),
        );
        let used_bytes = bytes.saturating_sub(self.paid_bytes.replace(bytes));
        let used_cpu = cpu.saturating_sub(self.paid_cpu.replace(cpu));
        let metrics = &self.pace.metrics;
        metrics.scrub_read_bytes.inc_by(used_bytes);
        metrics.scrub_cpu_seconds.inc_by(used_cpu.as_secs_f64());
        if self.speed == Speed::AtOnce {
            return Duration::ZERO;
        }
        let budget = self.pace.budget.lock();
        let mut budget = budget.unwrap_or_else(PoisonError::into_inner);
        budget.spend(clock(ClockId::Monotonic), used_bytes, used_cpu)
    }

    fn wait(&self, mut wait: Duration) {
        self.pace.metrics.scrub_paused(Pause::Budget, wait);
        self.waited.set(self.waited.get().saturating_add(wait));
        while !wait.is_zero() && !self.progress.is_over() {
            let step = wait.min(STEP);
            std::thread::park_timeout(step);
            wait = wait.saturating_sub(step);
        }
    }
}

fn clock(id: ClockId) -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(id);
    Duration::new(
        u64::try_from(tv_sec).unwrap_or_default(),
        u32::try_from(tv_nsec).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    #[test]
    fn what_is_read_is_paid_for_once_and_counted() {
        let metrics = Metrics::default();
        let limits = Limits {
            bytes: NonZeroU64::new(1 << 20),
            cpu: None,
        };
        let pace = Pace::new(limits, metrics.clone());
        let (bytes, progress) = (AtomicU64::new(0), Progress::default());
        let meter = pace.meter(Speed::Budgeted, &bytes, &progress);
        bytes.fetch_add(1 << 50, Ordering::Relaxed);
        let wait = meter.pay();
        assert!(wait > Duration::from_hours(24 * 365));
        assert!(meter.pay() <= wait);
        assert_eq!(metrics.scrub_read_bytes.get(), 1 << 50);
    }

    #[test]
    fn what_nobody_has_seen_right_is_read_without_a_pause_and_costs_the_rest_nothing() {
        let metrics = Metrics::default();
        let limits = Limits {
            bytes: NonZeroU64::new(1),
            cpu: None,
        };
        let pace = Pace::new(limits, metrics.clone());
        let (bytes, progress) = (AtomicU64::new(0), Progress::default());
        let meter = pace.meter(Speed::AtOnce, &bytes, &progress);
        bytes.fetch_add(1 << 50, Ordering::Relaxed);
        assert!(!meter.is_over());
        assert_eq!(metrics.scrub_read_bytes.get(), 1 << 50);
        let meter = pace.meter(Speed::Budgeted, &bytes, &progress);
        assert_eq!(meter.pay(), Duration::ZERO);
    }

    #[test]
    fn without_a_limit_nothing_waits_and_the_cpu_time_is_counted_all_the_same() {
        let metrics = Metrics::default();
        let pace = Pace::new(Limits::default(), metrics.clone());
        assert!(!pace.is_limited());
        let (bytes, progress) = (AtomicU64::new(0), Progress::default());
        let meter = pace.meter(Speed::Budgeted, &bytes, &progress);
        bytes.fetch_add(u64::MAX >> 1, Ordering::Relaxed);
        while metrics.scrub_cpu_seconds.get() < 1e-5 {
            assert_eq!(meter.pay(), Duration::ZERO);
        }
        assert!(!meter.is_over());
    }
}
