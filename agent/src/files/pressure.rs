//! Whether the node's workload waits for what a scrub would use: the kernel's pressure stall information.
//!
//! It decides nothing but "high or not". A kernel without it says nothing, and then nothing pauses.

use std::path::{Path, PathBuf};

use holdfast_daemon::capped;

/// Where the kernel says it.
pub const FOLDER: &str = "/proc/pressure";

/// A file of two lines.
const MAX_BYTES: u64 = 4096;

/// A resource that a workload can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Disks.
    Io,
    /// Memory that is being reclaimed.
    Memory,
    /// A core.
    Cpu,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Io, Self::Memory, Self::Cpu];

    /// The kernel's name, also in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }

    /// From which share of the last ten seconds on, in hundredths of a percent. Of a core the scrub takes
    /// only what nobody wants, so tasks waiting for one weigh less than those waiting for a disk; memory
    /// that is short is made shorter by every page that is read.
    const fn limit(self) -> u32 {
        match self {
            Self::Io => 30_00,
            Self::Memory => 10_00,
            Self::Cpu => 60_00,
        }
    }
}

/// What the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressed {
    /// Nobody waits for long.
    No,
    /// Somebody waits for this.
    By(Resource),
    /// The kernel has no pressure stall information, or another form of it than we know.
    Unknown,
}

/// The folder that is asked.
#[derive(Clone, Debug)]
pub struct Pressure {
    folder: PathBuf,
}

impl Pressure {
    /// Asks in `folder`, [`FOLDER`] outside tests.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Asks now.
    pub fn look(&self) -> Pressed {
        let mut is_known = false;
        for resource in Resource::ALL {
            let Some(share) = self.share(resource) else {
                continue;
            };
            is_known = true;
            if share >= resource.limit() {
                return Pressed::By(resource);
            }
        }
        if is_known {
            Pressed::No
        } else {
            Pressed::Unknown
        }
    }

    fn share(&self, resource: Resource) -> Option<u32> {
        let path = self.folder.join(resource.as_str());
        let bytes = capped::read_file(&path, MAX_BYTES).ok()?;
        parse(std::str::from_utf8(&bytes).ok()?)
    }
}

/// `some avg10=1.86 …` in hundredths of a percent.
fn parse(text: &str) -> Option<u32> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let share = some
        .split(' ')
        .find_map(|field| field.strip_prefix("avg10="))?;
    let (whole, hundredths) = share.split_once('.')?;
    let hundredths: u32 = match hundredths.len() {
        2 => hundredths.parse().ok()?,
        _ => return None,
    };
    whole
        .parse::<u32>()
        .ok()?
        .checked_mul(100)?
        .checked_add(hundredths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(files: &[(&str, &str)]) -> Pressed {
        let folder = tempfile::tempdir().unwrap();
        for (name, share) in files {
            let text =
                format!("some avg10={share} avg60=99.00 avg300=0.00 total=1\nfull avg10=99.00");
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Pressure::new(folder.path()).look()
    }

    #[test]
    fn a_calm_node_is_not_pressed_and_each_resource_counts() {
        assert_eq!(
            look(&[("io", "29.99"), ("memory", "9.99"), ("cpu", "59.99")]),
            Pressed::No
        );
        assert_eq!(
            look(&[("io", "30.00"), ("cpu", "0.00")]),
            Pressed::By(Resource::Io)
        );
        assert_eq!(
            look(&[("io", "0.00"), ("memory", "10.00")]),
            Pressed::By(Resource::Memory)
        );
        assert_eq!(look(&[("cpu", "100.00")]), Pressed::By(Resource::Cpu));
    }

    #[test]
    fn a_kernel_that_does_not_say_it_is_unknown_and_not_calm() {
        assert_eq!(look(&[]), Pressed::Unknown);
        for strange in ["", "12", "a.bc", "1.5", "4294967295.00"] {
            assert_eq!(look(&[("io", strange)]), Pressed::Unknown, "{strange:?}");
        }
    }
}
