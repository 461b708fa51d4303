//! Reads that end at a limit. Everything that reads a whole file or stream goes through here: an
//! unbounded read is how a large file becomes our out-of-memory kill.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

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

/// The whole of a file that an administrator has named. It follows links, so it is not for paths that a
/// container controls.
pub fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    // A directory opens, and fails later with a worse message; a FIFO would have blocked in `open`.
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    read(file, limit)
}

#[cfg(test)]
mod tests {
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
    fn a_directory_is_no_file() {
        assert_eq!(
            read_file(Path::new("/"), 1).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
