//! The decision table: each rule holding, failing, and not to be decided.

use std::collections::BTreeMap;
use std::path::PathBuf;

use holdfast_core::digest::{ChainId, Digest};
use holdfast_core::finding::{Detail, Severity};
use holdfast_core::image::{Documents, ImageError, Refusal};
use holdfast_core::layer::Snapshotter;
use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::runtime::candidates::{Part, Problem, Summary};
use crate::runtime::gather::{ImageFacts, KernelFacts, SnapshotFacts, TopWitness};
use crate::runtime::identity::{ExtraKind, LayerRef};
use crate::runtime::kernel::{KernelError, Root, RootWitness};
use crate::runtime::mountinfo::{Device, MountEntry};
use crate::runtime::native::NativeError;
use crate::runtime::overlay::{Defaults, OverlayError};
use crate::runtime::rootfs::{RootForm, Rootfs};
use crate::runtime::select::{ImageRefWitness, Named};
use crate::runtime::spec::Spec;
use crate::runtime::{Snapshot, SnapshotKind};

const NAME: &str = "r.example/shop/api:1";

/// What a name resolves to.
#[derive(Clone, Copy, PartialEq)]
enum Target {
    Manifest,
    Index,
}

/// An image of layers named by `layers`, made different by `command`, whose name resolves to its index or manifest.
fn image(layers: &[&str], command: &str, target: Target) -> Arc<Image> {
    built(layers, command, "amd64", target)
}

fn built(layers: &[&str], command: &str, architecture: &str, target: Target) -> Arc<Image> {
    let descriptor = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        format!(
            r#"{{"mediaType":"x","digest":"{digest}","size":{}}}"#,
            bytes.len()
        )
    };
    let list = |items: Vec<String>| items.join(",");
    let diff_ids = layers
        .iter()
        .map(|layer| format!("\"{}\"", Digest::of(layer.as_bytes())));
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{"Cmd":["{command}"]}},
            "rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        list(diff_ids.collect())
    );
    let blobs = layers
        .iter()
        .map(|layer| descriptor(format!("gz {layer}").as_bytes()));
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        descriptor(config.as_bytes()),
        list(blobs.collect())
    );
    let listed = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        descriptor(manifest.as_bytes())
    );
    let documents = Documents {
        indexes: (target == Target::Index)
            .then(|| listed.into_bytes())
            .into_iter()
            .collect(),
        manifest: manifest.into_bytes(),
        config: config.into_bytes(),
    };
    Arc::new(Image::verify(documents.target(), documents).unwrap())
}

fn summary(image: &Image) -> Summary {
    Summary {
        indexes: image.index_digest().into_iter().collect(),
        manifest: image.manifest_digest(),
        config: image.config_digest(),
        chain: image.chain().last().copied(),
    }
}

/// When the container was made, and some time after.
fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn named(image: &Image, updated: i64) -> Named {
    Named::Target {
        target: image.target(),
        updated_at: Some(at(updated)),
        summaries: vec![summary(image)],
    }
}

fn record() -> ContainerRecord {
    ContainerRecord {
        key: ContainerKey {
            namespace: "default".into(),
            id: "c".into(),
        },
        image_name: NAME.into(),
        snapshotter: "overlayfs".into(),
        snapshot_key: "c".into(),
        runtime_name: "io.containerd.runc.v2".into(),
        labels: BTreeMap::new(),
        created_at: Some(at(100)),
        updated_at: None,
        spec: Some(Spec::default()),
        cri_image_ref: None,
    }
}

fn snapshot(key: &str, kind: SnapshotKind) -> Snapshot {
    Snapshot {
        key: key.to_owned(),
        kind,
    }
}

fn witness() -> RootWitness {
    RootWitness {
        pid: 7,
        started: 70,
        device: Device {
            major: 0,
            minor: 40,
        },
        mount_id: 500,
    }
}

fn mount(options: &[&str]) -> MountEntry {
    MountEntry {
        id: 500,
        parent: 1,
        device: witness().device,
        root: b"/".to_vec(),
        mount_point: b"/".to_vec(),
        is_read_only: false,
        propagation: crate::runtime::mountinfo::Propagation::default(),
        fs_type: b"overlay".to_vec(),
        super_options: options
            .iter()
            .map(|option| option.as_bytes().to_vec())
            .collect(),
    }
}

/// A container of `image`, with nothing wrong, and snapshots of these keys above its layers.
fn facts_with(image: &Arc<Image>, above: &[&str]) -> Facts {
    let mut snapshots = vec![snapshot("c", SnapshotKind::Active)];
    let mut lowers: Vec<PathBuf> = Vec::new();
    for key in above {
        snapshots.push(snapshot(key, SnapshotKind::Committed));
        lowers.push(format!("/s/{key}").into());
    }
    for (number, chain) in image.chain().iter().enumerate().rev() {
        snapshots.push(snapshot(&chain.to_string(), SnapshotKind::Committed));
        lowers.push(format!("/s/{number}").into());
    }
    let facts = SnapshotFacts {
        snapshots,
        rootfs: Ok(Rootfs {
            snapshotter: Snapshotter::Overlayfs,
            form: RootForm::Overlay,
            upper: Some("/s/c".into()),
            lowers,
            userxattr: false,
        }),
        kernel: Ok(KernelFacts {
            root: Root {
                witness: witness(),
                top: None,
                mount: Some(mount(&[
                    "rw",
                    "lowerdir=1/fs:0/fs",
                    "upperdir=/s/c",
                    "workdir=/s/w",
                ])),
            },
            top: TopWitness::Same,
            defaults: Defaults::default(),
        }),
        images: Some(ImageFacts {
            chain: *image.chain().last().unwrap(),
            candidates: vec![Arc::clone(image)],
            image_ref: ImageRefWitness::None,
            named: named(image, 50),
            problems: Vec::new(),
        }),
    };
    Facts {
        record: record(),
        sandbox_labels: BTreeMap::new(),
        rooted: Rooted::Snapshot(Box::new(facts)),
    }
}

fn facts(image: &Arc<Image>) -> Facts {
    facts_with(image, &[])
}

fn snapshot_facts(facts: &mut Facts) -> &mut SnapshotFacts {
    match &mut facts.rooted {
        Rooted::Snapshot(snapshot) => snapshot,
        _ => unreachable!("made by facts()"),
    }
}

fn images(facts: &mut Facts) -> &mut ImageFacts {
    snapshot_facts(facts).images.as_mut().unwrap()
}

fn kernel(facts: &mut Facts) -> &mut KernelFacts {
    snapshot_facts(facts).kernel.as_mut().unwrap()
}

fn decide(facts: &Facts, first: Option<&FirstSight>) -> Identified {
    identify(facts, first, &["default".to_owned(), "moby".to_owned()])
}

/// Kind, severity and the deciding word of each condition.
fn told(look: &Identified) -> Vec<(&'static str, Severity, &str)> {
    look.conditions
        .iter()
        .map(|condition| {
            let word = match &condition.detail {
                Detail::Unverifiable(detail) => detail.reason.as_str(),
                Detail::SnapshotMismatch(detail) | Detail::MountDrift(detail) => {
                    detail.witness.as_str()
                }
                Detail::UnmanagedContainer(detail) => detail.reason.as_str(),
                Detail::TagMoved(_) => "image-name",
                _ => condition.subject.as_str(),
            };
            (condition.detail.kind().as_str(), condition.severity, word)
        })
        .collect()
}

const BOTH: [Check; 2] = [Check::Identity, Check::Digests];

#[test]
fn a_container_on_its_image_is_identified() {
    let image = image(&["a", "b"], "sh", Target::Index);

    let look = decide(&facts(&image), None);

    assert_eq!(told(&look), []);
    assert_eq!(look.done, BOTH);
    assert_eq!(look.workload.as_str(), "default:r.example/shop/api");
    let of_findings = look.image.unwrap();
    assert_eq!(of_findings.reference.as_deref(), Some(NAME));
    assert_eq!(of_findings.index_digest, image.index_digest());
    let identity = look.identity.unwrap();
    assert_eq!(identity.upper, Some(PathBuf::from("/s/c")));
    let lowers: Vec<_> = identity
        .layers
        .iter()
        .map(|layer: &LayerRef| layer.lower.clone())
        .collect();
    assert_eq!(lowers, [PathBuf::from("/s/0"), PathBuf::from("/s/1")]);
    assert_eq!(identity.layers[1].chain_id, image.chain()[1]);
    assert_eq!(identity.layers[0].blob.digest, Digest::of(b"gz a"));
    assert_eq!(look.first_sight.root, Some(witness()));
    assert!(look.first_sight.has_agreed);
    assert_eq!(look.first_sight.target, Some(image.target()));
}

#[test]
fn snapshots_above_the_layers_are_told_apart_from_them() {
    let image = image(&["a"], "sh", Target::Manifest);
    let chain = image.chain()[0];
    let remap = format!("{chain}-100000-100001");

    let look = decide(&facts_with(&image, &["c-init", &remap]), None);

    let identity = look.identity.unwrap();
    let kinds: Vec<_> = identity
        .extra_uppers
        .iter()
        .map(|extra| extra.kind)
        .collect();
    assert_eq!(
        kinds,
        [
            ExtraKind::Remap {
                uid: 100_000,
                gid: 100_001
            },
            ExtraKind::Init
        ]
    );
    assert_eq!(identity.layers[0].lower, PathBuf::from("/s/0"));
    let last = identity.uppers().pop();
    assert_eq!(last, Some(PathBuf::from("/s/c")));
    assert_eq!(told(&decide(&facts_with(&image, &["by-hand"]), None)), []);
}

#[test]
fn a_snapshot_that_stands_on_other_parents_is_a_mismatch() {
    let image = image(&["a", "b"], "sh", Target::Manifest);
    let due = [("snapshot-mismatch", Severity::Critical, "snapshot-parents")];
    let mut renamed = facts(&image);
    snapshot_facts(&mut renamed).snapshots[2].key = "by-hand".into();
    let look = decide(&renamed, None);
    assert_eq!(told(&look), due);
    assert_eq!(look.identity, None);

    let mut short = facts(&image);
    snapshot_facts(&mut short).snapshots.pop();
    snapshot_facts(&mut short)
        .rootfs
        .as_mut()
        .unwrap()
        .lowers
        .pop();
    assert_eq!(told(&decide(&short, None)), due);
}

#[test]
fn an_unexpected_namespace_is_a_finding_and_hides_no_other() {
    let image = image(&["a"], "sh", Target::Manifest);
    for (namespace, is_expected) in [
        ("default", true),
        ("moby-1000.1000", true),
        ("moby-evil", false),
        ("x", false),
        ("default2", false),
    ] {
        let mut facts = facts(&image);
        facts.record.key.namespace = namespace.into();

        let look = decide(&facts, None);

        assert!(look.identity.is_some());
        let due = [(
            "unmanaged-container",
            Severity::Warning,
            "unexpected-namespace",
        )];
        assert_eq!(
            told(&look),
            if is_expected { &due[..0] } else { &due[..] },
            "{namespace}"
        );
    }
}

#[test]
fn runtimes_and_snapshotters_that_the_kernel_does_not_serve_are_never_clean() {
    for (runtime, snapshotter, reason) in [
        ("io.containerd.runsc.v1", "overlayfs", "runtime"),
        ("io.containerd.kata.v2", "overlayfs", "runtime"),
        ("", "overlayfs", "runtime"),
        ("io.containerd.runc.v2", "stargz", "snapshotter"),
        ("io.containerd.runc.v2", "devmapper", "snapshotter"),
        ("io.containerd.runc.v2", "btrfs", "snapshotter"),
        ("io.containerd.runc.v2", "zfs", "snapshotter"),
        ("io.containerd.kata.v2", "native", "runtime"),
        ("io.containerd.runc.v2", "", "snapshotter"),
    ] {
        let mut facts = facts(&image(&["a"], "sh", Target::Manifest));
        facts.record.runtime_name = runtime.into();
        facts.record.snapshotter = snapshotter.into();
        facts.rooted = Rooted::NotInspected;

        let look = decide(&facts, None);

        assert_eq!(told(&look), [("unverifiable", Severity::Info, reason)]);
        assert_eq!(look.done, []);
        assert_eq!(look.identity, None);
    }
}

#[test]
fn a_root_without_a_snapshot_or_layers_has_no_image() {
    let mut facts = facts(&image(&["a"], "sh", Target::Manifest));
    snapshot_facts(&mut facts).images = None;
    let due = [("unmanaged-container", Severity::Warning, "no-image")];
    assert_eq!(told(&decide(&facts, None)), due);

    facts.rooted = Rooted::NoSnapshot;
    facts.record.image_name.clear();
    let look = decide(&facts, None);
    assert_eq!(told(&look), due);
    assert_eq!(look.done, [Check::Identity]);
    assert_eq!(look.workload.as_str(), "default:no-image");
}

#[test]
fn a_mount_that_is_not_understood_is_unverifiable_by_name() {
    let image = image(&["a", "b"], "sh", Target::Manifest);
    let option = OverlayError::Option {
        option: "metacopy".into(),
    };
    for (error, reason) in [
        (option, "overlay-option"),
        (OverlayError::Form, "mount-form"),
    ] {
        let mut facts = facts(&image);
        snapshot_facts(&mut facts).rootfs = Err(error.into());
        kernel(&mut facts).top = TopWitness::Unseen;

        let look = decide(&facts, None);

        assert_eq!(told(&look), [("unverifiable", Severity::Warning, reason)]);
        assert_eq!(look.done, [Check::Digests]);
        assert_eq!(look.identity, None);
    }
    let records = NativeError::Records {
        says: "a".into(),
        found: "b".into(),
    };
    let mut native = facts(&image);
    on_native(&mut native);
    snapshot_facts(&mut native).rootfs = Err(records.into());
    assert_eq!(
        told(&decide(&native, None)),
        [("unverifiable", Severity::Warning, "snapshot-records")]
    );
    let mut short = facts(&image);
    snapshot_facts(&mut short)
        .rootfs
        .as_mut()
        .unwrap()
        .lowers
        .pop();
    assert_eq!(
        told(&decide(&short, None)),
        [("unverifiable", Severity::Warning, "mount-form")]
    );
}

#[test]
fn an_option_of_the_kernels_mount_counts_like_one_of_the_snapshotters() {
    let mut facts = facts(&image(&["a"], "sh", Target::Manifest));
    kernel(&mut facts).root.mount = Some(mount(&["rw", "upperdir=/s/c", "redirect_dir=on"]));

    let look = decide(&facts, None);

    assert_eq!(
        told(&look),
        [("unverifiable", Severity::Warning, "overlay-option")]
    );
    assert_eq!(look.done, [Check::Digests]);
    assert!(look.identity.is_some());
}

#[test]
fn a_root_that_is_not_the_snapshots_overlay_is_a_mismatch() {
    let image = image(&["a"], "sh", Target::Manifest);
    let due = [("snapshot-mismatch", Severity::Critical, "root-mount")];
    let mut other = facts(&image);
    kernel(&mut other).top = TopWitness::Other;
    let look = decide(&other, None);
    assert_eq!(told(&look), due);
    assert_eq!(look.first_sight.root, None);

    let mut tmpfs = facts(&image);
    kernel(&mut tmpfs).top = TopWitness::Unseen;
    kernel(&mut tmpfs).root.mount.as_mut().unwrap().fs_type = b"tmpfs".to_vec();
    assert_eq!(told(&decide(&tmpfs, None)), due);
}

/// The same container on `native`: its root is a bind mount of its own directory.
fn on_native(facts: &mut Facts) {
    facts.record.snapshotter = "native".into();
    let rootfs = snapshot_facts(facts).rootfs.as_mut().unwrap();
    (rootfs.snapshotter, rootfs.form) = (Snapshotter::Native, RootForm::Bind);
    let mount = kernel(facts).root.mount.as_mut().unwrap();
    (mount.fs_type, mount.root) = (b"ext4".to_vec(), b"/s/c".to_vec());
    // Options of the node's own file system are not the container's.
    mount.super_options = vec![b"metacopy=on".to_vec()];
}

#[test]
fn a_container_on_native_is_identified_by_its_directory() {
    let image = image(&["a", "b"], "sh", Target::Manifest);
    let mut facts = facts(&image);
    on_native(&mut facts);

    let look = decide(&facts, None);

    assert_eq!(told(&look), []);
    let identity = look.identity.unwrap();
    assert_eq!(identity.snapshotter, Snapshotter::Native);
    assert_eq!(identity.uppers(), [PathBuf::from("/s/c")]);
    assert_eq!(identity.layers[1].lower, PathBuf::from("/s/1"));

    kernel(&mut facts).top = TopWitness::Other;
    let due = [("snapshot-mismatch", Severity::Critical, "root-mount")];
    assert_eq!(told(&decide(&facts, None)), due);
}

#[test]
fn a_root_that_moved_on_native_is_milder_only_where_it_shows_the_same_directory() {
    let image = image(&["a"], "sh", Target::Manifest);
    let mut facts = facts(&image);
    on_native(&mut facts);
    let first = decide(&facts, None).first_sight;
    kernel(&mut facts).root.witness.mount_id = 501;
    let due = |severity| [("mount-drift", severity, "root-mount")];
    assert_eq!(told(&decide(&facts, Some(&first))), due(Severity::Warning));
    // Another directory of the same file system.
    kernel(&mut facts).top = TopWitness::Other;
    assert_eq!(told(&decide(&facts, Some(&first))), due(Severity::Critical));
}

#[test]
fn a_view_has_layers_and_nothing_that_can_be_written() {
    let image = image(&["a", "b"], "sh", Target::Manifest);
    let mut facts = facts(&image);
    snapshot_facts(&mut facts).snapshots[0].kind = SnapshotKind::View;
    snapshot_facts(&mut facts).rootfs.as_mut().unwrap().upper = None;
    // What Linux shows of every overlay without an upper directory.
    let options = ["ro", "lowerdir=1/fs:0/fs", "redirect_dir=on"];
    kernel(&mut facts).root.mount = Some(mount(&options));

    let look = decide(&facts, None);

    assert_eq!(told(&look), []);
    let identity = look.identity.unwrap();
    assert!(identity.uppers().is_empty());
    assert_eq!(identity.layers.len(), 2);
    assert_eq!(look.first_sight.upper, Some(PathBuf::from("/s/1")));
}

#[test]
fn a_root_that_cannot_be_seen_is_unverifiable() {
    let image = image(&["a"], "sh", Target::Manifest);
    let mut chrooted = facts(&image);
    kernel(&mut chrooted).root.mount = None;
    kernel(&mut chrooted).top = TopWitness::Unseen;
    let due = [("unverifiable", Severity::Warning, "root-not-visible")];
    assert_eq!(told(&decide(&chrooted, None)), due);

    let mut large = facts(&image);
    snapshot_facts(&mut large).kernel = Err(KernelError::TableTooLarge);
    let look = decide(&large, None);
    assert_eq!(
        told(&look),
        [("unverifiable", Severity::Warning, "mount-table-too-large")]
    );
    assert_eq!(look.done, [Check::Digests]);
}

#[test]
fn the_root_of_first_sight_is_held_against_each_look() {
    let image = image(&["a"], "sh", Target::Manifest);
    let first = decide(&facts(&image), None).first_sight;

    // An init that chroots stands on the same mount: a fact, not a finding.
    let mut chrooted = facts(&image);
    kernel(&mut chrooted).root.mount = None;
    kernel(&mut chrooted).top = TopWitness::Unseen;
    assert_eq!(told(&decide(&chrooted, Some(&first))), []);

    // It stands on it with the upper directory of first sight, whatever the records say now.
    snapshot_facts(&mut chrooted).rootfs.as_mut().unwrap().upper = Some("/s/clean".into());
    let swapped = [("snapshot-mismatch", Severity::Critical, "root-mount")];
    assert_eq!(told(&decide(&chrooted, Some(&first))), swapped);
    let mut rewritten = facts(&image);
    kernel(&mut rewritten).top = TopWitness::Other;
    assert_eq!(told(&decide(&rewritten, Some(&first))), swapped);

    // On another mount of the whole root the image's programs are still there.
    let mut pivoted = facts(&image);
    kernel(&mut pivoted).root.witness.mount_id = 501;
    let look = decide(&pivoted, Some(&first));
    assert_eq!(
        told(&look),
        [("mount-drift", Severity::Warning, "root-mount")]
    );
    assert_eq!(look.first_sight.root, first.root);
    let moved = |change: fn(&mut KernelFacts)| {
        let mut pivoted = facts(&image);
        kernel(&mut pivoted).root.witness.mount_id = 501;
        change(kernel(&mut pivoted));
        assert_eq!(
            told(&decide(&pivoted, Some(&first))),
            [("mount-drift", Severity::Critical, "root-mount")]
        );
    };
    moved(|kernel| kernel.root.mount.as_mut().unwrap().root = b"/tmp/evil".to_vec());
    moved(|kernel| kernel.root.witness.device.minor += 1);

    let mut restarted = facts(&image);
    kernel(&mut restarted).root.witness = RootWitness {
        pid: 8,
        started: 90,
        mount_id: 9,
        ..witness()
    };
    let look = decide(&restarted, Some(&first));
    assert_eq!(told(&look), []);
    assert_eq!(look.first_sight.root.unwrap().pid, 8);
}

#[test]
fn a_record_that_is_rewritten_while_the_container_runs_is_a_mismatch() {
    let (good, evil) = (
        image(&["a"], "sh", Target::Manifest),
        image(&["e"], "sh", Target::Manifest),
    );
    let first = decide(&facts(&evil), None).first_sight;

    let look = decide(&facts(&good), Some(&first));

    assert!(told(&look).contains(&("snapshot-mismatch", Severity::Critical, "snapshot-key")));
    assert_eq!(look.first_sight.chain, first.chain);
}

#[test]
fn a_name_chooses_among_images_with_the_same_layers() {
    let (api, twin) = (
        image(&["a"], "sh", Target::Index),
        image(&["a"], "other", Target::Index),
    );
    let both = vec![Arc::clone(&api), Arc::clone(&twin)];
    for own in [&api, &twin] {
        let mut facts = facts(own);
        images(&mut facts).candidates = both.clone();

        let look = decide(&facts, None);

        assert_eq!(told(&look), []);
        assert_eq!(&look.identity.unwrap().image, own);
    }
}

#[test]
fn cris_image_ref_chooses_before_any_name() {
    let (api, twin) = (
        image(&["a"], "sh", Target::Index),
        image(&["a"], "other", Target::Index),
    );
    let mut facts = facts(&twin);
    let chain = api.chain().last().copied();
    images(&mut facts).candidates = vec![Arc::clone(&api), Arc::clone(&twin)];
    images(&mut facts).image_ref = ImageRefWitness::Config {
        digest: api.config_digest(),
        chain,
    };

    let look = decide(&facts, None);

    // The name now means the twin.
    assert_eq!(told(&look), [("tag-moved", Severity::Info, "image-name")]);
    assert_eq!(look.identity.unwrap().image, api);
}

#[test]
fn without_a_name_the_worst_of_the_candidates_counts() {
    let (api, twin) = (
        image(&["a"], "sh", Target::Manifest),
        image(&["a"], "other", Target::Manifest),
    );
    let mut facts = facts(&api);
    images(&mut facts).candidates = vec![api, twin];
    images(&mut facts).named = Named::Unknown;

    let look = decide(&facts, None);

    assert_eq!(
        told(&look),
        [("unverifiable", Severity::Info, "ambiguous-config")]
    );
    assert_eq!(look.identity.unwrap().others.len(), 1);
    assert_eq!(look.done, [Check::Digests]);
}

#[test]
fn an_image_reached_twice_or_for_another_architecture_is_not_ambiguous() {
    let (plain, listed) = (
        image(&["a"], "sh", Target::Manifest),
        image(&["a"], "sh", Target::Index),
    );
    let arm = built(&["a"], "sh", "arm64", Target::Manifest);
    let own = if about_is_arm() {
        built(&["a"], "sh", "amd64", Target::Manifest)
    } else {
        arm
    };
    let mut facts = facts(&plain);
    images(&mut facts).candidates = vec![plain, Arc::clone(&listed), own];
    images(&mut facts).named = Named::NoName;
    if about_is_arm() {
        return; // the fixture is for amd64
    }

    let look = decide(&facts, None);

    assert_eq!(told(&look), []);
    assert_eq!(look.identity.unwrap().image, listed);
}

fn about_is_arm() -> bool {
    crate::runtime::about::architecture() != "amd64"
}

#[test]
fn a_name_never_adds_a_candidate() {
    let (runs, named_image) = (
        image(&["a"], "sh", Target::Manifest),
        image(&["b"], "sh", Target::Manifest),
    );
    let mut facts = facts(&runs);
    images(&mut facts).candidates = Vec::new();
    images(&mut facts).named = named(&named_image, 50);

    let look = decide(&facts, None);

    assert_eq!(look.identity, None);
    let due = [
        ("snapshot-mismatch", Severity::Critical, "image-name"),
        ("unverifiable", Severity::Warning, "config-missing"),
    ];
    assert_eq!(told(&look), due);
}

#[test]
fn a_moved_tag_is_told_from_a_swapped_root() {
    let (runs, other) = (
        image(&["a"], "sh", Target::Manifest),
        image(&["b"], "sh", Target::Manifest),
    );
    let moved = [("tag-moved", Severity::Info, "image-name")];
    let swapped = [("snapshot-mismatch", Severity::Critical, "image-name")];
    let agreed = decide(&facts(&runs), None).first_sight;
    let never = FirstSight {
        has_agreed: false,
        target: None,
        ..agreed.clone()
    };
    for (updated, first, due) in [
        (150, None, &moved),
        (50, None, &swapped),
        (50, Some(&agreed), &moved),
        (50, Some(&never), &swapped),
    ] {
        let mut facts = facts(&runs);
        images(&mut facts).named = named(&other, updated);

        let look = decide(&facts, first);

        assert_eq!(told(&look), due, "updated at {updated}, {first:?}");
        assert_eq!(look.identity.unwrap().image, runs);
    }
}

#[test]
fn a_name_that_could_not_be_compared_has_not_agreed() {
    let (runs, other) = (
        image(&["a"], "sh", Target::Manifest),
        image(&["b"], "sh", Target::Manifest),
    );
    let mut facts = facts(&runs);
    let target = other.target();
    images(&mut facts).named = Named::Target {
        target,
        updated_at: Some(at(50)),
        summaries: Vec::new(),
    };
    let first = decide(&facts, None).first_sight;
    assert!(!first.has_agreed);
    images(&mut facts).named = named(&other, 50);

    let look = decide(&facts, Some(&first));

    assert_eq!(
        told(&look),
        [("snapshot-mismatch", Severity::Critical, "image-name")]
    );
}

#[test]
fn an_image_ref_that_disagrees_is_a_mismatch_whatever_the_name_says() {
    let (runs, claimed) = (
        image(&["a"], "sh", Target::Manifest),
        image(&["b"], "sh", Target::Manifest),
    );
    let mut facts = facts(&runs);
    images(&mut facts).image_ref = ImageRefWitness::Config {
        digest: claimed.config_digest(),
        chain: claimed.chain().last().copied(),
    };
    images(&mut facts).named = named(&claimed, 150);

    let look = decide(&facts, None);

    assert!(told(&look).contains(&("snapshot-mismatch", Severity::Critical, "image-ref")));
}

#[test]
fn a_config_that_is_gone_is_unverifiable_and_a_container_nobody_explains_unmanaged() {
    let runs = image(&["a"], "sh", Target::Manifest);
    let empty = |named: Named, image_ref, problems: Vec<Problem>| {
        let mut facts = facts(&runs);
        *images(&mut facts) = ImageFacts {
            chain: *runs.chain().last().unwrap(),
            candidates: Vec::new(),
            image_ref,
            named,
            problems,
        };
        let look = decide(&facts, None);
        assert_eq!(look.identity, None);
        assert!(!look.done.contains(&Check::Digests));
        look
    };
    let none = ImageRefWitness::None;
    let gone = empty(Named::Unknown, none, Vec::new());
    assert_eq!(
        told(&gone),
        [("unmanaged-container", Severity::Warning, "no-image")]
    );

    let missing = ImageRefWitness::Missing {
        digest: runs.config_digest(),
    };
    let dropped = empty(Named::Unknown, missing, vec![Problem::Absent]);
    assert_eq!(
        told(&dropped),
        [("unverifiable", Severity::Warning, "image-ref-missing")]
    );

    let moved = empty(
        named(&image(&["b"], "sh", Target::Manifest), 150),
        none,
        Vec::new(),
    );
    let due = [
        ("tag-moved", Severity::Info, "image-name"),
        ("unverifiable", Severity::Warning, "config-missing"),
    ];
    assert_eq!(told(&moved), due);
}

#[test]
fn altered_and_malformed_documents_are_told_by_name() {
    let runs = image(&["a"], "sh", Target::Manifest);
    let altered = Problem::Altered {
        part: Part::Config,
        digest: runs.config_digest(),
        actual: Digest::of(b"evil"),
    };
    let mut kept = facts(&runs);
    images(&mut kept).problems = vec![altered.clone()];
    let look = decide(&kept, None);
    assert_eq!(
        told(&look),
        [("content-altered", Severity::Critical, "config")]
    );
    assert_eq!(look.done, BOTH); // our own copy of the config was enough
    assert!(look.identity.is_some());

    images(&mut kept).candidates = Vec::new();
    let look = decide(&kept, None);
    let due = [
        ("unverifiable", Severity::Warning, "content-altered"),
        ("content-altered", Severity::Critical, "config"),
    ];
    assert_eq!(told(&look), due);

    let refusal = Refusal::Document(ImageError::RootFs);
    images(&mut kept).problems = vec![Problem::Refused(refusal)];
    let look = decide(&kept, None);
    let due = [
        ("unverifiable", Severity::Warning, "rootfs-type"),
        ("unverifiable", Severity::Warning, "rootfs-type"),
    ];
    assert_eq!(told(&look), due); // of both checks
    assert_eq!(look.done, []);
}

#[test]
fn a_pod_is_named_by_annotations_and_labels_alone_make_none() {
    let image = image(&["a"], "sh", Target::Manifest);
    let mut facts = facts(&image);
    facts.record.labels = [
        ("io.kubernetes.pod.name", "evil"),
        ("io.kubernetes.pod.namespace", "kube-system"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    assert_eq!(decide(&facts, None).container.pod, None);

    facts.sandbox_labels = BTreeMap::from([("pod-template-hash".to_owned(), "7d4".to_owned())]);
    facts.record.spec.as_mut().unwrap().annotations = [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.container-name", "api"),
        ("io.kubernetes.cri.sandbox-name", "api-7d4-x2x4z"),
        ("io.kubernetes.cri.sandbox-namespace", "shop"),
        ("io.kubernetes.cri.sandbox-uid", "u"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();

    let look = decide(&facts, None);

    assert_eq!(look.workload.as_str(), "shop/api");
    assert_eq!(look.container.name, "api");
    assert_eq!(look.container.pod.unwrap().name, "api-7d4-x2x4z");
}

#[test]
fn a_hostile_image_name_stays_out_of_the_workload() {
    let mut facts = facts(&image(&["a"], "sh", Target::Manifest));
    facts.record.image_name = "evil\n\u{202e}name".into();
    images(&mut facts).named = Named::Unknown;

    let look = decide(&facts, None);

    assert_eq!(look.workload.as_str(), "default:no-reference");
    assert_eq!(
        look.image.unwrap().reference.as_deref(),
        Some("evil\\x0a\\u{202e}name")
    );
}

#[test]
fn witness_files_that_differ_are_a_mismatch_and_hidden_ones_say_nothing() {
    let witness = WitnessFile {
        path: b"bin/sh".to_vec(),
        lower: "/s/0".into(),
    };
    let told = |binding| bound(std::slice::from_ref(&witness), &[binding]).map(|it| it.severity);

    assert_eq!(told(Binding::Same), None);
    assert_eq!(told(Binding::Hidden), None);
    assert_eq!(told(Binding::AbsentBelow), None);
    assert_eq!(told(Binding::Differs), Some(Severity::Critical));
    assert_eq!(told(Binding::Missing), Some(Severity::Critical));
}

#[test]
fn what_is_kept_from_first_sight_survives_a_restart() {
    let first = decide(&facts(&image(&["a"], "sh", Target::Index)), None).first_sight;
    let json = serde_json::to_string(&first).unwrap();

    assert_eq!(serde_json::from_str::<FirstSight>(&json).unwrap(), first);
    let chain: ChainId = first.chain.unwrap();
    assert!(json.contains(&chain.to_string()));
}
