//! One file as an image describes it: what a table holds, a tree expects, and a scan is compared with.

use crate::digest::Digest;

/// What the first bytes of a file say about it; decides the file's class together with its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Marker {
    /// Nothing that makes it a program.
    #[default]
    None,
    /// An ELF object.
    Elf,
    /// Starts with `#!`.
    Shebang,
    /// Holds `<?php`, `<?=` or `<%@` in its first bytes, whatever its name.
    Code,
}

/// How many bytes at the start of a file [`Marker::of`] looks at.
pub const MARKER_BYTES: usize = 4096;

impl Marker {
    /// The marker of a file that starts with `head` (at most [`MARKER_BYTES`] of it count).
    pub fn of(head: &[u8]) -> Self {
        let head = head.get(..MARKER_BYTES).unwrap_or(head);
        let holds = |code: &[u8]| head.windows(code.len()).any(|window| window == code);
        if head.starts_with(b"\x7fELF") {
            Self::Elf
        } else if head.starts_with(b"#!") {
            Self::Shebang
        } else if holds(b"<?php") || holds(b"<?=") || holds(b"<%@") {
            Self::Code
        } else {
            Self::None
        }
    }
}

/// What is at a path. The type and what only this type has are one value, so that they cannot disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// Digest of the content.
        digest: Digest,
        /// What its first bytes say.
        marker: Marker,
    },
    /// A directory; opaque means that nothing of the layers below shows through.
    Directory {
        /// The layer hides everything below this directory.
        opaque: bool,
    },
    /// A symbolic link.
    Symlink {
        /// Its target, as written.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket; never in an image, but a container can make one.
    Socket,
    /// "Removed here": hides the path in the layers below.
    Whiteout,
}

impl Node {
    /// The type's name in findings.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Directory { .. } => "directory",
            Self::Symlink { .. } => "symlink",
            Self::CharDevice { .. } => "char-device",
            Self::BlockDevice { .. } => "block-device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::Whiteout => "whiteout",
        }
    }

    /// Whether this is a directory.
    pub const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }
}

/// A file with its metadata. Paths are kept beside entries: bytes, relative to the root, no leading or
/// trailing slash, no empty, `.` or `..` component; the root itself is the empty path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub node: Node,
    /// Permission, set-id and sticky bits (`07777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes, sorted by name; overlay's own (`trusted.overlay.*`) are never among them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The path that this one is a hard link to, in the same layer.
    pub hard_link: Option<Vec<u8>>,
}
