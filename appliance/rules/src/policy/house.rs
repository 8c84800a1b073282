//! The policy of the house: what its administrator says for everyone, for roles, and what each class of
//! room brings along.

use appliance_model::{Role, SessionClass};
use serde_json::{Map, Value, json};

use super::classes::{Mode, RoomClass, watermark};
use super::field::{Field, PEERS_DENY, PEERS_LEASE};
use super::object::{Effective, Policy, Scope};

/// Longer names are no names.
const NAME_CHARS_MAX: usize = 64;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// A shift, with its handover.
const KIOSK_SESSION_MS: u64 = 12 * 60 * 60 * 1_000;
/// Long enough to look after the next patient, and come back.
const KIOSK_IDLE_MS: u64 = 30 * 60 * 1_000;
/// Loading a photo twice within two minutes is looking once.
pub const OPEN_WINDOW_MS: u64 = 120_000;

/// What the administrator says. Read from a policy pack or set with `wardstone policy set`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HousePolicy {
    /// Its name, e.g. `uk-nhs`; empty for what the server does by itself.
    pub name: String,
    /// The class of rooms that name none.
    pub room_class: RoomClass,
    server: Policy,
    users: Policy,
    administrators: Policy,
    /// In the order of [`RoomClass::ALL`].
    classes: [Policy; 4],
}

/// What this server cannot do, and its settings: the outermost scope.
pub fn settings_scope(ttl_ms: u64) -> Policy {
    Policy::of([
        (Field::TtlMs, ttl_ms),
        // What showed a file is always redacted with it, where that is known.
        (Field::OnExpiry, 1),
        // Whoever walks away from a shared machine is signed out there.
        (Field::SessionKioskMs, KIOSK_SESSION_MS),
        (Field::IdleKioskMs, KIOSK_IDLE_MS),
    ])
}

/// What a class brings along, before the house adds to it.
pub fn built_in(class: RoomClass) -> Policy {
    let modes = |modes: [Mode; 4], peer: Mode| {
        let [managed, kiosk, unmanaged, bot] = modes;
        [
            (SessionClass::Managed, managed),
            (SessionClass::BrowserKiosk, kiosk),
            (SessionClass::Unmanaged, unmanaged),
            (SessionClass::Bot, bot),
            (SessionClass::PeerUser, peer),
        ]
        .map(|(class, mode)| (Field::mode_of(class), mode as u64))
    };
    let clinical = [
        (Field::TtlMs, DAY_MS),
        (Field::OpensPerUserMax, 3),
        (Field::OpenWindowMs, OPEN_WINDOW_MS),
        (Field::InheritByHash, 1),
    ];
    let stamped = [
        (Field::OnExpiry, 1),
        (Field::Watermark, watermark::USER | watermark::TIME),
        (Field::StripMetadata, 1),
    ];
    let photos = |peer| {
        modes([Mode::Original, Mode::Viewer, Mode::Placeholder, Mode::Deny], peer)
            .into_iter()
            .chain(clinical)
            .chain(stamped)
    };
    match class {
        RoomClass::General => Policy::of(modes([Mode::Original; 4], Mode::Original)),
        // "not shared with others": `m.federate` is false.
        RoomClass::ClinicalPhoto => {
            Policy::of(photos(Mode::Deny).chain([(Field::FederationRooms, 1)]))
        }
        // The same for people of hospitals of our kind, whose devices are judged like ours; and nothing
        // for other servers.
        RoomClass::ClinicalShared => {
            Policy::of(photos(Mode::Original).chain([
                (Field::FederationOurs, PEERS_LEASE),
                (Field::FederationOther, PEERS_DENY),
            ]))
        }
        // A picture of another kind in place of what is encrypted fails the app's own check: the
        // bytes or nothing.
        RoomClass::ClinicalE2ee => Policy::of(
            modes([Mode::Original, Mode::Deny, Mode::Deny, Mode::Deny], Mode::Deny)
                .into_iter()
                .chain(clinical),
        ),
    }
}

impl HousePolicy {
    /// Reads a policy pack:
    ///
    /// `{"name": "uk-nhs", "room_class": "general", "server": {…}, "role": {"user": {…},
    /// "administrator": {…}}, "class": {"clinical-photo": {…}}}`, each `{…}` as in
    /// [`Policy::from_json`] without a class.
    ///
    /// # Errors
    ///
    /// A sentence, if it cannot be kept as it is written.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        const MALFORMED: &str =
            "A policy pack has `name`, `room_class`, `server`, `role` and `class`.";
        let mut pack = Self::default();
        for (key, value) in value.as_object().ok_or(MALFORMED)? {
            match key.as_str() {
                // What the server does by itself has no name.
                "name" if value == "" => {}
                "name" => pack.name = name_of(value)?,
                "room_class" => {
                    let class = value.as_str().and_then(RoomClass::parse);
                    pack.room_class = class.ok_or("`room_class` is no class of rooms.")?;
                }
                "server" => pack.server = classless(Policy::of_house(value)?)?,
                "role" => pack.read_roles(value.as_object().ok_or(MALFORMED)?)?,
                "class" => pack.read_classes(value.as_object().ok_or(MALFORMED)?)?,
                _ => return Err(MALFORMED.to_owned()),
            }
        }
        Ok(pack)
    }

    fn read_roles(&mut self, roles: &Map<String, Value>) -> Result<(), String> {
        for (role, value) in roles {
            match role.as_str() {
                "user" => self.users = scope(value)?,
                "administrator" => self.administrators = scope(value)?,
                _ => return Err("A role is `user` or `administrator`.".to_owned()),
            }
        }
        Ok(())
    }

    fn read_classes(&mut self, classes: &Map<String, Value>) -> Result<(), String> {
        for (class, value) in classes {
            let class = RoomClass::parse(class)
                .ok_or_else(|| format!("\"{class}\" is no class of rooms."))?;
            self.classes[class as usize] = scope(value)?;
        }
        Ok(())
    }

    /// As it is written.
    pub fn to_json(&self) -> Value {
        let classes = RoomClass::ALL
            .map(|class| (class.as_str().to_owned(), self.classes[class as usize].to_json()));
        json!({
            "name": self.name,
            "room_class": self.room_class.as_str(),
            "server": self.server.to_json(),
            "role": {
                "user": self.users.to_json(),
                "administrator": self.administrators.to_json(),
            },
            "class": Map::from_iter(classes),
        })
    }

    /// The class of a room with these policies: what it names, else what the house says.
    pub fn class_of(&self, room: Option<&Policy>) -> RoomClass {
        room.and_then(|policy| policy.class).unwrap_or(self.room_class)
    }

    fn role(&self, role: Role) -> &Policy {
        match role {
            Role::User | Role::Suspended => &self.users,
            Role::Administrator => &self.administrators,
        }
    }

    /// What holds for everything and everyone with this role: sessions, uploads.
    pub fn for_role(&self, settings: &Policy, role: Role) -> Effective {
        Effective::of([
            (Scope::Settings, settings),
            (Scope::Server, &self.server),
            (Scope::Role, self.role(role)),
        ])
    }

    /// What holds in a room, for those with this role (none: for what is not about a reader).
    pub fn in_room(
        &self,
        settings: &Policy,
        role: Option<Role>,
        room: Option<&Policy>,
    ) -> Effective {
        let mut effective = match role {
            Some(role) => self.for_role(settings, role),
            None => Effective::of([(Scope::Settings, settings), (Scope::Server, &self.server)]),
        };
        let class = self.class_of(room);
        effective.meet(Scope::Class, &built_in(class));
        effective.meet(Scope::Class, &self.classes[class as usize]);
        if let Some(room) = room {
            effective.meet(Scope::Room, room);
        }
        effective
    }
}

fn scope(value: &Value) -> Result<Policy, String> {
    classless(Policy::from_json(value)?)
}

fn classless(policy: Policy) -> Result<Policy, String> {
    if policy.class.is_some() {
        return Err("Only rooms have a `class`; a pack says `room_class`.".to_owned());
    }
    Ok(policy)
}

fn name_of(value: &Value) -> Result<String, String> {
    let sane = |name: &&str| {
        (1..=NAME_CHARS_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let name = value.as_str().filter(sane);
    Ok(name.ok_or("`name` is made of letters, digits, `-`, `_` and `.`.")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_is_kept_as_written_or_refused() {
        let pack = json!({
            "name": "ward-7", "room_class": "clinical-photo",
            "server": { "device": {
                "session_max_ms": { "unmanaged": 43_200_000 }, "unmanaged_encryption": "none",
            } },
            "role": { "administrator": { "device": { "managed": "deny" } } },
            "class": { "clinical-photo": { "media": { "ttl_ms": 3_600_000 } } },
        });
        let house = HousePolicy::from_json(&pack).unwrap();
        assert_eq!(HousePolicy::from_json(&house.to_json()), Ok(house.clone()));
        let nameless = HousePolicy::from_json(&json!({})).unwrap();
        assert_eq!(HousePolicy::from_json(&nameless.to_json()), Ok(nameless));
        let settings = settings_scope(7 * DAY_MS);
        let held = house.in_room(&settings, Some(Role::User), None);
        assert_eq!(held.get(Field::TtlMs), Some(3_600_000));
        assert_eq!(held.get(Field::Managed), Some(Mode::Original as u64));
        let held = house.in_room(&settings, Some(Role::Administrator), None);
        assert_eq!(held.get(Field::Managed), Some(Mode::Deny as u64));
        for bad in [
            json!([]),
            json!({ "name": "a b" }),
            json!({ "room_class": "ward" }),
            json!({ "server": { "class": "general" } }),
            json!({ "server": { "device": { "unmanaged_encryption": "some" } } }),
            json!({ "role": { "user": { "device": { "unmanaged_encryption": "none" } } } }),
            json!({ "class": { "clinical-e2ee": { "device": { "unmanaged_encryption": "none" } } } }),
            json!({ "role": { "nurse": {} } }),
            json!({ "class": { "ward": {} } }),
            json!({ "extra": 1 }),
        ] {
            assert!(HousePolicy::from_json(&bad).is_err(), "{bad}");
        }
    }
}
