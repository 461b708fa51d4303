//! What proves us to a registry: its challenge, our credentials, the token that they buy.
//!
//! Credentials belong to hosts by pattern. They go to a registry that the pattern names, or to the token
//! endpoint that this registry names over an authenticated channel, and nowhere else.

mod challenge;
mod keyring;
mod program;
mod token;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;

pub(crate) use challenge::Challenge;
pub use keyring::Keyring;
pub(crate) use token::{MAX_TOKEN_ANSWER, Token, endpoint, form, question};

/// What a registry gave us, one of three kinds.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    /// A user's password.
    Password { username: String, password: String },
    /// A refresh token: it buys tokens, and is shown to the token endpoint alone.
    Refresh(String),
    /// A token that is used as it is.
    Bearer(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The header that shows it to whoever asked for a password; a refresh token is not for showing.
    pub(crate) fn basic(&self) -> Option<HeaderValue> {
        let Self::Password { username, password } = self else {
            return None;
        };
        let pair = STANDARD.encode(format!("{username}:{password}"));
        sensitive(&format!("Basic {pair}"))
    }

    /// The header of a ready token.
    pub(crate) fn bearer(&self) -> Option<HeaderValue> {
        match self {
            Self::Bearer(token) => sensitive(&format!("Bearer {token}")),
            Self::Password { .. } | Self::Refresh(_) => None,
        }
    }
}

/// A header value that no debug output shows.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
