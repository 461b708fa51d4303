//! The uplink: sends what the spool holds, oldest first, and says every 15 seconds that the agent lives.
//! A record leaves the spool only by the collector's confirmation of it; an answer that says anything
//! else changes nothing here, least of all a policy or a verdict.
//!
//! One batch is under way at a time, heartbeats go beside it. A failure ends the attempt; the next one
//! comes after a random time that doubles its range up to a cap, so that a fleet which lost its
//! collector does not come back in step.

mod batch;

use std::convert::Infallible;
use std::time::Duration;

use holdfast_daemon::shutdown::Stop;
use holdfast_protocol::v1;
use holdfast_protocol::v1::collector_client::CollectorClient;
use holdfast_protocol::{MAX_BATCH_RECORDS, MAX_MESSAGE_BYTES};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tonic::transport::Channel;

use self::batch::MAX_REFUSED_AT_ONCE;
use super::counts::SpoolStats;
use super::error::LedgerError;
use super::ledger::Ledger;

/// Payloads and envelopes in one batch. A quarter of what a message may hold: a batch is in memory about
/// three times while it is encoded, and the agent's budget is 40 MiB. A longer record goes alone.
const MAX_BATCH_BYTES: usize = MAX_MESSAGE_BYTES / 4;

/// An error text of the other side, in logs and on the status page.
const MAX_ERROR_CHARS: usize = 300;

/// When to try, and how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Before the first connection, at most: nodes that boot together do not arrive together.
    pub start: Duration,
    /// Before the first retry, at most.
    pub first_retry: Duration,
    /// Before any retry, at most.
    pub last_retry: Duration,
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// For the answer to one call.
    pub deadline: Duration,
    /// After the collector has refused several records in a row.
    pub after_refusals: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(1),
            first_retry: Duration::from_secs(1),
            last_retry: Duration::from_secs(30),
            heartbeat: Duration::from_secs(15),
            deadline: Duration::from_secs(20),
            after_refusals: Duration::from_mins(5),
        }
    }
}

/// What a heartbeat says beside the spool's numbers; the main loop keeps it current.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Containers watched now.
    pub containers: u32,
    /// Why the agent is not ready; empty when it is.
    pub not_ready: String,
}

/// The state of the uplink, for readiness and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkState {
    /// The last exchange succeeded.
    pub connected: bool,
    /// When the collector last confirmed a batch.
    pub last_confirmed: Option<Timestamp>,
    /// Why the last attempt failed; `None` once the collector takes records again, or has them all.
    pub error: Option<String>,
    /// Records confirmed.
    pub confirmed_records: u64,
    /// Records set aside because the collector refuses them.
    pub refused_records: u64,
    /// Attempts that failed.
    pub failures: u64,
}

/// Why an attempt ended.
#[derive(Debug, thiserror::Error)]
enum UplinkError {
    #[error("no answer in time")]
    Deadline,
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    #[error("the collector confirmed nothing of the batch")]
    Unconfirmed,
    #[error("the collector refuses {MAX_REFUSED_AT_ONCE} records in a row")]
    RefusesAll,
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The uplink, before it runs.
#[derive(Debug)]
pub struct Uplink {
    ledger: Ledger,
    channel: Channel,
    vitals: watch::Receiver<Vitals>,
    pace: Pace,
    now: fn() -> Timestamp,
    state: watch::Sender<UplinkState>,
}

impl Uplink {
    /// An uplink over `channel`.
    pub fn new(
        ledger: Ledger,
        channel: Channel,
        vitals: watch::Receiver<Vitals>,
        pace: Pace,
        now: fn() -> Timestamp,
    ) -> (Self, watch::Receiver<UplinkState>) {
        let (state, seen) = watch::channel(UplinkState::default());
        let uplink = Self {
            ledger,
            channel,
            vitals,
            pace,
            now,
            state,
        };
        (uplink, seen)
    }

    /// Sends until `stop` turns true; fails when the ledger's writer has ended.
    pub async fn run(self, mut stop: Stop) -> Result<(), LedgerError> {
        tokio::select! {
            _stopped = stop.wait_for(|stop| *stop) => Ok(()),
            closed = self.attempt_for_ever() => Err(closed),
        }
    }

    /// Ends only when the ledger does.
    async fn attempt_for_ever(&self) -> LedgerError {
        sleep(jitter(self.pace.start)).await;
        let mut retry = self.pace.first_retry;
        loop {
            let (begun, confirmed) = (Instant::now(), self.ledger.stats().borrow().confirmed);
            let error = match self.attempt().await {
                Ok(never) => match never {},
                Err(UplinkError::Ledger(closed @ LedgerError::Closed)) => return closed,
                Err(error) => error,
            };
            self.on_failure(&error);
            let has_worked = self.ledger.stats().borrow().confirmed > confirmed
                || begun.elapsed() > self.pace.last_retry;
            if has_worked {
                retry = self.pace.first_retry;
            }
            sleep(jitter(retry)).await;
            retry = (retry * 2).min(self.pace.last_retry);
        }
    }

    /// One attempt: a first heartbeat, then heartbeats and batches until one of them fails.
    async fn attempt(&self) -> Result<Infallible, UplinkError> {
        self.beat().await?;
        self.state.send_modify(|state| state.connected = true);
        tokio::select! {
            ended = self.beat_for_ever() => ended,
            ended = self.send_for_ever() => ended,
        }
    }

    async fn beat_for_ever(&self) -> Result<Infallible, UplinkError> {
        loop {
            sleep(self.pace.heartbeat).await;
            self.beat().await?;
        }
    }

    async fn beat(&self) -> Result<(), UplinkError> {
        let epoch = self.epoch().await?;
        let heartbeat = self.heartbeat(epoch);
        let mut client = self.client();
        let reply = self.answer(client.beat(heartbeat)).await?;
        if reply.full_report
            && let Err(error) = self.ledger.want_full_report().await
        {
            // The collector asks again with the next heartbeat.
            tracing::warn!(%error, "The collector's wish for a full report could not be kept.");
        }
        Ok(())
    }

    /// Without a spool there is nothing to say: the node's silence is then the truth.
    async fn epoch(&self) -> Result<u64, UplinkError> {
        let mut stats = self.ledger.stats();
        let known = stats.wait_for(|stats| stats.epoch.is_some()).await;
        let epoch = known.ok().and_then(|stats| stats.epoch);
        epoch.ok_or(UplinkError::Ledger(LedgerError::Closed))
    }

    fn heartbeat(&self, epoch: u64) -> v1::Heartbeat {
        let stats = self.ledger.stats();
        let (stats, vitals) = (stats.borrow(), self.vitals.borrow());
        v1::Heartbeat {
            epoch,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            containers: vitals.containers,
            spool_records: stats.records,
            spool_bytes: stats.bytes,
            dropped_records: stats.dropped,
            not_ready: vitals.not_ready.clone(),
        }
    }

    /// A ledger that fails for a while (a full disk) or a collector that refuses what it is sent does not
    /// make the node silent: only sending waits.
    async fn send_for_ever(&self) -> Result<Infallible, UplinkError> {
        let mut news = self.ledger.stats();
        loop {
            match self.send_next(&mut news).await {
                Err(UplinkError::Ledger(error)) if error != LedgerError::Closed => {
                    sleep(self.pace.first_retry).await;
                }
                Err(error @ UplinkError::RefusesAll) => {
                    self.count_failure(&error);
                    sleep(self.pace.after_refusals).await;
                }
                other => other?,
            }
        }
    }

    /// Sends the oldest records; without any, waits for news.
    async fn send_next(&self, news: &mut watch::Receiver<SpoolStats>) -> Result<(), UplinkError> {
        news.mark_unchanged();
        let batch = self
            .ledger
            .next_batch(MAX_BATCH_RECORDS, MAX_BATCH_BYTES)
            .await?;
        if batch.records.is_empty() {
            self.state
                .send_if_modified(|state| state.error.take().is_some());
            let changed = news.changed().await;
            changed.map_err(|_closed| LedgerError::Closed)?;
        }
        self.send(&batch).await
    }

    fn client(&self) -> CollectorClient<Channel> {
        CollectorClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, UplinkError> {
        match timeout(self.pace.deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(UplinkError::Status(Box::new(status))),
            Err(_elapsed) => Err(UplinkError::Deadline),
        }
    }

    fn on_failure(&self, error: &UplinkError) {
        self.count_failure(error);
        self.state.send_modify(|state| state.connected = false);
    }

    fn count_failure(&self, error: &UplinkError) {
        let text = describe(error);
        let is_news = self.state.borrow().error.as_deref() != Some(text.as_str());
        // Once, and not at each attempt of an outage.
        if is_news {
            tracing::warn!(error = %text, "Collector does not take reports.");
        }
        self.state.send_modify(|state| {
            state.failures += 1;
            state.error = Some(text);
        });
    }
}

/// The error with its causes, in the form in which foreign bytes are shown, and bounded.
fn describe(error: &UplinkError) -> String {
    let mut text = error.to_string();
    let mut cause = match error {
        UplinkError::Status(status) => std::error::Error::source(status.as_ref()),
        _ => None,
    };
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    let shown = holdfast_core::display::escape(text.as_bytes());
    shown.chars().take(MAX_ERROR_CHARS).collect()
}

/// A random part of `range`.
fn jitter(range: Duration) -> Duration {
    let share = u32::try_from(super::file::random() >> 32).unwrap_or(u32::MAX);
    range.mul_f64(f64::from(share) / f64::from(u32::MAX))
}
