//! Where containerd listens. Only looks: it connects to nothing.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Looked for in this order; documented, because several can be there at once.
const CONTAINERD: &[&str] = &[
    "run/containerd/containerd.sock",
    "run/k3s/containerd/containerd.sock",
    "run/k0s/containerd.sock",
    "var/snap/microk8s/common/run/containerd.sock",
    "run/dockershim.sock",
    "run/host-containerd/containerd.sock",
    "run/docker/containerd/containerd.sock",
];
/// Runtimes that are not containerd: seen and said, never silently left out.
const OTHERS: &[&str] = &["run/crio/crio.sock", "run/podman/podman.sock"];

/// The sockets of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// containerd's, in the order in which they are looked for, each once.
    pub containerd: Vec<PathBuf>,
    /// Of runtimes that are not supported.
    pub unsupported: Vec<PathBuf>,
}

/// A socket file; a new daemon makes a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFile {
    device: u64,
    inode: u64,
    /// An inode number is given again at once; its change time is not.
    changed: (i64, i64),
}

impl SocketFile {
    /// The socket at a path; `None` when there is none.
    pub fn at(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        metadata.file_type().is_socket().then(|| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Looks for sockets below `root` (`/` on a node).
pub fn find(root: &Path) -> Sockets {
    Sockets {
        containerd: each_once(root, CONTAINERD),
        unsupported: each_once(root, OTHERS),
    }
}

/// One daemon can be reached by several paths: links are common here.
fn each_once(root: &Path, paths: &[&str]) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    let mut found = Vec::new();
    for path in paths.iter().map(|path| root.join(path)) {
        let file = SocketFile::at(&path);
        if file.is_some() && !seen.contains(&file) {
            seen.push(file);
            found.push(path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn listen(path: &Path) -> UnixListener {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        UnixListener::bind(path).unwrap()
    }

    #[test]
    fn sockets_are_found_in_order_and_each_once() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let k3s = listen(&at("run/k3s/containerd/containerd.sock"));
        let usual = listen(&at("run/containerd/containerd.sock"));
        let crio = listen(&at("run/crio/crio.sock"));
        symlink(
            at("run/containerd/containerd.sock"),
            at("run/dockershim.sock"),
        )
        .unwrap();
        std::fs::create_dir_all(at("run/k0s")).unwrap();
        std::fs::write(at("run/k0s/containerd.sock"), "no socket").unwrap();

        let found = find(root.path());

        assert_eq!(
            found.containerd,
            [
                at("run/containerd/containerd.sock"),
                at("run/k3s/containerd/containerd.sock")
            ]
        );
        assert_eq!(found.unsupported, [at("run/crio/crio.sock")]);
        drop((k3s, usual, crio));
    }

    #[test]
    fn a_replaced_socket_is_another_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        let first = listen(&path);
        let before = SocketFile::at(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(SocketFile::at(&path), None);
        let second = listen(&path);

        assert_ne!(SocketFile::at(&path), before);
        drop((first, second));
    }
}
