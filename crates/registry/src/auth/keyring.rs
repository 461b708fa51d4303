//! Credentials by host, from a file of the form that docker and the kubelet read.
//!
//! Each is bound to the hosts that its key names, label by label, so that no image reference can have a
//! password sent to a host of its author's choice. The file is read whenever a registry asks for
//! credentials, because the programs that renew tokens write them there. What it holds is never logged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{Secret, program};
use crate::error::{SetupFault, Wrong};
use crate::setup;

/// Largest file: some hundred registries, each with a token of a few kilobytes.
const MAX_FILE: u64 = 1 << 20;
/// What Docker Hub is called in references, by its API and in its older credentials.
const DOCKER_HUB: [&str; 3] = ["index.docker.io", "docker.io", "registry-1.docker.io"];
/// What docker and credential helpers call Docker Hub.
const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";

/// Where credentials come from.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    file: Option<PathBuf>,
    helpers: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credsStore")]
    creds_store: Option<String>,
    #[serde(default, rename = "credHelpers")]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

impl Keyring {
    /// No credentials: everybody is asked anonymously.
    pub const fn none() -> Self {
        Self {
            file: None,
            helpers: Vec::new(),
        }
    }

    /// What `file` (docker's `config.json`) says; its helpers are looked for in these folders alone.
    pub const fn new(file: PathBuf, helpers: Vec<PathBuf>) -> Self {
        Self {
            file: Some(file),
            helpers,
        }
    }

    /// Reads the file and throws it away: at the start a person is looking.
    pub(crate) fn check(&self) -> Result<(), SetupFault> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let config = read(file)?;
        for entry in config.auths.values() {
            entry.secret(file)?;
        }
        Ok(())
    }

    /// The credentials for a repository at a host (`host` or `host:port`).
    ///
    /// A helper that fails is an error and not "no credentials": some registries answer a stranger with
    /// 404, which would read as "nothing there".
    pub(crate) async fn secret(
        &self,
        host: &str,
        path: &str,
    ) -> Result<Option<Secret>, SetupFault> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let config = read(file)?;
        let helper = best(&config.cred_helpers, host, path).or_else(|| {
            // An entry without content only says that the store has something.
            let has_own = best(&config.auths, host, path).is_some_and(|entry| !entry.is_empty());
            config.creds_store.as_ref().filter(|_| !has_own)
        });
        if let Some(name) = helper {
            let server = if is_docker_hub(host) {
                DOCKER_HUB_SERVER
            } else {
                host
            };
            return program::ask(&self.helpers, name, server)
                .await
                .map_err(|error| SetupFault::Helper {
                    name: name.chars().take(program::MAX_NAME).collect(),
                    error,
                });
        }
        match best(&config.auths, host, path) {
            Some(entry) => entry.secret(file),
            None => Ok(None),
        }
    }
}

fn read(file: &Path) -> Result<ConfigFile, SetupFault> {
    let content = setup::read(file, MAX_FILE)?
        .ok_or_else(|| SetupFault::Unreadable(file.to_owned(), std::io::ErrorKind::NotFound))?;
    // The parser's own message may quote a password.
    serde_json::from_slice(&content).map_err(|error| SetupFault::Malformed {
        file: file.to_owned(),
        line: error.line(),
        column: error.column(),
        what: Wrong::Form,
    })
}

impl Entry {
    const fn is_empty(&self) -> bool {
        self.auth.is_empty()
            && self.username.is_empty()
            && self.identitytoken.is_empty()
            && self.registrytoken.is_empty()
    }

    fn secret(&self, file: &Path) -> Result<Option<Secret>, SetupFault> {
        if self.is_empty() {
            return Ok(None);
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Secret::Bearer(self.registrytoken.clone())));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Secret::Refresh(self.identitytoken.clone())));
        }
        if self.auth.is_empty() {
            return Ok(Some(Secret::Password {
                username: self.username.clone(),
                password: self.password.clone(),
            }));
        }
        let pair = STANDARD.decode(self.auth.trim()).ok();
        let pair = pair.and_then(|pair| String::from_utf8(pair).ok());
        // docker pads the decoded pair with zero bytes.
        let pair = pair.as_deref().map(|pair| pair.trim_end_matches('\0'));
        match pair.and_then(|pair| pair.split_once(':')) {
            Some((username, password)) => Ok(Some(Secret::Password {
                username: username.to_owned(),
                password: password.to_owned(),
            })),
            None => Err(SetupFault::Malformed {
                file: file.to_owned(),
                line: 1,
                column: 1,
                what: Wrong::Auth,
            }),
        }
    }
}

fn is_docker_hub(host: &str) -> bool {
    DOCKER_HUB.contains(&host)
}

/// What the most particular key that fits says: the longest path, then a plain host before a pattern.
fn best<'a, T>(entries: &'a BTreeMap<String, T>, host: &str, path: &str) -> Option<&'a T> {
    entries
        .iter()
        .filter_map(|(key, entry)| Some((fit(key, host, path)?, entry)))
        .max_by_key(|(rank, _)| *rank)
        .map(|(_, entry)| entry)
}

/// How particular a fitting key is: parts of its path, whether it has no pattern, its length.
type Rank = (usize, bool, usize);

/// Whether a key such as `r.example`, `*.r.example:5000` or `https://r.example/team` fits.
fn fit(key: &str, host: &str, path: &str) -> Option<Rank> {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let (key_host, key_path) = bare.split_once('/').unwrap_or((bare, ""));
    let key_path = match key_path.trim_end_matches('/') {
        // The API's own path, which docker wrote into keys.
        "v1" | "v2" => "",
        key_path => key_path,
    };
    let key_host = key_host.to_ascii_lowercase();
    let key_host = key_host.strip_suffix(":443").unwrap_or(&key_host);
    let host = host.to_ascii_lowercase();
    let is_same = if is_docker_hub(key_host) {
        is_docker_hub(&host)
    } else {
        host_fits(key_host, &host)
    };
    // Whole parts: the key `team` is not for `team-of-somebody-else`.
    let below = key_path.is_empty()
        || path
            .strip_prefix(key_path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let parts = key_path.split('/').filter(|part| !part.is_empty()).count();
    (is_same && below).then(|| (parts, !key_host.contains('*'), key.len()))
}

/// Label by label, as the kubelet does: a `*` never spans a dot, and ports must be equal.
fn host_fits(pattern: &str, host: &str) -> bool {
    if !pattern.contains('*') {
        return pattern == host;
    }
    let (pattern, pattern_port) = split_port(pattern);
    let (host, port) = split_port(host);
    let (patterns, labels) = (pattern.split('.'), host.split('.'));
    pattern_port == port
        && patterns.clone().count() == labels.clone().count()
        && patterns
            .zip(labels)
            .all(|(pattern, label)| label_fits(pattern, label))
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    }
}

/// `*` stands for any part of one label. Each piece is taken where it first fits, which is enough: the
/// first and the last are bound to the ends.
fn label_fits(pattern: &str, label: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == label;
    };
    let Some(mut label) = label.strip_prefix(first) else {
        return false;
    };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match label.split_once(piece) {
            Some((_, after)) => label = after,
            None => return false,
        }
    }
    label.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(json: &str) -> (tempfile::TempDir, Keyring) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, json).unwrap();
        (folder, Keyring::new(file, Vec::new()))
    }

    /// The user whose password goes to `host` for `path`.
    async fn user(keyring: &Keyring, host: &str, path: &str) -> Option<String> {
        match keyring.secret(host, path).await.unwrap()? {
            Secret::Password { username, .. } => Some(username),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_fits_the_hosts_that_it_names_and_no_other() {
        for (key, host, is_due) in [
            ("r.example", "r.example", true),
            ("https://r.example/v2/", "r.example", true),
            ("R.Example", "r.example", true),
            ("r.example:443", "r.example", true),
            ("r.example", "r.example:5000", false),
            ("r.example", "r.example.evil", false),
            ("r.example", "evil-r.example", false),
            ("*.r.example", "a.r.example", true),
            ("*.r.example", "a.b.r.example", false),
            ("*.r.example", "r.example", false),
            ("*.r.example", "a.r.example:5000", false),
            ("*.r.example:5000", "a.r.example:5000", true),
            (
                "12*.dkr.ecr.*.aws.example",
                "1234.dkr.ecr.eu.aws.example",
                true,
            ),
            (
                "12*.dkr.ecr.*.aws.example",
                "99.dkr.ecr.eu.aws.example",
                false,
            ),
            ("*", "localhost", true),
            ("*", "r.example", false),
            ("", "r.example", false),
            ("https://index.docker.io/v1/", "registry-1.docker.io", true),
            ("docker.io", "index.docker.io", true),
            ("docker.io", "docker.io.evil", false),
        ] {
            assert_eq!(fit(key, host, "team/app").is_some(), is_due, "{key} {host}");
        }
        for (pattern, label, is_due) in [
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "ac", false),
            ("a*a", "a", false),
            ("**", "", true),
        ] {
            assert_eq!(label_fits(pattern, label), is_due, "{pattern} {label}");
        }
    }

    #[tokio::test]
    async fn the_most_particular_key_counts_and_paths_end_at_a_slash() {
        let entry = |user: &str| {
            let auth = STANDARD.encode(format!("{user}:pw"));
            format!(r#"{{"auth":"{auth}"}}"#)
        };
        let (_folder, keyring) = keyring(&format!(
            r#"{{"auths":{{"*.example":{},"r.example":{},"r.example/team":{},"r.example/team/app":{}}}}}"#,
            entry("pattern"),
            entry("host"),
            entry("team"),
            entry("app"),
        ));
        for (host, path, due) in [
            ("r.example", "team/app", Some("app")),
            ("r.example", "team/app2", Some("team")),
            ("r.example", "teams/app", Some("host")),
            ("s.example", "team/app", Some("pattern")),
            ("evil.test", "team/app", None),
        ] {
            assert_eq!(
                user(&keyring, host, path).await.as_deref(),
                due,
                "{host}/{path}"
            );
        }
    }

    #[tokio::test]
    async fn every_kind_of_entry_is_read() {
        let (_folder, keyring) = keyring(
            r#"{"auths":{
                "a":{"username":"u","password":"p:q"},
                "b":{"auth":"dTpwOnE=","identitytoken":"refresh"},
                "c":{"registrytoken":"ready"},
                "d":{"auth":"dTpwOnEA"},
                "e":{}
            },"HttpHeaders":{},"currentContext":"x"}"#,
        );
        let password = Secret::Password {
            username: "u".to_owned(),
            password: "p:q".to_owned(),
        };
        for (host, due) in [
            ("a", Some(password.clone())),
            ("b", Some(Secret::Refresh("refresh".to_owned()))),
            ("c", Some(Secret::Bearer("ready".to_owned()))),
            ("d", Some(password)),
            ("e", None),
            ("f", None),
        ] {
            assert_eq!(keyring.secret(host, "x").await.unwrap(), due, "{host}");
        }
        assert_eq!(Keyring::none().secret("a", "x").await, Ok(None));
    }

    #[tokio::test]
    async fn a_broken_file_is_refused_without_quoting_it() {
        for (json, what) in [
            (r#"{"auths":{"a":{"auth":7654321}}}"#, "not of the due form"),
            (r#"{"auths":{"a":{"auth":"secretsecret"}}}"#, "not base64"),
            ("{\"auths\":\nsecret", "not of the due form"),
        ] {
            let (_folder, keyring) = keyring(json);
            let fault = keyring.check().unwrap_err().to_string();
            assert!(fault.contains(what), "{fault}");
            assert!(
                !fault.contains("secret") && !fault.contains("765"),
                "{fault}"
            );
            assert!(keyring.secret("a", "x").await.is_err());
        }
        let absent = Keyring::new("/nonexistent/config.json".into(), Vec::new());
        assert!(absent.check().is_err());
        assert!(absent.secret("a", "x").await.is_err());
    }

    #[tokio::test]
    async fn a_helper_that_fails_is_an_error_and_not_a_stranger() {
        let (_folder, keyring) = keyring(r#"{"credsStore":"absent","auths":{"r.example":{}}}"#);
        assert!(matches!(
            keyring.secret("r.example", "x").await,
            Err(SetupFault::Helper { .. })
        ));
    }
}
