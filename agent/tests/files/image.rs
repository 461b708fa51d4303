//! An image as code: what its layers hold, on the disk as a snapshotter unpacks them, and as expected trees.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_core::digest::{ChainId, DiffId, Digest};
use holdfast_core::layer::{Entry, ExpectedTree, Marker, Node};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};
use tempfile::TempDir;

/// One entry of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) path: Vec<u8>,
    pub(crate) entry: Entry,
    pub(crate) content: Vec<u8>,
}

pub(crate) const ELF: &[u8] = b"\x7fELF genuine program";
pub(crate) const EVIL: &[u8] = b"\x7fELF evil program!!!";

fn spec(path: &str, node: Node, mode: u32) -> Spec {
    Spec {
        path: path.into(),
        entry: Entry {
            node,
            mode,
            uid: 0,
            gid: 0,
            xattrs: Vec::new(),
            hard_link: None,
        },
        content: Vec::new(),
    }
}

pub(crate) fn dir(path: &str, mode: u32) -> Spec {
    spec(path, Node::Directory { opaque: false }, mode)
}

pub(crate) fn opaque(path: &str) -> Spec {
    spec(path, Node::Directory { opaque: true }, 0o755).raw_xattr("trusted.overlay.opaque", b"y")
}

pub(crate) fn file(path: &str, content: &[u8], mode: u32) -> Spec {
    let node = Node::File {
        size: content.len().try_into().unwrap(),
        digest: Digest::of(content),
        marker: Marker::of(content),
    };
    Spec {
        content: content.to_vec(),
        ..spec(path, node, mode)
    }
}

pub(crate) fn link(path: &str, target: &str) -> Spec {
    let target = target.into();
    spec(path, Node::Symlink { target }, 0o777)
}

pub(crate) fn whiteout(path: &str) -> Spec {
    spec(path, Node::Whiteout, 0)
}

impl Spec {
    pub(crate) fn owned(mut self, uid: u32, gid: u32) -> Self {
        (self.entry.uid, self.entry.gid) = (uid, gid);
        self
    }

    /// A further name of `first`, which must come before it.
    pub(crate) fn hard_link(mut self, first: &str) -> Self {
        self.entry.hard_link = Some(first.into());
        self
    }

    /// An attribute on the disk that is no part of what is expected.
    fn raw_xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.entry.xattrs.push((name.into(), value.to_vec()));
        self
    }

    /// Makes it below `root`, metadata and all.
    pub(crate) fn make(&self, root: &Path) {
        let at = root.join(OsStr::from_bytes(&self.path));
        let entry = &self.entry;
        match &entry.node {
            Node::File { .. } => match &entry.hard_link {
                Some(first) => {
                    fs::hard_link(root.join(OsStr::from_bytes(first)), &at).unwrap();
                    return;
                }
                None => fs::write(&at, &self.content).unwrap(),
            },
            Node::Directory { .. } if at.is_dir() => {}
            Node::Directory { .. } => fs::create_dir(&at).unwrap(),
            Node::Symlink { target } => symlink(OsStr::from_bytes(target), &at).unwrap(),
            Node::Whiteout => return mknod(&at, FileType::CharacterDevice, 0, 0),
            other => unreachable!("{other:?} is in no test image"),
        }
        lchown(&at, Some(entry.uid), Some(entry.gid)).unwrap();
        if !matches!(entry.node, Node::Symlink { .. }) {
            chmod(&at, entry.mode);
        }
        for (name, value) in &entry.xattrs {
            lsetxattr(&at, name.as_slice(), value, XattrFlags::empty()).unwrap();
        }
    }
}

pub(crate) fn chmod(at: &Path, mode: u32) {
    fs::set_permissions(at, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn chown_to(at: &Path, uid: u32) {
    chown(at, Some(uid), None).unwrap();
}

pub(crate) fn mknod(at: &Path, kind: FileType, major: u32, minor: u32) {
    mknodat(
        CWD,
        at,
        kind,
        Mode::from_raw_mode(0o644),
        makedev(major, minor),
    )
    .unwrap();
}

pub(crate) fn set_xattr(at: &Path, name: &str, value: &[u8]) {
    lsetxattr(at, name, value, XattrFlags::empty()).unwrap();
}

/// One unpacked layer.
#[derive(Debug)]
pub(crate) struct Layer {
    directory: TempDir,
    pub(crate) tree: Arc<ExpectedTree>,
}

impl Layer {
    /// Unpacks a layer; missing parents are directories of mode 0755.
    pub(crate) fn new(specs: &[Spec]) -> Self {
        let mut all = specs.to_vec();
        all.push(dir("", 0o755));
        for spec in specs {
            let ends = spec
                .path
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte == b'/');
            for path in ends.map(|(end, _)| spec.path[..end].to_vec()) {
                let parent = Spec {
                    path,
                    ..dir("", 0o755)
                };
                all.push(parent);
            }
        }
        let key = |spec: &Spec| -> Vec<u8> {
            let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
            spec.path.iter().map(key).collect()
        };
        all.sort_by_key(key); // stable: what the test says comes first
        all.dedup_by_key(|spec| spec.path.clone());
        let directory = tempfile::tempdir().unwrap();
        for spec in &all {
            spec.make(directory.path());
        }
        let entries: Vec<(Vec<u8>, Entry)> = all.into_iter().map(expected).collect();
        let id = Digest::of(b"layer");
        let mut bytes = Vec::new();
        let borrowed = entries.iter().map(|(path, entry)| (path.as_slice(), entry));
        ExpectedTree::write(&mut bytes, ChainId(id), DiffId(id), borrowed).unwrap();
        Self {
            directory,
            tree: Arc::new(ExpectedTree::open(bytes, ChainId(id)).unwrap()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }
}

/// What a tree says about a spec: overlay's own attributes are never in it.
fn expected(spec: Spec) -> (Vec<u8>, Entry) {
    let mut entry = spec.entry;
    entry
        .xattrs
        .retain(|(name, _)| !name.starts_with(b"trusted.overlay."));
    entry.xattrs.sort();
    (spec.path, entry)
}

pub(crate) const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    app:x:1000:1000:app:/home/app:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
pub(crate) const SHADOW: &str = "root:*:19000:0:99999:7:::\napp:*:19000:0:99999:7:::\n";

/// A small image in three layers, topmost first.
pub(crate) fn image() -> Vec<Layer> {
    let base = [
        file("etc/passwd", PASSWD.as_bytes(), 0o644),
        file("etc/shadow", SHADOW.as_bytes(), 0o640).owned(0, 42),
        file("etc/group", b"root:x:0:\nwheel:x:10:\napp:x:1000:\n", 0o644),
        file("etc/profile", b"export PS1='$ '\n", 0o644),
        file("etc/hosts.allow", b"\n", 0o644),
        link("bin", "usr/bin"),
        file("usr/bin/sh", ELF, 0o755),
        dir("tmp", 0o1777),
        dir("var/tmp", 0o1777),
        file("var/log/boot.log", b"", 0o644),
        dir("var/cache/app", 0o755),
        dir("run", 0o755),
        dir("home/app", 0o700).owned(1000, 1000),
    ];
    let payload = [
        file("usr/bin/victim", ELF, 0o755),
        file("usr/bin/suid", ELF, 0o4755),
        file("usr/bin/twin", ELF, 0o4755).hard_link("usr/bin/suid"),
        link("usr/bin/tool", "victim"),
        file("opt/app/bin/server", ELF, 0o755),
        file("opt/app/run.sh", b"#!/bin/sh\necho genuine\n", 0o755),
        file("opt/app/py/__init__.py", b"", 0o644),
        file("opt/app/py/appmod.py", b"MSG = 1\n", 0o644),
        file("opt/app/app.conf", b"mode=safe\n", 0o644),
        file("opt/app/old-secret", b"old\n", 0o600),
        file("opt/app/lib/mod1.txt", b"lib 1\n", 0o644),
        file("opt/app/lib/mod2.txt", b"lib 2\n", 0o644),
        file("opt/app/lib/mod3.txt", b"lib 3\n", 0o644),
        file("opt/app/lib/deep/er/x", b"x\n", 0o644),
    ];
    let third = [
        file("opt/app/app.conf", b"mode=safe\nlevel=2\n", 0o644),
        whiteout("opt/app/old-secret"),
        whiteout("opt/app/lib/mod3.txt"),
    ];
    vec![Layer::new(&third), Layer::new(&payload), Layer::new(&base)]
}
