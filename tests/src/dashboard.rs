//! The dashboard and the alert rules as files of the repository: read, not judged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A Grafana dashboard, as far as it is checked.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dashboard {
    /// What links to it name.
    #[serde(default)]
    pub uid: String,
    /// Whether somebody can change it in place.
    pub editable: bool,
    /// The version of its form.
    pub schema_version: u32,
    /// Its panels.
    pub panels: Vec<Panel>,
    /// Its variables.
    pub templating: Templating,
}

/// The variables of a dashboard.
#[derive(Clone, Debug, Deserialize)]
pub struct Templating {
    /// All of them.
    pub list: Vec<Variable>,
}

/// One variable.
#[derive(Clone, Debug, Deserialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// `datasource`, `query`, …
    #[serde(rename = "type")]
    pub kind: String,
}

/// One panel.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Panel {
    /// The heading.
    #[serde(default)]
    pub title: String,
    /// What it shows and what is normal.
    #[serde(default)]
    pub description: String,
    /// Where its data are.
    pub datasource: Datasource,
    /// How values are shown.
    pub field_config: FieldConfig,
    /// Its queries.
    #[serde(default)]
    pub targets: Vec<Target>,
}

/// A reference to a data source.
#[derive(Clone, Debug, Deserialize)]
pub struct Datasource {
    /// Its id, or a variable.
    pub uid: String,
}

/// How values are shown.
#[derive(Clone, Debug, Deserialize)]
pub struct FieldConfig {
    /// For all of them.
    pub defaults: FieldDefaults,
}

/// How values are shown when nothing else is said.
#[derive(Clone, Debug, Deserialize)]
pub struct FieldDefaults {
    /// The unit.
    #[serde(default)]
    pub unit: String,
}

/// One query of a panel.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Where its data are.
    pub datasource: Datasource,
    /// The query, with variables.
    pub expr: String,
    /// The name of each series.
    #[serde(default)]
    pub legend_format: String,
}

/// A rule file of Prometheus.
#[derive(Clone, Debug, Deserialize)]
pub struct RuleFile {
    /// Its groups.
    pub groups: Vec<Group>,
}

/// A group of rules.
#[derive(Clone, Debug, Deserialize)]
pub struct Group {
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// One alert.
#[derive(Clone, Debug, Deserialize)]
pub struct Rule {
    /// Its name.
    pub alert: String,
    /// When it fires.
    pub expr: String,
    /// What it is routed by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What people read.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// A test file of promtool.
#[derive(Clone, Debug, Deserialize)]
pub struct RuleTests {
    /// Its tests.
    pub tests: Vec<RuleTest>,
}

/// One test with its series.
#[derive(Clone, Debug, Deserialize)]
pub struct RuleTest {
    /// What is expected of alerts.
    pub alert_rule_test: Vec<Expected>,
}

/// What is expected of one alert at one time.
#[derive(Clone, Debug, Deserialize)]
pub struct Expected {
    /// The alert.
    pub alertname: String,
    /// Those that fire; none: it is silent.
    pub exp_alerts: Vec<serde::de::IgnoredAny>,
}

/// The dashboard.
pub fn dashboard() -> Dashboard {
    parse_dashboard(&read("dashboards/holdfast.json"))
}

/// A dashboard from its text.
pub fn parse_dashboard(text: &str) -> Dashboard {
    serde_json::from_str(text).unwrap()
}

/// Every alert.
pub fn rules() -> Vec<Rule> {
    let file: RuleFile = serde_saphyr::from_str(&read("dashboards/rules/holdfast.yaml")).unwrap();
    let groups = file.groups.into_iter();
    groups.flat_map(|group| group.rules).collect()
}

/// Everything that the tests of promtool expect.
pub fn expectations() -> Vec<Expected> {
    let text = read("dashboards/rules/tests/holdfast.yaml");
    let file: RuleTests = serde_saphyr::from_str(&text).unwrap();
    let tests = file.tests.into_iter();
    tests.flat_map(|test| test.alert_rule_test).collect()
}

/// A path of the repository.
pub fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(relative)
}

/// The text of a file of the repository.
pub fn read(relative: &str) -> String {
    let path = path(relative);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
