//! Debian's docker-registry on loopback, with a filesystem store in a folder of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_core::digest::Digest;
use reqwest::Url;
use serde_json::Value;
use tempfile::TempDir;

use crate::http;
use crate::image::{self, Layout};
use crate::process::Process;

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    process: Process,
    address: SocketAddr,
    folder: TempDir,
}

impl Registry {
    /// Starts an empty one.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("holdfast-registry-")
            .tempdir_in("/var/tmp")
            .unwrap();
        Self::serve(folder, "").await
    }

    /// The same store, served anew with this `auth` section: who pushes does so before.
    pub async fn guarded(self, auth: &str) -> Self {
        let Self {
            mut process,
            folder,
            ..
        } = self;
        process.stop().await;
        Self::serve(folder, auth).await
    }

    /// A folder of its own, for files that an `auth` section names.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    async fn serve(folder: TempDir, auth: &str) -> Self {
        let at = folder.path().display();
        let config = format!(
            "version: 0.1\n\
             storage:\n  filesystem:\n    rootdirectory: {at}/store\n  delete:\n    enabled: true\n\
             http:\n  addr: 127.0.0.1:0\n{auth}"
        );
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(file);
        let mut process = Process::start("registry", &mut command, &folder.path().join("log"));
        let address = process.address().await;
        Self {
            process,
            address,
            folder,
        }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The full reference of `repository:tag` here.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Its process, to stop or kill it.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its log: which requests were made.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// The file of a blob in its store.
    pub fn blob(&self, digest: Digest) -> PathBuf {
        let hex = digest.encoded();
        self.folder
            .path()
            .join("store/docker/registry/v2/blobs/sha256")
            .join(hex.get(..2).expect("64 digits"))
            .join(hex)
            .join("data")
    }

    /// Pushes the image or index that `layout` has under `reference` (of [`Layout::add`]) as
    /// `repository:tag`, byte for byte, and gives its digest.
    pub async fn push(&self, layout: &Layout, reference: &str, name: &str) -> Digest {
        let (repository, tag) = name.rsplit_once(':').expect("repository:tag");
        let top = layout.named(reference);
        self.push_document(layout, repository, top, tag).await;
        digest_of(top)
    }

    /// Pushes one manifest or index with all that it names; `under` is its tag or digest.
    async fn push_document(&self, layout: &Layout, repository: &str, top: &Value, under: &str) {
        let bytes = layout.get(digest_of(top));
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        for child in array(&document["manifests"]) {
            let digest = digest_of(child).to_string();
            Box::pin(self.push_document(layout, repository, child, &digest)).await;
        }
        let config = Some(&document["config"]).filter(|config| config.is_object());
        for blob in config.into_iter().chain(array(&document["layers"])) {
            self.put_blob(repository, &layout.get(digest_of(blob)))
                .await;
        }
        self.put_manifest(repository, under, top["mediaType"].as_str().unwrap(), bytes)
            .await;
    }

    /// The manifest or index under a tag or digest, as it is served.
    pub async fn manifest(&self, repository: &str, under: &str) -> Vec<u8> {
        let url = format!("http://{}/v2/{repository}/manifests/{under}", self.address);
        let accept = format!("{}, {}", image::MANIFEST, image::INDEX);
        let request = http::client().get(&url).header("accept", accept);
        let response = request.send().await.unwrap();
        assert!(
            response.status().is_success(),
            "{url}: {}",
            response.status()
        );
        response.bytes().await.unwrap().to_vec()
    }

    /// Puts a manifest under a tag or digest.
    pub async fn put_manifest(
        &self,
        repository: &str,
        under: &str,
        media_type: &str,
        bytes: Vec<u8>,
    ) {
        let url = format!("http://{}/v2/{repository}/manifests/{under}", self.address);
        let request = http::client().put(&url).header("content-type", media_type);
        let response = request.body(bytes).send().await.unwrap();
        let status = response.status();
        let said = response.text().await.unwrap();
        assert!(status.is_success(), "{url}: {status}: {said}");
    }

    /// Puts a blob under its digest.
    pub async fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let start = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let response = http::client().post(&start).send().await.unwrap();
        let upload = response.headers()["location"].to_str().unwrap();
        let finish = [("digest", digest.to_string())];
        let upload = Url::parse_with_params(upload, &finish).unwrap();
        let request = http::client().put(upload.clone()).body(bytes.to_vec());
        let response = request.send().await.unwrap();
        assert!(
            response.status().is_success(),
            "{upload}: {}",
            response.status()
        );
        digest
    }
}

fn digest_of(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().unwrap().parse().unwrap()
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
