//! What an administrator says of a peer: on the command line, in a file, or at the admin socket.

use std::collections::BTreeMap;

use appliance_ledger::rows::peers::PeerRow;
use appliance_model::Error;
use appliance_model::ruma::ServerName;
use appliance_rules::policy::RoomClass;
use minicbor::bytes::ByteVec;
use serde::{Deserialize, Serialize};
use time::{Date, Month, OffsetDateTime};

/// A legal name or a contact fits on a line.
const TEXT_BYTES_MAX: usize = 500;

/// Registers in which a hospital has a number: a handful in every country.
const IDENTIFIERS_MAX: usize = 16;

/// Keys that are pinned of one server.
const PINNED_MAX: usize = 16;

/// A chain of authorities in PEM has some 6 KB.
const AUTHORITIES_BYTES_MAX: usize = 64 * 1024;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// What the administrator says of a peer; what is none stays as it is. An empty text takes back what
/// was said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeerChange {
    /// Its name as an organisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legal_name: Option<String>,
    /// Whose law holds there, e.g. `DE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jurisdiction: Option<String>,
    /// Whom to call there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// Under which contract this is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contract: Option<String>,
    /// The first day, `2026-12-31`, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<String>,
    /// The last day, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<String>,
    /// Nothing is exchanged for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended: Option<bool>,
    /// Its people may invite ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_invite: Option<bool>,
    /// Its people may be invited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_be_invited: Option<bool>,
    /// How files are given to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<MediaMode>,
    /// The only classes of rooms that are shared with it; an empty list: all that are shared at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_kinds: Option<Vec<String>>,
    /// Where to connect to, instead of asking where it is: `10.1.2.3:8448`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Whom its certificate must name, if not its server name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_name: Option<String>,
    /// The only authorities whose certificates count for it, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorities: Option<String>,
    /// The only public keys that its certificate may have: `sha256:` and 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_pins: Option<Vec<String>>,
    /// The only authorities of the certificate that it must show when it connects here, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_authorities: Option<String>,
    /// The only public keys that this certificate may have: `sha256:` and 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_pins: Option<Vec<String>>,
    /// It is shown this server's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub show_certificate: Option<bool>,
    /// Key IDs and public keys in unpadded Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned_keys: Option<BTreeMap<String, String>>,
    /// Registers and its numbers in them: `ods = "RJ1"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identifiers: Option<BTreeMap<String, String>>,
}

/// How files are given to a peer, strictest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", from = "SaidMode")]
pub enum MediaMode {
    /// Not at all; nor are any taken from it.
    #[default]
    Deny,
    /// Lent for one look, to servers of our kind.
    Lease,
    /// With the mark that they are to be passed on and not kept there.
    Ephemeral,
    /// As to anybody.
    Allow,
}

/// As files of peers say it: earlier ones knew only yes and no.
#[derive(Deserialize)]
#[serde(untagged)]
enum SaidMode {
    Flag(bool),
    Word(ModeWord),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModeWord {
    Deny,
    Lease,
    Ephemeral,
    Allow,
}

impl From<SaidMode> for MediaMode {
    fn from(said: SaidMode) -> Self {
        match said {
            SaidMode::Flag(false) | SaidMode::Word(ModeWord::Deny) => Self::Deny,
            SaidMode::Word(ModeWord::Lease) => Self::Lease,
            SaidMode::Word(ModeWord::Ephemeral) => Self::Ephemeral,
            SaidMode::Flag(true) | SaidMode::Word(ModeWord::Allow) => Self::Allow,
        }
    }
}

impl MediaMode {
    /// The modes, by their words.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("deny", Self::Deny),
        ("lease", Self::Lease),
        ("ephemeral", Self::Ephemeral),
        ("allow", Self::Allow),
    ];

    /// What a record says.
    pub(super) fn of(row: &PeerRow) -> Self {
        match (row.media, row.media_limit) {
            (false, _) => Self::Deny,
            (true, None) => Self::Allow,
            (true, Some(1)) => Self::Ephemeral,
            (true, Some(_)) => Self::Lease,
        }
    }

    fn write(self, row: &mut PeerRow) {
        row.media = self != Self::Deny;
        row.media_limit = match self {
            Self::Lease => Some(2),
            Self::Ephemeral => Some(1),
            Self::Deny | Self::Allow => None,
        };
    }
}

impl PeerChange {
    /// Everything that was said of a peer.
    pub fn of(row: &PeerRow) -> Self {
        let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let pinned: BTreeMap<_, _> = row.pinned_keys.iter().cloned().collect();
        let spelt = |pins: &Vec<ByteVec>| pins.iter().map(|pin| spell_pin(pin)).collect();
        let last_day = |ms: u64| day(ms.saturating_sub(1));
        Self {
            legal_name: said(&row.legal_name),
            jurisdiction: row.jurisdiction.clone(),
            contact: said(&row.contact),
            contract: row.contract.clone(),
            valid_from: row.valid_from_ms.map(day),
            valid_until: row.valid_until_ms.map(last_day),
            suspended: Some(row.suspended),
            may_invite: Some(row.may_invite.unwrap_or(true)),
            may_be_invited: Some(row.may_be_invited.unwrap_or(true)),
            media: Some(MediaMode::of(row)),
            room_kinds: row.room_kinds.clone(),
            address: row.address.clone(),
            tls_name: row.tls_name.clone(),
            authorities: row.authorities.clone(),
            certificate_pins: row.certificate_pins.as_ref().map(spelt),
            client_authorities: row.client_authorities.clone(),
            client_pins: row.client_pins.as_ref().map(spelt),
            show_certificate: row.show_certificate,
            pinned_keys: (!pinned.is_empty()).then_some(pinned),
            identifiers: row.identifiers.clone().map(|all| all.into_iter().collect()),
        }
    }

    /// The record with what is said here; everything else stays.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`]: a sentence about what makes no sense.
    pub(super) fn apply(self, old: PeerRow) -> Result<PeerRow, Error> {
        self.check_sizes()?;
        let mut row = old;
        put(&mut row.legal_name, self.legal_name);
        put(&mut row.contact, self.contact);
        put(&mut row.suspended, self.suspended);
        if let Some(mode) = self.media {
            mode.write(&mut row);
        }
        if let Some(kinds) = self.room_kinds {
            row.room_kinds = (!kinds.is_empty()).then_some(kinds);
        }
        put_text(&mut row.jurisdiction, self.jurisdiction);
        put_text(&mut row.contract, self.contract);
        put_text(&mut row.address, self.address);
        put_text(&mut row.tls_name, self.tls_name);
        put_text(&mut row.authorities, self.authorities);
        row.may_invite = self.may_invite.or(row.may_invite);
        row.may_be_invited = self.may_be_invited.or(row.may_be_invited);
        if let Some(said) = self.valid_from {
            row.valid_from_ms = day_ms(&said)?;
        }
        if let Some(said) = self.valid_until {
            row.valid_until_ms = day_ms(&said)?.map(|ms| ms + DAY_MS);
        }
        if let Some(said) = self.identifiers {
            row.identifiers = (!said.is_empty()).then(|| said.into_iter().collect());
        }
        put_text(&mut row.client_authorities, self.client_authorities);
        if let Some(said) = self.show_certificate {
            row.show_certificate = said.then_some(true);
        }
        put_pins(&mut row.certificate_pins, self.certificate_pins)?;
        put_pins(&mut row.client_pins, self.client_pins)?;
        if let Some(said) = self.pinned_keys {
            row.pinned_keys = said.into_iter().collect();
        }
        check(&row)?;
        Ok(row)
    }

    fn check_sizes(&self) -> Result<(), Error> {
        let texts = [&self.legal_name, &self.contact, &self.jurisdiction, &self.contract];
        let named = self.identifiers.iter().flatten().flat_map(|(name, number)| [name, number]);
        if texts.into_iter().flatten().chain(named).any(|text| !is_line(text)) {
            return Err(Error::invalid_param(
                "Names, contacts, contracts and numbers are lines of at most 500 bytes.",
            ));
        }
        if self.identifiers.as_ref().is_some_and(|all| all.len() > IDENTIFIERS_MAX) {
            return Err(Error::invalid_param("A peer has at most 16 numbers in registers."));
        }
        let authorities = [&self.authorities, &self.client_authorities];
        if authorities.into_iter().flatten().any(|pem| pem.len() > AUTHORITIES_BYTES_MAX) {
            return Err(Error::invalid_param("The authorities' file is larger than 64 KiB."));
        }
        Ok(())
    }
}

/// The record as a whole.
fn check(row: &PeerRow) -> Result<(), Error> {
    let is_key = |(key_id, public): &(String, String)| {
        let bytes = super::keys::decode(public);
        key_id.starts_with("ed25519:") && bytes.is_ok_and(|bytes| bytes.len() == 32)
    };
    if row.pinned_keys.len() > PINNED_MAX || !row.pinned_keys.iter().all(is_key) {
        let message = "A pinned key is an ID such as ed25519:abc and a public key in Base64.";
        return Err(Error::invalid_param(message));
    }
    let pins = [&row.certificate_pins, &row.client_pins];
    if pins.into_iter().flatten().any(|pins| pins.len() > PINNED_MAX) {
        return Err(Error::invalid_param("A peer has at most 16 pinned certificates."));
    }
    let is_kind = |kind: &String| RoomClass::parse(kind).is_some();
    if !row.room_kinds.iter().flatten().all(is_kind) {
        let kinds = RoomClass::ALL.map(RoomClass::as_str).join(", ");
        return Err(Error::invalid_param(format!("The classes of rooms are: {kinds}.")));
    }
    if let (Some(from_ms), Some(until_ms)) = (row.valid_from_ms, row.valid_until_ms)
        && from_ms >= until_ms
    {
        return Err(Error::invalid_param("The last day is before the first."));
    }
    // The grammar of server names is that of hosts with ports.
    if row.address.as_ref().is_some_and(|address| ServerName::parse(&**address).is_err()) {
        let message = "An address is a host or an IP address, with or without a port.";
        return Err(Error::invalid_param(message));
    }
    if row.tls_name.as_ref().is_some_and(|name| ServerName::parse(&**name).is_err()) {
        return Err(Error::invalid_param("The name for TLS is no name of a host."));
    }
    if row.tls_name.is_some() && row.address.is_none() {
        let message = "A name for TLS goes with an address: without one, the peer itself says where \
                       it is and under which name.";
        return Err(Error::invalid_param(message));
    }
    Ok(())
}

fn is_line(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control)
}

fn put<T>(place: &mut T, said: Option<T>) {
    if let Some(said) = said {
        *place = said;
    }
}

fn put_text(place: &mut Option<String>, said: Option<String>) {
    if let Some(said) = said {
        *place = (!said.is_empty()).then_some(said);
    }
}

fn put_pins(place: &mut Option<Vec<ByteVec>>, said: Option<Vec<String>>) -> Result<(), Error> {
    if let Some(said) = said {
        let pins = said.iter().map(|pin| read_pin(pin).map(Into::into));
        let pins = pins.collect::<Result<Vec<_>, _>>()?;
        *place = (!pins.is_empty()).then_some(pins);
    }
    Ok(())
}

/// Midnight at the start of a day in UTC, in milliseconds since the Unix epoch; none of no text.
fn day_ms(text: &str) -> Result<Option<u64>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let is_plain =
        text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let date = || {
        let mut parts = text.splitn(3, '-');
        let year = parts.next()?.parse::<i32>().ok()?;
        let month = Month::try_from(parts.next()?.parse::<u8>().ok()?).ok()?;
        let day = parts.next()?.parse::<u8>().ok()?;
        Date::from_calendar_date(year, month, day).ok()
    };
    let date = is_plain.then(date).flatten();
    let seconds = date.map(|date| date.midnight().assume_utc().unix_timestamp());
    let ms = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(|s| s * 1_000);
    let none = || Error::invalid_param(format!("\"{text}\" is no day; write it as 2026-12-31."));
    ms.ok_or_else(none).map(Some)
}

/// The day of a moment, in UTC.
pub fn day(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{:04}-{:02}-{:02}", time.year(), u8::from(time.month()), time.day())
}

fn read_pin(text: &str) -> Result<Vec<u8>, Error> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let hex: Vec<u8> = hex.bytes().filter(|byte| *byte != b':').collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = hex.chunks(2).map(byte).collect();
    bytes.filter(|bytes| bytes.len() == 32).ok_or_else(|| {
        Error::invalid_param(
            "A pinned certificate is \"sha256:\" and the 64 hexadecimal digits of the SHA-256 of its \
             public key.",
        )
    })
}

/// How a pin of a certificate is written.
pub fn spell_pin(pin: &[u8]) -> String {
    let hex: String = pin.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> PeerChange {
        let text = |text: &str| Some(text.to_owned());
        let map =
            |key: &str, value: &str| Some(BTreeMap::from([(key.to_owned(), value.to_owned())]));
        PeerChange {
            legal_name: text("Hospital B"),
            jurisdiction: text("DE"),
            contact: text("+49 30 1234"),
            contract: text("2026/17"),
            valid_from: text("2026-01-01"),
            valid_until: text("2028-02-29"),
            suspended: Some(false),
            may_invite: Some(false),
            may_be_invited: Some(true),
            media: Some(MediaMode::Ephemeral),
            room_kinds: Some(vec!["general".to_owned(), "clinical-shared".to_owned()]),
            address: text("10.1.2.3:8448"),
            tls_name: text("matrix.b.example"),
            authorities: text("-----BEGIN CERTIFICATE-----"),
            certificate_pins: Some(vec![format!("sha256:{}", "0a".repeat(32))]),
            client_authorities: text("-----BEGIN CERTIFICATE----- of clients"),
            client_pins: Some(vec![format!("sha256:{}", "0b".repeat(32))]),
            show_certificate: Some(true),
            pinned_keys: map("ed25519:a", "Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw"),
            identifiers: map("ods", "RJ1"),
        }
    }

    #[test]
    fn what_was_said_can_be_read_back_and_taken_back() {
        let row = whole().apply(PeerRow::default()).unwrap();
        assert_eq!(PeerChange::of(&row), whole());
        assert_eq!(row.valid_from_ms, Some(1_767_225_600_000));
        assert_eq!(row.valid_until_ms, Some(1_835_481_600_000), "the last day counts whole");
        let same = PeerChange::default().apply(row.clone()).unwrap();
        assert_eq!(same, row, "what is not said stays");
        let nothing = || Some(String::new());
        let back = PeerChange {
            contract: nothing(),
            valid_from: nothing(),
            valid_until: nothing(),
            address: nothing(),
            tls_name: nothing(),
            authorities: nothing(),
            certificate_pins: Some(Vec::new()),
            client_authorities: nothing(),
            client_pins: Some(Vec::new()),
            show_certificate: Some(false),
            pinned_keys: Some(BTreeMap::new()),
            identifiers: Some(BTreeMap::new()),
            room_kinds: Some(Vec::new()),
            ..PeerChange::default()
        };
        let row = back.apply(row).unwrap();
        let left = PeerChange::of(&row);
        assert!(left.address.is_none() && left.valid_until.is_none() && left.contract.is_none());
        assert!(left.certificate_pins.is_none() && left.pinned_keys.is_none());
        assert!(left.client_pins.is_none() && left.client_authorities.is_none());
        assert!(left.show_certificate.is_none());
        assert!(left.room_kinds.is_none());
        assert_eq!(left.legal_name.as_deref(), Some("Hospital B"));
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        let text = |text: &str| Some(text.to_owned());
        let base = PeerChange::default;
        let many = (0..17).map(|n| (format!("r{n}"), "1".to_owned())).collect();
        let cases = [
            PeerChange { valid_from: text("tomorrow"), ..base() },
            PeerChange { valid_from: text("2026-13-01"), ..base() },
            PeerChange { valid_from: text("2026-02-30"), ..base() },
            PeerChange { valid_from: text("+026-02-20"), ..base() },
            PeerChange { valid_from: text("1969-12-31"), ..base() },
            PeerChange {
                valid_from: text("2026-02-02"),
                valid_until: text("2026-02-01"),
                ..base()
            },
            PeerChange { address: text("http://b.example/"), ..base() },
            PeerChange { tls_name: text("b.example"), ..base() },
            PeerChange { certificate_pins: Some(vec!["sha256:00".to_owned()]), ..base() },
            PeerChange { certificate_pins: Some(vec!["é".repeat(32)]), ..base() },
            PeerChange { client_pins: Some(vec!["sha256:0".to_owned()]), ..base() },
            PeerChange { client_authorities: Some("x".repeat(70_000)), ..base() },
            PeerChange { legal_name: Some("x".repeat(501)), ..base() },
            PeerChange { contact: text("a\u{1b}[2J"), ..base() },
            PeerChange { identifiers: Some(many), ..base() },
            PeerChange { room_kinds: Some(vec!["ward".to_owned()]), ..base() },
            PeerChange { authorities: Some("x".repeat(70_000)), ..base() },
        ];
        for (number, case) in cases.into_iter().enumerate() {
            let refused = case.apply(PeerRow::default()).unwrap_err();
            assert!(refused.message.ends_with('.'), "{number}: {}", refused.message);
        }
        let day = PeerChange { valid_from: text("2026-02-02"), ..base() };
        let day = PeerChange { valid_until: text("2026-02-02"), ..day };
        assert!(day.apply(PeerRow::default()).is_ok(), "one day is enough");
    }
}
