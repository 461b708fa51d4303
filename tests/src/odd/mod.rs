//! Odd and broken images, one for each thing that a layer's archive can do: the corpus on which the product's
//! trees are compared with what containerd unpacks (`tests/e2e/unpack.rs`), and which is replayed without
//! containerd (`tests/replay.rs`).
//!
//! Every archive is made here, byte by byte where need be; nothing is read from a file.

#![expect(clippy::too_many_lines, reason = "lists of cases")]

mod attributes;
mod formats;
mod links;
mod malformed;
mod names;
mod packing;
mod removals;
mod sparse;

use crate::layer::{Entry, Layer};
use crate::rawtar::END;

/// One image.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is about, in words joined by hyphens.
    pub name: &'static str,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// The product may say that it cannot know what comes out.
    pub may_be_unknown: bool,
}

impl Case {
    fn new(name: &'static str, layers: impl IntoIterator<Item = Layer>) -> Self {
        Self {
            name,
            layers: layers.into_iter().collect(),
            may_be_unknown: false,
        }
    }

    /// One layer of entries over a layer with some files, so that it is not the lowest.
    fn over(name: &'static str, entries: impl IntoIterator<Item = Entry>) -> Self {
        Self::new(name, [ground(), Layer::new(entries)])
    }

    /// The same, with the entries as bytes.
    fn bytes_over(name: &'static str, parts: &[Vec<u8>]) -> Self {
        Self::new(name, [ground(), layer_of(parts)])
    }

    /// The entries as the lowest layer.
    fn lowest(name: &'static str, entries: impl IntoIterator<Item = Entry>) -> Self {
        Self::new(name, [Layer::new(entries)])
    }

    fn unknown(mut self) -> Self {
        self.may_be_unknown = true;
        self
    }
}

/// Every image of the corpus.
pub fn cases() -> Vec<Case> {
    [
        formats::cases(),
        names::cases(),
        links::cases(),
        removals::cases(),
        attributes::cases(),
        sparse::cases(),
        packing::cases(),
        malformed::cases(),
    ]
    .concat()
}

/// What the layers of most cases stand on: files, links and owners of every kind.
fn ground() -> Layer {
    Layer::new([
        Entry::directory("usr"),
        Entry::directory("usr/bin"),
        Entry::program("usr/bin/tool", "#!/bin/sh\n"),
        Entry::hardlink("usr/bin/same", "usr/bin/tool").mode(0o755),
        Entry::symlink("bin", "usr/bin"),
        Entry::symlink("absolute", "/usr/bin"),
        Entry::directory("etc")
            .mode(0o2750)
            .owner(10, 20)
            .xattr("user.kept", "1"),
        Entry::file("etc/conf", "safe=yes\n").owner(1, 2),
        Entry::directory("etc/dir").mode(0o1777),
        Entry::file("etc/dir/in", "in"),
        Entry::fifo("pipe"),
        Entry::hardlink("pipe2", "pipe"),
        Entry::symlink("soft", "nowhere"),
        Entry::hardlink("soft2", "soft"),
        Entry::char_device("null", 1, 3).mode(0o666),
    ])
}

/// A layer of these bytes and the end of an archive.
fn layer_of(parts: &[Vec<u8>]) -> Layer {
    Layer::from_tar([parts.concat(), END.to_vec()].concat())
}

/// An ordinary file, as bytes.
fn file(name: &str, content: &str) -> Vec<u8> {
    Entry::file(name, content).to_bytes()
}
