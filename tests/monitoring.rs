//! Dashboard, alert rules and runbooks as files: the conventions that no Grafana and no Prometheus checks.
//! That their queries mean something is checked against the real programs, in `e2e/monitoring.rs`.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may panic, and reads files of the repository"
)]

use std::collections::BTreeSet;

use holdfast_tests::dashboard::{
    self, Dashboard, Expected, Panel, Rule, dashboard, expectations, parse_dashboard, rules,
};
use holdfast_tests::promql::{selectors, windows};
use serde_json::{Value, json};

/// One screen.
const MAX_PANELS: usize = 8;

/// More and nobody knows them all.
const MAX_ALERTS: usize = 5;

/// Grafana 10.1 and later.
const MIN_SCHEMA: u32 = 39;

/// Of Grafana's units those that our metrics have: a count, counts per second, seconds, bytes.
const UNITS: &[&str] = &["short", "cps", "s", "bytes"];

const JOB: &str = "job=~\"$job\"";
const INSTANCE: &str = "instance=~\"$instance\"";

/// What is wrong with a dashboard; a panel by its title.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Defect {
    Panels(usize),
    NoUid,
    Editable,
    Schema(u32),
    NoVariable(&'static str),
    NoTitle,
    NoDescription(String),
    Unit(String),
    FixedDatasource(String),
    NoQuery(String),
    NoLegend(String),
    NoMatcher(String),
    FixedWindow(String),
    /// A counter's value says when its program was started, and nothing else.
    BareCounter(String),
}

fn lint(dashboard: &Dashboard) -> Vec<Defect> {
    let mut defects = Vec::new();
    let panels = dashboard.panels.len();
    defects.extend((panels > MAX_PANELS).then_some(Defect::Panels(panels)));
    defects.extend(dashboard.uid.is_empty().then_some(Defect::NoUid));
    defects.extend(dashboard.editable.then_some(Defect::Editable));
    let schema = dashboard.schema_version;
    defects.extend((schema < MIN_SCHEMA).then_some(Defect::Schema(schema)));
    for (name, kind) in [
        ("datasource", "datasource"),
        ("job", "query"),
        ("instance", "query"),
    ] {
        let mut variables = dashboard.templating.list.iter();
        let has = variables.any(|variable| variable.name == name && variable.kind == kind);
        defects.extend((!has).then_some(Defect::NoVariable(name)));
    }
    defects.extend(dashboard.panels.iter().flat_map(lint_panel));
    defects
}

fn lint_panel(panel: &Panel) -> Vec<Defect> {
    if panel.title.is_empty() {
        return vec![Defect::NoTitle];
    }
    let mut defects = Vec::new();
    let mut find = |is_wrong: bool, defect: fn(String) -> Defect| {
        defects.extend(is_wrong.then(|| defect(panel.title.clone())));
    };
    find(panel.description.is_empty(), Defect::NoDescription);
    let unit = panel.field_config.defaults.unit.as_str();
    find(!UNITS.contains(&unit), Defect::Unit);
    let mut sources = panel.targets.iter().map(|target| &target.datasource);
    let is_fixed = sources.any(|source| source.uid != "${datasource}");
    let is_fixed = is_fixed || panel.datasource.uid != "${datasource}";
    find(is_fixed, Defect::FixedDatasource);
    find(panel.targets.is_empty(), Defect::NoQuery);
    for target in &panel.targets {
        find(target.legend_format.is_empty(), Defect::NoLegend);
        let selected = selectors(&target.expr);
        let mut both = selected.iter().map(|one| one.has(JOB) && one.has(INSTANCE));
        find(
            selected.is_empty() || !both.all(|has| has),
            Defect::NoMatcher,
        );
        let mut windows = windows(&target.expr).into_iter();
        find(
            windows.any(|window| window != "$__rate_interval"),
            Defect::FixedWindow,
        );
        let mut counters = selected
            .iter()
            .filter(|one| one.name.ends_with("_total") || one.name.ends_with("_bucket"));
        find(
            counters.any(|one| !one.before.ends_with("rate(")),
            Defect::BareCounter,
        );
    }
    defects
}

/// The dashboard after `change`.
fn changed(change: impl FnOnce(&mut Value)) -> Vec<Defect> {
    let mut value = serde_json::from_str(&dashboard::read("dashboards/holdfast.json")).unwrap();
    change(&mut value);
    lint(&parse_dashboard(&value.to_string()))
}

#[test]
fn the_dashboard_keeps_to_the_conventions() {
    assert_eq!(lint(&dashboard()), []);
}

#[test]
fn every_breach_of_a_convention_by_the_dashboard_is_found() {
    let of_all = |pointer: &'static str, wrong: Value| {
        changed(move |value| *value.pointer_mut(pointer).unwrap() = wrong)
    };
    assert_eq!(of_all("/uid", json!("")), [Defect::NoUid]);
    assert_eq!(of_all("/editable", json!(true)), [Defect::Editable]);
    assert_eq!(of_all("/schemaVersion", json!(38)), [Defect::Schema(38)]);
    let no_job = of_all("/templating/list/1/name", json!("jobs"));
    assert_eq!(no_job, [Defect::NoVariable("job")]);
    let too_many = changed(|value| {
        let panels = value["panels"].as_array_mut().unwrap();
        panels.resize(9, panels[0].clone());
    });
    assert_eq!(too_many, [Defect::Panels(9)]);
    assert_eq!(of_all("/panels/0/title", json!("")), [Defect::NoTitle]);
}

#[test]
fn every_breach_of_a_convention_by_a_panel_is_found() {
    let of_panel = |pointer: &'static str, wrong: Value| {
        changed(move |value| {
            let panel = &mut value["panels"][0];
            panel["title"] = json!("p");
            panel["targets"].as_array_mut().unwrap().truncate(1);
            *panel.pointer_mut(pointer).unwrap() = wrong;
        })
    };
    let of_query = |query: &str| of_panel("/targets/0/expr", json!(query));
    let p = || "p".to_owned();
    assert_eq!(
        of_panel("/description", json!("")),
        [Defect::NoDescription(p())]
    );
    let unit = of_panel("/fieldConfig/defaults/unit", json!("parsec"));
    assert_eq!(unit, [Defect::Unit(p())]);
    let fixed = [Defect::FixedDatasource(p())];
    assert_eq!(of_panel("/datasource/uid", json!("P1")), fixed);
    assert_eq!(of_panel("/targets/0/datasource/uid", json!("P1")), fixed);
    assert_eq!(of_panel("/targets", json!([])), [Defect::NoQuery(p())]);
    let no_legend = of_panel("/targets/0/legendFormat", json!(""));
    assert_eq!(no_legend, [Defect::NoLegend(p())]);
    assert_eq!(of_query("up"), [Defect::NoMatcher(p())]);
    assert_eq!(of_query(&format!("up{{{JOB}}}")), [Defect::NoMatcher(p())]);
    let both = format!("{{{JOB}, {INSTANCE}}}");
    assert_eq!(of_query(&format!("up{both}")), []);
    assert_eq!(
        of_query(&format!("rate(a_total{both}[5m])")),
        [Defect::FixedWindow(p())]
    );
    assert_eq!(
        of_query(&format!("sum(a_total{both})")),
        [Defect::BareCounter(p())]
    );
}

/// What is wrong with an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RuleDefect {
    Severity,
    /// A group of alerts is read by its summary, so it cannot name one of them.
    Summary,
    Description,
    Runbook,
    NoJob,
    NoFiringCase,
    NoSilentCase,
}

fn lint_rule(rule: &Rule, expected: &[Expected]) -> Vec<RuleDefect> {
    let mut defects = Vec::new();
    let mut find = |is_wrong: bool, defect| defects.extend(is_wrong.then_some(defect));
    let annotation = |name: &str| rule.annotations.get(name).map_or("", String::as_str);
    let severity = rule.labels.get("severity").map(String::as_str);
    let is_known = matches!(severity, Some("critical" | "warning" | "info"));
    find(!is_known, RuleDefect::Severity);
    let summary = annotation("summary");
    find(
        !summary.ends_with('.') || summary.contains("{{"),
        RuleDefect::Summary,
    );
    find(
        !annotation("description").ends_with('.'),
        RuleDefect::Description,
    );
    let runbook = format!("docs/runbooks/{}.md", rule.alert);
    let is_there = dashboard::path(&runbook).exists();
    find(
        !is_there || annotation("runbook_url") != runbook,
        RuleDefect::Runbook,
    );
    let selected = selectors(&rule.expr);
    let has_job = |one: &&str| one.trim_start().starts_with("job=");
    let mut jobs = selected
        .iter()
        .map(|one| one.matchers.split(',').any(|part| has_job(&part)));
    find(
        selected.is_empty() || !jobs.all(|has| has),
        RuleDefect::NoJob,
    );
    let has_case = |fires: bool| {
        let mut cases = expected.iter().filter(|one| one.alertname == rule.alert);
        cases.any(|case| case.exp_alerts.is_empty() != fires)
    };
    find(!has_case(true), RuleDefect::NoFiringCase);
    find(!has_case(false), RuleDefect::NoSilentCase);
    defects
}

#[test]
fn every_alert_says_what_it_means_has_a_runbook_and_is_tested_both_ways() {
    let (rules, expected) = (rules(), expectations());
    assert!(rules.len() <= MAX_ALERTS, "{} alerts", rules.len());
    for rule in &rules {
        assert_eq!(lint_rule(rule, &expected), [], "{}", rule.alert);
    }
}

#[test]
fn every_breach_of_a_convention_by_an_alert_is_found() {
    let (good, expected) = (rules().remove(0), expectations());
    let with = |change: fn(&mut Rule)| {
        let mut rule = good.clone();
        change(&mut rule);
        lint_rule(&rule, &expected)
    };
    let set = |rule: &mut Rule, name: &str, text: &str| {
        rule.annotations.insert(name.to_owned(), text.to_owned());
    };
    assert_eq!(with(|rule| rule.labels.clear()), [RuleDefect::Severity]);
    assert_eq!(
        with(|rule| rule.expr = "up == 0".to_owned()),
        [RuleDefect::NoJob]
    );
    let mut rule = good.clone();
    set(&mut rule, "summary", "{{ $labels.job }} is down.");
    set(&mut rule, "description", "");
    set(&mut rule, "runbook_url", "docs/runbooks/Other.md");
    let found = lint_rule(&rule, &[]);
    let due = [
        RuleDefect::Summary,
        RuleDefect::Description,
        RuleDefect::Runbook,
        RuleDefect::NoFiringCase,
        RuleDefect::NoSilentCase,
    ];
    assert_eq!(found, due);
}

#[test]
fn every_runbook_belongs_to_an_alert_and_ends_in_three_actions() {
    let alerts: BTreeSet<String> = rules().into_iter().map(|rule| rule.alert).collect();
    let mut runbooks = BTreeSet::new();
    for entry in std::fs::read_dir(dashboard::path("docs/runbooks")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&format!("# {name}\n")), "{name}: heading");
        let (_, actions) = text.split_once("\n## First three actions\n").unwrap();
        let numbered = |line: &&str| {
            ["1. ", "2. ", "3. ", "4. "]
                .iter()
                .any(|n| line.starts_with(n))
        };
        assert_eq!(
            actions.lines().filter(numbered).count(),
            3,
            "{name}: actions"
        );
        assert!(actions.contains("\n   ```"), "{name}: commands");
        runbooks.insert(name);
    }
    assert_eq!(runbooks, alerts);
}
