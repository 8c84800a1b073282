//! Registration tokens.
//!
//! The trail says which token was made or changed by a name that opens nothing; the paths of these
//! endpoints hold the token itself and stay out of it.

use appliance_model::Error;
use appliance_services::accounts::{
    NewRegistrationToken, RegistrationToken, TokenChange, TokenTerms,
};
use axum::response::Response;
use http::Method;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{Desk, answer, flag};
use crate::json::read_json;
use crate::route::{RawRequest, Visit};

pub(super) fn add(desk: &mut Desk<'_>) {
    use Method as M;
    let all = "/_synapse/admin/v1/registration_tokens";
    desk.serve(M::GET, all, "admin.registration_tokens_listed", list);
    let new = "/_synapse/admin/v1/registration_tokens/new";
    desk.serve(M::POST, new, "admin.registration_token_new", make);
    let one = "/_synapse/admin/v1/registration_tokens/{token}";
    let mut desk = desk.unnamed();
    desk.serve(M::GET, one, "admin.registration_token_read", get);
    desk.serve(M::PUT, one, "admin.registration_token_put", put);
    desk.serve(M::DELETE, one, "admin.registration_token_delete", delete);
}

/// A use begins and ends in one request, so none is ever under way that somebody could see.
fn shown(token: &RegistrationToken) -> Value {
    json!({
        "token": token.token,
        "uses_allowed": token.terms.uses_allowed,
        "pending": 0,
        "completed": token.completed,
        "expiry_time": token.terms.expires_ms,
    })
}

async fn list(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let valid = flag(&visit.request, "valid")?;
    let tokens = visit.services.accounts.registration_tokens(valid).await?;
    let tokens: Vec<_> = tokens.iter().map(shown).collect();
    answer(&json!({ "registration_tokens": tokens }))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NewBody {
    token: Option<String>,
    length: Option<usize>,
    uses_allowed: Option<u64>,
    expiry_time: Option<u64>,
}

async fn make(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: NewBody = read_json(&mut visit.request).await?;
    let terms = TokenTerms { uses_allowed: body.uses_allowed, expires_ms: body.expiry_time };
    let new = NewRegistrationToken { token: body.token, length: body.length, terms };
    let by = visit.caller()?.user_id.to_string();
    answer(&shown(&visit.services.accounts.make_registration_token(new, &by).await?))
}

async fn get(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let token = visit.request.param(0)?;
    answer(&shown(&visit.services.accounts.registration_token(token).await?))
}

/// What is left out stays as it is; what is null has no end.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ChangeBody {
    #[serde(deserialize_with = "there")]
    uses_allowed: Option<Option<u64>>,
    #[serde(deserialize_with = "there")]
    expiry_time: Option<Option<u64>>,
}

fn there<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(value).map(Some)
}

async fn put(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: ChangeBody = read_json(&mut visit.request).await?;
    let change = TokenChange { uses_allowed: body.uses_allowed, expires_ms: body.expiry_time };
    let (by, token) = (visit.caller()?.user_id.to_string(), visit.request.param(0)?);
    let accounts = &visit.services.accounts;
    answer(&shown(&accounts.change_registration_token(token, change, &by).await?))
}

async fn delete(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (by, token) = (visit.caller()?.user_id.to_string(), visit.request.param(0)?);
    visit.services.accounts.delete_registration_token(token, &by).await?;
    answer(&json!({}))
}

#[cfg(test)]
mod tests {
    use appliance_services::{Options, Registration};
    use serde_json::json;

    use crate::scenario::{Desk, open_house};

    #[tokio::test]
    async fn as_synapses_tools_ask() {
        let registration = Registration::Token(Vec::new());
        let desk = Desk::with(Options { registration, ..open_house() }).await;
        let chief = desk.chief().await;
        let all = "/_synapse/admin/v1/registration_tokens";
        let new = async |body| desk.post(&format!("{all}/new"), &chief, body).await;
        let made = new(json!({ "token": "defg", "uses_allowed": 1 })).await.ok();
        let fresh = json!({
            "token": "defg", "uses_allowed": 1, "pending": 0, "completed": 0, "expiry_time": null,
        });
        assert_eq!(made, fresh);
        assert_eq!(new(json!({ "length": 9 })).await.text("token").len(), 9);
        for bad in [
            json!({ "token": "no spaces" }),
            json!({ "token": "" }),
            json!({ "token": "defg" }),
            json!({ "length": 0 }),
            json!({ "expiry_time": 1 }),
        ] {
            assert_eq!(new(bad).await.error(), (400, "M_INVALID_PARAM"));
        }
        assert_eq!(new(json!({ "uses_allowed": -1 })).await.error(), (400, "M_BAD_JSON"));

        let validity = "/v1/register/m.login.registration_token/validity?token=defg";
        assert_eq!(desk.get(validity, "").await.ok(), json!({ "valid": true }));
        let auth = json!({ "type": "m.login.registration_token", "token": "defg" });
        let body = json!({ "username": "nurse", "password": "nurse", "auth": auth });
        desk.post("/v3/register", "", body).await.ok();
        assert_eq!(desk.get(validity, "").await.ok(), json!({ "valid": false }));
        let one = format!("{all}/defg");
        assert_eq!(desk.get(&one, &chief).await.ok()["completed"], 1);
        let list = desk.get(&format!("{all}?valid=false"), &chief).await.ok();
        assert_eq!(list["registration_tokens"].as_array().unwrap().len(), 1);

        let changed = desk.call("PUT", &one, &chief, json!({ "uses_allowed": null })).await.ok();
        assert_eq!((&changed["uses_allowed"], &changed["completed"]), (&json!(null), &json!(1)));
        assert_eq!(desk.get(validity, "").await.ok(), json!({ "valid": true }));
        assert_eq!(desk.call("DELETE", &one, &chief, json!(null)).await.ok(), json!({}));
        assert_eq!(desk.get(&one, &chief).await.error(), (404, "M_NOT_FOUND"));
        assert_eq!(desk.get(validity, "").await.ok(), json!({ "valid": false }));
    }
}
