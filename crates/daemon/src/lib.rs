//! What both long-running programs need: admin endpoint, logging, readiness, shutdown, TLS files.
