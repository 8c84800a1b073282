//! The reviewed table of decisions, and what holds for all policies.

use appliance_model::Role;
use proptest::prelude::*;

use super::*;
use crate::policy::field::{RULES, Shape};
use crate::policy::{HousePolicy, Policy, RoomClass, Scope, may_encrypt, settings_scope};

const NOW_MS: u64 = 1_000_000;

fn subject(class: SessionClass) -> Subject<'static> {
    let user_id = "@nurse:h.example";
    Subject { user_id, device_id: "PHONE", class, is_uploader: false }
}

fn object(content: Content) -> Object<'static> {
    Object {
        uri: "mxc://h.example/leg",
        content,
        is_captured: false,
        may_tell_place: false,
        deadline_ms: Some(NOW_MS + 1),
        opens: 0,
        opens_of_user: 0,
        open_until_ms: 0,
    }
}

fn judged(policy: &Effective, class: SessionClass, action: Action, object: &Object<'_>) -> String {
    match decide(policy, &subject(class), action, object, NOW_MS) {
        Ok(permitted) => {
            let Obligations { form, watermark, counts_for_ms, .. } = permitted.obligations;
            let marked = if watermark > 0 { " marked" } else { "" };
            let counted = if counts_for_ms.is_some() { " counted" } else { "" };
            format!("{}{marked}{counted}", form.as_str())
        }
        Err(Refused::Gone) => "gone".to_owned(),
        Err(Refused::Denied(denial)) => format!("no: {}", denial.why),
    }
}

/// Every action, class of session, class of room and kind of content: change the table only with eyes
/// open.
#[test]
fn the_table_is_as_reviewed() {
    let house = HousePolicy::default();
    let settings = settings_scope(7 * 86_400_000);
    let mut table = String::new();
    for room in RoomClass::ALL {
        let named = format!("{{\"class\":\"{}\"}}", room.as_str());
        let of_room = Policy::parse(&named).unwrap();
        let policy = house.in_room(&settings, Some(Role::User), Some(&of_room));
        for class in SessionClass::ALL {
            for action in Action::ALL {
                for content in Content::ALL {
                    let verdict = judged(&policy, class, action, &object(content));
                    let (room, class) = (room.as_str(), class.as_str());
                    table += &format!("{room} | {class} | {action:?} | {content:?} | {verdict}\n");
                }
            }
        }
    }
    for mode in Mode::ALL {
        let policy = Effective::of([(
            Scope::Server,
            &Policy::of([(Field::Unmanaged, mode as u64), (Field::Watermark, 3)]),
        )]);
        for action in [Action::Download, Action::Thumbnail, Action::View] {
            for content in Content::ALL {
                let verdict = judged(&policy, SessionClass::Unmanaged, action, &object(content));
                table +=
                    &format!("mode {} | {action:?} | {content:?} | {verdict}\n", mode.as_str());
            }
        }
    }
    for (word, said) in [("unsaid", None), ("allow", Some(0)), ("none", Some(1))] {
        let said = Policy::of(said.map(|value| (Field::UnmanagedEncryption, value)));
        let policy = Effective::of([(Scope::Server, &said)]);
        for class in SessionClass::ALL {
            let verdict = may_encrypt(&policy, class);
            let verdict = verdict.map_or_else(|why| format!("no: {why}"), |()| "yes".to_owned());
            table += &format!("encryption {word} | {} | {verdict}\n", class.as_str());
        }
    }
    let reviewed = include_str!("reviewed.txt");
    let changed: Vec<_> = table
        .lines()
        .zip(reviewed.lines().map(Some).chain(std::iter::repeat(None)))
        .filter(|(is, was)| Some(*is) != *was)
        .collect();
    assert!(table == reviewed, "{changed:#?}\n{table}");
}

#[test]
fn the_deadline_itself_is_too_late() {
    let policy = Effective::of([(Scope::Class, &Policy::of([(Field::Managed, 0)]))]);
    for (deadline_ms, verdict) in
        [(Some(NOW_MS + 1), "original"), (Some(NOW_MS), "gone"), (None, "original")]
    {
        let object = Object { deadline_ms, ..object(Content::Picture) };
        assert_eq!(judged(&policy, SessionClass::Managed, Action::Download, &object), verdict);
    }
}

#[test]
fn nothing_said_is_nothing_given() {
    let nobody_spoke = Effective::default();
    for class in SessionClass::ALL {
        let verdict = judged(&nobody_spoke, class, Action::Download, &object(Content::Picture));
        assert!(verdict.starts_with("no: "), "{verdict}");
    }
}

#[test]
fn an_open_file_is_not_opened_again() {
    let policy = Policy::of([
        (Field::Managed, 0),
        (Field::OpensPerUserMax, 3),
        (Field::OpensMax, 10),
        (Field::OpenWindowMs, 5_000),
    ]);
    let policy = Effective::of([(Scope::Room, &policy)]);
    let at = |object: Object<'_>| judged(&policy, SessionClass::Managed, Action::Download, &object);
    let photo = object(Content::Picture);
    assert_eq!(at(photo), "original counted");
    let twice = Object { opens_of_user: 2, opens: 9, ..photo };
    assert_eq!(at(twice), "original counted");
    let thrice = Object { opens_of_user: 3, opens: 9, ..photo };
    assert!(at(thrice).starts_with("no: You have"));
    assert_eq!(at(Object { open_until_ms: NOW_MS + 1, ..thrice }), "original");
    assert!(at(Object { open_until_ms: NOW_MS, ..thrice }).starts_with("no: "));
    let by_all = Object { opens: 10, ..photo };
    assert!(at(by_all).starts_with("no: This file"));
    let own = Subject { is_uploader: true, ..subject(SessionClass::Managed) };
    let permitted = decide(&policy, &own, Action::Download, &thrice, NOW_MS).unwrap();
    assert_eq!(permitted.obligations.counts_for_ms, None, "their own photo");
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let values = RULES.iter().map(|rule| match rule.shape {
        Shape::AtLeast(least) => proptest::option::of(least..least + 6).boxed(),
        Shape::Word(words) => proptest::option::of(0..words.len() as u64).boxed(),
        Shape::Flag => proptest::option::of(0..2_u64).boxed(),
        Shape::Watermark => proptest::option::of(1..8_u64).boxed(),
    });
    values.collect::<Vec<_>>().prop_map(|values| {
        let fields = RULES.iter().map(|rule| rule.field).zip(values);
        Policy::of(fields.filter_map(|(field, value)| Some((field, value?))))
    })
}

fn any_scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        Just(Scope::Settings),
        Just(Scope::Server),
        Just(Scope::Role),
        Just(Scope::Class),
        Just(Scope::Room),
        Just(Scope::Event),
    ]
}

/// How much of the picture a verdict lets out.
fn freedom(policy: &Effective, subject: &Subject<'_>, action: Action, object: &Object<'_>) -> u32 {
    match decide(policy, subject, action, object, NOW_MS) {
        Err(_) => 0,
        Ok(permitted) => match permitted.obligations.form {
            // Nothing of it: who may not open it any more may still be told where to ask.
            Form::Placeholder => 0,
            Form::MarkedView => 2,
            Form::MarkedThumbnail => 3,
            Form::Thumbnail => 4,
            Form::Original => 5,
        },
    }
}

proptest! {
    /// In the viewer a thumbnail is less than the view, though elsewhere it is more: there only yes
    /// and no are compared.
    #[test]
    fn one_more_rule_never_allows_more(
        base in any_policy(), more in any_policy(), scope in any_scope(),
        class in 0..5_usize, action in 0..4_usize, content in 0..3_usize,
        opens in 0..8_u64, opens_of_user in 0..8_u64, is_open in any::<bool>(), is_uploader in any::<bool>(),
    ) {
        let held = Effective::of([(Scope::Class, &base)]);
        let mut with_more = held.clone();
        with_more.meet(scope, &more);
        let (action, content) = (Action::ALL[action], Content::ALL[content]);
        let subject = Subject { is_uploader, ..subject(SessionClass::ALL[class]) };
        let open_until_ms = if is_open { NOW_MS + 1 } else { 0 };
        let object = Object { opens, opens_of_user, open_until_ms, ..object(content) };
        let spoke = held.get(Field::mode_of(subject.class)).is_some() || action == Action::Show;
        // A class that nobody spoke about gets nothing; the first word about it may give something.
        prop_assume!(spoke);
        let (before, after) = (
            freedom(&held, &subject, action, &object),
            freedom(&with_more, &subject, action, &object),
        );
        if action == Action::View {
            prop_assert!(before > 0 || after == 0);
        } else {
            prop_assert!(after <= before, "{before} {after}");
        }
        let class = subject.class;
        prop_assert!(may_encrypt(&held, class).is_ok() || may_encrypt(&with_more, class).is_err());
        for field in Field::all() {
            let (is, was) = (with_more.get(field), held.get(field));
            prop_assert!(was.is_none_or(|was| is == Some(field.stricter(was, is.unwrap_or(was)))));
        }
    }

    #[test]
    fn their_order_never_matters(
        mut scopes in proptest::collection::vec((any_scope(), any_policy()), 0..6),
        turn in 0..6_usize,
    ) {
        let straight = Effective::of(scopes.iter().map(|(scope, policy)| (*scope, policy)));
        let turned = turn.min(scopes.len());
        scopes.rotate_left(turned);
        let rotated = Effective::of(scopes.iter().map(|(scope, policy)| (*scope, policy)));
        scopes.reverse();
        let reversed = Effective::of(scopes.iter().map(|(scope, policy)| (*scope, policy)));
        for field in Field::all() {
            prop_assert_eq!(straight.get(field), rotated.get(field));
            prop_assert_eq!(straight.get(field), reversed.get(field));
            if field != Field::Watermark {
                prop_assert_eq!(straight.said_by(field), rotated.said_by(field));
                prop_assert_eq!(straight.said_by(field), reversed.said_by(field));
            }
        }
    }
}

#[test]
fn a_private_phone_shows_only_what_the_camera_page_took() {
    let held = |word: &str| {
        let room =
            serde_json::json!({ "class": "general", "device": { "upload_from_unmanaged": word } });
        let room = Policy::from_json(&room).unwrap();
        HousePolicy::default().in_room(&Policy::default(), None, Some(&room))
    };
    let shows = |word: &str, class, is_captured| {
        let subject = Subject { class, ..subject(SessionClass::Unmanaged) };
        let object = Object { is_captured, ..object(Content::Picture) };
        decide(&held(word), &subject, Action::Show, &object, NOW_MS).is_ok()
    };
    use SessionClass::{BrowserKiosk, Managed, Unmanaged};
    for (word, gallery, captured) in
        [("allow", true, true), ("capture-page-only", false, true), ("deny", false, false)]
    {
        assert_eq!(shows(word, Unmanaged, false), gallery, "{word}");
        assert_eq!(shows(word, BrowserKiosk, true), captured, "{word}");
        assert!(shows(word, Managed, false), "{word}");
    }
}
