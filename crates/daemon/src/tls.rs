//! TLS with certificates on both sides, from PEM files that are replaced while running.
//!
//! TLS 1.3 only: both ends are ours. No session is resumed: a resumed one would not check the peer's
//! certificate again, so an expired or withdrawn one would live on in its ticket.
//! It never falls back to a connection without a client certificate.

mod peer;
mod reload;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use x509_cert::der::Decode as _;

pub use self::peer::{PeerError, peer_node};
pub use self::reload::{Reloading, Reloads, Watch};
use crate::capped;

/// A certificate file holds a few chains at most; a bundle of all public authorities has 250 KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What both sides speak: HTTP/2, below gRPC.
const ALPN: &[u8] = b"h2";

/// The three files of one side.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TlsFiles {
    /// Our certificate, followed by those between it and the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities that may have signed the peer's certificate.
    pub ca: PathBuf,
}

/// One of the three files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// Our certificate.
    Certificate,
    /// Its key.
    Key,
    /// The authorities.
    Ca,
}

/// Why the files do not make a configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not PEM.
    #[error("{}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("{}: no certificate in it", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// An authority is not a certificate that can sign.
    #[error("{}: {source}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// Certificate and key do not fit, as in a rotation that was caught half-way.
    #[error("{}: {source}", path.display())]
    KeyPair {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The certificate cannot be decoded.
    #[error("{}: not an X.509 certificate: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: x509_cert::der::Error,
    },
    /// Our own certificate names no node.
    #[error("{}: {source}", path.display())]
    Node {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PeerError,
    },
    /// The check of client certificates could not be set up.
    #[error("client authorities: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// The library refuses its own defaults.
    #[error("TLS library: {0}")]
    Library(rustls::Error),
}

impl TlsError {
    /// The file that is to blame.
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Unreadable { path, .. }
            | Self::Pem { path, .. }
            | Self::NoCertificate { path }
            | Self::Authority { path, .. }
            | Self::KeyPair { path, .. }
            | Self::Certificate { path, .. }
            | Self::Node { path, .. } => Some(path),
            Self::Verifier(_) | Self::Library(_) => None,
        }
    }
}

/// The contents of [`TlsFiles`] at one moment.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl TlsFiles {
    pub(crate) fn read(&self) -> Result<Contents, TlsError> {
        let read = |path: &PathBuf| {
            capped::read_file(path, MAX_FILE_BYTES).map_err(|source| TlsError::Unreadable {
                path: path.clone(),
                source,
            })
        };
        Ok(Contents {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            ca: read(&self.ca)?,
        })
    }

    fn chain(&self, contents: &Contents) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(&self.certificate, &contents.certificate)
    }

    fn key(&self, contents: &Contents) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&contents.key).map_err(|source| TlsError::Pem {
            path: self.key.clone(),
            source,
        })
    }

    fn authorities(&self, contents: &Contents) -> Result<RootCertStore, TlsError> {
        let mut authorities = RootCertStore::empty();
        for certificate in certificates(&self.ca, &contents.ca)? {
            authorities
                .add(certificate)
                .map_err(|source| TlsError::Authority {
                    path: self.ca.clone(),
                    source,
                })?;
        }
        Ok(authorities)
    }

    fn key_pair_error(&self, source: rustls::Error) -> TlsError {
        TlsError::KeyPair {
            path: self.certificate.clone(),
            source,
        }
    }

    /// What [`Reloading::client`] would refuse.
    pub fn check_client(&self) -> Result<(), TlsError> {
        client_config(self, &self.read()?).map(drop)
    }

    /// What [`Reloading::server`] would refuse.
    pub fn check_server(&self) -> Result<(), TlsError> {
        server_config(self, &self.read()?).map(drop)
    }

    /// Which of the files is to blame; a pair that does not fit is the certificate's.
    pub fn blamed(&self, error: &TlsError) -> Option<TlsFile> {
        let path = error.path()?;
        [
            (&self.certificate, TlsFile::Certificate),
            (&self.key, TlsFile::Key),
            (&self.ca, TlsFile::Ca),
        ]
        .into_iter()
        .find_map(|(file, which)| (file == path).then_some(which))
    }

    /// The node that our own certificate names.
    pub fn node(&self) -> Result<String, TlsError> {
        let chain = self.chain(&self.read()?)?;
        // `certificates` gives one at least.
        chain
            .first()
            .map_or(Err(PeerError::NoName), peer_node)
            .map_err(|source| TlsError::Node {
                path: self.certificate.clone(),
                source,
            })
    }

    /// Until when our own certificate is valid, in Unix seconds.
    pub(crate) fn not_after(&self, contents: &Contents) -> Result<u64, TlsError> {
        let chain = self.chain(contents)?;
        let first = chain.first().ok_or_else(|| TlsError::NoCertificate {
            path: self.certificate.clone(),
        })?;
        let certificate =
            x509_cert::Certificate::from_der(first).map_err(|source| TlsError::Certificate {
                path: self.certificate.clone(),
                source,
            })?;
        let not_after = certificate.tbs_certificate.validity.not_after;
        Ok(not_after.to_unix_duration().as_secs())
    }
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem {
            path: path.to_owned(),
            source,
        })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(certificates)
}

/// The listening side: every client must show a certificate of the authorities in `ca`.
pub(crate) fn server_config(
    files: &TlsFiles,
    contents: &Contents,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let authorities = Arc::new(files.authorities(contents)?);
    let verifier =
        WebPkiClientVerifier::builder_with_provider(authorities, Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Library)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(files.chain(contents)?, files.key(contents)?)
        .map_err(|error| files.key_pair_error(error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The dialling side: shows our certificate to a server of the authorities in `ca`.
pub(crate) fn client_config(
    files: &TlsFiles,
    contents: &Contents,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Library)?
        .with_root_certificates(files.authorities(contents)?)
        .with_client_auth_cert(files.chain(contents)?, files.key(contents)?)
        .map_err(|error| files.key_pair_error(error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

impl std::fmt::Debug for Contents {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}
