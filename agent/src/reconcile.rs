//! THE MAIN LOOP: event, tick or stop → bounded jobs → places in the ledger.
//!
//! An event is a hint that makes us look sooner; the look is the truth. After every (re)connection and
//! on a timer everything is listed again, so a lost event costs latency, never truth. Handlers here are
//! synchronous and quick; whatever waits runs as a `Job` in a bounded set beside the loop. Looks have lanes
//! of their own (`lanes.rs`): a container whose look takes long delays only others like it.
//!
//! What must never happen here: a finding resolved because a list was empty or could not be had; a
//! container that ends the looks at the others; two looks at one container at a time.
//!
//! Long because the loop, its handlers and what starts jobs are read together.

mod job;
mod lanes;
mod layer_book;
mod watched;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::container::ContainerKey;
use holdfast_daemon::readiness::Readiness;
use holdfast_daemon::shutdown::{Stop, stopped};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use self::job::{Done, Job};
use self::lanes::Lanes;
use self::layer_book::LayerBook;
use self::watched::{Outcome, Watched};
use crate::config;
use crate::files::layers::LayerKey;
use crate::inspect::scrub::Scrubbed;
use crate::inspect::{Depth, Inspector, Shared};
use crate::report::Ledger;
use crate::runtime::Runtime;
use crate::runtime::events::Event;
use crate::runtime::list::Found;

/// Jobs of each kind at one time, looks apart: what only asks the runtime or the ledger never waits for looks.
const MAX_JOBS: usize = 4;

/// Events that wait to be asked about; at most this many, then the intake stops instead of growing.
const MAX_TO_FIND: usize = 10_000;

/// How often the loop asks itself what is due.
const TICK: Duration = Duration::from_millis(200);

/// How often the gauges are brought up to date.
const GAUGES: Duration = Duration::from_secs(2);

/// A list that failed is tried again after this.
const LIST_RETRY: Duration = Duration::from_secs(1);

/// Readiness conditions of the loop.
pub const CONDITIONS: [&str; 2] = ["containerd", "inventory"];

/// What the loop works with.
#[derive(Debug)]
pub struct Parts {
    /// What all looks share.
    pub shared: Arc<Shared>,
    /// Places and spool.
    pub ledger: Ledger,
    /// Whether the agent does its work.
    pub readiness: Readiness,
    /// How often what is looked at.
    pub scan: config::Scan,
    /// How often everything is reported again.
    pub full_report_interval: Duration,
    /// What an earlier run of the agent remembered of containers.
    pub remembered: HashMap<ContainerKey, Vec<u8>>,
    /// Layers that the scrub is to compare.
    pub due: mpsc::Sender<LayerKey>,
}

/// One runtime to watch.
#[derive(Debug)]
pub struct Watching<R> {
    /// The name of its socket.
    pub name: String,
    /// Its client.
    pub runtime: Arc<R>,
    /// Who looks at its containers.
    pub inspector: Arc<Inspector<R>>,
}

/// Where a list of a runtime's containers stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    /// Until the timer says so.
    Idle,
    /// Something happened that only a list can answer.
    Wanted,
    /// Under way.
    Running,
    /// Under way, and already too old.
    Overtaken,
}

/// How a container is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meeting {
    /// The runtime was away: it may have been exchanged, and is looked at as at first sight.
    Anew,
    /// The runtime speaks of it again.
    Again,
}

/// One runtime, as the loop sees it.
#[derive(Debug)]
struct Source<R> {
    watching: Watching<R>,
    /// Why its list cannot be trusted now; `None` once connected and listed.
    away: Option<String>,
    is_connected: bool,
    is_reported_away: bool,
    listing: Listing,
    next_list: Instant,
    /// Containers whose namespace and id another runtime's container has: they are not watched, and said.
    doubles: BTreeSet<ContainerKey>,
}

impl<R> Source<R> {
    fn want_list(&mut self) {
        self.listing = match self.listing {
            Listing::Idle | Listing::Wanted => Listing::Wanted,
            Listing::Running | Listing::Overtaken => Listing::Overtaken,
        };
    }
}

/// The loop's state.
#[derive(Debug)]
pub struct Reconcile<R> {
    parts: Parts,
    sources: Vec<Source<R>>,
    watched: BTreeMap<ContainerKey, Watched>,
    /// Containers of which an event or a list has spoken, to be asked for by name.
    to_find: BTreeSet<(usize, ContainerKey)>,
    finding: BTreeSet<ContainerKey>,
    layers: LayerBook,
    /// Containers that an earlier run of the agent knew are ended once every socket was listed.
    has_ended_absent: bool,
    wants_full_report: bool,
    next_full_report: Instant,
    next_gauges: Instant,
    jobs: JoinSet<Done>,
    /// What a running job is about, so that one that panicked gives its container back.
    about: HashMap<tokio::task::Id, Running>,
}

/// A running job.
#[derive(Debug)]
struct Running {
    job: Job,
    since: Instant,
}

impl<R: Runtime> Reconcile<R> {
    /// A loop that knows of nothing yet.
    pub fn new(parts: Parts) -> Self {
        let now = Instant::now();
        Self {
            sources: Vec::new(),
            watched: BTreeMap::new(),
            to_find: BTreeSet::new(),
            finding: BTreeSet::new(),
            layers: LayerBook::new(parts.scan.lower_interval.get()),
            has_ended_absent: false,
            wants_full_report: false,
            next_full_report: now + parts.full_report_interval,
            next_gauges: now,
            jobs: JoinSet::new(),
            about: HashMap::new(),
            parts,
        }
    }

    /// Runs until stopped. Events carry the number of their runtime, which is its place among `runtimes`.
    pub async fn run(
        mut self,
        mut runtimes: mpsc::Receiver<Vec<Watching<R>>>,
        mut events: mpsc::Receiver<(usize, Event)>,
        mut scrubbed: mpsc::Receiver<Scrubbed>,
        mut stop: Stop,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased; // stop before work, finished work before new work
                () = stopped(&mut stop) => return,
                Some(done) = self.jobs.join_next_with_id() => self.on_done(done),
                Some(watching) = runtimes.recv() => self.on_runtimes(watching),
                Some(scrubbed) = scrubbed.recv() => self.on_scrubbed(scrubbed),
                Some((source, event)) = events.recv(), if self.to_find.len() < MAX_TO_FIND => self.on_event(source, event),
                _ = tick.tick() => self.on_tick(),
            }
            self.start_what_is_due();
        }
    }

    fn on_runtimes(&mut self, runtimes: Vec<Watching<R>>) {
        let new = |watching| Source {
            watching,
            away: Some("not connected yet".to_owned()),
            is_connected: false,
            is_reported_away: false,
            listing: Listing::Idle,
            next_list: Instant::now(),
            doubles: BTreeSet::new(),
        };
        self.sources.extend(runtimes.into_iter().map(new));
        self.publish_readiness();
    }

    fn on_tick(&mut self) {
        if self.next_gauges <= Instant::now() {
            self.next_gauges = Instant::now() + GAUGES;
            self.publish();
        }
    }

    /// A hint from a runtime. Anybody with the socket can publish events, so each only makes us look.
    fn on_event(&mut self, index: usize, event: Event) {
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        match event {
            Event::Connected => {
                source.is_connected = true;
                source.want_list();
                source.away = Some("connected, not listed yet".to_owned());
            }
            Event::Disconnected { reason } => {
                if source.is_connected || !source.is_reported_away {
                    source.is_reported_away = true;
                    tracing::warn!(socket = %source.watching.name, %reason, "Runtime is away.");
                }
                source.is_connected = false;
                source.away = Some(reason.to_string());
                self.parts.shared.metrics.event_gaps.inc();
            }
            Event::ListAgain => {
                source.want_list();
                self.parts.shared.metrics.event_gaps.inc();
            }
            Event::TaskStarted(key)
            | Event::TaskExited(key)
            | Event::ContainerChanged(key)
            | Event::ContainerDeleted(key) => {
                self.to_find.insert((index, key));
            }
            // A name that moved, or an image that is gone, concerns whoever runs in that namespace.
            Event::ImageChanged { namespace, .. } => self.look_at_namespace(index, &namespace),
            Event::SnapshotRemoved { .. } => {}
        }
        self.publish_readiness();
    }

    fn look_at_namespace(&mut self, index: usize, namespace: &str) {
        let all = self.watched.iter_mut();
        all.filter(|(key, watched)| key.namespace == namespace && watched.source == index)
            .for_each(|(_, watched)| watched.look_soon(Depth::Whole));
    }

    /// A job has ended.
    fn on_done(&mut self, done: Result<(tokio::task::Id, Done), JoinError>) {
        match done {
            Ok((id, done)) => {
                let running = self.about.remove(&id);
                let took = running.map_or(Duration::ZERO, |running| running.since.elapsed());
                self.on_job_done(done, took);
            }
            Err(error) => {
                // A panic is a defect of ours: the container is looked at again, and the log says so.
                tracing::error!(%error, "Job failed.");
                if let Some(running) = self.about.remove(&error.id()) {
                    self.on_job_failed(running.job);
                }
            }
        }
        self.publish_readiness();
    }

    fn on_job_done(&mut self, done: Done, took: Duration) {
        let now = Instant::now();
        match done {
            Done::Listed { source, result } => self.on_listed(source, result),
            Done::Found {
                source,
                key,
                result,
            } => {
                self.finding.remove(&key);
                self.on_found(source, &key, result);
            }
            Done::Looked {
                key,
                memory,
                outcome,
            } => {
                if let Outcome::Repeat { reason } = &outcome {
                    self.parts.shared.metrics.looks_repeated.inc();
                    tracing::debug!(container = %key.id, %reason, "Look is repeated.");
                    let source = self.watched.get(&key).map_or(0, |watched| watched.source);
                    self.to_find.insert((source, key.clone()));
                }
                if let Some(watched) = self.watched.get_mut(&key) {
                    let interval = self.parts.scan.upper_interval.get();
                    watched.on_looked(memory, &outcome, took, interval);
                    self.layers.use_by(&key, watched.layers(), now);
                }
            }
            Done::Ended { key, outcome } => self.on_ended(&key, &outcome),
            Done::EndedAbsent { is_recorded } => self.has_ended_absent = is_recorded,
            Done::Reported { is_recorded } => self.wants_full_report |= !is_recorded,
        }
    }

    /// What the scrub says.
    fn on_scrubbed(&mut self, scrubbed: Scrubbed) {
        let now = Instant::now();
        match scrubbed {
            Scrubbed::News(layer) => self.look_at_those_on(&layer),
            Scrubbed::Done { layer, again } => {
                self.layers.on_compared(&layer, now + again);
                self.look_at_those_on(&layer);
            }
            Scrubbed::Failed(layer) => self.layers.on_compare_failed(&layer, now),
        }
    }

    /// Every container on the layer has something new to say.
    fn look_at_those_on(&mut self, layer: &LayerKey) {
        let containers = self.layers.containers(layer);
        let all = self.watched.iter_mut();
        all.filter(|(key, _)| containers.contains(key))
            .for_each(|(_, watched)| watched.look_soon(Depth::Upper));
    }

    fn on_job_failed(&mut self, job: Job) {
        match job {
            Job::List { source } => self.on_listed(source, Err("the list failed".to_owned())),
            Job::Find { key, .. } => {
                self.finding.remove(&key);
            }
            // The memory is lost with the job: the container is met anew.
            Job::Look { key } => {
                if let Some(watched) = self.watched.remove(&key) {
                    self.layers.forget(&key);
                    self.to_find.insert((watched.source, key));
                }
            }
            Job::End { key } => self.on_ended(&key, &Outcome::not_recorded()),
            Job::EndAbsent => self.has_ended_absent = false,
            Job::Report => self.wants_full_report = true,
        }
    }

    /// What runs on a socket. A list that could not be had says nothing; one that was had and lacks a
    /// container we know makes us ask for it by name, because it may be older than the container.
    fn on_listed(&mut self, index: usize, result: Result<Vec<Found>, String>) {
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        let is_overtaken = source.listing == Listing::Overtaken;
        source.listing = if is_overtaken {
            Listing::Wanted
        } else {
            Listing::Idle
        };
        source.next_list = Instant::now() + self.parts.scan.list_interval.get();
        let found = match result {
            Ok(found) => found,
            Err(reason) => {
                source.next_list = Instant::now() + LIST_RETRY;
                source.away = Some(format!("list: {reason}"));
                return;
            }
        };
        // On reconnection everything is looked at as at first sight: it may have been exchanged. A list
        // that a lost connection has overtaken is no news about what runs now.
        let is_current = source.is_connected && !is_overtaken;
        let is_anew = is_current && source.away.take().is_some();
        let meeting = if is_anew {
            Meeting::Anew
        } else {
            Meeting::Again
        };
        let listed: BTreeSet<ContainerKey> =
            found.iter().map(|found| found.record.key.clone()).collect();
        if let Some(source) = self.sources.get_mut(index) {
            source.doubles.clear();
        }
        for one in found {
            self.upsert(index, one, meeting);
        }
        for (key, watched) in &self.watched {
            if watched.source == index && !listed.contains(key) {
                self.to_find.insert((index, key.clone()));
            }
        }
    }

    fn on_found(
        &mut self,
        index: usize,
        key: &ContainerKey,
        result: Result<Option<Box<Found>>, String>,
    ) {
        match result {
            Ok(Some(found)) => self.upsert(index, *found, Meeting::Again),
            Ok(None) => {
                if let Some(watched) = self.watched.get_mut(key) {
                    watched.end();
                }
            }
            // Not an answer: the next list asks again.
            Err(reason) => {
                tracing::debug!(container = %key.id, %reason, "Container could not be asked for.");
            }
        }
    }

    fn upsert(&mut self, index: usize, found: Found, meeting: Meeting) {
        let key = found.record.key.clone();
        let Some(watched) = self.watched.get_mut(&key) else {
            let remembered = self.parts.remembered.remove(&key);
            self.watched
                .insert(key, Watched::new(index, found, remembered.as_deref()));
            self.count_containers();
            return;
        };
        if watched.source != index {
            self.on_double(index, key);
            return;
        }
        if watched.meet(found) || meeting == Meeting::Anew {
            watched.look_soon(Depth::Whole);
        }
        if meeting == Meeting::Anew {
            watched.is_looked_at = false;
        }
    }

    /// Two runtimes have a container of one namespace and id: the first one met stays.
    fn on_double(&mut self, index: usize, key: ContainerKey) {
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        if !source.doubles.contains(&key) {
            tracing::error!(
                socket = %source.watching.name, namespace = %key.namespace, container = %key.id,
                "Another runtime has a container of this name; this one is not checked."
            );
            source.doubles.insert(key);
        }
    }

    fn on_ended(&mut self, key: &ContainerKey, outcome: &Outcome) {
        if *outcome == Outcome::Recorded {
            self.watched.remove(key);
            self.layers.forget(key);
            self.count_containers();
        } else if let Some(watched) = self.watched.get_mut(key) {
            watched.on_end_failed();
        }
    }

    /// Starts jobs while there is room: lists first, then ends, then looks, the one that has waited
    /// longest first, then layers.
    fn start_what_is_due(&mut self) {
        let now = Instant::now();
        for index in 0..self.sources.len() {
            self.start_list(index, now);
        }
        while self.running(|job| matches!(job, Job::Find { .. })) < MAX_JOBS
            && let Some((source, key)) = self.next_to_find()
        {
            self.start(Job::Find { source, key });
        }
        while self.running(|job| matches!(job, Job::End { .. })) < MAX_JOBS
            && let Some(key) = self.next_to_end()
        {
            self.start(Job::End { key });
        }
        while let Some(key) = self.next_to_look(now) {
            self.start(Job::Look { key });
        }
        // A full scrub has enough to do: what is due waits for the next round.
        while self.parts.due.capacity() > 0
            && let Some(layer) = self.layers.start_due(now)
        {
            if let Err(error) = self.parts.due.try_send(layer) {
                self.layers.on_compare_failed(&error.into_inner(), now);
                break;
            }
        }
        self.start_reports(now);
    }

    fn running(&self, of: impl Fn(&Job) -> bool) -> usize {
        let jobs = self.about.values();
        jobs.filter(|running| of(&running.job)).count()
    }

    /// One that is asked for already is asked for again afterwards: the answer may be older than the event.
    fn next_to_find(&mut self) -> Option<(usize, ContainerKey)> {
        let free = self
            .to_find
            .iter()
            .find(|(_, key)| !self.finding.contains(key));
        let next = free.cloned()?;
        self.to_find.remove(&next);
        self.finding.insert(next.1.clone());
        Some(next)
    }

    fn start_list(&mut self, index: usize, now: Instant) {
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        let is_wanted = source.listing == Listing::Wanted
            || (source.listing == Listing::Idle && now >= source.next_list);
        let is_due = source.is_connected && is_wanted;
        if is_due {
            source.listing = Listing::Running;
            self.parts.shared.metrics.relists.inc();
            self.start(Job::List { source: index });
        }
    }

    /// Reports about everything wait until everything was listed and looked at: what they leave out is
    /// resolved.
    fn start_reports(&mut self, now: Instant) {
        // Without any runtime nothing was listed, and nothing has ended.
        let is_complete = self.sources.iter().all(|source| source.away.is_none());
        if self.sources.is_empty() || !is_complete {
            return;
        }
        if !self.has_ended_absent {
            self.has_ended_absent = true;
            self.start(Job::EndAbsent);
            return;
        }
        self.wants_full_report |=
            self.parts.ledger.stats().borrow().full_report_due || now >= self.next_full_report;
        let is_looked_at = self.watched.values().all(|watched| watched.is_looked_at);
        if self.wants_full_report && is_looked_at && self.running(|job| *job == Job::Report) == 0 {
            self.wants_full_report = false;
            self.next_full_report = now + self.parts.full_report_interval;
            self.start(Job::Report);
        }
    }

    fn next_to_end(&mut self) -> Option<ContainerKey> {
        let (key, watched) = self
            .watched
            .iter_mut()
            .find(|(_, watched)| watched.is_to_be_ended())?;
        watched.start_end();
        Some(key.clone())
    }

    /// The container that has waited longest in a lane that has room.
    fn next_to_look(&self, now: Instant) -> Option<ContainerKey> {
        let looks = self
            .about
            .values()
            .filter(|running| matches!(running.job, Job::Look { .. }));
        let lanes = Lanes::of(looks.map(|running| now.saturating_duration_since(running.since)));
        let due = self
            .watched
            .iter()
            .filter(|(_, watched)| watched.is_due(now) && lanes.has_room(watched.lane()));
        due.min_by_key(|(_, watched)| watched.next_look)
            .map(|(key, _)| key.clone())
    }

    /// `/readyz`: every socket connected and listed, and every container of the last list looked at.
    fn publish_readiness(&self) {
        let away: Vec<String> = self
            .sources
            .iter()
            .filter_map(|source| {
                Some(format!(
                    "{}: {}",
                    source.watching.name,
                    source.away.as_ref()?
                ))
            })
            .collect();
        let is_connected = away.is_empty() && !self.sources.is_empty();
        let connected = match (is_connected, self.sources.is_empty()) {
            (true, _) => Ok(()),
            (false, true) => Err("no socket found".to_owned()),
            (false, false) => Err(away.join("; ")),
        };
        let waiting = self
            .watched
            .values()
            .filter(|watched| !watched.is_looked_at)
            .count();
        let doubles: usize = self.sources.iter().map(|source| source.doubles.len()).sum();
        let inventory = match (waiting, is_connected) {
            (0, true) if doubles > 0 => Err(format!(
                "{doubles} containers are not checked: another runtime has one of the same namespace and id"
            )),
            (0, true) => Ok(()),
            (0, false) => Err("containers are not listed".to_owned()),
            (waiting, _) => Err(format!("{waiting} containers wait for their first look")),
        };
        self.parts.readiness.set("containerd", connected);
        self.parts.readiness.set("inventory", inventory);
    }

    fn count_containers(&self) {
        let count = i64::try_from(self.watched.len()).unwrap_or(i64::MAX);
        self.parts.shared.metrics.containers.set(count);
    }

    fn publish(&self) {
        let metrics = &self.parts.shared.metrics;
        let open = self.watched.values().flat_map(Watched::open);
        let mut counts: BTreeMap<_, i64> = BTreeMap::new();
        open.for_each(|kind_and_severity| *counts.entry(kind_and_severity).or_default() += 1);
        metrics.findings_open(|kind, severity| counts.get(&(kind, severity)).copied().unwrap_or(0));
        if let Some(oldest) = self.watched.values().filter_map(Watched::looked_at).min() {
            metrics.oldest_check.set(oldest.as_duration().as_secs_f64());
        }
    }
}
