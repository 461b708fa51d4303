//! Which image a container really runs: what is said when names, records, snapshots and blobs disagree, and
//! that nothing is said where they only look odd.

use std::os::unix::fs::PermissionsExt as _;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::{Container as Record, UpdateContainerRequest};
use containerd_client::tonic::Request;
use containerd_client::with_namespace;
use holdfast_tests::agent::Agent;
use holdfast_tests::containerd::Options;
use holdfast_tests::cri::{Cri, PodSpec};
use holdfast_tests::image::{BUSYBOX, Image, Layout};
use holdfast_tests::layer::{Entry, Layer};
use holdfast_tests::scenario;

use crate::scene::{IMAGE, Scene, assert_open};

const OTHER: &str = "holdfast.invalid/other:1";

const EVIL: &str = "file-drift moved program /usr/bin/evil warning before";

/// What containerd knows of an image whose name was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Old {
    /// It has another name.
    Kept,
    /// Nothing: it was collected as garbage.
    Forgotten,
}

/// A container whose image's name means another image now.
async fn moved(old: Old) -> (Scene, Agent) {
    let scene = Scene::with(&Image::busybox([Entry::file("etc/version", "1")])).await;
    scene.run("before").exec("cp /bin/busybox /usr/bin/evil");
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[EVIL]).await;
    if old == Old::Kept {
        let ctr = scene.containerd.ctr();
        ctr.must(&["images", "tag", IMAGE, "holdfast.invalid/kept:1"]);
    }
    scene.import(&Image::busybox([Entry::file("etc/version", "2")]), IMAGE);
    scene.run("after");
    (scene, agent)
}

#[tokio::test]
async fn a_name_that_moved_is_told_and_files_are_compared_with_what_runs() {
    let (scene, mut agent) = moved(Old::Kept).await;
    let due = ["tag-moved - info before", EVIL];
    scene.assert_checked(&due);
    assert_open(&mut agent, &due).await;
}

#[tokio::test]
async fn an_image_that_containerd_forgot_is_kept_from_first_sight_over_a_restart() {
    let (scene, mut agent) = moved(Old::Forgotten).await;
    let due = ["tag-moved - info before", EVIL];
    assert_open(&mut agent, &due).await;
    agent.kill();
    agent.start_again();
    agent.ready().await;
    assert_open(&mut agent, &due).await;
    // Somebody who sees it for the first time now cannot know what it should be, and says so.
    scene.assert_checked(&[
        "tag-moved - info before",
        "unverifiable identity config-missing - warning before",
    ]);
}

#[tokio::test]
async fn the_snapshot_of_another_image_is_a_mismatch() {
    let scene = Scene::with(&Image::busybox([Entry::file("etc/version", "1")])).await;
    scene.import(&Image::busybox([Entry::file("etc/version", "2")]), OTHER);
    scene.run("control");
    scene.run("swapped");
    // The record now names an image that was there, under this name, before the container was made.
    set_image(&scene, "swapped", OTHER).await;

    scene
        .assert_found(&["snapshot-mismatch - critical swapped"])
        .await;
}

async fn set_image(scene: &Scene, id: &str, image: &str) {
    let channel = containerd_client::connect(scene.containerd.socket())
        .await
        .unwrap();
    let request = UpdateContainerRequest {
        container: Some(Record {
            id: id.to_owned(),
            image: image.to_owned(),
            ..Record::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["image".to_owned()],
        }),
    };
    let namespace = scene.containerd.namespace();
    ContainersClient::new(channel)
        .update(with_namespace!(request, namespace))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_container_without_an_image_is_unmanaged() {
    let scene = Scene::with(&Image::busybox([])).await;
    scene.run("control");
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    for name in ["bin", "proc", "sys", "dev", "tmp", "run"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", folder.path().join("bin/busybox")).unwrap();
    let root = folder.path().to_str().unwrap();
    let words = ["/bin/busybox", "sleep", "3600"];
    scene
        .containerd
        .ctr()
        .run_with(&["--rootfs"], root, "bare", &words);

    scene
        .assert_found(&["unmanaged-container no-image - warning bare"])
        .await;
}

#[tokio::test]
async fn images_that_share_all_layers_are_told_apart() {
    let layers = Image::busybox([Entry::file("etc/shared", "x")]);
    let scene = Scene::with(&layers).await;
    let other = scene.import(&layers.clone().environment("ROLE=other"), OTHER);
    scene.run("first");
    let second = scene.containerd.ctr().run(OTHER, "second");
    second.exec("rm /opt/app/data.txt");

    let due = "file-drift removed data /opt/app/data.txt warning second";
    let (_, found) = scene.check(&[]);
    scenario::assert_exactly(&found, &[due]);
    let image = found[0].image.clone().unwrap();
    assert_eq!(image.config_digest, Some(other.config));
    assert_eq!(image.manifest_digest, Some(other.manifest));
    assert_eq!(image.reference.as_deref(), Some(OTHER));
    scene.assert_found(&[due]).await;
}

#[tokio::test]
async fn sixty_layers_are_understood_whatever_the_mount_table_says() {
    let mut layers = vec![BUSYBOX.clone()];
    for number in 1..60 {
        layers.push(Layer::new([
            Entry::file(format!("opt/app/{number}"), number.to_string()),
            Entry::file("etc/last", number.to_string()),
        ]));
    }
    let scene = Scene::with(&Image::new(layers)).await;
    scene.run("control");
    let changed = scene.run("changed");
    assert_eq!(changed.lowers().len(), 60);
    changed.exec("echo 58 > /etc/last; rm /opt/app/7; cp /bin/busybox /usr/bin/evil");

    let mut due = vec![
        "file-drift modified configuration /etc/last warning changed",
        "file-drift removed data /opt/app/7 warning changed",
        "file-drift moved program /usr/bin/evil warning changed",
    ];
    scene.assert_found(&due).await;
    std::fs::write(changed.lowers()[30].join("opt/app/29"), "other").unwrap();
    due.push("layer-tampered modified data /opt/app/29 critical changed");
    due.push("layer-tampered modified data /opt/app/29 critical control");
    scene.assert_checked(&due);
}

#[tokio::test]
async fn shifted_users_are_no_change() {
    let scene = Scene::with(&Image::busybox([
        Entry::file("opt/app/owned", "x").owner(1000, 1000)
    ]))
    .await;
    // The shifted root has to reach its files.
    let socket = scene.containerd.socket();
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(socket.parent().unwrap(), open).unwrap();
    let shifted = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    let ctr = scene.containerd.ctr();
    ctr.run_with(&shifted, IMAGE, "clean", &[]);
    let changed = ctr.run_with(&shifted, IMAGE, "changed", &[]);
    changed.exec("cp /bin/busybox /usr/bin/evil; chown 0:0 /opt/app/owned");
    scene.run("control");

    scene
        .assert_found(&[
            "file-drift moved program /usr/bin/evil warning changed",
            "file-drift metadata data /opt/app/owned info changed",
        ])
        .await;
}

#[tokio::test]
async fn a_layer_blob_that_is_gone_before_first_sight_is_said_and_no_pass() {
    let scene = Scene::with(&Image::busybox([])).await;
    let own = Layer::new([Entry::file("opt/app/own", "own")]);
    let digests = scene.import(&Image::new([BUSYBOX.clone(), own]), OTHER);
    scene.run("control").exec("rm /opt/app/data.txt");
    scene.containerd.ctr().run(OTHER, "blind");
    std::fs::remove_file(scene.containerd.blob(digests.layers[1])).unwrap();

    let due = [
        "unverifiable files blob-absent - info blind",
        "unverifiable layers blob-absent - info blind",
        "file-drift removed data /opt/app/data.txt warning control",
    ];
    scene.assert_found(&due).await;
    // Nothing at the due severity, and still no pass.
    let (code, _) = scene.check(&["--container", "blind"]);
    assert_eq!(code, 3);
}

#[tokio::test]
async fn a_layer_blob_that_goes_after_first_sight_is_no_loss_to_the_running_agent() {
    let scene = Scene::start().await;
    let digests = scene.import(&Image::busybox([Entry::file("opt/app/own", "own")]), IMAGE);
    let one = scene.run("one");
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[]).await;
    for layer in digests.layers {
        std::fs::remove_file(scene.containerd.blob(layer)).unwrap();
    }
    one.exec("rm /opt/app/own");
    agent.kill();
    agent.start_again();
    agent.ready().await;
    assert_open(
        &mut agent,
        &["file-drift removed data /opt/app/own warning one"],
    )
    .await;
}

#[tokio::test]
async fn an_unexpected_namespace_is_a_finding_and_its_containers_are_checked() {
    let scene = Scene::with(&Image::busybox([])).await;
    scene.run("one").exec("rm /opt/app/data.txt");
    let socket = scene.containerd.socket();
    let policies = scene.policies().to_str().unwrap();
    let arguments = ["--policy", policies, "--agent-state", "/var/tmp/none"];
    let due = [
        "unmanaged-container unexpected-namespace - warning one",
        "file-drift removed data /opt/app/data.txt warning one",
    ];

    let (_, found) = holdfast_tests::agent::check(&socket, &arguments);
    scenario::assert_exactly(&found, &due);

    let mut agent = Agent::start(|folder| {
        let config = scene.config(folder);
        config.replace(scene.containerd.namespace(), "another")
    });
    agent.ready().await;
    assert_open(&mut agent, &due).await;
}

#[tokio::test]
async fn pods_are_named_by_their_workload_and_their_sandbox_is_clean() {
    let scene = Scene::start_with(Options {
        cri: true,
        ..Options::default()
    })
    .await;
    let mut layout = Layout::new();
    layout.add(&Image::busybox([]), IMAGE);
    scene.containerd.ctr_in("k8s.io").import(&layout);
    let mut cri = Cri::connect(&scene.containerd.socket()).await;
    cri.known(IMAGE).await;
    let labels = [("pod-template-hash", "7d4b9c")];
    let pod = cri
        .run_pod(&PodSpec::new("shop", "api-7d4b9c-x2x4z", &labels))
        .await;
    let api = cri.run_container(&pod, "api", IMAGE).await;
    cri.run_container(&pod, "proxy", IMAGE).await;
    cri.exec(&api, "cp /bin/busybox /usr/bin/evil").await;

    let due = format!("file-drift moved program /usr/bin/evil warning {api}");
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[&due]).await;
    let socket = scene.containerd.socket();
    let policies = scene.policies().to_str().unwrap();
    let arguments = ["--policy", policies, "--agent-state", "/var/tmp/none"];
    let (_, found) = holdfast_tests::agent::check(&socket, &arguments);
    scenario::assert_exactly(&found, &[&due]);

    for finding in [&found[0], &agent.open()[0]] {
        assert_eq!(finding.workload.as_str(), "shop/api");
        let container = finding.container.clone().unwrap();
        assert_eq!(
            (container.namespace.as_str(), container.name.as_str()),
            ("k8s.io", "api")
        );
        let seen = container.pod.unwrap();
        assert_eq!(seen.name, "api-7d4b9c-x2x4z");
        assert_eq!(seen.namespace, "shop");
        assert_eq!(seen.uid, pod.spec.uid);
    }
}

#[tokio::test]
async fn a_paused_container_is_checked_like_any_other() {
    let scene = Scene::with(&Image::busybox([])).await;
    scene.run("control");
    let paused = scene.run("paused");
    paused.exec("rm /opt/app/data.txt");
    paused.pause();
    scene
        .assert_found(&["file-drift removed data /opt/app/data.txt warning paused"])
        .await;
    paused.resume();
}
