//! Scans of real directories, as root: what a container changes in its upper directory, through a real
//! overlay mount and planted from the host, and what somebody changes in an unpacked layer.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod container;
mod hostile;
mod image;
mod known_content;
mod lower;
mod mounted;
mod options;
mod parts;
mod planted;
mod policies;
mod proofs;
mod rescan;
mod silent;
mod storage;
