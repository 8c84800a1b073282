//! Orders about other servers, and about where connections go.

use std::collections::BTreeMap;

use appliance_ledger::rows::peers::{DestinationRow, PeerKeysRow};
use appliance_model::Error;
use appliance_model::ruma::{OwnedServerName, ServerName};
use appliance_services::peers::{MediaMode, PeerChange, PeerReport, Terms, Uncounted};
use appliance_services::rooms::ACCESS_LIST_PEERS_MAX;
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
        check_authorities(&change)?;
        peers.describe(server_name, change, by).await?;
        Ok(in_json(&peers.report(server_name).await?))
    }

    pub(super) async fn suspend_peer(
        &self,
        server_name: &ServerName,
        expel: bool,
        by: &str,
    ) -> Result<Value, Refusal> {
        let services = &self.house.services;
        let parted = services.administration.suspend_peer(server_name, expel, by).await?;
        let mut answer = in_json(&services.peers.report(server_name).await?);
        answer["rooms"] = json!(parted.rooms);
        // Whom nobody can take out is in quarantine: there in name only.
        answer["expelled"] = json!(parted.expelled);
        Ok(answer)
    }

    pub(super) async fn import_peers(
        &self,
        peers: BTreeMap<OwnedServerName, PeerChange>,
        by: &str,
    ) -> Result<Value, Refusal> {
        for (server_name, change) in &peers {
            check_authorities(change).map_err(|error| {
                Error::new(error.kind, format!("{server_name}: {}", error.message))
            })?;
        }
        let described = self.house.services.peers.import(peers, by).await?;
        Ok(json!({
            "added": described.added,
            "changed": described.changed,
            "unchanged": described.unchanged,
        }))
    }

    pub(super) async fn export_peers(&self) -> Result<Value, Refusal> {
        let reports = self.house.services.peers.list().await?;
        let described = reports.iter().filter_map(|report| {
            let change = PeerChange::of(report.peer.as_deref()?);
            Some((report.server_name.to_string(), json!(change)))
        });
        let peers: serde_json::Map<String, Value> = described.collect();
        Ok(json!({ "peers": peers }))
    }

    pub(super) async fn invite_peer(
        &self,
        server_name: &ServerName,
        terms: Terms,
        by: &str,
    ) -> Result<Value, Refusal> {
        let offer = self.house.services.peers.invite(server_name, terms, by).await?;
        Ok(json!({
            "server_name": server_name,
            "offer": offer.text,
            "until_ms": offer.until_ms,
        }))
    }

    pub(super) async fn accept_peer(
        &self,
        letter: &str,
        terms: Terms,
        by: &str,
    ) -> Result<Value, Refusal> {
        let peers = &self.house.services.peers;
        let accepted = peers.accept(letter, terms, by).await?;
        let mut answer = in_json(&peers.report(&accepted.server_name).await?);
        answer["answer"] = json!(accepted.answer);
        Ok(answer)
    }

    pub(super) async fn approve_peer_key(
        &self,
        server_name: &ServerName,
        key_id: &str,
        by: &str,
    ) -> Result<Value, Refusal> {
        let peers = &self.house.services.peers;
        let keys = peers.approve_key(server_name, key_id, by).await?;
        let in_use = keys.iter().flat_map(|row| &row.keys).any(|key| key.key_id == key_id);
        let mut answer = in_json(&peers.report(server_name).await?);
        answer["approved"] = key_id.into();
        answer["fetched"] = in_use.into();
        Ok(answer)
    }

    pub(super) async fn list_peers(&self) -> Result<Value, Refusal> {
        let reports = self.house.services.peers.list().await?;
        let list = self.house.services.peers.list_report().await?;
        let list = list.map(|list| {
            json!({
                "version": list.version,
                "servers": list.servers,
                "confirmed_ms": list.confirmed_ms,
                "until_ms": list.until_ms,
                "problem": list.problem,
            })
        });
        let peers: Vec<_> = reports.iter().map(in_json).collect();
        let beyond = self.house.services.rooms.rooms_beyond_power();
        let halted = self.house.services.rooms.access_lists_halted().map(|why| match why {
            Uncounted::TooMany => format!("there are more than {ACCESS_LIST_PEERS_MAX} peers"),
            _ => "the signed list has digests instead of names".to_owned(),
        });
        Ok(json!({
            "peers": peers,
            "federation_list": list,
            "rooms_beyond_power": beyond,
            "access_lists_halted": halted,
        }))
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
        expel: bool,
        by: &str,
    ) -> Result<Value, Refusal> {
        let administration = &self.house.services.administration;
        let parted = administration.remove_peer(server_name, expel, by).await?;
        Ok(json!({
            "server_name": server_name,
            "is_allowed": parted.is_allowed,
            "rooms": parted.rooms,
            "expelled": parted.expelled,
            "forgotten_events": parted.waiting.0,
            "forgotten_messages": parted.waiting.1,
        }))
    }

    pub(super) async fn check_peer(&self, server_name: &ServerName) -> Result<Value, Refusal> {
        let check = self.house.services.peers.check(server_name).await?;
        let findings = check.findings.iter();
        let findings = findings.map(|one| json!({ "ok": one.is_good, "sentence": one.sentence }));
        let version = check.version.as_ref();
        Ok(json!({
            "server_name": server_name,
            "ok": check.findings.iter().all(|one| one.is_good),
            "reachable": version.is_some(),
            "software": version.map(|(name, _)| name),
            "version": version.map(|(_, version)| version),
            "took_ms": check.took_ms,
            "clock_ahead_ms": check.skew_ms,
            "findings": findings.collect::<Vec<_>>(),
            "keys": keys_in_json(check.keys.as_ref()),
        }))
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
    let peer = report.peer.as_deref();
    // What was said, in the words in which it can be said again.
    let said = peer.map(PeerChange::of).unwrap_or_default();
    let mut answer = json!({
        "server_name": report.server_name,
        "state": report.standing.as_str(),
        "from": report.source,
        "media": MediaMode::default(),
        "check_phrase": peer.and_then(|peer| peer.check_phrase.as_ref()),
        "backlog_events": report.backlog.0,
        "backlog_messages": report.backlog.1,
        "failures": report.queue.failures,
        "unreachable_since_ms": report.queue.failing_since_ms,
        "last_error": report.queue.last_error,
        "delivered_ms": report.queue.delivered_ms,
        "delivery_took_ms": report.queue.took_ms,
        "retry_ms": report.queue.retry_ms,
        "keys": keys_in_json(report.keys.as_ref()),
    });
    if let (Value::Object(answer), Value::Object(said)) = (&mut answer, json!(said)) {
        answer.extend(said);
    }
    answer
}

/// Whether authorities can be read is known only to whoever reads them.
fn check_authorities(change: &PeerChange) -> Result<(), Error> {
    for pem in [&change.authorities, &change.client_authorities].into_iter().flatten() {
        if !pem.is_empty() {
            appliance_egress::authorities(pem).map_err(|why| {
                Error::invalid_param(format!("The authorities are wrong: {why}."))
            })?;
        }
    }
    Ok(())
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
    let unapproved = keys.unapproved.iter().flatten().map(|key| {
        json!({ "key_id": key.key_id, "key": appliance_services::peers::base64(&key.public) })
    });
    json!({
        "fetched_ms": keys.fetched_ms,
        "valid_until_ms": keys.valid_until_ms,
        "keys": listed.collect::<Vec<_>>(),
        "unapproved": unapproved.collect::<Vec<_>>(),
    })
}
