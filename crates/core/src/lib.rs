//! The decisions of Holdfast: bytes, readers and `now` in, values out.
//!
//! Nothing here is asynchronous, reads a clock, or opens a file or socket. Who may import whom, from
//! the bottom up: [`digest`], [`display`] ← [`image`], [`layer`] ← [`drift`], [`trust`] ← [`finding`].

#![warn(clippy::wildcard_enum_match_arm)] // a new kind of finding must be handled everywhere

pub mod container;
pub mod coverage;
pub mod digest;
pub mod display;
pub mod drift;
pub mod finding;
pub mod image;
pub mod layer;
pub mod mounts;
pub mod overlay;
pub mod place;
pub mod reference;
pub mod trust;
mod yaml;
