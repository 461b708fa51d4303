//! Fetches manifests, blobs and signatures from a registry or an OCI layout folder.
//!
//! It hands out bytes that were checked against their digest, and says by name why it has none. It
//! never decides whether a signature is good: that is the core's, from the same bytes, at any time.
//!
//! ```text
//! collect ─▶ Cached ─▶ Sources ─▶ Layout    (folders, first: they need no network)
//!                             └─▶ discover ─▶ Client ─▶ registry
//! ```

mod answer;
mod auth;
mod cached;
mod client;
mod discover;
mod error;
mod lane;
mod layout;
mod source;

pub use auth::Credentials;
pub use cached::Cached;
pub use client::{Access, Client, Manifest};
pub use error::{FetchError, SetupError};
pub use layout::Layout;
pub use source::{Look, SignatureSource, Sources, collect};
