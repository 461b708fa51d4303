//! Who the peer is, by its certificate and by nothing else.

use rustls_pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::address::{AddressError, HostName};

/// Why a certificate names no node.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It cannot be decoded.
    #[error("certificate cannot be decoded: {0}")]
    Encoding(#[from] x509_cert::der::Error),
    /// It has no URI `spiffe://DOMAIN/node/NAME` and no DNS name.
    #[error("certificate names no node")]
    NoName,
    /// It has several, and we will not choose one.
    #[error("certificate names several nodes")]
    SeveralNames,
    /// The name is no host name.
    #[error("node name in the certificate: {0}")]
    Name(#[from] AddressError),
}

/// The node's name: from the URI `spiffe://DOMAIN/node/NAME` among the subject's alternative names, else
/// from the DNS name. The certificate's chain must have been verified before.
///
/// Two names are refused, because whichever we took, a message would be stored under a node that its
/// sender is only one of.
pub fn peer_node(certificate: &CertificateDer<'_>) -> Result<String, PeerError> {
    let certificate = Certificate::from_der(certificate)?;
    let names = certificate.tbs_certificate.get::<SubjectAltName>()?;
    let Some((_is_critical, SubjectAltName(names))) = names else {
        return Err(PeerError::NoName);
    };
    let by_uri = names.iter().filter_map(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => node_of_uri(uri.as_str()),
        _ => None,
    });
    if let Some(name) = only(by_uri)? {
        return host_name(name);
    }
    let by_dns = names.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str()),
        _ => None,
    });
    host_name(only(by_dns)?.ok_or(PeerError::NoName)?)
}

fn node_of_uri(uri: &str) -> Option<&str> {
    let (domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
    let name = path.strip_prefix("node/")?;
    (!domain.is_empty()).then_some(name)
}

fn only<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<Option<&'a str>, PeerError> {
    let first = names.next();
    match names.next() {
        Some(_) => Err(PeerError::SeveralNames),
        None => Ok(first),
    }
}

fn host_name(name: &str) -> Result<String, PeerError> {
    Ok(HostName::try_from(name.to_owned())?.into_string())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn node(names: &[(&str, &str)]) -> Result<String, PeerError> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|(kind, name)| match *kind {
                "uri" => SanType::URI((*name).try_into().unwrap()),
                _ => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        peer_node(certificate.der())
    }

    #[test]
    fn the_uri_names_the_node_before_the_dns_name_does() {
        let both = [("dns", "other"), ("uri", "spiffe://fleet.example/node/n-1")];
        assert_eq!(node(&both).unwrap(), "n-1");
        assert_eq!(node(&[("dns", "n-2.example")]).unwrap(), "n-2.example");
    }

    #[test]
    fn a_certificate_without_a_node_is_refused() {
        assert!(matches!(node(&[]), Err(PeerError::NoName)));
        let service = [("uri", "spiffe://fleet.example/service/n-1")];
        assert!(matches!(node(&service), Err(PeerError::NoName)));
        let no_domain = [("uri", "spiffe:///node/n-1")];
        assert!(matches!(node(&no_domain), Err(PeerError::NoName)));
    }

    #[test]
    fn a_certificate_with_two_nodes_is_refused() {
        let two = [
            ("uri", "spiffe://a/node/n-1"),
            ("uri", "spiffe://b/node/n-2"),
        ];
        assert!(matches!(node(&two), Err(PeerError::SeveralNames)));
        let two = [("dns", "n-1"), ("dns", "n-2")];
        assert!(matches!(node(&two), Err(PeerError::SeveralNames)));
    }

    #[test]
    fn a_name_that_is_no_host_name_is_refused() {
        for name in ["", "a/b", "a%0ab", "a b"] {
            let uri = format!("spiffe://a/node/{name}");
            assert!(
                matches!(node(&[("uri", &uri)]), Err(PeerError::Name(_))),
                "{name:?}"
            );
        }
        let long = format!(
            "spiffe://a/node/{}",
            "n".repeat(crate::address::MAX_NAME_BYTES + 1)
        );
        assert!(matches!(node(&[("uri", &long)]), Err(PeerError::Name(_))));
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        let garbage = CertificateDer::from(vec![0x30, 0x03, 1, 2]);
        assert!(matches!(peer_node(&garbage), Err(PeerError::Encoding(_))));
    }
}
