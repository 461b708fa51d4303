//! Accepts connections: a TLS handshake for each, in a task of its own with a deadline, bounded in
//! number, and the name of the node from the certificate.
//!
//! Nothing of a message is read before the handshake is done; there is no plaintext.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_daemon::shutdown::Stop;
use holdfast_daemon::tls::{Reloading, peer_node};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tower::limit::GlobalConcurrencyLimitLayer;

use super::{
    CALL, Ingest, KEEPALIVE, KEEPALIVE_ANSWER, MAX_ALL_CALLS, MAX_CALLS, MAX_CONNECTION_AGE,
    MAX_HEADER_BYTES, MAX_PENDING_RESETS, MAX_STREAMS,
};
use crate::telemetry::{Handshake, LogLimit, Metrics};

/// A peer that does not finish is gone, or wants to keep the place.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes at a time: a reconnecting fleet needs many, and each holds buffers and a core.
const MAX_HANDSHAKES: usize = 256;

/// Connections of one node: the live one, and some whose end we have not seen yet.
const MAX_PER_NODE: usize = 4;

/// Without descriptors `accept` fails at once, again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections get this long to end when the collector stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Why agents cannot be listened to.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {source}")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// A bound address for agents.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds the address; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let bound = async {
            let tcp = TcpListener::bind(address).await?;
            let address = tcp.local_addr()?;
            Ok(Self { tcp, address })
        };
        bound.await.map_err(|source| BindError { address, source })
    }

    /// The address that was bound.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` turns true.
    pub async fn serve(
        self,
        tls: Arc<Reloading<ServerConfig>>,
        ingest: Ingest,
        mut stop: Stop,
    ) -> Result<(), tonic::transport::Error> {
        let (accepted, connections) = mpsc::channel(1);
        let acceptor = Acceptor {
            tls,
            accepted,
            metrics: ingest.metrics.clone(),
            per_node: PerNode::default(),
            failures: Arc::default(),
        };
        let mut accepting = JoinSet::new();
        accepting.spawn(acceptor.run(self.tcp, stop.clone()));
        let relay = super::relay::server(ingest.relay.clone(), Arc::clone(&ingest.tables));
        let mut stopping = stop.clone();
        let serving = Server::builder()
            .timeout(CALL)
            .max_concurrent_streams(MAX_STREAMS)
            .concurrency_limit_per_connection(MAX_CALLS)
            .max_connection_age(MAX_CONNECTION_AGE)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
            .layer(GlobalConcurrencyLimitLayer::new(MAX_ALL_CALLS))
            .add_service(super::server(ingest))
            .add_service(relay)
            .serve_with_incoming_shutdown(ReceiverStream::new(connections), async move {
                let _gone = stopping.wait_for(|stopped| *stopped).await.is_err();
            });
        let drained = async {
            let _gone = stop.wait_for(|stopped| *stopped).await.is_err();
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            ended = serving => ended,
            () = drained => Ok(()), // a client that does not let go must not hold up the end
        }
    }
}

/// Who is behind a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The node that the certificate names, if it names one.
    pub node: Option<Arc<str>>,
}

/// Accepts connections.
#[derive(Clone, Debug)]
struct Acceptor {
    tls: Arc<Reloading<ServerConfig>>,
    accepted: mpsc::Sender<io::Result<Connection>>,
    metrics: Metrics,
    per_node: PerNode,
    failures: Arc<LogLimit>,
}

impl Acceptor {
    async fn run(self, listener: TcpListener, mut stop: Stop) {
        let mut handshakes = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                _ = stop.changed() => return,
                Some(_) = handshakes.join_next() => {}
                accepted = listener.accept(), if handshakes.len() < MAX_HANDSHAKES => match accepted {
                    Ok((stream, address)) => {
                        handshakes.spawn(self.clone().handshake(stream, address));
                    }
                    Err(error) => {
                        self.on_failure(None, &error);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    async fn handshake(self, stream: TcpStream, address: SocketAddr) {
        // An answer of a few bytes must not wait for the next one. Failing to say so costs only time.
        let _is_slower = stream.set_nodelay(true).is_err();
        let acceptor = TlsAcceptor::from(self.tls.current());
        let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.metrics.handshake(Handshake::Failed, 1);
                return self.on_failure(Some(address), &error);
            }
            Err(_elapsed) => return self.metrics.handshake(Handshake::TimedOut, 1),
        };
        let (_tcp, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        // A certificate without a node gets its answer, PERMISSION_DENIED, from the call.
        let node = certificate
            .and_then(|certificate| peer_node(certificate).ok())
            .map(Arc::from);
        let Some(place) = self.per_node.enter(node.clone()) else {
            return self.metrics.handshake(Handshake::TooMany, 1);
        };
        self.metrics.handshake(Handshake::Accepted, 1);
        self.metrics.connections.inc();
        let connection = Connection {
            stream,
            peer: Peer { node },
            metrics: self.metrics.clone(),
            _place: place,
        };
        // The server is gone: so is the connection.
        let _is_over = self.accepted.send(Ok(connection)).await.is_err();
    }

    fn on_failure(&self, address: Option<SocketAddr>, error: &io::Error) {
        if let Some(held_back) = self.failures.pass(Instant::now()) {
            let address = address.map(|address| address.to_string());
            tracing::warn!(address, %error, held_back, "Connection could not be accepted.");
        }
    }
}

type Counts = HashMap<Option<Arc<str>>, usize>;

/// How many connections each node has. Certificates without a node share one count.
#[derive(Clone, Debug, Default)]
struct PerNode {
    counts: Arc<Mutex<Counts>>,
}

impl PerNode {
    /// A place, unless the node has as many as it may.
    fn enter(&self, node: Option<Arc<str>>) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(node.clone()).or_insert(0);
        if *count >= MAX_PER_NODE {
            return None;
        }
        *count += 1;
        Some(Place {
            per_node: self.clone(),
            node,
        })
    }
}

/// One of the connections that a node may have; given back when dropped.
#[derive(Debug)]
struct Place {
    per_node: PerNode,
    node: Option<Arc<str>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let counts = &self.per_node.counts;
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.node);
            }
        }
    }
}

/// An accepted connection, with who is behind it.
#[derive(Debug)]
struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    metrics: Metrics,
    _place: Place,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_a_few_connections_and_gets_their_places_back() {
        let per_node = PerNode::default();
        let node = || Some(Arc::from("n-1"));
        let mut places: Vec<_> = (0..MAX_PER_NODE)
            .map(|_| per_node.enter(node()).unwrap())
            .collect();
        assert!(per_node.enter(node()).is_none());
        assert!(per_node.enter(Some(Arc::from("n-2"))).is_some());

        places.pop();
        assert!(per_node.enter(node()).is_some());
        drop(places);
        assert!(per_node.counts.lock().unwrap().is_empty());
    }
}
