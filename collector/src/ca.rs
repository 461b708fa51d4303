//! A small certificate authority, so that the demo and small fleets have mutual TLS without more tools.
//!
//! ECDSA P-256. A node's certificate can only be a client and a collector's only a server, so neither
//! can play the other. Keys are written with mode 0600, and nothing is ever overwritten. Large fleets
//! use their own authority: the collector reads any PEM files.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use holdfast_daemon::address::{AddressError, HostName};
use holdfast_daemon::capped;
use jiff::{Span, Timestamp, ToSpan as _};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

/// Our own files are a kilobyte.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The authority's certificate, in its own folder and beside those that it signs.
const AUTHORITY: &str = "ca.pem";

/// Clocks of a fleet differ: a certificate is valid from a little before it was made.
const BACKDATED_HOURS: i64 = 1;

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file could not be read, or exists already.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what `ca init` has written.
    #[error("{}: not written by `ca init`", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Another authority's certificate is there.
    #[error("{}: the certificate of another authority; choose another folder", path.display())]
    OtherAuthority {
        /// The file.
        path: PathBuf,
    },
    /// A name is no host name.
    #[error(transparent)]
    Name(#[from] AddressError),
    /// A collector needs a name or address that agents dial.
    #[error("at least one --dns or --ip is needed")]
    NoName,
    /// The time of its end cannot be expressed.
    #[error("{0} days are too many")]
    Days(u32),
    /// The library refused.
    #[error("certificate: {0}")]
    Library(#[from] rcgen::Error),
}

/// The files of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority's certificate: whoever shows the first needs it to check his peer.
    pub ca: PathBuf,
}

/// Makes the authority of a domain in `folder`: `ca.pem`, `ca-key.pem`, `domain`.
pub fn init(folder: &Path, domain: &str, days: u32, now: Timestamp) -> Result<Written, CaError> {
    let params = authority(domain, days, now)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.self_signed(&key)?;
    make_private(folder)?;
    let written = write(folder, "ca", &certificate.pem(), &key)?;
    create(&folder.join("domain"), domain, 0o644)?;
    Ok(written)
}

/// Makes the certificate of a node: `NAME.pem`, `NAME-key.pem` and `ca.pem` in `out`, with the URI
/// `spiffe://DOMAIN/node/NAME`.
pub fn node(
    folder: &Path,
    name: &str,
    out: &Path,
    days: u32,
    now: Timestamp,
) -> Result<Written, CaError> {
    host_name(name)?;
    let domain = read(&folder.join("domain"))?;
    let mut params = params(name, days, now)?;
    let uri = format!("spiffe://{domain}/node/{name}");
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    sign(folder, name, out, params, now)
}

/// Makes the certificate of a collector: `collector.pem`, `collector-key.pem` and `ca.pem` in `out`.
pub fn collector(
    folder: &Path,
    names: &[String],
    addresses: &[IpAddr],
    out: &Path,
    (days, now): (u32, Timestamp),
) -> Result<Written, CaError> {
    let mut params = params("Holdfast collector", days, now)?;
    for name in names {
        host_name(name)?;
        let name = name.as_str().try_into()?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    let addresses = addresses.iter().copied().map(SanType::IpAddress);
    params.subject_alt_names.extend(addresses);
    if params.subject_alt_names.is_empty() {
        return Err(CaError::NoName);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    sign(folder, "collector", out, params, now)
}

/// The authority's own certificate. What it signs names it by its subject and key only, so this with the
/// key is all that is needed to sign.
fn authority(domain: &str, days: u32, now: Timestamp) -> Result<CertificateParams, CaError> {
    host_name(domain)?;
    let mut params = params(&format!("Holdfast CA of {domain}"), days, now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn sign(
    folder: &Path,
    name: &str,
    out: &Path,
    mut params: CertificateParams,
    now: Timestamp,
) -> Result<Written, CaError> {
    let path = folder.join("ca-key.pem");
    let key = KeyPair::from_pem(&read(&path)?).map_err(|_pem| CaError::Foreign { path })?;
    let domain = read(&folder.join("domain"))?;
    let issuer = Issuer::new(authority(&domain, 1, now)?, key);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.signed_by(&key, &issuer)?;
    make_private(out)?;
    put_authority(folder, out)?;
    write(out, name, &certificate.pem(), &key)
}

/// Puts the authority's certificate beside those that it signs, so that the folder is all that a node or
/// collector needs.
fn put_authority(folder: &Path, out: &Path) -> Result<(), CaError> {
    let text = read(&folder.join(AUTHORITY))?;
    let path = out.join(AUTHORITY);
    match create(&path, &text, 0o644) {
        Err(CaError::File { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
            if read(&path)? == text {
                Ok(())
            } else {
                Err(CaError::OtherAuthority { path })
            }
        }
        created => created,
    }
}

fn make_private(folder: &Path) -> Result<(), CaError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| CaError::File {
        path: folder.to_owned(),
        source,
    })
}

fn params(name: &str, days: u32, now: Timestamp) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let at = |span: Span| {
        let at = now
            .checked_add(span)
            .map_err(|_range| CaError::Days(days))?;
        Ok::<_, CaError>(SystemTime::from(at).into())
    };
    let hours = i64::from(days).saturating_mul(24);
    params.not_before = at((-BACKDATED_HOURS).hours())?;
    params.not_after = at(Span::new()
        .try_hours(hours)
        .map_err(|_range| CaError::Days(days))?)?;
    Ok(params)
}

fn host_name(name: &str) -> Result<(), CaError> {
    HostName::try_from(name.to_owned())?;
    Ok(())
}

fn read(path: &Path) -> Result<String, CaError> {
    let bytes = capped::read_file(path, MAX_FILE_BYTES).map_err(|source| CaError::File {
        path: path.to_owned(),
        source,
    })?;
    String::from_utf8(bytes).map_err(|_not_utf8| CaError::Foreign {
        path: path.to_owned(),
    })
}

/// The key is written first: a certificate without its key is of no use, and its name is then free.
fn write(folder: &Path, name: &str, certificate: &str, key: &KeyPair) -> Result<Written, CaError> {
    let written = Written {
        certificate: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}-key.pem")),
        ca: folder.join(AUTHORITY),
    };
    create(&written.key, &key.serialize_pem(), 0o600)?;
    create(&written.certificate, certificate, 0o644)?;
    Ok(written)
}

fn create(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    created.map_err(|source| CaError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::now()
    }

    #[test]
    fn keys_are_private_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("ca");
        let ca = init(&folder, "fleet.example", 1, now()).unwrap();
        let mode = std::fs::metadata(&ca.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let before = read(&ca.key).unwrap();

        assert!(matches!(
            init(&folder, "fleet.example", 1, now()),
            Err(CaError::File { .. })
        ));
        assert_eq!(read(&ca.key).unwrap(), before);
    }

    #[test]
    fn a_node_certificate_names_its_node_once_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        init(folder.path(), "fleet.example", 1, now()).unwrap();
        let written = node(folder.path(), "n-1", folder.path(), 1, now()).unwrap();
        let pem = read(&written.certificate).unwrap();
        let certificate =
            <rustls_pki_types::CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(
                pem.as_bytes(),
            )
            .unwrap();
        assert_eq!(
            holdfast_daemon::tls::peer_node(&certificate).unwrap(),
            "n-1"
        );
    }

    #[test]
    fn the_authority_goes_with_each_certificate_and_replaces_no_other() {
        let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ca = init(folder.path(), "fleet.example", 1, now()).unwrap();
        let out = out.path().join("pki");
        let one = node(folder.path(), "n-1", &out, 1, now()).unwrap();
        let two = node(folder.path(), "n-2", &out, 1, now()).unwrap();
        assert_eq!(one.ca, out.join("ca.pem"));
        assert_eq!(read(&one.ca).unwrap(), read(&ca.certificate).unwrap());
        assert_eq!(one.ca, two.ca);

        std::fs::write(&one.ca, "another").unwrap();
        let refused = node(folder.path(), "n-3", &out, 1, now());
        assert!(matches!(refused, Err(CaError::OtherAuthority { .. })));
        assert!(!out.join("n-3.pem").exists() && !out.join("n-3-key.pem").exists());
    }

    #[test]
    fn names_that_are_none_and_files_that_are_not_ours_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert!(matches!(
            node(folder, "n", folder, 1, now()),
            Err(CaError::File { .. })
        ));
        init(folder, "fleet.example", 1, now()).unwrap();
        for name in ["", "a/b", "../x", "a b"] {
            assert!(
                matches!(node(folder, name, folder, 1, now()), Err(CaError::Name(_))),
                "{name}"
            );
        }
        let nameless = collector(folder, &[], &[], folder, (1, now()));
        assert!(matches!(nameless, Err(CaError::NoName)));
        assert!(matches!(
            node(folder, "n", folder, u32::MAX, now()),
            Err(CaError::Days(_))
        ));

        std::fs::write(folder.join("ca-key.pem"), "garbage").unwrap();
        assert!(matches!(
            node(folder, "n", folder, 1, now()),
            Err(CaError::Foreign { .. })
        ));
    }
}
