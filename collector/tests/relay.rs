//! The relay's calls against a real collector: who gives, who gets, and what nodes that lie can do.
//!
//! Long because all of it is about one store, and the helpers are its own.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::SocketAddr;

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::Limits;
use holdfast_core::layer::skeleton::{Digests, Skeleton, make};
use holdfast_daemon::tls::TlsFiles;
use holdfast_protocol::v1::found::Outcome;
use holdfast_protocol::v1::part::Of;
use holdfast_protocol::v1::relay_client::RelayClient;
use holdfast_protocol::{MAX_CONTENT_BYTES, MAX_OFFERS, MAX_PIECE_BYTES, v1};
use support::{Running, Site, batch, connect_channel, eventually, finding, finding_record, submit};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

type Client = RelayClient<Channel>;

/// A skeleton of an archive with noise behind its end, about as long as the noise.
fn skeleton(number: u8, length: usize) -> Skeleton {
    let mut noise: Vec<u8> = Vec::new();
    while noise.len() < length {
        let text = [noise.len().to_le_bytes().as_slice(), &[number]].concat();
        noise.extend_from_slice(Digest::of(&text).as_bytes());
    }
    let archive = [vec![0; 1024], noise].concat();
    let digest = Digest::of(&archive);
    let open = || Ok(archive.as_slice());
    let limits = Limits::default();
    let made = make(open, digest, DiffId(digest), &limits, Digests::Carried).unwrap();
    made.skeleton.unwrap()
}

fn bytes(digest: Digest) -> Vec<u8> {
    digest.as_bytes().to_vec()
}

fn name(skeleton: &Skeleton) -> v1::SkeletonName {
    v1::SkeletonName {
        diff_id: bytes(skeleton.diff_id().0),
        digest: bytes(skeleton.digest()),
        length: u64::try_from(skeleton.encoded().len()).unwrap(),
    }
}

async fn node(site: &Site, running: &Running, name: &str) -> Client {
    RelayClient::new(
        connect_channel(running.grpc, site.node(name))
            .await
            .unwrap(),
    )
}

/// Whether a skeleton is wanted from a node.
async fn offer(client: &mut Client, skeleton: &Skeleton) -> bool {
    let skeletons = vec![name(skeleton)];
    let wishes = client.offer(v1::Offers { skeletons }).await.unwrap();
    !wishes.into_inner().digests.is_empty()
}

/// Gives these bytes under a skeleton's name; true when all were taken.
async fn give(client: &mut Client, skeleton: &Skeleton, encoded: &[u8]) -> bool {
    let mut offset = 0;
    for content in encoded.chunks(MAX_PIECE_BYTES) {
        let piece = v1::Piece {
            digest: bytes(skeleton.digest()),
            offset,
            content: content.to_vec(),
        };
        offset += u64::try_from(content.len()).unwrap();
        let is_last = offset == u64::try_from(encoded.len()).unwrap();
        if client.give(piece).await.unwrap().into_inner().more == is_last {
            return false;
        }
    }
    true
}

fn sought(of: &Skeleton, failed: &[Digest]) -> v1::Sought {
    v1::Sought {
        layer: Some(v1::Layer {
            diff_id: bytes(of.diff_id().0),
            blob: bytes(of.diff_id().0),
            size: 1,
            repositories: vec!["registry.example/shop/api".into()],
        }),
        failed: failed.iter().map(|digest| bytes(*digest)).collect(),
        contents: Vec::new(),
    }
}

async fn seek(client: &mut Client, of: &Skeleton, failed: &[Digest]) -> Outcome {
    let found = client.seek(sought(of, failed)).await.unwrap();
    found.into_inner().outcome.unwrap()
}

async fn take(client: &mut Client, name: &v1::SkeletonName) -> Vec<u8> {
    let mut taken = Vec::new();
    while u64::try_from(taken.len()).unwrap() < name.length {
        let part = v1::Part {
            of: Some(Of::Skeleton(name.digest.clone())),
            offset: u64::try_from(taken.len()).unwrap(),
        };
        let piece = client.take(part).await.unwrap().into_inner();
        assert!(!piece.content.is_empty());
        taken.extend(piece.content);
    }
    taken
}

fn is_absent(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Absent(_))
}

#[tokio::test]
async fn a_skeleton_is_wanted_once_from_the_fleet_and_handed_to_every_node() {
    let site = Site::new();
    let running = site.start("").await;
    let mut first = node(&site, &running, "n-1").await;
    let mut second = node(&site, &running, "n-2").await;
    // Several pieces, and a short one at the end.
    let skeleton = skeleton(1, 3 * MAX_PIECE_BYTES);
    assert!(is_absent(&seek(&mut second, &skeleton, &[]).await));

    assert!(offer(&mut first, &skeleton).await);
    assert!(!offer(&mut second, &skeleton).await, "one gives it already");
    assert!(matches!(
        seek(&mut second, &skeleton, &[]).await,
        Outcome::UnderWay(_)
    ));
    assert!(give(&mut first, &skeleton, skeleton.encoded()).await);
    assert!(!offer(&mut second, &skeleton).await, "it is there");

    let found = seek(&mut second, &skeleton, &[]).await;
    assert_eq!(found, Outcome::Skeleton(name(&skeleton)));
    assert_eq!(
        take(&mut second, &name(&skeleton)).await,
        skeleton.encoded()
    );
    running.stop().await;
    let running = site.start("").await;
    let mut second = node(&site, &running, "n-2").await;
    assert_eq!(
        take(&mut second, &name(&skeleton)).await,
        skeleton.encoded()
    );
    assert_eq!(running.metric("holdfast_collector_skeletons").await, 1);
    running.stop().await;
}

#[tokio::test]
async fn what_is_no_skeleton_or_another_one_is_thrown_away_and_not_asked_for_again() {
    let site = Site::new();
    let running = site.start("").await;
    let (one, other) = (skeleton(1, 100), skeleton(2, 100));
    let mut damaged = one.encoded().to_vec();
    damaged[60] ^= 1;
    let mut other = other.encoded().to_vec();
    other.resize(one.encoded().len(), 0);
    let mut liars = Vec::new();
    for (number, wrong) in [damaged, other].iter().enumerate() {
        let mut liar = node(&site, &running, &format!("liar-{number}")).await;
        assert!(offer(&mut liar, &one).await);
        assert!(give(&mut liar, &one, wrong).await);
        assert!(is_absent(&seek(&mut liar, &one, &[]).await));
        assert!(!offer(&mut liar, &one).await);
        liars.push(liar);
    }
    let dropped = "holdfast_collector_skeletons_dropped_total{reason=\"no_skeleton\"}";
    assert_eq!(running.metric(dropped).await, 2);

    let mut honest = node(&site, &running, "n-1").await;
    assert!(offer(&mut honest, &one).await);
    assert!(give(&mut honest, &one, one.encoded()).await);
    assert_eq!(take(&mut liars[0], &name(&one)).await, one.encoded());
    running.stop().await;
}

#[tokio::test]
async fn pieces_that_were_not_asked_for_or_are_out_of_order_are_refused() {
    let site = Site::new();
    let running = site.start("").await;
    let mut client = node(&site, &running, "n-1").await;
    let skeleton = skeleton(1, 2 * MAX_PIECE_BYTES);
    assert!(!give(&mut client, &skeleton, skeleton.encoded()).await);
    assert!(offer(&mut client, &skeleton).await);
    // Shorter than the first piece has to be: it ends here, and what was wanted is no more.
    give(&mut client, &skeleton, &skeleton.encoded()[..10]).await;
    assert!(!give(&mut client, &skeleton, skeleton.encoded()).await);
    assert!(!offer(&mut client, &skeleton).await);
    running.stop().await;
}

#[tokio::test]
async fn a_skeleton_that_fails_on_two_nodes_is_dropped_and_another_node_may_give_one() {
    let site = Site::new();
    let running = site.start("").await;
    let mut source = node(&site, &running, "source").await;
    let skeleton = skeleton(1, 100);
    assert!(offer(&mut source, &skeleton).await);
    assert!(give(&mut source, &skeleton, skeleton.encoded()).await);

    let failed = [skeleton.digest()];
    let mut first = node(&site, &running, "n-1").await;
    // However often one node says it.
    for _ in 0..3 {
        assert!(is_absent(&seek(&mut first, &skeleton, &failed).await));
    }
    let mut second = node(&site, &running, "n-2").await;
    assert!(!is_absent(&seek(&mut second, &skeleton, &[]).await));
    assert!(is_absent(&seek(&mut second, &skeleton, &failed).await));

    assert!(is_absent(&seek(&mut second, &skeleton, &[]).await));
    let dropped = "holdfast_collector_skeletons_dropped_total{reason=\"proof_failed\"}";
    assert_eq!(running.metric(dropped).await, 1);
    let told = running.get("/api/v1/dropped-skeletons").await.1;
    let told = &told["dropped_skeletons"][0];
    assert_eq!(told["node"], "source");
    assert_eq!(told["failed_on"], serde_json::json!(["n-1", "n-2"]));
    assert!(!offer(&mut source, &skeleton).await);
    assert!(offer(&mut second, &skeleton).await);
    running.stop().await;
}

#[tokio::test]
async fn malformed_messages_are_refused_and_nothing_is_kept() {
    let site = Site::new();
    let running = site.start("").await;
    let mut client = node(&site, &running, "n-1").await;
    let one = skeleton(1, 100);
    let refused = async |client: &mut Client, sought| {
        let code = client.seek(sought).await.unwrap_err().code();
        assert_eq!(code, Code::InvalidArgument);
    };
    let with = |change: fn(&mut v1::Sought)| {
        let mut sought = sought(&one, &[]);
        change(&mut sought);
        sought
    };
    refused(&mut client, with(|it| it.layer = None)).await;
    refused(&mut client, with(|it| it.failed = vec![vec![1]])).await;
    refused(&mut client, with(|it| it.failed = vec![vec![1; 32]; 9])).await;
    let names = |it: &mut v1::Sought, names| it.layer.as_mut().unwrap().repositories = names;
    refused(&mut client, {
        let mut it = sought(&one, &[]);
        names(&mut it, vec!["../../etc".into()]);
        it
    })
    .await;
    refused(&mut client, {
        let mut it = sought(&one, &[]);
        names(&mut it, vec!["r.example/a".into(); 5]);
        it
    })
    .await;
    let content = |size| v1::Content {
        digest: vec![1; 32],
        size,
    };
    refused(&mut client, {
        let mut it = sought(&one, &[]);
        it.contents = vec![content(MAX_CONTENT_BYTES), content(1)];
        it
    })
    .await;
    let skeletons = vec![name(&one); MAX_OFFERS + 1];
    let offered = client.offer(v1::Offers { skeletons }).await;
    assert_eq!(offered.unwrap_err().code(), Code::InvalidArgument);
    let piece = v1::Piece {
        digest: vec![1; 32],
        offset: 0,
        content: vec![0; MAX_PIECE_BYTES + 1],
    };
    let given = client.give(piece).await;
    assert_eq!(given.unwrap_err().code(), Code::InvalidArgument);
    running.stop().await;
}

#[tokio::test]
async fn contents_that_cannot_be_had_are_told_with_the_reason() {
    let site = Site::new();
    let none = site.start("").await;
    let mut client = node(&site, &none, "n-1").await;
    let mut asked = sought(&skeleton(1, 100), &[]);
    asked.contents = vec![v1::Content {
        digest: vec![1; 32],
        size: 1,
    }];
    let reason = async |client: &mut Client| {
        let found = client.seek(asked.clone()).await.unwrap().into_inner();
        match found.outcome {
            Some(Outcome::Absent(absent)) => absent.reason,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason(&mut client).await, "the collector reads no registry");
    none.stop().await;

    let other = site
        .start("[registry]\nrepositories = [\"registry.example/other/*\"]\n")
        .await;
    let mut client = node(&site, &other, "n-1").await;
    assert!(reason(&mut client).await.contains("may not read"));
    other.stop().await;
}

/// Calls whose message never comes, on a connection of their own; they end when this is dropped.
async fn stuck_calls(
    address: SocketAddr,
    files: TlsFiles,
    path: &'static str,
    count: usize,
) -> JoinSet<()> {
    let channel = connect_channel(address, files).await.unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let mut client = tonic::client::Grpc::new(channel.clone());
        calls.spawn(async move {
            client.ready().await.unwrap();
            let never = tonic::Request::new(tokio_stream::pending::<v1::Piece>());
            let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
            let codec = tonic_prost::ProstCodec::<v1::Piece, v1::Given>::default();
            let _ended = client.client_streaming(never, path, codec).await.is_err();
        });
    }
    calls
}

#[tokio::test]
async fn findings_pass_while_every_place_of_the_relay_is_taken() {
    let site = Site::new();
    let running = site.start("").await;
    // Messages that are announced and never come, as many as there are places and more.
    let mut stuck = Vec::new();
    for number in 0..20 {
        let files = site.node(&format!("slow-{number}"));
        stuck.push(stuck_calls(running.grpc, files, "/holdfast.v1.Relay/Give", 2).await);
    }
    let mut client = node(&site, &running, "n-1").await;
    eventually("the relay is full", async || {
        let seek = client.seek(sought(&skeleton(1, 10), &[])).await;
        (seek.err()?.code() == Code::ResourceExhausted).then_some(())
    })
    .await;

    let mut agent = support::connect(running.grpc, site.node("n-2"))
        .await
        .unwrap();
    let sent = batch(
        7,
        vec![finding_record(1, &finding("n-2", "c", "usr/bin/evil"))],
    );
    assert_eq!(submit(&mut agent, sent).await, 1);
    drop(stuck);
    running.stop().await;
}
