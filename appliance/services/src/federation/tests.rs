//! Scenes between servers.

mod answers;
mod branches;
mod floods;
mod hostile;
mod kinds;
mod lines;
mod past;
mod rooms;
