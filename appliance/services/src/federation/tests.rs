//! Scenes between servers.

mod branches;
mod hostile;
mod past;
mod rooms;
