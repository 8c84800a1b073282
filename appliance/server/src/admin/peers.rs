//! Orders about other servers, and about where connections go.

use appliance_ledger::rows::peers::{DestinationRow, PeerKeysRow};
use appliance_model::ruma::ServerName;
use appliance_services::peers::{PeerChange, PeerReport};
use serde_json::{Value, json};

use super::{Admin, Refusal};

impl Admin {
    pub(super) async fn describe_peer(
        &self,
        server_name: &ServerName,
        change: PeerChange,
        by: &str,
    ) -> Result<Value, Refusal> {
        let peers = &self.house.services.peers;
        let is_suspended = change.suspended == Some(true);
        peers.describe(server_name, change, by).await?;
        let mut answer = in_json(&peers.report(server_name).await?);
        if is_suspended {
            answer["rooms"] = json!(peers.rooms_with(server_name).await?);
        }
        Ok(answer)
    }

    pub(super) async fn list_peers(&self) -> Result<Value, Refusal> {
        let reports = self.house.services.peers.list().await?;
        Ok(json!({ "peers": reports.iter().map(in_json).collect::<Vec<_>>() }))
    }

    pub(super) async fn show_peer(&self, server_name: &ServerName) -> Result<Value, Refusal> {
        let peers = &self.house.services.peers;
        let mut answer = in_json(&peers.report(server_name).await?);
        answer["rooms"] = json!(peers.rooms_with(server_name).await?);
        Ok(answer)
    }

    pub(super) async fn remove_peer(
        &self,
        server_name: &ServerName,
        by: &str,
    ) -> Result<Value, Refusal> {
        self.house.services.peers.remove(server_name, by).await?;
        // Whom the settings name is still talked with.
        let is_allowed = self.house.services.house.roll.allows(server_name);
        let rooms = self.house.services.peers.rooms_with(server_name).await?;
        Ok(json!({ "server_name": server_name, "is_allowed": is_allowed, "rooms": rooms }))
    }

    pub(super) async fn check_peer(&self, server_name: &ServerName) -> Result<Value, Refusal> {
        let check = self.house.services.peers.check(server_name).await?;
        let mut answer = json!({
            "server_name": server_name,
            "reachable": check.version.is_ok(),
            "took_ms": check.took_ms,
            "keys": keys_in_json(check.keys.as_ref()),
        });
        match check.version {
            Ok((name, version)) => {
                answer["software"] = name.into();
                answer["version"] = version.into();
            }
            Err(why) => answer["why_not"] = why.into(),
        }
        Ok(answer)
    }

    pub(super) async fn list_egress(&self) -> Result<Value, Refusal> {
        let seen = self.house.services.peers.destinations().await?;
        let destinations = seen.iter().map(|seen: &DestinationRow| {
            json!({
                "purpose": seen.purpose,
                "host": seen.host,
                "address": seen.address,
                "connected": seen.connected,
                "refused": seen.refused,
                "why_refused": seen.why_refused,
                "first_ms": seen.first_ms,
                "last_ms": seen.last_ms,
            })
        });
        Ok(json!({ "destinations": destinations.collect::<Vec<_>>() }))
    }
}

fn in_json(report: &PeerReport) -> Value {
    let peer = report.peer.as_ref();
    json!({
        "server_name": report.server_name,
        "state": match peer {
            Some(peer) if peer.suspended => "suspended",
            _ if report.is_allowed => "active",
            _ => "unknown",
        },
        "from": if peer.is_some() { "list" } else { "settings" },
        "legal_name": peer.map(|peer| &peer.legal_name),
        "contact": peer.map(|peer| &peer.contact),
        "media": peer.is_some_and(|peer| peer.media),
        "pinned_keys": peer.map(|peer| &peer.pinned_keys),
        "backlog_events": report.backlog.0,
        "backlog_messages": report.backlog.1,
        "failures": report.queue.failures,
        "last_error": report.queue.last_error,
        "delivered_ms": report.queue.delivered_ms,
        "delivery_took_ms": report.queue.took_ms,
        "retry_ms": report.queue.retry_ms,
        "keys": keys_in_json(report.keys.as_ref()),
    })
}

fn keys_in_json(keys: Option<&PeerKeysRow>) -> Value {
    let Some(keys) = keys else { return Value::Null };
    let listed = keys.keys.iter().map(|key| {
        json!({
            "key_id": key.key_id,
            "key": appliance_services::peers::base64(&key.public),
            "expired_ms": key.expired_ms,
        })
    });
    json!({
        "fetched_ms": keys.fetched_ms,
        "valid_until_ms": keys.valid_until_ms,
        "keys": listed.collect::<Vec<_>>(),
    })
}
