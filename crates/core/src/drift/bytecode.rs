//! The caches that Python writes beside modules (`__pycache__`): whose cache a file is, and what its header
//! says. The header proves nothing: whoever writes other code keeps it as it was. But one that does not
//! belong to its source, or that tells the interpreter not to look, was written by nobody's import.

use super::Class;
use crate::finding::Severity;
use crate::layer::{Entry, Marker, Node};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 16;

/// The module whose cache a path is by its name: `d/m.py` for `d/__pycache__/m.TAG.opt-1.pyc`.
pub fn source_of(path: &[u8]) -> Option<Vec<u8>> {
    let (name, directory) = split_last(path)?;
    let (folder, parent) = match split_last(directory) {
        Some((folder, parent)) => (folder, Some(parent)),
        None => (directory, None),
    };
    if folder != b"__pycache__" {
        return None;
    }
    let (module, _tag) = module_and_tag(name)?;
    let source = [module, b".py"].concat();
    Some(parent.map_or_else(|| source.clone(), |parent| [parent, &source].join(&b'/')))
}

/// The last component of a path, and what is before it.
fn split_last(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    let (before, name) = path.split_at_checked(slash)?;
    Some((name.get(1..)?, before))
}

/// `m` and `cpython-311` of `m.cpython-311.opt-1.pyc`.
fn module_and_tag(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = name.strip_suffix(b".pyc")?.split(|byte| *byte == b'.');
    let (module, tag) = (parts.next()?, parts.next()?);
    let is_optimized = |part: &[u8]| part.starts_with(b"opt-");
    let is_cache = parts.next().is_none_or(is_optimized) && parts.next().is_none();
    (is_cache && !module.is_empty() && !tag.is_empty()).then_some((module, tag))
}

/// Whether what is at a cache's path is no more than a cache: nothing that runs by itself.
pub fn is_plain(entry: &Entry) -> bool {
    matches!(
        entry.node,
        Node::File {
            marker: Marker::None,
            ..
        }
    ) && entry.mode & 0o6111 == 0
}

/// The class of such caches, and how bad it is that one is gone or has another mode.
pub const CLASS: Class = Class::BytecodeCache;

/// The state of a module's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Seconds since 1970 of its last change.
    pub modified: i64,
    /// Bytes.
    pub size: u64,
}

/// What the header of a cache says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// It was made of this source, or the interpreter will see whether it was.
    Fits,
    /// It was made of another source.
    OtherSource,
    /// It tells the interpreter never to compare it with its source.
    Unchecked,
    /// It is none that an interpreter writes.
    Malformed,
}

impl Header {
    /// Reads the beginning of the cache at `path`.
    pub fn read(path: &[u8], cache: &[u8], source: Source) -> Self {
        let has_flags = split_last(path)
            .and_then(|(name, _)| module_and_tag(name))
            .is_none_or(|(_, tag)| has_flags(tag));
        // Only the lowest 32 bits are written.
        let (modified, size) = (source.modified.to_le_bytes(), source.size.to_le_bytes());
        let is_of_source = |at: usize| {
            let field = |at: usize| cache.get(at..at.saturating_add(4));
            field(at) == modified.get(..4) && field(at.saturating_add(4)) == size.get(..4)
        };
        let fits = |is_of_source| {
            if is_of_source {
                Self::Fits
            } else {
                Self::OtherSource
            }
        };
        if !has_flags {
            return fits(is_of_source(4));
        }
        match cache.get(4..HEADER_BYTES) {
            Some([0, 0, 0, 0, ..]) => fits(is_of_source(8)),
            Some([1, 0, 0, 0, ..]) => Self::Unchecked,
            // The interpreter compares the hash itself before it uses the cache.
            Some([3, 0, 0, 0, ..]) => Self::Fits,
            _ => Self::Malformed,
        }
    }

    /// How bad it is that somebody wrote such a cache. Who wrote it is not known here.
    pub const fn severity(self) -> Severity {
        match self {
            Self::Fits => Severity::Warning,
            Self::OtherSource | Self::Unchecked | Self::Malformed => Severity::Critical,
        }
    }

    /// Why, in a few words.
    pub const fn note(self) -> &'static str {
        match self {
            Self::Fits => "header fits its source, which proves nothing",
            Self::OtherSource => "bytecode was made of another source",
            Self::Unchecked => "bytecode is never compared with its source",
            Self::Malformed => "bytecode has no valid header",
        }
    }
}

/// Interpreters before 3.7 wrote no flags. The tag selects the interpreter that reads the file.
fn has_flags(tag: &[u8]) -> bool {
    let minor = [b"cpython-3".as_slice(), b"pypy3"]
        .iter()
        .find_map(|name| tag.strip_prefix(*name));
    !matches!(minor, Some([b'2'..=b'6']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    const PATH: &[u8] = b"opt/__pycache__/m.cpython-311.pyc";
    const SOURCE: Source = Source {
        modified: 0x0102_0304_0506,
        size: 7,
    };

    fn header(flags: u32, modified: u32, size: u32) -> Vec<u8> {
        let words = [0x0a0d_0dcb_u32, flags, modified, size];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn a_cache_belongs_to_the_module_that_its_name_says() {
        let source = |path: &str| {
            source_of(path.as_bytes()).map(|source| String::from_utf8(source).unwrap())
        };
        for (path, module) in [
            ("a/__pycache__/m.cpython-311.pyc", "a/m.py"),
            ("a/__pycache__/m.cpython-311.opt-2.pyc", "a/m.py"),
            ("__pycache__/m.pypy39.pyc", "m.py"),
        ] {
            assert_eq!(source(path).as_deref(), Some(module));
        }
        for path in [
            "a/m.cpython-311.pyc",
            "a/__pycache__/m.pyc",
            "a/__pycache__/m.cpython-311.pyo",
            "a/__pycache__/m.cpython-311.x.pyc",
            "a/__pycache__/m.cpython-311.opt-1.x.pyc",
            "a/__pycache__/.cpython-311.pyc",
            "a/__pycache__/d/m.cpython-311.pyc",
            "m.pyc",
        ] {
            assert_eq!(source(path), None, "{path}");
        }
    }

    #[test]
    fn a_header_with_time_and_size_of_the_source_fits() {
        let read = |cache: &[u8]| Header::read(PATH, cache, SOURCE);
        assert_eq!(read(&header(0, 0x0304_0506, 7)), Header::Fits);
        assert_eq!(read(&header(0, 0x0304_0507, 7)), Header::OtherSource);
        assert_eq!(read(&header(0, 0x0304_0506, 8)), Header::OtherSource);
        assert_eq!(Header::Fits.severity(), Severity::Warning);
        assert_eq!(Header::OtherSource.severity(), Severity::Critical);
    }

    #[test]
    fn a_hashed_header_fits_when_the_interpreter_checks_it() {
        let read = |cache: &[u8]| Header::read(PATH, cache, SOURCE);
        assert_eq!(read(&header(3, 1, 2)), Header::Fits);
        assert_eq!(read(&header(1, 1, 2)), Header::Unchecked);
        assert_eq!(Header::Unchecked.severity(), Severity::Critical);
    }

    #[test]
    fn what_no_interpreter_writes_is_malformed() {
        let read = |cache: &[u8]| Header::read(PATH, cache, SOURCE);
        let due = header(0, 0x0304_0506, 7);
        assert_eq!(read(&header(2, 0x0304_0506, 7)), Header::Malformed);
        assert_eq!(read(&header(0x100, 0x0304_0506, 7)), Header::Malformed);
        assert_eq!(read(&due[..15]), Header::Malformed);
        assert_eq!(read(b""), Header::Malformed);
    }

    #[test]
    fn old_interpreters_write_no_flags() {
        let mut old = header(0, 0x0304_0506, 7);
        old.drain(4..8);
        let read = |tag: &str| {
            let path = format!("__pycache__/m.{tag}.pyc");
            Header::read(path.as_bytes(), &old, SOURCE)
        };
        assert_eq!(read("cpython-36"), Header::Fits);
        assert_eq!(read("pypy36"), Header::Fits);
        for new in ["cpython-37", "cpython-310", "pypy39", "other"] {
            assert_ne!(read(new), Header::Fits, "{new}");
        }
    }

    #[test]
    fn what_runs_by_itself_is_no_cache() {
        let cache = |content: &[u8], mode| Entry {
            node: Node::File {
                size: 1,
                digest: Digest::of(content),
                marker: Marker::of(content),
            },
            mode,
            uid: 0,
            gid: 0,
            xattrs: Vec::new(),
            hard_link: None,
        };
        assert!(is_plain(&cache(b"\xcb\x0d\x0d\x0a", 0o644)));
        assert!(!is_plain(&cache(b"\xcb\x0d\x0d\x0a", 0o755)));
        assert!(!is_plain(&cache(b"\xcb\x0d\x0d\x0a", 0o4644)));
        assert!(!is_plain(&cache(b"\x7fELF", 0o644)));
    }
}
