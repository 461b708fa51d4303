//! `[registry]` in the configuration of both programs: how registries are asked.

use std::path::PathBuf;

use serde::Deserialize;

use crate::access::Access;
use crate::auth::Keyring;

/// How registries are asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Registries {
    /// Credentials, in the form of docker's `config.json` (the kubelet's own is
    /// `/var/lib/kubelet/config.json`); without it everybody is asked anonymously.
    pub docker_config: Option<PathBuf>,
    /// Folders, absolute, in which its credential helpers are looked for.
    pub credential_helpers: Vec<PathBuf>,
    /// containerd's `certs.d` folders with `hosts.toml`; the first that knows a registry counts.
    pub hosts_directories: Vec<PathBuf>,
}

impl Default for Registries {
    fn default() -> Self {
        Self {
            docker_config: None,
            credential_helpers: ["/usr/local/bin", "/usr/bin", "/bin"]
                .map(PathBuf::from)
                .to_vec(),
            hosts_directories: vec![PathBuf::from("/etc/containerd/certs.d")],
        }
    }
}

impl Registries {
    /// The access that it describes; `insecure` are the hosts (`HOST:PORT`) that need not be
    /// authenticated.
    pub fn access(&self, insecure: &[String]) -> Access {
        let keyring = self
            .docker_config
            .clone()
            .map_or_else(Keyring::none, |file| {
                Keyring::new(file, self.credential_helpers.clone())
            });
        Access {
            insecure: insecure.iter().cloned().collect(),
            keyring,
            hosts: self.hosts_directories.clone(),
            ..Access::default()
        }
    }
}
