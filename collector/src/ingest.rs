//! THE MAIN LOOP of the collector, one call at a time: authenticate the node, parse at the door, commit,
//! confirm.
//!
//! No field of a message says who sent it: the node's name comes from the certificate of the connection.
//! Nothing is confirmed before its commit. A record that is refused is counted and confirmed with the
//! others: one bad record must not hold up its node's spool for ever.

mod door;
mod listen;
mod relay;

use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::{MAX_MESSAGE_BYTES, v1};
use jiff::Timestamp;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

pub use self::listen::{BindError, Listener, Peer};
use crate::commit::{Queue, Work};
use crate::nodes::{Beat, Fleet, Tables};
use crate::relay::Relay;
use crate::telemetry::{LogLimit, Metrics};

/// A call that takes longer is given up; the agent sends its batch again.
const CALL: Duration = Duration::from_secs(30);

/// Streams of one connection: a batch and a heartbeat at a time, and room for retries.
const MAX_STREAMS: u32 = 8;

/// Calls of one connection that are worked on at a time.
const MAX_CALLS: usize = 4;

/// Calls of all connections that are worked on at a time: each may hold a message of 4 MiB.
const MAX_ALL_CALLS: usize = 128;

/// Our agents send about 200 bytes of headers.
const MAX_HEADER_BYTES: u32 = 8 << 10;

/// Resets that a client may leave pending (the "rapid reset" attack of HTTP/2).
const MAX_PENDING_RESETS: usize = 16;

/// A connection without traffic is asked for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// A certificate is checked when a connection begins, so connections must end: this is how long a
/// withdrawn certificate lives on.
const MAX_CONNECTION_AGE: Duration = Duration::from_mins(10);

/// What the calls work with.
#[derive(Clone, Debug)]
pub struct Ingest {
    queue: Queue,
    fleet: Arc<Fleet>,
    tables: Arc<Tables>,
    relay: Relay,
    metrics: Metrics,
    refusals: Arc<LogLimit>,
    conflicts: Arc<LogLimit>,
}

impl Ingest {
    /// The service behind a listener.
    pub fn new(
        queue: Queue,
        (fleet, tables): (Arc<Fleet>, Arc<Tables>),
        relay: Relay,
        metrics: Metrics,
    ) -> Self {
        Self {
            queue,
            fleet,
            tables,
            relay,
            metrics,
            refusals: Arc::default(),
            conflicts: Arc::default(),
        }
    }

    /// The node behind a call, by the certificate of its connection.
    fn node<T>(request: &Request<T>) -> Result<Arc<str>, Status> {
        request
            .extensions()
            .get::<Peer>()
            .and_then(|peer| peer.node.clone())
            .ok_or_else(|| Status::permission_denied("the client certificate names no node"))
    }

    fn heard(&self, node: &str, epoch: u64) {
        let now = Instant::now();
        if !self.fleet.heard(node, epoch, now, Timestamp::now()) {
            return;
        }
        self.metrics.epoch_conflicts.inc();
        if let Some(held_back) = self.conflicts.pass(now) {
            tracing::warn!(%node, held_back, "Two spools of one node report in turn.");
        }
    }

    fn on_refused(&self, node: &str, refused: &[door::Refusal]) {
        let Some(first) = refused.first() else { return };
        for refusal in refused {
            self.metrics.refused(refusal.reason, 1);
        }
        if let Some(held_back) = self.refusals.pass(Instant::now()) {
            tracing::warn!(
                %node,
                count = refused.len(),
                sequence = first.sequence,
                reason = first.reason.as_str(),
                held_back,
                "Records are refused and not stored."
            );
        }
    }
}

#[tonic::async_trait]
impl v1::collector_server::Collector for Ingest {
    async fn submit(
        &self,
        request: Request<v1::Batch>,
    ) -> Result<Response<v1::Confirmation>, Status> {
        let arrived = Instant::now();
        // (1) Who sends it.
        let node = Self::node(&request)?;
        // (2) What it says, and whether that node may say it.
        let (batch, refused) = door::batch(&node, request.into_inner())
            .map_err(|refusal| Status::invalid_argument(refusal.to_string()))?;
        let epoch = batch.epoch;
        self.heard(&node, epoch);
        self.on_refused(&node, &refused);
        // (3) Stored, or not confirmed.
        let applied = self
            .queue
            .submit(Work::Batch(batch))
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        self.fleet.reported(&node, epoch, &applied);
        self.metrics
            .ingest_duration
            .observe(arrived.elapsed().as_secs_f64());
        // (4)
        Ok(Response::new(v1::Confirmation {
            sequence: applied.confirmed,
        }))
    }

    async fn beat(
        &self,
        request: Request<v1::Heartbeat>,
    ) -> Result<Response<v1::BeatReply>, Status> {
        let node = Self::node(&request)?;
        let beat = request.into_inner();
        door::epoch(beat.epoch).map_err(|refusal| Status::invalid_argument(refusal.to_string()))?;
        self.heard(&node, beat.epoch);
        let full_report = self
            .fleet
            .beat(&node, beat.epoch, Beat::from(&beat), Instant::now());
        Ok(Response::new(v1::BeatReply { full_report }))
    }
}

/// The gRPC server with its limits.
fn server(ingest: Ingest) -> v1::collector_server::CollectorServer<Ingest> {
    v1::collector_server::CollectorServer::new(ingest).max_decoding_message_size(MAX_MESSAGE_BYTES)
}
