//! Which rooms are shared with which hospitals: none that stays inside (`m.federate: false`, or a class
//! that the policy keeps inside), and with a peer only the classes that its record names.

use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::{CanonicalJsonObject, CanonicalJsonValue, ServerName, UserId};
use appliance_model::{Error, RoomNid};
use appliance_rules::policy::{Field, POLICY_TYPE, Policy, RoomClass};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Rooms;
use super::room::OpenRoom;
use crate::policy::{of_room, room_policy};

/// "`m.federate`: Whether users on other servers can join this room. Defaults to true".
const FEDERATE: &str = "m.federate";

/// Whether people of other servers can join, by the content of the create event.
pub(super) fn is_federated(create: &str) -> bool {
    serde_json::from_str::<CanonicalJsonObject>(create)
        .map_or(true, |content| is_federated_object(&content))
}

/// The same, parsed already.
pub(super) fn is_federated_object(create: &CanonicalJsonObject) -> bool {
    create.get(FEDERATE) != Some(&CanonicalJsonValue::Bool(false))
}

impl Rooms {
    /// Whether a room that says `policy` stays inside this hospital.
    fn is_internal(&self, policy: Option<&Policy>) -> bool {
        let house = &self.house;
        !house.options.policy.is_off
            && house.policy_in(None, policy).get(Field::FederationRooms) == Some(1)
    }

    /// The content of a create event, with what the room's class needs.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`]: it says that the room is for others, too.
    pub(super) fn kept_inside(
        &self,
        mut creation: CanonicalJsonObject,
        policy: &Option<Policy>,
    ) -> Result<CanonicalJsonObject, Error> {
        if !self.is_internal(policy.as_ref()) {
            return Ok(creation);
        }
        if creation.get(FEDERATE) == Some(&CanonicalJsonValue::Bool(true)) {
            return Err(Error::invalid_param(
                "Your hospital's policy keeps rooms of this class inside: `m.federate` cannot be true.",
            ));
        }
        creation.insert(FEDERATE.to_owned(), CanonicalJsonValue::Bool(false));
        Ok(creation)
    }

    /// Whether a room that says this of itself may be shared with a server.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`]: it stays inside, or the server's record does not name its
    /// class.
    pub(super) fn check_kind(
        &self,
        (is_federated, policy): (bool, Option<Policy>),
        server: &ServerName,
    ) -> Result<(), Error> {
        if !is_federated {
            return Err(Error::forbidden("This room is not shared with other servers."));
        }
        if self.is_internal(policy.as_ref()) {
            let why = "Your hospital's policy keeps rooms of this class inside.";
            return Err(Error::forbidden(why));
        }
        self.check_class(self.house.policy.now().class_of(policy.as_ref()), server)
    }

    fn check_class(&self, class: RoomClass, server: &ServerName) -> Result<(), Error> {
        let class = class.as_str();
        match self.house.roll.allows_room_kind(server, class) {
            true => Ok(()),
            false => Err(Error::forbidden(format!(
                "Rooms of the class {class} are not shared with {server}: its record on the list of \
                 peers does not name it."
            ))),
        }
    }

    /// Whether people of a server may be in a room that this server is in.
    ///
    /// # Errors
    ///
    /// As [`Rooms::check_kind`].
    pub(crate) async fn check_shared(
        &self,
        room: RoomNid,
        server: &ServerName,
    ) -> Result<(), Error> {
        let create = self.current(room, &StateEventType::RoomCreate, "").await?;
        let Some(create) = create else { return Ok(()) };
        let policy = of_room(self, room).await?;
        if policy.is_none() && is_federated(create.content()) {
            let by = create.part(create.spans.sender).trim_matches('"');
            let is_made_here = UserId::parse(by).is_ok_and(|by| self.house.is_ours(&by));
            if !is_made_here {
                // What this house says of rooms without a class says nothing of others' rooms.
                return self.check_class(RoomClass::General, server);
            }
        }
        self.check_kind((is_federated(create.content()), policy), server)
    }

    /// Whether our people may be in a room elsewhere that `server` brings them into, by what that shows
    /// of it.
    ///
    /// # Errors
    ///
    /// As [`Rooms::check_kind`]; a class that this server does not know is none that it shares.
    pub(crate) fn check_shared_elsewhere<'a>(
        &self,
        server: &ServerName,
        shown: impl IntoIterator<Item = &'a RawValue>,
    ) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Seen<'a> {
            #[serde(rename = "type")]
            kind: String,
            #[serde(default)]
            state_key: Option<String>,
            #[serde(borrow)]
            content: &'a RawValue,
        }
        if self.house.options.policy.is_off {
            return Ok(());
        }
        let said = shown.into_iter().find_map(|raw| {
            let seen = serde_json::from_str::<Seen<'_>>(raw.get()).ok()?;
            let is_policy = seen.kind == POLICY_TYPE && seen.state_key.as_deref() == Some("");
            is_policy.then_some(seen.content)
        });
        let Some(said) = said else { return self.check_class(RoomClass::General, server) };
        let said = serde_json::from_str::<serde_json::Value>(said.get()).unwrap_or_default();
        let class = match said.get("class") {
            None => RoomClass::General,
            Some(class) => class.as_str().and_then(RoomClass::parse).ok_or_else(|| {
                Error::forbidden("That room is of a class that this server does not know.")
            })?,
        };
        let of_class = room_policy(&serde_json::json!({ "class": class.as_str() }).to_string());
        self.check_kind((true, Some(of_class)), server)
    }

    /// Whether a room may say this policy, for all whose people are in it.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`]: a server is in it that may not be in such a room.
    pub(super) async fn check_may_become<T>(
        &self,
        room: &OpenRoom<'_>,
        content: &Raw<T>,
    ) -> Result<(), Error> {
        if self.house.options.policy.is_off {
            return Ok(());
        }
        let policy = room_policy(content.json().get());
        for server in room.servers() {
            self.check_kind((true, Some(policy.clone())), &server).map_err(|error| {
                let message = format!("People of {server} are in this room. {}", error.message);
                Error::forbidden(message)
            })?;
        }
        Ok(())
    }
}
