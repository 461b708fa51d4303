//! One container as the main loop knows it: when it is looked at next, and what is kept between looks.

use std::time::Duration;

use holdfast_core::finding::{Kind, Severity};
use jiff::Timestamp;
use tokio::time::Instant;

use super::lanes::{self, Lane};
use crate::files::layers::LayerKey;
use crate::inspect::{Depth, Memory};
use crate::runtime::list::Found;

/// A container is identified anew this often, though nothing has happened.
const IDENTIFY_INTERVAL: Duration = Duration::from_mins(10);

/// How a look ended, for the loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is in the ledger.
    Recorded,
    /// The container was not the same at the end of the look, or the ledger could not take it.
    Repeat {
        /// Why, for the log.
        reason: String,
    },
}

impl Outcome {
    pub(super) fn not_recorded() -> Self {
        Self::Repeat {
            reason: "not recorded".to_owned(),
        }
    }
}

/// A watched container.
#[derive(Debug)]
pub(super) struct Watched {
    /// Index of its runtime.
    pub(super) source: usize,
    /// When it is due.
    pub(super) next_look: Instant,
    /// Looked at since the runtime was last (re)connected.
    pub(super) is_looked_at: bool,
    depth: Depth,
    next_whole: Instant,
    /// `None` while a look has it.
    memory: Option<Box<Memory>>,
    /// What the runtime said while a look had the memory.
    latest: Option<Found>,
    layers: Vec<LayerKey>,
    /// How long the last look took.
    took: Duration,
    /// What the last look left open, and when it was: said also while a look has the memory.
    open: Vec<(Kind, Severity)>,
    looked_at: Option<Timestamp>,
    end: End,
}

/// Whether the container still runs, as far as the runtime says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It does.
    No,
    /// It does not, and the ledger has to know.
    Due,
    /// The ledger is being told.
    Running,
}

impl Watched {
    /// A container seen for the first time by this run of the agent: due at once, whole.
    pub(super) fn new(source: usize, found: Found, remembered: Option<&[u8]>) -> Self {
        let now = Instant::now();
        let mut memory = Memory::new(found);
        if let Some(remembered) = remembered {
            memory.recall(remembered);
        }
        Self {
            source,
            next_look: now,
            is_looked_at: false,
            depth: Depth::Whole,
            next_whole: now,
            memory: Some(Box::new(memory)),
            latest: None,
            layers: Vec::new(),
            took: Duration::ZERO,
            open: Vec::new(),
            looked_at: None,
            end: End::No,
        }
    }

    /// What the runtime says now. True when it is another task than the one we know.
    pub(super) fn meet(&mut self, found: Found) -> bool {
        self.end = End::No;
        if let Some(memory) = &mut self.memory {
            return memory.meet(found);
        }
        self.latest = Some(found);
        false
    }

    /// The runtime no longer runs it.
    pub(super) fn end(&mut self) {
        if self.end == End::No {
            self.end = End::Due;
        }
    }

    /// Due now; a wish for a whole look is not forgotten by a later one for less.
    pub(super) fn look_soon(&mut self, depth: Depth) {
        self.depth = self.depth.max(depth);
        self.next_look = self.next_look.min(Instant::now());
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.memory.is_some() && self.end == End::No && self.next_look <= now
    }

    /// Hands out the memory for a look of the returned depth.
    pub(super) fn start_look(&mut self, now: Instant) -> Option<(Box<Memory>, Depth)> {
        let memory = self.memory.take()?;
        let is_whole = self.depth == Depth::Whole || self.next_whole <= now;
        self.depth = Depth::Upper;
        if is_whole {
            self.next_whole = now + IDENTIFY_INTERVAL;
        }
        Some((memory, if is_whole { Depth::Whole } else { Depth::Upper }))
    }

    pub(super) fn on_looked(
        &mut self,
        mut memory: Box<Memory>,
        outcome: &Outcome,
        took: Duration,
        interval: Duration,
    ) {
        self.layers = memory.layers();
        self.took = took;
        self.open = memory.open().to_vec();
        self.looked_at = memory.looked_at();
        let is_other_task = self.latest.take().is_some_and(|found| memory.meet(found));
        self.memory = Some(memory);
        self.next_look = Instant::now() + lanes::pause(took, interval);
        match outcome {
            Outcome::Recorded => self.is_looked_at = true,
            // The wish for a whole look was not fulfilled.
            Outcome::Repeat { .. } => self.depth = Depth::Whole,
        }
        if is_other_task {
            self.look_soon(Depth::Whole);
        }
    }

    /// The layers that it stands on, as far as they are known.
    pub(super) fn layers(&self) -> &[LayerKey] {
        &self.layers
    }

    /// What its last look left open, by kind and severity.
    pub(super) fn open(&self) -> impl Iterator<Item = (Kind, Severity)> {
        self.open.iter().copied()
    }

    /// When it was last looked at.
    pub(super) const fn looked_at(&self) -> Option<Timestamp> {
        self.looked_at
    }

    /// Where its next look belongs, by how long the last one took.
    pub(super) fn lane(&self) -> Lane {
        Lane::of(self.took)
    }

    pub(super) const fn is_to_be_ended(&self) -> bool {
        matches!(self.end, End::Due) && self.memory.is_some()
    }

    pub(super) const fn start_end(&mut self) {
        self.end = End::Running;
    }

    /// The end could not be recorded: it is tried again.
    pub(super) const fn on_end_failed(&mut self) {
        self.end = End::Due;
    }
}
