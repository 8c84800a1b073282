//! The words of a policy: classes of sessions and rooms, and what a device may have.

/// What kind of room it is. A room names its class; the class brings rules along
/// ([`super::HousePolicy`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoomClass {
    /// A room like any other: the server's own limit holds, and what the room asks for.
    #[default]
    General,
    /// Photos of patients, readable to this server, not shared with others.
    ClinicalPhoto,
    /// Encrypted end to end: this server sees blobs, not pictures.
    ClinicalE2ee,
    /// Readable to this server and to hospitals of our kind.
    ClinicalShared,
}

impl RoomClass {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::General, Self::ClinicalPhoto, Self::ClinicalE2ee, Self::ClinicalShared];

    /// The word in a policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::General => "general",
            Self::ClinicalPhoto => "clinical-photo",
            Self::ClinicalE2ee => "clinical-e2ee",
            Self::ClinicalShared => "clinical-shared",
        }
    }

    /// The class of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == word)
    }

    /// Whether this server must be able to read what is sent there: watermarks, placeholders and
    /// the check of what is sent are impossible otherwise.
    pub fn is_server_readable(self) -> bool {
        matches!(self, Self::ClinicalPhoto | Self::ClinicalShared)
    }
}

/// What a device gets of a governed file. Later is stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// The bytes that were uploaded.
    Original,
    /// A small rendering with the reader's name in it.
    Thumbnail,
    /// A look in the viewer; elsewhere a picture that says so.
    Viewer,
    /// A picture that says where to look.
    Placeholder,
    /// Nothing.
    Deny,
}

impl Mode {
    /// All of them, loosest first.
    pub const ALL: [Self; 5] =
        [Self::Original, Self::Thumbnail, Self::Viewer, Self::Placeholder, Self::Deny];
    /// Their words, in the same order.
    pub const WORDS: &'static [&'static str] =
        &["original", "thumbnail", "viewer", "placeholder", "deny"];

    /// The mode of a value of [`super::Field::mode_of`]; what is unknown is [`Mode::Deny`].
    pub fn of(value: Option<u64>) -> Self {
        value
            .and_then(|value| usize::try_from(value).ok())
            .and_then(|index| Self::ALL.get(index).copied())
            .unwrap_or(Self::Deny)
    }

    /// The word in a policy.
    pub fn as_str(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// What is written over a rendering, as bits: more is stricter.
pub mod watermark {
    /// Who looks.
    pub const USER: u64 = 1;
    /// When, in UTC.
    pub const TIME: u64 = 2;
    /// On which device.
    pub const DEVICE: u64 = 4;

    /// Placeholder and bit.
    pub(crate) const PARTS: [(&str, u64); 3] =
        [("{user}", USER), ("{time}", TIME), ("{device}", DEVICE)];
}
