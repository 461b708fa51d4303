//! Expected against observed: what happened to a path, judged by what it is and holds. Times are no part
//! of it: touching a file changes nothing that anybody signed.

use super::ChangeKind;
use crate::layer::{Entry, Node};
use crate::overlay::{XattrPrefix, is_compared};

/// What happened to `path` in the view that a container has; `None` when nothing did.
///
/// Hard links are compared by content: overlayfs breaks them when it copies a file up. An opaque
/// directory is no change by itself: what it hides is, and the caller counts that.
pub fn compare(
    path: &[u8],
    expected: Option<&Entry>,
    actual: Option<&Entry>,
) -> Option<ChangeKind> {
    // The root belongs to the runtime: it makes it, and each snapshot has one of its own.
    if path.is_empty() {
        return None;
    }
    match (expected, actual) {
        (None, None) => None,
        (None, Some(_)) => Some(ChangeKind::Added),
        (Some(_), None) => Some(ChangeKind::Removed),
        (Some(expected), Some(actual)) => {
            if !is_same_node(&expected.node, &actual.node) {
                Some(ChangeKind::Modified)
            } else if !is_same_metadata(expected, actual) {
                Some(ChangeKind::Metadata)
            } else {
                None
            }
        }
    }
}

/// What happened to `path` in the directory of one unpacked layer, where opaqueness is content: it decides
/// what shows through from the layers below.
pub fn compare_in_layer(
    path: &[u8],
    expected: Option<&Entry>,
    actual: Option<&Entry>,
) -> Option<ChangeKind> {
    let opaque = |entry: Option<&Entry>| {
        matches!(
            entry,
            Some(Entry {
                node: Node::Directory { opaque: true },
                ..
            })
        )
    };
    let are_directories = |entry: Option<&Entry>| entry.is_some_and(|e| e.node.is_directory());
    if are_directories(expected) && are_directories(actual) && opaque(expected) != opaque(actual) {
        return Some(ChangeKind::Modified);
    }
    compare(path, expected, actual)
}

/// Whether two nodes are the same to whoever reads them.
fn is_same_node(expected: &Node, actual: &Node) -> bool {
    match (expected, actual) {
        (Node::Directory { .. }, Node::Directory { .. }) => true,
        (
            Node::File { size, digest, .. },
            Node::File {
                size: actual_size,
                digest: actual_digest,
                ..
            },
        ) => size == actual_size && digest == actual_digest,
        _ => expected == actual,
    }
}

/// Whether mode, owner and compared attributes are the same.
pub(super) fn is_same_metadata(expected: &Entry, actual: &Entry) -> bool {
    match expected.node {
        // Its mode, owner and attributes are never asked for.
        Node::Whiteout => return true,
        // Linux has no modes of links; what is stored is the unpacker's taste.
        Node::Symlink { .. } => {}
        Node::File { .. }
        | Node::Directory { .. }
        | Node::CharDevice { .. }
        | Node::BlockDevice { .. }
        | Node::Fifo
        | Node::Socket => {
            if expected.mode & 0o7777 != actual.mode & 0o7777 {
                return false;
            }
        }
    }
    expected.uid == actual.uid
        && expected.gid == actual.gid
        && compared_xattrs(expected).eq(compared_xattrs(actual))
}

/// The attributes that are compared; [`Entry::xattrs`] is sorted by name.
fn compared_xattrs(entry: &Entry) -> impl Iterator<Item = &(Vec<u8>, Vec<u8>)> {
    entry
        .xattrs
        .iter()
        .filter(|(name, _)| is_compared(name, XattrPrefix::Trusted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::layer::Marker;

    fn entry(node: Node) -> Entry {
        Entry {
            node,
            mode: 0o755,
            uid: 0,
            gid: 0,
            xattrs: Vec::new(),
            hard_link: None,
        }
    }

    fn file(content: &[u8]) -> Entry {
        entry(Node::File {
            size: u64::try_from(content.len()).unwrap(),
            digest: Digest::of(content),
            marker: Marker::of(content),
        })
    }

    fn link(target: &str) -> Entry {
        entry(Node::Symlink {
            target: target.into(),
        })
    }

    fn of(expected: &Entry, actual: &Entry) -> Option<ChangeKind> {
        compare(b"a/b", Some(expected), Some(actual))
    }

    #[test]
    fn what_is_there_and_what_is_not_decide_first() {
        let one = file(b"1");
        assert_eq!(compare(b"a", None, None), None);
        assert_eq!(compare(b"a", None, Some(&one)), Some(ChangeKind::Added));
        assert_eq!(compare(b"a", Some(&one), None), Some(ChangeKind::Removed));
        assert_eq!(of(&one, &one), None);
    }

    #[test]
    fn other_content_another_target_another_type_or_another_device_is_modified() {
        let fifo = entry(Node::Fifo);
        let device = |minor| entry(Node::CharDevice { major: 1, minor });
        assert_eq!(of(&file(b"1"), &file(b"2")), Some(ChangeKind::Modified));
        assert_eq!(of(&link("a"), &link("b")), Some(ChangeKind::Modified));
        assert_eq!(of(&file(b"1"), &fifo), Some(ChangeKind::Modified));
        assert_eq!(of(&device(3), &device(5)), Some(ChangeKind::Modified));
        assert_eq!(of(&device(3), &device(3)), None);
    }

    #[test]
    fn other_mode_owner_or_attribute_is_metadata() {
        let base = file(b"1");
        let set_uid = Entry {
            mode: 0o4755,
            ..base.clone()
        };
        let owned = Entry {
            uid: 1000,
            ..base.clone()
        };
        let grouped = Entry {
            gid: 1000,
            ..base.clone()
        };
        let capable = Entry {
            xattrs: vec![(b"security.capability".to_vec(), vec![1])],
            ..base.clone()
        };
        for other in [&set_uid, &owned, &grouped, &capable] {
            assert_eq!(of(&base, other), Some(ChangeKind::Metadata));
            assert_eq!(of(other, &base), Some(ChangeKind::Metadata));
        }
    }

    #[test]
    fn labels_link_modes_and_broken_hard_links_are_no_change() {
        let base = file(b"1");
        let labelled = Entry {
            xattrs: vec![(b"security.selinux".to_vec(), vec![1])],
            ..base.clone()
        };
        let linked = Entry {
            hard_link: Some(b"other".to_vec()),
            ..base.clone()
        };
        let tight_link = Entry {
            mode: 0o700,
            ..link("a")
        };
        assert_eq!(of(&base, &labelled), None);
        assert_eq!(of(&linked, &base), None);
        assert_eq!(of(&link("a"), &tight_link), None);
    }

    #[test]
    fn the_root_is_not_compared() {
        let root = entry(Node::Directory { opaque: false });
        let other = Entry {
            mode: 0o700,
            ..root.clone()
        };
        assert_eq!(compare(b"", Some(&root), Some(&other)), None);
        assert_eq!(of(&root, &other), Some(ChangeKind::Metadata));
    }

    #[test]
    fn opaqueness_is_content_of_a_layer_and_not_of_a_container() {
        let plain = entry(Node::Directory { opaque: false });
        let opaque = entry(Node::Directory { opaque: true });
        assert_eq!(of(&plain, &opaque), None);
        assert_eq!(
            compare_in_layer(b"a", Some(&plain), Some(&opaque)),
            Some(ChangeKind::Modified)
        );
        assert_eq!(compare_in_layer(b"a", Some(&opaque), Some(&opaque)), None);
        let whiteout = entry(Node::Whiteout);
        let whiteout_without_mode = Entry {
            mode: 0,
            ..whiteout.clone()
        };
        assert_eq!(
            compare_in_layer(b"a", Some(&whiteout), Some(&whiteout_without_mode)),
            None
        );
        assert_eq!(
            compare_in_layer(b"a", Some(&whiteout), Some(&file(b""))),
            Some(ChangeKind::Modified)
        );
    }
}
