//! The kernel's overlay with other options than containerd gives: what it writes into the upper directory
//! then, and what a container inside may write there itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::container::Container;
use super::image::{EVIL, chmod, image, set_xattr};

const NONE: [&str; 0] = [];

/// Everything that leaves a trace of its own in an upper directory.
fn change_everything(container: &Container) {
    let root = |path: &str| container.root(path);
    fs::remove_file(root("opt/app/app.conf")).unwrap();
    fs::remove_dir_all(root("opt/app/lib")).unwrap();
    fs::create_dir(root("opt/app/lib")).unwrap();
    fs::write(root("opt/app/lib/mod2.txt"), "lib 2\n").unwrap();
    fs::write(root("usr/bin/victim"), EVIL).unwrap();
    fs::rename(root("opt/app/run.sh"), root("opt/app/start.sh")).unwrap();
    fs::remove_file(root("opt/app/bin/server")).unwrap();
    fs::remove_dir(root("opt/app/bin")).unwrap();
    symlink("/tmp", root("opt/app/bin")).unwrap();
    fs::remove_dir_all(root("var/cache/app")).unwrap();
    fs::write(root("var/cache/app"), "a file now").unwrap();
}

const EVERYTHING: [&str; 10] = [
    "critical modified program /opt/app/bin",
    "critical modified program /usr/bin/victim",
    "warning moved program /opt/app/start.sh",
    "warning removed configuration /opt/app/app.conf",
    "warning removed data /opt/app/lib/deep",
    "warning removed data /opt/app/lib/deep/er",
    "warning removed data /opt/app/lib/deep/er/x",
    "warning removed data /opt/app/lib/mod1.txt",
    "warning removed program /opt/app/bin/server",
    "warning removed program /opt/app/run.sh",
];

#[test]
fn every_set_of_options_that_is_understood_gives_the_same_findings() {
    for options in [
        "index=off",
        "index=on",
        "userxattr",
        "userxattr,index=on",
        "index=on,xino=on",
        "redirect_dir=nofollow,metacopy=off",
    ] {
        let mut container = Container::mounted_with(image(), options);
        assert_eq!(container.found(), NONE, "{options}");
        change_everything(&container);
        assert_eq!(container.found(), EVERYTHING, "{options}");
    }
}

/// With an index the names of one file stay one file when they are copied up.
#[test]
fn hard_links_that_an_index_keeps_together_are_compared_by_content() {
    let mut container = Container::mounted_with(image(), "index=on");
    chmod(&container.root("usr/bin/suid"), 0o4755);
    chmod(&container.root("usr/bin/twin"), 0o4755);
    assert_eq!(container.found(), NONE);
    let file = fs::OpenOptions::new()
        .append(true)
        .open(container.root("usr/bin/twin"));
    std::io::Write::write_all(&mut file.unwrap(), b"evil").unwrap();
    container.later(1);
    assert_eq!(
        container.found(),
        [
            "critical modified program /usr/bin/suid",
            "critical modified program /usr/bin/twin",
        ]
    );
}

/// What a container writes under overlay's own names is escaped by the kernel: it can hide nothing with it.
#[test]
fn attributes_that_a_container_writes_hide_nothing() {
    for (options, prefix) in [("index=off", "trusted"), ("userxattr", "user")] {
        let mut container = Container::mounted_with(image(), options);
        let set = |path: &str, name: &str, value: &[u8]| {
            set_xattr(
                &container.root(path),
                &format!("{prefix}.overlay.{name}"),
                value,
            );
        };
        set("opt/app/lib", "opaque", b"y");
        set("opt/app/lib", "redirect", b"/usr/bin");
        set("usr/bin/victim", "metacopy", b"");
        set("opt/app/py/__init__.py", "whiteout", b"");
        assert!(has_escaped(&container.upper("opt/app/lib"), prefix));
        assert_eq!(container.found(), NONE, "{options}");
    }
}

fn has_escaped(at: &Path, prefix: &str) -> bool {
    let name = format!("{prefix}.overlay.overlay.opaque");
    let mut value = [0; 1];
    rustix::fs::lgetxattr(at, name.as_str(), &mut value) == Ok(1)
}

/// The kernel's own whiteouts by attribute, as they come from a nested overlay.
#[test]
fn a_lone_whiteout_attribute_hides_from_whoever_opens_as_it_does_from_us() {
    let container = Container::new();
    let planted = container.upper("opt/app/py/__init__.py");
    fs::write(&planted, "").unwrap();
    set_xattr(&planted, "trusted.overlay.whiteout", b"");
    let mut container = container.mount("index=off");
    assert!(!container.root("opt/app/py/__init__.py").exists());
    assert_eq!(
        container.found(),
        ["warning removed program /opt/app/py/__init__.py"]
    );
}
