//! Our client of registries against Debian's docker-registry: passwords, tokens, layers, referrers.

use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use holdfast_core::digest::Digest;
use holdfast_core::finding::Basis;
use holdfast_core::reference::Repository;
use holdfast_registry::{Access, Blob, Client, Downloads, FetchError, Keyring, referrers_tag};
use holdfast_tests::agent::Agent;
use holdfast_tests::image::{self, Digests, Image, Layout};
use holdfast_tests::layer::{Entry, Layer};
use holdfast_tests::registry::Registry;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// `user` with the password `secret`, for docker-registry.
const HTPASSWD: &str = "user:$2b$04$7Na0xO.IxjXXm7/orwVY2eVNLlEdyuxp9R4griEnA7XdFVKRj/8b6\n";
const SERVICE: &str = "holdfast-test";

/// A registry with one image.
struct Scene {
    registry: Registry,
    manifest: Digest,
    layer: Layer,
    folder: TempDir,
}

impl Scene {
    async fn start() -> Self {
        let layer = Layer::new([Entry::file("large", vec![7; 3 << 20])]);
        let mut layout = Layout::new();
        layout.add(&Image::new([layer.clone()]), "app");
        let registry = Registry::start().await;
        let manifest = registry.push(&layout, "app", "team/app:1").await;
        Self {
            registry,
            manifest,
            layer,
            folder: TempDir::new().unwrap(),
        }
    }

    async fn guarded(self, auth: &str) -> Self {
        Self {
            registry: self.registry.guarded(auth).await,
            ..self
        }
    }

    fn repository(&self) -> Repository {
        self.registry.reference("team/app").parse().unwrap()
    }

    fn blob(&self) -> Blob {
        Blob {
            digest: self.layer.digest(),
            size: self.layer.blob().len().try_into().unwrap(),
        }
    }

    /// A client with this entry for the registry in its `config.json`; other hosts besides it may be
    /// asked in plain HTTP.
    fn client(&self, entry: &serde_json::Value, others: &[&str]) -> Client {
        let host = self.registry.address().to_string();
        let file = self.folder.path().join("config.json");
        let config = json!({"auths": {&*host: entry}}).to_string();
        std::fs::write(&file, config).unwrap();
        let others = others.iter().map(|&other| other.to_owned());
        let access = Access {
            insecure: others.chain([host]).collect(),
            keyring: Keyring::new(file, Vec::new()),
            ..Access::default()
        };
        Client::new(access).unwrap()
    }

    async fn read(&self, client: &Client) -> Result<(), FetchError> {
        let repository = self.repository();
        client.manifest(&repository, self.manifest).await?;
        assert_eq!(client.tagged(&repository, "1").await?.digest, self.manifest);
        let downloads = Downloads::open(client.clone(), self.folder.path().join("blobs")).unwrap();
        let path = downloads.fetch(&repository, self.blob()).await?;
        assert_eq!(std::fs::read(path).unwrap(), self.layer.blob());
        Ok(())
    }
}

fn password(pair: &str) -> serde_json::Value {
    json!({"auth": STANDARD.encode(pair)})
}

#[tokio::test]
async fn an_open_registry_is_read_without_credentials() {
    let scene = Scene::start().await;
    let client = scene.client(&json!({}), &[]);
    assert_eq!(scene.read(&client).await, Ok(()));
    let absent = client.tagged(&scene.repository(), "2").await;
    assert_eq!(absent, Err(FetchError::NotFound));
}

#[tokio::test]
async fn a_registry_with_passwords_is_read_by_who_has_one() {
    let scene = Scene::start().await;
    let file = scene.registry.folder().join("htpasswd");
    std::fs::write(&file, HTPASSWD).unwrap();
    let auth = format!(
        "auth:\n  htpasswd:\n    realm: r\n    path: {}\n",
        file.display()
    );
    let scene = scene.guarded(&auth).await;

    let right = scene.client(&password("user:secret"), &[]);
    assert_eq!(scene.read(&right).await, Ok(()));
    for entry in [
        json!({}),
        password("user:wrong"),
        json!({"identitytoken": "x"}),
    ] {
        let wrong = scene.client(&entry, &[]);
        assert_eq!(
            scene.read(&wrong).await,
            Err(FetchError::Unauthorized),
            "{entry}"
        );
    }
}

#[tokio::test]
async fn a_registry_with_tokens_is_read_by_who_is_given_one() {
    let scene = Scene::start().await;
    let folder = scene.registry.folder().to_owned();
    let tokens = Tokens::start(&folder).await;
    let scene = scene.guarded(&tokens.auth(&folder)).await;
    let host = tokens.host.as_str();

    // A challenge in plain HTTP gives another host no password: such a one is asked as a stranger.
    let stranger = scene.client(&password("user:secret"), &[host]);
    let refused = FetchError::Token(holdfast_registry::TokenError::Status(401));
    assert_eq!(scene.read(&stranger).await, Err(refused));

    let public = Tokens::public(&folder).await;
    let scene = scene.guarded(&public.auth(&folder)).await;
    let anybody = scene.client(&json!({}), &[public.host.as_str()]);
    assert_eq!(scene.read(&anybody).await, Ok(()));
    // The registry itself refuses a token for something else.
    let other = scene.registry.reference("other/app").parse().unwrap();
    assert_eq!(
        anybody.tagged(&other, "1").await,
        Err(FetchError::Unauthorized)
    );
}

#[tokio::test]
async fn what_the_store_has_lost_or_altered_is_told_apart() {
    let scene = Scene::start().await;
    let client = scene.client(&json!({}), &[]);
    let path = scene.registry.blob(scene.layer.digest());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(
        scene.read(&client).await,
        Err(FetchError::WrongDigest {
            due: scene.layer.digest(),
            actual: Digest::of(&bytes)
        })
    );
    bytes.truncate(middle);
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(
        scene.read(&client).await,
        Err(FetchError::WrongLength { .. })
    ));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(scene.read(&client).await, Err(FetchError::NotFound));
}

#[tokio::test]
async fn referrers_are_found_by_the_tag_that_stands_in_for_the_api() {
    let scene = Scene::start().await;
    let client = scene.client(&json!({}), &[]);
    let repository = scene.repository();
    let none = client.referrers(&repository, scene.manifest).await.unwrap();
    assert_eq!((none.first.len(), none.rest), (0, 0));

    let listed =
        json!({"mediaType": image::MANIFEST, "digest": scene.manifest.to_string(), "size": 1});
    let index = json!({"schemaVersion": 2, "mediaType": image::INDEX, "manifests": [listed]});
    let tag = referrers_tag(scene.manifest);
    let bytes = index.to_string().into_bytes();
    scene
        .registry
        .put_manifest("team/app", &tag, image::INDEX, bytes)
        .await;

    let one = client.referrers(&repository, scene.manifest).await.unwrap();
    assert_eq!(one.first[0].digest, scene.manifest);
}

/// An agent that may fetch layers, on a node that has lost the blobs of a running image.
async fn fetching(
    registry: &Registry,
    lose: impl FnOnce(&Digests),
) -> (crate::scene::Scene, Agent) {
    let scene = crate::scene::Scene::start().await;
    let image = Image::busybox([Entry::file("opt/app/own", "own")]);
    let name = registry.reference("team/app:1");
    let mut layout = Layout::new();
    let digests = layout.add(&image, &name);
    registry.push(&layout, &name, "team/app:1").await;
    scene.import(&image, &name);
    scene
        .containerd
        .ctr()
        .run(&name, "one")
        .exec("rm /opt/app/own");
    for layer in &digests.layers {
        std::fs::remove_file(scene.containerd.blob(*layer)).unwrap();
    }
    lose(&digests);
    let insecure = format!(
        "registry = false\ninsecure-registries = [\"{}\"]\n",
        registry.address()
    );
    let agent = Agent::start(|folder| {
        let config = scene
            .config(folder)
            .replace("registry = false\n", &insecure);
        format!("{config}[content]\nregistry = true\n")
    });
    (scene, agent)
}

#[tokio::test]
async fn an_agent_that_may_fetches_the_layers_that_its_node_lacks() {
    let registry = Registry::start().await;
    let (_scene, mut agent) = fetching(&registry, |_| ()).await;
    let due = ["file-drift removed data /opt/app/own warning one"];
    crate::scene::assert_open(&mut agent, &due).await;
    assert_eq!(agent.open()[0].basis, Some(Basis::RegistryBlob));
}

#[tokio::test]
async fn a_layer_that_the_registry_lacks_too_stays_unverifiable_and_says_so() {
    let registry = Registry::start().await;
    let lose = |digests: &Digests| std::fs::remove_file(registry.blob(digests.layers[0])).unwrap();
    let (_scene, mut agent) = fetching(&registry, lose).await;
    let due = [
        "unverifiable files blob-absent - info one",
        "unverifiable layers blob-absent - info one",
    ];
    crate::scene::assert_open(&mut agent, &due).await;
    let told = holdfast_tests::wait::until("the registry's answer is told", async || {
        let open = serde_json::to_string(&agent.open()).unwrap();
        open.contains("from its registry: not found (404)")
            .then_some(())
    });
    told.await;
}

/// A small token server: it signs for reading `team/app`, and for nothing else.
struct Tokens {
    host: String,
    _serving: JoinSet<()>,
}

impl Tokens {
    /// One that wants the user's password.
    async fn start(folder: &Path) -> Self {
        let basic = format!("Basic {}", STANDARD.encode("user:secret"));
        Self::serve(folder, move |request: &Request| {
            let proof = request.headers().get("authorization");
            proof.is_some_and(|proof| proof == &basic)
        })
        .await
    }

    /// One that gives everybody a token.
    async fn public(folder: &Path) -> Self {
        Self::serve(folder, |_| true).await
    }

    async fn serve(
        folder: &Path,
        may: impl Fn(&Request) -> bool + Clone + Send + Sync + 'static,
    ) -> Self {
        let made = rcgen::generate_simple_self_signed(["token".to_owned()]).unwrap();
        std::fs::write(folder.join("token.pem"), made.cert.pem()).unwrap();
        let pkcs8 = made.signing_key.serialize_der();
        let chain = STANDARD.encode(made.cert.der());
        let app = Router::new().fallback(move |request: Request| {
            let answer = if may(&request) {
                let token = json!({"token": sign(&pkcs8, &chain), "expires_in": 300});
                Ok(token.to_string())
            } else {
                Err(StatusCode::UNAUTHORIZED)
            };
            std::future::ready(answer)
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            host,
            _serving: serving,
        }
    }

    /// What makes docker-registry ask for these tokens.
    fn auth(&self, folder: &Path) -> String {
        format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: {SERVICE}\n    issuer: {SERVICE}\n    rootcertbundle: {}\n",
            self.host,
            folder.join("token.pem").display()
        )
    }
}

/// A token as docker-registry checks it (JSON web token, ES256, with its certificate).
fn sign(pkcs8: &[u8], chain: &str) -> String {
    let now = jiff::Timestamp::now().as_second();
    let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [chain]});
    let access = json!([{"type": "repository", "name": "team/app", "actions": ["pull"]}]);
    let claims = json!({
        "iss": SERVICE, "sub": "user", "aud": SERVICE, "jti": "1", "access": access,
        "iat": now - 10, "nbf": now - 10, "exp": now + 300,
    });
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&header), part(&claims));
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).unwrap();
    let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}
