//! Everything that a policy can say, in one table. Every field is a number with one direction that is
//! stricter, so that scopes meet by one rule: the strictest value of each field wins.

use appliance_model::SessionClass;

use super::classes::{Mode, watermark};

/// A thing that a policy can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// How long a file lives after it was sent.
    TtlMs,
    /// How long a file lives after somebody else opened it first.
    TtlAfterOpenMs,
    /// How often a file is opened, all people together.
    OpensMax,
    /// How often one person opens a file.
    OpensPerUserMax,
    /// Fetches of one person within this time are one opening; at most
    /// [`super::OPEN_WINDOW_MS`].
    OpenWindowMs,
    /// The same bytes sent again end with the first.
    InheritByHash,
    /// What happens when a file's time is over.
    OnExpiry,
    /// What a managed device gets.
    Managed,
    /// What an unmanaged device gets.
    Unmanaged,
    /// What a browser on a shared machine gets.
    BrowserKiosk,
    /// What a program gets.
    Bot,
    /// What a user of another server gets.
    PeerUser,
    /// How unmanaged devices send pictures.
    UploadFromUnmanaged,
    /// What is written over renderings.
    Watermark,
    /// How long a session lasts, by class.
    SessionManagedMs,
    /// The same for unmanaged devices.
    SessionUnmanagedMs,
    /// The same for browsers on shared machines.
    SessionKioskMs,
    /// The same for programs.
    SessionBotMs,
    /// How long a session may rest, by class.
    IdleManagedMs,
    /// The same for unmanaged devices.
    IdleUnmanagedMs,
    /// The same for browsers on shared machines.
    IdleKioskMs,
    /// The same for programs.
    IdleBotMs,
    /// What hospitals of our kind get.
    FederationOurs,
    /// What other servers get.
    FederationOther,
    /// Whether rooms are for this hospital alone.
    FederationRooms,
    /// Whether the camera page must be told that the patient agreed.
    CameraConsent,
    /// Whether it must be told whose photo it is.
    CameraReference,
    /// Whether pictures are kept without what cameras write beside them: place, time, device.
    StripMetadata,
    /// How long everything lives that is said in a room, files or not.
    TimelineTtlMs,
    /// Whether unmanaged devices take part in end-to-end encryption.
    UnmanagedEncryption,
}

/// How many there are.
pub(super) const FIELDS: usize = Field::UnmanagedEncryption as usize + 1;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A whole number, at least this.
    AtLeast(u64),
    /// One of these, loosest first.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// `{user}`, `{time}`, `{device}`, divided by spaces.
    Watermark,
}

/// Which of two values is stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stricter {
    Least,
    Most,
    /// Both together.
    Union,
}

/// A row of the table.
pub(super) struct Rule {
    pub field: Field,
    /// `media.ttl_ms`, as people write it.
    pub path: &'static str,
    pub shape: Shape,
    pub stricter: Stricter,
}

/// Shorter than this nobody could fetch the file.
pub const TTL_MS_MIN: u64 = 1_000;
/// A shorter session ends while its owner types.
const SESSION_MS_MIN: u64 = 60_000;

const fn least(field: Field, path: &'static str, at_least: u64) -> Rule {
    Rule { field, path, shape: Shape::AtLeast(at_least), stricter: Stricter::Least }
}

const fn word(field: Field, path: &'static str, words: &'static [&'static str]) -> Rule {
    Rule { field, path, shape: Shape::Word(words), stricter: Stricter::Most }
}

const PEERS: &[&str] = &["allow", "ephemeral", "lease", "deny"];
/// Other servers get files that are marked: to be passed on, not kept.
pub(super) const PEERS_EPHEMERAL: u64 = 1;
/// Files are lent, look by look.
pub(super) const PEERS_LEASE: u64 = 2;
/// Files are not given.
pub(super) const PEERS_DENY: u64 = 3;

pub(super) const RULES: [Rule; FIELDS] = [
    least(Field::TtlMs, "media.ttl_ms", TTL_MS_MIN),
    least(Field::TtlAfterOpenMs, "media.ttl_after_open_ms", TTL_MS_MIN),
    least(Field::OpensMax, "media.max_opens", 1),
    least(Field::OpensPerUserMax, "media.max_opens_per_user", 1),
    least(Field::OpenWindowMs, "media.open_window_ms", TTL_MS_MIN),
    Rule {
        field: Field::InheritByHash,
        path: "media.inherit_by_hash",
        shape: Shape::Flag,
        stricter: Stricter::Most,
    },
    word(Field::OnExpiry, "media.on_expiry", &["erase", "redact+erase"]),
    word(Field::Managed, "device.managed", Mode::WORDS),
    word(Field::Unmanaged, "device.unmanaged", Mode::WORDS),
    word(Field::BrowserKiosk, "device.browser-kiosk", Mode::WORDS),
    word(Field::Bot, "device.bot", Mode::WORDS),
    word(Field::PeerUser, "device.peer-user", Mode::WORDS),
    word(Field::UploadFromUnmanaged, "device.upload_from_unmanaged", UPLOADS),
    Rule {
        field: Field::Watermark,
        path: "device.watermark",
        shape: Shape::Watermark,
        stricter: Stricter::Union,
    },
    least(Field::SessionManagedMs, "device.session_max_ms.managed", SESSION_MS_MIN),
    least(Field::SessionUnmanagedMs, "device.session_max_ms.unmanaged", SESSION_MS_MIN),
    least(Field::SessionKioskMs, "device.session_max_ms.browser-kiosk", SESSION_MS_MIN),
    least(Field::SessionBotMs, "device.session_max_ms.bot", SESSION_MS_MIN),
    least(Field::IdleManagedMs, "device.session_idle_ms.managed", SESSION_MS_MIN),
    least(Field::IdleUnmanagedMs, "device.session_idle_ms.unmanaged", SESSION_MS_MIN),
    least(Field::IdleKioskMs, "device.session_idle_ms.browser-kiosk", SESSION_MS_MIN),
    least(Field::IdleBotMs, "device.session_idle_ms.bot", SESSION_MS_MIN),
    word(Field::FederationOurs, "federation.ours", PEERS),
    word(Field::FederationOther, "federation.other", PEERS),
    word(Field::FederationRooms, "federation.rooms", &["shared", "internal"]),
    word(Field::CameraConsent, "camera.consent", TOLD),
    word(Field::CameraReference, "camera.reference", TOLD),
    Rule {
        field: Field::StripMetadata,
        path: "device.strip_metadata",
        shape: Shape::Flag,
        stricter: Stricter::Most,
    },
    least(Field::TimelineTtlMs, "timeline.ttl_ms", TTL_MS_MIN),
    word(Field::UnmanagedEncryption, "device.unmanaged_encryption", ENCRYPTION),
];

/// Whether unmanaged devices take part in encryption.
const ENCRYPTION: &[&str] = &["allow", "none"];
/// They do not.
pub(super) const ENCRYPTION_NONE: u64 = 1;

/// What may be told with a photo.
const TOLD: &[&str] = &["optional", "required"];

/// How unmanaged devices send pictures, loosest first.
const UPLOADS: &[&str] = &["allow", "capture-page-only", "deny"];
/// Pictures from unmanaged devices are refused unless the hospital's own camera page took them.
pub(super) const UPLOAD_CAPTURE: u64 = 1;
/// Pictures from unmanaged devices are refused.
pub(super) const UPLOAD_DENY: u64 = 2;

impl Field {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        RULES.iter().map(|rule| rule.field)
    }

    /// As people write it, e.g. `media.ttl_ms`.
    pub fn path(self) -> &'static str {
        self.rule().path
    }

    pub(super) fn rule(self) -> &'static Rule {
        &RULES[self as usize]
    }

    /// The field of this path.
    pub(super) fn at(path: &str) -> Option<Self> {
        RULES.iter().find(|rule| rule.path == path).map(|rule| rule.field)
    }

    /// The stricter of two values.
    pub(super) fn stricter(self, one: u64, other: u64) -> u64 {
        match self.rule().stricter {
            Stricter::Least => one.min(other),
            Stricter::Most => one.max(other),
            Stricter::Union => one | other,
        }
    }

    /// Only the house says this, for everyone and everywhere: a device has one set of keys, whatever the room
    /// and whoever writes.
    pub(super) fn is_of_house_only(self) -> bool {
        self == Self::UnmanagedEncryption
    }

    /// What a device of this class gets.
    pub fn mode_of(class: SessionClass) -> Self {
        match class {
            SessionClass::Managed => Self::Managed,
            SessionClass::Unmanaged => Self::Unmanaged,
            SessionClass::BrowserKiosk => Self::BrowserKiosk,
            SessionClass::Bot => Self::Bot,
            SessionClass::PeerUser => Self::PeerUser,
        }
    }

    /// How long a session of this class lasts, and how long it may rest; none for users of other
    /// servers, whose sessions are not ours.
    pub fn session_of(class: SessionClass) -> Option<(Self, Self)> {
        match class {
            SessionClass::Managed => Some((Self::SessionManagedMs, Self::IdleManagedMs)),
            SessionClass::Unmanaged => Some((Self::SessionUnmanagedMs, Self::IdleUnmanagedMs)),
            SessionClass::BrowserKiosk => Some((Self::SessionKioskMs, Self::IdleKioskMs)),
            SessionClass::Bot => Some((Self::SessionBotMs, Self::IdleBotMs)),
            SessionClass::PeerUser => None,
        }
    }

    /// A value as people write it.
    pub fn say(self, value: u64) -> serde_json::Value {
        match self.rule().shape {
            Shape::AtLeast(_) => value.into(),
            Shape::Flag => (value > 0).into(),
            Shape::Word(words) => {
                let index = usize::try_from(value).unwrap_or(usize::MAX);
                words.get(index).copied().unwrap_or("deny").into()
            }
            Shape::Watermark => {
                let parts = watermark::PARTS.iter().filter(|(_, bit)| value & bit != 0);
                parts.map(|(word, _)| *word).collect::<Vec<_>>().join(" ").into()
            }
        }
    }

    /// The value that people wrote.
    ///
    /// # Errors
    ///
    /// A sentence that says what can be written.
    pub(super) fn read(self, value: &serde_json::Value) -> Result<u64, String> {
        let path = self.path();
        match self.rule().shape {
            Shape::AtLeast(least) => value
                .as_u64()
                .filter(|value| *value >= least)
                .ok_or_else(|| format!("`{path}` is a whole number, at least {least}.")),
            Shape::Flag => value
                .as_bool()
                .map(u64::from)
                .ok_or_else(|| format!("`{path}` is `true` or `false`.")),
            Shape::Word(words) => value
                .as_str()
                .and_then(|word| words.iter().position(|known| *known == word))
                .map(|index| index as u64)
                .ok_or_else(|| format!("`{path}` is one of: {}.", words.join(", "))),
            Shape::Watermark => read_watermark(value).ok_or_else(|| {
                format!("`{path}` is made of {{user}}, {{time}} and {{device}}, e.g. \"{{user}} {{time}}\".")
            }),
        }
    }
}

fn read_watermark(value: &serde_json::Value) -> Option<u64> {
    let mut bits = 0;
    for word in value.as_str()?.split_whitespace() {
        bits |= watermark::PARTS.iter().find(|(known, _)| *known == word)?.1;
    }
    (bits != 0).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_fields() {
        for (index, rule) in RULES.iter().enumerate() {
            assert_eq!(rule.field as usize, index, "{}", rule.path);
            assert_eq!(Field::at(rule.path), Some(rule.field));
        }
    }

    #[test]
    fn what_is_said_can_be_read_again() {
        for field in Field::all() {
            let values: Vec<u64> = match field.rule().shape {
                Shape::AtLeast(least) => vec![least, least + 1, 86_400_000],
                Shape::Flag => vec![0, 1],
                Shape::Word(words) => (0..words.len() as u64).collect(),
                Shape::Watermark => (1..8).collect(),
            };
            for value in values {
                assert_eq!(field.read(&field.say(value)), Ok(value), "{}", field.path());
            }
        }
    }
}
