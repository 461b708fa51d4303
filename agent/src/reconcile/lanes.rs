//! Which looks may run beside each other. A container decides how long its look takes: with large files, or
//! with a file system that never answers. It must not thereby decide when others are looked at.

use std::time::Duration;

/// Looks at one time that end soon: two cores' worth, and as many that wait for the disk.
const MAX_QUICK: usize = 4;

/// Looks at one time at containers whose last look took long.
const MAX_SLOW: usize = 1;

/// Looks at one time in all, those that hang included: each holds a thread and its descriptors.
const MAX_LOOKS: usize = 24;

/// A look that takes longer is slow. Even a first look at an image of usual size, its tables known, is quicker.
const SLOW: Duration = Duration::from_secs(5);

/// A container is looked at for at most about this part of the time.
const SHARE: u32 = 10;

/// Where a look belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// It ends soon, as far as is known.
    Quick,
    /// The last one did not.
    Slow,
}

impl Lane {
    pub(super) fn of(took: Duration) -> Self {
        if took < SLOW { Self::Quick } else { Self::Slow }
    }
}

/// The looks that are running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lanes {
    quick: usize,
    slow: usize,
}

impl Lanes {
    /// By how long each has been running: one that turns out to be slow gives its place to another.
    pub(super) fn of(running: impl Iterator<Item = Duration>) -> Self {
        running.fold(Self::default(), |mut lanes, since| {
            match Lane::of(since) {
                Lane::Quick => lanes.quick += 1,
                Lane::Slow => lanes.slow += 1,
            }
            lanes
        })
    }

    pub(super) const fn has_room(&self, lane: Lane) -> bool {
        let has_room = match lane {
            Lane::Quick => self.quick < MAX_QUICK,
            Lane::Slow => self.slow < MAX_SLOW && self.quick < MAX_QUICK,
        };
        has_room && self.quick.saturating_add(self.slow) < MAX_LOOKS
    }
}

/// The time between two looks at a container.
pub(super) fn pause(took: Duration, interval: Duration) -> Duration {
    match Lane::of(took) {
        Lane::Quick => interval,
        Lane::Slow => interval.max(took.saturating_mul(SHARE - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(seconds: &[u64]) -> Lanes {
        Lanes::of(seconds.iter().copied().map(Duration::from_secs))
    }

    #[test]
    fn looks_that_hang_leave_room_for_quick_ones_and_not_for_more_like_them() {
        let hung = lanes(&[600; 23]);
        assert!(hung.has_room(Lane::Quick));
        assert!(!hung.has_room(Lane::Slow));
        assert!(
            !lanes(&[600; 24]).has_room(Lane::Quick),
            "each holds a thread"
        );
        assert!(!lanes(&[0; 4]).has_room(Lane::Quick));
        assert!(lanes(&[0; 3]).has_room(Lane::Slow));
    }

    #[test]
    fn a_look_that_takes_long_is_followed_by_a_long_pause() {
        let interval = Duration::from_secs(10);
        assert_eq!(pause(Duration::from_secs(1), interval), interval);
        assert_eq!(
            pause(Duration::from_mins(1), interval),
            Duration::from_mins(9)
        );
    }
}
