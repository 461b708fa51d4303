//! What was asked for and is not there yet: who asks is told at once how it stands, waits for nothing, and
//! looks again later. What failed is tried again, later each time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What is remembered; what has failed long ago is forgotten first.
const MAX_KNOWN: usize = 4096;

/// How it stands with something that was asked for.
#[derive(Debug)]
pub(super) enum Standing<E> {
    /// It waits, or is being fetched.
    UnderWay,
    /// It cannot be had now; it is tried again when it is asked for later.
    Failed(Arc<E>),
}

/// How long to wait after failures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// After the first; doubled after each.
    pub first: Duration,
    /// The longest.
    pub last: Duration,
}

#[derive(Debug)]
enum Entry<E> {
    UnderWay,
    Failed {
        error: Arc<E>,
        again: Instant,
        wait: Duration,
    },
    /// Asked for again after a failure; the wait that follows the next one.
    Again(Duration),
}

/// Everything that was asked for.
#[derive(Debug)]
pub(super) struct Book<K, E> {
    entries: Mutex<HashMap<K, Entry<E>>>,
    waits: Waits,
}

impl<K: Eq + Hash, E> Book<K, E> {
    /// An empty one.
    pub(super) fn new(waits: Waits) -> Self {
        Self {
            entries: Mutex::default(),
            waits,
        }
    }

    /// How it stands; `submit` is called when it has to be fetched now, and says whether it will be.
    pub(super) fn ask(&self, key: K, submit: impl FnOnce() -> bool) -> Standing<E> {
        let now = Instant::now();
        let mut entries = self.entries();
        let next = match entries.get(&key) {
            Some(Entry::UnderWay | Entry::Again(_)) => return Standing::UnderWay,
            Some(Entry::Failed { error, again, .. }) if now < *again => {
                return Standing::Failed(Arc::clone(error));
            }
            Some(Entry::Failed { wait, .. }) => {
                Entry::Again(wait.saturating_mul(2).min(self.waits.last))
            }
            None => Entry::UnderWay,
        };
        if entries.len() >= MAX_KNOWN {
            entries
                .retain(|_, entry| !matches!(entry, Entry::Failed { again, .. } if *again <= now));
        }
        // What does not fit is asked for again by the next look.
        if entries.len() < MAX_KNOWN && submit() {
            entries.insert(key, next);
        }
        Standing::UnderWay
    }

    /// It is there.
    pub(super) fn done(&self, key: &K) {
        drop(self.entries().remove(key));
    }

    /// It could not be had.
    pub(super) fn failed(&self, key: K, error: E) {
        let wait = match self.entries().get(&key) {
            Some(Entry::Again(wait)) => *wait,
            Some(Entry::UnderWay | Entry::Failed { .. }) | None => self.waits.first,
        };
        self.wait(key, error, wait);
    }

    /// It could not be had, and asking soon again is of no use.
    pub(super) fn failed_for_long(&self, key: K, error: E) {
        self.wait(key, error, self.waits.last);
    }

    fn wait(&self, key: K, error: E, wait: Duration) {
        if let Some(again) = Instant::now().checked_add(wait) {
            let error = Arc::new(error);
            self.entries()
                .insert(key, Entry::Failed { error, again, wait });
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<K, Entry<E>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: Waits = Waits {
        first: Duration::from_mins(1),
        last: Duration::from_mins(3),
    };

    fn ask(book: &Book<u8, &'static str>) -> (bool, Option<&'static str>) {
        let mut submitted = false;
        let standing = book.ask(1, || {
            submitted = true;
            true
        });
        match standing {
            Standing::UnderWay => (submitted, None),
            Standing::Failed(error) => (submitted, Some(*error)),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_is_fetched_once_and_what_failed_later_each_time() {
        let book = Book::new(WAITS);
        assert_eq!(ask(&book), (true, None));
        assert_eq!(ask(&book), (false, None));
        for minutes in [1, 2, 3, 3] {
            book.failed(1, "no");
            assert_eq!(ask(&book), (false, Some("no")));
            tokio::time::advance(Duration::from_secs(60 * minutes - 1)).await;
            assert_eq!(ask(&book), (false, Some("no")), "{minutes}");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(ask(&book), (true, None), "{minutes}");
        }
        book.done(&1);
        assert_eq!(ask(&book), (true, None));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_change_soon_waits_long_at_once() {
        let book = Book::new(WAITS);
        book.failed_for_long(1, "never");
        tokio::time::advance(Duration::from_mins(2)).await;
        assert_eq!(ask(&book), (false, Some("never")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_book_forgets_what_is_due_again_and_takes_nothing_more_otherwise() {
        let book = Book::new(WAITS);
        for key in 0..MAX_KNOWN {
            book.failed(key, "no");
        }
        let submitted = std::cell::Cell::new(0);
        let submit = || {
            submitted.set(submitted.get() + 1);
            true
        };
        let ask = |key| drop(book.ask(key, submit));
        ask(MAX_KNOWN);
        tokio::time::advance(Duration::from_mins(1)).await;
        ask(MAX_KNOWN);
        assert_eq!(submitted.get(), 1);
    }
}
