//! Reads the node's own files that say how registries are asked. They are trusted as the node is, and
//! hold secrets: of their content nothing is ever quoted, only file, line and column.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::error::{SetupFault, Wrong};

/// The whole of a file of at most `limit` bytes; `None` when it is not there.
pub(crate) fn read(file: &Path, limit: u64) -> Result<Option<Vec<u8>>, SetupFault> {
    let unreadable = |error: &io::Error| SetupFault::Unreadable(file.to_owned(), error.kind());
    // A FIFO in its place would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match open(file, flags, Mode::empty()) {
        Ok(opened) => File::from(opened),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(unreadable(&errno.into())),
    };
    let metadata = opened.metadata().map_err(|error| unreadable(&error))?;
    if !metadata.is_file() {
        return Err(SetupFault::Unreadable(
            file.to_owned(),
            io::ErrorKind::InvalidInput,
        ));
    }
    let mut content = Vec::new();
    opened
        .take(limit.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(|error| unreadable(&error))?;
    if u64::try_from(content.len()).is_ok_and(|length| length <= limit) {
        Ok(Some(content))
    } else {
        Err(SetupFault::TooLong(file.to_owned(), limit))
    }
}

/// A fault at a byte of a file's text.
pub(crate) fn fault(file: &Path, text: &str, offset: usize, what: Wrong) -> SetupFault {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count().saturating_add(1);
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        .saturating_add(1);
    SetupFault::Malformed {
        file: file.to_owned(),
        line,
        column,
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_named_by_line_and_column() {
        let at = |offset| match fault(Path::new("f"), "a\nbäc", offset, Wrong::Form) {
            SetupFault::Malformed { line, column, .. } => (line, column),
            other => panic!("{other}"),
        };
        assert_eq!((at(0), at(2), at(5)), ((1, 1), (2, 1), (2, 3)));
        assert_eq!(at(99), (2, 4));
    }

    #[test]
    fn a_file_is_absent_or_whole_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        assert_eq!(read(&path, 3), Ok(None));
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(read(&path, 3), Ok(Some(b"abc".to_vec())));
        assert_eq!(read(&path, 2), Err(SetupFault::TooLong(path.clone(), 2)));
        let fifo = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR).unwrap();
        for path in [folder.path(), &fifo] {
            assert!(matches!(
                read(path, 3),
                Err(SetupFault::Unreadable(_, io::ErrorKind::InvalidInput))
            ));
        }
    }
}
