//! READY, STATUS and STOPPING for systemd. Without `NOTIFY_SOCKET` nothing happens.

use sd_notify::NotifyState;

/// The start is finished: listeners are bound.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// The end has begun.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// A lost notification must not end the program: systemd's own timeout speaks then.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "The service manager could not be told.");
    }
}
