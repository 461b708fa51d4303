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
    /// Starts with `#!` and an interpreter's name.
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
        // One pass: this runs on every file of every layer.
        let mut tags = head.split(|byte| *byte == b'<').skip(1);
        let is_code = |tag: &[u8]| {
            tag.starts_with(b"?php") || tag.starts_with(b"?=") || tag.starts_with(b"%@")
        };
        if head.starts_with(b"\x7fELF") {
            Self::Elf
        } else if names_interpreter(head) {
            Self::Shebang
        } else if tags.any(is_code) {
            Self::Code
        } else {
            Self::None
        }
    }
}

/// Whether `head` is `#!`, blanks and the first letter of a name, as the kernel asks for. The two bytes
/// alone are also the number 8,483, and services write numbers.
fn names_interpreter(head: &[u8]) -> bool {
    head.strip_prefix(b"#!").is_some_and(|line| {
        line.iter()
            .find(|byte| !matches!(byte, b' ' | b'\t'))
            .is_some_and(u8::is_ascii_graphic)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_names_its_interpreter_and_a_number_does_not() {
        assert_eq!(Marker::of(b"#!/bin/sh\n"), Marker::Shebang);
        assert_eq!(Marker::of(b"#! \t/usr/bin/env python3"), Marker::Shebang);
        assert_eq!(Marker::of(&8_483_u64.to_le_bytes()), Marker::None);
        assert_eq!(Marker::of(b"#!\n/bin/sh"), Marker::None);
        assert_eq!(Marker::of(b"\x7fELF\x02"), Marker::Elf);
        assert_eq!(Marker::of(b"GIF89a;\n<?php system(); ?>"), Marker::Code);
        assert_eq!(Marker::of(b""), Marker::None);
    }

    #[test]
    fn a_file_is_marked_by_its_first_bytes() {
        for (head, marker) in [
            (b"".as_slice(), Marker::None),
            (b"\x7fELF\x02", Marker::Elf),
            (b"\x7fEL", Marker::None),
            (b"#!/bin/sh", Marker::Shebang),
            (b" #!/bin/sh", Marker::None),
            (b"<b><<?php", Marker::Code),
            (b"x<?= 1 ?>", Marker::Code),
            (b"<%@ page %>", Marker::Code),
            (b"?php <? php <%= 1 %>", Marker::None),
        ] {
            assert_eq!(Marker::of(head), marker, "{}", head.escape_ascii());
        }
        let far = [vec![b' '; MARKER_BYTES - 4], b"<?php".to_vec()].concat();
        assert_eq!(Marker::of(&far), Marker::None);
        assert_eq!(Marker::of(&far[1..]), Marker::Code);
    }
}
