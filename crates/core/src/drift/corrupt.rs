//! Corruption against tampering: what a power cut does to a file that was written shortly before.
//!
//! Delayed allocation leaves such a file with no bytes, or with zeros for bytes, and with the owner, mode
//! and attributes that it had. Anything else has another cause, and so has this without a power cut: then
//! it is tampering. A person with the host's root can make a file look so and pull the plug; that is why
//! even this is a finding and not silence.

use sha2::{Digest as _, Sha256};

use super::compare::is_same_metadata;
use super::{Change, ChangeKind};
use crate::digest::Digest;
use crate::finding::Severity;
use crate::layer::{Entry, Node};

/// Longer files are not asked for: hashing as many zeros takes as long as reading the file did.
const MAX_BLANK_BYTES: u64 = 1 << 30;

/// How the node has gone down since a layer was last seen right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stopped {
    /// Not at all, or in order, or nobody knows: the layer was never seen right.
    #[default]
    InOrder,
    /// At least once without the agent having been stopped before.
    Abruptly,
}

/// The same change as what a power cut has done, if it is that.
pub fn of_power_cut(change: &Change, stopped: Stopped) -> Option<Change> {
    let (Some(expected), Some(actual)) = (&change.expected, &change.actual) else {
        return None;
    };
    let is_blank = stopped == Stopped::Abruptly
        && change.kind == ChangeKind::Modified
        && is_same_metadata(expected, actual)
        && has_become_blank(expected, actual);
    is_blank.then(|| Change {
        severity: Severity::Warning,
        ..change.clone()
    })
}

fn has_become_blank(expected: &Entry, actual: &Entry) -> bool {
    let (Node::File { size: due, .. }, Node::File { size, digest, .. }) =
        (&expected.node, &actual.node)
    else {
        return false;
    };
    *due > 0 && size <= due && *size <= MAX_BLANK_BYTES && *digest == of_zeros(*size)
}

fn of_zeros(size: u64) -> Digest {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut sha256 = Sha256::new();
    let mut rest = size;
    while rest > 0 {
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(ZEROS.len());
        sha256.update(ZEROS.get(..length).unwrap_or_default());
        rest = rest.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
    }
    Digest::from_sha256(sha256.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::class::judge_in_layer;
    use crate::layer::Marker;

    fn file(content: &[u8]) -> Entry {
        Entry {
            node: Node::File {
                size: u64::try_from(content.len()).unwrap(),
                digest: Digest::of(content),
                marker: Marker::of(content),
            },
            mode: 0o644,
            uid: 0,
            gid: 0,
            xattrs: Vec::new(),
            hard_link: None,
        }
    }

    fn severity(expected: &Entry, actual: &Entry, stopped: Stopped) -> Option<Severity> {
        let kind = ChangeKind::Modified;
        let change = judge_in_layer(b"etc/x", kind, Some(expected), Some(actual));
        of_power_cut(&change, stopped).map(|change| change.severity)
    }

    #[test]
    fn an_empty_or_zeroed_file_after_a_power_cut_is_corruption() {
        let due = file(&[7; 10_000]);
        for blank in [&[][..], &[0; 10_000], &[0; 4096]] {
            let found = severity(&due, &file(blank), Stopped::Abruptly);
            assert_eq!(found, Some(Severity::Warning));
        }
    }

    #[test]
    fn without_a_power_cut_it_is_not() {
        assert_eq!(severity(&file(b"due"), &file(b""), Stopped::InOrder), None);
    }

    #[test]
    fn whatever_holds_something_or_has_other_rights_is_not() {
        let due = file(b"due");
        for other in [&b"du\0"[..], b"evil", b"\0\0\0\0", b"due"] {
            assert_eq!(severity(&due, &file(other), Stopped::Abruptly), None);
        }
        let set_uid = Entry {
            mode: 0o4755,
            ..file(b"")
        };
        let fifo = Entry {
            node: Node::Fifo,
            ..file(b"")
        };
        for other in [set_uid, fifo] {
            assert_eq!(severity(&due, &other, Stopped::Abruptly), None);
        }
    }
}
