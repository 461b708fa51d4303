//! An exception: one state of a path of one image, excused until a day. What gives a right has to be written
//! out in full, and a planted redirect cannot be excused at all.

use jiff::Timestamp;

use super::PathPattern;
use crate::digest::Digest;
use crate::drift::class::is_privileged;
use crate::drift::{Change, ChangeKind};
use crate::layer::{Entry, Node};

/// The attribute by which a file gives capabilities.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// What is excused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exception {
    /// `POLICY/NAME`.
    pub(super) name: String,
    /// Index, manifest or config of the image.
    pub(super) image: Digest,
    pub(super) path: PathPattern,
    pub(super) content: Content,
    pub(super) mode: Option<u32>,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) capability: Option<Vec<u8>>,
    /// From then on it says nothing.
    pub(super) expires: Timestamp,
}

/// What stands at the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A file with this content.
    Digest(Digest),
    /// A symbolic link with this target.
    LinkTo(Vec<u8>),
    /// Nothing.
    Removed,
    /// Whatever gives nobody a right.
    Any,
}

/// What an exception has to name to excuse a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// The content: the change gives a right.
    ExactContent,
    /// Any content may do.
    AnyContent,
}

impl Exception {
    /// Whether it excuses this change, whatever the time.
    pub(super) fn covers(&self, change: &Change, needs: Needs) -> bool {
        // What a redirect shows is not what the digest of its file names.
        if change.kind == ChangeKind::Redirected || !self.is_content(change.actual.as_ref()) {
            return false;
        }
        if needs == Needs::ExactContent && !matches!(self.content, Content::Digest(_)) {
            return false;
        }
        let is_state = change
            .actual
            .as_ref()
            .is_none_or(|actual| self.is_state(actual));
        is_state && self.path.matches(&change.path)
    }

    fn is_content(&self, actual: Option<&Entry>) -> bool {
        match (&self.content, actual.map(|actual| &actual.node)) {
            (Content::Any, _) | (Content::Removed, None) => true,
            (Content::Digest(due), Some(Node::File { digest, .. })) => due == digest,
            (Content::LinkTo(due), Some(Node::Symlink { target })) => due == target,
            (Content::Digest(_) | Content::LinkTo(_), _) | (Content::Removed, Some(_)) => false,
        }
    }

    /// Mode, owner and capability: what is written has to be so; and what gives a right has to be written, or
    /// an excused file could be made set-id later.
    fn is_state(&self, actual: &Entry) -> bool {
        let mode = actual.mode & 0o7777;
        let owner = (actual.uid, actual.gid);
        let mut xattrs = actual.xattrs.iter();
        let capability = xattrs.find_map(|(name, value)| (name == CAPABILITY).then_some(value));
        if is_privileged(actual) {
            return self.mode == Some(mode)
                && self.owner == Some(owner)
                && self.capability.as_ref() == capability;
        }
        self.mode.is_none_or(|due| due == mode)
            && self.owner.is_none_or(|due| due == owner)
            && (self.capability.is_none() || self.capability.as_ref() == capability)
    }
}
