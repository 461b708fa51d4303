//! Looking for signatures in real places: servers on loopback that lie in each way, and folders.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../../tests/src/forge.rs"]
#[expect(unreachable_pub, reason = "public in the crate that it belongs to")]
mod forge;
mod liar;

mod flow;
mod folder;
mod mirror;
mod referrer;
mod refused;
mod registry;
mod stream;
mod tls;
mod token;

use holdfast_core::digest::Digest;
use holdfast_core::trust::{Cause, Looked};

use std::path::Path;

/// Writes what `hosts.toml` says of a registry below a `certs.d` folder.
fn write_hosts(certs: &Path, registry: &str, text: &str) {
    let folder = certs.join(registry);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("hosts.toml"), text).unwrap();
}

/// The image whose signatures are looked for.
fn subject() -> Digest {
    Digest::of(b"the image's manifest")
}

/// How many objects were found, and why the rest was not.
fn told(looked: &Looked) -> (usize, Vec<Cause>) {
    let causes = looked.missed().iter().map(|missed| missed.cause).collect();
    (looked.objects().len(), causes)
}
