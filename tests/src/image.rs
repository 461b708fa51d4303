//! Images from a description, written as an OCI layout folder or archive.
//!
//! Digests are worked out here, not taken from the product: they are what its answers are compared with.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use holdfast_core::digest::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command;
use crate::layer::{Entry, Layer};

/// Media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of a config.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A Linux root of one static busybox with all its names, accounts, and the directories that runtimes
/// mount on.
pub static BUSYBOX: LazyLock<Layer> = LazyLock::new(busybox);

/// One image: layers, lowest first, and a config.
#[derive(Clone, Debug)]
pub struct Image {
    layers: Vec<Layer>,
    command: Vec<String>,
    environment: Vec<String>,
    user: String,
    labels: Vec<(String, String)>,
    config: Option<Vec<u8>>,
}

impl Image {
    /// An image of these layers that sleeps for an hour.
    pub fn new(layers: impl IntoIterator<Item = Layer>) -> Self {
        Self {
            layers: layers.into_iter().collect(),
            command: ["/bin/sleep", "3600"].map(str::to_owned).to_vec(),
            environment: vec!["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".to_owned()],
            user: String::new(),
            labels: Vec::new(),
            config: None,
        }
    }

    /// An image of [`BUSYBOX`] and one layer with these entries above it.
    pub fn busybox(entries: impl IntoIterator<Item = Entry>) -> Self {
        Self::new([BUSYBOX.clone(), Layer::new(entries)])
    }

    /// Another command.
    #[must_use]
    pub fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// One more environment variable, `NAME=VALUE`.
    #[must_use]
    pub fn environment(mut self, variable: &str) -> Self {
        self.environment.push(variable.to_owned());
        self
    }

    /// Another user.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// One more label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.to_owned(), value.to_owned()));
        self
    }

    /// These bytes as the config, whatever they are.
    #[must_use]
    pub fn with_config(mut self, config: impl Into<Vec<u8>>) -> Self {
        self.config = Some(config.into());
        self
    }

    /// The layers, lowest first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    fn config_bytes(&self) -> Vec<u8> {
        if let Some(config) = &self.config {
            return config.clone();
        }
        let diff_ids: Vec<String> = self
            .layers
            .iter()
            .map(|l| l.diff_id().to_string())
            .collect();
        let labels: serde_json::Map<String, Value> = self
            .labels
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Cmd": self.command,
                "Env": self.environment,
                "User": self.user,
                "Labels": labels,
            },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        serde_json::to_vec(&config).unwrap()
    }
}

/// What an image's parts hash to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// The manifest.
    pub manifest: Digest,
    /// The config: the image ID.
    pub config: Digest,
    /// The layers' blobs, lowest first.
    pub layers: Vec<Digest>,
    /// The layers' tars, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Digests {
    /// The chain ID of all layers.
    pub fn chain_id(&self) -> Digest {
        let mut stack = self.diff_ids.iter();
        let lowest = *stack.next().expect("an image has a layer");
        stack.fold(lowest, |below, diff_id| {
            Digest::of(format!("{below} {diff_id}").as_bytes())
        })
    }
}

/// An OCI layout folder of its own, removed at the end.
#[derive(Debug)]
pub struct Layout {
    folder: TempDir,
    names: Vec<Value>,
}

impl Default for Layout {
    fn default() -> Self {
        Self::new()
    }
}

impl Layout {
    /// An empty layout.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("holdfast-layout-")
            .tempdir_in("/var/tmp")
            .unwrap();
        std::fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        let version = json!({ "imageLayoutVersion": "1.0.0" }).to_string();
        std::fs::write(folder.path().join("oci-layout"), version).unwrap();
        let layout = Self {
            folder,
            names: Vec::new(),
        };
        layout.write_index();
        layout
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a blob under its digest.
    pub fn put(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let blob = self.path().join("blobs/sha256").join(digest.encoded());
        std::fs::write(blob, bytes).unwrap();
        digest
    }

    /// A blob of the layout.
    pub fn get(&self, digest: Digest) -> Vec<u8> {
        std::fs::read(self.path().join("blobs/sha256").join(digest.encoded())).unwrap()
    }

    /// The descriptor that was named `reference`.
    pub fn named(&self, reference: &str) -> &Value {
        self.names
            .iter()
            .find(|entry| entry["annotations"]["io.containerd.image.name"] == reference)
            .unwrap_or_else(|| panic!("the layout has no {reference}"))
    }

    /// Adds an image under `reference` (`registry/repository:tag`).
    pub fn add(&mut self, image: &Image, reference: &str) -> Digests {
        let (digests, descriptor) = self.put_image(image);
        self.name(descriptor, reference);
        digests
    }

    /// Adds an index with one manifest for each platform (`amd64`, `arm64`, …) under `reference`; gives the
    /// index's digest and those of the images.
    pub fn add_index(
        &mut self,
        images: &[(&str, &Image)],
        reference: &str,
    ) -> (Digest, Vec<Digests>) {
        let mut manifests = Vec::new();
        let mut all = Vec::new();
        for (architecture, image) in images {
            let (digests, mut descriptor) = self.put_image(image);
            descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
            manifests.push(descriptor);
            all.push(digests);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        let descriptor = self.put_json(INDEX, &serde_json::to_vec(&index).unwrap());
        let digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
        self.name(descriptor, reference);
        (digest, all)
    }

    /// Names any descriptor, for documents made by hand.
    pub fn name(&mut self, mut descriptor: Value, reference: &str) {
        let tag = reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        descriptor["annotations"] = json!({
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": tag,
        });
        self.names.push(descriptor);
        self.write_index();
    }

    /// Puts a document and gives its descriptor.
    pub fn put_json(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = self.put(bytes);
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// The layout as one tar file, beside the folder's content.
    pub fn archive(&self) -> PathBuf {
        let archive = self.path().join("archive.tar");
        let folder = self.path().to_str().unwrap();
        let file = archive.to_str().unwrap();
        command::must(
            "tar",
            &[
                "-C",
                folder,
                "-cf",
                file,
                "oci-layout",
                "index.json",
                "blobs",
            ],
        );
        archive
    }

    fn put_image(&self, image: &Image) -> (Digests, Value) {
        let config = image.config_bytes();
        let mut descriptors = Vec::new();
        for layer in &image.layers {
            descriptors.push(self.put_json(layer.media_type(), layer.blob()));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.put_json(CONFIG, &config),
            "layers": descriptors,
        });
        let descriptor = self.put_json(MANIFEST, &serde_json::to_vec(&manifest).unwrap());
        let digests = Digests {
            manifest: descriptor["digest"].as_str().unwrap().parse().unwrap(),
            config: Digest::of(&config),
            layers: image.layers.iter().map(Layer::digest).collect(),
            diff_ids: image.layers.iter().map(Layer::diff_id).collect(),
        };
        (digests, descriptor)
    }

    fn write_index(&self) {
        let index = json!({ "schemaVersion": 2, "manifests": self.names });
        std::fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }
}

fn busybox() -> Layer {
    let program = std::fs::read("/bin/busybox").expect("package busybox-static is installed");
    let mut entries: Vec<Entry> = [
        "bin",
        "sbin",
        "usr",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/local",
        "usr/local/bin",
        "etc",
        "proc",
        "sys",
        "dev",
        "run",
        "root",
        "home",
        "home/app",
        "var",
        "var/log",
        "var/cache",
        "opt",
        "opt/app",
    ]
    .map(Entry::directory)
    .to_vec();
    entries.extend(["tmp", "var/tmp"].map(|path| Entry::directory(path).mode(0o1777)));
    entries.push(Entry::program("bin/busybox", program));
    let names = command::must("/bin/busybox", &["--list"]);
    for name in names.lines().filter(|name| *name != "busybox") {
        entries.push(Entry::symlink(format!("bin/{name}"), "busybox"));
    }
    entries.extend([
        Entry::file(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        ),
        Entry::file(
            "etc/shadow",
            "root:*:19000:0:99999:7:::\napp:*:19000:0:99999:7:::\n",
        )
        .mode(0o640),
        Entry::file("etc/group", "root:x:0:\napp:x:1000:\n"),
        Entry::file("opt/app/app.conf", "mode=safe\n"),
        Entry::program("opt/app/run.sh", "#!/bin/sh\necho original\n"),
        Entry::file("opt/app/data.txt", "one\n"),
    ]);
    Layer::new(entries)
}
