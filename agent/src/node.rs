//! Who this node is: its name, and the certificate that says so to the collector. If the two differ the agent
//! does not start: the collector would keep its findings under another node.

use std::path::PathBuf;

use holdfast_daemon::address::{AddressError, HostName};
use holdfast_daemon::tls::{TlsError, TlsFile, TlsFiles};

use crate::config::{Collector, Config};

/// Why the node has no name, or not this one.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The host's own name cannot be used.
    #[error("the host's name is no node name, set node-name: {0}")]
    Host(#[source] AddressError),
    /// The files for the collector cannot be used.
    #[error("{key}: {source}")]
    Tls {
        /// The key of the configuration that is to blame.
        key: &'static str,
        /// What is wrong.
        source: TlsError,
    },
    /// The certificate is another node's.
    #[error(
        "report.collector.certificate: {} is the certificate of node {holder:?}, the node's name is \
         {name:?}", file.display()
    )]
    OtherNode {
        /// The certificate.
        file: PathBuf,
        /// Whose it is.
        holder: String,
        /// The node's name.
        name: String,
    },
}

impl NodeError {
    /// An error about the files for the collector.
    pub fn of_files(files: &TlsFiles, source: TlsError) -> Self {
        let key = match files.blamed(&source) {
            Some(TlsFile::Certificate) => "report.collector.certificate",
            Some(TlsFile::Key) => "report.collector.key",
            Some(TlsFile::Ca) => "report.collector.ca",
            None => "report.collector",
        };
        Self::Tls { key, source }
    }
}

/// The node's name: configured, or the host's. The certificate's must be the same, and usable.
pub fn name(config: &Config) -> Result<String, NodeError> {
    let name = match &config.node_name {
        Some(name) => name.clone(),
        None => host_name()?,
    }
    .into_string();
    let Some(collector) = &config.report.collector else {
        return Ok(name);
    };
    let files = tls_files(collector);
    let refused = |source| NodeError::of_files(&files, source);
    files.check_client().map_err(refused)?;
    let holder = files.node().map_err(refused)?;
    if holder == name {
        Ok(name)
    } else {
        Err(NodeError::OtherNode {
            file: files.certificate,
            holder,
            name,
        })
    }
}

fn host_name() -> Result<HostName, NodeError> {
    let host = rustix::system::uname();
    HostName::try_from(host.nodename().to_string_lossy().into_owned()).map_err(NodeError::Host)
}

/// The files with which this node shows itself to the collector.
pub fn tls_files(collector: &Collector) -> TlsFiles {
    TlsFiles {
        certificate: collector.certificate.clone(),
        key: collector.key.clone(),
        ca: collector.ca.clone(),
    }
}
