//! The gRPC schema between agent and collector. The comments of `proto/holdfast/v1/collector.proto` are
//! its specification; this crate only generates code and names its limits.

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
