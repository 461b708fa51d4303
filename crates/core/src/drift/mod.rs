//! Drift: expected against observed, what kind of file it is, and how bad that is.

mod change;

pub use change::{Change, ChangeKind, Class};
