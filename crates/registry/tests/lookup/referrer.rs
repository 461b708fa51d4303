//! What refers to an image: all pages, the tag that stands in, and no half list taken for a whole.

use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_core::digest::Digest;
use holdfast_registry::{Client, FetchError, PageError, Referrers, referrers_tag};

use crate::liar::{Asked, Liar, Reply, body, plain, status, with};
use crate::subject;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An index that lists the digests of these names.
fn index(names: &[&str]) -> Reply {
    let entries: Vec<String> = names
        .iter()
        .map(|name| {
            let digest = Digest::of(name.as_bytes());
            format!(r#"{{"digest":"{digest}","size":7,"mediaType":"m","artifactType":"{name}"}}"#)
        })
        .collect();
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        entries.join(",")
    );
    body(INDEX, text.as_bytes())
}

fn is_api(asked: &Asked) -> bool {
    asked.path == format!("/v2/team/app/referrers/{}", subject())
}

fn is_tag(asked: &Asked) -> bool {
    asked.path == format!("/v2/team/app/manifests/{}", referrers_tag(subject()))
}

async fn list(registry: &Liar) -> Result<Referrers, FetchError> {
    let client = Client::new(plain(&[&registry.host])).unwrap();
    client.referrers(&registry.repository(), subject()).await
}

fn names(list: &Referrers) -> Vec<&str> {
    list.first
        .iter()
        .map(|referrer| referrer.artifact_type.as_deref().unwrap())
        .collect()
}

#[tokio::test]
async fn a_list_is_read_with_all_its_pages_and_no_filter_is_asked_for() {
    let registry = Liar::start(|asked| match asked.query.as_str() {
        _ if !is_api(asked) => status(404),
        "" => with(index(&["a", "b"]), "link", "<?last=b>; rel=\"next\""),
        "last=b" => with(index(&["b", "c"]), "link", "<?last=c>; rel=\"next\""),
        "last=c" => index(&["d"]),
        _ => status(400),
    })
    .await;
    let found = list(&registry).await.unwrap();
    assert_eq!(names(&found), ["a", "b", "c", "d"]);
    assert_eq!((found.rest, found.first[0].size), (0, 7));
    assert!(
        registry
            .asked()
            .iter()
            .all(|asked| !asked.query.contains("artifactType"))
    );
}

#[tokio::test]
async fn the_tag_stands_in_where_the_api_is_missing() {
    for api in [
        || status(404),
        || body("text/html", b"<html>no such page</html>"),
    ] {
        let registry = Liar::start(move |asked| match asked {
            asked if is_api(asked) => api(),
            asked if is_tag(asked) => index(&["a"]),
            _ => status(500),
        })
        .await;
        assert_eq!(names(&list(&registry).await.unwrap()), ["a"]);
    }
    let neither = Liar::start(|_| status(404)).await;
    assert_eq!(list(&neither).await, Ok(Referrers::default()));
}

#[tokio::test]
async fn a_tag_that_is_no_list_is_not_an_empty_one() {
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let registry = Liar::start(move |asked| {
        let due = is_tag(asked).then(|| body(manifest, b"{}"));
        due.unwrap_or_else(|| status(404))
    })
    .await;
    assert_eq!(list(&registry).await, Err(FetchError::WrongType));
}

#[tokio::test]
async fn every_failure_is_its_own_and_never_an_empty_list() {
    for (code, due) in [
        (401, FetchError::Unauthorized),
        (403, FetchError::Forbidden),
        (500, FetchError::Server(500)),
        (400, FetchError::Status(400)),
    ] {
        let api = Liar::start(move |_| status(code)).await;
        assert_eq!(list(&api).await, Err(due.clone()), "{code} of the API");
        let tag = Liar::start(move |asked| status(if is_tag(asked) { code } else { 404 })).await;
        assert_eq!(list(&tag).await, Err(due), "{code} of the tag");
    }
    let limited = Liar::start(|_| status(429)).await;
    assert!(matches!(
        list(&limited).await,
        Err(FetchError::RateLimited { .. })
    ));
}

#[tokio::test]
async fn a_list_that_cannot_be_read_to_its_end_is_an_error() {
    let elsewhere = Liar::start(|_| index(&["evil"])).await;
    let other_host = format!("<http://{}/x>; rel=next", elsewhere.host);
    for (link, due) in [
        ("</again>; rel=\"next\"", PageError::Again),
        ("next", PageError::Malformed),
        (&*other_host, PageError::OtherHost),
    ] {
        let link = link.to_owned();
        let registry = Liar::start(move |_| with(index(&["a"]), "link", &link)).await;
        let (again, found) = (due == PageError::Again, list(&registry).await);
        assert_eq!(found, Err(FetchError::Page(due)));
        assert_eq!(registry.asked().len(), if again { 2 } else { 1 });
    }
    assert!(elsewhere.asked().is_empty());

    let broken = Liar::start(|asked| match asked.query.as_str() {
        "" => with(index(&["a"]), "link", "<?2>; rel=next"),
        _ => status(404),
    })
    .await;
    let missing = FetchError::Page(PageError::Missing);
    assert_eq!(list(&broken).await, Err(missing));
}

#[tokio::test]
async fn endless_pages_end() {
    let count = AtomicUsize::new(0);
    let registry = Liar::start(move |_| {
        let page = count.fetch_add(1, Ordering::Relaxed);
        with(index(&["a"]), "link", &format!("<?{page}>; rel=next"))
    })
    .await;
    let mut access = plain(&[&registry.host]);
    access.pace.burst = 100.0;
    let client = Client::new(access).unwrap();
    let found = client.referrers(&registry.repository(), subject()).await;
    assert_eq!(found, Err(FetchError::Page(PageError::TooMany)));
    assert_eq!(registry.asked().len(), 32);
}
