//! Binds a layer's directory to a container by inode: what the mount options say is a hint, what the
//! container sees is not.
//!
//! Both sides are hostile: a layer can hold links to the host, a container can put anything in the way.
//! So no link is followed, no mount is entered, only metadata is read, and no descriptor outlives the
//! call.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::kernel::{
    FileId, KernelError, RootWitness, beneath, is_root_of, look, open_directory, open_root,
    start_time,
};

/// A file that should be the same through the container's root and in a layer's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessFile {
    /// Where, relative to the root. A regular file that no higher layer of the image hides.
    pub path: Vec<u8>,
    /// The layer's directory that it should come from.
    pub lower: PathBuf,
}

/// What a witness file shows about its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The container sees the inode that is in the layer's directory.
    Same,
    /// The container sees another file: the directory is not the one that was mounted.
    Differs,
    /// The container sees no file there, and nothing hides it.
    Missing,
    /// The upper directory, a mount or a link hides it: it says nothing, another must be taken.
    Hidden,
    /// It is not in the layer's directory either: the comparison of layers reports that.
    AbsentBelow,
}

/// Compares each witness file through the root of `root`'s process with its layer's directory.
/// Timestamps and content are not compared here: inode and birth time say which file it is.
pub fn bind_lowers(
    root: RootWitness,
    uppers: &[PathBuf],
    witnesses: &[WitnessFile],
) -> Result<Vec<Binding>, KernelError> {
    let container = pinned_root(root)?;
    witnesses
        .iter()
        .map(|witness| bind(container.as_fd(), uppers, witness))
        .collect()
}

/// Compares files of layers, as they were when they were hashed, with what the process of `root` sees. One
/// that cannot be asked for says nothing about the others.
pub fn bind_hashed(
    root: RootWitness,
    uppers: &[PathBuf],
    files: &[(&[u8], FileId)],
) -> Result<Vec<Result<Binding, KernelError>>, KernelError> {
    let container = pinned_root(root)?;
    let files = files.iter();
    Ok(files
        .map(|(path, file)| seen(container.as_fd(), uppers, path, *file))
        .collect())
}

/// The root of a process, which must be the one that it had.
fn pinned_root(root: RootWitness) -> Result<OwnedFd, KernelError> {
    let container = open_root(root.pid)?;
    if start_time(root.pid)? != root.started {
        return Err(KernelError::Gone);
    }
    if !is_root_of(container.as_fd(), root)? {
        return Err(KernelError::RootMoved);
    }
    Ok(container)
}

fn bind(
    container: BorrowedFd<'_>,
    uppers: &[PathBuf],
    witness: &WitnessFile,
) -> Result<Binding, KernelError> {
    let path = Path::new(OsStr::from_bytes(&witness.path));
    let below = match open_directory(&witness.lower).and_then(|lower| look(lower.as_fd(), path)) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Binding::AbsentBelow),
        Err(errno) => return Err(errno.into()),
    };
    seen(container, uppers, &witness.path, FileId::of(&below))
}

/// What a container sees at a path, against the file that should be there.
fn seen(
    container: BorrowedFd<'_>,
    uppers: &[PathBuf],
    path: &[u8],
    file: FileId,
) -> Result<Binding, KernelError> {
    let path = Path::new(OsStr::from_bytes(path));
    let verdict = match look(container, path) {
        Ok(seen) if FileId::of(&seen).is_same(file) => return Ok(Binding::Same),
        Ok(_) => Binding::Differs,
        Err(Errno::NOENT | Errno::NOTDIR) => Binding::Missing,
        Err(Errno::XDEV | Errno::LOOP) => return Ok(Binding::Hidden),
        Err(errno) => return Err(errno.into()),
    };
    // Last, so that what the container changes while we look counts as hidden, not as another layer.
    for upper in uppers {
        if is_hidden_by(upper, path)? {
            return Ok(Binding::Hidden);
        }
    }
    Ok(verdict)
}

/// Whether an upper directory has the path, or stops the kernel from looking below on the way to it.
fn is_hidden_by(upper: &Path, path: &Path) -> Result<bool, KernelError> {
    let mut directory = open_directory(upper)?;
    let mut names = path.components().peekable();
    while let Some(name) = names.next() {
        let name: &Path = name.as_ref();
        if names.peek().is_none() {
            return Ok(!matches!(look(directory.as_fd(), name), Err(Errno::NOENT)));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match beneath(directory.as_fd(), name, flags) {
            Ok(next) if is_opaque(next.as_fd()) => return Ok(true),
            Ok(next) => directory = next,
            Err(Errno::NOENT) => return Ok(false),
            // A whiteout, a file or a link stands where the layer has a directory.
            Err(_) => return Ok(true),
        }
    }
    Ok(false)
}

fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    [c"trusted.overlay.opaque", c"user.overlay.opaque"]
        .iter()
        .any(|name| {
            let mut value = [0_u8; 1];
            rustix::fs::fgetxattr(directory, *name, &mut value).is_ok()
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Our own root stands for a container's: `lower` is seen through it at its full path.
    fn binding(lower: &Path, seen: &Path, name: &str, upper: &Path) -> Binding {
        let container = open_directory(seen).unwrap();
        let witness = WitnessFile {
            path: name.as_bytes().to_vec(),
            lower: lower.to_owned(),
        };
        bind(container.as_fd(), &[upper.to_owned()], &witness).unwrap()
    }

    #[test]
    fn a_witness_file_binds_a_directory_by_its_inode() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b, upper] = ["a", "b", "u"].map(|name| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.join("bin")).unwrap();
            path
        });
        for root in [&a, &b] {
            std::fs::write(root.join("bin/sh"), "same content").unwrap();
        }
        std::fs::write(a.join("bin/only"), "").unwrap();
        symlink("sh", b.join("bin/only-link")).unwrap();

        assert_eq!(binding(&a, &a, "bin/sh", &upper), Binding::Same);
        assert_eq!(binding(&a, &b, "bin/sh", &upper), Binding::Differs);
        assert_eq!(binding(&a, &b, "bin/only", &upper), Binding::Missing);
        assert_eq!(binding(&b, &a, "bin/none", &upper), Binding::AbsentBelow);
        std::fs::write(upper.join("bin/sh"), "changed").unwrap();
        assert_eq!(binding(&a, &b, "bin/sh", &upper), Binding::Hidden);
    }

    #[test]
    fn a_link_planted_in_a_layer_is_not_followed_to_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let lower = folder.path().join("l");
        std::fs::create_dir(&lower).unwrap();
        symlink("/etc", lower.join("etc")).unwrap();

        assert_eq!(
            binding(&lower, Path::new("/"), "etc/passwd", folder.path()),
            Binding::AbsentBelow
        );
    }
}
