//! Image files changed under an unpacked layer, from the host: a finding on every container that stands on
//! the layer, on none that does not, and none any more when the layer is as it was signed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use holdfast_core::finding::{Resolution, Transition};
use holdfast_tests::image::Image;
use holdfast_tests::layer::Entry;

use crate::scene::{IMAGE, Scene, assert_open, transitions};

const OTHER: &str = "holdfast.invalid/other:1";

/// Containers `one` and `two` of an image, and `other` of another image on the same lowest layer.
async fn scene() -> Scene {
    let scene = Scene::with(&Image::busybox([
        Entry::program("usr/bin/tool", "#!/bin/sh\necho tool\n"),
        Entry::program("usr/bin/second", "#!/bin/sh\necho second\n"),
        Entry::file("etc/service.conf", "safe=yes\n"),
    ]))
    .await;
    scene.import(&Image::busybox([Entry::file("etc/other", "x")]), OTHER);
    scene.run("one");
    scene.run("two");
    scene.containerd.ctr().run(OTHER, "other");
    scene
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn an_edit_under_a_layer_is_on_every_container_of_the_image_until_it_is_put_back() {
    let scene = scene().await;
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[]).await;
    let one = scene.containerd.ctr().container("one");
    let (tool, conf) = (
        one.lower_of("/usr/bin/tool"),
        one.lower_of("/etc/service.conf"),
    );
    let planted = one.lowers()[0].join("usr/bin/planted");

    let original = std::fs::read(&tool).unwrap();
    std::fs::write(&tool, "#!/bin/sh\necho taken over\n").unwrap();
    set_mode(&conf, 0o666);
    std::fs::write(&planted, "#!/bin/sh\n").unwrap();

    let due = [
        "layer-tampered modified program /usr/bin/tool critical one",
        "layer-tampered modified program /usr/bin/tool critical two",
        "layer-tampered metadata configuration /etc/service.conf critical one",
        "layer-tampered metadata configuration /etc/service.conf critical two",
        "layer-tampered added program /usr/bin/planted critical one",
        "layer-tampered added program /usr/bin/planted critical two",
    ];
    scene.assert_checked(&due);
    assert_open(&mut agent, &due).await;

    std::fs::write(&tool, original).unwrap();
    set_mode(&conf, 0o644);
    std::fs::remove_file(&planted).unwrap();

    scene.assert_checked(&[]);
    assert_open(&mut agent, &[]).await;
    for line in due {
        let life = transitions(&agent, line);
        assert_eq!(life, [Transition::Opened, Transition::Resolved], "{line}");
    }
    let reasons: Vec<_> = agent.documents().iter().filter_map(|f| f.reason).collect();
    assert_eq!(reasons, [Resolution::Gone; 6]);
}

#[tokio::test]
async fn files_put_in_the_place_of_others_are_tampering_and_no_other_layer() {
    let scene = scene().await;
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[]).await;
    let one = scene.containerd.ctr().container("one");
    let two = scene.containerd.ctr().container("two");
    let paths = ["/usr/bin/tool", "/usr/bin/second", "/etc/service.conf"];
    // What has been opened, the container goes on to see.
    one.exec(&format!("cat {}", paths.join(" ")));
    for path in paths {
        let lower = two.lower_of(path);
        let beside = lower.with_extension("new");
        std::fs::write(&beside, "evil\n").unwrap();
        std::fs::set_permissions(&beside, lower.metadata().unwrap().permissions()).unwrap();
        std::fs::rename(&beside, &lower).unwrap();
    }

    let due = [
        "layer-tampered modified program /usr/bin/tool critical one",
        "layer-tampered modified program /usr/bin/tool critical two",
        "layer-tampered modified program /usr/bin/second critical one",
        "layer-tampered modified program /usr/bin/second critical two",
        "layer-tampered modified configuration /etc/service.conf critical one",
        "layer-tampered modified configuration /etc/service.conf critical two",
    ];
    scene.assert_checked(&due);
    assert_open(&mut agent, &due).await;
}

#[tokio::test]
async fn a_file_deleted_under_a_layer_is_missing_on_every_container_of_the_image() {
    let scene = scene().await;
    let one = scene.containerd.ctr().container("one");
    std::fs::remove_file(one.lower_of("/usr/bin/second")).unwrap();
    scene
        .assert_found(&[
            "layer-tampered removed program /usr/bin/second critical one",
            "layer-tampered removed program /usr/bin/second critical two",
        ])
        .await;
}

#[tokio::test]
async fn overlay_attributes_planted_in_a_layer_are_tampering() {
    let scene = scene().await;
    let one = scene.containerd.ctr().container("one");
    let plant = |path: std::path::PathBuf, name: &str, value: &[u8]| {
        rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    plant(
        one.lowers()[0].join("usr/bin"),
        "trusted.overlay.opaque",
        b"y",
    );
    plant(
        one.lowers()[0].join("etc"),
        "trusted.overlay.redirect",
        b"/opt",
    );
    scene
        .assert_found(&[
            "layer-tampered modified data /usr/bin critical one",
            "layer-tampered modified data /usr/bin critical two",
            "layer-tampered redirected configuration /etc critical one",
            "layer-tampered redirected configuration /etc critical two",
        ])
        .await;
}

#[tokio::test]
async fn a_shared_layer_is_a_finding_on_the_containers_of_all_its_images() {
    let scene = scene().await;
    let one = scene.containerd.ctr().container("one");
    std::fs::write(one.lower_of("/opt/app/run.sh"), "#!/bin/sh\nexit 1\n").unwrap();
    scene
        .assert_found(&[
            "layer-tampered modified program /opt/app/run.sh critical one",
            "layer-tampered modified program /opt/app/run.sh critical two",
            "layer-tampered modified program /opt/app/run.sh critical other",
        ])
        .await;
}

#[tokio::test]
async fn a_layer_tampered_with_before_anybody_looked_is_reported_to_a_container_of_today() {
    let scene = Scene::with(&Image::busybox([])).await;
    let first = scene.run("first");
    let passwd = first.lower_of("/etc/passwd");
    first.remove();
    let mut text = std::fs::read_to_string(&passwd).unwrap();
    text.push_str("toor::0:0::/:/bin/sh\n");
    std::fs::write(&passwd, text).unwrap();
    scene.containerd.ctr().run(IMAGE, "second");
    scene
        .assert_found(&["layer-tampered modified trust-anchor /etc/passwd critical second"])
        .await;
}

#[tokio::test]
async fn a_change_that_a_container_made_itself_is_no_change_of_its_layer() {
    let scene = scene().await;
    scene
        .containerd
        .ctr()
        .container("one")
        .exec("echo x >> /usr/bin/tool; rm /usr/bin/second");
    scene
        .assert_found(&[
            "file-drift modified program /usr/bin/tool critical one",
            "file-drift removed program /usr/bin/second warning one",
        ])
        .await;
}
