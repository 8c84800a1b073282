//! Scenes with sessions and their classes.

use appliance_model::{Caller, Kind, SessionClass};
use serde_json::json;

use super::{PolicyOptions, Question};
use crate::Options;
use crate::accounts::{NewAccount, NewSession, Session};
use crate::scenario::{Ward, options};

const HOUR_MS: u64 = 3_600_000;

async fn signed_in(ward: &Ward, name: &str) -> (Session, Caller) {
    let new = NewAccount { localpart: Some(name.to_owned()), ..NewAccount::default() };
    let session = Some(NewSession { refreshable: true, ..NewSession::default() });
    let (_, session) = ward.services.accounts.create_account(new, session).await.unwrap();
    let session = session.unwrap();
    let caller = ward.services.accounts.authenticate(&session.access_token).await.unwrap();
    (session, caller)
}

fn is_over<T: std::fmt::Debug>(result: Result<T, appliance_model::Error>) -> bool {
    result.unwrap_err().kind == Kind::UnknownToken { soft_logout: false }
}

#[tokio::test]
async fn a_shift_ends_hard_and_refreshing_does_not_prolong_it() {
    let ward = Ward::new().await;
    let pack = json!({ "name": "shift", "server": { "device": {
        "session_max_ms": { "unmanaged": 12 * HOUR_MS }, "session_idle_ms": { "unmanaged": 2 * HOUR_MS },
    } } });
    ward.services.policy.set(&pack, "root").await.unwrap();
    let accounts = &ward.services.accounts;
    let (mut session, _) = signed_in(&ward, "nurse").await;
    for _ in 0..11 {
        ward.clock.pass_ms(HOUR_MS);
        session = accounts.refresh(session.refresh_token.as_deref().unwrap(), None).await.unwrap();
        accounts.admit(&session.access_token, None).await.unwrap();
    }
    assert_eq!(accounts.end_overdue_sessions().await.unwrap(), 0);
    ward.clock.pass_ms(HOUR_MS);
    assert!(is_over(accounts.admit(&session.access_token, None).await));
    let refresh_token = session.refresh_token.as_deref().unwrap();
    assert!(is_over(accounts.refresh(refresh_token, None).await.map(drop)));
    assert_eq!(accounts.end_overdue_sessions().await.unwrap(), 1);
    assert!(ward.audit().await.iter().any(|line| line.starts_with("session.expired @nurse")));
}

#[tokio::test]
async fn a_phone_that_rests_is_signed_out_and_a_managed_one_is_not() {
    let ward = Ward::new().await;
    let (phone, _) = signed_in(&ward, "nurse").await;
    let (tablet, caller) = signed_in(&ward, "doctor").await;
    let accounts = &ward.services.accounts;
    let code =
        accounts.make_enrolment_code(SessionClass::Managed, None, HOUR_MS, "root").await.unwrap();
    // Any app can do this: it gives the session the code for a name.
    accounts
        .name_device(&caller, &caller.device_id, Some(code.to_lowercase().replace('-', " ")))
        .await
        .unwrap();
    let now = accounts.authenticate(&tablet.access_token).await.unwrap();
    assert_eq!(now.class, SessionClass::Managed, "at once");
    let device = accounts.device(&caller, &caller.device_id).await.unwrap();
    assert_eq!(device.display_name, None, "a code is no name");

    let pack = json!({ "server": { "device": { "session_idle_ms": { "unmanaged": HOUR_MS } } } });
    ward.services.policy.set(&pack, "root").await.unwrap();
    accounts.admit(&phone.access_token, None).await.unwrap();
    ward.clock.pass_ms(HOUR_MS);
    let ward = ward.power_cut_and_restart().await;
    ward.services.house.policy.load(&ward.services.house.ledger).await.unwrap();
    let accounts = &ward.services.accounts;
    assert!(is_over(
        accounts.refresh(phone.refresh_token.as_deref().unwrap(), None).await.map(drop)
    ));
    accounts.refresh(tablet.refresh_token.as_deref().unwrap(), None).await.unwrap();
    assert_eq!(accounts.end_overdue_sessions().await.unwrap(), 1, "the phone");
}

#[tokio::test]
async fn a_code_is_good_once_for_whom_it_was_made_and_not_for_long() {
    let (ward, [nurse, thief]) = Ward::with_members(["nurse", "thief"]).await;
    let accounts = &ward.services.accounts;
    let make = async |valid_ms| {
        let class = SessionClass::Managed;
        accounts.make_enrolment_code(class, Some(&nurse.user_id), valid_ms, "root").await
    };
    let code = make(HOUR_MS).await.unwrap();
    let enrol = async |who: &Caller, code: &str| accounts.enrol(who, &who.device_id, code).await;
    assert_eq!(enrol(&thief, &code).await.unwrap_err().kind, Kind::Forbidden);
    assert_eq!(enrol(&nurse, &code).await.unwrap(), SessionClass::Managed);
    assert_eq!(enrol(&nurse, &code).await.unwrap_err().kind, Kind::Forbidden, "used");
    let late = make(HOUR_MS).await.unwrap();
    ward.clock.pass_ms(HOUR_MS);
    assert_eq!(enrol(&nurse, &late).await.unwrap_err().kind, Kind::Forbidden, "too late");
    assert_eq!(make(8 * 24 * HOUR_MS).await.unwrap_err().kind, Kind::InvalidParam);
    let audit = ward.audit().await;
    assert!(audit.iter().any(|line| line.starts_with("enrolment.offered root")));
    assert!(audit.iter().any(|line| line.starts_with("session.enrolled @nurse")));
}

#[tokio::test]
async fn without_classes_everything_is_managed() {
    let policy = PolicyOptions { is_off: true, ..PolicyOptions::default() };
    let ward = Ward::with_options(Options { policy, ..options() }).await;
    let pack = json!({ "server": { "device": { "session_max_ms": { "managed": HOUR_MS } } } });
    ward.services.policy.set(&pack, "root").await.unwrap();
    let (session, caller) = signed_in(&ward, "nurse").await;
    assert_eq!(caller.class, SessionClass::Managed);
    ward.clock.pass_ms(2 * HOUR_MS);
    let refresh = session.refresh_token.unwrap();
    assert!(ward.services.accounts.refresh(&refresh, None).await.is_ok(), "nothing ends");
}

#[tokio::test]
async fn the_desk_says_what_holds_and_who_said_so() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let desk = &ward.services.policy;
    let room = ward.room(&nurse).await;
    let content = json!({ "class": "clinical-photo", "media": { "ttl_ms": 90_000_000 } });
    ward.state(&nurse, &room, ("io.wardstone.policy", ""), content).await;
    let question = Question {
        user_id: Some(&nurse.user_id),
        device_id: Some(nurse.device_id.as_str()),
        room_id: Some(&room),
        class: None,
    };
    let answer = desk.explain(&question).await.unwrap();
    assert_eq!(answer["mode"], "placeholder");
    assert_eq!(answer["rules"]["media.ttl_ms"], json!({ "value": 86_400_000, "by": "class" }));
    assert_eq!(answer["ignored_of_room"], json!(["media.ttl_ms"]));
    assert_eq!(answer["verdicts"]["download picture"], "placeholder");

    let pack = json!({ "server": { "device": { "unmanaged": "deny" } } });
    let tried = desk.simulate(&pack, &question).await.unwrap();
    assert_eq!(
        (&tried["now"]["mode"], &tried["then"]["mode"]),
        (&"placeholder".into(), &"deny".into())
    );
    assert_eq!(desk.explain(&question).await.unwrap(), answer, "nothing was set");
    let wrong = desk.set(&json!({ "server": { "media": { "ttl_ms": 1 } } }), "root").await;
    assert_eq!(wrong.unwrap_err().kind, Kind::InvalidParam);
}
