//! Answers of a source, kept for a while, so that a hundred containers of one image cost one look.
//!
//! A failure is never kept: it is no answer. "Nothing there" lives short, because signatures follow
//! the push of an image; what was found lives longer, but tags move, so not for ever.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::digest::Digest;
use holdfast_core::reference::Repository;
use holdfast_core::trust::Looked;
use tokio::time::Instant;

use crate::source::{Look, SignatureSource};

/// Life of "nothing there".
const NOTHING_LIFE: Duration = Duration::from_mins(5);
/// Life of what was found: someone who replaces a bad signature waits at most this long.
const FOUND_LIFE: Duration = Duration::from_mins(15);
/// Answers that are kept.
const MAX_ANSWERS: usize = 4096;
/// Bytes of all answers that are kept; a signature object has some two kilobytes.
const MAX_BYTES: usize = 8 << 20;
/// What an answer costs beside its bytes.
const OVERHEAD: usize = 512;

/// A source with a memory.
#[derive(Debug)]
pub struct Cached<S> {
    source: S,
    answers: Mutex<Answers>,
}

#[derive(Debug, Default)]
struct Answers {
    kept: HashMap<(Repository, Digest), Answer>,
    bytes: usize,
}

#[derive(Debug)]
struct Answer {
    looked: Looked,
    until: Instant,
    bytes: usize,
}

impl<S: SignatureSource> Cached<S> {
    /// Remembers what `source` answers.
    pub fn new(source: S) -> Self {
        Self {
            source,
            answers: Mutex::default(),
        }
    }

    async fn look(&self, repository: &Repository, subject: Digest) -> Looked {
        let key = (repository.clone(), subject);
        let now = Instant::now();
        if let Some(looked) = self.lock().get(&key, now) {
            return looked;
        }
        let looked = self.source.signatures(repository, subject).await;
        self.lock().keep(key, &looked, now);
        looked
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: SignatureSource> SignatureSource for Cached<S> {
    fn signatures<'a>(&'a self, repository: &'a Repository, subject: Digest) -> Look<'a> {
        Box::pin(self.look(repository, subject))
    }
}

impl Answers {
    fn get(&self, key: &(Repository, Digest), now: Instant) -> Option<Looked> {
        let answer = self.kept.get(key)?;
        (answer.until > now).then(|| answer.looked.clone())
    }

    fn keep(&mut self, key: (Repository, Digest), looked: &Looked, now: Instant) {
        let life = if looked.is_nothing() {
            NOTHING_LIFE
        } else {
            FOUND_LIFE
        };
        let Some(until) = now.checked_add(life).filter(|_| looked.missed().is_empty()) else {
            return;
        };
        let bytes = size(looked);
        self.make_room(bytes, now);
        // Still no room: the answer is used and not kept, which costs another look.
        if self.kept.len() >= MAX_ANSWERS || self.bytes.saturating_add(bytes) > MAX_BYTES {
            return;
        }
        let answer = Answer {
            looked: looked.clone(),
            until,
            bytes,
        };
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some(before) = self.kept.insert(key, answer) {
            self.bytes = self.bytes.saturating_sub(before.bytes);
        }
    }

    /// Drops what is over, when it is needed.
    fn make_room(&mut self, bytes: usize, now: Instant) {
        if self.kept.len() < MAX_ANSWERS && self.bytes.saturating_add(bytes) <= MAX_BYTES {
            return;
        }
        self.kept.retain(|_, answer| answer.until > now);
        self.bytes = self.kept.values().map(|answer| answer.bytes).sum();
    }
}

fn size(looked: &Looked) -> usize {
    looked
        .objects()
        .iter()
        .flat_map(|object| {
            let payloads = object.payloads.values().map(Vec::len);
            payloads.chain([object.manifest.len()])
        })
        .fold(OVERHEAD, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use holdfast_core::trust::{Cause, Missed, SignatureObject};

    use super::*;

    /// Counts its looks, and always has the same answer.
    struct Counting {
        looks: AtomicUsize,
        answer: Looked,
    }

    impl SignatureSource for Counting {
        fn signatures<'a>(&'a self, _: &'a Repository, _: Digest) -> Look<'a> {
            self.looks.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::ready(self.answer.clone()))
        }
    }

    fn counting(answer: Looked) -> Cached<Counting> {
        Cached::new(Counting {
            looks: AtomicUsize::new(0),
            answer,
        })
    }

    /// How many looks reached the source when asked once, and again after each pause.
    async fn looks(cached: &Cached<Counting>, pauses: &[Duration]) -> Vec<usize> {
        let repository: Repository = "r.example/a".parse().unwrap();
        let mut counts = Vec::new();
        for pause in [&[Duration::ZERO], pauses].concat() {
            tokio::time::advance(pause).await;
            let looked = cached.signatures(&repository, Digest::of(b"")).await;
            assert_eq!(looked, cached.source.answer);
            counts.push(cached.source.looks.load(Ordering::Relaxed));
        }
        counts
    }

    fn object(bytes: usize) -> Looked {
        Looked::found(SignatureObject {
            manifest: vec![0; bytes],
            payloads: BTreeMap::new(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_lives_shorter_than_something_and_both_end() {
        let second = Duration::from_secs(1);
        let short = NOTHING_LIFE.saturating_sub(second);
        assert_eq!(
            looks(&counting(Looked::nothing()), &[short, second]).await,
            [1, 1, 2]
        );
        assert_eq!(
            looks(&counting(object(1)), &[short, second]).await,
            [1, 1, 1]
        );
        assert_eq!(looks(&counting(object(1)), &[FOUND_LIFE]).await, [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_never_kept_even_beside_something_found() {
        let missed = Looked::could_not_look(Missed {
            cause: Cause::Timeout,
            message: String::new(),
        });
        let zero = [Duration::ZERO; 2];
        assert_eq!(looks(&counting(missed.clone()), &zero).await, [1, 2, 3]);
        assert_eq!(
            looks(&counting(object(1).and(missed)), &zero).await,
            [1, 2, 3]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_too_large_is_used_and_not_kept() {
        let large = counting(object(MAX_BYTES));
        assert_eq!(looks(&large, &[Duration::ZERO]).await, [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded_and_frees_what_is_over() {
        let mut answers = Answers::default();
        let key = |at: usize| {
            (
                "r.example/a".parse().unwrap(),
                Digest::of(&at.to_le_bytes()),
            )
        };
        for at in 0..(MAX_ANSWERS + 10) {
            answers.keep(key(at), &object(10), Instant::now());
        }
        assert_eq!(answers.kept.len(), MAX_ANSWERS);
        assert!(answers.bytes <= MAX_BYTES);
        tokio::time::advance(FOUND_LIFE).await;
        answers.keep(key(0), &object(10), Instant::now());
        assert_eq!((answers.kept.len(), answers.bytes), (1, OVERHEAD + 10));
    }
}
