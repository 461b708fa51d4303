//! Containers on the snapshotter `native`, where each has a whole copy of its image: the same verdicts as on
//! overlayfs, by `check` and by the running agent.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use holdfast_core::digest::ChainId;
use holdfast_core::layer::Snapshotter;
use holdfast_tests::container::Container;
use holdfast_tests::debian;
use holdfast_tests::image::{BUSYBOX, Digests, Image, Layout};
use holdfast_tests::layer::{Entry, Layer};

use crate::scene::{IMAGE, Scene, assert_open};

const NATIVE: [&str; 2] = ["--snapshotter", "native"];

/// A node whose image is unpacked on `native`.
async fn scene(image: &Image) -> (Scene, Digests) {
    let scene = Scene::start().await;
    let mut layout = Layout::new();
    let digests = layout.add(image, IMAGE);
    let ctr = scene.containerd.ctr();
    ctr.import_packed(&layout);
    ctr.unpack(Snapshotter::Native, digests.manifest).unwrap();
    (scene, digests)
}

/// An image of which the two snapshotters make different files: on `native` the link of a layer below is
/// followed, and a device of number 0 is one.
fn image() -> Image {
    let link = Layer::new([Entry::symlink("usr/link", "bin")]);
    let above = Layer::new([
        Entry::program("usr/bin/tool", "#!/bin/sh\necho tool\n"),
        Entry::hardlink("usr/bin/tool.again", "usr/bin/tool"),
        Entry::program("usr/link/through", "#!/bin/sh\n"),
        Entry::char_device("opt/app/null", 0, 0),
        Entry::fifo("opt/app/pipe"),
        Entry::file("opt/app/owned", "x").owner(1000, 1000),
    ]);
    Image::new([BUSYBOX.clone(), link, above])
}

fn run(scene: &Scene, id: &str) -> Container {
    scene.containerd.ctr().run_with(&NATIVE, IMAGE, id, &[])
}

/// The container's own directory.
fn directory(container: &Container) -> PathBuf {
    let printed = container.ctr().must(&[
        "snapshots",
        "--snapshotter",
        "native",
        "mounts",
        "/mnt",
        container.id(),
    ]);
    PathBuf::from(printed.split_whitespace().nth(3).unwrap())
}

/// The directory of the image's topmost layer.
fn committed(scene: &Scene, digests: &Digests) -> PathBuf {
    let chain = ChainId(digests.chain_id());
    scene.containerd.ctr().directory(Snapshotter::Native, chain)
}

#[tokio::test]
async fn changes_in_a_whole_root_are_told_like_those_in_an_upper_directory() {
    let (scene, _) = scene(&image()).await;
    run(&scene, "control");
    for (id, script) in [
        ("dropped", "echo '#!/bin/sh -e' > /usr/bin/evil"),
        ("moved", "cp /bin/busybox /usr/bin/evil"),
        ("root", "echo 'toor:x:0:0::/:/bin/sh' >> /etc/passwd"),
        ("removed", "rm /opt/app/data.txt"),
        ("mode", "chmod 4755 /usr/bin/through"),
        ("links", "echo '#!/bin/sh -e' > /usr/bin/tool.again"),
        ("device", "rm /opt/app/null && touch /opt/app/null"),
        (
            "same",
            "cp -p /usr/bin/tool /tmp/t && cat /tmp/t > /usr/bin/tool && rm /tmp/t",
        ),
        ("volatile", "echo x > /tmp/x; echo x > /var/log/x"),
    ] {
        run(&scene, id).exec(script);
    }
    scene
        .assert_found(&[
            "file-drift added program /usr/bin/evil warning dropped",
            "file-drift moved program /usr/bin/evil warning moved",
            "file-drift modified trust-anchor /etc/passwd critical root",
            "file-drift removed data /opt/app/data.txt warning removed",
            "file-drift metadata program /usr/bin/through critical mode",
            "file-drift modified program /usr/bin/tool critical links",
            "file-drift modified program /usr/bin/tool.again critical links",
            "file-drift modified device-node /opt/app/null critical device",
        ])
        .await;
}

#[tokio::test]
async fn a_committed_snapshot_that_was_edited_is_a_tampered_layer() {
    let (scene, digests) = scene(&image()).await;
    run(&scene, "one");
    run(&scene, "two");
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[]).await;
    let layer = committed(&scene, &digests);

    std::fs::write(
        layer.join("usr/bin/through"),
        "#!/bin/sh\necho taken over\n",
    )
    .unwrap();
    std::fs::write(layer.join("usr/bin/planted"), "#!/bin/sh -e\n").unwrap();
    std::fs::remove_file(layer.join("opt/app/data.txt")).unwrap();
    let open = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(layer.join("etc/passwd"), open).unwrap();

    let due = |id: &str| {
        [
            format!("layer-tampered modified program /usr/bin/through critical {id}"),
            format!("layer-tampered added program /usr/bin/planted critical {id}"),
            format!("layer-tampered removed data /opt/app/data.txt critical {id}"),
            format!("layer-tampered metadata trust-anchor /etc/passwd critical {id}"),
        ]
    };
    let layers = [due("one"), due("two")].concat();
    let both: Vec<&str> = layers.iter().map(String::as_str).collect();
    scene.assert_checked(&both);
    assert_open(&mut agent, &both).await;

    // Whoever starts now runs what was planted.
    run(&scene, "three");
    let copied = [
        "file-drift modified program /usr/bin/through critical three",
        "file-drift added program /usr/bin/planted warning three",
        "file-drift removed data /opt/app/data.txt warning three",
        "file-drift metadata trust-anchor /etc/passwd warning three",
    ];
    let third = due("three");
    let all = both.iter().copied().chain(third.iter().map(String::as_str));
    let all: Vec<&str> = all.chain(copied).collect();
    scene.assert_checked(&all);
    assert_open(&mut agent, &all).await;
}

#[tokio::test]
async fn what_the_host_changes_in_a_containers_directory_is_that_containers() {
    let (scene, _) = scene(&image()).await;
    run(&scene, "control");
    let one = run(&scene, "one");
    let root = directory(&one);
    std::fs::write(root.join("usr/bin/planted"), "#!/bin/sh -e\n").unwrap();
    scene
        .assert_found(&["file-drift added program /usr/bin/planted warning one"])
        .await;
}

#[tokio::test]
async fn one_image_on_two_snapshotters_is_compared_with_what_each_makes_of_it() {
    let (scene, digests) = scene(&image()).await;
    let ctr = scene.containerd.ctr();
    ctr.unpack(Snapshotter::Overlayfs, digests.manifest)
        .unwrap();
    run(&scene, "native");
    scene.run("overlay");
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[]).await;
    scene.assert_checked(&[]);

    scene.run("overlay-changed").exec("rm /usr/bin/tool");
    run(&scene, "native-changed").exec("rm /usr/bin/tool");
    let due = [
        "file-drift removed program /usr/bin/tool warning overlay-changed",
        "file-drift removed program /usr/bin/tool warning native-changed",
    ];
    scene.assert_checked(&due);
    assert_open(&mut agent, &due).await;
}

#[tokio::test]
async fn a_whole_debian_is_clean() {
    let (scene, _) = scene(&Image::new([debian::layer()])).await;
    run(&scene, "control");
    let changed = run(&scene, "changed");
    changed.exec("rm /usr/bin/perl; cp /bin/sleep /usr/bin/evil");
    scene
        .assert_found(&[
            "file-drift removed program /usr/bin/perl warning changed",
            "file-drift moved program /usr/bin/evil warning changed",
        ])
        .await;
}

#[tokio::test]
async fn shifted_users_on_native_are_no_change() {
    let (scene, _) = scene(&image()).await;
    let socket = scene.containerd.socket();
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(socket.parent().unwrap(), open).unwrap();
    let map = "0:100000:65536";
    let shifted = [&NATIVE[..], &["--uidmap", map, "--gidmap", map]].concat();
    let ctr = scene.containerd.ctr();
    ctr.run_with(&shifted, IMAGE, "clean", &[]);
    let changed = ctr.run_with(&shifted, IMAGE, "changed", &[]);
    changed.exec("echo '#!/bin/sh -e' > /usr/bin/evil; chown 0:0 /opt/app/owned");
    scene
        .assert_found(&[
            "file-drift added program /usr/bin/evil warning changed",
            "file-drift metadata data /opt/app/owned info changed",
        ])
        .await;
}

#[tokio::test]
async fn mounts_over_a_whole_root_are_told_and_volumes_of_the_same_disk_are_not() {
    let (scene, _) = scene(&image()).await;
    let volume = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::write(volume.path().join("x"), "x").unwrap();
    let mount = format!(
        "type=bind,src={},dst=/opt/volume,options=rbind:rw",
        volume.path().display()
    );
    let ctr = scene.containerd.ctr();
    let options = [&NATIVE[..], &["--mount", &mount]].concat();
    ctr.run_with(&options, IMAGE, "control", &[]);
    let options = [&options[..], &["--privileged"]].concat();
    let changed = ctr.run_with(&options, IMAGE, "changed", &[]);
    changed.exec("cp /bin/busybox /tmp/evil; mount --bind /tmp/evil /usr/bin/tool");
    let (_, found) = scene.check(&["--container", "control"]);
    holdfast_tests::scenario::assert_exactly(&found, &[]);
    let (_, found) = scene.check(&["--container", "changed"]);
    let lines: Vec<String> = found
        .iter()
        .flat_map(holdfast_tests::scenario::lines)
        .collect();
    assert!(
        lines.contains(&"mount-drift /usr/bin/tool critical changed".to_owned()),
        "{lines:?}"
    );
}
