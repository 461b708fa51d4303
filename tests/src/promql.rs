//! What an expression of Prometheus selects, as far as the tests about rules and dashboards need it.
//!
//! Not a parser: Prometheus is. It must not be used on expressions that others write, because it takes a
//! closing brace inside a quoted label value for the end of a selector.

/// One metric of an expression, with what stands around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selector<'a> {
    /// What stands before it.
    pub before: &'a str,
    /// The metric.
    pub name: &'a str,
    /// Its matchers, without the braces; empty when it has none.
    pub matchers: &'a str,
}

impl Selector<'_> {
    /// Whether this matcher is among its matchers.
    pub fn has(&self, matcher: &str) -> bool {
        self.matchers.split(',').any(|one| one.trim() == matcher)
    }
}

/// Every metric that an expression selects, in order: whatever has matchers, and our own and `up` also without.
pub fn selectors(expression: &str) -> Vec<Selector<'_>> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(begins_name) {
        let from_name = rest.split_at(start).1;
        let length = from_name.find(|c| !continues_name(c));
        let (name, after) = from_name.split_at(length.unwrap_or(from_name.len()));
        let braced = after
            .strip_prefix('{')
            .and_then(|open| open.split_once('}'));
        if braced.is_some() || name.starts_with("holdfast_") || name == "up" {
            found.push(Selector {
                before: expression.split_at(expression.len() - from_name.len()).0,
                name,
                matchers: braced.map_or("", |(matchers, _)| matchers),
            });
        }
        rest = braced.map_or(after, |(_, behind)| behind);
    }
    found
}

/// The windows of an expression: what stands in square brackets.
pub fn windows(expression: &str) -> Vec<&str> {
    let opened = expression.split('[').skip(1);
    opened
        .filter_map(|rest| Some(rest.split_once(']')?.0))
        .collect()
}

fn begins_name(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn continues_name(c: char) -> bool {
    begins_name(c) || c.is_ascii_digit() || c == ':'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_and_functions_and_labels_are_not() {
        let expression =
            "sum by (le) (rate(holdfast_a_total{job=\"x\", i=~\"$i\"}[5m])) / on (job) up > 1e3";
        let found = selectors(expression);
        let names: Vec<&str> = found.iter().map(|selector| selector.name).collect();
        assert_eq!(names, ["holdfast_a_total", "up"]);
        assert!(found[0].before.ends_with("rate("));
        assert!(found[0].has("i=~\"$i\"") && !found[0].has("i=~\"$j\""));
        assert_eq!(found[1].matchers, "");
    }

    #[test]
    fn a_metric_that_is_not_ours_is_found_by_its_matchers() {
        assert_eq!(selectors("node_load1{a=\"b\"}")[0].name, "node_load1");
    }

    #[test]
    fn every_window_is_found() {
        assert_eq!(
            windows("rate(a[5m]) + rate(b[$__rate_interval])"),
            ["5m", "$__rate_interval"]
        );
    }
}
