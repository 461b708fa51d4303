//! The gRPC schema between agent and collector. The comments of `proto/holdfast/v1/*.proto` are its
//! specification; this crate only generates code and names its limits.

/// Messages, client and server of `holdfast.v1`.
#[allow(
    warnings,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes,
    missing_docs,
    unreachable_pub,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("holdfast.v1");
}

/// A message is at most this long, on both sides.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// A batch holds at most this many records.
pub const MAX_BATCH_RECORDS: usize = 1000;

/// A piece of a relayed file has at most this many bytes: a batch on the same connection waits for one.
pub const MAX_PIECE_BYTES: usize = 256 << 10;

/// A relayed skeleton: the largest layers in common use give 3 MB, and as much again for digests.
pub const MAX_SKELETON_BYTES: u64 = 64 << 20;

/// Skeletons in one offer.
pub const MAX_OFFERS: usize = 1000;

/// Skeletons of one layer whose proofs failed.
pub const MAX_FAILED: usize = 8;

/// Repositories that may have one layer.
pub const MAX_REPOSITORIES: usize = 4;

/// Contents of one layer that are asked for together; a proof that lacks more is not repeated.
pub const MAX_CONTENTS: usize = 10_000;

/// All contents that are asked for together.
pub const MAX_CONTENT_BYTES: u64 = 256 << 20;

/// Tables in one report.
pub const MAX_TABLES: usize = 10_000;
