//! A file for somebody at another hospital of our kind: lent for one look, passed through there and kept
//! nowhere. What their hospital allows and what ours allows meet; the stricter holds.

use super::classes::Mode;
use super::decide::{Action, Object, Permitted, Refused, Subject, decide, denied};
use super::field::{Field, PEERS_LEASE};
use super::object::{Effective, Policy, Scope};

/// Judges. `subject.class` is what the other hospital says of the session, `asked` the most that it lets
/// that session have.
///
/// # Errors
///
/// [`Refused`], with a reason for the person refused.
pub fn lend(
    policy: &Effective,
    subject: &Subject<'_>,
    asked: Mode,
    (action, object): (Action, &Object<'_>),
    now_ms: u64,
) -> Result<Permitted, Refused> {
    const DENIED: &str = "The policy of the hospital whose file this is gives it to no other.";
    if policy.get(Field::FederationOurs).is_some_and(|value| value > PEERS_LEASE) {
        return Err(denied(subject, object, DENIED));
    }
    let of_peers = Mode::of(policy.get(Field::PeerUser));
    let of_theirs = Policy::of([(Field::mode_of(subject.class), asked.max(of_peers) as u64)]);
    let mut policy = policy.clone();
    policy.meet(Scope::Event, &of_theirs);
    decide(&policy, subject, action, object, now_ms)
}

#[cfg(test)]
mod tests {
    use appliance_model::{Role, SessionClass};

    use super::*;
    use crate::policy::{Content, Form, HousePolicy, RoomClass, settings_scope};

    /// What a class of room lends to a session that may have so much at home.
    fn lent(room: &str, class: SessionClass, asked: Mode, action: Action) -> String {
        let room = Policy::parse(room).unwrap();
        let settings = settings_scope(86_400_000);
        let policy = HousePolicy::default().in_room(&settings, Some(Role::User), Some(&room));
        let user_id = "@doctor:b.example";
        let subject = Subject { user_id, device_id: "", class, is_uploader: false };
        let object = Object {
            uri: "mxc://a.example/leg",
            content: Content::Picture,
            is_captured: false,
            may_tell_place: false,
            deadline_ms: Some(2),
            opens: 0,
            opens_of_user: 0,
            open_until_ms: 0,
        };
        match lend(&policy, &subject, asked, (action, &object), 1) {
            Ok(permitted) => permitted.obligations.form.as_str().to_owned(),
            Err(Refused::Gone) => "gone".to_owned(),
            Err(Refused::Denied(_)) => "no".to_owned(),
        }
    }

    #[test]
    fn the_stricter_of_two_hospitals_holds() {
        use SessionClass::{Managed, PeerUser, Unmanaged};
        let shared = r#"{"class":"clinical-shared"}"#;
        for (room, class, asked, form) in [
            (shared, Managed, Mode::Original, "original"),
            (shared, Managed, Mode::Thumbnail, "marked-thumbnail"),
            (shared, Managed, Mode::Placeholder, "placeholder"),
            (shared, Managed, Mode::Deny, "no"),
            // They would give it; ours does not.
            (shared, Unmanaged, Mode::Original, "placeholder"),
            (shared, PeerUser, Mode::Deny, "no"),
            (r#"{"class":"clinical-photo"}"#, Managed, Mode::Original, "no"),
            (r#"{"class":"clinical-e2ee"}"#, Managed, Mode::Original, "no"),
            ("{}", Unmanaged, Mode::Original, "original"),
            (r#"{"federation":{"ours":"deny"}}"#, Managed, Mode::Original, "no"),
            (
                r#"{"device":{"peer-user":"thumbnail"}}"#,
                Managed,
                Mode::Original,
                "marked-thumbnail",
            ),
        ] {
            assert_eq!(lent(room, class, asked, Action::Download), form, "{room} {asked:?}");
        }
    }

    /// Whatever both say, nobody gets more than either of them allows.
    #[test]
    fn nobody_is_lent_more_than_either_allows() {
        for room in RoomClass::ALL {
            let named = format!("{{\"class\":\"{}\"}}", room.as_str());
            for class in SessionClass::ALL {
                for asked in Mode::ALL {
                    let form = lent(&named, class, asked, Action::Download);
                    let most = match asked {
                        Mode::Original => Form::Original.as_str(),
                        Mode::Thumbnail => Form::MarkedThumbnail.as_str(),
                        Mode::Viewer | Mode::Placeholder => Form::Placeholder.as_str(),
                        Mode::Deny => "no",
                    };
                    let less = [most, Form::Placeholder.as_str(), "no"];
                    assert!(less.contains(&form.as_str()), "{named} {class:?} {asked:?}: {form}");
                    assert!(asked != Mode::Deny || form == "no");
                }
            }
        }
    }
}
