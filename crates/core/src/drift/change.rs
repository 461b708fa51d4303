//! The words for a difference between an image and a disk.

use jiff::Timestamp;
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
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Metadata,
        Self::Moved,
        Self::Modified,
        Self::Added,
        Self::Removed,
        Self::Redirected,
    ];

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
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 7] = [
        Self::DeviceNode,
        Self::TrustAnchor,
        Self::Program,
        Self::BytecodeCache,
        Self::Volatile,
        Self::Configuration,
        Self::Data,
    ];

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
    /// What a policy says about it.
    pub ruled: Option<Ruled>,
}

impl Change {
    /// A difference in a volatile place, which is no finding unless a policy says so.
    pub fn of_volatile(
        path: &[u8],
        kind: ChangeKind,
        expected: Option<&Entry>,
        actual: Option<&Entry>,
    ) -> Self {
        Self {
            path: path.to_vec(),
            kind,
            class: Class::Volatile,
            severity: Severity::Info,
            privileged: false,
            expected: expected.cloned(),
            actual: actual.cloned(),
            note: None,
            ruled: None,
        }
    }
}

/// What a policy said about a change, so that nobody has to guess why it is as bad as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruled {
    /// The rule that decided: `POLICY/RULE`, `POLICY/EXCEPTION` or `POLICY:CLASS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// How bad it would be without policies; absent where it would be no finding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Severity>,
    /// The exception that had let it pass, and does no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired: Option<Expired>,
}

/// An exception whose time is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    /// `POLICY/EXCEPTION`.
    pub exception: String,
    /// Since when.
    pub at: Timestamp,
}
