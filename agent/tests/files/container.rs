//! A container of the test image: its layers, its upper directory, and the scan of it.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_agent::files::{
    Extent, MAX_ENTRIES, Observer, Pass, Rehash, Root, ScanOutcome, Upper, UpperScan,
};
use holdfast_core::display;
use holdfast_core::drift::Change;
use holdfast_core::drift::policy::Rules;
use holdfast_core::layer::MergedTree;
use holdfast_core::overlay::{Stubs, XattrPrefix};
use jiff::{SignedDuration, Timestamp};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

use super::image::{Layer, image};

pub(crate) struct Container {
    layers: Vec<Layer>,
    tree: MergedTree,
    stubs: Stubs,
    pub(crate) prefix: XattrPrefix,
    directory: TempDir,
    is_mounted: bool,
    scan: UpperScan,
    observer: Observer,
    pub(crate) now: Timestamp,
    pub(crate) max_entries: u64,
    pub(crate) budget: u64,
}

impl Container {
    /// A container whose upper directory the test writes itself.
    pub(crate) fn new() -> Self {
        Self::of(image())
    }

    pub(crate) fn of(layers: Vec<Layer>) -> Self {
        let tree = MergedTree::new(layers.iter().map(|layer| Arc::clone(&layer.tree)).collect());
        let directory = tempfile::tempdir().unwrap();
        for name in ["upper", "work", "merged"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let targets: [&[u8]; 3] = [b"/proc", b"/etc/resolv.conf", b"/srv/volume"];
        Self {
            stubs: Stubs::of_mounts(&targets, &tree).unwrap(),
            layers,
            tree,
            prefix: XattrPrefix::Trusted,
            directory,
            is_mounted: false,
            scan: UpperScan::default(),
            observer: Observer::default(),
            // Past the test's own writes by more than a tick of the clock.
            now: Timestamp::now() + SignedDuration::from_secs(60),
            max_entries: MAX_ENTRIES,
            budget: u64::MAX,
        }
    }

    /// A container whose root the kernel has mounted.
    pub(crate) fn mounted() -> Self {
        Self::mounted_of(image())
    }

    pub(crate) fn mounted_of(layers: Vec<Layer>) -> Self {
        Self::mounted_with(layers, "index=off")
    }

    /// The same with these options.
    pub(crate) fn mounted_with(layers: Vec<Layer>, options: &str) -> Self {
        Self::of(layers).mount(options)
    }

    /// Has the kernel mount what the test has prepared.
    pub(crate) fn mount(mut self, options: &str) -> Self {
        if options.contains("userxattr") {
            self.prefix = XattrPrefix::User;
        }
        let lowers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| layer.path().to_str().unwrap())
            .collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},{options}",
            lowers.join(":"),
            self.upper("").display(),
            self.directory.path().join("work").display()
        );
        let options = CString::new(options).unwrap();
        let root = self.root("");
        mount(
            "overlay",
            &root,
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
        self.is_mounted = true;
        self
    }

    /// A path in the root that the container sees.
    pub(crate) fn root(&self, path: &str) -> PathBuf {
        join(&self.directory.path().join("merged"), path)
    }

    /// A path in the upper directory, its parent directories made as the image has them.
    pub(crate) fn upper(&self, path: &str) -> PathBuf {
        let upper = self.directory.path().join("upper");
        if let Some((parents, _)) = path.rsplit_once('/') {
            fs::create_dir_all(upper.join(parents)).unwrap();
        }
        join(&upper, path)
    }

    pub(crate) fn layer(&self, index: usize) -> &Layer {
        &self.layers[index]
    }

    /// From now on these policies decide.
    pub(crate) fn rule_by(&mut self, rules: &Arc<Rules>) {
        self.scan.rule_by(rules);
    }

    pub(crate) fn scan(&mut self) -> ScanOutcome {
        self.pass(Rehash::Due, &|| false)
    }

    pub(crate) fn pass(&mut self, rehash: Rehash, is_over: &dyn Fn() -> bool) -> ScanOutcome {
        let root = Root::open(&self.upper("")).unwrap();
        let lowers: Vec<Root> = self
            .layers
            .iter()
            .map(|layer| Root::open(layer.path()).unwrap())
            .collect();
        let upper = Upper {
            root: &root,
            extent: Extent::Changes,
            tree: &self.tree,
            lowers: &lowers,
            stubs: &self.stubs,
            prefix: self.prefix,
        };
        let pass = Pass {
            budget: self.budget,
            now: self.now,
            rehash,
            max_entries: self.max_entries,
            is_over,
        };
        self.scan.scan(&upper, &mut self.observer, pass).unwrap()
    }

    /// Everything that one scan finds, worst first.
    pub(crate) fn found(&mut self) -> Vec<String> {
        shown(&self.scan())
    }

    pub(crate) fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.is_mounted {
            unmount(self.root(""), UnmountFlags::DETACH).unwrap();
        }
    }
}

fn join(directory: &Path, path: &str) -> PathBuf {
    if path.is_empty() {
        directory.to_owned()
    } else {
        directory.join(path)
    }
}

/// The whole outcome as sorted lines: `SEVERITY CHANGE CLASS PATH`, and `unverifiable REASON PATH`.
pub(crate) fn shown(outcome: &ScanOutcome) -> Vec<String> {
    let word = |value: serde_json::Value| value.as_str().unwrap().to_owned();
    let change = |change: &Change| {
        format!(
            "{} {} {} {}",
            change.severity,
            word(serde_json::to_value(change.kind).unwrap()),
            word(serde_json::to_value(change.class).unwrap()),
            display::path(&change.path)
        )
    };
    let unread = |(path, reason): &(Vec<u8>, holdfast_agent::files::Unread)| {
        format!("unverifiable {} {}", reason.as_str(), display::path(path))
    };
    let mut lines: Vec<String> = outcome
        .changes
        .iter()
        .map(change)
        .chain(outcome.unverifiable.listed.iter().map(unread))
        .collect();
    lines.sort();
    lines
}
