//! Which extended attributes of an archive end up on a file, and in which form they are read back there.

use crate::layer::codec::Xattrs;
use crate::layer::limits::HEADER_BYTES;
use crate::layer::{Node, Unsupported};

const CAPABILITY: &[u8] = b"security.capability";

/// Longest name and value that Linux takes (`XATTR_NAME_MAX`, `XATTR_SIZE_MAX`).
const NAME_BYTES: usize = 255;
const VALUE_BYTES: usize = 65_536;

/// Why Linux does not take an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XattrRefusal {
    /// The name is empty or too long.
    #[error("invalid name")]
    Name,
    /// The value is too long.
    #[error("value is too long")]
    Value,
    /// The value is no set of capabilities.
    #[error("not a set of capabilities")]
    Capability,
}

/// What setting an attribute comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is set, to this value.
    Set(Vec<u8>),
    /// It is dropped without a word.
    Dropped,
    /// The layer is refused.
    Refused(XattrRefusal),
    /// It is set, and what is read back cannot be said.
    Unsupported(Unsupported),
}

/// What setting an attribute on `node` comes to.
pub(super) fn outcome(node: &Node, name: &[u8], value: &[u8]) -> Outcome {
    // containerd leaves these out itself; everything else is up to the kernel.
    if name.starts_with(b"trusted.") {
        return Outcome::Dropped;
    }
    if name.is_empty() || name.len() > NAME_BYTES {
        return Outcome::Refused(XattrRefusal::Name);
    }
    if value.len() > VALUE_BYTES {
        return Outcome::Refused(XattrRefusal::Value);
    }
    if matches!(name, b"user." | b"security.") {
        return Outcome::Refused(XattrRefusal::Name);
    }
    if name.starts_with(b"system.posix_acl_") {
        return Outcome::Unsupported(Unsupported::AccessControlList);
    }
    let takes_user = matches!(node, Node::File { .. } | Node::Directory { .. });
    if name == CAPABILITY && value.is_empty() {
        Outcome::Unsupported(Unsupported::EmptyCapability)
    } else if name == CAPABILITY {
        capability(value).map_or(Outcome::Refused(XattrRefusal::Capability), Outcome::Set)
    } else if name.starts_with(b"security.") || (name.starts_with(b"user.") && takes_user) {
        Outcome::Set(value.to_vec())
    } else {
        Outcome::Dropped
    }
}

/// A set of capabilities as it is read back: with a root of 0 it comes in the older form. Linux knows one
/// flag, and no user -1.
fn capability(value: &[u8]) -> Option<Vec<u8>> {
    let (&[flags, 0, 0, revision], rest) = value.split_first_chunk()? else {
        return None;
    };
    if flags > 1 {
        return None;
    }
    let (sets, root) = rest.split_at_checked(16)?;
    let head = |revision: u8| [flags, 0, 0, revision];
    match (revision, root) {
        (2, []) | (3, [0, 0, 0, 0]) => Some([&head(2), sets].concat()),
        (3, [255, 255, 255, 255]) => None,
        (3, [_, _, _, _]) => Some([&head(3), sets, root].concat()),
        _ => None,
    }
}

/// What a change of owner takes off everything but a directory.
pub(super) fn drop_capability(xattrs: &mut Xattrs) {
    xattrs.retain(|(name, _)| name != CAPABILITY);
}

/// Sets an attribute in its place.
pub(super) fn set(xattrs: &mut Xattrs, name: &[u8], value: Vec<u8>) {
    match xattrs.binary_search_by(|(other, _)| other.as_slice().cmp(name)) {
        Ok(index) => {
            if let Some((_, old)) = xattrs.get_mut(index) {
                *old = value;
            }
        }
        Err(index) => xattrs.insert(index, (name.to_vec(), value)),
    }
}

/// Whether a file has more than a tree holds.
pub(super) fn is_too_much(xattrs: &Xattrs) -> bool {
    let bytes = xattrs.iter().map(|(name, value)| name.len() + value.len());
    bytes.sum::<usize>() > HEADER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Node = Node::Fifo;

    fn on_directory(name: &str, value: &[u8]) -> Outcome {
        outcome(&Node::Directory { opaque: false }, name.as_bytes(), value)
    }

    #[test]
    fn attributes_are_set_dropped_or_refused_as_linux_and_containerd_do() {
        assert_eq!(on_directory("user.x", b"1"), Outcome::Set(b"1".into()));
        assert_eq!(on_directory("security.x", b""), Outcome::Set(b"".into()));
        assert_eq!(outcome(&FILE, b"user.x", b"1"), Outcome::Dropped);
        for dropped in [
            "trusted.overlay.opaque",
            "trusted.x",
            "system.x",
            "x",
            "btrfs.y",
        ] {
            assert_eq!(on_directory(dropped, b"y"), Outcome::Dropped, "{dropped}");
        }
        let long = "user.".to_owned() + &"n".repeat(251);
        for refused in ["", "user.", "security.", &long] {
            assert_eq!(
                on_directory(refused, b""),
                Outcome::Refused(XattrRefusal::Name)
            );
        }
        let refused = Outcome::Refused(XattrRefusal::Value);
        assert_eq!(on_directory("user.x", &vec![0; VALUE_BYTES + 1]), refused);
        assert_eq!(
            on_directory("system.posix_acl_access", b""),
            Outcome::Unsupported(Unsupported::AccessControlList)
        );
        // It can be set, and then not be read.
        assert_eq!(
            on_directory("security.capability", b""),
            Outcome::Unsupported(Unsupported::EmptyCapability)
        );
    }

    #[test]
    fn capabilities_are_read_back_in_one_form() {
        let sets = [7_u8; 16];
        let second = [[1, 0, 0, 2].as_slice(), &sets].concat();
        let third = [[1, 0, 0, 3].as_slice(), &sets, &[0; 4]].concat();
        let of_user = [[1, 0, 0, 3].as_slice(), &sets, &[9, 0, 0, 0]].concat();
        assert_eq!(capability(&second), Some(second.clone()));
        assert_eq!(capability(&third), Some(second.clone()));
        assert_eq!(capability(&of_user), Some(of_user.clone()));
        assert_eq!(capability(&second[..19]), None);
        assert_eq!(capability(&third[..20]), None);
        assert_eq!(
            capability(&[[1, 0, 0, 3].as_slice(), &sets, &[255; 4]].concat()),
            None
        );
        assert_eq!(capability(&[[3, 0, 0, 2].as_slice(), &sets].concat()), None);
        assert_eq!(capability(&[[1, 7, 0, 2].as_slice(), &sets].concat()), None);
    }
}
