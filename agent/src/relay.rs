//! What the agent and the collector do for nodes without blobs, over the connection on which findings
//! go: the agent offers the skeletons that it has made, asks for those that it lacks and for contents that
//! a failed proof lacks, and says which tables it compares with.
//!
//! Nothing that comes is believed: a content hashes to its name or is thrown away, a skeleton is one or is,
//! and whether it helps is what the proof says. The worst that a collector can do here is to give nothing.
//! One call is under way at a time, with a deadline, so that reports never wait behind a layer; and none of
//! this is needed for anything but tables.

mod client;
mod fetch;
mod offer;

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::digest::DiffId;
use holdfast_daemon::shutdown::{Stop, stopped};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tonic::transport::Channel;

use self::client::{CallError, Client};
use self::fetch::Answered;
use crate::files::asks::{Ask, Asks, NotRelayed};
use crate::files::tables::Tables;
use crate::telemetry::Metrics;

/// How often and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks at what there is to offer and to report.
    pub tick: Duration,
    /// After which everything is offered and reported again: the collector may have lost it.
    pub again: Duration,
    /// For the answer to one call.
    pub deadline: Duration,
    /// For all pieces of one thing.
    pub whole: Duration,
    /// Between two questions about what the collector is fetching.
    pub under_way: Duration,
    /// How long the collector may be fetching it: a layer of gigabytes from a slow registry.
    pub patience: Duration,
    /// After a call that failed.
    pub away: Duration,
    /// After the collector said that it knows no such call.
    pub unknown: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(5),
            again: Duration::from_hours(1),
            deadline: Duration::from_secs(20),
            whole: Duration::from_mins(5),
            under_way: Duration::from_secs(2),
            patience: Duration::from_mins(30),
            away: Duration::from_secs(30),
            unknown: Duration::from_hours(1),
        }
    }
}

/// A question that the collector is working on.
#[derive(Debug)]
struct Waiting {
    ask: Ask,
    since: Instant,
    due: Instant,
}

/// The task.
pub struct Relay {
    client: Client,
    tables: Arc<Tables>,
    asks: Asks,
    asked: mpsc::Receiver<Ask>,
    metrics: Metrics,
    pace: Pace,
    waiting: VecDeque<Waiting>,
    /// Layers whose skeletons were offered, and layers whose tables were reported.
    offered: HashSet<DiffId>,
    reported: HashSet<DiffId>,
    again_at: Instant,
    /// The collector does not answer: until when it is left alone, and what it said.
    away: Option<(Instant, String)>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").finish_non_exhaustive()
    }
}

impl Relay {
    /// The task over `channel`, and where its questions come from.
    pub fn new(
        channel: Channel,
        tables: Arc<Tables>,
        metrics: Metrics,
        pace: Pace,
    ) -> (Self, Asks) {
        let (asks, asked) = Asks::new();
        let relay = Self {
            client: Client::new(channel, pace.deadline),
            tables,
            asks: asks.clone(),
            asked,
            metrics,
            pace,
            waiting: VecDeque::new(),
            offered: HashSet::new(),
            reported: HashSet::new(),
            again_at: Instant::now(),
            away: None,
        };
        (relay, asks)
    }

    /// Offers, asks and reports until stopped.
    pub async fn run(mut self, mut stop: Stop) -> Result<(), Infallible> {
        tokio::select! {
            () = stopped(&mut stop) => Ok(()),
            never = self.work() => match never {},
        }
    }

    async fn work(&mut self) -> Infallible {
        let mut tick = tokio::time::interval(self.pace.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.waiting.front().map(|waiting| waiting.due);
            tokio::select! {
                biased;
                Some(ask) = self.asked.recv() => self.on_ask(ask, Instant::now()).await,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if let Some(Waiting { ask, since, .. }) = self.waiting.pop_front() {
                        self.on_ask(ask, since).await;
                    }
                }
                _ = tick.tick() => self.on_tick().await,
            }
        }
    }

    /// Asks the collector, and puts what comes where proofs look for it.
    async fn on_ask(&mut self, ask: Ask, since: Instant) {
        if let Some(said) = self.is_away() {
            return self.asks.done(&ask, Err(NotRelayed::Call(said)));
        }
        let answered = fetch::ask(&self.client, &self.tables, &self.metrics, &ask);
        let answered = tokio::time::timeout(self.pace.whole, answered).await;
        match answered.unwrap_or(Err(CallError::Deadline.into())) {
            Ok(Answered::Kept) => self.asks.done(&ask, Ok(())),
            Ok(Answered::UnderWay) if since.elapsed() < self.pace.patience => {
                if let Some(due) = Instant::now().checked_add(self.pace.under_way) {
                    self.waiting.push_back(Waiting { ask, since, due });
                }
            }
            Ok(Answered::UnderWay) => {
                let error = NotRelayed::Deadline(self.pace.patience);
                self.asks.done(&ask, Err(error));
            }
            Err(fetch::Error::Call(error)) => {
                self.on_failure(&error);
                self.asks
                    .done(&ask, Err(NotRelayed::Call(error.to_string())));
            }
            Err(fetch::Error::Content(error)) => self.asks.done(&ask, Err(error)),
        }
    }

    async fn on_tick(&mut self) {
        if self.is_away().is_some() {
            return;
        }
        let now = Instant::now();
        if now >= self.again_at {
            self.offered.clear();
            self.reported.clear();
            self.again_at = now.checked_add(self.pace.again).unwrap_or(now);
        }
        if let Err(error) = self.offer_and_report().await {
            self.on_failure(&error);
        }
    }

    /// What the collector said when it failed, while it is left alone.
    fn is_away(&self) -> Option<String> {
        let (until, said) = self.away.as_ref()?;
        (Instant::now() < *until).then(|| said.clone())
    }

    fn on_failure(&mut self, error: &CallError) {
        self.metrics.relay_failures.inc();
        // Once, and not at each attempt of an outage: the uplink tells of that.
        tracing::debug!(%error, "Collector does not relay.");
        let pause = match error {
            CallError::Unknown => self.pace.unknown,
            CallError::Deadline | CallError::Status(_) | CallError::Disk(_) => self.pace.away,
        };
        self.away = Instant::now()
            .checked_add(pause)
            .map(|until| (until, error.to_string()));
    }
}
