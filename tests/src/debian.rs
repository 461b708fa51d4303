//! A Debian root as an image layer: the shape of most real images, with a dynamic loader and Python.
//!
//! `scripts/debian-root` makes it once with mmdebstrap and keeps it in the user's cache folder.

use std::path::PathBuf;

use crate::command;
use crate::layer::{Compression, Layer};

/// The tar of the root; made now where it is not there yet.
pub fn root_tar() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/debian-root");
    // Making it takes longer than other commands may.
    let path = command::must_within(900, script, &[""; 0]);
    PathBuf::from(path.trim())
}

/// The root as a layer. Packed with zstd: gzip would take longer than all else in a test.
pub fn layer() -> Layer {
    Layer::from_tar(std::fs::read(root_tar()).unwrap()).compressed(Compression::Zstd)
}
