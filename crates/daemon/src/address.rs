//! Addresses and names of a configuration, as types: what is none is refused where it is written, with what
//! was expected. Nothing here opens or resolves one.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use rustls_pki_types::ServerName;
use serde::Deserialize;

/// A host name has at most that many bytes.
pub const MAX_NAME_BYTES: usize = 253;

/// Why a text of the configuration is no address or name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No address to listen on.
    #[error("expected ADDRESS:PORT such as \"127.0.0.1:7401\" or \"[::1]:7401\", found {0:?}")]
    Listen(String),
    /// An address that others reach.
    #[error(
        "expected a loopback address: another one only with TLS and client authentication, which this \
         endpoint does not have yet; found {0:?}"
    )]
    NotLoopback(String),
    /// No host with a port.
    #[error("expected HOST:PORT such as \"collector.example.org:7400\", found {0:?}")]
    HostPort(String),
    /// Nothing that a certificate can carry.
    #[error("expected a DNS name or an IP address, found {0:?}")]
    PeerName(String),
    /// No name of a host.
    #[error(
        "expected a host name of at most {MAX_NAME_BYTES} letters, digits, '-', '.' and '_', found {0:?}"
    )]
    HostName(String),
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListenAddress(SocketAddr);

impl ListenAddress {
    /// All addresses of this machine.
    pub const fn everywhere(port: u16) -> Self {
        Self(SocketAddr::new(
            std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port,
        ))
    }

    /// The address.
    pub const fn address(self) -> SocketAddr {
        self.0
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        match text.parse() {
            Ok(address) => Ok(Self(address)),
            Err(_no_address) => Err(AddressError::Listen(text)),
        }
    }
}

/// An address that only this machine reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LoopbackAddress(SocketAddr);

impl LoopbackAddress {
    /// 127.0.0.1.
    pub const fn localhost(port: u16) -> Self {
        Self(SocketAddr::new(
            std::net::IpAddr::V4(Ipv4Addr::LOCALHOST),
            port,
        ))
    }

    /// The address.
    pub const fn address(self) -> SocketAddr {
        self.0
    }
}

impl TryFrom<String> for LoopbackAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        let address = ListenAddress::try_from(text.clone())?.address();
        if address.ip().is_loopback() {
            Ok(Self(address))
        } else {
            Err(AddressError::NotLoopback(text))
        }
    }
}

/// `HOST:PORT`, resolved by whoever dials it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPort(String);

impl HostPort {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let is_port = |port: &str| {
            // `parse` takes a sign.
            port.bytes().all(|byte| byte.is_ascii_digit())
                && port.parse::<u16>().is_ok_and(|port| port != 0)
        };
        let is_host = |host: &str| match host.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
            None => !host.contains(':') && ServerName::try_from(host).is_ok(),
        };
        match text.rsplit_once(':') {
            Some((host, port)) if is_host(host) && is_port(port) => Ok(Self(text.to_owned())),
            _ => Err(AddressError::HostPort(text.to_owned())),
        }
    }
}

impl TryFrom<String> for HostPort {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

/// The name that a peer's certificate must carry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PeerName(String);

impl PeerName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PeerName {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        match ServerName::try_from(text.as_str()) {
            Ok(_name) => Ok(Self(text)),
            Err(_no_name) => Err(AddressError::PeerName(text)),
        }
    }
}

/// The name of a host or node: it becomes a label, a row's key, a file's name and a line on a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HostName(String);

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl TryFrom<String> for HostName {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_some = text.bytes().any(|byte| byte.is_ascii_alphanumeric());
        if is_some && text.len() <= MAX_NAME_BYTES && text.bytes().all(is_plain) {
            Ok(Self(text))
        } else {
            Err(AddressError::HostName(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_to_listen_on_has_a_port_and_no_name() {
        let parse = |text: &str| ListenAddress::try_from(text.to_owned());
        assert_eq!(parse("0.0.0.0:7400"), Ok(ListenAddress::everywhere(7400)));
        for wrong in ["nowhere", "localhost:7400", "127.0.0.1", ":7400", ""] {
            let refusal = parse(wrong).unwrap_err().to_string();
            assert!(refusal.contains("expected ADDRESS:PORT"), "{refusal}");
        }
    }

    #[test]
    fn only_this_machine_reaches_a_loopback_address() {
        let parse = |text: &str| LoopbackAddress::try_from(text.to_owned());
        assert_eq!(
            parse("127.0.0.1:7401"),
            Ok(LoopbackAddress::localhost(7401))
        );
        assert!(parse("[::1]:0").is_ok());
        for wrong in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
            assert!(
                matches!(parse(wrong), Err(AddressError::NotLoopback(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_host_with_a_port_is_a_name_or_an_address() {
        for good in [
            "collector.example:7400",
            "127.0.0.1:1",
            "[::1]:65535",
            "r_1:5000",
        ] {
            assert_eq!(good.parse::<HostPort>().unwrap().as_str(), good);
        }
        for wrong in [
            "",
            ":1",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "::1:1",
            "[::1]",
            "[host]:1",
            "a b:1",
            "http://host:1",
            "host:1/path",
            "user@host:1",
        ] {
            assert!(wrong.parse::<HostPort>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_is_bounded_and_plain() {
        let host = |text: &str| HostName::try_from(text.to_owned());
        assert!(host("node-7.example").is_ok());
        assert!(host(&"n".repeat(MAX_NAME_BYTES)).is_ok());
        let long = "n".repeat(MAX_NAME_BYTES + 1);
        for wrong in ["", "a b", "a/b", "..", "näme", "a\n", &long] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
        let peer = |text: &str| PeerName::try_from(text.to_owned());
        assert!(peer("collector.example").is_ok() && peer("::1").is_ok());
        for wrong in ["", "a b", "*", "host:1"] {
            assert!(peer(wrong).is_err(), "{wrong}");
        }
    }
}
