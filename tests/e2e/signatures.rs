//! Step 3 with a real registry, an OCI layout folder and real keys: the six verdicts stay apart, a policy in
//! mode `warn` is one degree milder, and a policy that cannot be read is refused where a person looks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use holdfast_core::digest::Digest;
use holdfast_tests::agent::{self, Agent};
use holdfast_tests::forge::{Signed, SigningKey, sign_classic};
use holdfast_tests::image::{Image, Layout};
use holdfast_tests::layer::Entry;
use holdfast_tests::registry::Registry;
use holdfast_tests::{http, scenario, wait};
use serde_json::Value;

use crate::scene::{IMAGE, Scene, assert_open, look_again};

fn image(name: &str) -> Image {
    Image::busybox([Entry::file("etc/image", name)])
}

/// A policy that wants a signature by `key` on images below `glob`.
fn keyed(name: &str, glob: &str, key: &SigningKey, mode: &str) -> String {
    let pem = key.public_pem().trim_end().replace('\n', "\n          ");
    format!(
        "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata:\n  name: {name}\n\
         spec:\n  images:\n    - glob: \"{glob}\"\n  authorities:\n    - name: release\n      key:\n        \
         hashAlgorithm: sha256\n        data: |\n          {pem}\n  mode: {mode}\n"
    )
}

/// A node with a registry: images are at both.
struct Stage {
    scene: Scene,
    registry: Registry,
    key: SigningKey,
    stranger: SigningKey,
}

impl Stage {
    async fn start() -> Self {
        let scene = Scene::start().await;
        std::fs::remove_file(scene.policies().join("pass.yaml")).unwrap();
        Self {
            scene,
            registry: Registry::start().await,
            key: SigningKey::generate().unwrap(),
            stranger: SigningKey::generate().unwrap(),
        }
    }

    /// Pushes an image as `shop/NAME:1`, starts a container NAME of it, and gives its digest.
    async fn run(&self, name: &str) -> Digest {
        let reference = self.reference(name);
        let mut layout = Layout::new();
        layout.add(&image(name), &reference);
        let digest = self
            .registry
            .push(&layout, &reference, &format!("shop/{name}:1"))
            .await;
        self.scene.containerd.ctr().import(&layout);
        self.scene.containerd.ctr().run(&reference, name);
        digest
    }

    fn reference(&self, name: &str) -> String {
        self.registry.reference(&format!("shop/{name}:1"))
    }

    /// Puts a signature about `subject` beside the image NAME, where one about `digest` is looked for.
    async fn sign(&self, name: &str, digest: Digest, subject: Digest, key: &SigningKey) {
        let repository = self.registry.reference(&format!("shop/{name}"));
        let mut signed = sign_classic(subject, &repository, &[key]).unwrap();
        signed.tag = sign_classic(digest, &repository, &[key]).unwrap().tag;
        let repository = format!("shop/{name}");
        for (_, bytes) in &signed.blobs {
            self.registry.put_blob(&repository, bytes).await;
        }
        let Signed {
            tag,
            media_type,
            manifest,
            ..
        } = signed;
        self.registry
            .put_manifest(&repository, &tag, media_type, manifest)
            .await;
    }

    fn policy(&self, file: &str, text: &str) -> PathBuf {
        let path = self.scene.policies().join(file);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn shop_policy(&self, mode: &str) {
        let glob = self.registry.reference("shop/**");
        self.policy("shop.yaml", &keyed("shop", &glob, &self.key, mode));
    }

    /// The verdicts by container, as `check -o json` gives them.
    fn verdicts(&self, more: &[&str]) -> BTreeMap<String, String> {
        let registry = self.registry.address().to_string();
        let mut arguments = vec!["-o", "json", "--insecure-registry", &registry];
        arguments.extend(more);
        let printed = self.scene.printed(&arguments);
        let report: Value = serde_json::from_str(&printed.output).unwrap();
        let containers = report["containers"].as_array().unwrap();
        let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        containers
            .iter()
            .map(|status| (word(&status["container"]["id"]), word(&status["signature"])))
            .collect()
    }

    #[track_caller]
    fn assert_checked(&self, due: &[&str]) {
        let registry = self.registry.address().to_string();
        let (_, found) = self.scene.check(&["--insecure-registry", &registry]);
        scenario::assert_exactly(&found, due);
    }

    fn config(&self, folder: &Path) -> String {
        let registries = format!(
            "registry = true\ninsecure-registries = [\"{}\"]",
            self.registry.address()
        );
        self.scene
            .config(folder)
            .replace("registry = false", &registries)
    }
}

#[tokio::test]
async fn the_six_verdicts_stay_apart() {
    let stage = Stage::start().await;
    stage.shop_policy("enforce");
    let signed = stage.run("signed").await;
    stage.sign("signed", signed, signed, &stage.key).await;
    stage.run("unsigned").await;
    let stranger = stage.run("stranger").await;
    stage
        .sign("stranger", stranger, stranger, &stage.stranger)
        .await;
    // A genuine signature by the right key, about another image.
    let replayed = stage.run("replayed").await;
    stage.sign("replayed", replayed, signed, &stage.key).await;
    let ctr = stage.scene.containerd.ctr();
    let free = "free.invalid/tool:1";
    stage.scene.import(&image("free"), free);
    ctr.run(free, "accepted");
    let pass = crate::scene::PASS.replace("**", "free.invalid/**");
    stage.policy("free.yaml", &pass);
    stage.scene.import(&image("none"), IMAGE);
    ctr.run(IMAGE, "uncovered");
    // Nobody listens there.
    let down = "127.0.0.1:1/shop/down:1";
    stage.scene.import(&image("down"), down);
    ctr.run(down, "down");
    let policy = keyed("down", "127.0.0.1:1/shop/**", &stage.key, "enforce");
    stage.policy("down.yaml", &policy);

    let due = [
        "image-unsigned - warning unsigned",
        "image-untrusted - critical stranger",
        "image-untrusted - critical replayed",
        "image-uncovered - warning uncovered",
        "unverifiable signature registry-unreachable - warning down",
    ];
    stage.assert_checked(&due);
    let verdicts = stage.verdicts(&[]);
    let due_verdicts = [
        ("accepted", "accepted"),
        ("down", "error"),
        ("replayed", "untrusted"),
        ("signed", "verified"),
        ("stranger", "untrusted"),
        ("uncovered", "uncovered"),
        ("unsigned", "unsigned"),
    ];
    let due_verdicts = due_verdicts.map(|(id, verdict)| (id.to_owned(), verdict.to_owned()));
    assert_eq!(verdicts, BTreeMap::from(due_verdicts));
    let mut agent = Agent::start(|folder| stage.config(folder));
    agent.ready().await;
    assert_open(&mut agent, &due).await;
}

#[tokio::test]
async fn a_registry_that_is_down_is_an_error_and_never_unsigned_or_verified() {
    let mut stage = Stage::start().await;
    stage.shop_policy("enforce");
    let signed = stage.run("signed").await;
    stage.sign("signed", signed, signed, &stage.key).await;
    stage.run("unsigned").await;
    stage.registry.process().kill();

    stage.assert_checked(&[
        "unverifiable signature registry-unreachable - warning signed",
        "unverifiable signature registry-unreachable - warning unsigned",
    ]);
}

#[tokio::test]
async fn mode_warn_is_one_degree_milder_and_never_silent() {
    let stage = Stage::start().await;
    stage.shop_policy("warn");
    stage.run("unsigned").await;
    let stranger = stage.run("stranger").await;
    stage
        .sign("stranger", stranger, stranger, &stage.stranger)
        .await;

    stage.assert_checked(&[
        "image-unsigned - info unsigned",
        "image-untrusted - warning stranger",
    ]);
}

#[tokio::test]
async fn without_any_policy_an_uncovered_image_is_worth_knowing_only() {
    let stage = Stage::start().await;
    stage.run("any").await;
    let containerd = &stage.scene.containerd;
    let arguments = [
        "--namespace",
        containerd.namespace(),
        "--agent-state",
        "/var/tmp/holdfast-no-agent",
    ];
    let (_, found) = agent::check(&containerd.socket(), &arguments);
    scenario::assert_exactly(&found, &["image-uncovered - info any"]);
}

#[tokio::test]
async fn a_layout_folder_is_looked_through_before_a_registry() {
    let mut stage = Stage::start().await;
    stage.shop_policy("enforce");
    let signed = stage.run("signed").await;
    stage.registry.process().kill();
    let repository = stage.registry.reference("shop/signed");
    let signature = sign_classic(signed, &repository, &[&stage.key]).unwrap();
    let mut layout = Layout::new();
    for (_, bytes) in &signature.blobs {
        layout.put(bytes);
    }
    let descriptor = layout.put_json(signature.media_type, &signature.manifest);
    layout.name(descriptor, &format!("{repository}:{}", signature.tag));
    let folder = layout.path().to_str().unwrap();

    let registry = stage.registry.address().to_string();
    let arguments = ["--layout", folder, "--insecure-registry", &registry];
    scenario::assert_exactly(&stage.scene.check(&arguments).1, &[]);
    assert_eq!(stage.verdicts(&["--layout", folder])["signed"], "verified");
}

#[tokio::test]
async fn a_bad_policy_is_refused_with_its_place() {
    let stage = Stage::start().await;
    stage.shop_policy("audit");
    let printed = stage.scene.printed(&[]);
    assert_eq!(printed.code, 78, "{printed:?}");
    let place = format!("{}/shop.yaml:", stage.scene.policies().display());
    assert!(printed.errors.contains(&place), "{printed:?}");
    let rest = printed.errors.split_once(&place).unwrap().1;
    let mut numbers = rest.split(':').take(2).map(str::parse::<u32>);
    assert!(
        numbers.all(|number| number.is_ok_and(|n| n > 0)),
        "{printed:?}"
    );
    assert!(
        printed.errors.contains("expected enforce or warn"),
        "{printed:?}"
    );

    let mut agent = Agent::start(|folder| stage.config(folder));
    assert_eq!(agent.process().exit_code().await, 78);
    assert!(agent.process().output().contains(&place));
    let config = agent.folder().join("config.toml");
    let checked = agent::run(&["config", "check", config.to_str().unwrap()]);
    assert_eq!(checked.code, 78, "{checked:?}");
}

#[tokio::test]
async fn the_last_good_policies_stay_until_a_file_can_be_read_again() {
    let stage = Stage::start().await;
    stage.shop_policy("enforce");
    stage.run("unsigned").await;
    let mut agent = Agent::start(|folder| stage.config(folder));
    agent.ready().await;
    let enforced = "image-unsigned - warning unsigned";
    assert_open(&mut agent, &[enforced]).await;

    stage.shop_policy("audit");
    let address = agent.http().await;
    wait::until("the refusal is logged", async || {
        let is_told = agent
            .process()
            .output()
            .contains("expected enforce or warn");
        is_told.then_some(())
    })
    .await;
    look_again(&mut agent).await;
    scenario::assert_exactly(&agent.open(), &[enforced]);
    assert_eq!(http::get(address, "/readyz").await.unwrap().0, 200);

    stage.shop_policy("warn");
    assert_open(&mut agent, &["image-unsigned - info unsigned"]).await;
}

#[tokio::test]
async fn a_signature_of_the_index_counts_for_the_manifest_that_it_lists() {
    let stage = Stage::start().await;
    stage.shop_policy("enforce");
    let (ours, other) = (image("ours"), image("other"));
    for (name, is_signed) in [("listed", true), ("lonely", false)] {
        let reference = stage.reference(name);
        let mut layout = Layout::new();
        let (index, _) = layout.add_index(&[("arm64", &other), ("amd64", &ours)], &reference);
        stage
            .registry
            .push(&layout, &reference, &format!("shop/{name}:1"))
            .await;
        stage.scene.containerd.ctr().import(&layout);
        stage.scene.containerd.ctr().run(&reference, name);
        if is_signed {
            stage.sign(name, index, index, &stage.key).await;
        }
    }
    // Both containers run one manifest under two names, and every name has to be satisfied where it is
    // looked for; the index is signed in one repository.
    let verdicts = stage.verdicts(&[]);
    assert_eq!(verdicts["listed"], "verified");
    assert_eq!(verdicts["lonely"], "verified");
}
