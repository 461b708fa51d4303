//! Places where a test may end the process as `kill -9` would, or break a promise on purpose.
//!
//! Without the cargo feature `fail-points` every function here is empty: no released program can be
//! switched to lose data by its environment. With it, `HOLDFAST_FAIL_POINT` names what happens, as a
//! comma-separated list: `NAME` (switched on) or `NAME:COUNT` (the process ends at the COUNT-th time).

#[cfg(feature = "fail-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug)]
    struct Point {
        name: String,
        due: u64,
        passed: AtomicU64,
    }

    static POINTS: OnceLock<Vec<Point>> = OnceLock::new();

    #[expect(
        clippy::disallowed_methods,
        reason = "a test reaches into a real process; no configuration file may hold this"
    )]
    pub(super) fn arm() {
        let text = std::env::var("HOLDFAST_FAIL_POINT").unwrap_or_default();
        POINTS.get_or_init(|| parse(&text));
    }

    fn parse(text: &str) -> Vec<Point> {
        text.split(',')
            .filter(|item| !item.is_empty())
            .map(|item| {
                let (name, due) = item.split_once(':').unwrap_or((item, "1"));
                Point {
                    name: name.to_owned(),
                    due: due.parse().unwrap_or(1),
                    passed: AtomicU64::new(0),
                }
            })
            .collect()
    }

    fn find(name: &str) -> Option<&'static Point> {
        POINTS.get()?.iter().find(|point| point.name == name)
    }

    pub(super) fn hit(name: &str) {
        if let Some(point) = find(name)
            && point.passed.fetch_add(1, Ordering::SeqCst) + 1 == point.due
        {
            // No destructor, no flush: what `kill -9` leaves.
            std::process::abort();
        }
    }

    pub(super) fn is_on(name: &str) -> bool {
        find(name).is_some()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn points_have_a_name_and_a_count() {
            let points = parse("after-commit:3,skip-dedupe");
            assert_eq!(
                (points[0].name.as_str(), points[0].due),
                ("after-commit", 3)
            );
            assert_eq!((points[1].name.as_str(), points[1].due), ("skip-dedupe", 1));
            assert!(parse("").is_empty());
        }
    }
}

/// Reads the environment, once, from `main`.
pub fn arm() {
    #[cfg(feature = "fail-points")]
    armed::arm();
}

/// Ends the process here when a test has asked for it.
#[inline]
#[cfg_attr(
    not(feature = "fail-points"),
    expect(unused_variables, reason = "there is nothing to end")
)]
pub fn hit(name: &'static str) {
    #[cfg(feature = "fail-points")]
    armed::hit(name);
}

/// Whether a test has switched `name` on.
#[inline]
#[cfg(feature = "fail-points")]
pub fn is_on(name: &'static str) -> bool {
    armed::is_on(name)
}

/// Whether a test has switched `name` on: never, without the feature.
#[inline]
#[cfg(not(feature = "fail-points"))]
pub const fn is_on(_name: &'static str) -> bool {
    false
}
