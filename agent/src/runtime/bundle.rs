//! What the runtime was given: the bundle's own `config.json`, beside containerd's record of the same spec. A
//! wrapper around runc may have added mounts to it; somebody on the node may have added them later, to excuse
//! his own, so a config that is younger than the task's first pid file is not believed.
//!
//! The bundle is found by the kernel: the container's superblock is mounted on its `rootfs`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use holdfast_core::mounts::{Declared, DeclaredMount, Origin};
use holdfast_daemon::capped;

use super::mountinfo::{Device, MountEntry};
use super::spec::{Spec, SpecMount};

/// As large as the message that carries the same spec to containerd.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// The capability that lets a process mount.
const MOUNTS: &str = "CAP_SYS_ADMIN";

/// What a container's spec says about its mounts, from the record and, where it is found and believed, from
/// the bundle. Blocks.
pub(super) fn declared(record: &Spec, id: &str, root: &Place, node: &[MountEntry]) -> Declared {
    let bundle = bundle_of(id, root, node);
    join(record, bundle.and_then(|bundle| config(&bundle)).as_ref())
}

/// Where a container's root is: on `native` the superblock alone is that of half the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its superblock.
    pub(super) device: Device,
    /// Where on that it begins.
    pub(super) top: Vec<u8>,
}

/// The runtime was given the bundle: what only the record has was never mounted.
fn join(record: &Spec, bundle: Option<&Spec>) -> Declared {
    let given = bundle.unwrap_or(record);
    let of_record = |mount: &SpecMount| {
        let mut known = record.mounts.iter();
        known
            .any(|known| (&known.destination, &known.source) == (&mount.destination, &mount.source))
    };
    let mount = |mount: &SpecMount| DeclaredMount {
        destination: mount.destination.clone().into_bytes(),
        kind: mount.kind.clone(),
        options: mount.options.clone(),
        origin: if of_record(mount) {
            Origin::Record
        } else {
            Origin::Bundle
        },
    };
    let bytes = |paths: &[String]| paths.iter().map(|path| path.clone().into_bytes()).collect();
    Declared {
        mounts: given.mounts.iter().map(mount).collect(),
        masked: bytes(&given.linux.masked_paths),
        read_only: bytes(&given.linux.readonly_paths),
        has_terminal: given.process.terminal,
        may_mount: given.process.capabilities.has(MOUNTS),
    }
}

/// The folder with the container's name on whose `rootfs` its root is mounted.
fn bundle_of(id: &str, root: &Place, node: &[MountEntry]) -> Option<PathBuf> {
    let mut named = bundles(id, root.device, node);
    let rootfs = named.find(|entry| entry.root == root.top)?;
    let point = Path::new(OsStr::from_bytes(&rootfs.mount_point));
    point.parent().map(Path::to_owned)
}

/// Where on its superblock the root of the only bundle with this name begins. Names are unique in one
/// containerd namespace alone.
pub(super) fn top_of(id: &str, root: Device, node: &[MountEntry]) -> Option<Vec<u8>> {
    let mut named = bundles(id, root, node);
    let only = named.next()?;
    named
        .all(|other| other.root == only.root)
        .then(|| only.root.clone())
}

/// What the node has mounted of a superblock on the `rootfs` of a folder with the container's name.
fn bundles<'n>(
    id: &str,
    root: Device,
    node: &'n [MountEntry],
) -> impl Iterator<Item = &'n MountEntry> {
    let is_bundle = move |entry: &&MountEntry| {
        let point = Path::new(OsStr::from_bytes(&entry.mount_point));
        let bundle = point.parent();
        point.ends_with("rootfs") && bundle.is_some_and(|bundle| bundle.ends_with(id))
    };
    let own = node.iter().filter(move |entry| entry.device == root);
    own.filter(is_bundle)
}

/// The bundle's config, unless it was written again after the task was made: the runtime leaves its first
/// process's number in `init.pid` once it has read the config.
fn config(bundle: &Path) -> Option<Spec> {
    let path = bundle.join("config.json");
    let changed = |path: &Path| {
        let metadata = path.symlink_metadata().ok()?;
        metadata
            .is_file()
            .then(|| (metadata.ctime(), metadata.ctime_nsec()))
    };
    let before = changed(&path)?;
    let spec = Spec::parse(&capped::read_file(&path, MAX_CONFIG_BYTES).ok()?)?;
    let is_settled = changed(&path) == Some(before) && before <= changed(&bundle.join("init.pid"))?;
    is_settled.then_some(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        Spec::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn the_bundle_decides_and_the_record_tells_who_asked() {
        let record = spec(
            r#"{"mounts":[{"destination":"/data","source":"/vol","options":["rbind"]},{"destination":"/late","source":"/x"}]}"#,
        );
        let bundle = spec(
            r#"{"mounts":[{"destination":"/data","source":"/vol","options":["rbind"]},{"destination":"/usr/bin/smi","source":"/smi"}],
                "process":{"terminal":true,"capabilities":{"bounding":["CAP_SYS_ADMIN"]}},
                "linux":{"maskedPaths":["/proc/keys"],"readonlyPaths":["/proc/sys"]}}"#,
        );

        let both = join(&record, Some(&bundle));
        let mounts: Vec<_> = both
            .mounts
            .iter()
            .map(|mount| (mount.destination.as_slice(), mount.origin))
            .collect();
        assert_eq!(
            mounts,
            [
                (&b"/data"[..], Origin::Record),
                (b"/usr/bin/smi", Origin::Bundle)
            ]
        );
        assert!(both.has_terminal && both.may_mount);
        assert_eq!((both.masked.len(), both.read_only.len()), (1, 1));

        let alone = join(&record, None);
        assert_eq!(alone.mounts.len(), 2);
        assert!(!alone.may_mount);
    }

    #[test]
    fn a_config_that_was_written_after_the_task_was_made_is_not_believed() {
        let bundle = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(bundle.path().join(name), text).unwrap();
        write("config.json", "{}");
        assert_eq!(config(bundle.path()), None);
        write("init.pid", "7");
        assert_eq!(config(bundle.path()), Some(Spec::default()));

        let before = std::fs::metadata(bundle.path().join("init.pid")).unwrap();
        // The clock of a filesystem ticks in milliseconds: write until it has.
        while {
            write("config.json", r#"{"mounts":[]}"#);
            let now = std::fs::metadata(bundle.path().join("config.json")).unwrap();
            (now.ctime(), now.ctime_nsec()) <= (before.ctime(), before.ctime_nsec())
        } {}
        assert_eq!(config(bundle.path()), None);
    }

    #[test]
    fn the_bundle_is_where_the_node_has_the_root_mounted_under_the_containers_name() {
        let entry = |root: &str, point: &str| {
            let line = format!("1 0 0:7 {root} {point} rw - overlay overlay rw");
            MountEntry::parse(line.as_bytes()).unwrap()
        };
        let place = |minor, top: &str| Place {
            device: Device { major: 0, minor },
            top: top.into(),
        };
        let node = [
            entry("/", "/elsewhere/rootfs"),
            entry("/", "/run/c/other"),
            entry("/", "/run/task/c/rootfs"),
        ];
        let bundle = Some(PathBuf::from("/run/task/c"));
        assert_eq!(bundle_of("c", &place(7, "/"), &node), bundle);
        assert_eq!(bundle_of("d", &place(7, "/"), &node), None);
        assert_eq!(bundle_of("c", &place(8, "/"), &node), None);

        // Two containers of one name in two namespaces, their roots on one file system.
        let node = [
            entry("/s/1", "/run/one/c/rootfs"),
            entry("/s/2", "/run/two/c/rootfs"),
        ];
        let device = place(7, "").device;
        let second = Some(PathBuf::from("/run/two/c"));
        assert_eq!(bundle_of("c", &place(7, "/s/2"), &node), second);
        assert_eq!(top_of("c", device, &node), None);
        assert_eq!(top_of("c", device, &node[..1]), Some(b"/s/1".to_vec()));
    }
}
