//! Mounts that hooks of a node are known to make, by path. Data: a name here makes a finding milder, for a mount
//! that the container cannot write, and never makes one disappear that hides files of the image.

/// `*` stands for any part of one name, `**` at the end for everything below.
const KNOWN: &[&str] = &[
    // NVIDIA: the legacy hook and the container toolkit mount devices, driver programs and libraries.
    "dev/nvidia*",
    "dev/nvidia*/**",
    "proc/driver/nvidia",
    "proc/driver/nvidia/**",
    "usr/bin/nvidia-*",
    "usr/lib/*/libnvidia-*.so*",
    "usr/lib/*/libcuda*.so*",
    "usr/lib/*/libnvcuvid.so*",
    "usr/lib/*/libnvoptix.so*",
    "usr/lib/*/libGL*_nvidia.so*",
    "usr/lib/*/libEGL_nvidia.so*",
    "usr/lib/*/vdpau/libvdpau_nvidia.so*",
    "usr/lib64/libnvidia-*.so*",
    "usr/lib64/libcuda*.so*",
    "usr/lib64/libnvcuvid.so*",
    "usr/lib64/libnvoptix.so*",
    "usr/lib64/libGL*_nvidia.so*",
    "usr/lib64/libEGL_nvidia.so*",
    "usr/lib64/vdpau/libvdpau_nvidia.so*",
    "usr/lib/firmware/nvidia/**",
    "lib/firmware/nvidia/**",
    "usr/share/nvidia/**",
    "usr/share/glvnd/egl_vendor.d/*nvidia*",
    "usr/share/vulkan/*/nvidia*",
    "etc/vulkan/*/nvidia*",
    "run/nvidia-*/**",
    // AMD and Intel: device nodes only.
    "dev/kfd",
    "dev/dri/**",
    // Projected secrets and volumes of CSI drivers that mount by a hook.
    "run/secrets/**",
    "var/run/secrets/**",
    "csi",
    "csi/**",
];

/// Whether a hook that we know mounts here.
pub(super) fn is_known(path: &[u8]) -> bool {
    KNOWN
        .iter()
        .any(|pattern| matches(pattern.as_bytes(), path))
}

fn matches(pattern: &[u8], path: &[u8]) -> bool {
    let mut names = path.split(|byte| *byte == b'/');
    for wanted in pattern.split(|byte| *byte == b'/') {
        let Some(name) = names.next() else {
            return false;
        };
        if wanted == b"**" {
            return !name.is_empty();
        }
        if !matches_name(wanted, name) {
            return false;
        }
    }
    names.next().is_none()
}

/// The parts between stars follow one another; the first and the last are at the ends.
fn matches_name(pattern: &[u8], name: &[u8]) -> bool {
    let mut parts = pattern.split(|byte| *byte == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut last: Option<&[u8]> = None;
    for part in parts {
        if let Some(between) = last.replace(part) {
            let Some(at) = find(rest, between) else {
                return false;
            };
            rest = rest
                .get(at.saturating_add(between.len())..)
                .unwrap_or_default();
        }
    }
    match last {
        Some(end) => rest.ends_with(end),
        None => rest.is_empty(),
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_known_hooks_are_known_by_their_whole_path() {
        for path in [
            "dev/nvidia0",
            "dev/nvidia-caps/nvidia-cap1",
            "usr/bin/nvidia-smi",
            "usr/lib/x86_64-linux-gnu/libcuda.so.535.104.05",
            "usr/lib64/libnvidia-ml.so.1",
            "proc/driver/nvidia",
            "run/secrets/token",
            "csi",
            "csi/volume",
        ] {
            assert!(is_known(path.as_bytes()), "{path}");
        }
        for path in [
            "usr/bin/nvidia-smi/x",
            "usr/bin/sh",
            "opt/usr/bin/nvidia-smi",
            "usr/lib/libcuda.so.1",
            "usr/lib/x86_64-linux-gnu/libc.so.6",
            "usr/lib/x86_64-linux-gnu/libcuda.a",
            "run/secrets",
            "run/nvidia-persistenced",
            "",
        ] {
            assert!(!is_known(path.as_bytes()), "{path}");
        }
    }
}
