//! The harness itself: its parts start, do what the tests rely on, and leave nothing behind.

use std::path::Path;

use holdfast_tests::alertmanager::Alertmanager;
use holdfast_tests::containerd::{Containerd, Options};
use holdfast_tests::cri::{Cri, PodSpec};
use holdfast_tests::image::{BUSYBOX, Image, Layout};
use holdfast_tests::layer::{Compression, Entry, Layer};
use holdfast_tests::process::Process;
use holdfast_tests::prometheus::Prometheus;
use holdfast_tests::registry::Registry;
use holdfast_tests::{debian, http, mounts_below, processes_naming, wait};

const IMAGE: &str = "holdfast.invalid/harness:1";

async fn with_image(image: &Image) -> Containerd {
    let containerd = Containerd::start().await;
    let mut layout = Layout::new();
    layout.add(image, IMAGE);
    containerd.ctr().import(&layout);
    containerd
}

#[tokio::test]
async fn a_container_runs_and_its_layers_are_found() {
    let image = Image::busybox([Entry::program("usr/bin/tool", "#!/bin/sh\necho image\n")]);
    let containerd = with_image(&image).await;

    let container = containerd.ctr().run(IMAGE, "one");
    assert_eq!(container.exec("tool"), "image\n");
    container.exec("echo hello > /tmp/new");

    let upper = container.upper();
    assert_eq!(
        std::fs::read_to_string(upper.join("tmp/new")).unwrap(),
        "hello\n"
    );
    assert_eq!(
        std::fs::read_to_string(container.inside("/tmp/new")).unwrap(),
        "hello\n"
    );
    assert_eq!(container.lowers().len(), 2);
    assert!(
        container
            .lower_of("/usr/bin/tool")
            .starts_with(&container.lowers()[0])
    );
    assert!(
        container
            .lower_of("/bin/busybox")
            .starts_with(&container.lowers()[1])
    );
    assert!(container.try_exec("exit 3").is_err());
}

#[tokio::test]
async fn nothing_is_left_behind() {
    let containerd = with_image(&Image::busybox([])).await;
    let first = containerd.ctr().run(IMAGE, "one");
    containerd.ctr().run(IMAGE, "two").pause();
    first.remove();
    containerd.ctr().run(IMAGE, "three").remove();
    let socket = containerd.socket();
    let folder = socket.parent().unwrap().to_owned();
    let namespace = containerd.namespace().to_owned();
    assert!(!mounts_below(&folder).is_empty());
    assert!(!processes_naming(&socket).is_empty());

    drop(containerd);

    assert!(mounts_below(&folder).is_empty());
    assert!(processes_naming(&socket).is_empty());
    assert!(!folder.exists());
    assert!(!Path::new("/run/containerd/runc").join(&namespace).exists());
    for group in ["memory", "freezer", "unified", "systemd", ""] {
        let group = Path::new("/sys/fs/cgroup").join(group).join(&namespace);
        assert!(!group.exists(), "{group:?} is left");
    }
}

#[tokio::test]
async fn containers_outlive_the_daemon() {
    let mut containerd = with_image(&Image::busybox([])).await;
    let container = containerd.ctr().run(IMAGE, "one");
    let pid = container.pid();

    containerd.kill();
    assert!(containerd.ctr().call(&["version"]).is_err());
    assert!(container.inside("/bin/busybox").exists());
    containerd.restart().await;

    assert_eq!(container.exec("echo on"), "on\n");
    assert_eq!(container.pid(), pid);
    containerd.take_socket_away();
    assert!(containerd.ctr().call(&["version"]).is_err());
    containerd.put_socket_back();
    container.exec("true");
}

#[tokio::test]
async fn digests_are_those_that_containerd_works_out() {
    let containerd = Containerd::start().await;
    let layers = [
        Compression::None,
        Compression::Gzip,
        Compression::GzipMembers(3),
        Compression::Zstd,
    ]
    .map(|kind| Layer::new([Entry::file(format!("{kind:?}"), "x")]).compressed(kind));
    let [a, b, c, d] = layers;
    let image = Image::new([BUSYBOX.clone(), a, b, c, d]);
    let mut layout = Layout::new();
    let digests = layout.add(&image, IMAGE);
    containerd.ctr().import(&layout);

    let ctr = containerd.ctr();
    let listed = ctr.must(&["images", "list"]);
    assert!(listed.contains(&digests.manifest.to_string()), "{listed}");
    let snapshots = ctr.must(&["snapshots", "list"]);
    assert!(
        snapshots.contains(&digests.chain_id().to_string()),
        "{snapshots}"
    );
    for layer in &digests.layers {
        assert!(containerd.blob(*layer).exists());
    }
    let container = ctr.run(IMAGE, "one");
    container.exec("test -e /Zstd && test -e '/GzipMembers(3)'");
}

#[tokio::test]
async fn an_index_gives_the_manifest_of_this_machine() {
    let containerd = Containerd::start().await;
    let mut layout = Layout::new();
    let ours = Image::busybox([Entry::file("etc/which", "ours")]);
    let other = Image::busybox([Entry::file("etc/which", "other")]);
    let (index, images) = layout.add_index(&[("arm64", &other), ("amd64", &ours)], IMAGE);
    containerd.ctr().import(&layout);

    let container = containerd.ctr().run(IMAGE, "one");
    assert_eq!(container.exec("cat /etc/which"), "ours");
    assert!(containerd.blob(index).exists());
    assert!(containerd.blob(images[1].config).exists());
}

#[tokio::test]
async fn rare_entries_arrive_as_they_were_written() {
    let below = Image::busybox([
        Entry::directory("opt/set"),
        Entry::file("opt/set/a", "a"),
        Entry::file("opt/gone", "x"),
    ]);
    let mut layers = below.layers().to_vec();
    layers.push(Layer::new([
        Entry::opaque("opt/set"),
        Entry::file("opt/set/b", "b"),
        Entry::whiteout("opt/gone"),
        Entry::fifo("opt/pipe").owner(7, 8),
        Entry::char_device("opt/null", 1, 3),
        Entry::file("opt/noted", "n")
            .xattr("user.note", "v")
            .mode(0o4711),
    ]));
    let containerd = with_image(&Image::new(layers)).await;

    let container = containerd.ctr().run(IMAGE, "one");
    assert_eq!(container.exec("ls /opt/set"), "b\n");
    assert!(container.try_exec("test -e /opt/gone").is_err());
    assert_eq!(container.exec("stat -c '%F %u %g' /opt/pipe"), "fifo 7 8\n");
    assert_eq!(
        container.exec("stat -c '%F %t %T' /opt/null"),
        "character special file 1 3\n"
    );
    assert_eq!(container.exec("stat -c %a /opt/noted"), "4711\n");
}

#[tokio::test]
async fn pods_run_through_cri_with_a_pulled_image() {
    let registry = Registry::start().await;
    let mut layout = Layout::new();
    let digests = layout.add(&Image::busybox([Entry::file("etc/pod", "in\n")]), IMAGE);
    let pushed = registry.push(&layout, IMAGE, "shop/api:1").await;
    assert_eq!(pushed, digests.manifest);
    let containerd = Containerd::start_with(Options {
        cri: true,
        discard_unpacked_layers: true,
    })
    .await;
    let socket = containerd.socket();
    let mut cri = Cri::connect(&socket).await;

    let image = registry.reference("shop/api:1");
    assert_eq!(cri.pull(&image).await, digests.config.to_string());
    let pod = cri
        .run_pod(&PodSpec::new("shop", "api-0", &[("app", "api")]))
        .await;
    let id = cri.run_container(&pod, "api", &image).await;
    assert_eq!(cri.exec(&id, "cat /etc/pod").await, "in\n");

    let container = containerd.ctr_in("k8s.io").container(&id);
    assert!(container.inside("/etc/pod").exists());
    assert!(containerd.blob(digests.config).exists());
    // The lower one stays: the image for sandboxes, which was imported, has it too.
    wait::until("unpacked layer blobs are dropped", async || {
        (!containerd.blob(digests.layers[1]).exists()).then_some(())
    })
    .await;
    cri.remove_container(&id).await;
    cri.remove_pod(&pod).await;
    cri.run_pod(&PodSpec::new("shop", "api-1", &[])).await;
    drop(containerd);
    assert!(processes_naming(&socket).is_empty());
    assert!(mounts_below(socket.parent().unwrap()).is_empty());
}

#[tokio::test]
async fn a_registry_serves_an_index_byte_for_byte() {
    let registry = Registry::start().await;
    let mut layout = Layout::new();
    let image = Image::busybox([]);
    let (index, images) = layout.add_index(&[("amd64", &image)], IMAGE);

    assert_eq!(registry.push(&layout, IMAGE, "a/b:2").await, index);

    assert!(registry.blob(images[0].layers[0]).exists());
    let served = registry.manifest("a/b", "2").await;
    assert_eq!(served, layout.get(index));
    let manifest = images[0].manifest;
    let served = registry.manifest("a/b", &manifest.to_string()).await;
    assert_eq!(served, layout.get(manifest));
}

#[tokio::test]
async fn prometheus_scrapes_alertmanager_which_keeps_an_alert_until_it_is_resolved() {
    let alertmanager = Alertmanager::start().await;
    let prometheus = Prometheus::start(&[("am", alertmanager.address())], &[]).await;
    prometheus.until("up{job=\"am\"} == 1").await;
    assert!(prometheus.query("no_such_metric").await.is_empty());

    let now = jiff::Timestamp::now();
    let later = now + jiff::SignedDuration::from_mins(5);
    post_alert(&alertmanager, now, later).await;
    let alert = alertmanager.firing("alertname", "Test").await;
    assert_eq!(alert["annotations"]["summary"], "s");
    post_alert(&alertmanager, now, jiff::Timestamp::now()).await;
    alertmanager.resolved("alertname", "Test").await;
}

async fn post_alert(to: &Alertmanager, from: jiff::Timestamp, until: jiff::Timestamp) {
    let alert = serde_json::json!([{
        "labels": { "alertname": "Test" },
        "annotations": { "summary": "s" },
        "startsAt": from.to_string(),
        "endsAt": until.to_string(),
    }]);
    let url = format!("http://{}/api/v2/alerts", to.address());
    let response = http::client().post(url).json(&alert).send().await.unwrap();
    assert!(response.status().is_success());
}

#[tokio::test]
async fn debian_runs_in_a_container() {
    let containerd = with_image(&Image::new([debian::layer()])).await;

    let container = containerd.ctr().run(IMAGE, "one");

    assert_eq!(container.exec("python3 -c 'print(6 * 7)'"), "42\n");
}

#[tokio::test]
async fn a_process_is_asked_to_stop_and_its_output_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done",
    ]);
    let mut process = Process::start("sh", &mut command, &folder.path().join("log"));
    wait::until("it is up", async || {
        (process.output() == "up\n").then_some(())
    })
    .await;
    assert!(process.ended().is_none());

    let status = process.stop().await;

    assert_eq!(status.code(), Some(7));
    assert_eq!(process.output(), "up\nbye\n");
}
