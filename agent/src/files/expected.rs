//! What is missing: the expected entries of a tree, stepped through beside a walk in the same order. It
//! only counts; what a missing entry means is the caller's business.

use std::cmp::Ordering;
use std::iter::Peekable;

use holdfast_core::layer::{Entry, TreeError};

/// Places that could not be read and are kept apart; with more, nothing is called missing any more.
const MAX_UNREAD: usize = 1_000;

/// Entries of a tree in its order.
pub(super) type Entries<'t> = Box<dyn Iterator<Item = Result<(Vec<u8>, Entry), TreeError>> + 't>;

/// The rest of an expected tree.
pub(super) struct Expected<'t> {
    rest: Peekable<Entries<'t>>,
    unread: UnreadPlaces,
}

/// What could not be read so far.
#[derive(Debug, Default)]
pub(super) struct UnreadPlaces {
    /// What is at and below these is neither there nor missing.
    places: Vec<Vec<u8>>,
    is_blind: bool,
}

impl<'t> Expected<'t> {
    pub(super) fn new(entries: Entries<'t>) -> Self {
        Self {
            rest: entries.peekable(),
            unread: UnreadPlaces::default(),
        }
    }

    /// The same for a walk that was begun before, and could not read this then.
    pub(super) fn knowing(self, unread: UnreadPlaces) -> Self {
        Self { unread, ..self }
    }

    /// What could not be read, for the next part of the walk.
    pub(super) fn into_unread(self) -> UnreadPlaces {
        self.unread
    }

    /// Steps to `path` and gives what is expected there; tells `missing` what was passed over.
    pub(super) fn up_to<E: From<TreeError>>(
        &mut self,
        path: &[u8],
        mut missing: impl FnMut(Vec<u8>, Entry) -> Result<(), E>,
    ) -> Result<Option<Entry>, E> {
        loop {
            let order = match self.rest.peek() {
                Some(Ok((next, _))) => tree_order(next, path),
                Some(Err(_)) => Ordering::Less,
                None => return Ok(None),
            };
            if order.is_gt() {
                return Ok(None);
            }
            let Some((passed, entry)) = self.rest.next().transpose()? else {
                return Ok(None);
            };
            if order.is_eq() {
                return Ok(Some(entry));
            }
            if self.is_known_missing(&passed) {
                missing(passed, entry)?;
            }
        }
    }

    /// Steps to the end.
    pub(super) fn finish<E: From<TreeError>>(
        mut self,
        mut missing: impl FnMut(Vec<u8>, Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some((passed, entry)) = self.rest.next().transpose()? {
            if self.is_known_missing(&passed) {
                missing(passed, entry)?;
            }
        }
        Ok(())
    }

    /// What is at and below `path` could not be read.
    pub(super) fn unread(&mut self, path: &[u8]) {
        if self.unread.places.len() < MAX_UNREAD {
            self.unread.places.push(path.to_vec());
        } else {
            self.unread.is_blind = true;
        }
    }

    fn is_known_missing(&self, path: &[u8]) -> bool {
        !self.unread.is_blind
            && !self
                .unread
                .places
                .iter()
                .any(|unread| is_at_or_below(path, unread))
    }
}

/// The order of expected trees: what is below a directory comes directly behind it.
pub(super) fn tree_order(a: &[u8], b: &[u8]) -> Ordering {
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// Whether `path` is `directory` or below it; everything is below the empty path.
pub(super) fn is_at_or_below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty()
        || path
            .strip_prefix(directory)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
