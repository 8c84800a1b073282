//! Scenes between servers.

mod answers;
mod branches;
mod floods;
mod hostile;
mod past;
mod rooms;
