//! What this server, as the policy server of a room, vouches for: events of anybody in the room, of every
//! server. The judgement about files is [`decide`]; what is added is what only other servers' people could do.

use std::borrow::Cow;

use appliance_model::SessionClass;

use super::classes::RoomClass;
use super::decide::{Action, Content, Object, Refused, Subject, decide};
use super::field::{Field, PEERS_DENY, PEERS_EPHEMERAL};
use super::object::{Effective, POLICY_TYPE};
use crate::Denial;

/// Where a file lies that an event shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// On this server, which knows what it is.
    Here,
    /// At a hospital of our kind: it lends its files, judges its people's devices as this one does, and
    /// keeps nothing of others.
    OurKind,
    /// At a server that keeps what it has.
    Other,
    /// At a server with which this one exchanges no files.
    Closed,
}

/// A file that an event shows.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// `mxc://server/id`.
    pub uri: &'a str,
    /// Where it lies.
    pub home: Home,
    /// What it is; of files elsewhere, what the event says it is.
    pub content: Content,
    /// The hospital's own camera page took it.
    pub is_captured: bool,
    /// It may hold what its camera wrote beside it.
    pub may_tell_place: bool,
}

/// What is said.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// By whom.
    pub sender: &'a str,
    /// They are of this server: what their devices may show is judged when they say it.
    pub is_ours: bool,
    /// The event type.
    pub kind: &'a str,
    /// It is a state event.
    pub is_state: bool,
    /// The files that it shows; none if there are more than are looked at.
    pub shows: Option<&'a [Shown<'a>]>,
}

/// Judges an event for a room where `policy` holds.
///
/// # Errors
///
/// Why this server does not vouch for it, for the person who said it.
pub fn vouch(policy: &Effective, class: RoomClass, said: &Said<'_>) -> Result<(), Denial> {
    const ENCRYPTED: &str = "Photos of this room must disappear and stay off phones. For that the server \
         of the hospital that looks after it must be able to read what is said here: it cannot be encrypted.";
    const NOT_YOURS: &str = "What holds in this room for photos is set at the hospital that looks after it, and nowhere else.";
    const TOO_MANY: &str =
        "One message shows more files than are looked at. Send several messages.";
    let denied = |why: &'static str| {
        Err(Denial {
            verb: "policy.refused",
            who: said.sender.to_owned(),
            object: said.kind.to_owned(),
            why: Cow::Borrowed(why),
        })
    };
    let hides = matches!(said.kind, "m.room.encryption" | "m.room.encrypted");
    if hides && class.is_server_readable() {
        return denied(ENCRYPTED);
    }
    if said.is_state && said.kind == POLICY_TYPE && !said.is_ours {
        return denied(NOT_YOURS);
    }
    let Some(shows) = said.shows else { return denied(TOO_MANY) };
    for file in shows {
        show(policy, said, file)?;
    }
    Ok(())
}

fn show(policy: &Effective, said: &Said<'_>, file: &Shown<'_>) -> Result<(), Denial> {
    const CLOSED: &str = "The hospital that looks after this room exchanges no files with the server on \
         which this one lies.";
    const KEPT: &str = "What holds in this room for photos takes no files from servers that keep them: they \
         could not be made to disappear.";
    const THEIRS: &str = "What holds in this room for photos takes no files from other hospitals.";
    let denied = |why: &'static str| {
        Err(Denial {
            verb: "policy.refused",
            who: said.sender.to_owned(),
            object: file.uri.to_owned(),
            why: Cow::Borrowed(why),
        })
    };
    match file.home {
        Home::Closed => return denied(CLOSED),
        Home::Other
            if policy.get(Field::FederationOther).is_some_and(|says| says > PEERS_EPHEMERAL) =>
        {
            return denied(KEPT);
        }
        Home::OurKind if policy.get(Field::FederationOurs) == Some(PEERS_DENY) => {
            return denied(THEIRS);
        }
        // They were judged where they are: there, or here when they were said.
        Home::OurKind => return Ok(()),
        Home::Here if said.is_ours => return Ok(()),
        Home::Here | Home::Other => {}
    }
    let subject = Subject {
        user_id: said.sender,
        device_id: "",
        class: SessionClass::PeerUser,
        is_uploader: false,
    };
    let object = Object {
        uri: file.uri,
        content: file.content,
        is_captured: file.is_captured,
        may_tell_place: file.may_tell_place,
        deadline_ms: None,
        opens: 0,
        opens_of_user: 0,
        open_until_ms: 0,
    };
    match decide(policy, &subject, Action::Show, &object, 0) {
        // Who vouches writes nothing: the event itself is put on record where it comes in.
        Ok(_) | Err(Refused::Gone) => Ok(()),
        Err(Refused::Denied(denial)) => Err(Denial { verb: "policy.refused", ..denial }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{HousePolicy, Policy, Scope, settings_scope};

    const HOMES: [Home; 4] = [Home::Here, Home::OurKind, Home::Other, Home::Closed];

    fn held(room: &str) -> (Effective, RoomClass) {
        let room = Policy::parse(room).unwrap();
        let house = HousePolicy::default();
        (house.in_room(&settings_scope(86_400_000), None, Some(&room)), house.class_of(Some(&room)))
    }

    fn photo(home: Home) -> Shown<'static> {
        let content = Content::Picture;
        let uri = "mxc://x.example/leg";
        Shown { uri, home, content, is_captured: false, may_tell_place: true }
    }

    fn message<'a>(is_ours: bool, shows: &'a [Shown<'a>]) -> Said<'a> {
        let (sender, kind) = ("@doctor:x.example", "m.room.message");
        Said { sender, is_ours, kind, is_state: false, shows: Some(shows) }
    }

    fn verdict(room: &str, said: &Said<'_>) -> String {
        let (policy, class) = held(room);
        vouch(&policy, class, said).map_or_else(|denial| denial.why.into_owned(), |()| "yes".into())
    }

    /// Which files are taken from whom, for each class: changed only with eyes open.
    #[test]
    fn files_of_other_servers_are_taken_as_files_are_given_to_them() {
        let table = [
            ("general", true, ["yes", "yes", "yes", "exchanges no files"]),
            ("general", false, ["yes", "yes", "yes", "exchanges no files"]),
            ("clinical-photo", true, ["yes", "yes", "camera", "exchanges no files"]),
            ("clinical-shared", true, ["yes", "yes", "that keep them", "exchanges no files"]),
            // A file of this server from which nobody took what its camera wrote, shown by somebody else.
            (
                "clinical-shared",
                false,
                ["cameras write", "yes", "that keep them", "exchanges no files"],
            ),
            ("clinical-e2ee", false, ["yes", "yes", "yes", "exchanges no files"]),
        ];
        for (class, is_ours, expected) in table {
            for (home, expected) in HOMES.into_iter().zip(expected) {
                let room = format!("{{\"class\":\"{class}\"}}");
                let verdict = verdict(&room, &message(is_ours, &[photo(home)]));
                assert!(verdict.contains(expected), "{class} {is_ours} {home:?}: {verdict}");
            }
        }
    }

    #[test]
    fn what_the_server_must_read_is_not_hidden_and_its_rules_are_its_own() {
        let shared = r#"{"class":"clinical-shared"}"#;
        let of = |kind, is_state, is_ours| Said { kind, is_state, ..message(is_ours, &[]) };
        for is_ours in [true, false] {
            for said in
                [of("m.room.encryption", true, is_ours), of("m.room.encrypted", false, is_ours)]
            {
                assert!(verdict(shared, &said).contains("encrypted"), "{said:?}");
                assert_eq!(verdict(r#"{"class":"clinical-e2ee"}"#, &said), "yes");
                assert_eq!(verdict("{}", &said), "yes");
            }
        }
        assert!(verdict(shared, &of(POLICY_TYPE, true, false)).contains("nowhere else"));
        assert_eq!(verdict(shared, &of(POLICY_TYPE, true, true)), "yes");
        assert_eq!(verdict(shared, &of("m.room.topic", true, false)), "yes");
        let flood = Said { shows: None, ..message(false, &[]) };
        assert!(verdict("{}", &flood).contains("more files"));
        let one_bad = [photo(Home::OurKind), photo(Home::Other)];
        assert!(verdict(shared, &message(false, &one_bad)).contains("that keep them"));
    }

    #[test]
    fn what_a_house_wants_of_uploads_holds_for_others_files_too() {
        let strict = r#"{"device":{"upload_from_unmanaged":"capture-page-only"}}"#;
        for home in [Home::Here, Home::Other] {
            let said = [Shown { may_tell_place: false, ..photo(home) }];
            assert!(verdict(strict, &message(false, &said)).contains("camera page"), "{home:?}");
            let captured = [Shown { is_captured: true, ..said[0] }];
            assert_eq!(verdict(strict, &message(false, &captured)), "yes");
        }
    }

    proptest! {
        /// One more rule never lets more through.
        #[test]
        fn more_rules_never_allow_more(
            first in 0..Field::all().count(), value in 0..5_u64,
            home in 0..HOMES.len(), class in 0..4_usize,
            is_ours: bool, is_captured: bool, may_tell_place: bool,
        ) {
            let (loose, _) = held("{}");
            let mut strict = loose.clone();
            let field = Field::all().nth(first).unwrap();
            strict.meet(Scope::Room, &Policy::of([(field, value)]));
            let class = RoomClass::ALL[class];
            let shows = [Shown { is_captured, may_tell_place, ..photo(HOMES[home]) }];
            let said = message(is_ours, &shows);
            if vouch(&loose, class, &said).is_err() {
                prop_assert!(vouch(&strict, class, &said).is_err());
            }
        }
    }
}
