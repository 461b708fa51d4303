//! Options of an overlay mount: which we understand. Pure.
//!
//! An option can change what a root shows (`metacopy`, `redirect_dir=on`, data-only layers): one that
//! is not on the list makes a container `unverifiable` by the option's name. What the options *say* is
//! a hint: with many layers the lower directories are relative, with idmapped layers they name deleted
//! paths, and a bind mount or a rename during mounting makes them lie.

use std::path::PathBuf;

use super::{Mount, kernel};

/// What the kernel does where an option is not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Module parameter `metacopy`.
    pub metacopy: Setting,
    /// Module parameter `redirect_dir`.
    pub redirect_dir: Setting,
}

/// A module parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Setting {
    /// Off, or a kernel without it.
    #[default]
    Off,
    /// On, so a mount that does not say otherwise has it.
    On,
}

/// The directories and traits of an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The writable directory; a view has none.
    pub upper: Option<PathBuf>,
    /// The read-only directories, top-most first.
    pub lowers: Vec<PathBuf>,
    /// Overlay's own attributes are `user.*` instead of `trusted.*`.
    pub userxattr: bool,
}

/// Why an overlay cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// Not one overlay mount with an upper directory.
    #[error("the snapshot's mount is not one overlay with an upper directory")]
    Form,
    /// An option that we do not understand, or that hides what is shown.
    #[error("overlay option {option} is not understood")]
    Option {
        /// The option's name, shortened and escaped.
        option: String,
    },
}

impl OverlayError {
    /// The name in findings and labels.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Form => "mount-form",
            Self::Option { .. } => "overlay-option",
        }
    }
}

/// The overlay that a snapshotter asks for.
pub fn of_mounts(mounts: &[Mount], defaults: Defaults) -> Result<Overlay, OverlayError> {
    let overlay = parse(mounts, defaults)?;
    overlay
        .upper
        .is_some()
        .then_some(overlay)
        .ok_or(OverlayError::Form)
}

/// The overlay that a snapshotter asks for where nothing is to be written.
pub fn of_view(mounts: &[Mount], defaults: Defaults) -> Result<Overlay, OverlayError> {
    let overlay = parse(mounts, defaults)?;
    overlay
        .upper
        .is_none()
        .then_some(overlay)
        .ok_or(OverlayError::Form)
}

fn parse(mounts: &[Mount], defaults: Defaults) -> Result<Overlay, OverlayError> {
    let [mount] = mounts else {
        return Err(OverlayError::Form);
    };
    if mount.kind != "overlay" {
        return Err(OverlayError::Form);
    }
    let options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
    check_options(&options, defaults)?;
    // Twice is as good as not at all: which one counts is the kernel's taste.
    let value = |name| {
        let mut values = options.iter().filter_map(|option| value_of(option, name));
        (values.next(), values.next())
    };
    let (upper, (Some(lowers), None)) = (value("upperdir"), value("lowerdir")) else {
        return Err(OverlayError::Form);
    };
    let upper = match upper {
        (upper, None) => upper.map(PathBuf::from),
        (_, Some(_)) => return Err(OverlayError::Form),
    };
    Ok(Overlay {
        upper,
        lowers: split_lowers(lowers),
        userxattr: options.contains(&"userxattr"),
    })
}

/// Checks every option against the list, and the kernel's defaults where an option is missing.
pub fn check_options(options: &[&str], defaults: Defaults) -> Result<(), OverlayError> {
    let refuse = |option: &str| {
        let name = option.split_once('=').map_or(option, |(name, _)| name);
        Err(OverlayError::Option {
            option: kernel::shown(name.as_bytes()),
        })
    };
    if let Some(option) = options.iter().find(|option| !is_understood(option)) {
        return refuse(option);
    }
    // A data-only layer: content that has no path of its own.
    let has_data_only = |option: &&str| {
        let lowers = value_of(option, "lowerdir");
        lowers.is_some_and(|lowers| split_lowers(lowers).contains(&PathBuf::new()))
    };
    if options.iter().any(has_data_only) {
        return refuse("lowerdir::");
    }
    let is_given = |name| {
        options
            .iter()
            .any(|option| value_of(option, name).is_some())
    };
    if defaults.metacopy == Setting::On && !is_given("metacopy") {
        return refuse("metacopy");
    }
    if defaults.redirect_dir == Setting::On && !is_given("redirect_dir") {
        return refuse("redirect_dir");
    }
    Ok(())
}

fn value_of<'a>(option: &'a str, name: &str) -> Option<&'a str> {
    option.strip_prefix(name)?.strip_prefix('=')
}

/// `redirect_dir=follow` and `off` are the kernel's default: a redirect that somebody planted is found
/// by comparing the layers. `on` makes the kernel itself move directories away from their names.
fn is_understood(option: &str) -> bool {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    match name {
        "rw"
        | "ro"
        | "relatime"
        | "noatime"
        | "nodiratime"
        | "nosuid"
        | "nodev"
        | "noexec"
        | "lazytime"
        | "sync"
        | "seclabel"
        | "context"
        | "fscontext"
        | "defcontext"
        | "rootcontext"
        | "lowerdir"
        | "lowerdir+"
        | "upperdir"
        | "workdir"
        | "userxattr"
        | "volatile"
        | "uuid"
        | "default_permissions"
        | "override_creds"
        | "nooverride_creds"
        | "fsync" => true,
        "index" => matches!(value, "on" | "off"),
        "xino" => matches!(value, "on" | "off" | "auto"),
        "metacopy" | "nfs_export" | "verity" => value == "off",
        "redirect_dir" => matches!(value, "off" | "follow" | "nofollow"),
        _ => false,
    }
}

/// Splits at colons that are not escaped.
fn split_lowers(value: &str) -> Vec<PathBuf> {
    let mut lowers = Vec::new();
    let mut current = String::new();
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => current.extend(characters.next()),
            ':' => lowers.push(PathBuf::from(std::mem::take(&mut current))),
            other => current.push(other),
        }
    }
    lowers.push(PathBuf::from(current));
    lowers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[&str]) -> Result<Overlay, OverlayError> {
        let mount = Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            options: options.iter().map(|option| (*option).into()).collect(),
        };
        of_mounts(&[mount], Defaults::default())
    }

    fn refused(option: &str) -> Result<Overlay, OverlayError> {
        Err(OverlayError::Option {
            option: option.into(),
        })
    }

    #[test]
    fn containerds_overlay_is_understood() {
        let parsed = overlay(&[
            "index=off",
            "workdir=/s/3/work",
            "upperdir=/s/3/fs",
            r"lowerdir=/s/2/f\:s:/s/1/fs",
        ])
        .unwrap();

        assert_eq!(parsed.upper, Some(PathBuf::from("/s/3/fs")));
        assert_eq!(
            parsed.lowers,
            [PathBuf::from("/s/2/f:s"), PathBuf::from("/s/1/fs")]
        );
        assert!(!parsed.userxattr);
    }

    #[test]
    fn an_option_that_hides_what_is_shown_is_refused_by_name() {
        let plain = ["upperdir=/u", "lowerdir=/l"];
        for (option, name) in [
            ("metacopy=on", "metacopy"),
            ("redirect_dir=on", "redirect_dir"),
            ("nfs_export=on", "nfs_export"),
            ("verity=require", "verity"),
            ("datadir+=/x", "datadir+"),
            ("metacopy=on,", "metacopy"),
            ("index=maybe", "index"),
            ("xino=", "xino"),
            ("lowerdir_=/x", "lowerdir_"),
            ("uidmap=0:1:2", "uidmap"),
            ("new_thing", "new_thing"),
        ] {
            assert_eq!(overlay(&[plain[0], plain[1], option]), refused(name));
        }
    }

    #[test]
    fn a_data_only_layer_is_refused() {
        assert_eq!(
            overlay(&["upperdir=/u", "lowerdir=/l:/m::/data"]),
            refused("lowerdir::")
        );
        assert!(overlay(&["upperdir=/u", r"lowerdir=/l\:\::/m"]).is_ok());
    }

    #[test]
    fn options_of_newer_kernels_that_change_nothing_shown_are_understood() {
        for option in [
            "index=on",
            "userxattr",
            "xino=auto",
            "uuid=null",
            "volatile",
            "nfs_export=off",
            "verity=off",
            "redirect_dir=nofollow",
            "context=\"system_u:object_r:container_file_t:s0:c1,c2\"",
        ] {
            assert!(
                overlay(&["upperdir=/u", "lowerdir=/l", option]).is_ok(),
                "{option}"
            );
        }
    }

    #[test]
    fn a_kernels_default_counts_where_the_mount_says_nothing() {
        let defaults = Defaults {
            metacopy: Setting::On,
            redirect_dir: Setting::Off,
        };

        let silent = check_options(&["rw"], defaults);
        assert_eq!(
            silent,
            Err(OverlayError::Option {
                option: "metacopy".into()
            })
        );
        assert_eq!(check_options(&["rw", "metacopy=off"], defaults), Ok(()));
    }

    #[test]
    fn what_is_no_single_overlay_is_refused() {
        assert_eq!(of_mounts(&[], Defaults::default()), Err(OverlayError::Form));
        assert_eq!(overlay(&["lowerdir=/l"]), Err(OverlayError::Form));
        assert_eq!(
            overlay(&["lowerdir=/l", "upperdir=/a", "upperdir=/b"]),
            Err(OverlayError::Form)
        );
    }

    #[test]
    fn a_view_has_no_upper_directory_and_may_not_have_one() {
        let view = |options: &[&str]| {
            let mount = Mount {
                kind: "overlay".into(),
                source: "overlay".into(),
                options: options.iter().map(|option| (*option).into()).collect(),
            };
            of_view(&[mount], Defaults::default())
        };
        let parsed = view(&["index=off", "lowerdir=/b:/a"]).unwrap();
        assert_eq!((parsed.upper, parsed.lowers.len()), (None, 2));
        assert_eq!(
            view(&["lowerdir=/b:/a", "upperdir=/u"]),
            Err(OverlayError::Form)
        );
        assert_eq!(
            view(&["lowerdir=/b", "lowerdir=/a"]),
            Err(OverlayError::Form)
        );
    }
}
