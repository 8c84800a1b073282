//! Publishing, asking for and claiming keys.

use std::collections::{BTreeMap, BTreeSet};

use appliance_model::ruma::OwnedServerName;
use appliance_model::ruma::OwnedUserId;
use appliance_model::ruma::api::client::keys::{claim_keys, get_keys, upload_keys};
use appliance_model::{Error, Kind};
use appliance_services::keys::{Claims, Queries, RawJson};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::error_body;
use crate::json::{answer, read_json};
use crate::route::{RawRequest, Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(upload_keys);
    routes.serve_raw_as::<get_keys::v3::Request, _, _>(query);
    routes.serve_raw_as::<claim_keys::v3::Request, _, _>(claim);
}

async fn upload_keys(
    visit: Visit<upload_keys::v3::Request>,
) -> Result<upload_keys::v3::Response, Error> {
    let counts = visit.services.keys.upload(visit.caller()?, &visit.request).await?;
    let number = |count: u64| count.try_into().map_err(Error::internal);
    let counts =
        counts.into_iter().map(|(algorithm, count)| Ok((algorithm.into(), number(count)?)));
    Ok(upload_keys::v3::Response::new(counts.collect::<Result<_, Error>>()?))
}

#[derive(Deserialize)]
struct QueryBody {
    device_keys: Queries,
}

/// All five maps are always there: matrix-nio takes an answer without `failures` for none.
#[derive(Serialize)]
struct QueryAnswer {
    device_keys: BTreeMap<OwnedUserId, BTreeMap<String, RawJson>>,
    failures: BTreeMap<OwnedServerName, Value>,
    master_keys: BTreeMap<OwnedUserId, RawJson>,
    self_signing_keys: BTreeMap<OwnedUserId, RawJson>,
    user_signing_keys: BTreeMap<OwnedUserId, RawJson>,
}

async fn query(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let caller = visit.caller()?.clone();
    let body: QueryBody = read_json(&mut visit.request).await?;
    let found = visit.services.keys.query(&caller, body.device_keys).await?;
    answer(&QueryAnswer {
        device_keys: found.device_keys,
        failures: failures(found.failures),
        master_keys: found.master_keys,
        self_signing_keys: found.self_signing_keys,
        user_signing_keys: found.user_signing_keys,
    })
}

#[derive(Deserialize)]
struct ClaimBody {
    one_time_keys: Claims,
}

#[derive(Serialize)]
struct ClaimAnswer {
    failures: BTreeMap<OwnedServerName, Value>,
    one_time_keys: BTreeMap<OwnedUserId, BTreeMap<String, BTreeMap<String, RawJson>>>,
}

async fn claim(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let caller = visit.caller()?.clone();
    let body: ClaimBody = read_json(&mut visit.request).await?;
    let claimed = visit.services.keys.claim(&caller, body.one_time_keys).await?;
    let failures = failures(claimed.failures);
    answer(&ClaimAnswer { failures, one_time_keys: claimed.one_time_keys })
}

/// "If any remote homeservers could not be reached, they are recorded here."
fn failures(servers: BTreeSet<OwnedServerName>) -> BTreeMap<OwnedServerName, Value> {
    let unreachable = Error::new(Kind::RemoteUnavailable, "This server could not be asked.");
    servers.into_iter().map(|server| (server, json!(error_body(&unreachable)))).collect()
}
