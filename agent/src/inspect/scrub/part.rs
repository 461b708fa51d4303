//! One part of one layer's compare, on a thread of its own: some files first or the next ones in the order of
//! paths, and whether each container on the layer sees the files that were hashed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::container::ContainerKey;
use jiff::Timestamp;

use super::mapped;
use super::pace::{Meter, Pace};
use super::queue::Speed;
use crate::files::layers::LayerKey;
use crate::files::lower::{Hashed, Lower, Part, SoFar, compare_part, look_first};
use crate::files::newest::newest;
use crate::files::reading::Source;
use crate::files::{MAX_ENTRIES, Observer, Pass, Rehash, Root};
use crate::inspect::lowers::{Expected, Lowers};
use crate::inspect::stands::Unlike;
use crate::worker::Progress;

/// Files that were changed last and are looked at first.
const NEWEST: usize = 256;

/// Layers with fewer entries are compared at once: no order makes that quicker.
const WORTH_ORDERING: u64 = 4_096;

/// What a part is made from.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) lowers: Arc<Lowers>,
    pub(super) pace: Arc<Pace>,
    pub(super) source: Source,
    pub(super) layer: LayerKey,
    pub(super) expected: Expected,
    pub(super) speed: Speed,
    pub(super) so_far: SoFar,
    pub(super) is_begun: bool,
    pub(super) right: Option<Timestamp>,
    pub(super) now: Timestamp,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) found: Found,
    /// Containers that see another file than the one that was hashed, or could not be asked.
    pub(super) unlike: Vec<(ContainerKey, Unlike)>,
    /// Files that could not be read around the page cache.
    pub(super) not_direct: u64,
    /// How long nothing more may be read.
    pub(super) wait: Duration,
    /// How long it was worked at.
    pub(super) took: Duration,
}

/// What a part has found.
#[derive(Debug)]
pub(super) enum Found {
    Part(Part),
    /// Why nothing could be compared.
    Error(String),
}

impl Job {
    pub(super) fn run(mut self, progress: &Progress) -> Answer {
        self.pace.lower_priority();
        let mut observer = Observer::default();
        observer.reading.source = self.source;
        let bytes = Arc::clone(&observer.reading.bytes);
        let (pace, layer) = (Arc::clone(&self.pace), self.layer.clone());
        let meter = pace.meter(self.speed, &bytes, progress);
        let so_far = std::mem::take(&mut self.so_far);
        let compared = Root::open(&layer.lower)
            .map_err(|error| error.to_string())
            .and_then(|root| self.compare(&root, &mut observer, so_far, &meter));
        let (found, unlike) = match compared {
            Ok((part, hashed)) => (Found::Part(part), self.bind(&hashed, &meter)),
            Err(message) => (Found::Error(message), Vec::new()),
        };
        Answer {
            found,
            unlike,
            not_direct: observer.reading.not_direct,
            wait: meter.pay(),
            took: meter.worked(),
        }
    }

    fn compare(
        &self,
        root: &Root,
        observer: &mut Observer,
        so_far: SoFar,
        meter: &Meter<'_>,
    ) -> Result<(Part, Vec<Hashed>), String> {
        let is_over = || meter.is_over();
        let pass = Pass {
            budget: u64::MAX,
            now: self.now,
            rehash: Rehash::All,
            max_entries: MAX_ENTRIES,
            is_over: &is_over,
        };
        let lower = self.lowers.lower(&self.layer, root, &self.expected);
        if !self.is_begun && self.is_worth_ordering() {
            return self.first(lower, observer, pass);
        }
        compare_part(lower, observer, pass, so_far).map_err(|error| error.to_string())
    }

    /// What is read at once is not.
    fn is_worth_ordering(&self) -> bool {
        let is_slow = self.speed == Speed::Budgeted && self.pace.is_limited();
        is_slow && self.expected.tree.entries() >= WORTH_ORDERING
    }

    /// What was found the last time, what is executed, and what was changed last.
    fn first(
        &self,
        lower: Lower<'_>,
        observer: &mut Observer,
        pass: Pass<'_>,
    ) -> Result<(Part, Vec<Hashed>), String> {
        let mut paths = self.lowers.found(&self.layer);
        paths.extend(self.executed());
        paths.extend(newest(lower.root, pass, self.right, NEWEST));
        let looked = look_first(lower, observer, pass, paths);
        let (so_far, hashed) = looked.map_err(|error| error.to_string())?;
        Ok((Part::More(Box::new(so_far)), hashed))
    }

    fn executed(&self) -> BTreeSet<Vec<u8>> {
        let mut executed = BTreeSet::new();
        for (_, stand) in self.lowers.stands.on(&self.layer) {
            let place = stand.expectation().zip(stand.index(&self.layer));
            if let (Some((expectation, index)), Some(pid)) = (place, stand.pid()) {
                let mapped = mapped::mapped(pid);
                executed.extend(mapped::of_layer(&mapped, expectation.tree(), index));
            }
        }
        executed
    }

    fn bind(&self, hashed: &[Hashed], meter: &Meter<'_>) -> Vec<(ContainerKey, Unlike)> {
        let mut all = Vec::new();
        for (container, stand) in self.lowers.stands.on(&self.layer) {
            if meter.is_over() {
                break;
            }
            if let Some(unlike) = stand.bind(&self.layer, hashed) {
                all.push((container, unlike));
            }
        }
        all
    }
}
