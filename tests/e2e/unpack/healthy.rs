//! Containers on odd but genuine images, of which nothing is to be reported.

use holdfast_tests::image::{BUSYBOX, Image};
use holdfast_tests::odd;

use super::remap;
use crate::scene::{IMAGE, Scene};

#[tokio::test]
async fn a_container_on_an_image_with_holes_left_out_is_clean() {
    let case = odd::cases().into_iter().find(|case| case.name == "sparse");
    let [_, sparse] = <[_; 2]>::try_from(case.unwrap().layers).unwrap();
    let scene = Scene::with(&Image::new([BUSYBOX.clone(), sparse])).await;
    let container = scene.run("one");
    assert_eq!(container.exec("wc -c < /nothing-but-holes"), "70000\n");

    scene.assert_found(&[]).await;

    container.exec("printf x | dd of=/form-1.0 bs=1 seek=1 conv=notrunc 2>/dev/null");
    scene
        .assert_found(&["file-drift modified data /form-1.0 warning one"])
        .await;
}

#[tokio::test]
async fn a_container_whose_owners_were_shifted_is_clean() {
    let scene = Scene::with(&remap::image()).await;
    let map = format!("0:{}:65536", remap::SHIFT);
    let ctr = scene.containerd.ctr();
    ctr.run_with(&["--uidmap", &map, "--gidmap", &map], IMAGE, "one", &[]);

    scene.assert_found(&[]).await;
}
