//! Scenes between servers.

mod answers;
mod branches;
mod floods;
mod hostile;
mod kinds;
mod past;
mod rooms;
