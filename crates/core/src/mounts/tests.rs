//! Each rule where it holds and where it fails, on tables as the kernel writes them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::digest::{ChainId, DiffId, Digest};
use crate::finding::{Detail, Subject};
use crate::layer::{Entry, ExpectedTree, Marker, Node, ReadAt};

const LIMITS: table::Limits = table::Limits {
    mounts: 1000,
    bytes: 1 << 20,
};

/// What runc makes of containerd's default spec, as Linux 6.18 shows it.
const USUAL: &str = "\
141 106 0:72 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
142 141 0:75 / /proc rw,nosuid - proc proc rw
143 141 0:76 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
144 143 0:77 / /dev/pts rw,nosuid - devpts devpts rw,gid=5
147 141 0:79 / /sys ro,nosuid - sysfs sysfs ro
148 141 0:80 / /run rw,nosuid - tmpfs tmpfs rw,size=65536k
150 147 0:85 / /sys/fs/cgroup ro,nosuid - tmpfs cgroup rw
151 150 0:31 /default/c /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids
152 141 254:0 /var/lib/vol /data rw,relatime - ext4 /dev/vda rw
153 141 254:0 /var/lib/hosts /etc/hosts rw,relatime - ext4 /dev/vda rw
107 142 0:75 /sys /proc/sys ro,nosuid - proc proc rw
111 142 0:81 / /proc/acpi ro,relatime - tmpfs tmpfs ro
112 142 0:76 /null /proc/keys rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
";

fn file(mode: u32) -> Entry {
    Entry {
        node: Node::File {
            size: 1,
            digest: Digest::of(b"x"),
            marker: Marker::None,
        },
        mode,
        uid: 0,
        gid: 0,
        xattrs: Vec::new(),
        hard_link: None,
    }
}

fn other(node: Node) -> Entry {
    Entry {
        node,
        ..file(0o755)
    }
}

fn image_bytes() -> Vec<u8> {
    let directory = || other(Node::Directory { opaque: false });
    let link = other(Node::Symlink {
        target: b"/run".to_vec(),
    });
    let bin = other(Node::Symlink {
        target: b"usr/bin".to_vec(),
    });
    let mut entries: Vec<(&[u8], Entry)> = vec![
        (b"", directory()),
        (b"bin", bin),
        (b"data", directory()),
        (b"etc", directory()),
        (b"etc/passwd", file(0o644)),
        (b"opt", directory()),
        (b"opt/app", directory()),
        (b"opt/app/data.txt", file(0o644)),
        (b"usr", directory()),
        (b"usr/bin", directory()),
        (b"usr/bin/nvidia-smi", file(0o755)),
        (b"usr/bin/victim", file(0o755)),
        (b"var", directory()),
        (b"var/run", link),
    ];
    entries.sort_by_key(|(path, _)| path.split(|byte| *byte == b'/').collect::<Vec<_>>());
    let id = Digest::of(b"");
    let mut bytes = Vec::new();
    let borrowed = entries.iter().map(|(path, entry)| (*path, entry));
    ExpectedTree::write(&mut bytes, ChainId(id), DiffId(id), borrowed).unwrap();
    bytes
}

fn merged(bytes: Vec<u8>) -> Result<MergedTree, TreeError> {
    let tree = ExpectedTree::open(bytes, ChainId(Digest::of(b"")))?;
    Ok(MergedTree::new(vec![Arc::new(tree)]))
}

fn image() -> MergedTree {
    merged(image_bytes()).unwrap()
}

fn mount(destination: &str, kind: &str, options: &[&str]) -> DeclaredMount {
    DeclaredMount {
        destination: destination.into(),
        kind: kind.into(),
        options: options.iter().map(|option| (*option).into()).collect(),
        origin: Origin::Record,
    }
}

fn declared() -> Declared {
    Declared {
        mounts: vec![
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &[]),
            mount("/dev/pts", "devpts", &[]),
            mount("/sys", "sysfs", &["ro"]),
            mount("/run", "tmpfs", &[]),
            mount("/sys/fs/cgroup", "cgroup", &["ro"]),
            mount("/data", "bind", &["rbind", "rprivate", "rw"]),
            mount("/etc/hosts", "bind", &["rbind", "rprivate", "rw"]),
        ],
        masked: vec![b"/proc/acpi".to_vec(), b"/proc/keys".to_vec()],
        read_only: vec![b"/proc/sys".to_vec()],
        has_terminal: false,
        may_mount: false,
    }
}

fn view(table: &str) -> View {
    View {
        root: 141,
        device: Device {
            major: 0,
            minor: 72,
        },
        top: b"/".to_vec(),
        base: Vec::new(),
        entries: table::read(table.as_bytes(), LIMITS).unwrap(),
    }
}

/// Severity, subject and found of each condition.
fn told(declared: &Declared, views: &[View]) -> Vec<String> {
    let conditions = conditions(&image(), declared, views, "shop/api").unwrap();
    let lines = conditions.iter().map(|condition| {
        let Detail::MountDrift(detail) = &condition.detail else {
            panic!("{condition:?}");
        };
        let (severity, subject) = (condition.severity, condition.subject.as_str());
        format!(
            "{severity} {subject}: {} over {}",
            detail.found, detail.says
        )
    });
    lines.collect()
}

/// What is told when these lines come after the usual ones.
fn after(lines: &str) -> Vec<String> {
    told(&declared(), &[view(&format!("{USUAL}{lines}"))])
}

/// What is told when these lines come before what the runtime makes last.
fn before(lines: &str) -> Vec<String> {
    let (first, last) = USUAL.split_at(USUAL.find("107 142").unwrap());
    told(&declared(), &[view(&format!("{first}{lines}{last}"))])
}

#[test]
fn what_the_runtime_was_asked_for_and_makes_by_itself_is_no_drift() {
    assert_eq!(after(""), [""; 0]);
}

#[test]
fn a_file_of_the_container_over_a_program_is_critical() {
    let line = "340 141 0:72 /tmp/e /usr/bin/victim rw - overlay overlay rw\n";
    let due = "critical /usr/bin/victim: the container's own /tmp/e over a program";
    assert_eq!(after(line), [due]);
    // A source that was removed is still mounted, and the mount is still the same finding.
    let line = line.replace("/tmp/e ", "/tmp/e//deleted ");
    assert_eq!(after(&line)[0].split(':').next(), due.split(':').next());
}

#[test]
fn severity_follows_the_worst_that_is_hidden() {
    let over = |path: &str| after(&format!("340 141 0:182 / {path} rw - tmpfs none rw\n"));
    assert_eq!(over("/usr"), ["critical /usr: tmpfs over a program"]);
    assert_eq!(over("/"), ["critical /: tmpfs over a trust anchor"]);
    assert_eq!(
        over("/etc/passwd"),
        ["critical /etc/passwd: tmpfs over a trust anchor"]
    );
    assert_eq!(over("/opt"), ["warning /opt: tmpfs over data"]);
    assert_eq!(over("/mnt/new"), ["warning /mnt/new: tmpfs over no mount"]);
    // Where the image has a link, what it leads to counts.
    assert_eq!(
        over("/bin/victim"),
        ["critical /bin/victim: tmpfs over a program"]
    );
}

#[test]
fn what_is_mounted_over_a_mount_of_the_spec_is_not_the_specs() {
    let line = "340 141 0:72 /tmp/e /etc/passwd rw - overlay overlay rw\n";
    let mut spec = declared();
    spec.mounts.push(mount("/etc/passwd", "bind", &["rbind"]));
    let own = format!("{USUAL}{line}");
    // The spec's own mount is not there, and a file of the container cannot be what the spec names.
    assert_eq!(
        told(&spec, &[view(&own)]),
        ["critical /etc/passwd: the container's own /tmp/e over a trust anchor"]
    );
    let stacked = format!("{USUAL}350 153 0:99 / /etc/hosts rw - ext4 /dev/vdb rw\n");
    assert_eq!(
        told(&declared(), &[view(&stacked)]),
        ["warning /etc/hosts: ext4 below it, mounted after the start over no mount"]
    );
}

#[test]
fn a_destination_is_found_behind_a_link_of_the_image() {
    let mut spec = declared();
    spec.mounts
        .push(mount("/var/run/secrets/token", "bind", &["rbind"]));
    let line = "340 148 0:99 / /run/secrets/token ro - tmpfs tmpfs rw\n";
    assert_eq!(told(&spec, &[view(&format!("{USUAL}{line}"))]), [""; 0]);
    // It explains one mount, not one at each place.
    let more = "341 141 0:99 / /var/run/secrets/token ro - tmpfs tmpfs rw\n";
    let told = told(&spec, &[view(&format!("{USUAL}{line}{more}"))]);
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn mounts_that_a_volume_brings_along_are_no_drift_and_later_ones_are() {
    let below = "340 152 254:1 / /data/disk rw - ext4 /dev/vdb rw\n";
    assert_eq!(before(below), [""; 0]);
    assert_eq!(
        after(below),
        ["warning /data: ext4 below it, mounted after the start over no mount"]
    );
    // Nothing was made after the volume: when the other came cannot be known, and it hides nothing.
    let mut spec = declared();
    (spec.masked, spec.read_only) = (Vec::new(), Vec::new());
    let (plain, _) = USUAL.split_at(USUAL.find("153 141").unwrap());
    assert_eq!(told(&spec, &[view(&format!("{plain}{below}"))]), [""; 0]);
}

#[test]
fn mounts_that_the_host_passes_on_are_no_drift() {
    let below = "340 152 254:1 / /data/disk rw master:7 - ext4 /dev/vdb rw\n";
    let mut spec = declared();
    spec.mounts[6].options = vec!["rbind".into(), "rslave".into()];
    assert_eq!(told(&spec, &[view(&format!("{USUAL}{below}"))]), [""; 0]);
    // Without an option in the spec the mount takes what its source takes.
    let usual = USUAL.replace("/data rw,relatime -", "/data rw,relatime master:3 -");
    assert_eq!(
        told(&declared(), &[view(&format!("{usual}{below}"))]),
        [""; 0]
    );
    // What the host passes on into the root itself hides image files.
    let root = USUAL.replace("/ / rw,relatime -", "/ / rw,relatime master:3 -");
    let over = "340 141 254:1 / /usr rw master:7 - ext4 /dev/vdb rw\n";
    assert_eq!(
        told(&declared(), &[view(&format!("{root}{over}"))]),
        ["critical /usr: ext4 over a program"]
    );
}

#[test]
fn a_nested_overlay_is_told_and_what_is_mounted_in_it_is_too() {
    let lines = "340 141 0:90 / /mnt/m rw - overlay overlay rw,lowerdir=/a\n\
                 341 340 0:91 / /mnt/m/x rw - tmpfs t rw\n";
    assert_eq!(
        after(lines),
        [
            "warning /mnt/m: overlay over no mount",
            "warning /mnt/m/x: tmpfs over no mount"
        ]
    );
}

#[test]
fn a_bind_mount_of_a_directory_onto_itself_hides_nothing_but_carries_what_does() {
    let same = "340 141 0:72 /usr /usr rw - overlay overlay rw\n";
    assert_eq!(
        after(same),
        ["warning /usr: the container's own /usr over no mount"]
    );
    let over = format!("{same}341 340 0:72 /tmp/e /usr/bin/victim rw - overlay overlay rw\n");
    assert_eq!(
        after(&over)[0],
        "critical /usr/bin/victim: the container's own /tmp/e over a program"
    );
}

#[test]
fn a_mount_before_the_first_execution_is_milder_unless_the_container_can_write_it() {
    let over = |options: &str, path: &str| {
        format!("340 141 254:3 /lib/x {path} {options} - ext4 /dev/vdc rw\n")
    };
    let read_only = over("ro", "/usr/bin/victim");
    let due = "warning /usr/bin/victim: /lib/x of ext4 over a program";
    assert_eq!(before(&read_only), [due]);
    assert_eq!(after(&read_only), [due.replace("warning", "critical")]);
    assert_eq!(
        before(&over("rw", "/usr/bin/victim")),
        [due.replace("warning", "critical")]
    );
    assert_eq!(
        before(&over("ro", "/mnt/new")),
        ["info /mnt/new: /lib/x of ext4 over no mount"]
    );
    // The same file system is writable elsewhere, above the source.
    let elsewhere = format!("{read_only}341 152 254:3 /lib /data/lib rw - ext4 /dev/vdc rw\n");
    assert_eq!(before(&elsewhere), [due.replace("warning", "critical")]);
    // Who may mount can put the table in any order.
    let mut spec = declared();
    spec.may_mount = true;
    let (first, last) = USUAL.split_at(USUAL.find("107 142").unwrap());
    let table = format!("{first}{read_only}{last}");
    assert_eq!(
        told(&spec, &[view(&table)]),
        [due.replace("warning", "critical")]
    );
}

#[test]
fn known_hooks_are_silent_over_nothing_and_a_warning_over_programs() {
    let smi = "340 141 254:3 /lib/x /usr/bin/nvidia-smi ro - ext4 /dev/vdc rw\n";
    assert_eq!(
        after(smi),
        ["warning /usr/bin/nvidia-smi: /lib/x of ext4 over a program"]
    );
    let library =
        "340 141 254:3 /lib/x /usr/lib/x86_64-linux-gnu/libcuda.so.1 ro - ext4 /dev/vdc rw\n";
    assert_eq!(after(library), [""; 0]);
    let device = "340 143 0:6 /nvidia0 /dev/nvidia0 rw - devtmpfs devtmpfs rw\n";
    assert_eq!(after(device), [""; 0]);
    let own = "340 141 0:72 /tmp/e /usr/bin/nvidia-smi ro - overlay overlay rw\n";
    assert_eq!(
        after(own),
        ["critical /usr/bin/nvidia-smi: the container's own /tmp/e over a program"]
    );
}

#[test]
fn what_only_the_bundle_asked_for_is_told_where_it_hides_something() {
    let mut spec = declared();
    spec.mounts.push(DeclaredMount {
        origin: Origin::Bundle,
        ..mount("/usr/bin/victim", "bind", &["rbind"])
    });
    spec.mounts.push(DeclaredMount {
        origin: Origin::Bundle,
        ..mount("/mnt/new", "bind", &["rbind"])
    });
    let table = |options: &str| {
        format!(
            "{USUAL}340 141 254:3 /x /usr/bin/victim {options} - ext4 /dev/vdc rw\n\
             341 141 254:3 /y /mnt/new {options} - ext4 /dev/vdc rw\n"
        )
    };
    let due = "warning /usr/bin/victim: /x of ext4 over a program";
    assert_eq!(told(&spec, &[view(&table("ro"))]), [due]);
    assert_eq!(
        told(&spec, &[view(&table("rw"))]),
        [due.replace("warning", "critical")]
    );
}

#[test]
fn a_console_and_device_nodes_are_the_runtimes_and_other_things_in_dev_are_not() {
    let console = "340 143 0:77 /0 /dev/console rw - devpts devpts rw\n";
    let mut spec = declared();
    assert_eq!(told(&spec, &[view(&format!("{USUAL}{console}"))]).len(), 1);
    spec.has_terminal = true;
    assert_eq!(told(&spec, &[view(&format!("{USUAL}{console}"))]), [""; 0]);
    let null = "340 143 0:6 /null /dev/null rw - devtmpfs devtmpfs rw\n";
    assert_eq!(after(null), [""; 0]);
    let disguised = "340 143 0:6 /vda /dev/null rw - devtmpfs devtmpfs rw\n";
    assert_eq!(
        after(disguised),
        ["warning /dev: devtmpfs below it, mounted after the start over no mount"]
    );
    // A masked path explains what is empty, not a file of the container.
    let mask = "340 142 0:72 /tmp/e /proc/keys rw - overlay overlay rw\n";
    assert_eq!(after(mask).len(), 1);
}

#[test]
fn another_namespace_is_judged_by_what_it_adds() {
    let own = view(USUAL);
    // A copy has other ids and another order, and stands on the same mounts.
    let copy = USUAL.replace("141", "941");
    let added = "950 941 0:99 / /usr rw - tmpfs none rw\n";
    let other = View {
        root: 941,
        ..view(&format!("{copy}{added}"))
    };
    assert_eq!(told(&declared(), &[own.clone(), own.clone()]), [""; 0]);
    assert_eq!(
        told(&declared(), &[own, other]),
        ["critical /usr: tmpfs, in a mount namespace of its own over a program"]
    );
}

#[test]
fn a_root_on_the_nodes_own_filesystem_shares_it_with_volumes() {
    // The usual table of a container whose root is a directory of the disk that its volumes are on.
    let table = USUAL.replace(
        "141 106 0:72 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w",
        "141 106 254:0 /s/7 / rw,relatime - ext4 /dev/vda rw",
    );
    let own = |more: &str| View {
        device: Device {
            major: 254,
            minor: 0,
        },
        top: b"/s/7".to_vec(),
        ..view(&format!("{table}{more}"))
    };
    assert_eq!(told(&declared(), &[own("")]), [""; 0]);
    for (mounted, due) in [
        ("/s/7/tmp/e", "the container's own /tmp/e"),
        // Another snapshot, or any other directory of the node.
        ("/s/77/tmp/e", "/s/77/tmp/e of ext4"),
        ("/s", "/s of ext4"),
    ] {
        let line = format!("340 141 254:0 {mounted} /usr/bin/victim rw - ext4 /dev/vda rw\n");
        let due = format!("critical /usr/bin/victim: {due} over a program");
        assert_eq!(told(&declared(), &[own(&line)]), [due]);
    }
}

#[test]
fn a_process_that_has_chrooted_shows_paths_below_its_root() {
    let chrooted = View {
        base: b"/usr".to_vec(),
        ..view("340 141 0:72 /tmp/e /bin/victim rw - overlay overlay rw\n")
    };
    assert_eq!(
        told(&declared(), &[chrooted]),
        ["critical /usr/bin/victim: the container's own /tmp/e over a program"]
    );
}

#[test]
fn names_of_mount_points_are_shown_in_the_reversible_form() {
    let told = after("340 141 0:182 / /mnt/a\\012CRITICAL\\040b\u{202e} rw - tmpfs none rw\n");
    assert_eq!(
        told,
        ["warning /mnt/a\\x0aCRITICAL b\\u{202e}: tmpfs over no mount"]
    );
}

#[test]
fn many_mounts_are_told_by_the_worst_and_one_for_the_rest() {
    let line = |number| {
        format!(
            "{} 141 0:182 / /mnt/{number} rw - tmpfs none rw\n",
            1000 + number
        )
    };
    let many = (0..300).map(line).collect::<Vec<_>>().concat();
    let worst = "2000 141 0:182 / /usr rw - tmpfs none rw\n";
    let table = format!("{USUAL}{many}{worst}");
    let conditions = conditions(&image(), &declared(), &[view(&table)], "w").unwrap();

    assert_eq!(conditions.len(), MAX_TOLD + 1);
    assert_eq!(conditions[0].subject, Subject::path(b"usr"));
    assert_eq!(conditions[MAX_TOLD].subject, Subject::word("more-mounts"));
    assert_eq!(conditions[MAX_TOLD].severity, Severity::Warning);
}

#[test]
fn a_table_of_mounts_that_stand_on_each_other_in_a_circle_ends() {
    let circle =
        "340 341 0:182 / /mnt/a rw - tmpfs none rw\n341 340 0:182 / /mnt/b rw - tmpfs none rw\n";
    assert_eq!(after(circle).len(), 2);
}

/// A tree on a disk that fails once the tree is open.
struct Failing(Vec<u8>, Arc<AtomicBool>);

impl ReadAt for Failing {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.1.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk is gone"));
        }
        self.0.as_slice().read_exact_at(buf, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.0.as_slice().length()
    }
}

#[test]
fn a_tree_that_cannot_be_read_is_an_error_and_no_pass() {
    let is_gone = Arc::new(AtomicBool::new(false));
    let source = Failing(image_bytes(), Arc::clone(&is_gone));
    let tree = ExpectedTree::open(source, ChainId(Digest::of(b""))).unwrap();
    let image = MergedTree::new(vec![Arc::new(tree)]);
    is_gone.store(true, Ordering::Relaxed);

    let told = conditions(&image, &declared(), &[view(USUAL)], "w");

    assert!(told.is_err(), "{told:?}");
}

proptest! {
    #[test]
    fn no_table_makes_the_decision_panic(lines in proptest::collection::vec((0_u64..12, 0_u64..12, 0_u32..3, "[/a-z]{0,6}", "[/a-z]{0,6}"), 0..40)) {
        let line = |(id, parent, minor, root, point): &(u64, u64, u32, String, String)| {
            format!("{id} {parent} 0:{minor} /{root} /{point} rw - tmpfs t rw\n")
        };
        let table = lines.iter().map(line).collect::<Vec<_>>().concat();
        let told = told(&declared(), &[view(&table)]);
        prop_assert!(told.len() <= MAX_TOLD + 1);
    }
}
