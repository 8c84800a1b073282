//! E-mail addresses and phone numbers: this server keeps none of its users and asks no identity
//! server, so the list is empty and every change is refused. `m.3pid_changes` says so beforehand.

use appliance_model::ruma::api::client::account::{
    add_3pid, bind_3pid, delete_3pid, get_3pids, request_3pid_management_token_via_email,
    request_3pid_management_token_via_msisdn, request_password_change_token_via_email,
    request_password_change_token_via_msisdn, request_registration_token_via_email,
    request_registration_token_via_msisdn, unbind_3pid,
};
use appliance_model::{Error, Kind};
use axum::response::Response;
use http::{Method, StatusCode};
use serde::de::IgnoredAny;

use crate::form::Form;
use crate::route::{Access, RawRequest, Routes, Visit, json_response};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_form::<get_3pids::v3::Request, _, _, _>(list);
    routes.serve_form::<add_3pid::v3::Request, _, _, _>(refuse);
    routes.serve_form::<bind_3pid::v3::Request, _, _, _>(refuse);
    routes.serve_form::<delete_3pid::v3::Request, _, _, _>(refuse);
    routes.serve_form::<unbind_3pid::v3::Request, _, _, _>(refuse);
    routes.serve_form::<request_3pid_management_token_via_email::v3::Request, _, _, _>(refuse);
    routes.serve_form::<request_3pid_management_token_via_msisdn::v3::Request, _, _, _>(refuse);
    routes.serve_form::<request_password_change_token_via_email::v3::Request, _, _, _>(refuse);
    routes.serve_form::<request_password_change_token_via_msisdn::v3::Request, _, _, _>(refuse);
    routes.serve_form::<request_registration_token_via_email::v3::Request, _, _, _>(refuse);
    routes.serve_form::<request_registration_token_via_msisdn::v3::Request, _, _, _>(refuse);
    // Deprecated, and without a type of Ruma's.
    for path in ["/_matrix/client/r0/account/3pid", "/_matrix/client/v3/account/3pid"] {
        routes.serve_raw(Method::POST, path, Access::SignedIn, refuse_deprecated);
    }
}

async fn list(_: Visit<Form<IgnoredAny>>) -> Result<Response, Error> {
    Ok(json_response(StatusCode::OK, r#"{"threepids":[]}"#))
}

async fn refuse(_: Visit<Form<IgnoredAny>>) -> Result<Response, Error> {
    Err(denied())
}

async fn refuse_deprecated(_: Visit<RawRequest>) -> Result<Response, Error> {
    Err(denied())
}

fn denied() -> Error {
    Error::new(
        Kind::ThreepidDenied,
        "This server keeps no e-mail addresses and phone numbers of its users.",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::scenario::Desk;

    #[tokio::test]
    async fn there_are_none_and_there_will_be_none() {
        let desk = Desk::new().await;
        let token = desk.sign_up("nurse").await;
        assert_eq!(desk.get("/v3/account/3pid", &token).await.ok(), json!({ "threepids": [] }));
        assert_eq!(desk.get("/v3/account/3pid", "").await.error(), (401, "M_MISSING_TOKEN"));
        for path in ["", "/add", "/bind", "/delete", "/unbind"] {
            let path = format!("/v3/account/3pid{path}");
            let answer = desk.post(&path, &token, json!({ "medium": "email" })).await;
            assert_eq!(answer.error(), (403, "M_THREEPID_DENIED"), "{path}");
            assert_eq!(desk.post(&path, "", json!({})).await.error(), (401, "M_MISSING_TOKEN"));
        }
        for path in ["account/3pid", "account/password", "register"] {
            for medium in ["email", "msisdn"] {
                let path = format!("/v3/{path}/{medium}/requestToken");
                let answer = desk.post(&path, "", json!({})).await;
                assert_eq!(answer.error(), (403, "M_THREEPID_DENIED"), "{path}");
            }
        }
    }
}
