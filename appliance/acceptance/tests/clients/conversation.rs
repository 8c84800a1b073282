//! A working day between two people: they meet, talk, trust each other, show a photo, and leave.

use appliance_acceptance::device::{Device, meet, verify_by_emoji};
use appliance_acceptance::wait::until;
use http::Method;

use crate::ward::{Brand, Ward};

/// Everything two people do, from the account to the log-out.
async fn working_day(nurse_has: Brand, doctor_has: Brand) {
    let mut ward = Ward::open().await;
    let mut nurse = ward.newcomer(nurse_has, "nurse").await;
    let mut doctor = ward.employee(doctor_has, "doctor").await;

    let room = meet(&mut nurse, &mut doctor, true).await;
    talk(&mut ward, &mut nurse, &mut doctor, &room).await;

    // Photos first: their time runs while the two do other things.
    let corridor = meet(&mut doctor, &mut nurse, false).await;
    let sealed = nurse.send_photo(&room, &ward.photo(), true).await;
    assert_eq!(doctor.see_photo(&room, &sealed).await, ward.photo_sha256, "the encrypted photo");
    let plain = doctor.send_photo(&corridor, &ward.photo(), false).await;
    assert_eq!(nurse.see_photo(&corridor, &plain).await, ward.photo_sha256, "the plain photo");

    if nurse_has.compares_emoji_with(doctor_has) {
        verify_by_emoji(&mut nurse, &mut doctor).await;
        assert!(nurse.trusts(&doctor.user_id, &doctor.device_id).await.verified);
        assert!(doctor.trusts(&nurse.user_id, &nurse.device_id).await.verified);
    }
    if nurse_has.cross_signs() {
        cross_sign(&mut nurse, &mut doctor, doctor_has).await;
        restore(&mut ward, &mut nurse, &mut doctor, &room, nurse_has).await;
    }

    ward.outlive(&nurse, &room, &sealed.event_id, &sealed.mxc).await;
    ward.outlive(&doctor, &corridor, &plain.event_id, &plain.mxc).await;
    for device in [&mut nurse, &mut doctor] {
        gone(device, &sealed.mxc).await;
        gone(device, &plain.mxc).await;
        device.wait_redacted(&corridor, &plain.event_id).await;
    }

    for mut device in [nurse, doctor] {
        device.log_out().await;
        refused(&ward, &device).await;
    }
    ward.close();
}

/// Both say something, and both are heard; nobody between them could read it.
async fn talk(ward: &mut Ward, first: &mut Device, second: &mut Device, room: &str) {
    for turn in ["one", "two"] {
        let words = ward.secret(&format!("turn {turn} of {}", first.user_id));
        first.send(room, &words).await;
        assert!(second.hear(room, &words, &first.user_id).await, "encrypted on the way");
        let words = ward.secret(&format!("turn {turn} of {}", second.user_id));
        second.send(room, &words).await;
        assert!(first.hear(room, &words, &second.user_id).await, "encrypted on the way");
    }
}

/// One makes an identity; the other's device learns that it vouches for the first one's device.
async fn cross_sign(nurse: &mut Device, doctor: &mut Device, doctor_has: Brand) {
    nurse.bootstrap_cross_signing().await;
    if doctor_has.cross_signs() {
        until("the nurse's identity at the doctor's", async || {
            let trust = doctor.trusts(&nurse.user_id, &nurse.device_id).await;
            trust.cross_signed.then_some(())
        })
        .await;
    }
}

/// Backs up the room keys, and reads the past on a new device.
async fn restore(
    ward: &mut Ward,
    nurse: &mut Device,
    doctor: &mut Device,
    room: &str,
    new_device_is: Brand,
) {
    let words = ward.secret("what the new device must read");
    let old = doctor.send(room, &words).await;
    nurse.hear(room, &words, &doctor.user_id).await;
    let recovery_key = nurse.enable_backup().await;
    ward.remember_secret(&recovery_key);

    let mut tablet = ward.another_device(new_device_is, &nurse.person).await;
    tablet.restore_backup(&recovery_key, room).await;
    assert_eq!(tablet.read_history(room, &old).await, words, "the past, on the new device");
    until("the recovered identity's signature on the new device", async || {
        let trust = nurse.trusts(&tablet.user_id, &tablet.device_id).await;
        trust.cross_signed.then_some(())
    })
    .await;
    tablet.log_out().await;
    refused(ward, &tablet).await;
}

/// Waits until a file's time is over: from then on nobody gets it.
async fn gone(device: &mut Device, mxc: &str) {
    let errcode = until("the end of the photo's time", async || {
        let (status, errcode) = device.download(mxc).await;
        (status != 200).then_some((status, errcode))
    })
    .await;
    assert_eq!(errcode, (404, Some("M_NOT_FOUND".into())), "what {} is told", device.user_id);
}

/// The token of a device that logged out opens nothing any more.
async fn refused(ward: &Ward, device: &Device) {
    let http = ward.server.http();
    let path = "/_matrix/client/v3/account/whoami";
    let answer = http.call(Method::GET, path, Some(&device.token), None).await.expect("an answer");
    assert_eq!(answer.status, 401, "{}", answer.summary());
    assert_eq!(answer.errcode().as_deref(), Some("M_UNKNOWN_TOKEN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_day_with_rust_and_rust() {
    working_day(Brand::Rust, Brand::Rust).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_day_with_js_and_js() {
    working_day(Brand::Js, Brand::Js).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_day_with_nio_and_nio() {
    working_day(Brand::Nio, Brand::Nio).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_day_with_rust_and_js() {
    working_day(Brand::Rust, Brand::Js).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_day_with_js_and_rust() {
    working_day(Brand::Js, Brand::Rust).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_day_with_nio_and_rust() {
    working_day(Brand::Nio, Brand::Rust).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_day_with_js_and_nio() {
    working_day(Brand::Js, Brand::Nio).await;
}
