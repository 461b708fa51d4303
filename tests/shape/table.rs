//! The rules that `shape` holds, as tables. To change a rule, change its line, in a commit that says why.

/// May import everything of its program: the only places that join parts.
pub(crate) const ALL: &[&str] = &["*"];

/// Crate, module, and what of the same crate it may import. A module that is not here fails.
pub(crate) const MAY_IMPORT: &[(&str, &str, &[&str])] = &[
    // Decisions, from the digest upwards. `finding` and `drift` name each other's words: a change has a
    // severity, a finding lists changes.
    ("crates/core", "digest", &[]),
    ("crates/core", "display", &[]),
    ("crates/core", "yaml", &["display"]),
    ("crates/core", "container", &[]),
    ("crates/core", "reference", &["digest"]),
    ("crates/core", "image", &["digest"]),
    ("crates/core", "layer", &["digest", "display"]),
    ("crates/core", "overlay", &["digest", "layer"]),
    (
        "crates/core",
        "drift",
        // A drift policy names images as a trust policy does.
        &[
            "digest", "display", "finding", "layer", "overlay", "trust", "yaml",
        ],
    ),
    (
        "crates/core",
        "trust",
        &["digest", "display", "finding", "reference", "yaml"],
    ),
    (
        "crates/core",
        "finding",
        &["container", "digest", "display", "drift"],
    ),
    (
        "crates/core",
        "mounts",
        &["display", "drift", "finding", "layer"],
    ),
    ("crates/core", "place", &["container", "finding"]),
    (
        "crates/core",
        "coverage",
        &["container", "finding", "trust"],
    ),
    // Kernel calls: nothing of ours.
    ("crates/sys", "page_cache", &[]),
    ("crates/sys", "priority", &[]),
    // The agent's parts do not know each other, nor who calls them.
    ("agent", "main", &[]),
    ("agent", "cli", ALL),
    ("agent", "config", &[]),
    ("agent", "telemetry", &["config"]),
    ("agent", "local", &[]),
    ("agent", "worker", &[]),
    (
        "agent",
        "runtime",
        &["config", "local", "telemetry", "worker"],
    ),
    ("agent", "files", &["config", "local", "telemetry"]),
    ("agent", "trust", &["config", "telemetry"]),
    ("agent", "watch", &["config", "telemetry"]),
    // The ledger keeps places and spool in one transaction, so it is built upon the state's tables.
    ("agent", "report", &["config", "state", "telemetry"]),
    ("agent", "link", &["config", "telemetry"]),
    // Puts what the collector hands on where proofs look for it; decides nothing about it.
    ("agent", "relay", &["config", "files", "telemetry"]),
    ("agent", "node", &["config"]),
    ("agent", "publish", &["inspect", "report"]),
    ("agent", "state", &["config", "telemetry"]),
    ("agent", "respond", &["config", "telemetry"]),
    (
        "agent",
        "inspect",
        &["config", "files", "runtime", "telemetry", "trust", "worker"],
    ),
    // The main loop hands its jobs what it was given: a runtime, the ledger, names of layers. It opens none.
    (
        "agent",
        "reconcile",
        &[
            "config",
            "files",
            "inspect",
            "report",
            "runtime",
            "telemetry",
        ],
    ),
    // Which runtimes there are, handed to the loop one by one.
    (
        "agent",
        "sources",
        &["inspect", "reconcile", "runtime", "telemetry"],
    ),
    // The collector's.
    ("collector", "main", &[]),
    ("collector", "cli", ALL),
    ("collector", "config", &[]),
    ("collector", "telemetry", &["config"]),
    ("collector", "store", &["config", "telemetry"]),
    ("collector", "findings", &["config", "store", "telemetry"]),
    (
        "collector",
        "commit",
        &["config", "findings", "store", "telemetry"],
    ),
    (
        "collector",
        "nodes",
        &["commit", "config", "findings", "store", "telemetry"],
    ),
    ("collector", "relay", &["config", "store", "telemetry"]),
    ("collector", "ca", &["config", "store", "telemetry"]),
    (
        "collector",
        "ingest",
        &[
            "commit",
            "config",
            "findings",
            "nodes",
            "relay",
            "store",
            "telemetry",
        ],
    ),
    (
        "collector",
        "deliver",
        &["config", "findings", "store", "telemetry"],
    ),
    (
        "collector",
        "api",
        &["config", "findings", "nodes", "relay", "store", "telemetry"],
    ),
];

/// Our crates, and who else may import them; `core` and `daemon` are for everybody above them.
pub(crate) const CRATES: &[(&str, &[&str])] = &[
    (
        "holdfast_core",
        &[
            "crates/protocol",
            "crates/registry",
            "crates/daemon",
            "agent",
            "collector",
            "tests",
            "fuzz",
        ],
    ),
    (
        "holdfast_daemon",
        &["crates/registry", "agent", "collector", "tests"],
    ),
    (
        "holdfast_registry",
        &[
            // `[registry]` is the same in both programs.
            "agent/config",
            "collector/config",
            "agent/files",
            "agent/inspect",
            "agent/trust",
            "agent/cli",
            "agent/lib",
            "collector/relay",
            // A layer as a message names it.
            "collector/ingest",
            "collector/lib",
            "tests",
        ],
    ),
    (
        "holdfast_protocol",
        &[
            "agent/report",
            "agent/relay",
            "agent/link",
            "agent/lib",
            "collector/ingest",
            "collector/nodes",
            // The bounds of what is handed on.
            "collector/relay",
            "collector/lib",
            "tests",
        ],
    ),
    ("holdfast_sys", &["agent/files", "agent/inspect", "tests"]),
    ("holdfast_agent", &["agent", "tests"]),
    ("holdfast_collector", &["collector", "tests"]),
];

/// What must not stand in the core: it gets bytes, readers and `now` as arguments.
pub(crate) const NOT_IN_CORE: &[&str] = &[
    "tokio::",
    "tonic::",
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "ToSocketAddrs",
    "std::env",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant",
    "Timestamp::now",
    "Zoned::now",
];

/// Words that no type's name has: they say nothing, or the glossary has another word.
pub(crate) const NEVER_SAY: &[&str] = &[
    "Manager",
    "Handler",
    "Helper",
    "Util",
    "Utils",
    "Service",
    "Info",
    "Data",
    "Tombstone",
    "Violation",
    "Incident",
    "Anomaly",
    "Baseline",
    "Golden",
    "Allowlist",
    "Whitelist",
    "Blacklist",
    "Exemption",
    "Crawl",
    "Sensor",
    "Backend",
    "Seal",
    "Dedup",
];

/// Names that a trait of another crate gives.
pub(crate) const FOREIGN: &[&str] = &["ConnectInfo"];

/// File names that gather what belongs elsewhere.
pub(crate) const NEVER_A_FILE: &[&str] = &[
    "helpers.rs",
    "helper.rs",
    "utils.rs",
    "util.rs",
    "common.rs",
    "misc.rs",
];

/// A file with more lines than this, tests at its foot not counted, says why.
pub(crate) const LONG: usize = 400;

/// How it says so, in its `//!`.
pub(crate) const SAYS_WHY: &str = "Long because";
