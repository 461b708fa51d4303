//! Fetches manifests, blobs and signatures from a registry or an OCI layout folder.
//!
//! It hands out bytes that were checked against their digest, and says by name why it has none. It
//! never decides whether a signature is good: that is the core's, from the same bytes, at any time.
//!
//! ```text
//! collect ─▶ Cached ─▶ Sources ─▶ Layout    (folders, first: they need no network)
//!                             └─▶ discover ─▶ Client ─▶ registry
//! ```

mod access;
mod allowance;
mod answer;
mod auth;
mod breaker;
mod cached;
mod client;
mod config;
mod discover;
mod download;
mod endpoint;
mod error;
mod flight;
mod hosts;
mod lane;
mod layout;
mod pace;
mod reading;
mod referrers;
mod retry;
mod retry_after;
mod setup;
mod source;
mod stream;
mod transport;

pub use access::{Access, Timing};
pub use allowance::Allowance;
pub use auth::Keyring;
pub use cached::Cached;
pub use client::{Client, Manifest};
pub use config::Registries;
pub use download::Downloads;
pub use error::{
    FetchError, PageError, ProgramError, RedirectError, SetupError, SetupFault, TokenError, Wrong,
};
pub use layout::Layout;
pub use pace::Pace;
pub use reading::{Coming, NotRead, Reading};
pub use referrers::{
    MAX_REFERRERS, Referrer, Referrers, attestations_tag, is_about, referrers_tag,
};
pub use source::{Look, SignatureSource, Sources, collect, repositories};
pub use stream::{Blob, BlobReader, BlobStream, Offers};
