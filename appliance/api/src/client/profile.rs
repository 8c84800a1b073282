//! Profiles: name, picture, and fields that clients agree upon. Ruma's types know each field by a
//! type of its own; here one handler serves all.

use appliance_model::ruma::api::client::profile::get_profile;
use appliance_model::ruma::{OwnedUserId, UserId};
use appliance_model::{Error, Kind};
use appliance_services::personal::ProfileChange;
use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::json::read_json;
use crate::route::{Access, RawRequest, Routes, Visit, json_response};

/// axum matches what is spelt out first: a method that only the general path had would be refused.
const PATHS: [&str; 3] = [
    "/_matrix/client/r0/profile/{user_id}/{key_name}",
    "/_matrix/client/v3/profile/{user_id}/{key_name}",
    "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{key_name}",
];
const DISPLAYNAME: &str = "displayname";
const AVATAR_URL: &str = "avatar_url";

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(get);
    for path in PATHS {
        routes.serve_raw(Method::GET, path, Access::Open, get_field);
        routes.serve_raw(Method::PUT, path, Access::SignedIn, set_field);
        routes.serve_raw(Method::DELETE, path, Access::SignedIn, delete_field);
    }
}

async fn get(visit: Visit<get_profile::v3::Request>) -> Result<get_profile::v3::Response, Error> {
    let (personal, user_id) = (&visit.services.personal, &visit.request.user_id);
    let mut response = get_profile::v3::Response::new();
    for (name, value) in personal.whole_profile(user_id).await? {
        response.set(name, value);
    }
    Ok(response)
}

fn user_of(request: &RawRequest) -> Result<OwnedUserId, Error> {
    UserId::parse(request.param(0)?).map_err(|_| Error::invalid_param("This is not a user ID."))
}

async fn get_field(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let personal = &visit.services.personal;
    let (user_id, name) = (user_of(&visit.request)?, visit.request.param(1)?);
    let json = match name {
        // Clients ask for these two of everybody; an empty answer says that there is none.
        DISPLAYNAME | AVATAR_URL => {
            let value = personal.whole_profile(&user_id).await?.remove(name);
            value.map_or_else(|| json!({}), |value| json!({ name: value })).to_string()
        }
        _ if !visit.services.house.is_ours(&user_id) => {
            let none = || Error::not_found("The profile has no such field.");
            let value = personal.whole_profile(&user_id).await?.remove(name).ok_or_else(none)?;
            json!({ name: value }).to_string()
        }
        _ => {
            let value = personal.profile_field(&user_id, name).await?;
            format!("{{{}:{value}}}", Value::from(name))
        }
    };
    Ok(json_response(StatusCode::OK, json))
}

async fn set_field(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let mut body: Map<String, Value> = read_json(&mut visit.request).await?;
    let (caller, personal) = (visit.caller()?, &visit.services.personal);
    let (user_id, name) = (user_of(&visit.request)?, visit.request.param(1)?);
    let value = body.remove(name);
    match name {
        DISPLAYNAME | AVATAR_URL => {
            // "If the property is missing or null, it is removed": what clients of before v1.16 do.
            let change = change(name, value)?;
            personal.set_profile(caller, &user_id, change).await?;
        }
        _ => {
            let missing = || Error::new(Kind::MissingParam, format!("`{name}` is missing."));
            let json = Some(value.ok_or_else(missing)?.to_string());
            personal.set_profile_field(caller, &user_id, name, json).await?;
        }
    }
    Ok(json_response(StatusCode::OK, "{}"))
}

fn change(name: &str, value: Option<Value>) -> Result<ProfileChange, Error> {
    let text = match value {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(_) => return Err(Error::bad_json(format!("`{name}` is a text."))),
    };
    Ok(match name {
        DISPLAYNAME => ProfileChange::Displayname(text),
        _ => ProfileChange::AvatarUrl(text.filter(|url| !url.is_empty())),
    })
}

async fn delete_field(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (caller, personal) = (visit.caller()?, &visit.services.personal);
    let (user_id, name) = (user_of(&visit.request)?, visit.request.param(1)?);
    match name {
        DISPLAYNAME | AVATAR_URL => {
            personal.set_profile(caller, &user_id, change(name, None)?).await?;
        }
        _ => personal.set_profile_field(caller, &user_id, name, None).await?,
    }
    Ok(json_response(StatusCode::OK, "{}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::scenario::Desk;

    #[tokio::test]
    async fn fields_come_back_with_name_and_picture() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        let at = |name: &str| format!("/v3/profile/@nurse:hospital.example/{name}");
        let pager = json!({ "org.example.pager": { "number": 4711 } });
        desk.call("PUT", &at("org.example.pager"), &nurse, pager.clone()).await.ok();
        assert_eq!(desk.get(&at("org.example.pager"), "").await.ok(), pager);
        let zone = json!({ "m.tz": "Europe/Berlin" });
        desk.call("PUT", &at("m.tz"), &nurse, zone).await.ok();
        let all = desk.get("/v3/profile/@nurse:hospital.example", "").await.ok();
        let wanted = json!({
            "displayname": "nurse",
            "m.tz": "Europe/Berlin",
            "org.example.pager": { "number": 4711 },
        });
        assert_eq!(all, wanted);
        desk.call("DELETE", &at("displayname"), &nurse, json!(null)).await.ok();
        desk.call("DELETE", &at("m.tz"), &nurse, json!(null)).await.ok();
        desk.call("DELETE", &at("m.tz"), &nurse, json!(null)).await.ok();
        assert_eq!(desk.get(&at("displayname"), "").await.ok(), json!({}));
        assert_eq!(desk.get(&at("m.tz"), "").await.error(), (404, "M_NOT_FOUND"));
        let wrong = desk.call("PUT", &at("displayname"), &nurse, json!({ "displayname": 7 })).await;
        assert_eq!(wrong.error(), (400, "M_BAD_JSON"));
    }
}
