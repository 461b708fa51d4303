//! The calls, each with its deadline and its bound.

use std::io;
use std::time::Duration;

use holdfast_core::display;
use holdfast_protocol::v1::relay_client::RelayClient;
use holdfast_protocol::{MAX_MESSAGE_BYTES, v1};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// An error text of the other side, in logs and findings.
const MAX_ERROR_CHARS: usize = 200;

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// No answer in time.
    #[error("no answer in time")]
    Deadline,
    /// An older collector.
    #[error("the collector is older and relays nothing")]
    Unknown,
    /// It refuses, or is not there.
    #[error("{0}")]
    Status(String),
    /// Our own disk.
    #[error("own files: {0}")]
    Disk(#[from] io::Error),
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        if status.code() == Code::Unimplemented {
            return Self::Unknown;
        }
        let text = format!("{}: {}", status.code(), status.message());
        let shown = display::escape(text.as_bytes());
        Self::Status(shown.chars().take(MAX_ERROR_CHARS).collect())
    }
}

/// The collector's relay.
#[derive(Clone, Debug)]
pub(super) struct Client {
    client: RelayClient<Channel>,
    deadline: Duration,
}

impl Client {
    pub(super) fn new(channel: Channel, deadline: Duration) -> Self {
        let client = RelayClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { client, deadline }
    }

    pub(super) async fn offer(&self, offers: v1::Offers) -> Result<v1::Wishes, CallError> {
        let mut client = self.client.clone();
        self.answer(client.offer(offers)).await
    }

    pub(super) async fn give(&self, piece: v1::Piece) -> Result<v1::Given, CallError> {
        let mut client = self.client.clone();
        self.answer(client.give(piece)).await
    }

    pub(super) async fn seek(&self, sought: v1::Sought) -> Result<v1::Found, CallError> {
        let mut client = self.client.clone();
        self.answer(client.seek(sought)).await
    }

    pub(super) async fn take(&self, part: v1::Part) -> Result<v1::Piece, CallError> {
        let mut client = self.client.clone();
        self.answer(client.take(part)).await
    }

    pub(super) async fn report_tables(&self, tables: v1::Tables) -> Result<(), CallError> {
        let mut client = self.client.clone();
        self.answer(client.report_tables(tables)).await.map(drop)
    }

    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(self.deadline, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_elapsed) => Err(CallError::Deadline),
        }
    }
}
