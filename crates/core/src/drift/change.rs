//! The words for a difference between an image and a disk.

use serde::{Deserialize, Serialize};

use crate::finding::Severity;
use crate::layer::Entry;

/// What happened to a path, judged by content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// Same content, other mode, owner, extended attribute or capability.
    Metadata,
    /// Content equal to another file of the same image.
    Moved,
    /// Other content at an image path.
    Modified,
    /// No such path in the image.
    Added,
    /// Hidden by a whiteout or an opaque directory.
    Removed,
    /// A planted `redirect` or `metacopy`.
    Redirected,
}

impl ChangeKind {
    /// As documents and people write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Moved => "moved",
            Self::Modified => "modified",
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Redirected => "redirected",
        }
    }
}

/// What kind of file a path is; the first that fits, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Character or block device.
    DeviceNode,
    /// Decides who may do what: accounts, PAM, loader configuration, CA bundles, schedules, start-up files.
    TrustAnchor,
    /// Runs, or is read by something that runs it.
    Program,
    /// Cache of a module that the image ships.
    BytecodeCache,
    /// Places that every service writes to.
    Volatile,
    /// Configuration.
    Configuration,
    /// Everything else.
    Data,
}

impl Class {
    /// As documents and people write it, and as the subject of a condition.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeviceNode => "device-node",
            Self::TrustAnchor => "trust-anchor",
            Self::Program => "program",
            Self::BytecodeCache => "bytecode-cache",
            Self::Volatile => "volatile",
            Self::Configuration => "configuration",
            Self::Data => "data",
        }
    }
}

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The path, relative to the root.
    pub path: Vec<u8>,
    /// What happened.
    pub kind: ChangeKind,
    /// What kind of file it is.
    pub class: Class,
    /// How bad it is; a change that is not worth a finding is not made into a `Change`.
    pub severity: Severity,
    /// Set-id bit or file capability gained: never collapsed into a mass change.
    pub privileged: bool,
    /// What the image says, where it says anything.
    pub expected: Option<Entry>,
    /// What is there, where anything is.
    pub actual: Option<Entry>,
    /// In a few words, what the digests do not say: "uid 0 account toor added".
    pub note: Option<String>,
}
