//! What one entry of an overlay directory means, by its type and its extended attributes, as the kernel
//! reads them. It must not guess: what the kernel follows and nobody asked for is [`Meaning::Redirected`].
//!
//! A container cannot set these attributes on its own files: overlayfs escapes the names that it writes
//! (`trusted.overlay.overlay.*`). Whoever plants one stands on the node.

use std::collections::BTreeSet;

use crate::layer::{Entry, MergedTree, Node, Resolved, TreeError};

/// Which attributes the mount believes: `user.overlay.*` with the option `userxattr`, else `trusted.overlay.*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum XattrPrefix {
    /// `trusted.overlay.*`, the kernel's default.
    #[default]
    Trusted,
    /// `user.overlay.*`, for mounts made inside a user namespace.
    User,
}

impl XattrPrefix {
    const fn bytes(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.",
            Self::User => b"user.overlay.",
        }
    }

    /// The value of overlay's attribute `name` in a list of attributes.
    fn find<'a>(self, xattrs: &'a [(Vec<u8>, Vec<u8>)], name: &[u8]) -> Option<&'a [u8]> {
        xattrs
            .iter()
            .find(|(full, _)| full.strip_prefix(self.bytes()) == Some(name))
            .map(|(_, value)| value.as_slice())
    }
}

/// What an entry of an upper directory means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Just what it is. Attributes that overlayfs keeps for itself (`origin`, `impure`, `uuid`, `nlink`,
    /// `protattr`) and escaped ones that a container set change nothing.
    Ordinary,
    /// Hides the path in the layers below.
    Whiteout,
    /// A directory that hides everything below it.
    Opaque,
    /// Its content comes from elsewhere: a planted `redirect` or `metacopy`.
    Redirected,
}

/// What an entry means. `xattrs` holds every attribute, overlay's own too.
///
/// A whiteout can be an empty file with an attribute. Its directory should say so (`opaque=x`), but only
/// listings ask for that: whoever opens the name gets nothing either way (tried on Linux 6.18), so a lone
/// attribute on a copy of an empty `__init__.py` takes it away.
pub fn meaning(node: &Node, xattrs: &[(Vec<u8>, Vec<u8>)], prefix: XattrPrefix) -> Meaning {
    // The kernel looks at the device number alone: a whiteout that somebody made with mknod has any mode.
    if matches!(node, Node::CharDevice { major: 0, minor: 0 }) || *node == Node::Whiteout {
        return Meaning::Whiteout;
    }
    // The value does not count: `redirect_dir` follows by default, and a kernel that refuses a broken one
    // today may follow it tomorrow.
    if prefix.find(xattrs, b"redirect").is_some() || prefix.find(xattrs, b"metacopy").is_some() {
        return Meaning::Redirected;
    }
    match node {
        Node::File { size: 0, .. } if prefix.find(xattrs, b"whiteout").is_some() => {
            Meaning::Whiteout
        }
        Node::Directory { .. } if prefix.find(xattrs, b"opaque") == Some(b"y") => Meaning::Opaque,
        Node::Directory { .. }
        | Node::File { .. }
        | Node::Symlink { .. }
        | Node::CharDevice { .. }
        | Node::BlockDevice { .. }
        | Node::Fifo
        | Node::Socket
        | Node::Whiteout => Meaning::Ordinary,
    }
}

/// The first overlay attribute of an entry in a *lower* directory that has no business there.
///
/// A snapshotter writes nothing but `opaque` when it unpacks, and only where the layer says so; whether
/// that one is due is compared as part of the directory. Anything else was planted, and some of it is
/// followed by default.
pub fn planted<'a>(
    node: &Node,
    xattrs: &'a [(Vec<u8>, Vec<u8>)],
    prefix: XattrPrefix,
) -> Option<&'a [u8]> {
    xattrs
        .iter()
        .find(|(full, value)| {
            full.strip_prefix(prefix.bytes())
                .is_some_and(|name| !(name == b"opaque" && value == b"y" && node.is_directory()))
        })
        .map(|(full, _)| full.as_slice())
}

/// Whether an attribute is part of what is compared with the image.
///
/// Not overlay's own. Not `security.selinux` either: the runtime or the mount's `context=` option sets it
/// for each container, so it always differs from the layer, and the label is the node's policy, not the
/// image's content.
pub fn is_compared(name: &[u8], prefix: XattrPrefix) -> bool {
    let is_overlay = name.starts_with(XattrPrefix::Trusted.bytes())
        || (prefix == XattrPrefix::User && name.starts_with(XattrPrefix::User.bytes()));
    !is_overlay && name != b"security.selinux"
}

/// What a runtime makes in the upper directory so that it can mount something there: the mount's target and
/// the directories on the way to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stubs(BTreeSet<Vec<u8>>);

impl Stubs {
    /// The stubs of a container whose spec mounts onto `targets`, absolute paths in its root. Links of the
    /// image are followed: a target `/var/run/secrets` makes `run/secrets` where `/var/run` is a link.
    pub fn of_mounts(targets: &[&[u8]], tree: &MergedTree) -> Result<Self, TreeError> {
        let mut stubs = BTreeSet::new();
        for target in targets {
            let (Resolved::Found { path, .. } | Resolved::Dangling { path }) =
                tree.resolve(target)?
            else {
                continue;
            };
            let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            stubs.extend(ends.filter_map(|(end, _)| path.get(..end).map(<[u8]>::to_vec)));
            stubs.insert(path);
        }
        Ok(Self(stubs))
    }

    /// Whether an entry that the image lacks is such a stub: an empty file, or a directory. What else is in
    /// that directory is no stub; it is drift that a mount hides.
    pub fn is_stub(&self, path: &[u8], actual: &Entry) -> bool {
        let is_empty = match actual.node {
            Node::Directory { .. } => true,
            Node::File { size, .. } => size == 0 && actual.mode & 0o6000 == 0,
            Node::Symlink { .. }
            | Node::CharDevice { .. }
            | Node::BlockDevice { .. }
            | Node::Fifo
            | Node::Socket
            | Node::Whiteout => false,
        };
        is_empty && self.0.contains(path)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::digest::{ChainId, DiffId, Digest};
    use crate::layer::{ExpectedTree, Marker};

    const DIRECTORY: Node = Node::Directory { opaque: false };

    fn file(size: u64) -> Node {
        Node::File {
            size,
            digest: Digest::of(b""),
            marker: Marker::None,
        }
    }

    fn xattrs(pairs: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect()
    }

    fn meaning_of(node: &Node, pairs: &[(&str, &str)]) -> Meaning {
        meaning(node, &xattrs(pairs), XattrPrefix::Trusted)
    }

    #[test]
    fn a_character_device_0_0_is_a_whiteout_and_another_is_a_device() {
        let null = Node::CharDevice { major: 1, minor: 3 };
        let whiteout = Node::CharDevice { major: 0, minor: 0 };
        let block = Node::BlockDevice { major: 0, minor: 0 };
        assert_eq!(meaning_of(&whiteout, &[]), Meaning::Whiteout);
        assert_eq!(meaning_of(&null, &[]), Meaning::Ordinary);
        assert_eq!(meaning_of(&block, &[]), Meaning::Ordinary);
    }

    #[test]
    fn an_empty_file_with_the_attribute_is_a_whiteout_wherever_it_is() {
        let marked = [("trusted.overlay.whiteout", "")];
        assert_eq!(meaning_of(&file(0), &marked), Meaning::Whiteout);
        assert_eq!(meaning_of(&file(1), &marked), Meaning::Ordinary);
        assert_eq!(meaning_of(&DIRECTORY, &marked), Meaning::Ordinary);
        let escaped = [("trusted.overlay.overlay.whiteout", "")];
        assert_eq!(meaning_of(&file(0), &escaped), Meaning::Ordinary);
    }

    #[test]
    fn only_y_makes_a_directory_opaque_and_only_a_directory() {
        let opaque = |node: &Node, value| meaning_of(node, &[("trusted.overlay.opaque", value)]);
        assert_eq!(opaque(&DIRECTORY, "y"), Meaning::Opaque);
        for value in ["n", "x", "yy", ""] {
            assert_eq!(opaque(&DIRECTORY, value), Meaning::Ordinary, "{value}");
        }
        assert_eq!(opaque(&file(0), "y"), Meaning::Ordinary);
    }

    #[test]
    fn a_planted_redirect_or_metacopy_is_redirected_and_an_escaped_one_is_not() {
        for name in ["trusted.overlay.redirect", "trusted.overlay.metacopy"] {
            let planted = meaning_of(&DIRECTORY, &[(name, "/hidden")]);
            assert_eq!(planted, Meaning::Redirected);
        }
        for name in [
            "trusted.overlay.overlay.redirect",
            "trusted.overlay.overlay.opaque",
            "trusted.overlay.origin",
            "trusted.overlay.impure",
            "user.overlay.redirect",
        ] {
            assert_eq!(meaning_of(&DIRECTORY, &[(name, "y")]), Meaning::Ordinary);
        }
    }

    #[test]
    fn user_attributes_count_under_userxattr_alone() {
        let planted_by_user = xattrs(&[("user.overlay.opaque", "y")]);
        let read = |prefix| meaning(&DIRECTORY, &planted_by_user, prefix);
        assert_eq!(read(XattrPrefix::User), Meaning::Opaque);
        assert_eq!(read(XattrPrefix::Trusted), Meaning::Ordinary);
        assert!(is_compared(b"user.overlay.opaque", XattrPrefix::Trusted));
        assert!(!is_compared(b"user.overlay.opaque", XattrPrefix::User));
    }

    #[test]
    fn any_overlay_attribute_but_opaque_on_a_directory_is_planted_in_a_lower() {
        let found = |node: &Node, name| {
            planted(node, &xattrs(&[(name, "y")]), XattrPrefix::Trusted).is_some()
        };
        assert!(!found(&DIRECTORY, "trusted.overlay.opaque"));
        assert!(found(&file(0), "trusted.overlay.opaque"));
        assert!(found(&DIRECTORY, "trusted.overlay.redirect"));
        assert!(found(&DIRECTORY, "trusted.overlay.origin"));
        assert!(found(&file(0), "trusted.overlay.overlay.opaque"));
        assert!(!found(&file(0), "user.comment"));
    }

    #[test]
    fn the_targets_of_mounts_and_their_parents_are_stubs_while_they_are_empty() {
        let entry = |node| Entry {
            node,
            mode: 0o755,
            uid: 0,
            gid: 0,
            xattrs: Vec::new(),
            hard_link: None,
        };
        let link = entry(Node::Symlink {
            target: b"/run".to_vec(),
        });
        let directory = entry(DIRECTORY);
        let id = Digest::of(b"");
        let mut bytes = Vec::new();
        let entries: [(&[u8], &Entry); 4] = [
            (b"", &directory),
            (b"run", &directory),
            (b"var", &directory),
            (b"var/run", &link),
        ];
        ExpectedTree::write(&mut bytes, ChainId(id), DiffId(id), entries).unwrap();
        let tree = ExpectedTree::open(bytes, ChainId(id)).unwrap();
        let tree = MergedTree::new(vec![Arc::new(tree)]);
        let targets: [&[u8]; 2] = [b"/etc/hosts", b"/var/run/secrets/token"];
        let stubs = Stubs::of_mounts(&targets, &tree).unwrap();

        for path in ["etc", "run/secrets", "run/secrets/token"] {
            assert!(stubs.is_stub(path.as_bytes(), &directory), "{path}");
        }
        assert!(stubs.is_stub(b"etc/hosts", &entry(file(0))));
        assert!(!stubs.is_stub(b"etc/hosts", &entry(file(1))));
        assert!(!stubs.is_stub(b"etc/passwd", &entry(file(0))));
        assert!(!stubs.is_stub(b"var/run/secrets", &directory));
        let set_id = Entry {
            mode: 0o4755,
            ..entry(file(0))
        };
        assert!(!stubs.is_stub(b"etc/hosts", &set_id));
    }

    #[test]
    fn selinux_labels_and_overlays_own_are_not_compared_and_capabilities_are() {
        let compared = |name: &[u8]| is_compared(name, XattrPrefix::Trusted);
        assert!(!compared(b"security.selinux"));
        assert!(!compared(b"trusted.overlay.origin"));
        assert!(compared(b"security.capability"));
        assert!(compared(b"user.comment"));
        assert!(compared(b"trusted.other"));
    }
}
