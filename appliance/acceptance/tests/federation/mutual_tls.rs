//! A peer that must show a certificate when it connects: with none, and with another, nothing it sends is
//! taken; with its own, everything. A Synapse of which none is wanted is asked too, shows none, and goes on.

use std::sync::Arc;
use std::time::Duration;

use appliance_acceptance::wait::until;
use http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::resident::Resident;
use crate::scenes::Scenes;
use crate::town::{FRIEND, Town};

/// Longer than a message takes that is let in.
const REFUSED: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Three {
    nurse: Arc<Resident>,
    doctor: Arc<Resident>,
    visitor: Arc<Resident>,
    room: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_must_show_a_certificate() {
    let town = Town::found();
    let [home, guest, other] = town.open_three(&FRIEND, &FRIEND).await;
    let nurse = Arc::new(home.hire("nurse").await);
    let doctor = Arc::new(guest.hire("doctor").await);
    let visitor = Arc::new(other.hire("visitor").await);
    let room = nurse.create_room("11", json!({})).await;
    for somebody in [&doctor, &visitor] {
        nurse.bring(&room, somebody).await;
    }
    let three = Three { nurse, doctor, visitor, room };
    let mut scenes = Scenes::default();
    scenes.play("a certificate is wanted and none is shown", none_shown(three.clone())).await;
    scenes.play("the right one is shown", shown(three.clone())).await;
    scenes.play("another key is pinned", another(three.clone())).await;
    scenes.end();
}

/// The doctor says something; whether the nurse hears it.
async fn is_heard(three: &Three, body: &str) -> bool {
    let said = three.doctor.say(&three.room, body).await;
    sleep(REFUSED).await;
    three.nurse.find_event(&three.room, &said).await.is_some()
}

/// The visitor's Synapse shows nothing, and need not.
async fn others_go_on(three: &Three) {
    let said = three.visitor.say(&three.room, "hello from elsewhere").await;
    three.nurse.wait_event(&three.room, &said).await;
    let answered = three.nurse.say(&three.room, "hello").await;
    three.visitor.wait_event(&three.room, &answered).await;
}

async fn none_shown(three: Three) {
    let (home, guest) = (&three.nurse.hospital, &three.doctor.hospital);
    assert!(is_heard(&three, "before").await, "without any of this");
    let authority = guest.scratch().join("identity/ca.pem");
    home.describe(guest, &["--client-ca", &authority.to_string_lossy()]).await;
    assert!(!is_heard(&three, "in the name of a peer").await);
    assert!(home.log().contains("peers.certificate"), "the journal says so");
    others_go_on(&three).await;
    // The other way none is wanted.
    let said = three.nurse.say(&three.room, "can you hear me?").await;
    three.doctor.wait_event(&three.room, &said).await;
}

/// The number of events that wait at the guest for home.
async fn waiting(three: &Three) -> Value {
    let home = &three.nurse.hospital.name;
    three.doctor.hospital.order(&["peers", "show", home]).await["backlog_events"].clone()
}

async fn shown(three: Three) {
    let (home, guest) = (&three.nurse.hospital, &three.doctor.hospital);
    assert_ne!(waiting(&three).await, 0, "what was refused waits");
    guest.describe(home, &["--show-certificate", "yes"]).await;
    let said = three.doctor.say(&three.room, "it is me").await;
    three.nurse.wait_event(&three.room, &said).await;
    until("everything that waited", async || (waiting(&three).await == 0).then_some(())).await;
    let checked = guest.order(&["peers", "check", &home.name]).await;
    assert_eq!(checked["ok"], true, "{checked}");
    assert!(checked.to_string().contains("is shown this server's certificate"), "{checked}");
    let checked = home.order(&["peers", "check", &guest.name]).await;
    assert!(checked.to_string().contains("must show a certificate"), "{checked}");
    // What is asked for takes the same way as what is sent.
    let path = format!("/v3/profile/{}", three.nurse.user_id);
    let asked = three.doctor.call(Method::GET, &path, None).await;
    assert!(asked.status.is_success(), "{}", asked.summary());
    others_go_on(&three).await;
}

async fn another(three: Three) {
    let (home, guest) = (&three.nurse.hospital, &three.doctor.hospital);
    let pin = format!("sha256:{}", "ab".repeat(32));
    home.describe(guest, &["--client-pin", &pin]).await;
    assert!(!is_heard(&three, "with another key").await);
    // The journal said at the start which key it is.
    let log = guest.log();
    let key = log.split("sha256:").nth(1).and_then(|rest| rest.get(..64)).expect("its own pin");
    home.describe(guest, &["--client-pin", &format!("sha256:{key}"), "--client-ca", "/dev/null"])
        .await;
    let said = three.doctor.say(&three.room, "with the pinned one").await;
    until("the pinned key to count", async || {
        // Whoever was refused waits before the next attempt; to say something more is one.
        three.doctor.say(&three.room, "now?").await;
        three.nurse.find_event(&three.room, &said).await.map(drop)
    })
    .await;
    others_go_on(&three).await;
}
