//! What waits to be compared, in which order, and how much of a pass that makes. It reads nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_core::container::ContainerKey;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::files::layers::LayerKey;
use crate::files::lower::SoFar;
use crate::inspect::lowers::Expected;

/// How fast a layer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speed {
    /// As fast as the node lets: nobody has seen it right yet, so nothing is known of what runs from it.
    AtOnce,
    /// Within the budget.
    Budgeted,
}

impl Speed {
    /// Of a layer that was seen then.
    pub(super) const fn of(seen: Option<Timestamp>) -> Self {
        match seen {
            Some(_) => Self::Budgeted,
            None => Self::AtOnce,
        }
    }
}

/// A layer that is being compared, or waits for it.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) layer: LayerKey,
    pub(super) expected: Expected,
    pub(super) speed: Speed,
    pub(super) so_far: SoFar,
    /// Whether its first files were looked at.
    pub(super) is_begun: bool,
    pub(super) begun: Timestamp,
    pub(super) due: Instant,
    /// When an earlier compare saw it right.
    pub(super) right: Option<Timestamp>,
    /// When it was compared, right or not.
    pub(super) compared: Option<Timestamp>,
    /// Containers that see something else than what was hashed, or could not be asked.
    pub(super) unlike: BTreeSet<ContainerKey>,
    /// How much of what it found was told.
    pub(super) told: u64,
    /// How long it was worked at.
    pub(super) took: Duration,
}

impl Work {
    /// Whether nothing was found yet.
    pub(super) fn is_clean(&self) -> bool {
        self.so_far.is_clean() && self.unlike.is_empty()
    }

    /// How much was found yet.
    pub(super) fn found(&self) -> u64 {
        let outcome = &self.so_far.outcome;
        let unlike = u64::try_from(self.unlike.len()).unwrap_or(u64::MAX);
        let changes = outcome.changes.total();
        let all = changes.saturating_add(outcome.corrupt.total());
        all.saturating_add(unlike)
    }
}

/// Whose turn it is: the least comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// Layers whose first files were not looked at come before all others.
    is_begun: bool,
    /// Then one that is under way is compared to its end.
    is_waiting: bool,
    /// Then comes the one that was never compared, or longest ago. One that is always wrong has no
    /// precedence: it would starve the others.
    compared: Option<Timestamp>,
    due: Instant,
}

impl Work {
    const fn turn(&self) -> Turn {
        Turn {
            is_begun: self.is_begun,
            is_waiting: self.so_far.after.is_empty(),
            compared: self.compared,
            due: self.due,
        }
    }
}

/// Takes the next of this speed.
pub(super) fn take_next(queue: &mut Vec<Work>, speed: Speed) -> Option<Work> {
    let of_speed = queue.iter().enumerate();
    let of_speed = of_speed.filter(|(_, work)| work.speed == speed);
    let (at, _) = of_speed.min_by_key(|(_, work)| work.turn())?;
    Some(queue.remove(at))
}

/// One layer of a pass.
#[derive(Clone, Copy, Debug)]
struct Share {
    entries: u64,
    compared: u64,
    due: Instant,
}

/// One pass: from the first layer that is due to the first that is compared a second time, or to nothing
/// being due any more.
#[derive(Debug, Default)]
pub(super) struct Book {
    began: Option<Instant>,
    due: BTreeMap<LayerKey, Share>,
    finished: BTreeSet<LayerKey>,
    finished_entries: u64,
}

impl Book {
    /// A layer of so many entries is due.
    pub(super) fn begin(&mut self, layer: &LayerKey, entries: u64, due: Instant) {
        self.began.get_or_insert(due);
        let compared = 0;
        let share = Share {
            entries,
            compared,
            due,
        };
        self.due.insert(layer.clone(), share);
    }

    /// Whether a layer is due or being compared.
    pub(super) fn has(&self, layer: &LayerKey) -> bool {
        self.due.contains_key(layer)
    }

    /// So many entries of it were compared.
    pub(super) fn reached(&mut self, layer: &LayerKey, compared: u64) {
        if let Some(share) = self.due.get_mut(layer) {
            share.compared = compared;
        }
    }

    /// It was compared to its end.
    pub(super) fn finish(&mut self, layer: &LayerKey) {
        if let Some(share) = self.due.remove(layer)
            && self.finished.insert(layer.clone())
        {
            self.finished_entries = self.finished_entries.saturating_add(share.entries);
        }
    }

    /// It is no longer due, and was not compared.
    pub(super) fn drop(&mut self, layer: &LayerKey) {
        self.due.remove(layer);
    }

    /// Whether every layer of this pass was compared before `next` is.
    pub(super) fn is_over(&self, next: Option<&LayerKey>) -> bool {
        next.map_or(self.due.is_empty(), |next| self.finished.contains(next))
    }

    /// Ends the pass; gives how long it took, if anything was compared.
    pub(super) fn end(&mut self, now: Instant) -> Option<Duration> {
        let began = self.began.take();
        let has_compared = !self.finished.is_empty();
        self.finished.clear();
        self.finished_entries = 0;
        self.began = (!self.due.is_empty()).then_some(now);
        let took = now.saturating_duration_since(began?);
        has_compared.then_some(took)
    }

    /// When the layer became due that has waited longest.
    pub(super) fn oldest_due(&self) -> Option<Instant> {
        self.due.values().map(|share| share.due).min()
    }

    /// Thousandths of the pass that are done.
    pub(super) fn progress(&self) -> u32 {
        let sum = |of: fn(&Share) -> u64| self.due.values().map(of).sum::<u64>();
        let done = sum(|share| share.compared.min(share.entries));
        let done = done.saturating_add(self.finished_entries);
        let all = sum(|share| share.entries).saturating_add(self.finished_entries);
        let thousandths = done.saturating_mul(1_000).checked_div(all);
        u32::try_from(thousandths.unwrap_or(1_000)).unwrap_or(1_000)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::digest::{ChainId, Digest};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(name: &str) -> LayerKey {
        LayerKey {
            chain_id: ChainId(Digest::of(name.as_bytes())),
            lower: name.into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn first_files_come_first_then_what_is_under_way_then_what_waits_longest() {
        let now = Instant::now();
        let at = |second| Timestamp::from_second(second).ok();
        let turn = |is_begun, is_waiting, compared, due| Turn {
            is_begun,
            is_waiting,
            compared,
            due: now + due,
        };
        let order = [
            turn(false, true, at(9), 9 * SECOND),
            turn(true, false, at(9), 9 * SECOND),
            turn(true, true, None, 9 * SECOND),
            turn(true, true, at(1), 9 * SECOND),
            turn(true, true, at(2), SECOND),
            turn(true, true, at(2), 2 * SECOND),
        ];
        assert!(order.is_sorted_by(|before, after| before < after));
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_the_share_of_entries_whatever_the_number_of_layers() {
        let (mut book, now) = (Book::default(), Instant::now());
        assert_eq!(book.progress(), 1_000);
        book.begin(&key("large"), 900, now);
        book.begin(&key("small"), 100, now);
        assert_eq!(book.progress(), 0);
        book.reached(&key("large"), 450);
        assert_eq!(book.progress(), 450);
        book.finish(&key("small"));
        assert_eq!(book.progress(), 550);
        // More than is due is there, as after somebody has put files into it.
        book.reached(&key("large"), 5_000);
        assert_eq!(book.progress(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_ends_when_nothing_is_due_or_when_one_comes_round_again() {
        let (mut book, began) = (Book::default(), Instant::now());
        book.begin(&key("a"), 1, began);
        book.begin(&key("b"), 1, began);
        assert!(book.has(&key("a")) && !book.is_over(Some(&key("a"))) && !book.is_over(None));
        book.finish(&key("a"));
        book.begin(&key("a"), 1, began + 3 * SECOND);
        assert!(!book.is_over(Some(&key("b"))), "it was not compared yet");
        book.finish(&key("b"));
        assert!(book.is_over(Some(&key("a"))));
        assert_eq!(book.end(began + 5 * SECOND), Some(5 * SECOND));

        book.finish(&key("a"));
        assert!(book.is_over(None));
        assert_eq!(book.end(began + 7 * SECOND), Some(2 * SECOND));
        assert_eq!(book.end(began + 9 * SECOND), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_in_which_nothing_could_be_compared_has_no_time() {
        let (mut book, began) = (Book::default(), Instant::now());
        book.begin(&key("a"), 1, began);
        assert_eq!(book.oldest_due(), Some(began));
        book.drop(&key("a"));
        assert!(book.is_over(None));
        assert_eq!(book.end(began + SECOND), None);
        assert_eq!(book.oldest_due(), None);
    }
}
