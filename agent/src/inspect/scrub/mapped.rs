//! What the processes of a container have mapped executable: its programs and libraries in use, which a
//! scrub looks at before anything else. A container controls what is there, so it orders the work and
//! decides nothing; a list that cannot be had is an empty one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;

use holdfast_core::layer::MergedTree;

/// Processes of a node that are asked which container they belong to.
const MAX_PROCESSES: usize = 32_768;

/// Processes of one container that are read; workers of one program have the same maps.
const MAX_READ: usize = 64;

/// Bytes of one process's maps: some thousand libraries.
const MAX_MAPS_BYTES: u64 = 4 << 20;

/// Paths of one container.
const MAX_PATHS: usize = 4_096;

/// Paths relative to the container's root that processes in the mount namespace of `pid` have mapped
/// executable.
pub(super) fn mapped(pid: u32) -> BTreeSet<Vec<u8>> {
    let mut paths = BTreeSet::new();
    for process in processes_beside(pid).into_iter().take(MAX_READ) {
        let Ok(file) = File::open(format!("/proc/{process}/maps")) else {
            continue;
        };
        let lines = BufReader::new(file.take(MAX_MAPS_BYTES)).split(b'\n');
        let executable = lines
            .map_while(Result::ok)
            .filter_map(|line| executable(&line));
        paths.extend(executable.take(MAX_PATHS.saturating_sub(paths.len())));
    }
    paths
}

/// Those of `paths` that a container sees from the layer at `index`, counted from the topmost.
pub(super) fn of_layer(paths: &BTreeSet<Vec<u8>>, tree: &MergedTree, index: usize) -> Vec<Vec<u8>> {
    let is_from_it =
        |path: &&Vec<u8>| matches!(tree.lookup(path), Ok(Some((at, _))) if at == index);
    paths.iter().filter(is_from_it).cloned().collect()
}

fn processes_beside(pid: u32) -> Vec<u32> {
    let namespace =
        |pid: u32| -> Option<PathBuf> { std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() };
    let Some(wanted) = namespace(pid) else {
        return Vec::new();
    };
    // Ours is the host's: a container that shares it has no processes of its own to be told apart.
    if namespace(std::process::id()).as_ref() == Some(&wanted) {
        return vec![pid];
    }
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return vec![pid];
    };
    let processes = entries
        .take(MAX_PROCESSES)
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes
        .filter(|process| namespace(*process).as_ref() == Some(&wanted))
        .collect()
}

/// `7f00-7f10 r-xp 00000000 00:2a 1234   /usr/lib/x.so` → `usr/lib/x.so`.
fn executable(line: &[u8]) -> Option<Vec<u8>> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let permissions = fields.nth(1)?;
    let path = fields.nth(3)?.trim_ascii_start();
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let path = path.strip_prefix(b"/").filter(|path| !path.is_empty())?;
    permissions.get(2).filter(|byte| **byte == b'x')?;
    Some(unescape(path))
}

/// The kernel writes a newline as `\012`, and nothing else so.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, next @ ..] = rest {
        let newline = rest.strip_prefix(b"\\012");
        plain.push(if newline.is_some() { b'\n' } else { *first });
        rest = newline.unwrap_or(next);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executable_mappings_of_files_count() {
        type Case = (&'static [u8], Option<&'static [u8]>);
        let cases: [Case; 7] = [
            (
                b"7f00-7f10 r-xp 00001000 00:2a 12    /usr/lib/x.so",
                Some(b"usr/lib/x.so"),
            ),
            (
                b"7f00-7f10 r-xp 00001000 00:2a 12 /a b (deleted)",
                Some(b"a b"),
            ),
            (
                b"7f00-7f10 r-xp 00001000 00:2a 12 /new\\012line",
                Some(b"new\nline"),
            ),
            (b"7f00-7f10 r--p 00001000 00:2a 12 /usr/lib/x.so", None),
            (b"7f00-7f10 r-xp 00000000 00:00 0    [vdso]", None),
            (b"7f00-7f10 r-xp 00000000 00:00 0 ", None),
            (b"", None),
        ];
        for (line, due) in cases {
            assert_eq!(executable(line).as_deref(), due, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn our_own_program_is_among_what_we_have_mapped() {
        let program = std::env::current_exe().unwrap();
        let program = program.to_str().unwrap().trim_start_matches('/');
        assert!(mapped(std::process::id()).contains(program.as_bytes()));
        assert!(mapped(u32::MAX).is_empty());
    }
}
