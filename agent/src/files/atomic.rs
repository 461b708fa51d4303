//! Files of our own that are there whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use tempfile::{NamedTempFile, TempPath};

/// Writes a file beside its place, makes it durable, and renames it over what was there.
pub(crate) fn write_beside(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut beside = NamedTempFile::new_in(folder)?;
    let mut out = BufWriter::with_capacity(256 << 10, beside.as_file_mut());
    write(&mut out)?;
    out.flush()?;
    drop(out);
    keep(beside, path)
}

/// Makes a file durable that was written beside its place, and renames it over what was there.
pub(crate) fn keep(beside: NamedTempFile, path: &Path) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    beside.as_file().sync_all()?;
    put(beside.into_temp_path(), path)?;
    // The rename itself is durable once the folder is.
    File::open(folder)?.sync_all()
}

/// Marks a file as used now.
pub(crate) fn touch(file: &File) -> io::Result<()> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    Ok(futimens(file, &times)?)
}

/// A directory in the file's place is not ours: it is set aside, or nothing could be written here again.
fn put(beside: TempPath, path: &Path) -> io::Result<()> {
    let beside = match beside.persist(path) {
        Ok(()) => return Ok(()),
        Err(error) if path.is_dir() => error.path,
        Err(error) => return Err(error.error),
    };
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let aside = tempfile::Builder::new()
        .prefix("damaged-")
        .tempdir_in(folder)?;
    fs::rename(path, aside.keep())?;
    beside.persist(path).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_the_files_place_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("somebodys"), "x").unwrap();

        for content in ["first", "second"] {
            write_beside(&path, |out| out.write_all(content.as_bytes())).unwrap();
            let written = holdfast_daemon::capped::read_file(&path, 100).unwrap();
            assert_eq!(written, content.as_bytes());
        }

        let kept = fs::read_dir(folder.path()).unwrap().filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            path.join("somebodys").exists()
        });
        assert_eq!(kept.count(), 1);
    }
}
