//! The few kernel calls that no safe crate gives, behind safe functions: the only `unsafe` of the workspace.
//!
//! It decides nothing and imports nothing of ours. A call that the kernel, or a filter of system calls,
//! does not have is an error like any other: who calls must be able to do without.

pub mod page_cache;
pub mod priority;
