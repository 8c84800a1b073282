//! What public conformance suites expect of Synapse's administration: registration with a shared
//! secret. Outside of conformance mode there is no such endpoint.

use appliance_model::Error;
use appliance_services::accounts::SharedSecretRegistration;
use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::session::session_json;
use crate::json::read_json;
use crate::route::{Access, RawRequest, Routes, Visit, json_response};

const PATH: &str = "/_synapse/admin/v1/register";

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw(Method::GET, PATH, Access::Open, get_nonce);
    routes.serve_raw(Method::POST, PATH, Access::Open, register);
}

async fn get_nonce(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let nonce = visit.services.accounts.registration_nonce()?;
    Ok(json_response(StatusCode::OK, json!({ "nonce": nonce }).to_string()))
}

async fn register(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let request: SharedSecretRegistration = read_json(&mut visit.request).await?;
    let answer = match visit.services.accounts.register_by_secret(request).await? {
        (_, Some(session)) => Value::Object(session_json(&session)),
        (user_id, None) => json!({ "user_id": user_id, "home_server": user_id.server_name() }),
    };
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

#[cfg(test)]
mod tests {
    use appliance_services::{Options, Registration, Secret};
    use aws_lc_rs::hmac;
    use serde_json::{Value, json};

    use super::PATH;
    use crate::scenario::{Desk, login_body, open_house};

    async fn desk() -> Desk {
        Desk::with(Options {
            registration: Registration::Closed,
            shared_secret: Some(Secret::new("sesame")),
            ..open_house()
        })
        .await
    }

    fn signed(secret: &str, nonce: &str, admin: bool) -> Value {
        let role = if admin { "admin" } else { "notadmin" };
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
        let mac = hmac::sign(&key, format!("{nonce}\0nurse\0nurse\0{role}").as_bytes());
        let mac: String = mac.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        json!({ "nonce": nonce, "username": "nurse", "password": "nurse", "admin": admin, "mac": mac })
    }

    #[tokio::test]
    async fn the_secret_makes_accounts_where_nobody_else_does() {
        let desk = desk().await;
        let nonce = desk.get(PATH, "").await.text("nonce");
        let body = signed("sesame", &nonce, true);
        let made = desk.post(PATH, "", body.clone()).await.ok();
        assert_eq!(made["user_id"], "@nurse:hospital.example");
        assert!(desk.is_in(made["access_token"].as_str().unwrap()).await);
        desk.post("/v3/login", "", login_body("nurse", json!({}))).await.ok();
        let accounts = desk.services.accounts.list_accounts().await.unwrap();
        assert!(accounts[0].administrator);

        let replayed = desk.post(PATH, "", body).await;
        assert_eq!(replayed.error(), (400, "M_INVALID_PARAM"), "a nonce is used once");
    }

    #[tokio::test]
    async fn without_the_secret_or_in_time_nobody_does() {
        let desk = desk().await;
        let nonce = async || desk.get(PATH, "").await.text("nonce");
        let guessed = desk.post(PATH, "", signed("guess", &nonce().await, false)).await;
        assert_eq!(guessed.error(), (403, "M_FORBIDDEN"));
        let mut promoted = signed("sesame", &nonce().await, false);
        promoted["admin"] = json!(true);
        assert_eq!(desk.post(PATH, "", promoted).await.error(), (403, "M_FORBIDDEN"));
        let mut odd = signed("sesame", &nonce().await, false);
        odd["mac"] = json!("ü0");
        assert_eq!(desk.post(PATH, "", odd).await.error(), (403, "M_FORBIDDEN"));
        let late = signed("sesame", &nonce().await, false);
        desk.clock.pass_ms(60_000);
        assert_eq!(desk.post(PATH, "", late).await.error(), (400, "M_INVALID_PARAM"));
        let invented = desk.post(PATH, "", signed("sesame", "mine", false)).await;
        assert_eq!(invented.error(), (400, "M_INVALID_PARAM"));
        assert_eq!(desk.post(PATH, "", json!({})).await.error(), (400, "M_BAD_JSON"));
        assert!(desk.services.accounts.list_accounts().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_hospital_has_no_such_endpoint() {
        let desk = Desk::new().await;
        assert_eq!(desk.get(PATH, "").await.error(), (404, "M_UNRECOGNIZED"));
        let answer = desk.post(PATH, "", signed("", "mine", true)).await;
        assert_eq!(answer.error(), (404, "M_UNRECOGNIZED"));
    }
}
