//! The whole configuration of the agent as types: `/etc/holdfast/agent.toml`.
//!
//! Unknown keys are refused; every default stands here and nowhere else.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_daemon::address::{HostName, HostPort, LoopbackAddress, PeerName};
use holdfast_daemon::config::absolute_path;
use holdfast_daemon::logging::Log;
use holdfast_registry::Registries;
use serde::Deserialize;

/// Where the file is looked for.
pub const DEFAULT_PATH: &str = "/etc/holdfast/agent.toml";

/// Where policies are looked for.
pub const DEFAULT_POLICIES: &str = "/etc/holdfast/policy.d";

/// Where the agent keeps what survives a restart.
pub const DEFAULT_STATE: &str = "/var/lib/holdfast/agent";

/// The configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The node's name; the host name when it is not given.
    pub node_name: Option<HostName>,
    /// State that survives a restart.
    pub state: State,
    /// The container runtime.
    pub containerd: Containerd,
    /// How often what is looked at.
    pub scan: Scan,
    /// What layers are compared with when their blobs are not here.
    pub content: Content,
    /// Whose signatures count.
    pub trust: Trust,
    /// How registries are asked.
    pub registry: Registries,
    /// Where findings go.
    pub report: Report,
    /// The admin endpoint.
    pub admin: Admin,
    /// Logging.
    pub log: Log,
}

/// State that survives a restart.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct State {
    /// The folder; made when it is missing.
    #[serde(deserialize_with = "absolute_path")]
    pub directory: PathBuf,
    /// A folder with skeletons of layers whose blobs are not on this node.
    pub skeletons: Option<PathBuf>,
    /// What tables and trees may take on the disk; those that running containers stand on stay in any case.
    pub table_bytes: NonZeroU64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            directory: PathBuf::from(DEFAULT_STATE),
            skeletons: None,
            // Those of 500 images of 50,000 files, which is more than a node runs: 80 bytes an entry in each.
            table_bytes: NonZeroU64::MIN.saturating_add((4 << 30) - 1),
        }
    }
}

/// The container runtime.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Containerd {
    /// Sockets; empty means those that exist of the usual ones.
    pub sockets: Vec<PathBuf>,
    /// Containers of another containerd namespace are watched all the same, and are a finding.
    pub expected_namespaces: Vec<String>,
    /// How long one call may take.
    pub call_deadline: Interval,
}

impl Default for Containerd {
    fn default() -> Self {
        Self {
            sockets: Vec::new(),
            expected_namespaces: ["k8s.io", "moby", "default"].map(str::to_owned).to_vec(),
            call_deadline: Interval::seconds(10),
        }
    }
}

/// How often what is looked at.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Scan {
    /// The upper directory of every container.
    pub upper_interval: Interval,
    /// Every unpacked layer in use, whole: one pass of the scrub.
    pub lower_interval: Interval,
    /// Bytes that the scrub may read in a second.
    pub scrub_bytes_per_second: ByteRate,
    /// CPU time that the scrub may use, in percent of one core.
    pub scrub_cpu_percent: CpuPercent,
    /// Whether the scrub reads around the page cache: what the disk holds, not what runs.
    pub scrub_direct: bool,
    /// The runtime's list of containers, against what the events said.
    pub list_interval: Interval,
    /// How long one look at one container may take before it is `unverifiable`.
    pub look_deadline: Interval,
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            upper_interval: Interval::seconds(10),
            lower_interval: Interval::seconds(24 * 3600),
            scrub_bytes_per_second: ByteRate(NonZeroU64::new(32 << 20)),
            scrub_cpu_percent: CpuPercent(Some(Duration::from_millis(3))),
            scrub_direct: false,
            list_interval: Interval::seconds(60),
            look_deadline: Interval::seconds(600),
        }
    }
}

/// What layers are compared with when their blobs are not here.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Content {
    /// Whether blobs of layers are fetched from the image's registry: each is read once, and not kept.
    pub registry: bool,
    /// What may be fetched in an hour.
    pub registry_bytes_per_hour: NonZeroU64,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            registry: false,
            registry_bytes_per_hour: NonZeroU64::MIN.saturating_add((2 << 30) - 1),
        }
    }
}

/// Whose signatures count.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Trust {
    /// Policies (`*.yaml`, `*.yml`); a folder that is missing holds none.
    #[serde(deserialize_with = "absolute_path")]
    pub policy_directory: PathBuf,
    /// OCI layout folders with signatures, looked through before any registry.
    pub layouts: Vec<PathBuf>,
    /// Whether signatures are looked for at the image's registry.
    pub registry: bool,
    /// Registries (`HOST:PORT`) that are asked over plain HTTP.
    pub insecure_registries: Vec<HostPort>,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            policy_directory: PathBuf::from(DEFAULT_POLICIES),
            layouts: Vec::new(),
            registry: true,
            insecure_registries: Vec::new(),
        }
    }
}

/// Where findings go.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Report {
    /// JSON lines, one a finding.
    pub file: Option<PathBuf>,
    /// The collector.
    pub collector: Option<Collector>,
    /// What the spool may hold while the collector is away.
    pub spool_bytes: SpoolBytes,
    /// How often the agent says that it is alive.
    pub heartbeat: Interval,
    /// How often everything that is open is reported again.
    pub full_report_interval: Interval,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            file: None,
            collector: None,
            spool_bytes: SpoolBytes(256 << 20),
            heartbeat: Interval::seconds(15),
            full_report_interval: Interval::seconds(3600),
        }
    }
}

/// What the spool may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub struct SpoolBytes(u64);

impl SpoolBytes {
    /// Two messages of the greatest length: one that is sent, and one that comes meanwhile.
    const LEAST: u64 = 8 << 20;

    /// Bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for SpoolBytes {
    type Error = String;

    fn try_from(bytes: u64) -> Result<Self, String> {
        if bytes < Self::LEAST {
            let least = Self::LEAST;
            return Err(format!("expected at least {least} bytes, found {bytes}"));
        }
        Ok(Self(bytes))
    }
}

/// The collector and the certificates for it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Collector {
    /// `HOST:PORT`.
    pub address: HostPort,
    /// The name that the collector's certificate must carry; the host of `address` when not given.
    pub server_name: Option<PeerName>,
    /// This node's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Who may vouch for the collector, PEM.
    pub ca: PathBuf,
}

/// The admin endpoint: `/metrics`, `/livez`, `/readyz`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Admin {
    /// The address to listen on. No authentication, so on this machine only.
    pub listen: LoopbackAddress,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: LoopbackAddress::localhost(7402),
        }
    }
}

/// A positive length of time, written `10s`, `5m`, `24h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(Duration);

impl Interval {
    const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The length.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let refuse = || {
            let expected = "a positive length of time such as \"10s\", \"5m\" or \"24h\"";
            serde::de::Error::custom(format!("{text:?} is not {expected}"))
        };
        let signed: jiff::SignedDuration = text.parse().map_err(|_jiff| refuse())?;
        let length = Duration::try_from(signed).map_err(|_negative| refuse())?;
        if length < Duration::from_millis(100) {
            return Err(refuse());
        }
        Ok(Self(length))
    }
}

/// Bytes in a second, written `32MiB`, `512KiB` or as a number; `0` and `none` are no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRate(Option<NonZeroU64>);

impl ByteRate {
    /// Bytes in a second; `None` for as many as there are.
    pub const fn get(self) -> Option<NonZeroU64> {
        self.0
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "none" {
            return Some(Self(None));
        }
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("", 0)];
        let (number, shift) = units
            .iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
        let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
        Some(Self(NonZeroU64::new(bytes)))
    }
}

impl<'de> Deserialize<'de> for ByteRate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        let refuse = || {
            let expected = "expected bytes such as \"32MiB\", or \"none\"";
            serde::de::Error::custom(expected)
        };
        match Written::deserialize(deserializer).map_err(|_other| refuse())? {
            Written::Number(bytes) => Ok(Self(NonZeroU64::new(bytes))),
            Written::Text(text) => Self::parse(&text).ok_or_else(refuse),
        }
    }
}

/// A share of one core in percent; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuPercent(Option<Duration>);

impl CpuPercent {
    /// CPU time in a second; `None` for as much as there is.
    pub const fn get(self) -> Option<Duration> {
        self.0
    }
}

impl<'de> Deserialize<'de> for CpuPercent {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let percent = f64::deserialize(deserializer)?;
        let refuse = || {
            let expected = "expected percent of one core, from 0.001 to 100, or 0 for no limit";
            serde::de::Error::custom(expected)
        };
        if percent == 0.0 {
            return Ok(Self(None));
        }
        if !(0.001..=100.0).contains(&percent) {
            return Err(refuse());
        }
        let share = Duration::try_from_secs_f64(percent / 100.0).map_err(|_float| refuse())?;
        Ok(Self(Some(share)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default_configuration() {
        let config: Config = toml::from_str("").unwrap();
        assert_eq!(config.scan.upper_interval, Interval::seconds(10));
        assert_eq!(config.report.spool_bytes.get(), 256 << 20);
        assert!(!config.content.registry, "a node fetches no layers unasked");
        assert_eq!(config.content.registry_bytes_per_hour.get(), 2 << 30);
        assert_eq!(config.admin.listen.address().to_string(), "127.0.0.1:7402");
    }

    #[test]
    fn times_have_units_and_are_positive() {
        let parse =
            |text: &str| toml::from_str::<Config>(&format!("[scan]\nlower-interval = {text}"));
        assert_eq!(
            parse("\"5s\"").unwrap().scan.lower_interval,
            Interval::seconds(5)
        );
        for refused in ["5", "\"5\"", "\"-5s\"", "\"0s\"", "\"soon\""] {
            assert!(parse(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn what_a_key_cannot_mean_is_refused_where_it_is_written() {
        let collector = "[report.collector]\ncertificate = \"c\"\nkey = \"k\"\nca = \"a\"\n";
        let of_collector = |line: &str| format!("{collector}{line}\n");
        for (text, place, said) in [
            ("node-name = \"a b\"".to_owned(), "1:13", "host name"),
            ("node-name = \"\"".to_owned(), "1:13", "host name"),
            (
                "[state]\ndirectory = \"state\"".to_owned(),
                "2:13",
                "absolute path",
            ),
            (
                "[trust]\ninsecure-registries = [\"a:1\", \"b\"]".to_owned(),
                "2:23",
                "HOST:PORT",
            ),
            (
                "[report]\nspool-bytes = 1000".to_owned(),
                "2:15",
                "at least 8388608 bytes",
            ),
            (
                "[admin]\nlisten = \"0.0.0.0:7402\"".to_owned(),
                "2:10",
                "TLS and client authentication",
            ),
            (
                "[admin]\nlisten = \"here\"".to_owned(),
                "2:10",
                "ADDRESS:PORT",
            ),
            ("[log]\nfilter = \"a=b=c\"".to_owned(), "2:10", "log filter"),
            (of_collector("address = \"host\""), "5:11", "HOST:PORT"),
            (
                of_collector("address = \"host:1\"\nserver-name = \"a b\""),
                "6:15",
                "DNS name",
            ),
        ] {
            let refusal = holdfast_daemon::config::parse::<Config>(&text, "a.toml".as_ref());
            let refusal = refusal.unwrap_err().to_string();
            let place = format!("a.toml:{place}: ");
            assert!(refusal.starts_with(&place), "{text}: {refusal}");
            assert!(refusal.contains(said), "{text}: {refusal}");
        }
        assert!(toml::from_str::<Config>(&of_collector("address = \"host:1\"")).is_ok());
    }

    #[test]
    fn what_a_scrub_may_use_has_units_and_can_be_unlimited() {
        let scan =
            |line: &str| toml::from_str::<Config>(&format!("[scan]\n{line}")).map(|c| c.scan);
        let bytes = |text: &str| {
            let scan = scan(&format!("scrub-bytes-per-second = {text}"))?;
            Ok::<_, toml::de::Error>(scan.scrub_bytes_per_second.get().map_or(0, NonZeroU64::get))
        };
        for (text, due) in [
            ("\"32MiB\"", 32 << 20),
            ("\"1GiB\"", 1 << 30),
            ("\"7KiB\"", 7 << 10),
            ("\"900\"", 900),
            ("1000", 1000),
            ("0", 0),
            ("\"none\"", 0),
        ] {
            assert_eq!(bytes(text).unwrap(), due, "{text}");
        }
        for refused in [
            "\"\"",
            "\"much\"",
            "\"-1MiB\"",
            "-1",
            "1.5",
            "\"99999999999GiB\"",
            "true",
        ] {
            assert!(bytes(refused).is_err(), "{refused}");
        }
        let cpu = |text: &str| scan(&format!("scrub-cpu-percent = {text}"));
        let share = |text: &str| cpu(text).unwrap().scrub_cpu_percent.get();
        assert_eq!(share("0.3"), Some(Duration::from_millis(3)));
        assert_eq!(share("100"), Some(Duration::from_secs(1)));
        assert_eq!((share("0"), share("0.0")), (None, None));
        for refused in ["-1", "101", "nan", "inf", "0.0001", "\"0.3\""] {
            assert!(cpu(refused).is_err(), "{refused}");
        }
        let default = Scan::default();
        assert_eq!(
            default.scrub_bytes_per_second.get(),
            NonZeroU64::new(32 << 20)
        );
        assert_eq!(
            default.scrub_cpu_percent.get(),
            Some(Duration::from_millis(3))
        );
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = toml::from_str::<Config>("[scan]\nuper-interval = \"1s\"").unwrap_err();
        assert!(error.to_string().contains("uper-interval"), "{error}");
    }
}
