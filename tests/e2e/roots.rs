//! Roots other than a writable one of runc's: read-only ones are compared like any other, and what cannot be
//! compared is said and never clean.

use std::os::unix::fs::symlink;

use holdfast_core::digest::ChainId;
use holdfast_core::layer::Snapshotter;
use holdfast_tests::container::Container;
use holdfast_tests::image::{BUSYBOX, Image, Layout};
use holdfast_tests::layer::{Entry, Layer};
use holdfast_tests::snapshot::name_of;

use crate::scene::{IMAGE, Scene};

const SINGLE: &str = "holdfast.invalid/single:1";

#[tokio::test]
async fn a_read_only_root_is_compared_like_any_other() {
    let scene = Scene::with(&Image::busybox([])).await;
    let ctr = scene.containerd.ctr();
    ctr.run_with(&["--read-only"], IMAGE, "control", &[]);
    let changed = ctr.run_with(&["--read-only"], IMAGE, "changed", &[]);
    assert!(changed.try_exec("touch /opt/app/x").is_err());
    // The host writes all the same.
    let planted = changed.upper().join("usr/bin/planted");
    std::fs::create_dir_all(planted.parent().unwrap()).unwrap();
    std::fs::write(planted, "#!/bin/sh -e\n").unwrap();

    scene
        .assert_found(&["file-drift added program /usr/bin/planted warning changed"])
        .await;
}

/// A container whose snapshot is a view, and the chain that it stands on.
fn run_view(scene: &Scene, snapshotter: Snapshotter, image: &str, id: &str, chain: ChainId) {
    let ctr = scene.containerd.ctr();
    let (name, chain) = (name_of(snapshotter), chain.0.to_string());
    let call = |words: &[&str]| ctr.must(words);
    call(&["containers", "create", "--snapshotter", name, image, id]);
    // The record names a snapshot by its key: the one that it was made with gives way to a view.
    call(&["snapshots", "--snapshotter", name, "rm", id]);
    call(&["snapshots", "--snapshotter", name, "view", id, &chain]);
    call(&["tasks", "start", "--detach", "--null-io", id]);
}

#[tokio::test]
async fn a_view_is_compared_by_its_layers() {
    let layer = Layer::new([Entry::program("usr/bin/tool", "#!/bin/sh\necho tool\n")]);
    let mut layout = Layout::new();
    let several = layout.add(&Image::new([BUSYBOX.clone(), layer]), IMAGE);
    let single = layout.add(&Image::new([BUSYBOX.clone()]), SINGLE);
    let scene = Scene::start().await;
    let ctr = scene.containerd.ctr();
    ctr.import_packed(&layout);
    for (snapshotter, suffix) in [
        (Snapshotter::Overlayfs, "overlay"),
        (Snapshotter::Native, "native"),
    ] {
        for (image, name, digests) in [(IMAGE, "several", &several), (SINGLE, "single", &single)] {
            ctr.unpack(snapshotter, digests.manifest).unwrap();
            let chain = ChainId(digests.chain_id());
            run_view(
                &scene,
                snapshotter,
                image,
                &format!("{name}-{suffix}"),
                chain,
            );
        }
    }
    scene.assert_found(&[]).await;

    let edit = |snapshotter| {
        let directory = ctr.directory(snapshotter, ChainId(several.chain_id()));
        std::fs::write(
            directory.join("usr/bin/tool"),
            "#!/bin/sh\necho taken over\n",
        )
        .unwrap();
    };
    edit(Snapshotter::Overlayfs);
    edit(Snapshotter::Native);
    scene
        .assert_found(&[
            "layer-tampered modified program /usr/bin/tool critical several-overlay",
            "layer-tampered modified program /usr/bin/tool critical several-native",
        ])
        .await;
}

#[tokio::test]
async fn a_runtime_that_is_not_on_the_list_is_unverifiable_and_never_clean() {
    let scene = Scene::with(&Image::busybox([])).await;
    scene.run("control");
    // Only its name is not runc's.
    let folder = tempfile::tempdir().unwrap();
    let shim = folder.path().join("containerd-shim-kata-v2");
    symlink("/usr/bin/containerd-shim-runc-v2", &shim).unwrap();
    let ctr = scene.containerd.ctr();
    let other: Container =
        ctr.run_with(&["--runtime", shim.to_str().unwrap()], IMAGE, "other", &[]);
    other.exec("rm /opt/app/data.txt");

    scene
        .assert_found(&["unverifiable identity runtime - info other"])
        .await;
    let (code, _) = scene.check(&["--container", "other"]);
    assert_eq!(code, 3);
}
