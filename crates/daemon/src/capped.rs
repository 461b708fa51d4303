//! Reads that end at a limit. Everything that reads a whole file or stream goes through here: an
//! unbounded read is how a large file becomes our out-of-memory kill. And opens that never wait: a FIFO
//! in a file's place would hold its reader until somebody writes, which is for ever.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};

/// `O_NONBLOCK`, because the type is known only once it is open; `O_NOCTTY`, because a terminal must not
/// become ours on the way.
const QUIET: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// The whole of `source`, or [`io::ErrorKind::FileTooLarge`] when it has more than `limit` bytes.
pub fn read(source: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    source
        .take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    if u64::try_from(content.len()).is_ok_and(|length| length <= limit) {
        Ok(content)
    } else {
        Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {limit} bytes"),
        ))
    }
}

/// Opens a regular file that an administrator has named, without waiting for anybody. It follows links, so
/// it is not for paths that a container controls.
pub fn open_file(path: &Path) -> io::Result<File> {
    let file = open(path, QUIET, Mode::empty())?;
    // Asked of the descriptor: what the path names may be swapped between two calls.
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(File::from(file)),
        other => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("expected a regular file, found {}", noun(other)),
        )),
    }
}

/// The whole of a file that [`open_file`] opens.
pub fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read(open_file(path)?, limit)
}

const fn noun(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Directory => "a folder",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::RegularFile | FileType::Symlink | FileType::Unknown => "something else",
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, mkfifoat};

    use super::*;

    #[test]
    fn a_source_of_exactly_the_limit_is_read_and_one_byte_more_is_refused() {
        assert_eq!(read(&b"abc"[..], 3).unwrap(), b"abc");
        assert_eq!(
            read(&b"abcd"[..], 3).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
    }

    #[test]
    fn an_endless_source_ends_at_the_limit() {
        assert_eq!(
            read(io::repeat(0), 1 << 16).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
    }

    #[test]
    fn what_is_no_regular_file_is_refused_by_name_and_nobody_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let (fifo, link) = (folder.path().join("fifo"), folder.path().join("link"));
        mkfifoat(CWD, &fifo, Mode::RUSR).unwrap();
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        for (path, found) in [
            (fifo.as_path(), "a FIFO"),
            (&link, "a FIFO"),
            (Path::new("/"), "a folder"),
            (Path::new("/dev/null"), "a device"),
        ] {
            let error = read_file(path, 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().ends_with(found), "{error}");
        }
    }

    #[test]
    fn a_file_behind_a_link_is_read_and_one_that_is_missing_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "abc").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read_file(&link, 3).unwrap(), b"abc");
        let missing = read_file(&folder.path().join("none"), 3).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
