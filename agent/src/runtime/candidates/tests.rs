//! Resolving targets in a store that is complete, incomplete, altered, or made to be endless.

use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_core::container::ContainerKey;
use holdfast_core::image::MAX_MANIFESTS;
use tokio::sync::mpsc;

use super::*;
use crate::runtime::events::Event;
use crate::runtime::{ContainerRecord, ImageRecord, Mount, Roots, Snapshot, Task};

/// A content store, and nothing else of a runtime.
#[derive(Default)]
struct Store {
    blobs: BTreeMap<Digest, Vec<u8>>,
    reads: AtomicUsize,
}

impl Store {
    fn put(&mut self, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest, bytes);
        digest
    }

    fn config(&mut self, layer: &str) -> Digest {
        let diff_id = Digest::of(layer.as_bytes());
        self.put(format!(
            r#"{{"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
        ))
    }

    fn manifest(&mut self, config: Digest) -> Digest {
        let (config, layer) = (descriptor(config), descriptor(Digest::of(b"gz")));
        self.put(format!(
            r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#
        ))
    }

    fn index(&mut self, below: &[Digest]) -> Digest {
        let below: Vec<_> = below.iter().copied().map(descriptor).collect();
        let below = below.join(",");
        self.put(format!(r#"{{"schemaVersion":2,"manifests":[{below}]}}"#))
    }

    async fn resolve(&self, target: Digest) -> Resolution {
        walk(self, "n", target).await.unwrap()
    }
}

fn descriptor(digest: Digest) -> String {
    format!(r#"{{"mediaType":"x","digest":"{digest}","size":1}}"#)
}

impl Runtime for Store {
    async fn read_blob(&self, _: &str, digest: Digest, limit: u64) -> Result<Vec<u8>, CallError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let bytes = self.blobs.get(&digest).ok_or(CallError::NotFound)?;
        if u64::try_from(bytes.len()).unwrap() > limit {
            return Err(CallError::TooLarge { limit });
        }
        Ok(bytes.clone())
    }

    async fn namespaces(&self) -> Result<Vec<String>, CallError> {
        Err(CallError::NotFound)
    }
    async fn containers(&self, _: &str) -> Result<Vec<ContainerRecord>, CallError> {
        Err(CallError::NotFound)
    }
    async fn container(&self, _: &ContainerKey) -> Result<ContainerRecord, CallError> {
        Err(CallError::NotFound)
    }
    async fn task(&self, _: &ContainerKey) -> Result<Task, CallError> {
        Err(CallError::NotFound)
    }
    async fn chain(&self, _: &str, _: &str, _: &str) -> Result<Vec<Snapshot>, CallError> {
        Err(CallError::NotFound)
    }
    async fn mounts(&self, _: &str, _: &str, _: &str) -> Result<Vec<Mount>, CallError> {
        Err(CallError::NotFound)
    }
    async fn images(&self, _: &str) -> Result<Vec<ImageRecord>, CallError> {
        Err(CallError::NotFound)
    }
    async fn roots(&self) -> Result<Roots, CallError> {
        Err(CallError::NotFound)
    }
    async fn watch(&self, _: mpsc::Sender<Event>) {}
}

#[tokio::test]
async fn an_index_resolves_to_the_images_that_are_there() {
    let mut store = Store::default();
    let config = store.config("a");
    let manifest = store.manifest(config);
    let inner = store.index(&[manifest]);
    let target = store.index(&[Digest::of(b"another platform"), inner]);

    let resolution = store.resolve(target).await;

    let summary = Summary {
        indexes: vec![target, inner],
        manifest,
        config,
        chain: Some(ChainId(Digest::of(b"a"))),
    };
    assert_eq!(resolution.summaries, std::slice::from_ref(&summary));
    assert_eq!(resolution.problems, [Problem::Absent]);
    let image = load(&store, "n", &summary).await.unwrap().unwrap();
    assert_eq!((image.target(), image.config_digest()), (target, config));
}

#[tokio::test]
async fn a_blob_that_does_not_hash_to_its_name_is_nobodys_candidate() {
    let mut store = Store::default();
    let config = store.config("a");
    let manifest = store.manifest(config);
    let summary = store.resolve(manifest).await.summaries.remove(0);
    let evil = store.config("evil");
    let evil = store.blobs[&evil].clone();
    let actual = Digest::of(&evil);
    store.blobs.insert(config, evil);

    let altered = Problem::Altered {
        part: Part::Config,
        digest: config,
        actual,
    };
    let resolution = store.resolve(manifest).await;

    assert_eq!(resolution.summaries, []);
    assert_eq!(resolution.problems, std::slice::from_ref(&altered));
    assert_eq!(load(&store, "n", &summary).await.unwrap(), Err(altered));
}

#[tokio::test]
async fn what_cannot_be_read_is_told_by_name() {
    let mut store = Store::default();
    let junk = store.put("{}");
    let manifest = store.manifest(junk);
    let large = store.put(vec![b' '; usize::try_from(MAX_DOCUMENT_BYTES).unwrap() + 1]);

    for (target, reason) in [
        (junk, "document-malformed"),
        (manifest, "document-malformed"),
        (large, "document-too-large"),
    ] {
        match store.resolve(target).await.problems.as_slice() {
            [Problem::Refused(refusal)] => assert_eq!(refusal.reason(), reason),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn deep_and_wide_indexes_end() {
    let mut store = Store::default();
    let config = store.config("a");
    let mut deep = store.manifest(config);
    for _ in 0..=MAX_INDEX_DEPTH {
        deep = store.index(&[deep]);
    }
    let too_deep = [Problem::Refused(Refusal::TooDeep)];
    assert_eq!(store.resolve(deep).await.problems, too_deep);

    let fan = |store: &mut Store, salt: usize, below: &dyn Fn(usize) -> Digest| {
        let below: Vec<_> = (0..MAX_MANIFESTS).map(|n| below(salt * 1000 + n)).collect();
        store.index(&below)
    };
    let absent = |n: usize| Digest::of(&n.to_be_bytes());
    let inner: Vec<_> = (0..20).map(|salt| fan(&mut store, salt, &absent)).collect();
    let wide = store.index(&inner);
    store.reads.store(0, Ordering::Relaxed);
    let problems = store.resolve(wide).await.problems;
    assert!(problems.ends_with(&too_deep));
    assert!(store.reads.load(Ordering::Relaxed) <= MAX_DOCUMENTS);
}

#[tokio::test]
async fn a_target_is_read_once_until_it_is_asked_for_again() {
    let mut store = Store::default();
    let config = store.config("a");
    let manifest = store.manifest(config);
    let resolver = Resolver::default();
    let ask = async |freshness| {
        resolver
            .resolve(&store, "n", manifest, freshness)
            .await
            .unwrap()
    };

    let first = ask(Freshness::Cached).await;
    let reads = store.reads.load(Ordering::Relaxed);
    assert_eq!(ask(Freshness::Cached).await, first);
    assert_eq!(store.reads.load(Ordering::Relaxed), reads);
    assert_eq!(ask(Freshness::Again).await, first);
    assert!(store.reads.load(Ordering::Relaxed) > reads);
}

#[tokio::test]
async fn documents_that_we_keep_are_looked_at_in_the_store_too() {
    let mut store = Store::default();
    let config = store.config("a");
    let manifest = store.manifest(config);
    let index = store.index(&[manifest]);
    let resolution = store.resolve(index).await;
    let loaded = load(&store, "n", &resolution.summaries[0]).await.unwrap();
    let image = loaded.unwrap();
    assert_eq!(altered(&store, "n", &image).await, Ok(Vec::new()));

    store.blobs.insert(manifest, b"another".to_vec());
    store.blobs.remove(&config); // collected as garbage: nothing is wrong with that
    let found = altered(&store, "n", &image).await.unwrap();
    let due = Problem::Altered {
        part: Part::Manifest,
        digest: manifest,
        actual: Digest::of(b"another"),
    };
    assert_eq!(found, [due]);
}
