//! What this server speaks, where it is, whom to ask for help.

use appliance_model::Error;
use appliance_model::ruma::api::client::discovery::{discover_homeserver, discover_support};
use appliance_services::House;
use axum::response::Response;
use http::{Method, StatusCode};
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::calls::livekit;
use crate::form::Form;
use crate::route::{Access, RawRequest, Routes, Visit, json_response};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw(Method::GET, "/_matrix/client/versions", Access::Open, get_versions);
    routes.serve_form::<discover_homeserver::Request, IgnoredAny, _, _>(get_client_well_known);
    let path = "/.well-known/matrix/policy_server";
    routes.serve_raw(Method::GET, path, Access::Open, get_policy_server);
    let path = "/.well-known/matrix/server";
    routes.serve_raw(Method::GET, path, Access::Open, get_server_well_known);
    routes.serve_form::<discover_support::Request, IgnoredAny, _, _>(get_support);
}

/// "Servers can choose to enable some features only for some users": this one does not, so it does
/// not look at the token either, and a client whose token has ended still learns what is spoken here.
///
/// Every version whose required endpoints exist. Clients look for literal old ones
/// and refuse the server without them. An unstable feature is named only when all of it is there:
/// clients switch on what is named.
async fn get_versions(_: Visit<RawRequest>) -> Result<Response, Error> {
    let versions: Vec<_> = (1..=19).map(|minor| format!("v1.{minor}")).collect();
    let unstable_features = json!({
        // Element X does not let its user in without.
        "org.matrix.simplified_msc3575": true,
        // Files are redacted by whoever uploaded them; the list of them is optional, and not there.
        "uk.timedout.msc4322": true,
    });
    let answer = json!({ "versions": versions, "unstable_features": unstable_features });
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

/// "404: No server discovery information available."
async fn get_client_well_known(visit: Visit<Form<IgnoredAny>>) -> Result<Response, Error> {
    let nothing = || Error::not_found("This server says nothing about where it is.");
    let answer = client_well_known(&visit.services.house).ok_or_else(nothing)?;
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

/// Where clients reach this server, if it was told.
pub(crate) fn client_well_known(house: &House) -> Option<Value> {
    let base_url = house.options.public_base_url.as_ref()?;
    let mut answer = json!({ "m.homeserver": { "base_url": base_url } });
    // Where clients look for a place for group calls that do not know the endpoint for it.
    if let Some(livekit) = livekit(house) {
        answer["org.matrix.msc4143.rtc_foci"] = json!([livekit]);
    }
    Some(answer)
}

/// Where other servers reach this one ([spec]), if it was told.
///
/// [spec]: https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver
async fn get_server_well_known(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let address = visit.services.house.options.federation_address.as_ref();
    let address = address.ok_or_else(|| Error::not_found("This server is where its name says."))?;
    Ok(json_response(StatusCode::OK, json!({ "m.server": address }).to_string()))
}

/// "Public keys for the Policy Server. Can be supplied to the `m.room.policy` state event."
async fn get_policy_server(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let key = visit.services.rooms.policy_server_public_key().await?;
    let answer = json!({ "public_keys": { "ed25519": key } });
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

/// "At least one of `contacts` or `support_page` is required. If only `contacts` is set, it must
/// contain at least one item."
async fn get_support(visit: Visit<Form<IgnoredAny>>) -> Result<Response, Error> {
    let support = &visit.services.house.options.support;
    let mut answer = Map::new();
    if !support.contacts.is_empty() {
        let contacts = support.contacts.iter().map(|contact| {
            let mut shown = Map::new();
            shown.insert("role".to_owned(), contact.role.as_str().into());
            let ids =
                [("matrix_id", &contact.matrix_id), ("email_address", &contact.email_address)];
            for (name, id) in ids {
                if let Some(id) = id {
                    shown.insert(name.to_owned(), id.as_str().into());
                }
            }
            Value::Object(shown)
        });
        answer.insert("contacts".to_owned(), contacts.collect());
    }
    if let Some(page) = &support.page {
        answer.insert("support_page".to_owned(), page.as_str().into());
    }
    if answer.is_empty() {
        return Err(Error::not_found("This server names nobody to ask for help."));
    }
    Ok(json_response(StatusCode::OK, Value::Object(answer).to_string()))
}

#[cfg(test)]
mod tests {
    use appliance_services::{Contact, Options, Support};
    use serde_json::json;

    use crate::scenario::{Desk, open_house};

    /// Element Web wants one of v1.1 to v1.13 literally, Nheko one of v1.1 to v1.10, Cinny v1.11.
    #[tokio::test]
    async fn every_version_is_named() {
        let desk = Desk::new().await;
        let answer = desk.get("/versions", "").await.ok();
        let versions = answer["versions"].as_array().unwrap();
        for minor in 1..=19 {
            assert!(versions.contains(&json!(format!("v1.{minor}"))), "v1.{minor}");
        }
        let token = desk.sign_up("nurse").await;
        desk.get("/versions", &token).await.ok();
        assert_eq!(desk.get("/versions", "guess").await.ok(), answer);
    }

    #[tokio::test]
    async fn nothing_to_say_is_not_found() {
        let desk = Desk::new().await;
        for name in ["client", "server", "support"] {
            let path = &format!("/.well-known/matrix/{name}");
            let answer = desk.get(path, "").await;
            assert_eq!(answer.error(), (404, "M_NOT_FOUND"), "{path}");
            assert_eq!(answer.headers["access-control-allow-origin"], "*", "for web clients");
        }
    }

    #[tokio::test]
    async fn clients_learn_how_to_name_this_server_as_a_policy_server() {
        let desk = Desk::new().await;
        let answer = desk.get("/.well-known/matrix/policy_server", "").await;
        assert_eq!(answer.headers["access-control-allow-origin"], "*", "for web clients");
        let key = answer.ok()["public_keys"]["ed25519"].as_str().unwrap().to_owned();
        assert_eq!(key.len(), 43, "32 bytes in unpadded Base64");
        let again = desk.get("/.well-known/matrix/policy_server", "").await.ok();
        assert_eq!(again["public_keys"]["ed25519"], key);
        let keys = desk.services.house.own_keys();
        assert!(!format!("{keys:?}").contains(&key), "not the one that signs for the server");
    }

    #[tokio::test]
    async fn help_has_a_name() {
        let contact = Contact {
            role: "m.role.admin".to_owned(),
            matrix_id: Some("@it:hospital.example".to_owned()),
            email_address: None,
        };
        let page = Some("https://intranet.hospital.example/help".to_owned());
        let support = Support { contacts: vec![contact], page };
        let desk = Desk::with(Options { support, ..open_house() }).await;
        assert_eq!(
            desk.get("/.well-known/matrix/support", "").await.ok(),
            json!({
                "contacts": [{ "role": "m.role.admin", "matrix_id": "@it:hospital.example" }],
                "support_page": "https://intranet.hospital.example/help",
            })
        );
    }

    /// "404 M_UNRECOGNIZED … unknown endpoint, 405 M_UNRECOGNIZED … known endpoint with an
    /// unsupported method". Element shows a warning if OAuth metadata fails in any other way.
    #[tokio::test]
    async fn what_is_not_there_is_unrecognized() {
        let desk = Desk::new().await;
        let token = desk.sign_up("nurse").await;
        for path in [
            "/v1/auth_metadata",
            "/unstable/org.matrix.msc2965/auth_metadata",
            "/v3/nothing",
            "/v3/login/",
            "/v99/login",
            "/_matrix/nothing",
            "/_matrix/federation/v9/nothing",
            "/_synapse/admin/v1/nothing",
        ] {
            for method in ["GET", "POST", "PUT", "DELETE"] {
                let answer = desk.call(method, path, &token, json!({})).await;
                assert_eq!(answer.error(), (404, "M_UNRECOGNIZED"), "{method} {path}");
                assert_eq!(answer.headers["access-control-allow-origin"], "*");
            }
        }
        for (method, path) in [
            ("PUT", "/v3/login"),
            ("GET", "/v3/register"),
            ("DELETE", "/versions"),
            ("PATCH", "/v3/devices"),
        ] {
            let answer = desk.call(method, path, &token, json!({})).await;
            assert_eq!(answer.error(), (405, "M_UNRECOGNIZED"), "{method} {path}");
        }
        let head = desk.call("HEAD", "/versions", "", json!(null)).await;
        assert_eq!((head.status, head.json), (200, json!(null)));
        let preflight = desk.call("OPTIONS", "/v3/devices", "", json!(null)).await;
        assert_eq!(preflight.status, 200, "without authentication");
    }
}
