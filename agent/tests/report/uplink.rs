//! The uplink against a real gRPC server on loopback that answers as a test wants.
//!
//! Long because each case is an exchange with a server that behaves in its own way.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_agent::report::{Pace, Uplink, UplinkState, Vitals};
use holdfast_core::finding::Finding;
use holdfast_protocol::v1::collector_server::{Collector, CollectorServer};
use holdfast_protocol::v1::{self, record::Body};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::support::{Open, at, findings, key, named, open, reports};

/// What the collector does with a batch.
enum Reply {
    Confirm(u64),
    Refuse(Status),
    Never,
}

type Answer = dyn Fn(&v1::Batch) -> Reply + Send + Sync;

/// A collector that hands on what it gets and answers as it is told.
#[derive(Clone)]
struct Scripted {
    answer: Arc<Mutex<Arc<Answer>>>,
    wants_report: watch::Receiver<bool>,
    batches: mpsc::Sender<v1::Batch>,
    beats: mpsc::Sender<v1::Heartbeat>,
}

#[tonic::async_trait]
impl Collector for Scripted {
    async fn submit(
        &self,
        request: Request<v1::Batch>,
    ) -> Result<Response<v1::Confirmation>, Status> {
        let batch = request.into_inner();
        let answer = Arc::clone(&self.answer.lock().unwrap());
        let answer = answer(&batch);
        self.batches.send(batch).await.unwrap();
        match answer {
            Reply::Confirm(sequence) => Ok(Response::new(v1::Confirmation { sequence })),
            Reply::Refuse(status) => Err(status),
            Reply::Never => pending().await,
        }
    }

    async fn beat(
        &self,
        request: Request<v1::Heartbeat>,
    ) -> Result<Response<v1::BeatReply>, Status> {
        // A test that reads no heartbeats is not held up by them.
        drop(self.beats.try_send(request.into_inner()));
        let full_report = *self.wants_report.borrow();
        Ok(Response::new(v1::BeatReply { full_report }))
    }
}

/// A collector and an uplink to it.
struct Fixture {
    answer: Arc<Mutex<Arc<Answer>>>,
    wants_report: watch::Sender<bool>,
    batches: mpsc::Receiver<v1::Batch>,
    beats: mpsc::Receiver<v1::Heartbeat>,
    vitals: watch::Sender<Vitals>,
    state: watch::Receiver<UplinkState>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Quick, so that a test that has to see a retry does not wait for one.
const PACE: Pace = Pace {
    start: Duration::ZERO,
    first_retry: Duration::from_millis(5),
    last_retry: Duration::from_millis(50),
    heartbeat: Duration::from_millis(20),
    deadline: Duration::from_secs(30),
    after_refusals: Duration::from_hours(1),
};

fn confirm_all(batch: &v1::Batch) -> Reply {
    Reply::Confirm(batch.records.last().unwrap().sequence)
}

async fn serve(collector: Scripted, tasks: &mut JoinSet<()>) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let service = CollectorServer::new(collector);
        let incoming = TcpListenerStream::new(listener);
        let server = Server::builder().add_service(service);
        server.serve_with_incoming(incoming).await.unwrap();
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_lazy()
}

async fn start(open: &Open, pace: Pace, answer: Arc<Answer>) -> Fixture {
    let answer = Arc::new(Mutex::new(answer));
    let (wants_report, wanted) = watch::channel(false);
    let (batches_in, batches) = mpsc::channel(1000);
    let (beats_in, beats) = mpsc::channel(1000);
    let collector = Scripted {
        answer: Arc::clone(&answer),
        wants_report: wanted,
        batches: batches_in,
        beats: beats_in,
    };
    let mut tasks = JoinSet::new();
    let channel = serve(collector, &mut tasks).await;
    let (vitals, vitals_seen) = watch::channel(Vitals::default());
    let now = || at(99);
    let (uplink, state) = Uplink::new(open.ledger.clone(), channel, vitals_seen, pace, now);
    let (stop, stopped) = watch::channel(false);
    tasks.spawn(async move { uplink.run(stopped).await.unwrap() });
    Fixture {
        answer,
        wants_report,
        batches,
        beats,
        vitals,
        state,
        stop,
        tasks,
    }
}

impl Fixture {
    fn answer(&self, answer: impl Fn(&v1::Batch) -> Reply + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Arc::new(answer);
    }

    async fn batch(&mut self) -> v1::Batch {
        self.batches.recv().await.unwrap()
    }

    async fn until(&mut self, condition: impl FnMut(&UplinkState) -> bool) -> UplinkState {
        self.state.wait_for(condition).await.unwrap().clone()
    }
}

fn sequences(batch: &v1::Batch) -> Vec<u64> {
    batch.records.iter().map(|record| record.sequence).collect()
}

fn documents(batch: &v1::Batch) -> Vec<Finding> {
    batch
        .records
        .iter()
        .filter_map(|record| match &record.body {
            Some(Body::Finding(json)) => Some(Finding::parse(json).unwrap()),
            _ => None,
        })
        .collect()
}

async fn until_empty(open: &Open) {
    let mut stats = open.ledger.stats();
    stats.wait_for(|stats| stats.records == 0).await.unwrap();
}

#[tokio::test]
async fn what_is_confirmed_leaves_the_spool() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    let found = open.look("c", &["a", "b"]).await;
    let mut link = start(&open, PACE, Arc::new(confirm_all)).await;

    let batch = link.batch().await;
    assert_eq!(Some(batch.epoch), open.opened.epoch);
    assert_eq!(sequences(&batch), [1, 2]);
    assert_eq!(documents(&batch), found);
    until_empty(&open).await;
    let state = link.until(|state| state.confirmed_records == 2).await;
    assert!(state.connected);
    assert_eq!(state.last_confirmed, Some(at(99)));

    open.look("c", &["a"]).await;
    assert_eq!(sequences(&link.batch().await), [3]);
    link.stop.send(true).unwrap();
}

#[tokio::test]
async fn what_is_not_confirmed_is_sent_again_oldest_first() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    open.look("c", &["a", "b"]).await;
    let unavailable = |_: &v1::Batch| Reply::Refuse(Status::unavailable("store is full"));
    let mut link = start(&open, PACE, Arc::new(unavailable)).await;
    assert_eq!(sequences(&link.batch().await), [1, 2]);
    let state = link.until(|state| state.failures > 0).await;
    assert!(!state.connected);
    assert!(state.error.unwrap().contains("store is full"));
    open.look("c", &["a", "b", "c"]).await;
    assert_eq!(open.ledger.stats().borrow().records, 3);

    link.answer(confirm_all);

    let taken = loop {
        let batch = link.batch().await;
        assert_eq!(batch.records[0].sequence, 1, "the oldest first, always");
        if batch.records.len() == 3 {
            break batch;
        }
    };
    assert_eq!(sequences(&taken), [1, 2, 3]);
    until_empty(&open).await;
    link.until(|state| state.connected && state.error.is_none())
        .await;
}

#[tokio::test]
async fn only_the_confirmed_part_of_a_batch_leaves() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    open.look("c", &["a", "b", "c"]).await;
    let first_only = |batch: &v1::Batch| Reply::Confirm(batch.records[0].sequence);
    let mut link = start(&open, PACE, Arc::new(first_only)).await;
    assert_eq!(sequences(&link.batch().await), [1, 2, 3]);
    assert_eq!(sequences(&link.batch().await), [2, 3]);
    assert_eq!(sequences(&link.batch().await), [3]);
    until_empty(&open).await;
}

#[tokio::test]
async fn a_confirmation_of_nothing_deletes_nothing() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    open.look("c", &["a"]).await;
    let mut link = start(&open, PACE, Arc::new(|_: &v1::Batch| Reply::Confirm(0))).await;
    link.until(|state| state.failures > 1).await;
    assert_eq!(open.ledger.stats().borrow().records, 1);
}

#[tokio::test]
async fn a_confirmation_beyond_what_was_sent_deletes_only_what_was_sent() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    open.look("c", &["a"]).await;
    let everything = |_: &v1::Batch| Reply::Confirm(u64::MAX);
    let mut link = start(&open, PACE, Arc::new(everything)).await;
    assert_eq!(sequences(&link.batch().await), [1]);
    until_empty(&open).await;
    open.look("c", &["a", "b"]).await;
    assert_eq!(sequences(&link.batch().await), [2]);
}

#[tokio::test]
async fn one_poison_record_is_set_aside_and_the_others_are_delivered() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    let subjects: Vec<String> = (1..=100).map(|number| format!("s{number:03}")).collect();
    let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
    open.look("c", &subjects).await;
    let taken = Arc::new(Mutex::new(Vec::<u64>::new()));
    let stored = Arc::clone(&taken);
    let poison = move |batch: &v1::Batch| {
        let numbers = sequences(batch);
        if numbers.contains(&37) {
            return Reply::Refuse(Status::invalid_argument("record 37"));
        }
        stored.lock().unwrap().extend(&numbers);
        confirm_all(batch)
    };
    let mut link = start(&open, PACE, Arc::new(poison)).await;

    until_empty(&open).await;
    let uplink = link.until(|state| state.refused_records == 1).await;
    assert_eq!(uplink.failures, 0, "a poison record is no outage");
    let due: Vec<u64> = (1..=100).filter(|number| *number != 37).collect();
    assert_eq!(*taken.lock().unwrap(), due);
    let stats = open.ledger.stats().borrow().clone();
    assert_eq!((stats.refused, stats.dropped), (1, 1));
}

#[tokio::test]
async fn a_collector_that_refuses_everything_does_not_empty_the_spool_at_once() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    let subjects: Vec<String> = (0..40).map(|number| format!("s{number}")).collect();
    let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
    open.look("c", &subjects).await;
    let refuse = |_: &v1::Batch| Reply::Refuse(Status::invalid_argument("no"));
    let mut link = start(&open, PACE, Arc::new(refuse)).await;
    link.until(|state| state.failures == 1).await;
    assert_eq!(open.ledger.stats().borrow().records, 32);
    assert!(link.state.borrow().connected);
    while link.beats.try_recv().is_ok() {}
    link.beats.recv().await.unwrap();
}

#[tokio::test]
async fn a_collector_that_never_answers_is_given_up_at_the_deadline() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    open.look("c", &["a"]).await;
    let pace = Pace {
        deadline: Duration::from_millis(50),
        ..PACE
    };
    let mut link = start(&open, pace, Arc::new(|_: &v1::Batch| Reply::Never)).await;
    let state = link.until(|state| state.failures > 0).await;
    assert!(state.error.unwrap().contains("no answer in time"));
    link.answer(confirm_all);
    until_empty(&open).await;
}

#[tokio::test]
async fn heartbeats_go_on_while_a_batch_waits_for_its_answer() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    open.look("c", &["a"]).await;
    let mut link = start(&open, PACE, Arc::new(|_: &v1::Batch| Reply::Never)).await;
    link.batch().await;
    link.vitals.send_replace(Vitals {
        containers: 3,
        not_ready: "containerd is away".into(),
    });
    let beat = loop {
        let beat = link.beats.recv().await.unwrap();
        if beat.containers == 3 {
            break beat;
        }
    };
    assert_eq!(Some(beat.epoch), open.opened.epoch);
    assert_eq!((beat.spool_records, beat.dropped_records), (1, 0));
    assert_eq!(beat.not_ready, "containerd is away");
}

#[tokio::test]
async fn a_collector_that_asks_gets_a_full_report() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    open.look("c", &["a"]).await;
    open.ledger
        .full_report(vec![key("c")], at(0))
        .await
        .unwrap();
    let mut link = start(&open, PACE, Arc::new(confirm_all)).await;
    until_empty(&open).await;
    while link.batches.try_recv().is_ok() {}

    link.wants_report.send_replace(true);
    let mut stats = open.ledger.stats();
    stats.wait_for(|stats| stats.full_report_due).await.unwrap();
    link.wants_report.send_replace(false);
    open.ledger
        .full_report(vec![key("c")], at(1))
        .await
        .unwrap();

    let batch = link.batch().await;
    assert_eq!(documents(&batch).len(), 1);
    let Some(Body::Full(report)) = &batch.records.last().unwrap().body else {
        panic!("the report comes last");
    };
    assert_eq!(named(report), 1);
}

#[tokio::test]
async fn an_uplink_ends_when_it_is_told_to_even_without_a_collector() {
    let directory = TempDir::new().unwrap();
    let open = open(directory.path());
    open.look("c", &["a"]).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy();
    let (_vitals, vitals) = watch::channel(Vitals::default());
    let (uplink, mut state) = Uplink::new(open.ledger.clone(), channel, vitals, PACE, || at(0));
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(uplink.run(stopped));
    state.wait_for(|state| state.failures > 1).await.unwrap();
    assert!(!state.borrow().connected);
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
    assert_eq!(findings(&open.waiting().await).len(), 1);
}

#[tokio::test]
async fn a_restarted_agent_sends_the_same_sequences_again_and_goes_on() {
    let directory = TempDir::new().unwrap();
    let before = open(directory.path());
    before.look("c", &["a", "b"]).await;
    // It stored them, but its answer never arrives.
    let mut link = start(&before, PACE, Arc::new(|_: &v1::Batch| Reply::Never)).await;
    let stored = link.batch().await;
    link.tasks.shutdown().await;
    drop(link);
    let after = before.crash(directory.path());

    let after = open(after.path());
    let mut link = start(&after, PACE, Arc::new(confirm_all)).await;
    assert_eq!(
        link.batch().await,
        stored,
        "the same records under the same numbers"
    );
    until_empty(&after).await;
    after.look("c", &["a", "b", "c"]).await;
    assert_eq!(sequences(&link.batch().await), [3]);
    assert_eq!(reports(&after.waiting().await), []);
}
