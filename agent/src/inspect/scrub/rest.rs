//! When a scrub may go on: it has paid for what it has used, and nobody on the node waits for what it would
//! use. It says for how long not to; it does not wait itself.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::files::pressure::{Pressed, Pressure};
use crate::telemetry::Pause;

/// The longest pause that a node under pressure gets. A container can press for ever; a scrub that waited
/// for it to end would be switched off by it.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How many such pauses fit into an interval at least: pressure alone never makes a pass late.
const PAUSES_AN_INTERVAL: u32 = 100;

/// How often pressure is asked for in a pause.
const PAUSE_STEP: Duration = Duration::from_secs(1);

/// What is still to be waited for.
#[derive(Debug)]
pub(super) struct Rest {
    pressure: Pressure,
    longest: Duration,
    in_debt_until: Instant,
    pressed_since: Option<Instant>,
}

impl Rest {
    /// For passes of this interval. `folder` is where the kernel says how pressed the node is.
    pub(super) fn new(folder: &Path, interval: Duration) -> Self {
        Self {
            pressure: Pressure::new(folder),
            longest: LONGEST_PAUSE.min(interval / PAUSES_AN_INTERVAL),
            in_debt_until: Instant::now(),
            pressed_since: None,
        }
    }

    /// Whether the kernel says how pressed the node is.
    pub(super) fn is_told_of_pressure(&self) -> bool {
        self.pressure.look() != Pressed::Unknown
    }

    /// A part was made that is paid for after this.
    pub(super) fn owe(&mut self, wait: Duration) {
        self.in_debt_until = Instant::now() + wait;
    }

    /// Why the next part may not begin yet, and when to ask again. After the longest pause one part is made
    /// whatever the pressure.
    pub(super) fn before_next(&mut self) -> Option<(Pause, Duration)> {
        let debt = self.in_debt_until.saturating_duration_since(Instant::now());
        if !debt.is_zero() {
            return Some((Pause::Budget, debt));
        }
        let Pressed::By(_) = self.pressure.look() else {
            self.pressed_since = None;
            return None;
        };
        let since = *self.pressed_since.get_or_insert_with(Instant::now);
        let left = self.longest.saturating_sub(since.elapsed());
        if left.is_zero() {
            self.pressed_since = None;
            return None;
        }
        Some((Pause::Pressure, left.min(PAUSE_STEP)))
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    /// A kernel that says this share of time is lost to a resource.
    fn kernel(share: &str) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        press(&folder, share);
        folder
    }

    fn press(folder: &TempDir, share: &str) {
        let text = format!("some avg10={share} avg60=0.00 avg300=0.00 total=1\n");
        std::fs::write(folder.path().join("io"), text).unwrap();
    }

    /// How long nothing is read before the next part.
    async fn waited(rest: &mut Rest) -> Duration {
        let began = Instant::now();
        while let Some((_, wait)) = rest.before_next() {
            tokio::time::advance(wait).await;
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_owed_is_waited_for_and_nothing_else_on_a_calm_node() {
        let calm = kernel("0.00");
        let mut rest = Rest::new(calm.path(), DAY);
        assert!(rest.is_told_of_pressure());
        assert_eq!(rest.before_next(), None);
        rest.owe(Duration::from_secs(13));
        assert_eq!(
            rest.before_next(),
            Some((Pause::Budget, Duration::from_secs(13)))
        );
        assert_eq!(waited(&mut rest).await, Duration::from_secs(13));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pressed_node_is_left_alone_until_it_is_calm() {
        let node = kernel("90.00");
        let mut rest = Rest::new(node.path(), DAY);
        for _second in 0..10 {
            assert_eq!(rest.before_next(), Some((Pause::Pressure, PAUSE_STEP)));
            tokio::time::advance(PAUSE_STEP).await;
        }
        press(&node, "1.00");
        assert_eq!(rest.before_next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn pressure_without_an_end_does_not_switch_the_scrub_off() {
        let node = kernel("100.00");
        let mut rest = Rest::new(node.path(), DAY);
        for _part in 0..3 {
            assert_eq!(waited(&mut rest).await, LONGEST_PAUSE);
        }
        // Nor does it make a short interval late.
        let mut rest = Rest::new(node.path(), Duration::from_secs(50));
        assert_eq!(waited(&mut rest).await, Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kernel_that_says_nothing_about_pressure_makes_no_pauses() {
        let silent = tempfile::tempdir().unwrap();
        let mut rest = Rest::new(silent.path(), DAY);
        assert!(!rest.is_told_of_pressure());
        assert_eq!(rest.before_next(), None);
    }
}
