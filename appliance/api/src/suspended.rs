//! What a suspended account may still do ([account suspension]): read, leave, look after its keys and
//! devices. What is not named here and changes something is refused, new endpoints included.
//!
//! [account suspension]: https://spec.matrix.org/v1.19/client-server-api/#account-suspension

use http::Method;

/// Whether an endpoint stays open to the suspended.
pub(crate) fn stays_open(method: &Method, path: &str) -> bool {
    if method == Method::GET {
        return true;
    }
    // The namespaces of versions and of unstable features say nothing about what is done.
    let rest = path.trim_start_matches("/_matrix/client/");
    let rest = rest.split_once('/').map_or(rest, |(_, rest)| rest);
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.contains('.')).collect();
    match parts.as_slice() {
        // "Log in and create additional sessions", "log out or delete any device of theirs",
        // "deactivate their account", "verify other devices and write associated cross-signing
        // data", "populate their key backup".
        [
            "login" | "logout" | "refresh" | "register" | "account" | "devices" | "delete_devices"
            | "keys" | "room_keys" | "sendToDevice" | "dehydrated_device",
            ..,
        ] => true,
        // "See and receive messages."
        ["sync" | "search" | "publicRooms" | "user_directory" | "pushers" | "pushrules", ..] => {
            true
        }
        // Their own settings, and a word to those who look after the house.
        ["user" | "presence", ..] | ["users", _, "report"] => true,
        // "Leave rooms and reject invites"; their receipts move as they read; of "redact their own
        // events" the service knows which are.
        [
            "rooms",
            _,
            "leave" | "forget" | "receipt" | "read_markers" | "redact" | "report" | "thread",
            ..,
        ] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scenario::Desk;

    #[test]
    fn what_is_said_to_others_is_closed() {
        for path in [
            "/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}",
            "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/{state_key}",
            "/_matrix/client/v3/rooms/{room_id}/invite",
            "/_matrix/client/v3/rooms/{room_id}/join",
            "/_matrix/client/v3/rooms/{room_id}/typing/{user_id}",
            "/_matrix/client/v3/join/{room_id_or_alias}",
            "/_matrix/client/v3/knock/{room_id_or_alias}",
            "/_matrix/client/v3/createRoom",
            "/_matrix/client/v3/profile/{user_id}/{key_name}",
            "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{key_name}",
            "/_matrix/client/unstable/org.matrix.msc4140/rooms/{room_id}/delayed_event/{a}/{b}",
            "/_matrix/media/v3/upload",
            "/_synapse/admin/v1/anything",
            "/_matrix/client/v9/invented",
        ] {
            assert!(!stays_open(&Method::PUT, path), "{path}");
            assert!(stays_open(&Method::GET, path), "{path}");
        }
        for path in [
            "/_matrix/client/v3/rooms/{room_id}/leave",
            "/_matrix/client/v3/rooms/{room_id}/redact/{event_id}/{txn_id}",
            "/_matrix/client/v3/account/deactivate",
            "/_matrix/client/v3/keys/signatures/upload",
            "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
            "/_matrix/client/v4/sync",
            "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device",
            "/_matrix/client/v3/user/{user_id}/account_data/{type}",
        ] {
            assert!(stays_open(&Method::POST, path), "{path}");
        }
    }

    #[tokio::test]
    async fn the_suspended_read_and_leave_but_say_nothing() {
        let (desk, chief) = Desk::with_chief().await;
        let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
        let body = json!({ "preset": "public_chat" });
        let room = desk.post("/v3/createRoom", &nurse, body).await.text("room_id");
        desk.post(&format!("/v3/join/{room}"), &doctor, json!({})).await.ok();
        let say = async |token: &str, txn: &str| {
            let path = format!("/v3/rooms/{room}/send/m.room.message/{txn}");
            desk.call("PUT", &path, token, json!({ "body": "Bed 4" })).await
        };
        let others = say(&nurse, "1").await.text("event_id");
        let own = say(&doctor, "1").await.text("event_id");
        let suspend = async |yes: bool| {
            let path = "/v1/admin/suspend/@doctor:hospital.example";
            desk.call("PUT", path, &chief, json!({ "suspended": yes })).await.ok()
        };
        assert_eq!(suspend(true).await, json!({ "suspended": true }));
        let refused = (403, "M_USER_SUSPENDED");
        assert_eq!(say(&doctor, "2").await.error(), refused);
        assert_eq!(desk.post("/v3/createRoom", &doctor, json!({})).await.error(), refused);
        let profile = "/v3/profile/@doctor:hospital.example/displayname";
        let renamed = desk.call("PUT", profile, &doctor, json!({ "displayname": "x" })).await;
        assert_eq!(renamed.error(), refused);
        let redact = async |event: &str| {
            let path = format!("/v3/rooms/{room}/redact/{event}/r{event}");
            desk.call("PUT", &path, &doctor, json!({})).await
        };
        assert_eq!(redact(&others).await.error(), refused);
        redact(&own).await.ok();
        desk.get("/v3/sync", &doctor).await.ok();
        desk.sign_in("doctor", "LAPTOP").await;
        suspend(false).await;
        say(&doctor, "2").await.ok();
        suspend(true).await;
        desk.post(&format!("/v3/rooms/{room}/leave"), &doctor, json!({})).await.ok();
    }

    /// "M_USER_LOCKED … on all but the following: POST /logout, POST /logout/all", and a session that
    /// comes back when it is unlocked.
    #[tokio::test]
    async fn the_locked_can_only_sign_out() {
        let (desk, chief) = Desk::with_chief().await;
        let phone = desk.sign_up("nurse").await;
        let laptop = desk.sign_in("nurse", "LAPTOP").await;
        assert!(desk.is_in(&phone).await);
        let lock = async |yes: bool| {
            let path = "/v1/admin/lock/@nurse:hospital.example";
            desk.call("PUT", path, &chief, json!({ "locked": yes })).await.ok()
        };
        lock(true).await;
        for path in ["/v3/account/whoami", "/v3/sync", "/v3/devices"] {
            let answer = desk.get(path, &phone).await;
            assert_eq!(answer.error(), (401, "M_USER_LOCKED"), "{path}");
            assert_eq!(answer.json["soft_logout"], true, "the client keeps its keys");
        }
        let login = crate::scenario::login_body("nurse", json!({}));
        assert_eq!(desk.post("/v3/login", "", login).await.error(), (401, "M_USER_LOCKED"));
        desk.post("/v3/logout", &laptop, json!({})).await.ok();
        lock(false).await;
        assert!(desk.is_in(&phone).await);
        assert!(!desk.is_in(&laptop).await);
    }
}
