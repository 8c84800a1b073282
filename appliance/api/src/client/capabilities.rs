//! What this server can do for the caller.

use appliance_model::ruma::RoomVersionId;
use appliance_model::ruma::api::client::discovery::get_capabilities;
use appliance_model::{Error, Role};
use appliance_services::rooms::ROOM_VERSIONS;
use axum::response::Response;
use http::StatusCode;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::form::Form;
use crate::route::{Routes, Visit, json_response};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_form::<get_capabilities::v3::Request, IgnoredAny, _, _>(get);
}

/// Everything is said, also where a missing capability would mean the same: "if absent" differs
/// from one capability to the next, and clients get it wrong.
async fn get(visit: Visit<Form<IgnoredAny>>) -> Result<Response, Error> {
    let is_chief = visit.caller()?.role == Role::Administrator;
    let default = &visit.services.house.options.default_room_version;
    let mut capabilities = capabilities(default);
    capabilities["m.account_moderation"] = json!({ "suspend": is_chief, "lock": is_chief });
    let answer = json!({ "capabilities": capabilities });
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

fn capabilities(default_room_version: &RoomVersionId) -> Value {
    let versions: serde_json::Map<_, _> =
        ROOM_VERSIONS.iter().map(|version| (version.to_string(), "stable".into())).collect();
    json!({
        "m.room_versions": { "default": default_room_version, "available": versions },
        "m.change_password": { "enabled": true },
        "m.set_displayname": { "enabled": true },
        "m.set_avatar_url": { "enabled": true },
        "m.profile_fields": { "enabled": true },
        "m.3pid_changes": { "enabled": false },
        "m.get_login_token": { "enabled": true },
        "m.forget_forced_upon_leave": { "enabled": false },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::scenario::Desk;

    #[tokio::test]
    async fn the_caller_learns_what_this_server_can_do() {
        let desk = Desk::new().await;
        let token = desk.sign_up("nurse").await;
        let answer = desk.get("/v3/capabilities", &token).await.ok();
        let capabilities = &answer["capabilities"];
        let versions = &capabilities["m.room_versions"];
        assert_eq!(versions["default"], "11");
        let stable: Vec<_> = versions["available"].as_object().unwrap().keys().collect();
        assert_eq!(stable, ["10", "11", "12", "6", "7", "8", "9"]);
        assert_eq!(capabilities["m.change_password"], json!({ "enabled": true }));
        assert_eq!(capabilities["m.3pid_changes"], json!({ "enabled": false }));
        assert_eq!(capabilities["m.get_login_token"], json!({ "enabled": true }));
        let none = json!({ "suspend": false, "lock": false });
        assert_eq!(capabilities["m.account_moderation"], none);
        assert_eq!(desk.get("/v3/capabilities", "").await.error(), (401, "M_MISSING_TOKEN"));
    }
}
