//! Tells receivers what is open. Level-triggered: each sending is made from the store as it stands, so
//! nothing has to survive a restart.

mod alert;
pub mod alertmanager;
