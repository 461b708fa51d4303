//! The whole compare of unpacked layers.

use std::fs;
use std::os::unix::fs::symlink;

use holdfast_agent::files::lower::{Lower, compare};
use holdfast_agent::files::{MAX_ENTRIES, Observer, Pass, Rehash, Root, ScanOutcome};
use holdfast_core::drift::corrupt::Stopped;
use holdfast_core::overlay::XattrPrefix;
use jiff::Timestamp;
use rustix::fs::FileType;
use rustix::fs::{XattrFlags, removexattr};

use super::container::shown;
use super::image::{
    ELF, EVIL, Layer, chmod, chown_to, file, link, mknod, opaque, set_xattr, whiteout,
};

fn layer() -> Layer {
    Layer::new(&[
        file("usr/bin/victim", ELF, 0o755),
        file("usr/bin/victim2", ELF, 0o755).hard_link("usr/bin/victim"),
        file("usr/bin/other", ELF, 0o755),
        link("usr/bin/tool", "victim"),
        file("etc/passwd", b"root:x:0:0::/:/bin/sh\n", 0o644),
        file("var/log/first", b"", 0o644),
        file("zz.d/z", b"z", 0o600),
        opaque("opt/replaced"),
        file("opt/replaced/x", b"x", 0o644),
        whiteout("opt/gone"),
    ])
}

fn pass(layer: &Layer, is_over: &dyn Fn() -> bool) -> ScanOutcome {
    let root = Root::open(layer.path()).unwrap();
    let lower = Lower {
        root: &root,
        tree: &layer.tree,
        prefix: XattrPrefix::Trusted,
        stopped: Stopped::InOrder,
    };
    let pass = Pass {
        budget: u64::MAX,
        now: Timestamp::now(),
        rehash: Rehash::All,
        max_entries: MAX_ENTRIES,
        is_over,
    };
    compare(lower, &mut Observer::default(), pass).unwrap()
}

fn found_after(act: impl FnOnce(&Layer)) -> Vec<String> {
    let layer = layer();
    act(&layer);
    shown(&pass(&layer, &|| false))
}

#[test]
fn an_untouched_layer_is_clean_and_was_read_to_its_end() {
    let layer = layer();
    let outcome = pass(&layer, &|| false);
    assert_eq!(shown(&outcome), [""; 0]);
    assert_eq!(outcome.entries + 1, layer.tree.entries());
    assert!(outcome.bytes_hashed > 0);
}

#[test]
fn content_metadata_links_and_types_are_compared() {
    let found = found_after(|layer| {
        fs::write(layer.at("usr/bin/victim"), EVIL).unwrap();
        chmod(&layer.at("usr/bin/other"), 0o4755);
        chown_to(&layer.at("zz.d"), 1000);
        fs::remove_file(layer.at("usr/bin/tool")).unwrap();
        symlink("/tmp/evil", layer.at("usr/bin/tool")).unwrap();
        set_xattr(&layer.at("etc/passwd"), "user.note", b"x");
        fs::remove_file(layer.at("var/log/first")).unwrap();
        mknod(&layer.at("var/log/first"), FileType::Fifo, 0, 0);
    });
    assert_eq!(
        found,
        [
            "critical metadata data /zz.d",
            "critical metadata program /usr/bin/other",
            "critical metadata trust-anchor /etc/passwd",
            "critical modified data /usr/bin/tool",
            "critical modified program /usr/bin/victim",
            "critical modified program /usr/bin/victim2",
            "critical modified volatile /var/log/first",
        ]
    );
}

#[test]
fn what_is_missing_and_what_is_extra_is_found() {
    let found = found_after(|layer| {
        fs::remove_dir_all(layer.at("usr")).unwrap();
        fs::create_dir(layer.at("aaa")).unwrap();
        fs::write(layer.at("aaa/evil"), EVIL).unwrap();
        fs::write(layer.at("zz.d/y"), "y").unwrap();
        fs::write(layer.at("zz"), "").unwrap();
        fs::remove_file(layer.at("opt/gone")).unwrap();
        mknod(&layer.at("opt/hidden"), FileType::CharacterDevice, 0, 0);
    });
    assert_eq!(
        found,
        [
            "critical added data /aaa",
            "critical added data /opt/hidden",
            "critical added data /zz",
            "critical added data /zz.d/y",
            "critical added program /aaa/evil",
            "critical removed data /opt/gone",
            "critical removed data /usr",
            "critical removed data /usr/bin",
            "critical removed data /usr/bin/tool",
            "critical removed program /usr/bin/other",
            "critical removed program /usr/bin/victim",
            "critical removed program /usr/bin/victim2",
        ]
    );
}

#[test]
fn opaqueness_is_compared_and_planted_attributes_are_tampering() {
    let found = found_after(|layer| {
        removexattr(layer.at("opt/replaced"), "trusted.overlay.opaque").unwrap();
        set_xattr(&layer.at("etc"), "trusted.overlay.opaque", b"y");
        set_xattr(&layer.at("usr/bin"), "trusted.overlay.redirect", b"/hidden");
        set_xattr(&layer.at("zz.d/z"), "trusted.overlay.metacopy", b"");
    });
    assert_eq!(
        found,
        [
            "critical modified configuration /etc",
            "critical modified data /opt/replaced",
            "critical redirected data /usr/bin",
            "critical redirected data /zz.d/z",
        ]
    );
}

#[test]
fn a_planted_attribute_on_the_root_is_tampering() {
    let found = found_after(|layer| {
        set_xattr(layer.path(), "trusted.overlay.redirect", b"/hidden");
    });
    assert_eq!(found, ["critical redirected data /"]);
}

#[test]
fn a_hard_link_that_became_a_file_of_its_own_is_metadata() {
    let found = found_after(|layer| {
        fs::remove_file(layer.at("usr/bin/victim2")).unwrap();
        fs::write(layer.at("usr/bin/victim2"), ELF).unwrap();
        chmod(&layer.at("usr/bin/victim2"), 0o755);
    });
    assert_eq!(found, ["critical metadata program /usr/bin/victim2"]);
}

#[test]
fn labels_that_a_node_sets_are_not_compared() {
    let found = found_after(|layer| {
        let label = b"system_u:object_r:container_file_t:s0";
        let at = layer.at("usr/bin/victim");
        // A kernel with another security module may refuse it; then there is nothing to compare either.
        let set = rustix::fs::setxattr(&at, "security.selinux", label, XattrFlags::empty());
        assert!(matches!(set, Ok(()) | Err(rustix::io::Errno::OPNOTSUPP)));
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn a_compare_without_time_calls_nothing_missing() {
    let layer = layer();
    let outcome = pass(&layer, &|| true);
    assert_eq!(shown(&outcome), ["unverifiable deadline /etc"]);
}
