//! One host that may be asked for the images of a registry: the registry itself, or a mirror of it.
//!
//! URLs are made here and nowhere else, so that no name in them can become a host, a path or a query of
//! its author's choice.

use holdfast_core::reference::Repository;
use reqwest::Url;
use reqwest::header::HeaderMap;

use crate::error::{FetchError, SetupFault};

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Content by its digest: whoever sends it, the digest decides.
    Content,
    /// What a tag means now, or what refers to a digest: the host's own word.
    Word,
}

/// What a host may be asked for, as `hosts.toml` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) pull: bool,
    pub(crate) resolve: bool,
}

impl Capabilities {
    pub(crate) const ALL: Self = Self {
        pull: true,
        resolve: true,
    };

    pub(crate) const fn allow(self, need: Need) -> bool {
        match need {
            Need::Content => self.pull,
            Need::Word => self.resolve,
        }
    }
}

/// Where one object is at one host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object<'a> {
    pub(crate) repository: &'a Repository,
    /// `manifests`, `blobs` or `referrers`.
    pub(crate) kind: &'static str,
    /// A tag or a digest.
    pub(crate) name: &'a str,
}

/// One host.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// Knows this host's certificates.
    pub(crate) http: reqwest::Client,
    /// Scheme, host, and the path that all others stand below.
    pub(crate) base: Url,
    /// What `hosts.toml` wants to be sent to it.
    pub(crate) headers: HeaderMap,
    pub(crate) capabilities: Capabilities,
    /// What a mirror must be told: whose images it is asked for.
    pub(crate) namespace: Option<String>,
    /// Why it is not asked, whatever it may.
    pub(crate) fault: Option<SetupFault>,
}

impl Endpoint {
    /// The object's URL at this host.
    pub(crate) fn url(&self, object: &Object<'_>) -> Result<Url, FetchError> {
        let Object {
            repository,
            kind,
            name,
        } = object;
        let base = self.base.path().trim_end_matches('/');
        let path = format!("{base}/{}/{kind}/{name}", repository.path());
        let mut url = self.base.clone();
        url.set_path(&path);
        // The parser must not have found anything else in it than what was put there.
        if url.path() != path {
            return Err(FetchError::Url);
        }
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// Host and port.
    pub(crate) fn host(&self) -> String {
        host(&self.base).unwrap_or_default()
    }

    /// An error at this host, said to be a mirror's where it is one.
    pub(crate) fn blame(&self, error: FetchError) -> FetchError {
        if self.namespace.is_none() {
            return error;
        }
        FetchError::Mirror {
            host: self.host(),
            error: Box::new(error),
        }
    }
}

/// Host and port as image references write them.
pub(crate) fn host(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(base: &str, namespace: Option<&str>, name: &str) -> Result<String, FetchError> {
        let endpoint = Endpoint {
            http: reqwest::Client::new(),
            base: base.parse().unwrap(),
            headers: HeaderMap::new(),
            capabilities: Capabilities::ALL,
            namespace: namespace.map(str::to_owned),
            fault: None,
        };
        let repository = "r.example/team/app".parse().unwrap();
        let object = Object {
            repository: &repository,
            kind: "manifests",
            name,
        };
        endpoint.url(&object).map(String::from)
    }

    #[test]
    fn an_object_stands_below_the_hosts_path_and_a_mirror_is_told_whose_it_is() {
        for (base, namespace, due) in [
            (
                "https://r.example/v2",
                None,
                "https://r.example/v2/team/app/manifests/1",
            ),
            (
                "http://m.example:5000/v2/proxy/",
                Some("r.example:1"),
                "http://m.example:5000/v2/proxy/team/app/manifests/1?ns=r.example%3A1",
            ),
            (
                "https://m.example/",
                None,
                "https://m.example/team/app/manifests/1",
            ),
        ] {
            assert_eq!(url(base, namespace, "1").as_deref(), Ok(due));
        }
    }

    #[test]
    fn a_name_that_would_be_another_path_makes_no_url() {
        for name in ["..", "a b", "a?b", "a#b", "ä"] {
            assert_eq!(
                url("https://r.example/v2", None, name),
                Err(FetchError::Url),
                "{name}"
            );
        }
    }
}
