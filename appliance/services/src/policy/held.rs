//! What the house policy says now, in memory; and what a room says.

use std::sync::{Arc, PoisonError, RwLock};

use appliance_ledger::Ledger;
use appliance_ledger::keyspaces::HOUSE_POLICY;
use appliance_ledger::rows::policy::SessionRow;
use appliance_model::ruma::events::StateEventType;
use appliance_model::{Error, Role, RoomNid, SessionClass};
use appliance_rules::policy::{Effective, HousePolicy, POLICY_TYPE, Policy, settings_scope};

use crate::house::House;
use crate::rooms::Rooms;

/// What the operator chose about sessions and their classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyOptions {
    /// The class of a session about which nothing else is known.
    pub session_class: SessionClass,
    /// Every session counts as managed, and no class of rooms has rules of its own: for conformance
    /// suites only.
    pub is_off: bool,
}

/// The policy that the administrator set. A change is seen by the next request.
#[derive(Default)]
pub struct Held(RwLock<Arc<HousePolicy>>);

impl Held {
    /// What holds now.
    pub fn now(&self) -> Arc<HousePolicy> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn replace(&self, policy: Arc<HousePolicy>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// Reads what was set before the house was closed. To be called before anybody is let in.
    ///
    /// # Errors
    ///
    /// If the store fails, or holds a policy that this binary cannot keep: then it must not open.
    pub async fn load(&self, ledger: &Ledger) -> Result<(), Error> {
        let Some(row) = ledger.get(&HOUSE_POLICY, &()).await? else { return Ok(()) };
        let unreadable = |why: String| Error::internal(format!("the house policy: {why}"));
        let json =
            serde_json::from_str(&row.json).map_err(|error| unreadable(error.to_string()))?;
        self.replace(Arc::new(HousePolicy::from_json(&json).map_err(unreadable)?));
        Ok(())
    }
}

impl House {
    /// The class that a session's row says; sessions from before there were classes have that of the settings.
    pub(crate) fn class_in(&self, row: Option<&SessionRow>) -> SessionClass {
        let options = &self.options.policy;
        if options.is_off {
            return SessionClass::Managed;
        }
        row.and_then(|row| SessionClass::parse(&row.class)).unwrap_or(options.session_class)
    }

    /// What the settings say: the outermost scope.
    pub(crate) fn settings_scope(&self) -> Policy {
        settings_scope(self.options.media.ttl_ms)
    }

    /// What holds for the sessions and uploads of people with this role.
    pub(crate) fn policy_for(&self, role: Role) -> Effective {
        self.policy.now().for_role(&self.settings_scope(), role)
    }

    /// What holds in a room that says `room`; for readers with this role, or for nobody in
    /// particular.
    pub(crate) fn policy_in(&self, role: Option<Role>, room: Option<&Policy>) -> Effective {
        let house = self.policy.now();
        house.in_room(&self.settings_scope(), role, room)
    }
}

/// What the content of a room's policy event says. One that came from elsewhere and cannot be read is
/// taken for a strict one.
pub(crate) fn room_policy(content: &str) -> Policy {
    Policy::parse(content).unwrap_or_else(|_| Policy::unreadable())
}

/// What a room says now; none if it says nothing.
pub(crate) async fn of_room(rooms: &Rooms, room: RoomNid) -> Result<Option<Policy>, Error> {
    let kind = StateEventType::from(POLICY_TYPE);
    let event = rooms.current(room, &kind, "").await?;
    Ok(event.map(|event| room_policy(event.content())))
}
