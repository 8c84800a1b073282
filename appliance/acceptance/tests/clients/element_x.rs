//! What Element X runs, matrix-sdk-ui's `SyncService`, `RoomListService`, `Timeline` and
//! `NotificationClient`, lives on sliding sync: three connections of one device, an encrypted
//! conversation, a server that dies in the middle of it, and a room that its member is put out of.

use std::sync::Arc;

use appliance_acceptance::person::Person;
use appliance_acceptance::wait::until;
use matrix_sdk::ruma::api::client::room::create_room;
use matrix_sdk::ruma::events::InitialStateEvent;
use matrix_sdk::ruma::events::room::encryption::RoomEncryptionEventContent;
use matrix_sdk::ruma::events::room::message::RoomMessageEventContent;
use matrix_sdk::ruma::{OwnedEventId, OwnedRoomId, RoomId, UserId};
use matrix_sdk::{Client, Room, RoomState};
use matrix_sdk_ui::notification_client::{
    NotificationClient, NotificationProcessSetup, NotificationStatus,
};
use matrix_sdk_ui::room_list_service::RoomListLoadingState;
use matrix_sdk_ui::sync_service::{State, SyncService};
use matrix_sdk_ui::timeline::{Timeline, TimelineBuilder};

use crate::rust_sdk::{first_identity, not_cancelled};
use crate::ward::Ward;

/// More than the first window of the room list, which holds twenty.
const OTHER_ROOMS: usize = 24;

/// A message is awaited for half a minute before the app is taken up again: a look each 50 ms.
const LOOKS_PATIENTLY: usize = 600;

/// A phone with Element X on it.
struct Phone {
    client: Client,
    service: Arc<SyncService>,
}

impl Phone {
    async fn log_in(ward: &Ward, person: &Person) -> Self {
        let client = Client::builder().homeserver_url(ward.server.base_url()).build().await;
        let client = client.expect("a client");
        let login = client.matrix_auth().login_username(&person.localpart, &person.password);
        login.initial_device_display_name("phone").send().await.expect("a session");
        let service = SyncService::builder(client.clone()).build().await.expect("a sync service");
        let phone = Self { client, service: Arc::new(service) };
        phone.service.start().await;
        phone
    }

    async fn room(&self, room_id: &RoomId, state: RoomState) -> Room {
        until(&format!("{room_id} to be {state:?}"), async || {
            self.client.get_room(room_id).filter(|room| room.state() == state)
        })
        .await
    }

    async fn timeline(&self, room_id: &RoomId) -> Timeline {
        let room = self.room(room_id, RoomState::Joined).await;
        self.service.room_list_service().subscribe_to_rooms(&[room_id]).await;
        TimelineBuilder::new(&room).build().await.expect("a timeline")
    }

    /// The service ends when it finds the server gone, which may be a while after the server is back;
    /// Element X then starts it again.
    async fn keep_running(&self) {
        if !matches!(self.service.state().get(), State::Running) {
            self.service.start().await;
        }
    }

    /// What the app does when it is put aside and taken up again.
    ///
    /// `SyncService::start` (0.18.0) says `Running` only after it has begun: when both connections are
    /// refused before it says so, as by a server that has started anew (`M_UNKNOWN_POS`), `Running`
    /// comes after `Error`, and the service stands still while it says that it runs.
    async fn take_up_again(&self) {
        self.service.stop().await;
        self.service.start().await;
    }
}

/// Waits until a timeline shows these words, decrypted.
async fn hear(phone: &Phone, timeline: &Timeline, words: &str, from: &UserId) -> OwnedEventId {
    let mut looks = 0;
    until(&format!("{words:?} in a timeline"), async || {
        phone.keep_running().await;
        looks += 1;
        if looks % LOOKS_PATIENTLY == 0 {
            phone.take_up_again().await;
        }
        let items = timeline.items().await;
        let events = items.iter().filter_map(|item| item.as_event());
        let mut heard = events.filter(|event| {
            let said = event.content().as_message().is_some_and(|said| said.body() == words);
            said && event.sender() == from && event.encryption_info().is_some()
        });
        heard.next().and_then(|event| event.event_id().map(ToOwned::to_owned))
    })
    .await
}

async fn say(room: &Room, words: &str) {
    room.send(RoomMessageEventContent::text_plain(words)).await.expect("an event ID");
}

async fn encrypted_room(nurse: &Client, guest: &UserId) -> OwnedRoomId {
    let encryption = RoomEncryptionEventContent::with_recommended_defaults();
    let mut request = create_room::v3::Request::new();
    request.name = Some("Ward 4".to_owned());
    request.invite = vec![guest.to_owned()];
    request.initial_state = vec![InitialStateEvent::with_empty_state_key(encryption).to_raw_any()];
    nurse.create_room(request).await.expect("a room").room_id().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn element_x_lives_on_sliding_sync() {
    let mut ward = Ward::open().await;
    let [nurse, doctor] = ["nurse", "doctor"].map(Person::named);
    for person in [&nurse, &doctor] {
        person.hire(&ward.server, false).await;
        ward.remember_secret(&person.password);
    }
    let (nurse_phone, doctor_phone) =
        (Phone::log_in(&ward, &nurse).await, Phone::log_in(&ward, &doctor).await);
    let ids = [&nurse_phone, &doctor_phone]
        .map(|phone| phone.client.user_id().expect("signed in").to_owned());
    let room_id = encrypted_room(&nurse_phone.client, &ids[1]).await;
    doctor_phone.room(&room_id, RoomState::Invited).await;
    doctor_phone.client.join_room_by_id(&room_id).await.expect("to join");
    let (at_nurse, at_doctor) =
        (nurse_phone.timeline(&room_id).await, doctor_phone.timeline(&room_id).await);
    let of_nurse = nurse_phone.room(&room_id, RoomState::Joined).await;
    let of_doctor = doctor_phone.room(&room_id, RoomState::Joined).await;
    until("both to be in the room", async || {
        let both = of_nurse.joined_members_count() == 2 && of_doctor.joined_members_count() == 2;
        both.then_some(())
    })
    .await;
    assert_eq!(of_doctor.name().as_deref(), Some("Ward 4"));
    assert!(of_doctor.encryption_state().is_encrypted());

    for round in 0..3 {
        let words = ward.secret(&format!("to the doctor, round {round}"));
        say(&of_nurse, &words).await;
        let event_id = hear(&doctor_phone, &at_doctor, &words, &ids[0]).await;
        let words = ward.secret(&format!("to the nurse, round {round}"));
        say(&of_doctor, &words).await;
        hear(&nurse_phone, &at_nurse, &words, &ids[1]).await;
        notified(&doctor_phone, &room_id, &event_id).await;
        if round < 2 {
            ward.server.kill().await;
            ward.server.start_again().await;
        }
    }
    sees_all_rooms(&ward, &nurse, &nurse_phone).await;

    of_nurse.kick_user(&ids[1], None).await.expect("to be allowed");
    doctor_phone.room(&room_id, RoomState::Left).await;
    for phone in [nurse_phone, doctor_phone] {
        phone.service.stop().await;
    }
    ward.close();
}

/// One person's two phones compare emoji, then two people's, in a room made for it. The room keys go
/// into a backup, and a third phone reads with them what was said before it was there. All by sliding
/// sync.
#[tokio::test(flavor = "multi_thread")]
async fn element_x_verifies_and_restores() {
    let mut ward = Ward::open().await;
    let [nurse, doctor] = ["nurse", "doctor"].map(Person::named);
    for person in [&nurse, &doctor] {
        person.hire(&ward.server, false).await;
        ward.remember_secret(&person.password);
    }
    let (old, other) = (Phone::log_in(&ward, &nurse).await, Phone::log_in(&ward, &doctor).await);
    first_identity(&old.client, &nurse.password).await.expect("an identity");
    let ids = [&old, &other].map(|phone| phone.client.user_id().expect("signed in").to_owned());
    let room_id = encrypted_room(&old.client, &ids[1]).await;
    other.room(&room_id, RoomState::Invited).await;
    other.client.join_room_by_id(&room_id).await.expect("to join");
    let at_nurse = old.timeline(&room_id).await;
    let of_doctor = other.room(&room_id, RoomState::Joined).await;
    let words = ward.secret("before the third phone");
    say(&of_doctor, &words).await;
    let event_id = hear(&old, &at_nurse, &words, &ids[1]).await;

    let new = Phone::log_in(&ward, &nurse).await;
    compare_emoji(&old, &new).await;
    first_identity(&other.client, &doctor.password).await.expect("an identity");
    compare_emoji(&old, &other).await;
    let recovery = old.client.encryption().recovery();
    let key = recovery.enable().wait_for_backups_to_upload().await.expect("a backup");
    ward.remember_secret(&key);

    // The server dies between the backup and its first use.
    ward.server.kill().await;
    ward.server.start_again().await;
    let third = Phone::log_in(&ward, &nurse).await;
    let encryption = third.client.encryption();
    encryption.recovery().recover(&key).await.expect("the secrets");
    encryption.backups().download_room_keys_for_room(&room_id).await.expect("the room's keys");
    let of_nurse = third.room(&room_id, RoomState::Joined).await;
    let event = of_nurse.event(&event_id, None).await.expect("the event");
    assert!(event.encryption_info().is_some(), "it was encrypted, and is read");
    assert!(event.raw().json().get().contains(&words));
    until("the third phone to be vouched for", async || {
        third.keep_running().await;
        let own = encryption.get_own_device().await.ok()??;
        own.is_cross_signed_by_owner().then_some(())
    })
    .await;
    for phone in [old, other, new, third] {
        phone.service.stop().await;
    }
    ward.close();
}

/// The new phone asks, the old one, of the same person or another, answers; both show the same emoji.
async fn compare_emoji(old: &Phone, new: &Phone) {
    let (asker, asked_of) = (new.client.user_id(), old.client.user_id());
    let (user, asked_of) = (asker.expect("signed in"), asked_of.expect("signed in"));
    let device_id = new.client.device_id().expect("signed in");
    // matrix-sdk passes over questions of devices that it does not know yet.
    until("the new phone in the old one's list", async || {
        old.client.encryption().get_device(user, device_id).await.ok()?
    })
    .await;
    let asked = until("the identity at the new phone", async || {
        let identity = new.client.encryption().request_user_identity(asked_of).await.ok()??;
        identity.request_verification().await.ok()
    })
    .await;
    let flow = asked.flow_id().to_owned();
    if let Some(room_id) = asked.room_id() {
        // Other people are asked in a room of the two. An app that shows it subscribes to it.
        old.room(room_id, RoomState::Invited).await.join().await.expect("to join");
        old.timeline(room_id).await;
        new.timeline(room_id).await;
    }
    let request = until("the question at the old phone", async || {
        old.client.encryption().get_verification_request(user, &flow).await
    })
    .await;
    request.accept().await.expect("to accept");
    until("the old phone's answer", async || asked.is_ready().then_some(())).await;
    let at_new = asked.start_sas().await.expect("an answer").expect("emoji");
    let at_old = until("the beginning at the old phone", async || {
        old.client.encryption().get_verification(user, &flow).await?.sas()
    })
    .await;
    at_old.accept().await.expect("to accept");
    let shown = until("the emoji", async || {
        let both = at_new.can_be_presented() && at_old.can_be_presented();
        both.then(|| [&at_new, &at_old].map(|sas| sas.emoji().expect("emoji")))
    })
    .await;
    assert!(shown[0].iter().zip(&shown[1]).all(|(new, old)| new.symbol == old.symbol));
    at_new.confirm().await.expect("to confirm");
    at_old.confirm().await.expect("to confirm");
    until("the end of the comparison", async || {
        not_cancelled(at_new.cancel_info()).expect("agreement");
        (at_new.is_done() && at_old.is_done()).then_some(())
    })
    .await;
    until("the one that was asked to trust the other", async || {
        let device = old.client.encryption().get_device(user, device_id).await.ok()??;
        device.is_verified_with_cross_signing().then_some(())
    })
    .await;
}

/// What a push makes the phone do: a third connection, with the room that the push names.
async fn notified(phone: &Phone, room_id: &RoomId, event_id: &OwnedEventId) {
    let sync_service = phone.service.clone();
    let setup = NotificationProcessSetup::SingleProcess { sync_service };
    let notifications = NotificationClient::new(phone.client.clone(), setup).await;
    let notifications = notifications.expect("a notification client");
    let status = notifications.get_notification_with_sliding_sync(room_id, event_id).await;
    let status = status.expect("an answer");
    assert!(matches!(status, NotificationStatus::Event(_)), "{status:?}");
}

/// A second phone shows every room, page by page.
async fn sees_all_rooms(ward: &Ward, person: &Person, first: &Phone) {
    for number in 0..OTHER_ROOMS {
        let mut request = create_room::v3::Request::new();
        request.name = Some(format!("Bed {number}"));
        first.client.create_room(request).await.expect("a room");
    }
    let second = Phone::log_in(ward, person).await;
    let list = second.service.room_list_service().all_rooms().await.expect("a list");
    until("the size of the room list", async || {
        let state = list.loading_state().get();
        let size = u32::try_from(OTHER_ROOMS + 1).ok();
        matches!(state, RoomListLoadingState::Loaded { maximum_number_of_rooms } if maximum_number_of_rooms == size)
            .then_some(())
    })
    .await;
    until("every room and its name", async || {
        let rooms = second.client.joined_rooms();
        let named = rooms.iter().filter(|room| room.name().is_some());
        (named.count() == OTHER_ROOMS + 1).then_some(())
    })
    .await;
    second.service.stop().await;
}
