//! Images and blobs that lie: each gives a finding or `unverifiable` with its reason, within bounds, and the
//! containers beside it are checked all the same.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use holdfast_core::digest::Digest;
use holdfast_tests::image::{BUSYBOX, Digests, Image};
use holdfast_tests::layer::{Entry, Layer};
use holdfast_tests::wait;
use rustix::process::Signal;

use crate::scene::{IMAGE, LIMIT, Scene, alter, assert_open, flip_a_bit, open_lines};

const OTHER: &str = "holdfast.invalid/other:1";

/// What is due of the container `beside` in every scenario: it was checked.
const BESIDE: &str = "file-drift removed data /opt/app/data.txt warning beside";

/// A container `one` of an image with a layer of its own, and `beside` of another image.
async fn scene() -> (Scene, Digests) {
    scene_with(Layer::new([Entry::program("usr/bin/tool", "#!/bin/sh\n")])).await
}

async fn scene_with(layer: Layer) -> (Scene, Digests) {
    let scene = Scene::with(&Image::new([BUSYBOX.clone(), layer])).await;
    let mut layout = holdfast_tests::image::Layout::new();
    layout.add(&Image::busybox([]), OTHER);
    scene.containerd.ctr().import(&layout);
    let listed = scene.containerd.ctr().run(OTHER, "beside");
    listed.exec("rm /opt/app/data.txt");
    scene.run("one");
    let digests = digests_of(&scene);
    (scene, digests)
}

/// The digests of [`IMAGE`], as its container's record leads to them.
fn digests_of(scene: &Scene) -> Digests {
    let ctr = scene.containerd.ctr();
    let listed = ctr.must(&["images", "list", &format!("name=={IMAGE}")]);
    let digest = |text: &str| text.parse::<Digest>().ok();
    let manifest = listed.split_whitespace().find_map(digest).unwrap();
    let bytes = std::fs::read(scene.containerd.blob(manifest)).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let field = |value: &serde_json::Value| value["digest"].as_str().unwrap().parse().unwrap();
    let layers = document["layers"].as_array().unwrap();
    Digests {
        manifest,
        config: field(&document["config"]),
        layers: layers.iter().map(field).collect(),
        diff_ids: Vec::new(),
    }
}

#[tokio::test]
async fn a_manifest_that_was_altered_after_first_sight_is_said() {
    let (scene, digests) = scene().await;
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[BESIDE]).await;
    flip_a_bit(&scene.containerd.blob(digests.manifest));
    // A whole look follows a change of the runtime's records.
    scene
        .containerd
        .ctr()
        .must(&["images", "tag", OTHER, "holdfast.invalid/poke:1"]);
    assert_open(&mut agent, &["content-altered - critical one", BESIDE]).await;
}

#[tokio::test]
async fn a_manifest_that_was_altered_before_first_sight_is_no_image_and_no_pass() {
    let (scene, digests) = scene().await;
    flip_a_bit(&scene.containerd.blob(digests.manifest));
    assert_altered(&scene).await;
}

#[tokio::test]
async fn a_config_that_was_altered_is_said() {
    let (scene, digests) = scene().await;
    flip_a_bit(&scene.containerd.blob(digests.config));
    assert_altered(&scene).await;
}

#[tokio::test]
async fn a_manifest_that_is_no_json_any_more_is_said() {
    let (scene, digests) = scene().await;
    alter(&scene, digests.manifest, &vec![b'['; 1 << 20]);
    assert_altered(&scene).await;
}

#[tokio::test]
async fn a_layer_blob_with_a_flipped_bit_is_refused() {
    let (scene, digests) = scene().await;
    flip_a_bit(&scene.containerd.blob(digests.layers[1]));
    assert_refused(&scene).await;
}

#[tokio::test]
async fn a_layer_blob_that_is_another_genuine_layer_is_refused() {
    let (scene, digests) = scene().await;
    let lie = Layer::new([Entry::program("usr/bin/tool", "#!/bin/sh\nevil\n")]);
    let one = scene.containerd.ctr().container("one");
    alter(&scene, digests.layers[1], lie.blob());
    // The disk agrees with the lie: who believed the blob by its place would find nothing.
    std::fs::write(one.lower_of("/usr/bin/tool"), "#!/bin/sh\nevil\n").unwrap();
    assert_refused(&scene).await;
}

#[tokio::test]
async fn an_empty_layer_blob_is_refused() {
    let (scene, digests) = scene().await;
    alter(&scene, digests.layers[1], b"");
    assert_refused(&scene).await;
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_layer_blob_holds_nobody_up() {
    let (scene, digests) = scene().await;
    let blob = scene.containerd.blob(digests.layers[1]);
    std::fs::remove_file(&blob).unwrap();
    holdfast_tests::command::must("mkfifo", &[&blob]);
    scene
        .assert_found(&[
            "unverifiable files blob-unreadable - info one",
            "unverifiable layers blob-unreadable - info one",
            BESIDE,
        ])
        .await;
}

#[tokio::test]
async fn a_decompression_bomb_ends_within_bounds() {
    let (scene, digests) = scene().await;
    alter(&scene, digests.layers[1], &bomb());
    // Read once, however often its container is looked at.
    assert_refused(&scene).await;
}

/// Some 600 KB that unpack to 600 MB, the first of a file that claims to be longer than all disks.
fn bomb() -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path("opt/bomb").unwrap();
    header.set_mode(0o644);
    header.set_size(1 << 50);
    header.set_cksum();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(header.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..600 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap()
}

/// The alteration is said, and that nothing is known about the files of an image without its documents.
async fn assert_altered(scene: &Scene) {
    scene
        .assert_found(&[
            "content-altered - critical one",
            "unverifiable identity content-altered - warning one",
            BESIDE,
        ])
        .await;
}

async fn assert_refused(scene: &Scene) {
    scene
        .assert_found(&[
            "unverifiable files blob-refused - warning one",
            "unverifiable layers blob-refused - warning one",
            BESIDE,
        ])
        .await;
}

/// Odd archives that containerd unpacks: what it made of them is what is expected, or it is said that nobody
/// knows. Never a silent pass of a file that nobody compared.
#[tokio::test]
async fn an_archive_that_containerd_took_is_modelled_or_refused() {
    let layer = Layer::new([
        Entry::file("./etc/../etc/dotted", "x"),
        Entry::file("/etc/absolute", "x"),
        Entry::directory("opt/later").mode(0o700),
        Entry::file("opt/twice", "first"),
        Entry::file("opt/twice", "second"),
        Entry::hardlink("opt/linked", "opt/twice"),
    ]);
    let (scene, _) = scene_with(layer).await;
    let one = scene.containerd.ctr().container("one");
    one.exec("cp /bin/busybox /usr/bin/evil");
    scene
        .assert_found(&["file-drift moved program /usr/bin/evil warning one", BESIDE])
        .await;
}

/// Containers that take up every look with files that occupy nothing and take minutes to read.
#[tokio::test]
async fn containers_with_endless_files_delay_nobody_else() {
    let scene = Scene::with(&Image::busybox([])).await;
    let mut agent = scene.agent().await;
    for number in 0..8 {
        let greedy = scene.run(&format!("greedy-{number}"));
        for file in 0..15 {
            let path = greedy.inside(&format!("/opt/app/{file}"));
            std::fs::File::create(path)
                .unwrap()
                .set_len(15 << 30)
                .unwrap();
        }
    }
    scene.run("late").exec("cp /bin/busybox /usr/bin/evil");
    let due = "file-drift moved program /usr/bin/evil warning late";
    wait::until_within(LIMIT, "the other container is looked at", async || {
        open_lines(&agent).contains(&due.to_owned()).then_some(())
    })
    .await;
    agent.process().signal(Signal::KILL);
}
