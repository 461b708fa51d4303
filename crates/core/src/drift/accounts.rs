//! What a change of an account file means: a new root account, a stolen password, or the harmless entry
//! that images add at their start. It reads two texts and must not know where they come from.
//!
//! Strict on purpose: C libraries disagree about odd lines (an empty uid is 0 to one, a uid of 2^32 wraps
//! to 0 in another), so whatever is not plainly an unprivileged entry is critical.

use std::collections::{BTreeMap, BTreeSet};

use crate::display::shorten;
use crate::finding::Severity;

/// The longest account file that is read; real ones have some kilobytes.
pub const MAX_BYTES: u64 = 1 << 20;

/// The account files, by path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountFile {
    /// `etc/passwd`
    Passwd,
    /// `etc/shadow`
    Shadow,
    /// `etc/group`
    Group,
    /// `etc/gshadow`
    Gshadow,
}

impl AccountFile {
    /// The account file at `path`.
    pub fn at(path: &[u8]) -> Option<Self> {
        match path {
            b"etc/passwd" => Some(Self::Passwd),
            b"etc/shadow" => Some(Self::Shadow),
            b"etc/group" => Some(Self::Group),
            b"etc/gshadow" => Some(Self::Gshadow),
            _ => None,
        }
    }

    /// The file of the image that says more about a new entry of this one: a password for an account that
    /// the image already has is no new account, and an account in the group of administrators is one.
    pub const fn companion(self) -> Option<&'static [u8]> {
        match self {
            Self::Shadow => Some(b"etc/passwd"),
            Self::Passwd | Self::Gshadow => Some(b"etc/group"),
            Self::Group => None,
        }
    }

    const fn fields(self) -> usize {
        match self {
            Self::Passwd => 7,
            Self::Shadow => 9,
            Self::Group | Self::Gshadow => 4,
        }
    }

    /// The word for an entry.
    const fn noun(self) -> &'static str {
        match self {
            Self::Passwd => "account",
            Self::Shadow => "password of",
            Self::Group => "group",
            Self::Gshadow => "group password of",
        }
    }
}

/// How bad a change of an account file is, and why, in a few words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// Warning for entries that give nobody a right, else critical.
    pub severity: Severity,
    /// What was found, worst first; names in the reversible form.
    pub note: String,
}

/// Judges a change. `before` is the image's content (`None`: no such file there); `companion` the image's
/// content of [`AccountFile::companion`], `None` when that is not known.
pub fn judge(
    file: AccountFile,
    before: Option<&[u8]>,
    after: &[u8],
    companion: Option<&[u8]>,
) -> Opinion {
    let Some(after) = parse(file, after) else {
        return critical("an entry cannot be parsed");
    };
    let Some(before) = parse(file, before.unwrap_or_default()) else {
        return critical("the image's own entries cannot be parsed");
    };
    let mut reasons = Vec::new();
    for (name, entry) in &after.entries {
        let found = match before.entries.get(name) {
            Some(old) if old == entry => continue,
            Some(old) => changed(file, name, old, entry),
            None => added(file, (name, entry), &before, companion),
        };
        reasons.push(found);
    }
    for name in before.entries.keys() {
        if !after.entries.contains_key(name) {
            let removed = format!("{} {} removed", file.noun(), escape(name));
            reasons.push((Severity::Critical, removed));
        }
    }
    // Who comes first decides which name a number has.
    let kept = after
        .order
        .iter()
        .filter(|name| before.entries.contains_key(*name));
    if reasons.is_empty() || (!is_worst_critical(&reasons) && !kept.eq(&before.order)) {
        return critical("the order of entries or other lines changed");
    }
    opinion(reasons)
}

fn critical(note: &str) -> Opinion {
    Opinion {
        severity: Severity::Critical,
        note: note.to_owned(),
    }
}

fn is_worst_critical(reasons: &[(Severity, String)]) -> bool {
    reasons
        .iter()
        .any(|(severity, _)| *severity == Severity::Critical)
}

/// A name as notes show it: whoever may write the file may write a name of a mebibyte.
fn escape(name: &[u8]) -> String {
    shorten(&crate::display::escape(name), MAX_NAME)
}

/// The longest name that a note spells out; Linux allows 32 bytes.
const MAX_NAME: usize = 40;

/// How many reasons a note spells out.
const MAX_REASONS: usize = 3;

fn opinion(mut reasons: Vec<(Severity, String)>) -> Opinion {
    reasons.sort_by(|(a, reason_a), (b, reason_b)| b.cmp(a).then_with(|| reason_a.cmp(reason_b)));
    let severity = reasons
        .first()
        .map_or(Severity::Critical, |(severity, _)| *severity);
    let more = reasons.len().saturating_sub(MAX_REASONS);
    let mut note = reasons
        .into_iter()
        .take(MAX_REASONS)
        .map(|(_, reason)| reason)
        .collect::<Vec<_>>()
        .join(", ");
    if more > 0 {
        note.push_str(", and more: ");
        note.push_str(&more.to_string());
    }
    Opinion { severity, note }
}

/// One line, split at its colons.
type Fields = Vec<Vec<u8>>;

struct Parsed {
    entries: BTreeMap<Vec<u8>, Fields>,
    order: Vec<Vec<u8>>,
}

/// `None` for anything that two C libraries might read differently.
fn parse(file: AccountFile, text: &[u8]) -> Option<Parsed> {
    if u64::try_from(text.len()).map_or(true, |length| length > MAX_BYTES) {
        return None;
    }
    let mut parsed = Parsed {
        entries: BTreeMap::new(),
        order: Vec::new(),
    };
    for line in text.split(|byte| *byte == b'\n') {
        let fields: Fields = line
            .split(|byte| *byte == b':')
            .map(<[u8]>::to_vec)
            .collect();
        if fields.len() != file.fields() {
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            return None;
        }
        if line.iter().any(u8::is_ascii_control) || !has_plain_numbers(file, &fields) {
            return None;
        }
        let name = fields.first().filter(|name| is_plain_name(name))?.clone();
        parsed.order.push(name.clone());
        // The first of two wins in one library, the last in another.
        if parsed.entries.insert(name, fields).is_some() {
            return None;
        }
    }
    Some(parsed)
}

/// `+` and `-` at the start pull in other accounts (NIS compatibility).
fn is_plain_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.starts_with(b"+") && !name.starts_with(b"-")
}

fn has_plain_numbers(file: AccountFile, fields: &Fields) -> bool {
    let numbers: &[usize] = match file {
        AccountFile::Passwd => &[2, 3],
        AccountFile::Group => &[2],
        AccountFile::Shadow | AccountFile::Gshadow => &[],
    };
    numbers.iter().all(|index| {
        fields
            .get(*index)
            .is_some_and(|text| number(text).is_some())
    })
}

/// A number as only one thing can be meant by it: decimal, no leading zero, no sign, in 32 bits. Not the
/// largest either: it is -1, by which `setuid` leaves a process what it is.
fn number(text: &[u8]) -> Option<u32> {
    let is_plain = text.iter().all(u8::is_ascii_digit) && (text == b"0" || !text.starts_with(b"0"));
    if !is_plain {
        return None;
    }
    let number = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number != u32::MAX).then_some(number)
}

fn names(text: &[u8]) -> BTreeSet<Vec<u8>> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b':').next())
        .map(<[u8]>::to_vec)
        .collect()
}

fn field(fields: &Fields, index: usize) -> &[u8] {
    fields.get(index).map_or(&[], Vec::as_slice)
}

fn changed(file: AccountFile, name: &[u8], old: &Fields, new: &Fields) -> (Severity, String) {
    let name = escape(name);
    let reason = match file {
        AccountFile::Passwd if field(new, 2) == b"0" && field(old, 2) != b"0" => {
            format!("account {name} became uid 0")
        }
        AccountFile::Group if field(old, 3) != field(new, 3) => {
            format!("members of group {name} changed")
        }
        AccountFile::Passwd | AccountFile::Shadow | AccountFile::Group | AccountFile::Gshadow => {
            format!("{} {name} changed", file.noun())
        }
    };
    (Severity::Critical, reason)
}

fn added(
    file: AccountFile,
    (name, new): (&[u8], &Fields),
    before: &Parsed,
    companion: Option<&[u8]>,
) -> (Severity, String) {
    let shown = escape(name);
    let critical = |reason: String| (Severity::Critical, reason);
    match file {
        AccountFile::Passwd if field(new, 2) == b"0" => {
            critical(format!("uid 0 account {shown} added"))
        }
        // Another name, and another password, for somebody who is there already.
        AccountFile::Passwd if has_number(field(new, 2), before) => {
            let uid = escape(field(new, 2));
            critical(format!("second account {shown} with uid {uid} added"))
        }
        AccountFile::Passwd if is_privileged_gid(field(new, 3), companion) => {
            let gid = escape(field(new, 3));
            critical(format!("account {shown} with group {gid} added"))
        }
        // Another name for a group that has rights already.
        AccountFile::Group if field(new, 2) == b"0" || has_number(field(new, 2), before) => {
            let gid = escape(field(new, 2));
            critical(format!("second group {shown} with gid {gid} added"))
        }
        // `sudo` and PAM go by the name.
        AccountFile::Group if PRIVILEGED_GROUPS.contains(&name) => {
            critical(format!("group {shown} of administrators added"))
        }
        AccountFile::Shadow | AccountFile::Gshadow => {
            let is_new = companion.is_some_and(|companion| !names(companion).contains(name));
            let gives_nothing = is_locked(field(new, 1))
                && (file == AccountFile::Shadow
                    || (field(new, 2).is_empty() && field(new, 3).is_empty()));
            let severity = if is_new || gives_nothing {
                Severity::Warning
            } else {
                Severity::Critical
            };
            (severity, format!("{} {shown} added", file.noun()))
        }
        AccountFile::Passwd | AccountFile::Group => {
            (Severity::Warning, format!("{} {shown} added", file.noun()))
        }
    }
}

/// Groups whose members are administrators, or read what gives passwords and disks away, on the common
/// distributions.
const PRIVILEGED_GROUPS: &[&[u8]] = &[
    b"root", b"wheel", b"sudo", b"admin", b"shadow", b"disk", b"kmem",
];

/// Whether an account with this group has rights by it, as far as the image's groups are known. The group 0
/// is what platforms give to accounts of arbitrary uids.
fn is_privileged_gid(gid: &[u8], groups: Option<&[u8]>) -> bool {
    let Some(groups) = groups else {
        return gid != b"0";
    };
    gid != b"0"
        && groups.split(|byte| *byte == b'\n').any(|line| {
            let mut fields = line.split(|byte| *byte == b':');
            let name = fields.next().unwrap_or_default();
            fields.nth(1) == Some(gid) && PRIVILEGED_GROUPS.contains(&name)
        })
}

fn is_locked(password: &[u8]) -> bool {
    password.starts_with(b"!") || password.starts_with(b"*")
}

/// Whether an entry of the image has this number.
fn has_number(number: &[u8], before: &Parsed) -> bool {
    before
        .entries
        .values()
        .any(|entry| field(entry, 2) == number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n";
    const SHADOW: &str = "root:*:19000:0:99999:7:::\napp:!:19000:0:99999:7:::\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root\napp:x:1000:\n";

    fn of(file: AccountFile, before: &str, after: &str) -> (Severity, String) {
        let companion = match file {
            AccountFile::Shadow => Some(PASSWD),
            AccountFile::Passwd | AccountFile::Gshadow => Some(GROUP),
            AccountFile::Group => None,
        };
        let opinion = judge(
            file,
            Some(before.as_bytes()),
            after.as_bytes(),
            companion.map(str::as_bytes),
        );
        (opinion.severity, opinion.note)
    }

    fn appended(file: AccountFile, before: &str, line: &str) -> (Severity, String) {
        of(file, before, &format!("{before}{line}\n"))
    }

    #[test]
    fn a_second_uid_0_account_is_critical_and_named() {
        let line = "toor:x:0:0::/root:/bin/sh";
        assert_eq!(
            appended(AccountFile::Passwd, PASSWD, line),
            (Severity::Critical, "uid 0 account toor added".to_owned())
        );
    }

    #[test]
    fn the_entry_that_an_arbitrary_uid_adds_at_start_is_a_warning() {
        let line = "svc:x:1000690000:0:service user:/home/app:/sbin/nologin";
        assert_eq!(
            appended(AccountFile::Passwd, PASSWD, line),
            (Severity::Warning, "account svc added".to_owned())
        );
        let without_file = judge(AccountFile::Passwd, None, line.as_bytes(), Some(b""));
        assert_eq!(without_file.severity, Severity::Warning);
    }

    #[test]
    fn an_entry_that_was_there_may_not_change_nor_go() {
        let (severity, note) = of(
            AccountFile::Passwd,
            PASSWD,
            &PASSWD.replace("app:x:1000", "app:x:0"),
        );
        assert_eq!(
            (severity, note.as_str()),
            (Severity::Critical, "account app became uid 0")
        );
        let (severity, note) = of(
            AccountFile::Passwd,
            PASSWD,
            "root:x:0:0:root:/root:/bin/sh\n",
        );
        assert_eq!(
            (severity, note.as_str()),
            (Severity::Critical, "account app removed")
        );
        let (severity, _) = of(
            AccountFile::Passwd,
            PASSWD,
            &PASSWD.replace("root:x:", "root::"),
        );
        assert_eq!(severity, Severity::Critical);
    }

    #[test]
    fn a_password_for_an_account_of_the_image_is_critical_and_for_a_new_one_is_not() {
        assert_eq!(
            appended(
                AccountFile::Shadow,
                SHADOW,
                "toor:$6$x$y:19000:0:99999:7:::"
            ),
            (Severity::Warning, "password of toor added".to_owned())
        );
        let only_root = "root:*:19000:0:99999:7:::\n";
        let (severity, _) = appended(AccountFile::Shadow, only_root, "app:$6$x$y:1:0:9:7:::");
        assert_eq!(severity, Severity::Critical);
        let (severity, note) = of(
            AccountFile::Shadow,
            SHADOW,
            &SHADOW.replace("root:*", "root:$6$x$y"),
        );
        assert_eq!(severity, Severity::Critical);
        assert_eq!(note, "password of root changed");
        let unknown = judge(
            AccountFile::Shadow,
            Some(SHADOW.as_bytes()),
            format!("{SHADOW}x:$6$x$y:1:0:9:7:::\n").as_bytes(),
            None,
        );
        assert_eq!(unknown.severity, Severity::Critical);
    }

    #[test]
    fn a_new_member_of_an_old_group_is_critical_and_a_new_group_is_not() {
        let (severity, note) = of(
            AccountFile::Group,
            GROUP,
            &GROUP.replace("wheel:x:10:root", "wheel:x:10:root,app"),
        );
        assert_eq!(severity, Severity::Critical);
        assert_eq!(note, "members of group wheel changed");
        let (severity, _) = appended(AccountFile::Group, GROUP, "svc:x:1001:app");
        assert_eq!(severity, Severity::Warning);
        let (severity, _) = appended(AccountFile::Group, GROUP, "friends:x:10:app");
        assert_eq!(severity, Severity::Critical);
    }

    #[test]
    fn an_account_with_the_number_or_the_group_of_somebody_with_rights_is_critical() {
        let passwd = |line: &str| appended(AccountFile::Passwd, PASSWD, line);
        let critical = |note: &str| (Severity::Critical, note.to_owned());
        assert_eq!(
            passwd("app2:x:1000:1000::/:/bin/sh"),
            critical("second account app2 with uid 1000 added")
        );
        assert_eq!(
            passwd("svc:x:1001:10::/:/bin/sh"),
            critical("account svc with group 10 added")
        );
        assert_eq!(
            passwd("svc:x:1001:1000::/:/bin/sh"),
            (Severity::Warning, "account svc added".to_owned())
        );
        // Which groups there are could not be learnt.
        let line = format!("{PASSWD}svc:x:1001:1001::/:/bin/sh\n");
        let unknown = |line: &str| {
            judge(
                AccountFile::Passwd,
                Some(PASSWD.as_bytes()),
                line.as_bytes(),
                None,
            )
            .severity
        };
        assert_eq!(unknown(&line), Severity::Critical);
        assert_eq!(
            unknown(&line.replace(":1001:1001:", ":1001:0:")),
            Severity::Warning
        );
    }

    #[test]
    fn a_group_of_administrators_is_critical_though_it_is_new() {
        let group = |line: &str| appended(AccountFile::Group, GROUP, line).0;
        assert_eq!(group("sudo:x:27:svc"), Severity::Critical);
        assert_eq!(group("admin:x:1005:"), Severity::Critical);
        assert_eq!(group("sudoku:x:1006:svc"), Severity::Warning);
    }

    #[test]
    fn a_locked_group_password_gives_nothing_unless_it_names_members() {
        let gshadow = |line: &str| appended(AccountFile::Gshadow, "root:*::\n", line).0;
        assert_eq!(gshadow("wheel:!::"), Severity::Warning);
        assert_eq!(gshadow("wheel:!::svc"), Severity::Critical);
        assert_eq!(gshadow("wheel:!:svc:"), Severity::Critical);
        assert_eq!(gshadow("wheel:$6$x$y::"), Severity::Critical);
        assert_eq!(gshadow("new:$6$x$y::svc"), Severity::Warning);
    }

    #[test]
    fn what_c_libraries_read_differently_is_critical() {
        for line in [
            "toor:x::0::/root:/bin/sh",
            "toor:x:00:0::/root:/bin/sh",
            "toor:x:4294967296:0::/root:/bin/sh",
            "toor:x:4294967295:0::/root:/bin/sh",
            "toor:x:+0:0::/root:/bin/sh",
            "toor:x: 0:0::/root:/bin/sh",
            "+::::::",
            "+",
            "toor:x:1001:0",
            "root:x:1001:0::/root:/bin/sh",
            "to\0or:x:1001:0::/root:/bin/sh",
            ":x:1001:0::/root:/bin/sh",
        ] {
            let (severity, _) = appended(AccountFile::Passwd, PASSWD, line);
            assert_eq!(severity, Severity::Critical, "{line}");
        }
    }

    #[test]
    fn order_and_comments_alone_are_critical_and_beside_an_entry_comments_are_not() {
        let turned = "app:x:1000:1000:app:/home/app:/bin/sh\nroot:x:0:0:root:/root:/bin/sh\n";
        assert_eq!(
            of(AccountFile::Passwd, PASSWD, turned).0,
            Severity::Critical
        );
        let (severity, _) = appended(
            AccountFile::Passwd,
            PASSWD,
            "# added\nsvc:x:1001:0::/home/app:/sbin/nologin",
        );
        assert_eq!(severity, Severity::Warning);
    }

    #[test]
    fn names_are_shown_neutralised_and_notes_stay_short() {
        let (severity, note) = appended(
            AccountFile::Passwd,
            PASSWD,
            "a\\b\u{202e}:x:1001:0::/home/app:/sbin/nologin",
        );
        assert_eq!(severity, Severity::Warning);
        assert_eq!(note, "account a\\\\b\\u{202e} added");
        let many: Vec<String> = (2000..3000)
            .map(|uid| format!("u{uid}:x:{uid}:{uid}::/:/bin/sh"))
            .collect();
        let (_, note) = appended(AccountFile::Passwd, PASSWD, &many.join("\n"));
        assert_eq!(
            note,
            "account u2000 added, account u2001 added, account u2002 added, and more: 997"
        );
    }

    #[test]
    fn a_file_over_the_limit_is_critical() {
        let line = "u:x:2000:0:".to_owned() + &"x".repeat(1 << 20) + ":/:/bin/sh";
        assert_eq!(
            appended(AccountFile::Passwd, PASSWD, &line).0,
            Severity::Critical
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_milder_than_a_warning(before: Vec<u8>, after: Vec<u8>) {
            let opinion = judge(AccountFile::Passwd, Some(&before), &after, None);
            prop_assert!(opinion.severity >= Severity::Warning);
        }
    }
}
