//! What apps are given, what they keep, and what makes them let go: the promises of the README that hang on
//! apps, tried with those that people use. What an app keeps all the same is tried, too, so that nobody
//! promises otherwise.

use std::time::Duration;

use appliance_acceptance::authority::certify;
use appliance_acceptance::device::{Device, Process};
use appliance_acceptance::http::Answer;
use appliance_acceptance::person::{Person, sha256};
use appliance_acceptance::server::free_port;
use appliance_acceptance::wait::until;
use http::Method;
use matrix_sdk::Client;
use matrix_sdk::config::SyncSettings;
use matrix_sdk::media::{MediaFormat, MediaRequestParameters};
use matrix_sdk::ruma::events::room::MediaSource;
use matrix_sdk::ruma::{EventId, OwnedRoomId, RoomId};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::demo::Demo;
use crate::photo_page::run_node;
use crate::ward::{Brand, Ward};

const DOCTOR: &str = "dr.osei";
const NURSE: &str = "nurse.amara";
/// The shortest that a policy can have: a look of the same person after it is another look.
const WINDOW: Duration = Duration::from_millis(1_100);

fn photo() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 96, 64);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().expect("a PNG header");
    writer.write_image_data(&[200, 20, 30].repeat(96 * 64)).expect("PNG pixels");
    writer.finish().expect("a PNG");
    bytes
}

impl Demo {
    pub(crate) fn person(&self, name: &str) -> Person {
        Person { localpart: name.into(), password: self.password(name) }
    }

    async fn nio(&self, name: &str) -> Device {
        Device::log_in_at(Box::new(Process::nio()), &self.person(name), &self.base_url()).await
    }

    /// Gives a session a one-time code for a name, as an app does.
    pub(crate) async fn enrol(&self, device: &Device) {
        let made = self.order(&["enrol", "--user", &device.user_id]).await;
        let body = json!({ "display_name": made["code"] });
        let path = format!("/devices/{}", device.device_id);
        self.call(Method::PUT, &path, &device.token, Some(body)).await;
    }

    async fn room_of(
        &self,
        host: &mut Device,
        guests: &mut [&mut Device],
        policy: Value,
    ) -> String {
        let ids: Vec<String> = guests.iter().map(|guest| guest.user_id.clone()).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let room = host.create_room(false, &ids).await;
        for guest in guests {
            guest.join(&room).await;
        }
        let path = format!("/rooms/{room}/state/io.wardstone.policy");
        self.call(Method::PUT, &path, &host.token, Some(policy)).await;
        room
    }

    /// What may be left of a file on these devices.
    async fn left<const N: usize>(&self, mxc: &str, devices: [&str; N]) -> [String; N] {
        let found = self.order(&["media", "where", mxc]).await;
        devices.map(|device_id| {
            let mut copies = found["copies"].as_array().expect("copies").iter();
            let copy = copies.find(|copy| copy["device_id"] == device_id);
            copy.map_or("none", |copy| copy["left"].as_str().expect("a word")).to_owned()
        })
    }

    async fn fetch(&self, mxc: &str, token: &str) -> Answer {
        let path = mxc.replacen("mxc://", "/_matrix/client/v1/media/download/", 1);
        self.ask(Method::GET, &path, token, None).await
    }
}

/// One person, two phones: the private one never gets the original, the managed one as often as the room
/// allows.
#[tokio::test]
async fn a_private_phone_gets_a_placeholder_and_a_managed_one_three_looks() {
    let demo = Demo::start().await;
    let (mut doctor, mut private) = (demo.nio(DOCTOR).await, demo.nio(NURSE).await);
    let policy = json!({
        "class": "clinical-photo",
        "media": { "max_opens_per_user": 3, "open_window_ms": 1_000 },
    });
    let room = demo.room_of(&mut doctor, &mut [&mut private], policy).await;
    let managed = demo.nio(NURSE).await;
    demo.enrol(&managed).await;

    let file = demo.folder().join("wound.png");
    std::fs::write(&file, photo()).expect("a photo");
    let shown = doctor.send_photo(&room, &file, false).await;
    let original = demo.fetch(&shown.mxc, &managed.token).await;
    assert_eq!(original.status, 200, "{}", original.summary());
    let seen = private.see_photo(&room, &shown).await;
    assert_ne!(seen, sha256(&original.body), "a private phone gets another picture");
    let path = shown.mxc.replacen("mxc://", "/_matrix/client/v1/media/thumbnail/", 1);
    let path = format!("{path}?width=32&height=32");
    let small = demo.ask(Method::GET, &path, &private.token, None).await;
    assert_eq!((small.status.as_u16(), small.body == original.body), (200, false));

    // A second and a third look; three fetches at once are one.
    tokio::time::sleep(WINDOW).await;
    let (one, two, three) = tokio::join!(
        demo.fetch(&shown.mxc, &managed.token),
        demo.fetch(&shown.mxc, &managed.token),
        demo.fetch(&shown.mxc, &managed.token),
    );
    for answer in [one, two, three] {
        assert_eq!(answer.status, 200, "{}", answer.summary());
    }
    tokio::time::sleep(WINDOW).await;
    assert_eq!(demo.fetch(&shown.mxc, &managed.token).await.status, 200, "the third look");
    tokio::time::sleep(WINDOW).await;
    let fourth = demo.fetch(&shown.mxc, &managed.token).await;
    assert_eq!(fourth.status, 403, "{}", fourth.summary());

    let server_and_id = shown.mxc.as_str();
    let copies = demo.order(&["media", "where", server_and_id]).await;
    let copies = copies.to_string();
    assert!(copies.contains("original") && copies.contains("placeholder"), "{copies}");
}

/// What Element X does on a phone: matrix-sdk with its stores on disk.
struct Phone {
    client: Client,
    room_id: OwnedRoomId,
    // Ends with this.
    _syncing: JoinSet<()>,
}

impl Phone {
    async fn open(demo: &Demo) -> Client {
        // The server names its public address, where the certificate is that of the demonstration.
        let client =
            Client::builder().homeserver_url(demo.base_url()).respect_login_well_known(false);
        let client = client.sqlite_store(demo.folder().join("phone"), None).build().await;
        let client = client.expect("a client with a store on disk");
        client.event_cache().subscribe().expect("events are kept");
        client
    }

    fn syncing(client: Client, room: &str) -> Self {
        let mut syncing = JoinSet::new();
        let syncer = client.clone();
        syncing.spawn(async move {
            loop {
                let _ = syncer.sync(SyncSettings::new()).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let room_id = RoomId::parse(room).expect("a room ID");
        Self { client, room_id, _syncing: syncing }
    }

    /// The content of an event, if the phone has it.
    async fn content(&self, event_id: &EventId) -> Option<Value> {
        let room = self.client.get_room(&self.room_id)?;
        let (cache, _drop_handles) = room.event_cache().await.ok()?;
        let event = cache.find_event(event_id).await.ok()??;
        event.raw().get_field("content").ok()?
    }

    /// A photo, from what the phone keeps or from the server alone.
    async fn photo(&self, mxc: &str, from_kept: bool) -> Option<Vec<u8>> {
        let source = MediaSource::Plain(mxc.into());
        let request = MediaRequestParameters { source, format: MediaFormat::File };
        self.client.media().get_media_content(&request, from_kept).await.ok()
    }
}

/// Honest residue: whoever was given the bytes has them. No app looks into its files when an event is redacted,
/// so the table says "best effort".
#[tokio::test]
async fn matrix_sdk_keeps_the_bytes_it_fetched_when_the_event_is_gone() {
    const TTL_MS: u64 = 12_000;
    let mut demo = Demo::start().await;
    let mut doctor = demo.nio(DOCTOR).await;
    let mut tablet =
        Device::log_in_at(Box::new(Process::js()), &demo.person(NURSE), &demo.base_url()).await;
    let client = Phone::open(&demo).await;
    let login = client.matrix_auth().login_username(NURSE, &demo.password(NURSE));
    login.send().await.expect("a session");
    let session = client.matrix_auth().session().expect("a session");
    let room = doctor.create_room(false, &[session.meta.user_id.as_str()]).await;
    let path = format!("/rooms/{room}/state/io.wardstone.policy");
    let policy = json!({ "media": { "ttl_ms": TTL_MS } });
    demo.call(Method::PUT, &path, &doctor.token, Some(policy)).await;
    let phone = Phone::syncing(client, &room);
    phone.client.join_room_by_id(&phone.room_id).await.expect("the room");
    until("the room", async || phone.client.get_room(&phone.room_id)).await;
    tablet.command("wait_members", json!({ "room_id": room, "users": [tablet.user_id] })).await;

    let (file, original) = (demo.folder().join("wound.png"), photo());
    std::fs::write(&file, &original).expect("a photo");
    let shown = doctor.send_photo(&room, &file, false).await;
    let event_id = EventId::parse(&shown.event_id).expect("an event ID");
    let seen = until("the photo's event", async || phone.content(&event_id).await).await;
    assert_eq!(seen["url"], shown.mxc);
    assert_eq!(phone.photo(&shown.mxc, true).await.as_ref(), Some(&original), "fetched and kept");
    assert_eq!(tablet.see_photo(&room, &shown).await, sha256(&original));
    let tablet_id = tablet.device_id.clone();
    let both = [session.meta.device_id.as_str(), tablet_id.as_str()];
    assert_eq!(demo.left(&shown.mxc, both).await, ["may_hold", "may_hold"]);
    tablet.command("go_away", json!({})).await;

    let pruned = || async {
        let content = phone.content(&event_id).await?;
        content.as_object()?.is_empty().then_some(())
    };
    until("the redaction", pruned).await;
    until("the end of the photo", async || {
        phone.photo(&shown.mxc, false).await.is_none().then_some(())
    })
    .await;
    // The ledger of copies: who has read on was told, who was away may have it still until they come back.
    let left = async |expected: &str| {
        until(expected, async || {
            let left = demo.left(&shown.mxc, both).await;
            (left == ["redaction_delivered", expected]).then_some(())
        })
        .await;
    };
    left("unknown").await;
    tablet.command("come_back", json!({})).await;
    tablet.wait_redacted(&room, &shown.event_id).await;
    left("redaction_delivered").await;
    drop(phone);
    // The app is opened again where there is no server: this is what lies on the phone.
    demo.kill();
    let client = Phone::open(&demo).await;
    client.restore_session(session).await.expect("the session");
    let phone = Phone::syncing(client, &room);
    assert_eq!(phone.content(&event_id).await, Some(json!({})), "the event has nothing in it");
    assert_eq!(phone.photo(&shown.mxc, true).await, Some(original), "and the bytes are there");
}

/// The widest remote wipe there is: apps that hear this remove what they keep.
#[tokio::test]
async fn an_ended_session_is_ended_hard_for_every_sdk() {
    let mut ward = Ward::open().await;
    let mut devices = Vec::new();
    for (brand, name) in [(Brand::Rust, "nurse"), (Brand::Js, "doctor"), (Brand::Nio, "porter")] {
        devices.push(ward.newcomer(brand, name).await);
    }
    for device in &devices {
        let lost = ["device", "lost", &device.user_id, &device.device_id];
        assert_eq!(ward.server.order(&lost).await["device_id"], device.device_id);
    }
    for device in &mut devices {
        let ended = device.wait_ended().await;
        assert_eq!(ended, ("M_UNKNOWN_TOKEN".to_owned(), false), "{}", device.device_id);
    }
    ward.close();
}

/// matrix-js-sdk is told how long a room's words live, and forgets them when there is no server to ask: an hour
/// later by its clock.
#[tokio::test]
async fn matrix_js_sdk_forgets_by_itself_while_the_server_is_off() {
    const HOUR_MS: u64 = 3_600_000;
    const WORDS: &str = "planted words: the knee of bed seven";
    let mut demo = Demo::start().await;
    let (mut doctor, mut nurse) = (demo.nio(DOCTOR).await, demo.nio(NURSE).await);
    let policy = json!({ "timeline": { "ttl_ms": HOUR_MS } });
    let room = demo.room_of(&mut doctor, &mut [&mut nurse], policy).await;
    let forgets = Box::new(Process::js_that_forgets());
    let nurse = demo.person(NURSE);
    let mut nurse = Device::log_in_at(forgets, &nurse, &demo.base_url()).await;
    let words = doctor.send(&room, WORDS).await;
    nurse.hear(&room, WORDS, &doctor.user_id).await;
    demo.kill();
    assert!(nurse.stores(WORDS).await, "it is in the store");
    nurse.let_pass(HOUR_MS + 60_000).await;
    nurse.wait_forgotten(&room, &words).await;
    // Honest residue: `IndexedDBStore` of matrix-js-sdk 43 does not pass on what it is told to remove.
    assert!(nurse.stores(WORDS).await, "its store in the browser has it still");
}

/// The hospital's own devices have certificates; who signs in with one has a managed session.
#[tokio::test]
async fn a_device_with_the_hospital_s_certificate_gets_the_original_and_others_do_not_come_in() {
    let mut demo = Demo::start().await;
    let (own, devices, strange) =
        (demo.folder().join("own"), demo.folder().join("devices"), demo.folder().join("strange"));
    for folder in [&own, &devices, &strange] {
        std::fs::create_dir(folder).expect("a folder");
        certify(folder).expect("an authority and a certificate");
    }
    let port = free_port();
    let tls = json!({
        "certificate_file": own.join("server.pem"), "key_file": own.join("server.key"),
        "client_ca_file": devices.join("ca.pem"),
    });
    demo.kill();
    demo.also_listens(&json!({
        "kind": "client", "address": format!("127.0.0.1:{port}"), "tls": tls,
    }));
    demo.start_again().await;

    let doctor = demo.sign_in(DOCTOR).await;
    let room = json!({ "initial_state": [{
        "type": "io.wardstone.policy", "content": { "class": "clinical-photo" },
    }]});
    let made = demo.call(Method::POST, "/createRoom", &doctor, Some(room)).await;
    let uri = demo.upload(&doctor, photo()).await;
    let content = json!({ "msgtype": "m.image", "body": "wound.png", "url": uri });
    let path = format!("/rooms/{}/send/m.room.message/t1", made["room_id"].as_str().unwrap());
    demo.call(Method::PUT, &path, &doctor, Some(content)).await;
    let placeholder = demo.fetch(&uri, &doctor).await;
    assert_eq!(placeholder.status, 200, "{}", placeholder.summary());

    let sign_in = async |folder: Option<&std::path::Path>| {
        let file = |name: &str| folder.map(|folder| folder.join(name));
        let given = json!({
            "port": port, "ca": own.join("ca.pem"), "user": DOCTOR, "password": demo.password(DOCTOR),
            "certificate": file("server.pem"), "key": file("server.key"),
        });
        run_node("client_certificate.mjs", &given).await
    };
    let signed_in = sign_in(Some(&devices)).await;
    assert_eq!(signed_in["status"], 200, "{signed_in}");
    let original = demo.fetch(&uri, signed_in["token"].as_str().unwrap()).await;
    assert_eq!(original.status, 200, "{}", original.summary());
    assert_ne!(original.body, placeholder.body, "the same person on two devices");
    for outside in [sign_in(None).await, sign_in(Some(&strange)).await] {
        assert!(outside["refused"].is_string(), "{outside}");
    }
}
