//! Encrypted conversations between hospitals, with matrix-sdk at both ends: keys that are looked up and
//! claimed across servers, messages between devices, devices that come later, people who verify each
//! other.

use std::sync::Arc;

use appliance_acceptance::device::{Device, meet, verify_by_emoji};
use appliance_acceptance::person::{Person, sha256};
use appliance_acceptance::wait::until;
use serde_json::json;

use crate::resident::{Resident, a_photo};
use crate::rust_sdk::RustSdk;
use crate::town::{FRIEND, Hospital, Town};

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_between_a_wardstone_and_a_synapse() {
    let (ours, theirs) = Town::found().open_both().await;
    a_day(ours, theirs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_between_two_wardstones() {
    let town = Town::found();
    let [one, other] = town.open_sisters(&FRIEND).await;
    a_day(one, other).await;
}

async fn device_of(hospital: &Hospital, person: &Person) -> Device {
    Device::log_in_at(Box::new(RustSdk::default()), person, &hospital.base_url()).await
}

async fn newcomer(hospital: &Hospital, name: &str) -> Device {
    let person = Person::named(name);
    hospital.enrol(name, &person.password).await;
    device_of(hospital, &person).await
}

/// Each makes a room for both; they talk, show a photo, verify each other, and get a new device.
async fn a_day(ours: Arc<Hospital>, theirs: Arc<Hospital>) {
    let mut nurse = newcomer(&ours, "nurse").await;
    let mut doctor = newcomer(&theirs, "doctor").await;
    let first = meet(&mut nurse, &mut doctor, true).await;
    talk(&mut nurse, &mut doctor, &first).await;
    let second = meet(&mut doctor, &mut nurse, true).await;
    talk(&mut nurse, &mut doctor, &second).await;

    let photo = ours.scratch().join("wound.png");
    std::fs::write(&photo, a_photo()).expect("a photo");
    for room in [&first, &second] {
        let shown = nurse.send_photo(room, &photo, true).await;
        assert_eq!(doctor.see_photo(room, &shown).await, sha256(&a_photo()));
        let shown = doctor.send_photo(room, &photo, true).await;
        assert_eq!(nurse.see_photo(room, &shown).await, sha256(&a_photo()));
    }

    nurse.bootstrap_cross_signing().await;
    doctor.bootstrap_cross_signing().await;
    until("each other's identities", async || {
        let here = nurse.trusts(&doctor.user_id, &doctor.device_id).await;
        let there = doctor.trusts(&nurse.user_id, &nurse.device_id).await;
        (here.cross_signed && there.cross_signed).then_some(())
    })
    .await;
    verify_by_emoji(&mut nurse, &mut doctor).await;
    assert!(nurse.trusts(&doctor.user_id, &doctor.device_id).await.verified);
    assert!(doctor.trusts(&nurse.user_id, &nurse.device_id).await.verified);

    // A device that comes later is told what is said from then on; one that goes is known to be gone.
    let watchers = [ours.hire("watcher").await, theirs.hire("watcher").await];
    let users = [nurse.user_id.clone(), doctor.user_id.clone()];
    for (at, room) in [(&ours, &first), (&theirs, &second)] {
        let (owner, speaker) = match Arc::ptr_eq(at, &ours) {
            true => (&nurse.person, &mut doctor),
            false => (&doctor.person, &mut nurse),
        };
        let mut tablet = device_of(at, owner).await;
        tablet.wait_members(room, &[users[0].as_str(), users[1].as_str()]).await;
        // Returns once the device is known at the other hospital.
        speaker.trusts(&tablet.user_id, &tablet.device_id).await;
        speaker.send(room, "for all devices").await;
        let by = speaker.user_id.clone();
        assert!(tablet.hear(room, "for all devices", &by).await, "encrypted on the way");
        let watcher = &watchers[usize::from(Arc::ptr_eq(at, &ours))];
        assert!(is_known(watcher, &tablet).await, "the other hospital has its keys");
        tablet.log_out().await;
        until("a device that went to be forgotten", async || {
            (!is_known(watcher, &tablet).await).then_some(())
        })
        .await;
    }
}

/// Whether the keys of a device are found from where somebody works.
async fn is_known(watcher: &Resident, device: &Device) -> bool {
    let body = json!({ "device_keys": { (device.user_id.clone()): [] } });
    let found = watcher.post("/v3/keys/query", body).await;
    found["device_keys"][&device.user_id].get(&device.device_id).is_some()
}

async fn talk(first: &mut Device, second: &mut Device, room: &str) {
    for turn in ["one", "two"] {
        let words = format!("turn {turn} in {room}");
        first.send(room, &words).await;
        assert!(second.hear(room, &words, &first.user_id).await, "encrypted on the way");
        let words = format!("answer {turn} in {room}");
        second.send(room, &words).await;
        assert!(first.hear(room, &words, &second.user_id).await, "encrypted on the way");
    }
}
