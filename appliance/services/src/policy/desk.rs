//! What the administrator does about the policy: see it, set it, ask why, try another.

use std::sync::Arc;

use appliance_ledger::keyspaces::{DEVICES, HOUSE_POLICY};
use appliance_ledger::rows::policy::HousePolicyRow;
use appliance_model::ruma::{RoomId, UserId};
use appliance_model::{DeviceNid, Error, Role, SessionClass, UserNid};
use appliance_rules::Permit;
use appliance_rules::policy::{
    Action, Content, Effective, Field, HousePolicy, Mode, Object, Permitted, Refused, Subject,
    decide, may_encrypt,
};
use serde_json::{Value, json};

use super::of_room;
use crate::accounts::Accounts;
use crate::house::House;
use crate::rooms::Rooms;

/// Whom the administrator asks about: each of them may be left out.
#[derive(Clone, Debug, Default)]
pub struct Question<'a> {
    /// A user of this server.
    pub user_id: Option<&'a UserId>,
    /// One of their devices.
    pub device_id: Option<&'a str>,
    /// A class, in place of that of a device.
    pub class: Option<SessionClass>,
    /// A room.
    pub room_id: Option<&'a RoomId>,
}

/// The administrator's desk.
pub struct PolicyDesk {
    house: Arc<House>,
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    /// One administrator at a time.
    setting: tokio::sync::Mutex<()>,
}

impl PolicyDesk {
    pub(crate) fn new(house: Arc<House>, rooms: Arc<Rooms>, accounts: Arc<Accounts>) -> Self {
        Self { house, rooms, accounts, setting: tokio::sync::Mutex::default() }
    }

    /// The policy of the house.
    pub fn show(&self) -> Value {
        self.house.policy.now().to_json()
    }

    /// Sets the policy of the house; sessions that it does not allow end within a minute.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`] if it cannot be kept as it is written.
    pub async fn set(&self, pack: &Value, by: &str) -> Result<(), Error> {
        let policy = Arc::new(HousePolicy::from_json(pack).map_err(Error::invalid_param)?);
        let _alone = self.setting.lock().await;
        let ledger = &self.house.ledger;
        let permit = Permit::administration("policy.set", by, &policy.name);
        let mut commit = ledger.begin(permit);
        let row =
            HousePolicyRow { json: policy.to_json().to_string(), at_ms: self.house.clock.now_ms() };
        commit.put(&HOUSE_POLICY, &(), &row);
        // It holds before anybody hears that device lists have changed, so that whoever then asks for them is told
        // what holds.
        let before = self.house.policy.now();
        self.house.policy.replace(policy.clone());
        let told = self.accounts.keys.policy_changes((&before, &policy), &mut commit).await;
        let set = match told {
            Ok(()) => ledger.commit(commit).await.map(drop),
            Err(error) => Err(error),
        };
        if set.is_err() {
            self.house.policy.replace(before);
        }
        self.accounts.policy_changed();
        set
    }

    /// What holds for somebody somewhere, and which scope said it.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such user, device or room.
    pub async fn explain(&self, question: &Question<'_>) -> Result<Value, Error> {
        self.answer(&self.house.policy.now(), question).await
    }

    /// The same, if `pack` were the policy of the house.
    ///
    /// # Errors
    ///
    /// As [`PolicyDesk::explain`] and [`PolicyDesk::set`].
    pub async fn simulate(&self, pack: &Value, question: &Question<'_>) -> Result<Value, Error> {
        let policy = HousePolicy::from_json(pack).map_err(Error::invalid_param)?;
        let (now, then) = (self.explain(question).await?, self.answer(&policy, question).await?);
        Ok(json!({ "now": now, "then": then }))
    }

    async fn answer(&self, house: &HousePolicy, question: &Question<'_>) -> Result<Value, Error> {
        let (class, role) = self.whom(question).await?;
        let room = match question.room_id {
            Some(room_id) => of_room(&self.rooms, self.rooms.known(room_id).await?.0).await?,
            None => None,
        };
        let effective = house.in_room(&self.house.settings_scope(), Some(role), room.as_ref());
        let ignored: Vec<_> = room
            .as_ref()
            .map_or_else(Vec::new, |room| effective.ignored(room).map(Field::path).collect());
        Ok(json!({
            "policy": house.name,
            "session_class": class.as_str(),
            "room_class": house.class_of(room.as_ref()).as_str(),
            "mode": Mode::of(effective.get(Field::mode_of(class))).as_str(),
            "rules": effective.to_json(),
            "ignored_of_room": ignored,
            "verdicts": verdicts(&effective, class),
        }))
    }

    async fn whom(&self, question: &Question<'_>) -> Result<(SessionClass, Role), Error> {
        let default = self.house.options.policy.session_class;
        let Some(user_id) = question.user_id else {
            return Ok((question.class.unwrap_or(default), Role::User));
        };
        let (user, role) = self.accounts.role_of(user_id).await?;
        let class = match (question.class, question.device_id) {
            (Some(class), _) => class,
            (None, None) => default,
            (None, Some(device_id)) => self.class_of(user, device_id).await?,
        };
        Ok((class, role))
    }

    async fn class_of(&self, user: UserNid, device_id: &str) -> Result<SessionClass, Error> {
        let row = self.house.ledger.get(&DEVICES, &(user, device_id.to_owned())).await?;
        let row = row.ok_or_else(|| Error::not_found("This user has no such device."))?;
        self.accounts.class_of(DeviceNid(row.device)).await
    }
}

/// What somebody of this class would get of a file that nobody has opened.
fn verdicts(policy: &Effective, class: SessionClass) -> Value {
    let user_id = "somebody";
    let subject = Subject { user_id, device_id: "", class, is_uploader: false };
    let mut said = serde_json::Map::new();
    for content in Content::ALL {
        for action in [Action::Download, Action::Thumbnail, Action::Show] {
            let object = Object {
                uri: "",
                content,
                is_captured: false,
                may_tell_place: false,
                deadline_ms: None,
                opens: 0,
                opens_of_user: 0,
                open_until_ms: 0,
            };
            let verdict = verdict(decide(policy, &subject, action, &object, 0), action);
            said.insert(format!("{action:?} {content:?}").to_lowercase(), verdict.into());
        }
    }
    let encrypts = may_encrypt(policy, class).map_err(|why| format!("refused: {why}"));
    let encrypts = encrypts.map_or_else(|why| why, |()| "allowed".to_owned());
    said.insert("encryption".to_owned(), encrypts.into());
    said.into()
}

/// A judgement in words.
pub(crate) fn verdict(judged: Result<Permitted, Refused>, action: Action) -> String {
    match judged {
        Ok(_) if action == Action::Show => "allowed".to_owned(),
        Ok(permitted) => permitted.obligations.form.as_str().to_owned(),
        Err(Refused::Gone) => "gone".to_owned(),
        Err(Refused::Denied(denial)) => format!("refused: {}", denial.why),
    }
}
