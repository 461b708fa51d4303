//! Tables of layers that are not on the node, from servers on loopback that have the blob, lack it, or lie.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use holdfast_agent::files::fetch::{Fetcher, NotFetched, Remote};
use holdfast_agent::files::fetches::{FetchProgress, Fetches, Keep};
use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::{FileTable, Limits, TableError};
use holdfast_registry::{Access, Allowance, Blob, Client, FetchError};
use holdfast_tests::layer::{Entry, Layer};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A registry that answers every request with these bytes, or 404, and counts.
struct Registry {
    host: String,
    asked: Arc<Mutex<usize>>,
    _serving: JoinSet<()>,
}

impl Registry {
    async fn start(blob: Option<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(0));
        let count = Arc::clone(&asked);
        let app = Router::new().fallback(move |_: Request| {
            *count.lock().unwrap() += 1;
            let mut reply = Response::new(Body::from(blob.clone().unwrap_or_default()));
            if blob.is_none() {
                *reply.status_mut() = StatusCode::NOT_FOUND;
            }
            std::future::ready(reply)
        });
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            host,
            asked,
            _serving: serving,
        }
    }

    fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

fn layer() -> Layer {
    Layer::new([
        Entry::directory("usr"),
        Entry::program("usr/tool", "#!/bin/sh\n"),
        Entry::file("usr/large", vec![7; 300_000]),
    ])
}

fn remote(layer: &Layer, registries: &[&Registry]) -> Remote {
    Remote {
        diff_id: DiffId(layer.diff_id()),
        blob: Blob {
            digest: layer.digest(),
            size: u64::try_from(layer.blob().len()).unwrap(),
        },
        repositories: registries
            .iter()
            .map(|registry| format!("{}/team/app", registry.host).parse().unwrap())
            .collect(),
    }
}

fn fetcher(registries: &[&Registry], bytes_per_hour: u64) -> Fetcher {
    let insecure: BTreeSet<String> = registries
        .iter()
        .map(|registry| registry.host.clone())
        .collect();
    let access = Access {
        insecure,
        ..Access::default()
    };
    let allowance = Allowance::new(NonZeroU64::new(bytes_per_hour).unwrap());
    Fetcher::new(Client::new(access).unwrap(), allowance, Handle::current())
}

async fn table_with(fetcher: Arc<Fetcher>, remote: Remote) -> Result<FileTable, NotFetched> {
    let running = watch::Sender::new(false);
    let stop = running.subscribe();
    tokio::task::spawn_blocking(move || fetcher.table(&remote, &stop))
        .await
        .unwrap()
}

async fn table(remote: Remote, registries: &[&Registry]) -> Result<FileTable, NotFetched> {
    table_with(Arc::new(fetcher(registries, 1 << 30)), remote).await
}

#[tokio::test]
async fn a_table_from_the_registry_is_the_table_of_the_blob() {
    let layer = layer();
    let registry = Registry::start(Some(layer.blob().to_vec())).await;
    let found = table(remote(&layer, &[&registry]), &[&registry])
        .await
        .unwrap();
    let (digest, diff_id) = (layer.digest(), DiffId(layer.diff_id()));
    let due = FileTable::build(layer.blob(), digest, diff_id, &Limits::default()).unwrap();
    assert_eq!(found.encoded(), due.encoded());
}

#[tokio::test]
async fn every_name_of_the_image_is_tried() {
    let layer = layer();
    let without = Registry::start(None).await;
    let with = Registry::start(Some(layer.blob().to_vec())).await;
    let both = [&without, &with];
    assert!(table(remote(&layer, &both), &both).await.is_ok());
    assert!(matches!(
        table(remote(&layer, &[&without]), &both).await,
        Err(NotFetched::Fetch(FetchError::NotFound))
    ));
    assert!(matches!(
        table(remote(&layer, &[]), &both).await,
        Err(NotFetched::NoName)
    ));
}

#[tokio::test]
async fn what_is_not_the_blob_is_the_hosts_fault_and_never_the_images() {
    let layer = layer();
    let mut altered = layer.blob().to_vec();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    let garbage = vec![b'x'; layer.blob().len()];
    let bomb = {
        let mut bomb = Layer::new([Entry::file("zeros", vec![0; 4 << 20])])
            .blob()
            .to_vec();
        bomb.resize(layer.blob().len(), 0);
        bomb
    };
    for lie in [altered, garbage, bomb] {
        let liar = Registry::start(Some(lie)).await;
        let found = table(remote(&layer, &[&liar]), &[&liar]).await;
        assert!(
            matches!(
                found,
                Err(NotFetched::Fetch(FetchError::WrongDigest { .. }))
            ),
            "{found:?}"
        );
        let honest = Registry::start(Some(layer.blob().to_vec())).await;
        let both = [&liar, &honest];
        assert!(table(remote(&layer, &both), &both).await.is_ok());
    }
}

#[tokio::test]
async fn the_blob_itself_is_refused_for_what_it_is() {
    let layer = layer();
    let registry = Registry::start(Some(layer.blob().to_vec())).await;
    let other = Remote {
        diff_id: DiffId(Digest::of(b"another layer")),
        ..remote(&layer, &[&registry])
    };
    match table(other, &[&registry]).await {
        Err(NotFetched::Refused(error)) => {
            assert!(matches!(*error, TableError::DiffId { .. }), "{error}");
        }
        other => assert!(other.is_ok(), "{other:?}"),
    }
    let garbage = layer.with_blob(vec![b'x'; 1000]);
    let registry = Registry::start(Some(garbage.blob().to_vec())).await;
    let found = table(remote(&garbage, &[&registry]), &[&registry]).await;
    assert!(matches!(found, Err(NotFetched::Refused(_))), "{found:?}");
}

#[tokio::test]
async fn what_is_over_the_hours_bytes_is_not_asked_for() {
    let layer = layer();
    let registry = Registry::start(Some(layer.blob().to_vec())).await;
    let size = u64::try_from(layer.blob().len()).unwrap();
    let fetcher = Arc::new(fetcher(&[&registry], size + 1));
    let mut results = Vec::new();
    for _ in 0..2 {
        results.push(table_with(Arc::clone(&fetcher), remote(&layer, &[&registry])).await);
    }
    assert!(results[0].is_ok());
    assert!(matches!(
        results[1],
        Err(NotFetched::Fetch(FetchError::OverAllowance))
    ));
    assert_eq!(registry.asked(), 1);
}

#[tokio::test]
async fn bytes_that_never_came_are_not_counted() {
    let layer = layer();
    let without = Registry::start(None).await;
    let with = Registry::start(Some(layer.blob().to_vec())).await;
    let both = [&without, &with];
    let size = u64::try_from(layer.blob().len()).unwrap();
    let fetcher = Arc::new(fetcher(&both, size + 1));
    assert!(table_with(fetcher, remote(&layer, &both)).await.is_ok());
}

#[tokio::test]
async fn a_fetch_that_nobody_waits_for_ends() {
    let layer = layer();
    let registry = Registry::start(Some(layer.blob().to_vec())).await;
    let (fetcher, remote) = (fetcher(&[&registry], 1 << 30), remote(&layer, &[&registry]));
    let stop = watch::Sender::new(true).subscribe();
    let work = move || fetcher.table(&remote, &stop);
    let found = tokio::task::spawn_blocking(work).await.unwrap();
    assert!(matches!(found, Err(NotFetched::GaveUp)), "{found:?}");
}

/// What a worker kept, one signal a table.
fn keeping() -> (Keep, watch::Receiver<Vec<FileTable>>) {
    let (sender, kept) = watch::channel(Vec::new());
    let keep: Keep = Arc::new(move |table: &FileTable| {
        sender.send_modify(|kept| kept.push(table.clone()));
        Ok(())
    });
    (keep, kept)
}

#[tokio::test]
async fn a_look_names_a_layer_and_finds_its_table_later() {
    let layer = layer();
    let registry = Registry::start(Some(layer.blob().to_vec())).await;
    let (keep, mut kept) = keeping();
    let (fetches, worker) = Fetches::new(fetcher(&[&registry], 1 << 30), keep);
    for _ in 0..3 {
        let asked = fetches.ask(remote(&layer, &[&registry]));
        assert!(matches!(asked, FetchProgress::UnderWay));
    }
    let stop = watch::Sender::new(false);
    let mut running = JoinSet::new();
    running.spawn(worker.run(stop.subscribe()));

    let tables = kept.wait_for(|kept| !kept.is_empty()).await.unwrap();
    assert_eq!(tables[0].diff_id(), DiffId(layer.diff_id()));
    drop(tables);

    stop.send_replace(true);
    running.join_all().await;
    assert_eq!(registry.asked(), 1, "asked for thrice, fetched once");
}

#[tokio::test]
async fn a_failure_is_told_to_who_asks_and_not_tried_again_at_once() {
    let layer = layer();
    let registry = Registry::start(None).await;
    let (keep, kept) = keeping();
    let (fetches, worker) = Fetches::new(fetcher(&[&registry], 1 << 30), keep);
    fetches.ask(remote(&layer, &[&registry]));
    let stop = watch::Sender::new(false);
    let mut running = JoinSet::new();
    running.spawn(worker.run(stop.subscribe()));

    let error = loop {
        if let FetchProgress::Failed(error) = fetches.ask(remote(&layer, &[&registry])) {
            break error;
        }
        tokio::task::yield_now().await;
    };
    assert!(matches!(*error, NotFetched::Fetch(FetchError::NotFound)));
    for _ in 0..3 {
        let again = fetches.ask(remote(&layer, &[&registry]));
        assert!(matches!(again, FetchProgress::Failed(_)));
    }
    stop.send_replace(true);
    running.join_all().await;
    assert_eq!(registry.asked(), 1);
    assert!(kept.borrow().is_empty());
}
