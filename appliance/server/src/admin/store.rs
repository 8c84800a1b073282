//! Orders about the store, in the house that is open.

use std::path::Path;

use appliance_ledger::{Exported, Ledger, Survey};
use serde_json::{Value, json};

use super::{Admin, Reason, Refusal};

impl Admin {
    pub(super) async fn check_store(&self) -> Result<Value, Refusal> {
        check(self.ledger()).await
    }

    pub(super) async fn store_stats(&self) -> Result<Value, Refusal> {
        stats(self.ledger()).await
    }

    pub(super) async fn export_store(&self, to: &Path) -> Result<Value, Refusal> {
        export(self.ledger(), to, false).await
    }

    fn ledger(&self) -> &Ledger {
        &self.house.services.house.ledger
    }
}

/// Reads and unseals every row and follows the audit chain.
pub async fn check(ledger: &Ledger) -> Result<Value, Refusal> {
    let survey = ledger.survey(true).await?;
    let report = report(&survey);
    if survey.is_whole() {
        return Ok(report);
    }
    let message = format!(
        "the store is damaged: {} rows do not open (the first: {}), the audit chain breaks at {:?}. \
         Stop the server, keep a copy of the data folder, check the disk, and import the newest \
         export into an empty folder",
        survey.keyspaces.iter().map(|keyspace| keyspace.damaged).sum::<u64>(),
        survey.damaged.first().map_or("none", String::as_str),
        survey.broken_links,
    );
    Err(Refusal { reason: Reason::Damaged, message })
}

/// Counts rows and bytes.
pub async fn stats(ledger: &Ledger) -> Result<Value, Refusal> {
    let survey = ledger.survey(false).await?;
    let engine = ledger
        .engine()
        .stats()
        .await
        .map_err(|error| Refusal { reason: Reason::Failed, message: error.to_string() })?;
    let mut report = report(&survey);
    report["disk_bytes"] = engine.disk_bytes.into();
    report["room_bytes"] = engine.room_bytes.into();
    Ok(report)
}

/// Writes everything to a file; `is_still`: nobody else writes to the store.
pub async fn export(ledger: &Ledger, to: &Path, is_still: bool) -> Result<Value, Refusal> {
    let exported = ledger.export(to, is_still).await?;
    Ok(in_json(to, &exported))
}

/// What was exported or imported.
pub fn in_json(file: &Path, exported: &Exported) -> Value {
    json!({
        "file": file,
        "server_name": exported.server_name,
        "position": exported.position,
        "rows": exported.rows,
        "bytes": exported.bytes,
    })
}

fn report(survey: &Survey) -> Value {
    let keyspaces = survey.keyspaces.iter().map(
        |keyspace| json!({ "name": keyspace.name, "rows": keyspace.rows, "bytes": keyspace.bytes }),
    );
    json!({
        "position": survey.position,
        "rows": survey.keyspaces.iter().map(|keyspace| keyspace.rows).sum::<u64>(),
        "keyspaces": keyspaces.collect::<Vec<_>>(),
    })
}
