//! How registries may be asked: which hosts, with which credentials, how fast, how long.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::auth::Keyring;
use crate::pace::Pace;

/// Which registries may be asked how.
#[derive(Clone, Debug)]
pub struct Access {
    /// Hosts (host and port as in image references) that are spoken to in plain HTTP, or whose
    /// certificate `hosts.toml` may leave unchecked. What they send is still checked by digest; that
    /// something is absent is then anybody's word.
    pub insecure: BTreeSet<String>,
    /// Credentials by host.
    pub keyring: Keyring,
    /// containerd's `certs.d` folders; the first that knows a registry counts.
    pub hosts: Vec<PathBuf>,
    /// How long everything may take.
    pub timing: Timing,
    /// How fast requests to one host may follow each other.
    pub pace: Pace,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            insecure: BTreeSet::new(),
            keyring: Keyring::none(),
            hosts: Vec::new(),
            timing: Timing::default(),
            // An image with all its signatures is some ten requests; a registry's own limits begin at
            // about twenty a second for a whole account.
            pace: Pace {
                per_second: 5.0,
                burst: 20.0,
            },
        }
    }
}

/// How long everything may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// One object at one host, with its token, redirects and retries.
    pub object: Duration,
    /// From a request to the head of its answer.
    pub first_byte: Duration,
    /// Between two pieces of a layer.
    pub stall: Duration,
    /// Bytes of a layer a second, below which it is given up, whatever it still drips.
    pub slowest: u32,
    /// What a layer may take beside that.
    pub grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            object: Duration::from_secs(20),
            first_byte: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            slowest: 128 << 10,
            grace: Duration::from_mins(1),
        }
    }
}
