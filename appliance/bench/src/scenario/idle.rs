//! Memory of a server that has just started and that nobody talks to.

use std::time::Duration;

use anyhow::Result;

use crate::measure::{Figure, Row};
use crate::process;
use crate::server::Server;

/// Start-up work ends and freed memory goes back before it is read.
const SETTLE: Duration = Duration::from_secs(5);

/// Runs first, so the server has just been started for it.
pub(super) async fn measure(server: &Server) -> Result<Vec<Row>> {
    Ok(vec![memory_row("idle", "memory, idle after start", server).await])
}

/// Resident memory once the server has come to rest.
pub(super) async fn memory_row(scenario: &str, name: &str, server: &Server) -> Row {
    tokio::time::sleep(SETTLE).await;
    let memory = process::memory(server.site.pid());
    let own = Figure::Bytes(memory.anonymous_bytes as f64);
    let note = format!("{own} of it its own, the rest mapped files");
    Row::single(scenario, name, Figure::Bytes(memory.resident_bytes as f64), note)
}
