//! Who may be invited ([spec]): people can refuse all invites, and see none of those whom they ignore.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#invite-permission

use appliance_ledger::keyspaces::ACCOUNT_DATA;
use appliance_ledger::membership;
use appliance_ledger::rows::MembershipRow;
use appliance_model::{Error, EventNid, RoomNid, UserNid};
use serde::Deserialize;

use super::Rooms;

/// The account data's type, and that of before its acceptance.
const KINDS: [&str; 2] =
    ["m.invite_permission_config", "org.matrix.msc4380.invite_permission_config"];

impl Rooms {
    /// Whether a local user refuses all invites.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn blocks_invites(&self, user: UserNid) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Content {
            default_action: Option<String>,
        }
        for kind in KINDS {
            let key = (user, RoomNid::default(), kind.to_owned());
            let Some(row) = self.house.ledger.get(&ACCOUNT_DATA, &key).await? else { continue };
            // "A missing, invalid or unsupported value means … invites as normal."
            let action = serde_json::from_str::<Content>(&row.content).ok();
            let action = action.and_then(|content| content.default_action);
            if action.as_deref() == Some("block") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether an invite is not to be shown to the invited: "MUST NOT be served over client
    /// synchronisation endpoints"; nor "invites from ignored users".
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn hides_invite(&self, user: UserNid, row: &MembershipRow) -> Result<bool, Error> {
        if row.membership != membership::INVITE {
            return Ok(false);
        }
        if self.blocks_invites(user).await? {
            return Ok(true);
        }
        let ignored = self.ignored(user).await?;
        if ignored.is_empty() {
            return Ok(false);
        }
        let invite = self.house.ledger.event(EventNid(row.event)).await?;
        Ok(ignored.holds(invite.part(invite.spans.sender).trim_matches('"')))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use appliance_ledger::Direction;
    use appliance_model::ruma::api::client::filter::RoomEventFilter;
    use appliance_model::ruma::events::room::member::MembershipState as M;
    use appliance_model::ruma::presence::PresenceState;
    use appliance_model::{Caller, Kind};
    use serde_json::{Value, json};

    use crate::rooms::HistoryQuery;
    use crate::scenario::{Ward, create_request, state};
    use crate::sync::{StateForm, SyncRequest};

    async fn account_data(ward: &Ward, who: &Caller, kind: &str, content: Value) {
        let own = (who.user, who.user_id.as_str());
        let personal = &ward.services.personal;
        personal.set_account_data(own, None, kind, &content.to_string()).await.unwrap();
    }

    async fn sync(ward: &Ward, who: &Caller) -> Value {
        let request = SyncRequest {
            since: None,
            filter: std::sync::Arc::default(),
            full_state: false,
            timeout: Duration::ZERO,
            state_form: StateForm::Before,
            presence: PresenceState::Online,
        };
        let json = ward.services.sync.sync(who, "", &request).await.unwrap();
        serde_json::from_str(&json).unwrap()
    }

    #[tokio::test]
    async fn who_refuses_invites_gets_none_on_any_way_and_sees_none() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let (early, late) = (ward.room(&nurse).await, ward.room(&nurse).await);
        ward.set(&nurse, &early, &doctor.user_id, M::Invite).await;
        assert!(sync(&ward, &doctor).await["rooms"]["invite"][early.as_str()].is_object());
        for kind in super::KINDS {
            account_data(&ward, &doctor, kind, json!({ "default_action": "block" })).await;
            let refused =
                ward.try_set(&nurse, &late, &doctor.user_id, M::Invite).await.unwrap_err();
            assert_eq!(refused.kind, Kind::InviteBlocked);
            let key = ("m.room.member", doctor.user_id.as_str());
            let by_state = state(&late, key, json!({ "membership": "invite" }));
            let refused = ward.services.rooms.send_state(&nurse, &by_state).await.unwrap_err();
            assert_eq!(refused.kind, Kind::InviteBlocked);
            let with = create_request(json!({ "invite": [doctor.user_id] }));
            let refused = ward.services.rooms.create_room(&nurse, &with).await.unwrap_err();
            assert_eq!(refused.kind, Kind::InviteBlocked);
            assert_eq!(sync(&ward, &doctor).await["rooms"]["invite"], Value::Null);
            for open in [json!({}), json!({ "default_action": 7 })] {
                account_data(&ward, &doctor, kind, open).await;
                assert!(sync(&ward, &doctor).await["rooms"]["invite"][early.as_str()].is_object());
            }
        }
        ward.set(&nurse, &late, &doctor.user_id, M::Invite).await;
    }

    /// "servers MUST NOT send … events sent by ignored users …, … state events … still".
    #[tokio::test]
    async fn the_ignored_are_neither_heard_nor_counted() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        ward.say(&nurse, &room, "noise").await;
        ward.state(&nurse, &room, ("m.room.name", ""), json!({ "name": "Ward 4" })).await;
        let invited = ward.room(&nurse).await;
        ward.set(&nurse, &invited, &doctor.user_id, M::Invite).await;
        let ignored = json!({ "ignored_users": { nurse.user_id.as_str(): {} } });
        account_data(&ward, &doctor, "m.ignored_user_list", ignored).await;

        let answer = sync(&ward, &doctor).await;
        assert_eq!(answer["rooms"]["invite"], Value::Null);
        let part = &answer["rooms"]["join"][room.as_str()];
        assert_eq!(part["unread_notifications"]["notification_count"], 0);
        let kinds = |events: &Value| -> Vec<String> {
            let events = events.as_array().unwrap().iter();
            events.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
        };
        let shown = kinds(&part["timeline"]["events"]);
        assert!(shown.contains(&"m.room.name".to_owned()), "{shown:?}");
        assert!(!shown.contains(&"m.room.message".to_owned()), "{shown:?}");
        let filter = RoomEventFilter::default();
        let query = HistoryQuery {
            from: None,
            to: None,
            direction: Direction::Backward,
            limit: 50,
            filter: &filter,
        };
        let page = ward.services.rooms.history(&doctor, &room, &query).await.unwrap();
        let shown = kinds(&serde_json::from_str(&page.chunk.to_json(None)).unwrap());
        assert!(!shown.contains(&"m.room.message".to_owned()), "{shown:?}");
        let page = ward.services.rooms.history(&nurse, &room, &query).await.unwrap();
        let shown = kinds(&serde_json::from_str(&page.chunk.to_json(None)).unwrap());
        assert!(shown.contains(&"m.room.message".to_owned()), "{shown:?}");
    }
}
