//! Nodes whose layer blobs are gone after unpacking: with skeletons that were made before, everything is
//! found that is found with blobs, and says on which basis. What was tampered with before the first sight is
//! found once the genuine contents are at hand, and until then nothing is called tampered.

use std::path::{Path, PathBuf};

use holdfast_core::digest::Digest;
use holdfast_core::finding::{Basis, Detail, Finding};
use holdfast_tests::agent::{self, Agent};
use holdfast_tests::containerd::Options;
use holdfast_tests::cri::{Cri, PodSpec};
use holdfast_tests::image::{BUSYBOX, Digests, Image, Layout};
use holdfast_tests::layer::{Entry, Layer};
use holdfast_tests::registry::Registry;
use holdfast_tests::{scenario, wait};
use tempfile::TempDir;

use crate::scene::{IMAGE, Scene, assert_open};

/// A node without blobs, and the skeletons that were made while it had them.
struct Blind {
    scene: Scene,
    skeletons: TempDir,
}

pub(crate) fn library(number: usize) -> String {
    format!("\x7fELF library {number}")
}

/// Layers with what blobs alone know: replaced entries, hard links, attributes, whiteouts.
pub(crate) fn image() -> Image {
    let mut second = vec![
        Entry::program("usr/bin/tool", "#!/bin/sh\necho tool\n"),
        Entry::hardlink("usr/bin/twin", "usr/bin/tool").mode(0o755),
        Entry::file("etc/twice", "replaced within the layer"),
        Entry::file("etc/twice", "what stays"),
        Entry::file("opt/noted", "n").xattr("user.note", "v"),
    ];
    second.extend((0..60).map(|n| Entry::program(format!("usr/lib/l{n:02}.so"), library(n))));
    let third = Layer::new([
        Entry::whiteout("opt/noted"),
        Entry::opaque("opt/app"),
        Entry::file("opt/app/own", "own"),
    ]);
    Image::new([BUSYBOX.clone(), Layer::new(second), third])
}

impl Blind {
    async fn start() -> Self {
        let scene = Scene::start().await;
        let digests = scene.import(&image(), IMAGE);
        let skeletons = skeletons_of(&scene, IMAGE);
        scene.run("one");
        forget_blobs(&scene, &digests).await;
        Self { scene, skeletons }
    }

    fn lower(&self, path: &str) -> PathBuf {
        self.scene.containerd.ctr().container("one").lower_of(path)
    }

    fn check(&self) -> Vec<Finding> {
        let folder = self.skeletons.path().to_str().unwrap();
        self.scene.check(&["--skeletons", folder]).1
    }

    /// An agent that reads the folder of skeletons, looked once at everything.
    async fn agent(&self) -> Agent {
        let given = format!(
            "[state]\nskeletons = \"{}\"\n",
            self.skeletons.path().display()
        );
        let config = |folder: &Path| self.scene.config(folder).replace("[state]\n", &given);
        let mut agent = Agent::start(config);
        agent.ready().await;
        agent
    }

    fn supply(&self, content: &[u8]) {
        let folder = self.skeletons.path().join("contents");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(Digest::of(content).encoded()), content).unwrap();
    }
}

/// Makes the skeletons of an image in the store, as an administrator does.
fn skeletons_of(scene: &Scene, image: &str) -> TempDir {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let socket = scene.containerd.socket();
    let printed = agent::run(&[
        "skeleton",
        image,
        "--containerd",
        socket.to_str().unwrap(),
        "--namespace",
        scene.containerd.namespace(),
        "--out",
        folder.path().to_str().unwrap(),
    ]);
    assert_eq!(printed.code, 0, "{printed:?}");
    folder
}

/// Takes the layers' blobs out of the content store, as containerd does with unpacked ones.
pub(crate) async fn forget_blobs(scene: &Scene, digests: &Digests) {
    for layer in &digests.layers {
        let name = layer.to_string();
        scene.containerd.ctr().must(&["content", "rm", &name]);
        wait::until("the blob is gone", async || {
            (!scene.containerd.blob(*layer).exists()).then_some(())
        })
        .await;
    }
}

pub(crate) fn replace(path: &Path, content: &str) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, content).unwrap();
    let program = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, program).unwrap();
}

#[track_caller]
pub(crate) fn assert_basis(found: &[Finding], basis: Basis) {
    assert!(!found.is_empty());
    for finding in found {
        assert_eq!(finding.basis, Some(basis), "{}", finding.title);
    }
}

#[tokio::test]
async fn without_blobs_skeletons_find_what_blobs_find() {
    let blind = Blind::start().await;
    scenario::assert_exactly(&blind.check(), &[]);
    let one = blind.scene.containerd.ctr().container("one");
    one.exec("rm /usr/lib/l00.so; echo x > /etc/twice; echo x > /opt/app/own");
    let due_in_upper = [
        "file-drift removed program /usr/lib/l00.so warning one",
        "file-drift modified configuration /etc/twice warning one",
        "file-drift modified data /opt/app/own warning one",
    ];
    scenario::assert_exactly(&blind.check(), &due_in_upper);
    assert_basis(&blind.check(), Basis::Reassembled);

    // Seen once, a table is kept: what is tampered with afterwards needs no further proof.
    let mut agent = blind.agent().await;
    replace(&blind.lower("/usr/lib/l07.so"), "evil");
    let mut due = due_in_upper.to_vec();
    due.push("layer-tampered modified program /usr/lib/l07.so critical one");
    assert_open(&mut agent, &due).await;
    assert_basis(&agent.open(), Basis::Reassembled);
}

#[tokio::test]
async fn metadata_extra_files_and_planted_attributes_are_found_without_any_proof_failing() {
    let blind = Blind::start().await;
    let tool = blind.lower("/usr/bin/tool");
    let setuid = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    std::fs::set_permissions(&tool, setuid).unwrap();
    std::fs::write(tool.with_file_name("extra"), "#!/bin/sh\n").unwrap();
    let found = blind.check();
    scenario::assert_exactly(
        &found,
        &[
            "layer-tampered metadata program /usr/bin/tool critical one",
            "layer-tampered metadata program /usr/bin/twin critical one",
            "layer-tampered added program /usr/bin/extra critical one",
        ],
    );
    assert_basis(&found, Basis::Reassembled);
}

#[tokio::test]
async fn what_was_tampered_with_before_the_first_sight_is_named_once_its_contents_are_at_hand() {
    for count in [1, 50] {
        let blind = Blind::start().await;
        let names: Vec<String> = (0..count).map(|n| format!("/usr/lib/l{n:02}.so")).collect();
        for name in &names {
            replace(&blind.lower(name), "evil");
        }
        let mut agent = blind.agent().await;
        let unproved = [
            "unverifiable files proof-failed - warning one",
            "unverifiable layers proof-failed - warning one",
        ];
        let found = blind.check();
        scenario::assert_exactly(&found, &unproved);
        assert_basis(&found, Basis::Reported);
        assert!(
            found.iter().all(|finding| matches!(
                &finding.detail,
                Detail::Unverifiable(gap) if gap.message.contains("/usr/lib/l00.so")
            )),
            "{found:#?}"
        );
        assert_open(&mut agent, &unproved).await;

        for number in 0..count {
            blind.supply(library(number).as_bytes());
        }
        let due: Vec<String> = names
            .iter()
            .map(|name| format!("layer-tampered modified program {name} critical one"))
            .collect();
        let due: Vec<&str> = due.iter().map(String::as_str).collect();
        let found = blind.check();
        scenario::assert_exactly(&found, &due);
        assert_basis(&found, Basis::Reassembled);
        assert_open(&mut agent, &due).await;
    }
}

/// Pods whose images were pulled onto a node that drops unpacked layers.
struct Pods {
    blind: Blind,
    registry: Registry,
}

impl Pods {
    async fn start() -> Self {
        let scene = Scene::start_with(Options {
            cri: true,
            discard_unpacked_layers: true,
        });
        Self {
            blind: Blind {
                scene: scene.await,
                skeletons: tempfile::tempdir_in("/var/tmp").unwrap(),
            },
            registry: Registry::start().await,
        }
    }

    /// A pod of an image that was pushed, pulled, unpacked and dropped; gives its container's id.
    async fn run(&self, name: &str, layout: &Layout, digests: &Digests) -> String {
        let scene = &self.blind.scene;
        let repository = format!("shop/{name}:1");
        self.registry.push(layout, IMAGE, &repository).await;
        let image = self.registry.reference(&repository);
        let mut cri = Cri::connect(&scene.containerd.socket()).await;
        cri.pull(&image).await;
        let pod = cri
            .run_pod(&PodSpec::new("shop", &format!("{name}-0"), &[]))
            .await;
        let id = cri.run_container(&pod, name, &image).await;
        wait::until("unpacked layer blobs are dropped", async || {
            let is_there = |layer: &Digest| scene.containerd.blob(*layer).exists();
            (!digests.layers.iter().any(is_there)).then_some(())
        })
        .await;
        id
    }

    /// Makes the skeletons of a layout's image, as CI does.
    fn publish_skeletons(&self, layout: &Layout) {
        let out = self.blind.skeletons.path().to_str().unwrap();
        let printed = agent::run(&["skeleton", layout.path().to_str().unwrap(), "--out", out]);
        assert_eq!(printed.code, 0, "{printed:?}");
    }

    /// `check` of one container, by an agent that has seen nothing before.
    fn check(&self, container: &str) -> (i32, Vec<Finding>) {
        let skeletons = self.blind.skeletons.path().to_str().unwrap();
        let policies = self.blind.scene.policies().to_str().unwrap();
        let arguments = [
            ["--namespace", "k8s.io"],
            ["--container", container],
            ["--policy", policies],
            ["--skeletons", skeletons],
            ["--agent-state", "/var/tmp/holdfast-no-agent"],
        ];
        agent::check(&self.blind.scene.containerd.socket(), &arguments.concat())
    }
}

/// Image and layout, with no layer that the imported image for sandboxes has too: what was imported stays.
fn of_own_layers(image: &Image) -> (Layout, Digests) {
    let mut layers = image.layers().to_vec();
    layers[0] = Layer::from_tar([layers[0].tar(), &[0; 512]].concat());
    let mut layout = Layout::new();
    let digests = layout.add(&Image::new(layers), IMAGE);
    (layout, digests)
}

fn about(found: Vec<Finding>, container: &str) -> Vec<Finding> {
    let is_about = |finding: &Finding| {
        let about = finding.container.as_ref();
        about.is_some_and(|about| about.id.as_str() == container)
    };
    found.into_iter().filter(is_about).collect()
}

#[tokio::test]
async fn pods_whose_layers_were_dropped_after_the_pull_are_proved_and_watched() {
    let pods = Pods::start().await;
    let other = Image::busybox([Entry::program("usr/bin/other", "#!/bin/sh\n")]);
    let bare = Image::busybox([Entry::file("etc/bare", "nobody made a skeleton of it")]);
    let [api, control, bare] = [image(), other, bare].map(|image| of_own_layers(&image));
    pods.publish_skeletons(&api.0);
    pods.publish_skeletons(&control.0);
    let [api, control, bare] = [
        pods.run("api", &api.0, &api.1).await,
        pods.run("control", &control.0, &control.1).await,
        pods.run("bare", &bare.0, &bare.1).await,
    ];

    // Clean because it was proved: exit code 0 leaves nothing unverifiable.
    assert_eq!(pods.check(&api), (0, vec![]));
    assert_eq!(pods.check(&control), (0, vec![]));
    let unproved =
        ["files", "layers"].map(|check| format!("unverifiable {check} blob-absent - info {bare}"));
    let unproved: Vec<&str> = unproved.iter().map(String::as_str).collect();
    let (code, found) = pods.check(&bare);
    assert_eq!(code, 3);
    scenario::assert_exactly(&found, &unproved);
    assert_basis(&found, Basis::None);
    let mut agent = pods.blind.agent().await;
    assert_open(&mut agent, &unproved).await;

    let container = pods.blind.scene.containerd.ctr_in("k8s.io").container(&api);
    container
        .exec("printf '#!/bin/sh\\necho evil\\n' > /usr/bin/dropped; chmod 755 /usr/bin/dropped");
    replace(&container.lower_of("/usr/lib/l07.so"), "evil");

    let due = [
        format!("file-drift added program /usr/bin/dropped warning {api}"),
        format!("layer-tampered modified program /usr/lib/l07.so critical {api}"),
    ];
    let due: Vec<&str> = due.iter().map(String::as_str).collect();
    assert_open(&mut agent, &[due, unproved].concat()).await;
    assert_basis(&about(agent.open(), &api), Basis::Reassembled);
    // Who sees it for the first time now has no proved table to compare with, and does not guess.
    let unproved = ["files", "layers"]
        .map(|check| format!("unverifiable {check} proof-failed - warning {api}"));
    let unproved: Vec<&str> = unproved.iter().map(String::as_str).collect();
    scenario::assert_exactly(&pods.check(&api).1, &unproved);
    assert_eq!(pods.check(&control), (0, vec![]));
}

#[tokio::test]
async fn a_skeleton_is_made_of_a_layer_file_and_of_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let layer = Layer::new([Entry::file("a", "1"), Entry::file("a", "2")]);
    let (blob, out) = (folder.path().join("blob"), folder.path().join("out"));
    std::fs::write(&blob, layer.blob()).unwrap();
    let (blob, out) = (blob.to_str().unwrap(), out.to_str().unwrap());

    let printed = agent::run(&["skeleton", blob, "--out", out, "--without-digests"]);

    assert_eq!(printed.code, 0, "{printed:?}");
    let diff_id = layer.diff_id().to_string();
    assert!(printed.output.starts_with(&diff_id), "{printed:?}");
    assert!(std::fs::read(out).unwrap().starts_with(b"hfskel\0"));
    std::fs::write(blob, b"\x1f\x8b\x08 no gzip").unwrap();
    let refused = agent::run(&["skeleton", blob, "--out", out]);
    assert_eq!(refused.code, 70, "{refused:?}");
    let none = agent::run(&["skeleton", folder.path().to_str().unwrap()]);
    assert_eq!(none.code, 70, "{none:?}");
}
