//! Which hosts are asked for the images of a registry: containerd's `certs.d` folders, read as it reads
//! them, so that we look where the images came from.
//!
//! Mirrors come first and the registry itself last. The files are the node's own; what weakens a host
//! (plain HTTP, `skip_verify`) holds only when our own configuration lists it too.

mod file;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::digest::Digest;
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Certificate, ClientBuilder, Identity, Url};
use tokio::time::Instant;

use crate::endpoint::{Capabilities, Endpoint, host};
use crate::error::{FetchError, SetupError, SetupFault, Wrong};
use crate::setup;
use file::{Host, HostsFile};

/// How long what was read holds: containerd reads the files anew at each pull.
const READ_AGAIN: Duration = Duration::from_secs(30);
/// Registries whose hosts are remembered.
const MAX_KNOWN: usize = 256;
/// HTTP clients that are remembered, one a set of certificates.
const MAX_CLIENTS: usize = 64;
/// Largest certificate file: a system's whole bundle has some 250 KB.
const MAX_PEM: u64 = 1 << 20;
/// Files of a folder without `hosts.toml` that are looked at.
const MAX_FILES: usize = 64;
/// Time for a connection, handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers of one answer; registries send about twenty.
const MAX_HEADERS: usize = 128;
/// Bytes of all headers of one answer.
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// What Docker Hub is called in references, by containerd, and by its API.
const DOCKER_HUB: &str = "index.docker.io";
const DOCKER_HUB_NAMESPACE: &str = "docker.io";
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// By registry: its hosts, and until when they hold.
type Known = HashMap<String, (Instant, Arc<Vec<Endpoint>>)>;

/// The hosts of all registries.
#[derive(Debug)]
pub(crate) struct Hosts {
    /// `certs.d` folders; the first that knows a registry counts.
    folders: Vec<PathBuf>,
    insecure: BTreeSet<String>,
    /// With the system's certificates.
    plain: reqwest::Client,
    known: Mutex<Known>,
    clients: Mutex<HashMap<Digest, reqwest::Client>>,
}

impl Hosts {
    pub(crate) fn new(
        folders: Vec<PathBuf>,
        insecure: BTreeSet<String>,
    ) -> Result<Self, SetupError> {
        Ok(Self {
            folders,
            insecure,
            plain: builder(CONNECT_TIMEOUT).build()?,
            known: Mutex::default(),
            clients: Mutex::default(),
        })
    }

    /// The client for hosts that nobody has configured anything for.
    pub(crate) fn plain(&self) -> reqwest::Client {
        self.plain.clone()
    }

    /// Whether a host may be asked in plain HTTP, or without its certificate being checked.
    pub(crate) fn may_be_insecure(&self, host: &str) -> bool {
        self.insecure.contains(host)
    }

    /// The hosts to ask for images of `registry`, in their order.
    pub(crate) async fn of(
        self: &Arc<Self>,
        registry: &str,
    ) -> Result<Arc<Vec<Endpoint>>, FetchError> {
        let now = Instant::now();
        if let Some((until, known)) = self.known().get(registry)
            && now < *until
        {
            return Ok(Arc::clone(known));
        }
        let (own, name) = (Arc::clone(self), registry.to_owned());
        let read = tokio::task::spawn_blocking(move || own.read(&name))
            .await
            .map_err(|_stopped| FetchError::NoHost)?;
        let read = Arc::new(read.map_err(FetchError::Setup)?);
        let mut known = self.known();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        if let Some(until) = now.checked_add(READ_AGAIN) {
            known.insert(registry.to_owned(), (until, Arc::clone(&read)));
        }
        Ok(read)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the files about `registry`. Blocks.
    fn read(&self, registry: &str) -> Result<Vec<Endpoint>, SetupFault> {
        let namespace = if registry == DOCKER_HUB {
            DOCKER_HUB_NAMESPACE
        } else {
            registry
        };
        let folder = self
            .folders
            .iter()
            .flat_map(|root| names(namespace).map(|name| root.join(name)))
            .find(|folder| folder.exists());
        let Some(folder) = folder else {
            return Ok(vec![self.origin(registry, None, &Host::default())?]);
        };
        let Some(HostsFile { path, hosts, root }) = HostsFile::read(&folder)? else {
            let host = certificates(&folder)?;
            return Ok(vec![self.origin(registry, Some(&folder), &host)?]);
        };
        let mut endpoints = Vec::new();
        for host in &hosts {
            endpoints.push(self.endpoint(host, namespace, &path)?);
        }
        endpoints.push(if root.url.is_some() {
            self.endpoint(&root, namespace, &path)?
        } else {
            // As containerd: it may be asked for everything, whatever the file's top says.
            self.origin(registry, Some(&path), &root)?
        });
        Ok(endpoints)
    }

    /// The registry itself, where no file names another server.
    fn origin(
        &self,
        registry: &str,
        file: Option<&Path>,
        host: &Host,
    ) -> Result<Endpoint, SetupFault> {
        let is_plain = self.may_be_insecure(registry);
        let scheme = if is_plain { "http" } else { "https" };
        let name = if registry == DOCKER_HUB {
            DOCKER_HUB_HOST
        } else {
            registry
        };
        let file = file.unwrap_or(Path::new("hosts.toml"));
        let base = Url::parse(&format!("{scheme}://{name}/v2"));
        let base = base.map_err(|_url| setup::fault(file, "", 0, Wrong::Url))?;
        let host = Host {
            url: Some(base),
            capabilities: Capabilities::ALL,
            ..host.clone()
        };
        let namespace = if registry == DOCKER_HUB {
            DOCKER_HUB_NAMESPACE
        } else {
            registry
        };
        self.endpoint(&host, namespace, file)
    }

    fn endpoint(
        &self,
        wanted: &Host,
        namespace: &str,
        file: &Path,
    ) -> Result<Endpoint, SetupFault> {
        let base = wanted.url.clone();
        let base = base.ok_or_else(|| setup::fault(file, "", 0, Wrong::Url))?;
        let name = host(&base).unwrap_or_default();
        let is_open = base.scheme() == "http" || wanted.skip_verify;
        let fault = (is_open && !self.may_be_insecure(&name)).then(|| SetupFault::Insecure {
            file: file.to_owned(),
            host: name.clone(),
        });
        let is_own =
            name == namespace || (namespace == DOCKER_HUB_NAMESPACE && name == DOCKER_HUB_HOST);
        Ok(Endpoint {
            http: self.client(wanted)?,
            base,
            headers: wanted.headers.clone(),
            capabilities: wanted.capabilities,
            namespace: (!is_own).then(|| namespace.to_owned()),
            fault,
        })
    }

    /// The HTTP client for a host's certificates.
    fn client(&self, host: &Host) -> Result<reqwest::Client, SetupFault> {
        let connect = host
            .dial_timeout
            .map_or(CONNECT_TIMEOUT, |dial| dial.min(CONNECT_TIMEOUT));
        if host.ca.is_empty()
            && host.client.is_none()
            && !host.skip_verify
            && connect == CONNECT_TIMEOUT
        {
            return Ok(self.plain.clone());
        }
        let mut all = format!("{} {connect:?}\n", host.skip_verify).into_bytes();
        let mut builder = builder(connect);
        let mut last = PathBuf::new();
        for path in &host.ca {
            let pem = pem(path)?;
            let certificates = Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|certificates| !certificates.is_empty())
                .ok_or_else(|| SetupFault::Pem(path.clone()))?;
            builder = builder.tls_certs_merge(certificates);
            all.extend_from_slice(Digest::of(&pem).as_bytes());
            last.clone_from(path);
        }
        if let Some((certificate, key)) = &host.client {
            let mut both = pem(certificate)?;
            if let Some(key) = key {
                both.push(b'\n');
                both.extend(pem(key)?);
            }
            let identity =
                Identity::from_pem(&both).map_err(|_pem| SetupFault::Pem(certificate.clone()))?;
            builder = builder.identity(identity);
            all.extend_from_slice(Digest::of(&both).as_bytes());
            last.clone_from(certificate);
        }
        if host.skip_verify {
            // Only reached when the host is listed as insecure: else the endpoint is never asked.
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&Digest::of(&all)) {
            return Ok(client.clone());
        }
        let client = builder.build().map_err(|_tls| SetupFault::Pem(last))?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(Digest::of(&all), client.clone());
        Ok(client)
    }
}

/// Proxies from the environment are not used, and redirects are followed by hand: credentials must not.
fn builder(connect: Duration) -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .referer(false)
        .no_proxy()
        .connect_timeout(connect)
        .http1_max_headers(MAX_HEADERS)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
}

/// The names that a registry's folder may have, the first found counts.
fn names(namespace: &str) -> impl Iterator<Item = String> {
    let with_port = namespace
        .rsplit_once(':')
        .map(|(host, port)| format!("{host}_{port}_"));
    with_port
        .into_iter()
        .chain([namespace.to_owned(), "_default".to_owned()])
}

fn pem(path: &Path) -> Result<Vec<u8>, SetupFault> {
    setup::read(path, MAX_PEM)?
        .ok_or_else(|| SetupFault::Unreadable(path.to_owned(), std::io::ErrorKind::NotFound))
}

/// A folder without `hosts.toml`, as docker has them: `*.crt` vouch for the registry, `*.cert` with
/// `*.key` are ours.
fn certificates(folder: &Path) -> Result<Host, SetupFault> {
    let unreadable =
        |error: std::io::Error| SetupFault::Unreadable(folder.to_owned(), error.kind());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)
        .map_err(unreadable)?
        .take(MAX_FILES)
    {
        files.push(entry.map_err(unreadable)?.path());
    }
    files.sort();
    let with = |suffix: &'static str| {
        files
            .iter()
            .filter(move |file| file.extension().is_some_and(|found| found == suffix))
    };
    Ok(Host {
        ca: with("crt").cloned().collect(),
        client: with("cert")
            .next()
            .map(|file| (file.clone(), Some(file.with_extension("key")))),
        headers: HeaderMap::new(),
        ..Host::default()
    })
}

#[cfg(test)]
mod tests;
