//! Drift: expected against observed, what kind of file it is, and how bad that is.

pub mod accepted;
pub mod accounts;
pub mod bytecode;
mod change;
pub mod class;
pub mod compare;
pub mod corrupt;
pub mod every;
pub mod group;
pub mod policy;
pub(crate) mod shown;

pub use change::{Change, ChangeKind, Class, Expired, Ruled};
