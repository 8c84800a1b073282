//! Other servers, as Synapse's tools ask for them: how things stand with each that is on the list.

use appliance_model::Error;
use appliance_model::ruma::ServerName;
use appliance_services::peers::PeerReport;
use axum::response::Response;
use http::Method;
use serde_json::{Value, json};

use super::{Desk, answer, is_backward, page_of};
use crate::route::{RawRequest, Visit};

pub(super) fn add(desk: &mut Desk<'_>) {
    let all = "/_synapse/admin/v1/federation/destinations";
    desk.serve(Method::GET, all, "admin.destinations_listed", list);
    let one = "/_synapse/admin/v1/federation/destinations/{server_name}";
    desk.serve(Method::GET, one, "admin.destination_read", get);
}

/// Synapse tells when it will try again as the last attempt and what is waited after it. Here only the
/// next attempt is kept, so that is told, and nothing is waited after it.
fn shown(report: &PeerReport) -> Value {
    let queue = &report.queue;
    let fails = queue.failing_since_ms.is_some();
    json!({
        "destination": report.server_name,
        "retry_last_ts": if fails { queue.retry_ms } else { 0 },
        "retry_interval": 0,
        "failure_ts": queue.failing_since_ms,
        "last_successful_stream_ordering": queue.delivered_ms,
    })
}

async fn list(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (from, limit) = page_of(&visit.request)?;
    let wanted = visit.request.query("destination").unwrap_or_default();
    let backward = is_backward(&visit.request)?;
    let mut reports = visit.services.peers.list().await?;
    reports.retain(|report| report.server_name.as_str().contains(&wanted));
    reports.sort_by(|a, b| a.server_name.cmp(&b.server_name));
    if backward {
        reports.reverse();
    }
    let destinations: Vec<_> = reports.iter().skip(from).take(limit).map(shown).collect();
    let mut body = json!({ "destinations": destinations, "total": reports.len() });
    if from.saturating_add(limit) < reports.len() {
        body["next_token"] = (from + limit).to_string().into();
    }
    answer(&body)
}

async fn get(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let unknown = || Error::not_found("Unknown destination");
    let server = ServerName::parse(visit.request.param(0)?).map_err(|_| unknown())?;
    let reports = visit.services.peers.list().await?;
    let report = reports.iter().find(|report| report.server_name == server);
    answer(&shown(report.ok_or_else(unknown)?))
}

#[cfg(test)]
mod tests {
    use crate::town::Town;

    #[tokio::test]
    async fn the_servers_on_the_list() {
        let town = Town::of(&["a.example", "b.example", "c.example"]).await;
        let desk = town.desk(0);
        let chief = desk.chief().await;
        let all = "/_synapse/admin/v1/federation/destinations";
        let list = desk.get(all, &chief).await.ok();
        assert!(list["total"].as_u64() >= Some(2), "{list}");
        let page = desk.get(&format!("{all}?destination=b.ex&dir=b"), &chief).await.ok();
        assert_eq!(page["destinations"][0]["destination"], "b.example");
        assert_eq!(page["total"], 1);
        let one = desk.get(&format!("{all}/b.example"), &chief).await.ok();
        assert_eq!((&one["destination"], &one["retry_last_ts"]), (&"b.example".into(), &0.into()));
        for unknown in ["x.example", "no name"] {
            let path = format!("{all}/{}", unknown.replace(' ', "%20"));
            assert_eq!(desk.get(&path, &chief).await.error(), (404, "M_NOT_FOUND"));
        }
    }
}
