//! The directories that a container's root is made of, as its snapshotter asks for them. What it asks for is a
//! hint: the kernel's witness says what is mounted.

use std::path::{Path, PathBuf};

use holdfast_core::layer::Snapshotter;

use super::native::{self, NativeError};
use super::overlay::{self, Defaults, Overlay, OverlayError};
use super::{Mount, Snapshot, SnapshotKind};

/// The snapshotter of a name, if it is one whose roots the host's kernel serves from directories that we can
/// compare.
pub(super) fn snapshotter(name: &str) -> Option<Snapshotter> {
    match name {
        "overlayfs" => Some(Snapshotter::Overlayfs),
        native::NAME => Some(Snapshotter::Native),
        _ => None,
    }
}

/// How a root is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootForm {
    /// Directories that the kernel stacks.
    Overlay,
    /// One directory that is the root: always on `native`, and a view of a single layer.
    Bind,
}

/// The directories of a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rootfs {
    /// Who made them.
    pub snapshotter: Snapshotter,
    /// How they are mounted.
    pub form: RootForm,
    /// The writable one: overlay's upper directory, on `native` the whole root. A view has none.
    pub upper: Option<PathBuf>,
    /// Those of the snapshots below, topmost first.
    pub lowers: Vec<PathBuf>,
    /// Overlay's own attributes are `user.*` instead of `trusted.*`.
    pub userxattr: bool,
}

/// Why the directories of a root are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootfsError {
    /// The overlay cannot be followed.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The snapshotter's own records do not tell.
    #[error(transparent)]
    Native(#[from] NativeError),
}

impl RootfsError {
    /// The name in findings and labels.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Overlay(error) => error.reason(),
            Self::Native(error) => error.reason(),
        }
    }
}

impl Rootfs {
    /// What a snapshotter asks for; `snapshots` are the root's, from the active one down. Blocks.
    pub(super) fn of(
        snapshotter: Snapshotter,
        namespace: &str,
        snapshots: &[Snapshot],
        mounts: &[Mount],
        defaults: Defaults,
    ) -> Result<Self, RootfsError> {
        match snapshotter {
            Snapshotter::Overlayfs => {
                let kind = snapshots.first().map(|snapshot| snapshot.kind);
                if kind != Some(SnapshotKind::View) {
                    return Ok(overlay::of_mounts(mounts, defaults)?.into());
                }
                match bind_source(mounts) {
                    Some(lower) => Ok(Self {
                        snapshotter,
                        form: RootForm::Bind,
                        upper: None,
                        lowers: vec![lower],
                        userxattr: false,
                    }),
                    None => Ok(overlay::of_view(mounts, defaults)?.into()),
                }
            }
            Snapshotter::Native => {
                let directories = native::directories(namespace, snapshots, mounts)?;
                Ok(Self {
                    snapshotter,
                    form: RootForm::Bind,
                    upper: directories.own,
                    lowers: directories.parents,
                    userxattr: false,
                })
            }
        }
    }

    /// The directory whose inode the root's top directory has.
    pub fn top(&self) -> Option<&Path> {
        let lower = self.lowers.first();
        self.upper.as_ref().or(lower).map(PathBuf::as_path)
    }
}

impl From<Overlay> for Rootfs {
    fn from(overlay: Overlay) -> Self {
        Self {
            snapshotter: Snapshotter::Overlayfs,
            form: RootForm::Overlay,
            upper: overlay.upper,
            lowers: overlay.lowers,
            userxattr: overlay.userxattr,
        }
    }
}

/// The directory, where one is mounted and nothing else.
pub(super) fn bind_source(mounts: &[Mount]) -> Option<PathBuf> {
    let [mount] = mounts else { return None };
    let is_plain = |option: &String| matches!(option.as_str(), "rbind" | "bind" | "ro" | "rw");
    let is_bind = mount.kind == "bind" && mount.options.iter().all(is_plain);
    is_bind.then(|| PathBuf::from(&mount.source))
}
