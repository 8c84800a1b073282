//! A house that keeps devices it does not look after out of encryption: what apps make of that.

use appliance_acceptance::device::{Device, meet};

use crate::demo::Demo;
use crate::ward::Brand;

const DOCTOR: &str = "dr.osei";
const NURSE: &str = "nurse.amara";

/// One person with a private phone and a managed tablet. From the moment on at which the house says so, nobody
/// encrypts for the phone; nor for another that signs in later, until it is enrolled.
async fn keeps_out(writes: Brand, private: Brand, managed: Brand) {
    let demo = Demo::start().await;
    let sign_in = async |brand: Brand, name: &str| {
        Device::log_in_at(brand.sdk(), &demo.person(name), &demo.base_url()).await
    };
    let mut doctor = sign_in(writes, DOCTOR).await;
    let mut phone = sign_in(private, NURSE).await;
    let mut tablet = sign_in(managed, NURSE).await;
    for device in [&doctor, &tablet] {
        demo.enrol(device).await;
    }
    if managed.cross_signs() {
        tablet.bootstrap_cross_signing().await;
    }
    let room = meet(&mut doctor, &mut phone, true).await;
    let both = [doctor.user_id.clone(), phone.user_id.clone()];
    let both = [both[0].as_str(), both[1].as_str()];
    tablet.wait_members(&room, &both).await;
    doctor.trusts(&phone.user_id, &phone.device_id).await;
    doctor.trusts(&tablet.user_id, &tablet.device_id).await;
    doctor.send(&room, "for everybody").await;
    assert!(phone.hear(&room, "for everybody", both[0]).await, "as everywhere else");
    assert!(tablet.hear(&room, "for everybody", both[0]).await);

    let pack = demo.folder().join("pack.toml");
    let rule = "[server.device]\nunmanaged_encryption = \"none\"\n";
    std::fs::write(&pack, rule).expect("a pack");
    demo.order(&["policy", "set", pack.to_str().expect("a path")]).await;
    doctor.wait_device_gone(&phone.user_id, &phone.device_id).await;
    let words = doctor.send(&room, "for managed devices").await;
    assert!(tablet.hear(&room, "for managed devices", both[0]).await);
    phone.wait_unreadable(&room, &words).await;
    tablet.send(&room, "an answer").await;
    assert!(doctor.hear(&room, "an answer", both[1]).await, "the others go on");
    if managed.cross_signs() && writes.cross_signs() {
        let trust = doctor.trusts(&tablet.user_id, &tablet.device_id).await;
        assert!(trust.cross_signed, "its owner's identity is what it was");
    }

    // Another phone: it publishes nothing, reads nothing, and what it says is readable to nobody.
    let mut new = sign_in(private, NURSE).await;
    let words = doctor.send(&room, "still for managed devices").await;
    assert!(tablet.hear(&room, "still for managed devices", both[0]).await);
    new.wait_unreadable(&room, &words).await;
    match new.try_to_send(&room, "does anybody hear me?").await {
        Ok(event_id) => doctor.wait_unreadable(&room, &event_id).await,
        // matrix-nio cannot read a refusal of its keys, and ends with an error of its own.
        Err(why) if private == Brand::Nio => assert!(why.contains("room_id"), "{why}"),
        Err(why) => assert!(why.contains("devices that it looks after"), "{why}"),
    }
    // Its app has not given up: enrolled, it publishes its keys by itself and is encrypted for.
    demo.enrol(&new).await;
    tablet.send(&room, "whatever ends its long-poll").await;
    doctor.trusts(&new.user_id, &new.device_id).await;
    doctor.send(&room, "for one more").await;
    assert!(new.hear(&room, "for one more", both[0]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_with_nio_for_a_phone_that_is_kept_out() {
    keeps_out(Brand::Nio, Brand::Rust, Brand::Nio).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_with_rust_for_a_phone_that_is_kept_out() {
    keeps_out(Brand::Rust, Brand::Nio, Brand::Rust).await;
}
