//! `hosts.toml` as containerd reads it: keys that it does not know are passed over, as there.
//!
//! Headers may be secrets: a fault names file, line and column, and quotes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use crate::endpoint::Capabilities;
use crate::error::{SetupFault, Wrong};
use crate::setup;

/// Largest file.
const MAX_FILE: u64 = 256 << 10;
/// Hosts of one registry: each may cost a deadline.
const MAX_HOSTS: usize = 16;
/// Headers for one host.
const MAX_HEADERS: usize = 32;

/// What a registry's folder says.
#[derive(Debug)]
pub(super) struct HostsFile {
    pub(super) path: PathBuf,
    /// Mirrors, in the file's order.
    pub(super) hosts: Vec<Host>,
    /// The registry itself; without a URL it is the one that references name.
    pub(super) root: Host,
}

/// One host as the file describes it.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) url: Option<Url>,
    pub(super) capabilities: Capabilities,
    pub(super) ca: Vec<PathBuf>,
    /// A certificate, and its key unless that is in the same file.
    pub(super) client: Option<(PathBuf, Option<PathBuf>)>,
    pub(super) skip_verify: bool,
    pub(super) headers: HeaderMap,
    pub(super) dial_timeout: Option<Duration>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            url: None,
            capabilities: Capabilities::ALL,
            ca: Vec::new(),
            client: None,
            skip_verify: false,
            headers: HeaderMap::new(),
            dial_timeout: None,
        }
    }
}

#[derive(Deserialize)]
struct Top {
    #[serde(default)]
    server: Option<Spanned<String>>,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Table>,
}

#[derive(Deserialize)]
struct Table {
    #[serde(default)]
    capabilities: Vec<Spanned<String>>,
    #[serde(default)]
    ca: Option<OneOrMany>,
    #[serde(default)]
    client: Option<Clients>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    header: BTreeMap<Spanned<String>, OneOrMany>,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    dial_timeout: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// One file with certificate and key, several such, or pairs of files.
#[derive(Deserialize)]
#[serde(untagged)]
enum Clients {
    Files(OneOrMany),
    Pairs(Vec<Vec<String>>),
}

/// Where in which text a fault is.
struct Place<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    fn fault(&self, offset: usize, what: Wrong) -> SetupFault {
        setup::fault(self.file, self.text, offset, what)
    }

    fn of<T>(&self, value: &Spanned<T>, what: Wrong) -> SetupFault {
        self.fault(value.span().start, what)
    }

    fn toml(&self, error: &toml::de::Error) -> SetupFault {
        self.fault(error.span().map_or(0, |span| span.start), Wrong::Form)
    }
}

impl HostsFile {
    /// Reads the folder's file; `None` when there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, SetupFault> {
        let path = folder.join("hosts.toml");
        let Some(content) = setup::read(&path, MAX_FILE)? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&content);
        let place = Place {
            file: &path,
            text: &text,
        };
        let top: Top = toml::from_str(&text).map_err(|error| place.toml(&error))?;
        // The top of the file describes the registry itself, with the same keys.
        let own: Table = toml::from_str(&text).map_err(|error| place.toml(&error))?;
        let mut tables: Vec<_> = top.host.into_iter().collect();
        tables.sort_by_key(|(name, _)| name.span().start);
        if let Some((name, _)) = tables.get(MAX_HOSTS) {
            return Err(place.of(name, Wrong::Hosts));
        }
        let mut hosts = Vec::new();
        for (name, table) in tables {
            hosts.push(table.into_host(Some(&name), folder, &place)?);
        }
        let root = own.into_host(top.server.as_ref(), folder, &place)?;
        Ok(Some(Self {
            path: path.clone(),
            hosts,
            root,
        }))
    }
}

impl Table {
    fn into_host(
        self,
        server: Option<&Spanned<String>>,
        folder: &Path,
        place: &Place<'_>,
    ) -> Result<Host, SetupFault> {
        let url = server.filter(|server| !server.get_ref().is_empty());
        let url = url.map(|server| {
            let suffix = if self.override_path { "" } else { "/v2" };
            url_of(server.get_ref(), suffix).ok_or_else(|| place.of(server, Wrong::Url))
        });
        let ca = self.ca.map(OneOrMany::into_vec).unwrap_or_default();
        Ok(Host {
            url: url.transpose()?,
            capabilities: capabilities(&self.capabilities, place)?,
            // A path that is not absolute begins at the file's own folder.
            ca: ca.into_iter().map(|path| folder.join(path)).collect(),
            client: self.client.and_then(|client| client.first(folder)),
            skip_verify: self.skip_verify,
            headers: headers(self.header, place)?,
            dial_timeout: self
                .dial_timeout
                .map(|text| duration(&text).ok_or_else(|| place.of(&text, Wrong::Duration)))
                .transpose()?,
        })
    }
}

impl Clients {
    /// Of several the first: one host is shown one certificate.
    fn first(self, folder: &Path) -> Option<(PathBuf, Option<PathBuf>)> {
        let pair = match self {
            Self::Files(files) => vec![files.into_vec().into_iter().next()?],
            Self::Pairs(pairs) => pairs.into_iter().next()?,
        };
        let mut pair = pair.into_iter();
        let certificate = folder.join(pair.next()?);
        let key = pair.next().filter(|key| !key.is_empty());
        Some((certificate, key.map(|key| folder.join(key))))
    }
}

/// A host, with the path that all others stand below; `suffix` is put at its end unless it is there.
fn url_of(server: &str, suffix: &str) -> Option<Url> {
    let server = if server.contains("://") {
        server.to_owned()
    } else {
        format!("https://{server}")
    };
    let mut url = Url::parse(&server).ok()?;
    let is_host = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    let path = url.path().trim_end_matches('/').to_owned();
    let suffix = if path.ends_with(suffix) { "" } else { suffix };
    url.set_path(&format!("{path}{suffix}"));
    is_host.then_some(url)
}

fn capabilities(named: &[Spanned<String>], place: &Place<'_>) -> Result<Capabilities, SetupFault> {
    if named.is_empty() {
        return Ok(Capabilities::ALL);
    }
    let mut capabilities = Capabilities {
        pull: false,
        resolve: false,
    };
    for name in named {
        match name.get_ref().to_ascii_lowercase().as_str() {
            "pull" => capabilities.pull = true,
            "resolve" | "referrers" => capabilities.resolve = true,
            "push" => {}
            _ => return Err(place.of(name, Wrong::Capability)),
        }
    }
    Ok(capabilities)
}

fn headers(
    named: BTreeMap<Spanned<String>, OneOrMany>,
    place: &Place<'_>,
) -> Result<HeaderMap, SetupFault> {
    let mut headers = HeaderMap::new();
    for (name, values) in named {
        let fault = || place.of(&name, Wrong::Header);
        let key: HeaderName = name.get_ref().parse().map_err(|_name| fault())?;
        for value in values.into_vec() {
            let mut value: HeaderValue = value.parse().map_err(|_value| fault())?;
            value.set_sensitive(true);
            if headers.len() >= MAX_HEADERS {
                return Err(fault());
            }
            headers.append(key.clone(), value);
        }
    }
    Ok(headers)
}

/// `1m30s`, as Go writes lengths of time.
fn duration(text: &Spanned<String>) -> Option<Duration> {
    let signed: jiff::SignedDuration = text.get_ref().parse().ok()?;
    Duration::try_from(signed).ok()
}
