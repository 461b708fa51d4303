//! The one connection to the collector: HTTP/2 over mutual TLS. It connects when somebody
//! calls, and again when a call comes after it broke; when and how often to call is the caller's
//! business (`report::uplink` waits between attempts).
//!
//! The TLS configuration is taken anew for each connection, so a rotated certificate needs no restart.
//! The collector's name is always checked; nothing here can switch that off, and nothing is sent before.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Name, TCP and TLS together: a black-holed collector must not hold an attempt for minutes.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// A connection whose peer went away without a word is found dead after these two.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The only protocol that we speak over TLS; the configuration offers it.
const ALPN: &[u8] = b"h2";

/// Where the collector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorAddress {
    /// `HOST:PORT`; resolved for each connection.
    authority: String,
    /// The name that its certificate must carry.
    server_name: ServerName<'static>,
}

/// Why an address is none.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// No `HOST:PORT`.
    #[error("expected HOST:PORT")]
    NoPort,
    /// The host cannot be a certificate's name.
    #[error("host: {0}")]
    Name(#[from] InvalidDnsNameError),
    /// Not the authority of a URI.
    #[error("address: {0}")]
    Authority(#[from] tonic::transport::Error),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No answer in time.
    #[error("no connection within {} s", CONNECT_DEADLINE.as_secs())]
    Deadline,
    /// Name resolution, TCP, or the TLS handshake.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The collector speaks TLS, but no HTTP/2.
    #[error("the collector does not speak HTTP/2")]
    Protocol,
}

impl CollectorAddress {
    /// The collector at `HOST:PORT`, whose certificate carries `server_name`, or HOST when there is none.
    pub fn new(authority: &str, server_name: Option<&str>) -> Result<Self, AddressError> {
        let (host, port) = authority.rsplit_once(':').ok_or(AddressError::NoPort)?;
        port.parse::<u16>()
            .map_err(|_no_number| AddressError::NoPort)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let server_name = ServerName::try_from(server_name.unwrap_or(host).to_owned())?;
        Endpoint::from_shared(uri(authority))?;
        Ok(Self {
            authority: authority.to_owned(),
            server_name,
        })
    }
}

/// Gives the TLS configuration in force; asked for each connection.
pub type TlsSource = Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync>;

/// A channel to the collector. Does not connect yet.
pub fn channel(address: &CollectorAddress, tls: TlsSource) -> Result<Channel, AddressError> {
    let address = address.clone();
    let endpoint = Endpoint::from_shared(uri(&address.authority))?
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let connector = tower::service_fn(move |_uri: Uri| {
        let (address, tls) = (address.clone(), Arc::clone(&tls));
        async move {
            let stream = timeout(CONNECT_DEADLINE, connect(&address, &tls)).await;
            stream.unwrap_or(Err(LinkError::Deadline)).map(TokioIo::new)
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// tonic refuses `https` when the TLS below it is not its own.
fn uri(authority: &str) -> String {
    format!("http://{authority}")
}

async fn connect(
    address: &CollectorAddress,
    tls: &TlsSource,
) -> Result<TlsStream<TcpStream>, LinkError> {
    let stream = TcpStream::connect(&address.authority).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(tls())
        .connect(address.server_name.clone(), stream)
        .await?;
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(LinkError::Protocol);
    }
    Ok(stream)
}
