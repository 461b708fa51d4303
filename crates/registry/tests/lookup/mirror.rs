//! Mirrors before the registry, as `hosts.toml` says, and what is true when they disagree.

use holdfast_core::digest::Digest;
use holdfast_core::trust::Cause;
use holdfast_registry::{Access, Client, FetchError, SetupFault};
use tempfile::TempDir;

use crate::forge::SigningKey;
use crate::liar::{Asked, Liar, Reply, body, honest, look_with, plain, repository, status, with};
use crate::registry::signed;
use crate::{subject, told, write_hosts};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A mirror and a registry with these answers, and access through the mirror first.
struct Scene {
    mirror: Liar,
    origin: Liar,
    _certs: TempDir,
    access: Access,
}

impl Scene {
    async fn start(
        mirror: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
        origin: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::with_capabilities("[\"pull\", \"resolve\"]", mirror, origin).await
    }

    async fn with_capabilities(
        capabilities: &str,
        mirror: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
        origin: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (mirror, origin) = (Liar::start(mirror).await, Liar::start(origin).await);
        let certs = TempDir::new().unwrap();
        let text = format!(
            "[host.\"http://{}/v2/proxy\"]\noverride_path = true\ncapabilities = {capabilities}\nheader = {{ x-mirror = \"secret\" }}\n",
            mirror.host
        );
        write_hosts(certs.path(), &origin.host, &text);
        let access = Access {
            hosts: vec![certs.path().to_owned()],
            ..plain(&[&mirror.host, &origin.host])
        };
        Self {
            mirror,
            origin,
            _certs: certs,
            access,
        }
    }

    async fn told(&self) -> (usize, Vec<Cause>) {
        told(&look_with(self.access.clone(), &self.origin.host).await)
    }
}

/// An honest registry below `/v2/proxy`.
fn proxied(signed: &crate::forge::Signed, asked: &Asked) -> Reply {
    let asked = Asked {
        path: asked.path.replacen("/v2/proxy/", "/v2/", 1),
        ..asked.clone()
    };
    honest(signed, &asked)
}

#[tokio::test]
async fn a_mirror_that_has_it_is_told_whose_it_is_and_the_registry_is_not_asked() {
    let object = signed(&SigningKey::generate().unwrap());
    let scene = Scene::start(move |asked| proxied(&object, asked), |_| status(500)).await;

    assert_eq!(scene.told().await, (1, vec![]));

    assert!(scene.origin.asked().is_empty());
    let asked = scene.mirror.asked();
    let ns = format!("ns={}", scene.origin.host.replace(':', "%3A"));
    assert!(asked.iter().all(|asked| asked.query == ns));
    assert_eq!(asked[0].header("x-mirror"), Some("secret"));
}

#[tokio::test]
async fn what_a_mirror_lacks_or_breaks_the_registry_has() {
    let wrong = |_: &Asked| body("application/vnd.oci.image.manifest.v1+json", b"{}");
    let html = |_: &Asked| body("text/html", b"<html>");
    let mirrors: [fn(&Asked) -> Reply; 6] = [
        |_| status(404),
        |_| status(429),
        |_| status(403),
        |_| status(401),
        html,
        wrong,
    ];
    for (at, mirror) in mirrors.into_iter().enumerate() {
        let object = signed(&SigningKey::generate().unwrap());
        let manifest = Digest::of(&object.manifest);
        let bytes = object.manifest.clone();
        let by_digest = move |asked: &Asked| {
            let is_ours = asked.path.ends_with(&manifest.to_string());
            let due = is_ours.then(|| body(object.media_type, &object.manifest));
            due.unwrap_or_else(|| honest(&object, asked))
        };
        let scene = Scene::start(mirror, by_digest).await;
        let client = Client::new(scene.access.clone()).unwrap();
        let found = client.manifest(&scene.origin.repository(), manifest).await;
        assert_eq!(found.unwrap().bytes, bytes, "mirror {at}");
        let asked = scene.origin.asked();
        assert!(asked.iter().all(|asked| asked.header("x-mirror").is_none()));
    }
}

#[tokio::test]
async fn nothing_at_the_registry_is_nothing_only_if_the_mirror_could_be_asked() {
    for (code, due) in [
        (404, vec![]),
        (429, vec![Cause::RateLimited]),
        (403, vec![Cause::Denied]),
        (503, vec![Cause::ServerError]),
    ] {
        let scene = Scene::start(move |_| status(code), |_| status(404)).await;
        assert_eq!(scene.told().await, (0, due), "mirror says {code}");
        let scene = Scene::start(|_| status(404), move |_| status(code)).await;
        assert_eq!(scene.told().await.0, 0);
        let said_nothing = scene.told().await.1.is_empty();
        assert_eq!(said_nothing, code == 404, "registry says {code}");
    }
}

#[tokio::test]
async fn a_mirrors_failure_is_said_to_be_the_mirrors() {
    let scene = Scene::start(|_| status(403), |_| status(404)).await;
    let looked = look_with(scene.access.clone(), &scene.origin.host).await;
    let message = &looked.missed()[0].message;
    assert!(
        message.contains(&format!("mirror {}: ", scene.mirror.host)),
        "{message}"
    );
    assert!(!message.contains("secret"));
}

#[tokio::test]
async fn a_mirror_that_may_only_be_pulled_from_is_not_asked_what_a_tag_means() {
    let object = signed(&SigningKey::generate().unwrap());
    let (ours, theirs) = (object.clone(), object);
    let scene = Scene::with_capabilities(
        "[\"pull\"]",
        move |asked| proxied(&ours, asked),
        move |asked| honest(&theirs, asked),
    )
    .await;
    assert_eq!(scene.told().await, (1, vec![]));
    assert!(
        scene
            .mirror
            .asked()
            .iter()
            .all(|asked| asked.path.contains("/blobs/"))
    );
    assert_eq!(scene.origin.asked().len(), 1, "the tag");
}

#[tokio::test]
async fn a_mirror_in_plain_http_that_we_do_not_list_is_not_asked_and_said_so() {
    let scene = Scene::start(|_| status(200), |_| status(404)).await;
    let access = Access {
        insecure: plain(&[&scene.origin.host]).insecure,
        ..scene.access.clone()
    };
    let looked = look_with(access, &scene.origin.host).await;
    assert_eq!(told(&looked), (0, vec![Cause::Setup]));
    assert!(scene.mirror.asked().is_empty());
}

#[tokio::test]
async fn a_broken_hosts_file_is_an_error_with_its_line() {
    let origin = Liar::start(|_| status(404)).await;
    let certs = TempDir::new().unwrap();
    write_hosts(certs.path(), &origin.host, "\nserver = 5\n");
    let access = Access {
        hosts: vec![certs.path().to_owned()],
        ..plain(&[&origin.host])
    };
    let client = Client::new(access).unwrap();
    let error = client.tagged(&origin.repository(), "1").await.unwrap_err();
    assert!(
        matches!(
            error,
            FetchError::Setup(SetupFault::Malformed { line: 2, .. })
        ),
        "{error}"
    );
    assert!(origin.asked().is_empty());
}

#[tokio::test]
async fn a_mirror_without_referrers_does_not_hide_the_registrys() {
    let list = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":1}}]}}"#,
        Digest::of(b"signature")
    );
    let scene = Scene::start(
        |_| body(INDEX, br#"{"schemaVersion":2,"manifests":[]}"#),
        move |asked| {
            let is_api = asked.path.contains("/referrers/");
            let due = is_api.then(|| body(INDEX, list.as_bytes()));
            due.unwrap_or_else(|| status(404))
        },
    )
    .await;
    let client = Client::new(scene.access.clone()).unwrap();
    let repository = repository(&scene.origin.host);
    let found = client.referrers(&repository, subject()).await;
    assert_eq!(found.unwrap().first.len(), 1);
}

#[tokio::test]
async fn a_mirrors_headers_do_not_follow_its_redirect() {
    let object = signed(&SigningKey::generate().unwrap());
    let storage = Liar::start(move |asked| proxied(&object, asked)).await;
    let elsewhere = format!("http://{}", storage.host);
    let scene = Scene::start(
        move |asked| {
            with(
                status(307),
                "location",
                &format!("{elsewhere}{}", asked.path),
            )
        },
        |_| status(404),
    )
    .await;
    let mut access = scene.access.clone();
    access.insecure.insert(storage.host.clone());
    assert_eq!(
        told(&look_with(access, &scene.origin.host).await),
        (1, vec![])
    );
    let asked = storage.asked();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|asked| asked.header("x-mirror").is_none()));
}
