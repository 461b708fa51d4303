//! What the collector has stored, against the oracle, from the oldest change on. Pure.
//!
//! Each path is changed at most once and undone at most once, so what is due is exact: a change that
//! stands has one `opened` and nothing after it; an undone one has `opened` and `resolved`, or neither when
//! no look came between. Everything else that is stored must at least be a life that can be.

use std::collections::{BTreeMap, BTreeSet};

use super::oracle::{Act, Line};

/// A problem on a container: its id and the path, or for other findings what they are about.
pub(crate) type Place = (String, String);

/// One transition, as the store has it, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) epoch: i64,
    pub(crate) sequence: i64,
    pub(crate) kind: String,
    pub(crate) place: Place,
    pub(crate) transition: String,
    pub(crate) reason: Option<String>,
}

/// The kind of what the oracle does.
pub(crate) const DRIFT: &str = "file-drift";

/// What must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A change stands and nobody was told.
    Lost(Line),
    /// A change stands and its finding is not open.
    NotOpen(Line),
    /// A change was undone and its finding is open.
    StillOpen(Line),
    /// The history of a change is not the one that is due.
    Life(Line, Vec<String>),
    /// One record of one spool is stored twice.
    Twice(Stored),
    /// The history of another place cannot be.
    OtherLife(Place, Vec<String>),
    /// Drift of which the oracle does not know.
    Unknown(Place),
    /// The agent has begun a second spool: its first was lost.
    SecondSpool(BTreeSet<i64>),
}

/// What has become of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stands,
    Undone,
}

/// What is wrong, in the order of the oracle's lines first.
pub(crate) fn judge(lines: &[Line], stored: &[Stored], open: &BTreeSet<Place>) -> Vec<Fault> {
    let undone: BTreeSet<Place> = lines
        .iter()
        .filter(|line| line.act == Act::Undo)
        .map(place)
        .collect();
    let by_place = by_place(stored);
    let mut faults = Vec::new();
    let mut known = BTreeSet::new();
    for line in lines.iter().filter(|line| line.act != Act::Undo) {
        let place = place(line);
        let fate = if undone.contains(&place) {
            Fate::Undone
        } else {
            Fate::Stands
        };
        let life = by_place
            .get(&(DRIFT, &place))
            .map_or(&[][..], Vec::as_slice);
        faults.extend(of_change(line, fate, life, open));
        known.insert(place);
    }
    faults.extend(repeated(stored));
    for ((kind, place), life) in &by_place {
        if *kind == DRIFT && !known.contains(*place) {
            faults.push(Fault::Unknown((*place).clone()));
        } else if *kind != DRIFT && !can_be(life) {
            faults.push(Fault::OtherLife((*place).clone(), words(life)));
        }
    }
    faults.extend(open.difference(&known).cloned().map(Fault::Unknown));
    let epochs: BTreeSet<i64> = stored.iter().map(|stored| stored.epoch).collect();
    if epochs.iter().filter(|epoch| **epoch != 0).count() > 1 {
        faults.push(Fault::SecondSpool(epochs));
    }
    faults
}

fn place(line: &Line) -> Place {
    (line.container.clone(), line.path.clone())
}

fn by_place(stored: &[Stored]) -> BTreeMap<(&str, &Place), Vec<&Stored>> {
    let mut by_place = BTreeMap::<_, Vec<_>>::new();
    for one in stored {
        let key = (one.kind.as_str(), &one.place);
        by_place.entry(key).or_default().push(one);
    }
    by_place
}

fn of_change(change: &Line, fate: Fate, life: &[&Stored], open: &BTreeSet<Place>) -> Option<Fault> {
    let is_open = open.contains(&place(change));
    let words = words(life);
    let words_are = |due: &[&str]| words.iter().map(String::as_str).eq(due.iter().copied());
    let change = change.clone();
    match fate {
        Fate::Undone if is_open => Some(Fault::StillOpen(change)),
        Fate::Undone if words_are(&[]) || words_are(&["opened", "resolved gone"]) => None,
        Fate::Stands if words.is_empty() => Some(Fault::Lost(change)),
        Fate::Stands if words_are(&["opened"]) && is_open => None,
        Fate::Stands if words_are(&["opened"]) => Some(Fault::NotOpen(change)),
        Fate::Undone | Fate::Stands => Some(Fault::Life(change, words)),
    }
}

fn repeated(stored: &[Stored]) -> impl Iterator<Item = Fault> {
    let mut seen = BTreeSet::new();
    stored
        .iter()
        .filter(move |one| !seen.insert((one.epoch, one.sequence)))
        .map(|one| Fault::Twice(one.clone()))
}

/// Opened, then any updates, then resolved, and so on.
fn can_be(life: &[&Stored]) -> bool {
    let mut is_open = false;
    life.iter().all(|step| {
        let was_open = is_open;
        is_open = step.transition != "resolved";
        match step.transition.as_str() {
            "opened" | "reopened" => !was_open,
            _ => was_open,
        }
    })
}

fn words(life: &[&Stored]) -> Vec<String> {
    life.iter()
        .map(|step| match &step.reason {
            Some(reason) => format!("{} {reason}", step.transition),
            None => step.transition.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str, act: Act) -> Line {
        Line {
            round: 0,
            container: "c".to_owned(),
            path: path.to_owned(),
            act,
        }
    }

    fn place(path: &str) -> Place {
        ("c".to_owned(), path.to_owned())
    }

    /// Transitions of `/a`, numbered from 1.
    fn stored(words: &[&str]) -> Vec<Stored> {
        let steps = words.iter().zip(1..).map(|(word, sequence)| {
            let (transition, reason) = match word.split_once(' ') {
                Some((transition, reason)) => (transition, Some(reason.to_owned())),
                None => (*word, None),
            };
            Stored {
                epoch: 7,
                sequence,
                kind: DRIFT.to_owned(),
                place: place("/a"),
                transition: transition.to_owned(),
                reason,
            }
        });
        steps.collect()
    }

    fn open(paths: &[&str]) -> BTreeSet<Place> {
        paths.iter().map(|path| place(path)).collect()
    }

    #[test]
    fn a_standing_change_is_opened_once_and_open() {
        let lines = [line("/a", Act::Add)];
        assert_eq!(judge(&lines, &stored(&["opened"]), &open(&["/a"])), []);
        let life = |words: &[&str]| {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            [Fault::Life(line("/a", Act::Add), words)]
        };
        for wrong in [
            &["opened", "opened"][..],
            &["opened", "resolved gone", "reopened"],
            &["opened", "updated"],
            &["updated"],
        ] {
            assert_eq!(judge(&lines, &stored(wrong), &open(&["/a"])), life(wrong));
        }
    }

    #[test]
    fn a_standing_change_that_was_not_stored_is_lost() {
        let lines = [line("/a", Act::Modify)];
        let lost = [Fault::Lost(lines[0].clone())];
        assert_eq!(judge(&lines, &[], &open(&[])), lost);
    }

    #[test]
    fn a_standing_change_that_is_not_open_is_said() {
        let lines = [line("/a", Act::Add)];
        let not_open = [Fault::NotOpen(lines[0].clone())];
        assert_eq!(judge(&lines, &stored(&["opened"]), &open(&[])), not_open);
    }

    #[test]
    fn an_undone_change_is_resolved_once_or_was_never_seen() {
        let lines = [line("/a", Act::Remove), line("/a", Act::Undo)];
        assert_eq!(judge(&lines, &[], &open(&[])), []);
        let once = stored(&["opened", "resolved gone"]);
        assert_eq!(judge(&lines, &once, &open(&[])), []);

        assert_eq!(
            judge(&lines, &stored(&["opened"]), &open(&["/a"])),
            [Fault::StillOpen(lines[0].clone())]
        );
        for wrong in [
            &["opened"][..],
            &["opened", "resolved gone", "resolved gone"],
            &["opened", "resolved not-reported"],
            &["resolved gone"],
        ] {
            let words = wrong.iter().map(|word| (*word).to_owned()).collect();
            let life = [Fault::Life(lines[0].clone(), words)];
            assert_eq!(judge(&lines, &stored(wrong), &open(&[])), life);
        }
    }

    #[test]
    fn what_the_oracle_does_not_know_must_not_be_there() {
        let unknown = [Fault::Unknown(place("/a"))];
        assert_eq!(judge(&[], &stored(&["opened"]), &open(&[])), unknown);
        assert_eq!(judge(&[], &[], &open(&["/a"])), unknown);
    }

    #[test]
    fn a_record_is_stored_once() {
        let mut all = stored(&["opened", "resolved gone"]);
        for one in &mut all {
            "unverifiable".clone_into(&mut one.kind);
        }
        assert_eq!(judge(&[], &all, &open(&[])), []);
        all[1].sequence = 1;
        assert_eq!(judge(&[], &all, &open(&[])), [Fault::Twice(all[1].clone())]);
    }

    #[test]
    fn other_places_have_lives_that_can_be() {
        let judged = |words: &[&str]| {
            let mut all = stored(words);
            for one in &mut all {
                "unverifiable".clone_into(&mut one.kind);
            }
            judge(&[], &all, &open(&[]))
        };
        assert_eq!(
            judged(&["opened", "updated", "resolved gone", "reopened"]),
            []
        );
        for wrong in [
            &["opened", "opened"][..],
            &["resolved gone"],
            &["opened", "resolved gone", "updated"],
        ] {
            let words = wrong.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(judged(wrong), [Fault::OtherLife(place("/a"), words)]);
        }
    }

    #[test]
    fn a_second_spool_is_a_loss() {
        let mut all = stored(&["opened"]);
        all.extend(stored(&["opened"]));
        all[1].epoch = 8;
        "/b".clone_into(&mut all[1].place.1);
        let lines = [line("/a", Act::Add), line("/b", Act::Add)];
        let faults = judge(&lines, &all, &open(&["/a", "/b"]));
        assert_eq!(faults, [Fault::SecondSpool([7, 8].into())]);
    }
}
