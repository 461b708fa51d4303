//! The agent's relay against collectors on loopback that lie, are slow, older, or gone: whatever they do, what
//! is kept is what was asked for, and a question that is not answered ends with a reason.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_agent::files::asks::{Ask, AskProgress, Asks, Need};
use holdfast_agent::files::fetch::Remote;
use holdfast_agent::files::tables::Tables;
use holdfast_agent::relay::{Pace, Relay};
use holdfast_agent::telemetry::Metrics;
use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::Limits;
use holdfast_core::layer::skeleton::{Digests, Skeleton, make};
use holdfast_protocol::v1::found::Outcome;
use holdfast_protocol::v1::part::Of;
use holdfast_protocol::v1::relay_server::{Relay as RelayCalls, RelayServer};
use holdfast_protocol::{MAX_PIECE_BYTES, v1};
use holdfast_registry::Blob;
use holdfast_tests::layer::{Entry, Layer};
use holdfast_tests::wait;
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// What a collector says, by call; a call without an answer is never answered.
#[derive(Clone, Default)]
struct Script {
    found: Option<Outcome>,
    pieces: Option<Vec<u8>>,
    wishes: Option<Vec<Vec<u8>>>,
    /// What it was given, and the tables that it was told.
    given: Arc<Mutex<Vec<u8>>>,
    tables: Arc<Mutex<Vec<v1::Table>>>,
    sought: Arc<Mutex<Vec<v1::Sought>>>,
}

#[tonic::async_trait]
impl RelayCalls for Script {
    async fn offer(&self, _: Request<v1::Offers>) -> Result<Response<v1::Wishes>, Status> {
        let is_over = !self.given.lock().unwrap().is_empty();
        let digests = self.wishes.clone().filter(|_| !is_over);
        Ok(Response::new(v1::Wishes {
            digests: digests.unwrap_or_default(),
        }))
    }

    async fn give(&self, piece: Request<v1::Piece>) -> Result<Response<v1::Given>, Status> {
        let mut given = self.given.lock().unwrap();
        given.extend(piece.into_inner().content);
        Ok(Response::new(v1::Given { more: true }))
    }

    async fn seek(&self, sought: Request<v1::Sought>) -> Result<Response<v1::Found>, Status> {
        self.sought.lock().unwrap().push(sought.into_inner());
        match &self.found {
            Some(outcome) => Ok(Response::new(v1::Found {
                outcome: Some(outcome.clone()),
            })),
            None => pending().await,
        }
    }

    async fn take(&self, part: Request<v1::Part>) -> Result<Response<v1::Piece>, Status> {
        let part = part.into_inner();
        let Some(bytes) = &self.pieces else {
            return pending().await;
        };
        let from = usize::try_from(part.offset).unwrap().min(bytes.len());
        let to = from.saturating_add(MAX_PIECE_BYTES).min(bytes.len());
        let Some(Of::Skeleton(digest) | Of::Content(digest)) = part.of else {
            return Err(Status::invalid_argument("nothing"));
        };
        Ok(Response::new(v1::Piece {
            digest,
            offset: part.offset,
            content: bytes[from..to].to_vec(),
        }))
    }

    async fn report_tables(
        &self,
        tables: Request<v1::Tables>,
    ) -> Result<Response<v1::TablesNoted>, Status> {
        let tables = tables.into_inner().tables;
        self.tables.lock().unwrap().extend(tables);
        Ok(Response::new(v1::TablesNoted {}))
    }
}

/// Quick, so that what has to fail by its deadline does not hold a test up.
const PACE: Pace = Pace {
    tick: Duration::from_millis(20),
    again: Duration::from_hours(1),
    deadline: Duration::from_millis(500),
    whole: Duration::from_secs(30),
    under_way: Duration::from_millis(10),
    patience: Duration::from_millis(300),
    away: Duration::from_millis(50),
    unknown: Duration::from_hours(1),
};

struct Node {
    asks: Asks,
    tables: Arc<Tables>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    state: TempDir,
}

impl Node {
    fn of(channel: Channel, mut tasks: JoinSet<()>) -> Self {
        let state = tempfile::tempdir().unwrap();
        let tables = Arc::new(Tables::new(state.path(), None).unwrap());
        let metrics = Metrics::register(&mut Registry::default());
        let (relay, asks) = Relay::new(channel, Arc::clone(&tables), metrics, PACE);
        let (stop, stopped) = watch::channel(false);
        tasks.spawn(async move { relay.run(stopped).await.unwrap() });
        Self {
            asks,
            tables,
            stop,
            tasks,
            state,
        }
    }

    /// A node whose collector is this one.
    async fn with(script: Script) -> Self {
        let mut tasks = JoinSet::new();
        let server = Server::builder().add_service(RelayServer::new(script));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self::of(endpoint.connect_lazy(), tasks)
    }

    /// Asks until there is an answer, and gives the reason when it failed.
    async fn reason(&self, ask: &Ask) -> String {
        wait::until("an answer", async || match self.asks.ask(ask.clone()) {
            AskProgress::UnderWay => None,
            failed @ AskProgress::Failed(_) => Some(failed.to_string()),
        })
        .await
    }

    async fn end(mut self) {
        self.stop.send_replace(true);
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
    }
}

fn skeleton(number: u8) -> Skeleton {
    let layer = Layer::new([Entry::file("a", vec![number; 1000])]);
    let blob: Vec<u8> = layer.blob().to_vec();
    let open = || Ok(blob.as_slice());
    let diff_id = DiffId(layer.diff_id());
    let limits = Limits::default();
    let made = make(open, layer.digest(), diff_id, &limits, Digests::Carried).unwrap();
    made.skeleton.unwrap()
}

fn name(skeleton: &Skeleton) -> Outcome {
    Outcome::Skeleton(v1::SkeletonName {
        diff_id: skeleton.diff_id().0.as_bytes().to_vec(),
        digest: skeleton.digest().as_bytes().to_vec(),
        length: u64::try_from(skeleton.encoded().len()).unwrap(),
    })
}

fn ask(of: &Skeleton, need: Need) -> Ask {
    let digest = Digest::of(b"blob");
    Ask {
        layer: Remote {
            diff_id: of.diff_id(),
            blob: Blob { digest, size: 1 },
            repositories: vec!["registry.example/shop/api".parse().unwrap()],
        },
        need,
    }
}

fn need_skeleton(failed: &[&Skeleton]) -> Need {
    Need::Skeleton {
        failed: failed.iter().map(|skeleton| skeleton.digest()).collect(),
    }
}

fn need_content(content: &[u8]) -> Need {
    Need::Contents {
        skeleton: Digest::of(b"skeleton"),
        contents: vec![(Digest::of(content), u64::try_from(content.len()).unwrap())],
    }
}

#[tokio::test]
async fn a_skeleton_that_comes_is_where_proofs_look_for_it() {
    let skeleton = skeleton(1);
    let script = Script {
        found: Some(name(&skeleton)),
        pieces: Some(skeleton.encoded().to_vec()),
        ..Script::default()
    };
    let sought = Arc::clone(&script.sought);
    let node = Node::with(script).await;
    let question = ask(&skeleton, need_skeleton(&[]));
    drop(node.asks.ask(question));
    let relayed = node.state.path().join("skeletons/relayed");
    let file = relayed.join(holdfast_agent::files::skeletons::name(skeleton.diff_id()));
    wait::until("it is kept", async || file.exists().then_some(())).await;
    assert!(
        node.tables.skeletons().made().unwrap().is_empty(),
        "not made here"
    );
    let sought = sought.lock().unwrap()[0].clone();
    let names = sought.layer.unwrap().repositories;
    assert_eq!(names, ["registry.example/shop/api"]);
    node.end().await;
}

#[tokio::test]
async fn what_a_lying_collector_sends_is_thrown_away_with_a_reason() {
    let (asked, other) = (skeleton(1), skeleton(2));
    let mut damaged = asked.encoded().to_vec();
    damaged[60] ^= 1;
    let too_long = Outcome::Skeleton(v1::SkeletonName {
        diff_id: asked.diff_id().0.as_bytes().to_vec(),
        digest: asked.digest().as_bytes().to_vec(),
        length: u64::MAX,
    });
    let genuine = asked.encoded().to_vec();
    let drips = genuine[..5].to_vec();
    for (found, pieces, failed) in [
        (name(&asked), damaged, vec![]),
        (name(&other), other.encoded().to_vec(), vec![]),
        (name(&asked), drips, vec![]),
        (name(&asked), genuine.clone(), vec![&asked]),
        (too_long, genuine.clone(), vec![]),
        (Outcome::Contents(v1::Contents {}), genuine, vec![]),
    ] {
        let node = Node::with(Script {
            found: Some(found),
            pieces: Some(pieces),
            ..Script::default()
        })
        .await;
        let reason = node.reason(&ask(&asked, need_skeleton(&failed))).await;
        assert!(reason.starts_with("from the collector: "), "{reason}");
        let relayed = node.state.path().join("skeletons/relayed");
        let name = holdfast_agent::files::skeletons::name(asked.diff_id());
        assert!(!relayed.join(name).exists());
        node.end().await;
    }
}

#[tokio::test]
async fn a_content_is_kept_when_it_is_the_one_and_else_not() {
    let asked = skeleton(1);
    for (content, is_kept) in [(b"genuine", true), (b"altered", false)] {
        let node = Node::with(Script {
            found: Some(Outcome::Contents(v1::Contents {})),
            pieces: Some(content.to_vec()),
            ..Script::default()
        })
        .await;
        let question = ask(&asked, need_content(b"genuine"));
        let contents = node.state.path().join("skeletons/relayed/contents");
        if is_kept {
            drop(node.asks.ask(question));
            let file = contents.join(Digest::of(b"genuine").encoded());
            wait::until("it is kept", async || file.exists().then_some(())).await;
        } else {
            let reason = node.reason(&question).await;
            assert!(reason.contains("not what was asked for"), "{reason}");
            assert_eq!(std::fs::read_dir(&contents).unwrap().count(), 0);
        }
        node.end().await;
    }
}

#[tokio::test]
async fn a_collector_that_never_answers_is_a_reason_and_so_is_one_that_never_has_it() {
    let asked = skeleton(1);
    let node = Node::with(Script::default()).await;
    let reason = node.reason(&ask(&asked, need_skeleton(&[]))).await;
    assert_eq!(reason, "from the collector: no answer: no answer in time");
    node.end().await;

    let node = Node::with(Script {
        found: Some(Outcome::UnderWay(v1::UnderWay {})),
        ..Script::default()
    })
    .await;
    let reason = node.reason(&ask(&asked, need_skeleton(&[]))).await;
    assert!(reason.contains("still fetching"), "{reason}");
    node.end().await;

    let node = Node::with(Script {
        found: Some(Outcome::Absent(v1::Absent {
            reason: format!("no\n\u{202e}{}", "x".repeat(10_000)),
        })),
        ..Script::default()
    })
    .await;
    let reason = node.reason(&ask(&asked, need_skeleton(&[]))).await;
    assert!(reason.len() < 300 && reason.contains("no\\x0a"), "{reason}");
    node.end().await;
}

#[tokio::test]
async fn an_older_collector_and_one_that_is_gone_are_told_apart() {
    let asked = skeleton(1);
    let mut tasks = JoinSet::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        let server = Server::builder().add_routes(tonic::service::Routes::default());
        server.serve_with_incoming(incoming).await.unwrap();
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let node = Node::of(endpoint.connect_lazy(), tasks);
    let reason = node.reason(&ask(&asked, need_skeleton(&[]))).await;
    assert!(reason.contains("older"), "{reason}");
    node.end().await;

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let node = Node::of(endpoint.connect_lazy(), JoinSet::new());
    let reason = node.reason(&ask(&asked, need_skeleton(&[]))).await;
    assert!(
        reason.starts_with("from the collector: no answer"),
        "{reason}"
    );
    node.end().await;
}

#[tokio::test]
async fn what_was_made_here_is_given_when_it_is_wanted_and_nothing_else() {
    let (own, other) = (skeleton(1), skeleton(2));
    let wishes = [&other, &own].map(|wish| wish.digest().as_bytes().to_vec());
    let script = Script {
        wishes: Some(wishes.to_vec()),
        ..Script::default()
    };
    let given = Arc::clone(&script.given);
    let node = Node::with(script).await;
    node.tables.skeletons().put_relayed(&other).unwrap();
    node.tables.skeletons().put(&own).unwrap();
    wait::until("it is given", async || {
        (*given.lock().unwrap() == own.encoded()).then_some(())
    })
    .await;
    node.end().await;
}
