//! What refers to a digest: the referrers API with its pages, else the tag that stands in for it.
//!
//! A list is the registry's word and a hint: each referrer must be fetched by its digest and name the
//! subject itself ([`is_about`]), because some registries answer the tag with the subject's own index.
//! A list that could not be read to its end is an error: the signature may stand on the last page.

use holdfast_core::digest::Digest;
use holdfast_core::reference::Repository;
use holdfast_core::trust::classic::MAX_MANIFEST;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, LINK};
use serde::Deserialize;

use crate::answer::{Answer, is_index};
use crate::client::{ACCEPT_MANIFEST, Client, Tried, object};
use crate::endpoint::{Endpoint, Need};
use crate::error::{FetchError, PageError};
use crate::transport::Ask;

/// Referrers of one digest that are listed; the rest is counted.
pub const MAX_REFERRERS: usize = 1000;
/// Pages of one list. Registries send a hundred or more on each.
const MAX_PAGES: usize = 32;
/// Longest `Link` header that is read.
const MAX_LINK: usize = 4096;
/// Longest media type (RFC 6838 allows 127 on each side of the slash).
const MAX_MEDIA_TYPE: usize = 255;

const ACCEPT_INDEX: HeaderValue =
    HeaderValue::from_static("application/vnd.oci.image.index.v1+json");

/// A manifest that says of itself that it is about another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Its digest.
    pub digest: Digest,
    /// Its length, as the list says.
    pub size: u64,
    /// Its media type, as the list says.
    pub media_type: String,
    /// Its artifact type, as the list says: registries put the config's media type there, so it may sort
    /// out and must not decide.
    pub artifact_type: Option<String>,
}

/// What refers to a digest, each once, in the registry's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Referrers {
    /// The first [`MAX_REFERRERS`].
    pub first: Vec<Referrer>,
    /// How many follow that nobody looks at, with those whose digest is of another algorithm.
    pub rest: usize,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: Option<String>,
}

#[derive(Deserialize)]
struct About {
    #[serde(default)]
    subject: Option<Listed>,
}

/// The tag that stands in for the referrers of `subject` where a registry has no API for them.
pub fn referrers_tag(subject: Digest) -> String {
    format!("sha256-{}", subject.encoded())
}

/// The tag of cosign's classic attestations of `subject`, for [`Client::tagged`].
pub fn attestations_tag(subject: Digest) -> String {
    format!("{}.att", referrers_tag(subject))
}

/// Whether a manifest says that it is about `subject`.
pub fn is_about(manifest: &[u8], subject: Digest) -> bool {
    serde_json::from_slice::<About>(manifest)
        .ok()
        .and_then(|about| about.subject)
        .is_some_and(|named| named.digest == subject.to_string())
}

impl Client {
    /// What refers to `subject` in `repository`, of every artifact type.
    ///
    /// The filter of the API is not used: not every server has it, and what it filters by is not
    /// reliable. Mirrors often lack referrers, so an empty list of one is not the answer.
    pub async fn referrers(
        &self,
        repository: &Repository,
        subject: Digest,
    ) -> Result<Referrers, FetchError> {
        let mut tried = Tried::default();
        let hosts = self.transport.hosts.of(repository.registry()).await?;
        for endpoint in hosts
            .iter()
            .filter(|host| host.capabilities.allow(Need::Word))
        {
            match self.referrers_at(endpoint, repository, subject).await {
                Ok(list) if list.first.is_empty() && list.rest == 0 => {
                    tried.note(endpoint, FetchError::NotFound);
                }
                Ok(list) => return Ok(list),
                Err(error) => tried.note(endpoint, error),
            }
        }
        match tried.into_error() {
            FetchError::NotFound => Ok(Referrers::default()),
            error => Err(error),
        }
    }

    async fn referrers_at(
        &self,
        endpoint: &Endpoint,
        repository: &Repository,
        subject: Digest,
    ) -> Result<Referrers, FetchError> {
        let name = subject.to_string();
        let url = endpoint.url(&object(repository, "referrers", &name))?;
        let mut ask = Ask {
            endpoint,
            repository,
            url,
            accept: Some(ACCEPT_INDEX),
            from: 0,
        };
        match self.answer(&ask, MAX_MANIFEST).await {
            Ok(answer) if is_index(&answer.headers) => self.pages(ask, answer).await,
            // No such API: 404 as the specification says, or a page about it, as some do.
            Ok(_) | Err(FetchError::NotFound) => {
                let tag = referrers_tag(subject);
                ask.url = endpoint.url(&object(repository, "manifests", &tag))?;
                ask.accept = Some(ACCEPT_MANIFEST);
                self.by_tag(&ask).await
            }
            Err(error) => Err(error),
        }
    }

    async fn by_tag(&self, ask: &Ask<'_>) -> Result<Referrers, FetchError> {
        let answer = self.answer(ask, MAX_MANIFEST).await?;
        if !is_index(&answer.headers) {
            return Err(FetchError::WrongType);
        }
        let mut list = Referrers::default();
        list.add(&answer.bytes)?;
        Ok(list)
    }

    /// The list from its first page on.
    async fn pages(&self, mut ask: Ask<'_>, first: Answer) -> Result<Referrers, FetchError> {
        let mut list = Referrers::default();
        let mut seen = vec![ask.url.clone()];
        let mut answer = first;
        loop {
            if !is_index(&answer.headers) {
                return Err(FetchError::WrongType);
            }
            list.add(&answer.bytes)?;
            let Some(next) = next_page(&answer.headers, &ask.url).map_err(FetchError::Page)? else {
                return Ok(list);
            };
            if seen.contains(&next) {
                return Err(FetchError::Page(PageError::Again));
            }
            if seen.len() >= MAX_PAGES {
                return Err(FetchError::Page(PageError::TooMany));
            }
            seen.push(next.clone());
            ask.url = next;
            answer = match self.answer(&ask, MAX_MANIFEST).await {
                // Only of the first page is it an answer.
                Err(FetchError::NotFound) => return Err(FetchError::Page(PageError::Missing)),
                answer => answer?,
            };
        }
    }
}

impl Referrers {
    fn add(&mut self, index: &[u8]) -> Result<(), FetchError> {
        let index: Index = serde_json::from_slice(index).map_err(|_json| FetchError::WrongType)?;
        for listed in index.manifests {
            let Ok(digest) = listed.digest.parse() else {
                self.rest = self.rest.saturating_add(1);
                continue;
            };
            if self.first.iter().any(|known| known.digest == digest) {
                continue;
            }
            if self.first.len() >= MAX_REFERRERS {
                self.rest = self.rest.saturating_add(1);
                continue;
            }
            let bounded = |text: &String| text.len() <= MAX_MEDIA_TYPE;
            self.first.push(Referrer {
                digest,
                size: listed.size,
                media_type: Some(listed.media_type).filter(bounded).unwrap_or_default(),
                artifact_type: listed.artifact_type.filter(bounded),
            });
        }
        Ok(())
    }
}

/// The next page's URL, on the same host.
fn next_page(headers: &HeaderMap, from: &Url) -> Result<Option<Url>, PageError> {
    for value in headers.get_all(LINK) {
        let text = value.to_str().map_err(|_bytes| PageError::Malformed)?;
        if text.len() > MAX_LINK {
            return Err(PageError::Malformed);
        }
        if let Some(target) = next_target(text)? {
            let next = from.join(target).map_err(|_url| PageError::Malformed)?;
            if next.origin() != from.origin() || !next.username().is_empty() {
                return Err(PageError::OtherHost);
            }
            return Ok(Some(next));
        }
    }
    Ok(None)
}

/// The target of `<…>; rel="next"` among the links of one header.
fn next_target(text: &str) -> Result<Option<&str>, PageError> {
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (target, after) = rest
            .strip_prefix('<')
            .and_then(|rest| rest.split_once('>'))
            .ok_or(PageError::Malformed)?;
        // Its parameters go to the next link, which begins with `<`: no parameter of ours holds one.
        let (parameters, following) = match after.find('<') {
            Some(at) => after.split_at_checked(at).ok_or(PageError::Malformed)?,
            None => (after, ""),
        };
        let is_next = parameters
            .trim_end_matches([' ', ',', '\t'])
            .split(';')
            .filter_map(|parameter| parameter.split_once('='))
            .filter(|(name, _)| name.trim().eq_ignore_ascii_case("rel"))
            .any(|(_, value)| value.trim().trim_matches('"').eq_ignore_ascii_case("next"));
        if is_next {
            return Ok(Some(target));
        }
        rest = following;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(links: &[&str]) -> Result<Option<String>, PageError> {
        let mut headers = HeaderMap::new();
        for link in links {
            headers.append(LINK, link.parse().unwrap());
        }
        let from = "https://r.example/v2/a/referrers/sha256:x".parse().unwrap();
        next_page(&headers, &from).map(|url| url.map(String::from))
    }

    #[test]
    fn the_next_page_is_found_on_the_same_host_only() {
        let due = "https://r.example/v2/a/referrers/sha256:x?last=1";
        for link in [
            "</v2/a/referrers/sha256:x?last=1>; rel=\"next\"",
            "<?last=1>;rel=next",
            "<https://r.example/v2/a/referrers/sha256:x?last=1>; title=\"x\"; REL=\"Next\"",
            "</first>; rel=\"first\", <?last=1>; rel=\"next\"",
        ] {
            assert_eq!(next(&[link]), Ok(Some(due.to_owned())), "{link}");
        }
        assert_eq!(
            next(&["</first>; rel=first", "<?last=1>; rel=next"]),
            Ok(Some(due.to_owned()))
        );
        for link in ["</first>; rel=\"first\"", "</x>", ""] {
            assert_eq!(next(&[link]), Ok(None), "{link}");
        }
        assert_eq!(next(&[]), Ok(None));
        for link in [
            "<https://evil.example/v2>; rel=next",
            "<//evil.example/>; rel=next",
            "<http://r.example/>; rel=next",
            "<https://r.example:8443/>; rel=next",
            "<https://u@r.example/>; rel=next",
        ] {
            assert_eq!(next(&[link]), Err(PageError::OtherHost), "{link}");
        }
        for link in [
            "next",
            "<x; rel=next",
            "x<y>; rel=next",
            "<https://[>; rel=next",
        ] {
            assert_eq!(next(&[link]), Err(PageError::Malformed), "{link}");
        }
        let long = format!("<{}>; rel=next", "x".repeat(MAX_LINK));
        assert_eq!(next(&[&long]), Err(PageError::Malformed));
    }

    #[test]
    fn the_tags_are_cosigns() {
        let subject = Digest::of(b"");
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(referrers_tag(subject), format!("sha256-{hex}"));
        assert_eq!(attestations_tag(subject), format!("sha256-{hex}.att"));
    }

    #[test]
    fn a_manifest_is_about_the_digest_that_it_names_as_its_subject() {
        let subject = Digest::of(b"image");
        let about = |digest: &str| format!(r#"{{"subject":{{"digest":"{digest}","size":1}}}}"#);
        assert!(is_about(about(&subject.to_string()).as_bytes(), subject));
        let other = Digest::of(b"other").to_string();
        for manifest in [about(&other), "{}".to_owned(), "x".to_owned()] {
            assert!(!is_about(manifest.as_bytes(), subject), "{manifest}");
        }
    }

    #[test]
    fn a_list_is_bounded_and_names_each_once() {
        let entry = |digest: &str| {
            format!(
                r#"{{"digest":"{digest}","artifactType":"{}"}}"#,
                "x".repeat(300)
            )
        };
        let mut entries: Vec<String> = (0..MAX_REFERRERS + 5)
            .map(|at| entry(&Digest::of(&at.to_le_bytes()).to_string()))
            .collect();
        entries.push(entries[0].clone());
        entries.push(entry("sha512:00"));
        let mut list = Referrers::default();
        list.add(format!(r#"{{"manifests":[{}]}}"#, entries.join(",")).as_bytes())
            .unwrap();
        assert_eq!((list.first.len(), list.rest), (MAX_REFERRERS, 6));
        assert_eq!(list.first[0].artifact_type, None);
        assert_eq!(list.add(b"{}"), Err(FetchError::WrongType));
    }
}
