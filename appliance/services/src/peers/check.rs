//! Looking at everything between this server and a peer, one step after the other, and saying in
//! sentences what is wrong: `wardstone peers check`.

use appliance_ledger::rows::peers::PeerKeysRow;
use appliance_model::Error;
use appliance_model::ruma::ServerName;
use appliance_model::ruma::api::federation::discovery::get_server_version;
use http::StatusCode;
use http::header::DATE;

use super::{ASK, Peers, RemoteError, Standing, day, spell_pin};
use crate::egress::Failure;

/// Clocks that are further apart make events look old, keys look expired and contracts look over.
const SKEW_MS_MAX: u64 = 60_000;

/// What came of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Nothing is wrong here.
    pub is_good: bool,
    /// A sentence for the administrator.
    pub sentence: String,
}

/// What came of looking at a peer.
#[derive(Clone, Debug, Default)]
pub struct PeerCheck {
    /// One step after the other.
    pub findings: Vec<Finding>,
    /// What runs there, and its version, if it answers.
    pub version: Option<(String, String)>,
    /// How long the answer took, in milliseconds.
    pub took_ms: u64,
    /// How far its clock is ahead of this one, in milliseconds, as far as it says.
    pub skew_ms: Option<i64>,
    /// Its keys, fetched now if they could be.
    pub keys: Option<PeerKeysRow>,
}

impl PeerCheck {
    fn good(&mut self, sentence: String) {
        self.findings.push(Finding { is_good: true, sentence });
    }

    fn bad(&mut self, sentence: String) {
        self.findings.push(Finding { is_good: false, sentence });
    }
}

impl Peers {
    /// Looks at everything between this server and a peer, over the same way on which everything else
    /// goes: the list, the place, TLS, the version, the clock, the keys, and whether it lets this
    /// server in.
    ///
    /// # Errors
    ///
    /// If the store fails. What is wrong with the peer is a finding.
    pub async fn check(&self, server: &ServerName) -> Result<PeerCheck, Error> {
        let mut check = PeerCheck::default();
        if !self.check_standing(server, &mut check) {
            return Ok(check);
        }
        self.check_place(server, &mut check).await;
        if !self.check_version(server, &mut check).await {
            return Ok(check);
        }
        self.check_certificates(server, &mut check);
        self.check_keys(server, &mut check).await?;
        self.check_welcome(server, &mut check).await;
        Ok(check)
    }

    fn check_standing(&self, server: &ServerName, check: &mut PeerCheck) -> bool {
        let standing = self.house.roll.standing(server);
        let peer = self.house.roll.described(server);
        let peer = peer.as_deref();
        match standing {
            Standing::Active => check.good(format!("{server} is on the list.")),
            Standing::Unknown => check.bad(format!(
                "{server} is not on the list: nothing is exchanged with it, and it was not asked \
                 anything. `wardstone peers add {server}` puts it there."
            )),
            Standing::Suspended => check.bad(format!(
                "{server} is suspended, and was not asked anything. `wardstone peers resume {server}` \
                 goes on with it."
            )),
            Standing::NotYet => check.bad(format!(
                "The first day of {server} is {}; it was not asked anything.",
                peer.and_then(|peer| peer.valid_from_ms).map(day).unwrap_or_default()
            )),
            Standing::Over => check.bad(format!(
                "The last day of {server} was {}; it was not asked anything. `wardstone peers add \
                 {server} --valid-until` gives it another.",
                peer.and_then(|peer| peer.valid_until_ms)
                    .map(|ms| day(ms.saturating_sub(1)))
                    .unwrap_or_default()
            )),
        }
        standing == Standing::Active
    }

    async fn check_place(&self, server: &ServerName, check: &mut PeerCheck) {
        match self.house.remote.locate(server).await {
            Ok(Some(place)) => check.good(format!(
                "It is at {} ({}); its certificate must be for {}.",
                place.targets.join(" or "),
                place.how,
                place.authority
            )),
            Ok(None) => {}
            Err(failure) => check.bad(format!("Where it is cannot be found out: {failure}.")),
        }
    }

    async fn check_version(&self, server: &ServerName, check: &mut PeerCheck) -> bool {
        let started_ms = self.house.clock.now_ms();
        let request = get_server_version::v1::Request::new();
        let answer = self.house.call_raw(server, request, ASK).await;
        let now_ms = self.house.clock.now_ms();
        check.took_ms = now_ms.saturating_sub(started_ms);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                check.bad(no_answer(server, &error));
                return false;
            }
        };
        let said: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let text = |key: &str| said["server"][key].as_str().unwrap_or_default().to_owned();
        let (name, version) = (text("name"), text("version"));
        match name.is_empty() {
            true => check.bad("It answers, but does not say what it is.".to_owned()),
            false => check.good(format!("{name} {version} answers after {} ms.", check.took_ms)),
        }
        check.version = Some((name, version));
        let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        let since = date.and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
        if let Some(theirs_ms) = since.and_then(|since| u64::try_from(since.as_millis()).ok()) {
            // The date has whole seconds and was written somewhere on the way.
            let ours_ms = started_ms / 2 + now_ms / 2;
            check.skew_ms = Some(theirs_ms.cast_signed() - ours_ms.cast_signed());
            check_clock(check, theirs_ms, ours_ms);
        }
        true
    }

    /// Both sides' certificates for clients. That ours was shown is known: without it the connection that
    /// has just answered would not have been opened.
    fn check_certificates(&self, server: &ServerName, check: &mut PeerCheck) {
        if self.house.roll.pins(server).is_some_and(|pins| pins.shows_own) {
            check.good("It is shown this server's certificate, if it asks for one.".to_owned());
        }
        if let Some(pins) = self.house.roll.client_pins(server) {
            let keys = pins.keys.iter().map(|key| spell_pin(key)).collect::<Vec<_>>().join(" or ");
            let key = if keys.is_empty() { String::new() } else { format!(" with the key {keys}") };
            let of =
                pins.authorities.as_ref().map_or("", |_| " of the authorities that are pinned");
            check.good(format!(
                "When it connects here it must show a certificate{key}{of}. Whether it does is seen when it \
                 connects: the journal says peers.certificate if it does not."
            ));
        }
    }

    async fn check_keys(&self, server: &ServerName, check: &mut PeerCheck) -> Result<(), Error> {
        self.asked.remove(&self.house.server_digest(server));
        let started_ms = self.house.clock.now_ms();
        let keys = self.fetch_keys(server).await?;
        let peer = self.house.roll.described(server);
        let is_pinned = peer.is_some_and(|peer| !peer.pinned_keys.is_empty());
        match &keys {
            None => check.bad("It does not show keys that can be used.".to_owned()),
            Some(row) if row.unapproved.is_some() => {
                let ids = row.unapproved.iter().flatten().map(|key| &*key.key_id);
                check.bad(format!(
                    "It signs with a key that no pinned key vouches for ({}). Compare it with what \
                     the other side says on the phone, then: wardstone peers approve-key {server} ID",
                    ids.collect::<Vec<_>>().join(", ")
                ));
            }
            Some(row) if row.fetched_ms < started_ms => {
                check.bad(
                    "Its keys could not be fetched now; those known from before are kept.".into(),
                );
            }
            Some(row) if row.valid_until_ms <= row.fetched_ms => {
                check.bad("It says that its keys are out of date.".to_owned());
            }
            Some(_) if is_pinned => check.good("A pinned key vouches for its keys.".to_owned()),
            Some(_) => check.good(
                "Its keys are what it says they are: none is pinned. --pin pins one.".to_owned(),
            ),
        }
        check.keys = keys;
        Ok(())
    }

    /// A question that every server answers to a peer, and refuses to others.
    async fn check_welcome(&self, server: &ServerName, check: &mut PeerCheck) {
        let alias = format!("#wardstone-peers-check:{server}");
        let alias =
            percent_encoding::utf8_percent_encode(&alias, percent_encoding::NON_ALPHANUMERIC);
        let path = format!("/_matrix/federation/v1/query/directory?room_alias={alias}");
        match self.house.ask_json(server, ("GET", &path), None, ASK).await {
            Ok(_) => check.good("It lets this server in.".to_owned()),
            Err(RemoteError::Refused { status: StatusCode::NOT_FOUND, errcode, .. })
                if !errcode.is_empty() =>
            {
                check.good("It lets this server in.".to_owned());
            }
            Err(RemoteError::Refused { status, body, .. })
                if matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) =>
            {
                let said = body.get("error").and_then(serde_json::Value::as_str);
                check.bad(format!(
                    "It does not let this server in ({status}: {}). Is {} on its list, with the key \
                     ed25519:{}?",
                    said.unwrap_or_default(),
                    self.house.server_name,
                    self.house.signing_key.version()
                ));
            }
            Err(error) => check.bad(format!("Asked for something, it says: {error}.")),
        }
    }
}

fn check_clock(check: &mut PeerCheck, theirs_ms: u64, ours_ms: u64) {
    let skew_ms = theirs_ms.abs_diff(ours_ms);
    if skew_ms <= SKEW_MS_MAX {
        check.good("Its clock and this one agree.".to_owned());
        return;
    }
    let side = if theirs_ms > ours_ms { "ahead of" } else { "behind" };
    check.bad(format!(
        "Its clock is {} seconds {side} this one. One of the two is wrong: events would look old, and \
         keys expired.",
        skew_ms / 1_000
    ));
}

fn no_answer(server: &ServerName, error: &RemoteError) -> String {
    match error {
        RemoteError::Failure(Failure::Unreachable(why)) if why.contains("certificate") => {
            format!("It answers, but TLS does not trust it: {why}.")
        }
        RemoteError::Failure(Failure::Refused(why)) => {
            format!("This server is not let out to it: {why}.")
        }
        RemoteError::Failure(failure) => format!(
            "{server} does not answer: {failure}. Is it up, is the address right, and does the \
             firewall let this server through?"
        ),
        RemoteError::Refused { status, .. } => {
            format!("Something answers there with status {status}, but no Matrix server does.")
        }
        RemoteError::Nonsense(why) => format!("{server} gives an answer of the wrong form: {why}."),
    }
}
