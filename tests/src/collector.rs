//! The collector under test: `holdfast-collector run`, its API, and its other commands.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::Path;

use serde_json::Value;

use crate::http;
use crate::program::{self, Build, Printed, Program};

const NAME: &str = "holdfast-collector";

/// A running collector.
#[derive(Debug)]
pub struct Collector(Program);

impl Collector {
    /// Starts one; `config` writes its configuration for the folder that it is given.
    pub fn start(config: impl FnOnce(&Path) -> String) -> Self {
        Self(Program::start(NAME, Build::Released, config))
    }

    /// Starts one that can be told to end itself.
    pub fn with_fail_points(config: impl FnOnce(&Path) -> String) -> Self {
        Self(Program::start(NAME, Build::FailPoints, config))
    }

    /// Where agents connect: the port that is not the API's.
    pub async fn ingest(&mut self) -> SocketAddr {
        let api = self.ready().await;
        let mut others = self.process().listening();
        others.retain(|address| *address != api);
        assert_eq!(others.len(), 1, "one port for the API, one for agents");
        others[0]
    }

    /// All pages of a list of the API, put together. A page's list has the resource's name.
    pub async fn list(&mut self, resource: &str, query: &[(&str, &str)]) -> Vec<Value> {
        let address = self.http().await;
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let mut query = query.to_vec();
            if !cursor.is_empty() {
                query.push(("cursor", &cursor));
            }
            let page = http::json(address, &format!("/api/v1/{resource}"), &query).await;
            found.extend(
                page[resource]
                    .as_array()
                    .expect("a page has a list")
                    .clone(),
            );
            match page["next_cursor"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => return found,
            }
        }
    }
}

impl Deref for Collector {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.0
    }
}

impl DerefMut for Collector {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.0
    }
}

/// Runs `holdfast-collector` with these arguments.
pub fn run(arguments: &[&str]) -> Printed {
    program::run(NAME, arguments)
}
