//! Signatures in an OCI layout folder, as tools write it and as an attacker might.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use holdfast_core::digest::Digest;
use holdfast_core::trust::{Cause, Looked, VerdictName};
use holdfast_registry::{Layout, SignatureSource, Sources};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::forge::{Signed, SigningKey};
use crate::registry::{signed, verdict};
use crate::{subject, told};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A layout whose index has these entries, with the blobs of `object`.
fn layout(object: &Signed, entries: &[Value]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let blobs = folder.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let manifest = (Digest::of(&object.manifest), object.manifest.clone());
    for (digest, bytes) in object.blobs.iter().chain([&manifest]) {
        fs::write(blobs.join(digest.encoded()), bytes).unwrap();
    }
    let index = json!({"schemaVersion": 2, "manifests": entries});
    fs::write(folder.path().join("index.json"), index.to_string()).unwrap();
    folder
}

fn entry(digest: Digest, annotations: &Value) -> Value {
    json!({"mediaType": "x", "digest": digest.to_string(), "size": 1, "annotations": annotations})
}

/// A layout that names the signature object by its tag, and the key that signed.
fn tagged() -> (TempDir, Signed, SigningKey) {
    let key = SigningKey::generate().unwrap();
    let object = signed(&key);
    let annotations = json!({REF_NAME: object.tag});
    let folder = layout(
        &object,
        &[entry(Digest::of(&object.manifest), &annotations)],
    );
    (folder, object, key)
}

fn look(folder: &Path) -> Looked {
    Layout::new(folder.to_owned()).signatures(subject())
}

fn blob(folder: &Path, digest: Digest) -> std::path::PathBuf {
    folder.join("blobs/sha256").join(digest.encoded())
}

#[test]
fn a_signature_is_found_under_every_name_that_tools_give_it() {
    let key = SigningKey::generate().unwrap();
    let object = signed(&key);
    let manifest = Digest::of(&object.manifest);
    let full = format!("r.example/team/app:{}", object.tag);
    for annotations in [
        json!({REF_NAME: object.tag}),
        json!({REF_NAME: full}),
        json!({"io.containerd.image.name": full, REF_NAME: "other"}),
    ] {
        let folder = layout(&object, &[entry(manifest, &annotations)]);
        let looked = look(folder.path());
        assert_eq!(told(&looked), (1, vec![]), "{annotations}");
        assert_eq!(verdict(&key, looked).name(), VerdictName::Verified);
    }
    for annotations in [
        json!({}),
        json!(null),
        json!({REF_NAME: format!("x{}", object.tag)}),
    ] {
        let folder = layout(&object, &[entry(manifest, &annotations)]);
        assert!(look(folder.path()).is_nothing(), "{annotations}");
    }
}

#[test]
fn what_cosign_saved_belongs_to_the_image_of_the_same_name() {
    let key = SigningKey::generate().unwrap();
    let object = signed(&key);
    let image = |name: &Value| json!({"kind": "dev.cosignproject.cosign/image", REF_NAME: name});
    let signatures =
        |name: &Value| json!({"kind": "dev.cosignproject.cosign/sigs", REF_NAME: name});
    let manifest = Digest::of(&object.manifest);
    for (image_name, signatures_name, due) in [
        (
            json!("r.example/team/app:1"),
            json!("r.example/team/app:1"),
            1,
        ),
        (json!("r.example/team/app:1"), json!("r.example/other:1"), 0),
    ] {
        let folder = layout(
            &object,
            &[
                entry(subject(), &image(&image_name)),
                entry(manifest, &signatures(&signatures_name)),
            ],
        );
        assert_eq!(told(&look(folder.path())), (due, vec![]));
    }
    // Older versions gave no name at all.
    let folder = layout(
        &object,
        &[
            entry(
                subject(),
                &json!({"kind": "dev.cosignproject.cosign/image"}),
            ),
            entry(manifest, &json!({"kind": "dev.cosignproject.cosign/sigs"})),
        ],
    );
    assert_eq!(told(&look(folder.path())), (1, vec![]));
}

#[test]
fn a_folder_that_is_missing_or_broken_is_not_a_folder_without_signatures() {
    let empty = TempDir::new().unwrap();
    assert_eq!(told(&look(empty.path())), (0, vec![Cause::Layout]));
    assert_eq!(
        told(&look(&empty.path().join("none"))),
        (0, vec![Cause::Layout])
    );
    for index in ["", "[]", "{}", "{\"manifests\":[{}]}"] {
        fs::write(empty.path().join("index.json"), index).unwrap();
        assert_eq!(
            told(&look(empty.path())),
            (0, vec![Cause::Layout]),
            "{index}"
        );
    }
    fs::write(empty.path().join("index.json"), "{\"manifests\":[]}").unwrap();
    assert!(look(empty.path()).is_nothing());
}

#[test]
fn a_blob_that_is_missing_or_altered_leaves_the_look_unfinished() {
    let (folder, object, key) = tagged();
    let payload = blob(folder.path(), object.blobs[1].0);
    fs::write(&payload, b"altered").unwrap();
    assert_eq!(told(&look(folder.path())), (1, vec![Cause::WrongDigest]));
    fs::remove_file(&payload).unwrap();
    let looked = look(folder.path());
    assert_eq!(told(&looked), (1, vec![Cause::BlobMissing]));
    assert_eq!(verdict(&key, looked).name(), VerdictName::Error);
    fs::remove_file(blob(folder.path(), Digest::of(&object.manifest))).unwrap();
    assert_eq!(told(&look(folder.path())), (0, vec![Cause::BlobMissing]));
}

#[test]
fn links_and_devices_in_the_folder_are_not_opened() {
    let (folder, object, _) = tagged();
    let path = blob(folder.path(), Digest::of(&object.manifest));
    let outside = folder.path().join("outside");
    fs::rename(&path, &outside).unwrap();
    symlink(&outside, &path).unwrap();
    assert_eq!(told(&look(folder.path())), (0, vec![Cause::Layout]));

    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(told(&look(folder.path())), (0, vec![Cause::Layout]));

    fs::remove_dir(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
    assert_eq!(told(&look(folder.path())), (0, vec![Cause::Layout]));

    let (folder, _, _) = tagged();
    fs::rename(folder.path().join("blobs"), folder.path().join("real")).unwrap();
    symlink("real", folder.path().join("blobs")).unwrap();
    assert_eq!(told(&look(folder.path())), (0, vec![Cause::Layout]));
}

#[test]
fn what_is_too_much_is_refused_by_name() {
    let (folder, object, _) = tagged();
    let path = blob(folder.path(), Digest::of(&object.manifest));
    fs::write(&path, vec![b' '; (4 << 20) + 1]).unwrap();
    assert_eq!(told(&look(folder.path())), (0, vec![Cause::TooLarge]));

    let annotations = json!({REF_NAME: object.tag});
    let many: Vec<Value> = (0..17u8)
        .map(|at| entry(Digest::of(&[at]), &annotations))
        .collect();
    let folder = layout(&object, &many);
    assert_eq!(told(&look(folder.path())), (0, vec![Cause::Layout]));

    let odd = json!({"digest": "sha512:00", "annotations": annotations});
    let folder = layout(&object, &[odd]);
    assert_eq!(told(&look(folder.path())), (0, vec![Cause::Layout]));
}

#[tokio::test]
async fn every_folder_is_asked_and_a_failing_one_is_not_forgotten() {
    let (folder, _, key) = tagged();
    let layouts = vec![
        Layout::new(folder.path().join("none")),
        Layout::new(folder.path().to_owned()),
    ];
    let sources = Sources::new(layouts, None);
    let repository = "r.example/team/app".parse().unwrap();

    let looked = sources.signatures(&repository, subject()).await;

    assert_eq!(told(&looked), (1, vec![Cause::Layout]));
    assert_eq!(verdict(&key, looked).name(), VerdictName::Verified);
}
