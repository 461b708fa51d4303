//! The whole configuration, as types. What a type cannot hold needs no check later; nothing here reads
//! a file or opens an address.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use holdfast_core::trust::policy::Glob;
use holdfast_daemon::address::{HostPort, ListenAddress, LoopbackAddress};
use holdfast_daemon::config::absolute_path;
use holdfast_daemon::logging::Log;
use holdfast_daemon::tls::{TlsError, TlsFile, TlsFiles};
use holdfast_registry::{Access, Registries};
use serde::Deserialize;

/// `/etc/holdfast/collector.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where agents report.
    #[serde(default)]
    pub grpc: Grpc,
    /// Where people and Prometheus ask.
    #[serde(default)]
    pub api: Api,
    /// Who we are, and whom we believe.
    pub tls: Tls,
    /// Where everything is kept.
    #[serde(default)]
    pub store: Store,
    /// Who is told.
    #[serde(default)]
    pub alertmanager: Alertmanager,
    /// When a node is silent.
    #[serde(default)]
    pub nodes: Nodes,
    /// Which registries are read for nodes without blobs.
    #[serde(default)]
    pub registry: Registry,
    /// What is logged.
    #[serde(default)]
    pub log: Log,
}

/// Where agents report: gRPC with certificates on both sides.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Grpc {
    /// The address.
    pub listen: ListenAddress,
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            listen: ListenAddress::everywhere(7400),
        }
    }
}

/// Where people and Prometheus ask: HTTP without authentication, so on this machine only.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Api {
    /// The address.
    pub listen: LoopbackAddress,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: LoopbackAddress::localhost(7401),
        }
    }
}

/// Certificates, as PEM files. They are read again when they change.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tls {
    /// Our certificate, followed by those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities that sign the agents' certificates.
    pub client_ca: PathBuf,
}

impl Tls {
    /// The three files.
    pub fn files(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            ca: self.client_ca.clone(),
        }
    }

    /// The key of the file that is to blame.
    pub fn blamed(&self, error: &TlsError) -> &'static str {
        match self.files().blamed(error) {
            Some(TlsFile::Certificate) => "tls.certificate",
            Some(TlsFile::Key) => "tls.key",
            Some(TlsFile::Ca) => "tls.client-ca",
            None => "tls",
        }
    }
}

/// Where everything is kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Store {
    /// The database file.
    #[serde(deserialize_with = "absolute_path")]
    pub path: PathBuf,
    /// Days after which a resolved finding and an ended container are forgotten.
    pub resolved_days: NonZeroU32,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            path: PathBuf::from("/var/lib/holdfast/collector/collector.db"),
            resolved_days: const { NonZeroU32::new(90).unwrap() },
        }
    }
}

impl Store {
    /// How long what is over is kept.
    pub const fn kept(&self) -> Duration {
        Duration::from_hours(24).saturating_mul(self.resolved_days.get())
    }
}

/// Alertmanager, API v2. Every one of a cluster is told: put no load balancer before them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Alertmanager {
    /// Their base addresses.
    pub urls: Vec<AlertmanagerUrl>,
    /// Seconds between two sendings of an open finding.
    pub resend_seconds: NonZeroU64,
    /// Alerts that are sent at most; the worst ones first, the others are counted as withheld.
    pub max_alerts: NonZeroU32,
    /// Labels that every alert gets.
    pub labels: BTreeMap<LabelName, LabelValue>,
}

impl Default for Alertmanager {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            resend_seconds: const { NonZeroU64::new(60).unwrap() },
            max_alerts: const { NonZeroU32::new(5000).unwrap() },
            labels: BTreeMap::new(),
        }
    }
}

impl Alertmanager {
    /// Time between two sendings of an open finding.
    pub const fn resend(&self) -> Duration {
        Duration::from_secs(self.resend_seconds.get())
    }
}

/// The base address of one Alertmanager.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AlertmanagerUrl(reqwest::Url);

impl AlertmanagerUrl {
    /// Where alerts are posted.
    pub fn alerts(&self) -> reqwest::Url {
        let mut url = self.0.clone();
        let path = format!("{}/api/v2/alerts", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }
}

impl std::fmt::Display for AlertmanagerUrl {
    /// Without user and password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.origin().ascii_serialization())
    }
}

impl std::fmt::Debug for AlertmanagerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for AlertmanagerUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let url = reqwest::Url::parse(&text)
            .map_err(|error| format!("expected http://HOST:PORT or https://HOST:PORT: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err("expected http://HOST:PORT or https://HOST:PORT".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("expected an address without query and fragment".to_owned());
        }
        Ok(Self(url))
    }
}

/// A label's name that Alertmanager accepts and that we do not use ourselves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct LabelName(String);

/// Labels that say what an alert is; giving one of them a fixed value would make two alerts one.
const OWN_LABELS: &[&str] = &[
    "alertname",
    "severity",
    "kind",
    "product",
    "finding",
    "namespace",
    "workload",
    "container",
    "image",
    "node",
];

impl LabelName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LabelName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
        let is_rest = |c: char| is_first(c) || c.is_ascii_digit();
        if !name.starts_with(is_first) || !name.chars().all(is_rest) {
            return Err(format!(
                "expected a label name such as `team`, found {name:?}"
            ));
        }
        if OWN_LABELS.contains(&name.as_str()) {
            return Err(format!("expected a label that is not one of ours: {name}"));
        }
        Ok(Self(name))
    }
}

/// A label's value: not empty, because Alertmanager drops empty labels silently.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LabelValue(String);

impl LabelValue {
    /// The value.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LabelValue {
    type Error = &'static str;

    fn try_from(value: String) -> Result<Self, &'static str> {
        if value.is_empty() {
            return Err("expected a value that is not empty");
        }
        Ok(Self(value))
    }
}

/// When a node is silent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Nodes {
    /// Seconds without a heartbeat; agents send one every 15.
    pub silent_after_seconds: NonZeroU64,
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            silent_after_seconds: const { NonZeroU64::new(45).unwrap() },
        }
    }
}

impl Nodes {
    /// Time without a heartbeat.
    pub const fn silent_after(&self) -> Duration {
        Duration::from_secs(self.silent_after_seconds.get())
    }
}

/// Which registries are read, once a layer, for nodes whose blobs are gone.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Registry {
    /// Patterns of repositories that may be read, whoever asks; without any, no registry is.
    pub repositories: Vec<RepositoryPattern>,
    /// What may be read in an hour, in bytes.
    pub bytes_per_hour: NonZeroU64,
    /// Registries (`HOST:PORT`) that are asked over plain HTTP.
    pub insecure_registries: Vec<HostPort>,
    /// Credentials, in the form of docker's `config.json`.
    pub docker_config: Option<PathBuf>,
    /// Folders, absolute, in which its credential helpers are looked for.
    pub credential_helpers: Vec<PathBuf>,
    /// containerd's `certs.d` folders with `hosts.toml`.
    pub hosts_directories: Vec<PathBuf>,
}

impl Default for Registry {
    fn default() -> Self {
        let Registries {
            docker_config,
            credential_helpers,
            hosts_directories,
        } = Registries::default();
        Self {
            repositories: Vec::new(),
            bytes_per_hour: const { NonZeroU64::new(20 << 30).unwrap() },
            insecure_registries: Vec::new(),
            docker_config,
            credential_helpers,
            hosts_directories,
        }
    }
}

impl Registry {
    /// How registries are asked.
    pub fn access(&self) -> Access {
        let registries = Registries {
            docker_config: self.docker_config.clone(),
            credential_helpers: self.credential_helpers.clone(),
            hosts_directories: self.hosts_directories.clone(),
        };
        let insecure = self.insecure_registries.iter();
        let insecure: Vec<String> = insecure.map(|host| host.as_str().to_owned()).collect();
        registries.access(&insecure)
    }

    /// The repositories that may be read.
    pub fn allowed(&self) -> Vec<Glob> {
        let patterns = self.repositories.iter();
        patterns.map(|pattern| pattern.0.clone()).collect()
    }
}

/// A pattern of repositories: `*` is anything but a slash, `**` anything.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RepositoryPattern(Glob);

impl TryFrom<String> for RepositoryPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let expected = "expected a pattern of repositories such as registry.example.org/shop/*";
        // A tag or a digest would never match.
        if text.contains('@')
            || text
                .rsplit_once(':')
                .is_some_and(|(_, tag)| !tag.contains('/'))
        {
            return Err(format!(
                "{expected}, without tag and digest, found {text:?}"
            ));
        }
        let glob = Glob::parse(&text).map_err(|error| format!("{expected}: {error}"))?;
        Ok(Self(glob))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TLS: &str = "[tls]\ncertificate = \"c\"\nkey = \"k\"\nclient-ca = \"a\"\n";

    fn parse(more: &str) -> Result<Config, String> {
        holdfast_daemon::config::parse(&format!("{TLS}{more}"), Path::new("collector.toml"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn only_the_certificates_must_be_given() {
        let config = parse("").unwrap();
        assert_eq!(config.grpc.listen.address().to_string(), "0.0.0.0:7400");
        assert_eq!(config.api.listen.address().to_string(), "127.0.0.1:7401");
        assert_eq!(config.nodes.silent_after(), Duration::from_secs(45));
        assert!(config.registry.allowed().is_empty(), "none is read unasked");
    }

    #[test]
    fn the_example_is_a_configuration() {
        let example = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../systemd/collector.toml"
        ));
        holdfast_daemon::config::load::<Config>(example).unwrap();
    }

    #[test]
    fn an_api_that_others_reach_is_refused_with_its_line_and_the_reason() {
        let refusal = parse("[api]\nlisten = \"0.0.0.0:7401\"\n").unwrap_err();
        assert!(refusal.starts_with("collector.toml:6:10: "), "{refusal}");
        assert!(
            refusal.contains("TLS and client authentication"),
            "{refusal}"
        );
    }

    #[test]
    fn what_a_key_cannot_mean_is_refused_where_it_is_written() {
        for (more, place, said) in [
            ("[grpc]\nlisten = \"here\"\n", "6:10", "ADDRESS:PORT"),
            ("[api]\nlisten = \"localhost:1\"\n", "6:10", "ADDRESS:PORT"),
            ("[store]\npath = \"c.db\"\n", "6:8", "absolute path"),
            ("[log]\nfilter = \"a=b=c\"\n", "6:10", "log filter"),
            (
                "[registry]\nrepositories = [\"a.example/b\", \"a.example/b:1\"]\n",
                "6:16",
                "without tag",
            ),
            ("[registry]\nrepositories = [\"\"]\n", "6:16", "empty"),
            (
                "[registry]\ninsecure-registries = [\"a\"]\n",
                "6:23",
                "HOST:PORT",
            ),
        ] {
            let refusal = parse(more).unwrap_err();
            let place = format!("collector.toml:{place}: ");
            assert!(refusal.starts_with(&place), "{refusal}");
            assert!(refusal.contains(said), "{refusal}");
        }
    }

    #[test]
    fn unknown_keys_and_zeros_are_refused() {
        assert!(parse("[api]\nlisten-on = \"127.0.0.1:1\"\n").is_err());
        assert!(parse("[nodes]\nsilent-after-seconds = 0\n").is_err());
        assert!(parse("[alertmanager]\nresend-seconds = 0\n").is_err());
    }

    #[test]
    fn an_address_of_alertmanager_keeps_its_path_and_hides_its_password() {
        let config =
            parse("[alertmanager]\nurls = [\"https://u:secret@am.example/base/\"]\n").unwrap();
        let url = &config.alertmanager.urls[0];
        assert_eq!(url.alerts().path(), "/base/api/v2/alerts");
        assert!(!format!("{url} {config:?}").contains("secret"));
        for wrong in ["am.example:9093", "ftp://am.example", "http://a/?x=1", ""] {
            assert!(
                parse(&format!("[alertmanager]\nurls = [\"{wrong}\"]\n")).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_label_that_is_ours_or_that_alertmanager_refuses_is_refused() {
        assert!(parse("[alertmanager.labels]\nteam = \"shop\"\n").is_ok());
        for wrong in [
            "severity = \"info\"",
            "\"a.b\" = \"x\"",
            "team = \"\"",
            "\"1\" = \"x\"",
        ] {
            assert!(
                parse(&format!("[alertmanager.labels]\n{wrong}\n")).is_err(),
                "{wrong}"
            );
        }
    }
}
