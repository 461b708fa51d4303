//! `ca`: a small certificate authority.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use holdfast_collector::ca::{self, CaError, Written};
use jiff::Timestamp;

use super::{refuse, say};

/// Make a small certificate authority, and certificates for nodes and collectors.
#[derive(Debug, Args)]
pub(super) struct Ca {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the authority: `ca.pem`, which agents and collector trust, and its key, which stays here.
    Init {
        /// Folder of the authority.
        folder: PathBuf,
        /// Trust domain, in the names of all nodes: `spiffe://DOMAIN/node/NAME`.
        #[arg(long)]
        domain: String,
        /// Days until it ends.
        #[arg(long, default_value_t = 3650)]
        days: u32,
    },
    /// Make a node's certificate: `NAME.pem` and `NAME-key.pem`, with the authority's `ca.pem` beside them.
    Node {
        /// Folder of the authority.
        folder: PathBuf,
        /// The node's name, as in its agent's `node-name`.
        #[arg(long)]
        name: String,
        /// Where to write them; the authority's folder if not given.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Days until it ends.
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
    /// Make a collector's certificate: `collector.pem` and `collector-key.pem`, with `ca.pem` beside them.
    Collector {
        /// Folder of the authority.
        folder: PathBuf,
        /// A name that agents dial; may be given several times.
        #[arg(long, value_name = "NAME")]
        dns: Vec<String>,
        /// An address that agents dial; may be given several times.
        #[arg(long, value_name = "ADDRESS")]
        ip: Vec<IpAddr>,
        /// Where to write them; the authority's folder if not given.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Days until it ends.
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
}

impl Ca {
    pub(super) fn execute(self) -> ExitCode {
        match self.action.make(Timestamp::now()) {
            Ok(written) => {
                let mut files = vec![written.certificate, written.key];
                if !files.contains(&written.ca) {
                    files.push(written.ca);
                }
                for file in files {
                    say(&file.display().to_string());
                }
                ExitCode::SUCCESS
            }
            Err(error) => refuse(&error, ExitCode::FAILURE),
        }
    }
}

impl Action {
    fn make(self, now: Timestamp) -> Result<Written, CaError> {
        match self {
            Self::Init {
                folder,
                domain,
                days,
            } => ca::init(&folder, &domain, days, now),
            Self::Node {
                folder,
                name,
                out,
                days,
            } => ca::node(&folder, &name, out.as_ref().unwrap_or(&folder), days, now),
            Self::Collector {
                folder,
                dns,
                ip,
                out,
                days,
            } => {
                let out = out.as_ref().unwrap_or(&folder);
                ca::collector(&folder, &dns, &ip, out, (days, now))
            }
        }
    }
}
