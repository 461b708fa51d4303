//! What containerd has unpacked: which chains of a stack, and in which directories they are.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use holdfast_core::digest::{ChainId, Digest};
use holdfast_core::layer::Snapshotter;

use crate::command::Failure;
use crate::container::Ctr;
use crate::image::Layout;

static VIEWS: AtomicU32 = AtomicU32::new(0);

/// containerd's name of a snapshotter.
pub const fn name_of(snapshotter: Snapshotter) -> &'static str {
    match snapshotter {
        Snapshotter::Overlayfs => "overlayfs",
        Snapshotter::Native => "native",
    }
}

impl Ctr {
    /// Imports every image of a layout and unpacks none.
    #[track_caller]
    pub fn import_packed(&self, layout: &Layout) {
        let archive = layout.archive();
        let archive = archive.to_str().expect("a path of ours");
        self.must(&["images", "import", "--no-unpack", archive]);
    }

    /// Unpacks an imported image.
    pub fn unpack(&self, snapshotter: Snapshotter, manifest: Digest) -> Result<(), Failure> {
        // The option of the command itself: in front of it, it is not seen.
        let (name, manifest) = (name_of(snapshotter), manifest.to_string());
        self.call(&["snapshots", "unpack", "--snapshotter", name, &manifest])
            .map(|_printed| ())
    }

    /// The directory of an unpacked chain's topmost layer.
    #[track_caller]
    pub fn directory(&self, snapshotter: Snapshotter, chain: ChainId) -> PathBuf {
        // Asked for in one call: a view that nobody refers to may be collected at once.
        let key = format!("view-{}", VIEWS.fetch_add(1, Ordering::Relaxed));
        let chain = chain.0.to_string();
        let mount = self
            .snapshots(snapshotter, &["view", "--target", "/mnt", &key, &chain])
            .unwrap_or_else(|failure| panic!("{failure}"));
        let lower = mount
            .split([',', ' ', '\n'])
            .find_map(|option| option.strip_prefix("lowerdir="));
        let topmost = match lower {
            Some(lower) => lower.split(':').next(),
            // mount -t bind DIRECTORY /mnt -o ...
            None => mount.split_whitespace().nth(3),
        };
        PathBuf::from(topmost.expect("a directory"))
    }

    fn snapshots(&self, snapshotter: Snapshotter, words: &[&str]) -> Result<String, Failure> {
        let mut arguments = vec!["snapshots", "--snapshotter", name_of(snapshotter)];
        arguments.extend(words);
        self.call(&arguments)
    }
}
