//! One device of one person, played by matrix-sdk inside the test.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use appliance_acceptance::device::Sdk;
use appliance_acceptance::person::sha256;
use appliance_acceptance::wait::found;
use matrix_sdk::attachment::AttachmentConfig;
use matrix_sdk::authentication::matrix::MatrixSession;
use matrix_sdk::config::SyncSettings;
use matrix_sdk::deserialized_responses::EncryptionInfo;
use matrix_sdk::encryption::identities::Device;
use matrix_sdk::encryption::verification::{SasVerification, VerificationRequest};
use matrix_sdk::media::{MediaFormat, MediaRequestParameters};
use matrix_sdk::ruma::api::client::account::register;
use matrix_sdk::ruma::api::client::authenticated_media::get_content;
use matrix_sdk::ruma::api::client::room::create_room;
use matrix_sdk::ruma::api::client::uiaa::{
    AuthData, Dummy, MatrixUserIdentifier, Password, UserIdentifier,
};
use matrix_sdk::ruma::events::key::verification::request::ToDeviceKeyVerificationRequestEvent;
use matrix_sdk::ruma::events::key::verification::start::ToDeviceKeyVerificationStartEvent;
use matrix_sdk::ruma::events::room::MediaSource;
use matrix_sdk::ruma::events::room::encryption::RoomEncryptionEventContent;
use matrix_sdk::ruma::events::room::message::{
    MessageType, OriginalSyncRoomMessageEvent, RoomMessageEventContent,
};
use matrix_sdk::ruma::events::room::redaction::SyncRoomRedactionEvent;
use matrix_sdk::ruma::events::{AnySyncMessageLikeEvent, AnySyncTimelineEvent, InitialStateEvent};
use matrix_sdk::ruma::{MxcUri, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId};
use matrix_sdk::{Client, LoopCtrl, Room, RoomMemberships, RoomState, SessionChange};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What is said of an event without a key.
const CANNOT_DECRYPT: &str = "cannot decrypt";

type Outcome<T = Value> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long one long-poll of `/sync` may last.
const SYNC_WAIT: Duration = Duration::from_secs(10);
/// How soon to look again, at what no callback announces.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// matrix-sdk with its stores in memory.
#[derive(Default)]
pub struct RustSdk {
    client: Option<Client>,
    password: String,
    // Ends with this.
    syncing: JoinSet<()>,
    seen: Arc<Mutex<Seen>>,
    request: Option<VerificationRequest>,
    flow: Option<(OwnedUserId, String)>,
    sas: Option<SasVerification>,
}

/// What the sync loop brought.
#[derive(Default)]
struct Seen {
    next_batch: String,
    messages: Vec<Message>,
    redacted: HashSet<OwnedEventId>,
    /// Somebody else ended the session; softly or not.
    ended: Option<bool>,
    /// Verifications that others began: who, and the ID of the flow.
    flows: Vec<(OwnedUserId, String)>,
}

#[derive(Clone)]
struct Message {
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    sender: OwnedUserId,
    content: MessageType,
    encrypted: bool,
}

#[async_trait::async_trait(?Send)]
impl Sdk for RustSdk {
    async fn command(&mut self, name: &str, given: Value) -> Result<Value, String> {
        let outcome = match name {
            "register" => self.register(&given).await,
            "login" => self.login(&given).await,
            "logout" => self.logout().await,
            "sync_token" => Ok(json!({ "next_batch": self.seen().next_batch })),
            "create_room" => self.create_room(&given).await,
            "join" => self.join(&given).await,
            "wait_members" => self.wait_members(&given).await,
            "send" => self.send(&given).await,
            "wait_message" => self.wait_message(&given).await,
            "wait_unreadable" => self.wait_unreadable(&given).await,
            "wait_device_gone" => self.wait_device_gone(&given).await,
            "redact" => self.redact(&given).await,
            "wait_redacted" => self.wait_redacted(&given).await,
            "send_photo" => self.send_photo(&given).await,
            "wait_photo" => self.wait_photo(&given).await,
            "wait_ended" => self.wait_ended().await,
            "download" => self.download(&given).await,
            "verify_start" => self.verify_start(&given).await,
            "verify_accept" => self.verify_accept(&given).await,
            "verify_emoji" => self.verify_emoji().await,
            "verify_confirm" => self.verify_confirm().await,
            "trust" => self.trust(&given).await,
            "bootstrap_cross_signing" => self.bootstrap_cross_signing().await,
            "enable_backup" => self.enable_backup().await,
            "restore_backup" => self.restore_backup(&given).await,
            "read_history" => self.read_history(&given).await,
            _ => Err("no such command".into()),
        };
        outcome.map_err(|error| format!("{name}: {error}"))
    }
}

/// Entering and leaving.
impl RustSdk {
    async fn register(&mut self, given: &Value) -> Outcome {
        let client = client_at(given).await?;
        let mut request = register::v3::Request::new();
        request.username = Some(text(given, "user")?);
        request.password = Some(text(given, "password")?);
        request.initial_device_display_name = Some("rust".into());

        // As a client does: ask first, learn the session and the stages, then answer them.
        let refusal = client.matrix_auth().register(request.clone()).await;
        let refusal = refusal.err().ok_or("registration asked for nothing")?;
        let stages = refusal.as_uiaa_response().ok_or_else(|| refusal.to_string())?;
        let mut dummy = Dummy::new();
        dummy.session = stages.session.clone();
        request.auth = Some(AuthData::Dummy(dummy));
        client.matrix_auth().register(request).await?;
        self.enter(client, given).await
    }

    async fn login(&mut self, given: &Value) -> Outcome {
        let client = client_at(given).await?;
        let (user, password) = (text(given, "user")?, text(given, "password")?);
        let login = client.matrix_auth().login_username(user, &password);
        login.initial_device_display_name("rust").send().await?;
        self.enter(client, given).await
    }

    async fn enter(&mut self, client: Client, given: &Value) -> Outcome {
        self.password = text(given, "password")?;
        watch(&client, &self.seen);
        self.syncing.spawn(sync_for_ever(client.clone(), self.seen.clone()));
        self.syncing.spawn(note_end(client.clone(), self.seen.clone()));
        let session: MatrixSession = client.matrix_auth().session().ok_or("no session")?;
        self.client = Some(client);
        self.until("the first /sync", async |it| Ok(!it.seen().next_batch.is_empty())).await?;
        Ok(json!({
            "user_id": session.meta.user_id,
            "device_id": session.meta.device_id,
            "access_token": session.tokens.access_token,
        }))
    }

    /// What a client hears when somebody else ends its session.
    async fn wait_ended(&mut self) -> Outcome {
        self.until("the end of the session", async |it| Ok(it.seen().ended.is_some())).await?;
        let soft_logout = self.seen().ended;
        Ok(json!({ "errcode": "M_UNKNOWN_TOKEN", "soft_logout": soft_logout }))
    }

    async fn logout(&mut self) -> Outcome {
        self.syncing.shutdown().await;
        self.client()?.matrix_auth().logout().await?;
        Ok(json!({}))
    }
}

/// Rooms and words.
impl RustSdk {
    async fn create_room(&mut self, given: &Value) -> Outcome {
        let mut request = create_room::v3::Request::new();
        request.name = Some(text(given, "name")?);
        request.preset = Some(create_room::v3::RoomPreset::PrivateChat);
        request.invite = serde_json::from_value(given["invite"].clone())?;
        if given["encrypted"] == json!(true) {
            let content = RoomEncryptionEventContent::with_recommended_defaults();
            let event = InitialStateEvent::with_empty_state_key(content);
            request.initial_state = vec![event.to_raw_any()];
        }
        let room_id = self.client()?.create_room(request).await?.room_id().to_owned();
        self.until_joined(&room_id).await?;
        Ok(json!({ "room_id": room_id }))
    }

    async fn join(&mut self, given: &Value) -> Outcome {
        let room_id = RoomId::parse(text(given, "room_id")?)?;
        self.until("the invitation", async |it| {
            Ok(it.client()?.get_room(&room_id).is_some_and(|r| r.state() == RoomState::Invited))
        })
        .await?;
        self.client()?.join_room_by_id(&room_id).await?;
        self.until_joined(&room_id).await?;
        Ok(json!({}))
    }

    /// The answer to `/join` or `/createRoom` is not enough: `/sync` must tell of the room.
    async fn until_joined(&self, room_id: &RoomId) -> Outcome<()> {
        self.until("the joined room in /sync", async |it| {
            let Some(room) = it.client()?.get_room(room_id) else { return Ok(false) };
            Ok(room.state() == RoomState::Joined && room.create_content().is_some())
        })
        .await
    }

    async fn wait_members(&mut self, given: &Value) -> Outcome {
        let wanted: Vec<OwnedUserId> = serde_json::from_value(given["users"].clone())?;
        // Another device of this user may have joined it a moment ago.
        self.until("the room", async |it| Ok(it.room(given).is_ok())).await?;
        let room = self.room(given)?;
        self.until("all members", async |_| {
            let here = room.members(RoomMemberships::JOIN).await?;
            Ok(wanted.iter().all(|user| here.iter().any(|member| member.user_id() == user)))
        })
        .await?;
        Ok(json!({}))
    }

    async fn send(&mut self, given: &Value) -> Outcome {
        let content = RoomMessageEventContent::text_plain(text(given, "body")?);
        let sent = self.room(given)?.send(content).await?;
        Ok(json!({ "event_id": sent.response.event_id }))
    }

    async fn wait_message(&mut self, given: &Value) -> Outcome {
        let (room_id, body) = (text(given, "room_id")?, text(given, "body")?);
        let sender = text(given, "sender")?;
        let message = self
            .message(&format!("the message of {sender}"), |message| {
                message.room_id == room_id
                    && message.sender == sender
                    && message.content.body() == body
            })
            .await?;
        Ok(json!({ "event_id": message.event_id, "encrypted": message.encrypted }))
    }

    /// An event that has come, and for which this device has no key.
    async fn wait_unreadable(&mut self, given: &Value) -> Outcome {
        match self.read_history(given).await {
            Ok(_) => Err("it is readable here".into()),
            Err(error) if error.to_string().starts_with(CANNOT_DECRYPT) => Ok(json!({})),
            Err(error) => Err(error),
        }
    }

    async fn wait_device_gone(&mut self, given: &Value) -> Outcome {
        let user = OwnedUserId::try_from(text(given, "user_id")?)?;
        let device_id = text(given, "device_id")?;
        self.until("the device to go", async |it| {
            let encryption = it.client()?.encryption();
            Ok(encryption.get_device(&user, device_id.as_str().into()).await?.is_none())
        })
        .await?;
        Ok(json!({}))
    }

    async fn redact(&mut self, given: &Value) -> Outcome {
        let event_id = OwnedEventId::try_from(text(given, "event_id")?)?;
        self.room(given)?.redact(&event_id, None, None).await?;
        Ok(json!({}))
    }

    async fn wait_redacted(&mut self, given: &Value) -> Outcome {
        let event_id = OwnedEventId::try_from(text(given, "event_id")?)?;
        self.until("the redaction", async |it| Ok(it.seen().redacted.contains(&event_id))).await?;
        Ok(json!({}))
    }

    async fn message(&self, what: &str, wanted: impl Fn(&Message) -> bool) -> Outcome<Message> {
        self.until(what, async |it| Ok(it.seen().messages.iter().any(&wanted))).await?;
        let found = self.seen().messages.iter().find(|message| wanted(message)).cloned();
        found.ok_or_else(|| "the message went away".into())
    }
}

/// Photos.
impl RustSdk {
    async fn send_photo(&mut self, given: &Value) -> Outcome {
        let room = self.room(given)?;
        let photo = std::fs::read(text(given, "path")?)?;
        let wanted = given["encrypted"] == json!(true);
        if wanted != room.latest_encryption_state().await?.is_encrypted() {
            return Err("matrix-sdk encrypts photos exactly in encrypted rooms".into());
        }
        let config = AttachmentConfig::new();
        let sent = room.send_attachment("wound.png", &mime::IMAGE_PNG, photo, config).await?;
        let event_id = sent.event_id;
        let message = self.message("its own photo", |m| m.event_id == event_id).await?;
        Ok(json!({ "event_id": event_id, "mxc": source_of(&message.content)?.1 }))
    }

    async fn wait_photo(&mut self, given: &Value) -> Outcome {
        let event_id = text(given, "event_id")?;
        let message = self.message("the photo's event", |m| m.event_id == event_id).await?;
        let (source, mxc) = source_of(&message.content)?;
        let encrypted = matches!(source, MediaSource::Encrypted(_));
        let request = MediaRequestParameters { source, format: MediaFormat::File };
        let photo = self.client()?.media().get_media_content(&request, false).await?;
        Ok(json!({ "sha256": sha256(&photo), "mxc": mxc, "encrypted": encrypted }))
    }

    async fn download(&mut self, given: &Value) -> Outcome {
        let mxc = text(given, "mxc")?;
        let request = get_content::v1::Request::from_uri(<&MxcUri>::from(mxc.as_str()))?;
        match self.client()?.send(request).await {
            Ok(_) => Ok(json!({ "status": 200, "errcode": null })),
            Err(error) => {
                let refusal = error.as_client_api_error().ok_or_else(|| error.to_string())?;
                let errcode = refusal.error_kind().map(|kind| kind.errcode().to_string());
                Ok(json!({ "status": refusal.status_code.as_u16(), "errcode": errcode }))
            }
        }
    }
}

/// Emoji verification.
impl RustSdk {
    async fn verify_start(&mut self, given: &Value) -> Outcome {
        let device = self.device(given).await?;
        self.request = Some(device.request_verification().await?);
        Ok(json!({}))
    }

    async fn verify_accept(&mut self, given: &Value) -> Outcome {
        let user_id = OwnedUserId::try_from(text(given, "user_id")?)?;
        self.until("a verification to accept", async |it| {
            Ok(it.seen().flows.iter().any(|(user, _)| *user == user_id))
        })
        .await?;
        let flow = self.seen().flows.iter().rev().find(|(user, _)| *user == user_id).cloned();
        let (user, id) = flow.ok_or("the verification went away")?;
        let encryption = self.client()?.encryption();
        // A request comes first, unless the other SDK knows only the older form.
        if let Some(request) = encryption.get_verification_request(&user, &id).await {
            request.accept().await?;
        }
        self.flow = Some((user, id));
        Ok(json!({}))
    }

    async fn verify_emoji(&mut self) -> Outcome {
        let sas = match self.request.clone() {
            Some(request) => {
                self.until("the other side's answer", async |_| {
                    not_cancelled(request.cancel_info())?;
                    Ok(request.is_ready())
                })
                .await?;
                request.start_sas().await?.ok_or("the request cannot become emoji")?
            }
            None => {
                let (user, id) = self.flow.clone().ok_or("nothing was accepted")?;
                let sas = self.started_sas(&user, &id).await?;
                sas.accept().await?;
                sas
            }
        };
        self.until("the emoji", async |_| {
            not_cancelled(sas.cancel_info())?;
            Ok(sas.can_be_presented())
        })
        .await?;
        let emoji = sas.emoji().ok_or("no emoji agreed on")?;
        let symbols: Vec<_> = emoji.iter().map(|emoji| emoji.symbol).collect();
        self.sas = Some(sas);
        Ok(json!({ "emoji": symbols }))
    }

    async fn started_sas(&self, user: &OwnedUserId, id: &str) -> Outcome<SasVerification> {
        let encryption = self.client()?.encryption();
        let sas = async || encryption.get_verification(user, id).await?.sas();
        found(sas).await.ok_or_else(|| "waited for the other side to start".into())
    }

    async fn verify_confirm(&mut self) -> Outcome {
        let sas = self.sas.take().ok_or("no emoji were shown")?;
        sas.confirm().await?;
        self.until("the end of the verification", async |_| {
            not_cancelled(sas.cancel_info())?;
            Ok(sas.is_done())
        })
        .await?;
        self.request = None;
        self.flow = None;
        Ok(json!({}))
    }

    async fn trust(&mut self, given: &Value) -> Outcome {
        let device = self.device(given).await?;
        Ok(json!({
            "verified": device.is_verified(),
            "cross_signed": device.is_cross_signed_by_owner(),
        }))
    }

    async fn device(&self, given: &Value) -> Outcome<Device> {
        let user = OwnedUserId::try_from(text(given, "user_id")?)?;
        let device_id = text(given, "device_id")?;
        let encryption = self.client()?.encryption();
        let device = async || {
            // This asks the server; the device alone would come from the store.
            encryption.request_user_identity(&user).await.ok()?;
            encryption.get_device(&user, device_id.as_str().into()).await.ok()?
        };
        found(device).await.ok_or_else(|| format!("waited for {device_id} of {user}").into())
    }
}

/// Cross-signing and key backup.
impl RustSdk {
    async fn bootstrap_cross_signing(&mut self) -> Outcome {
        first_identity(self.client()?, &self.password).await?;
        Ok(json!({}))
    }

    async fn enable_backup(&mut self) -> Outcome {
        let recovery = self.client()?.encryption().recovery();
        let key = recovery.enable().wait_for_backups_to_upload().await?;
        Ok(json!({ "recovery_key": key }))
    }

    async fn restore_backup(&mut self, given: &Value) -> Outcome {
        let encryption = self.client()?.encryption();
        encryption.recovery().recover(&text(given, "recovery_key")?).await?;
        let room_id = RoomId::parse(text(given, "room_id")?)?;
        encryption.backups().download_room_keys_for_room(&room_id).await?;
        Ok(json!({}))
    }

    async fn read_history(&mut self, given: &Value) -> Outcome {
        let event_id = OwnedEventId::try_from(text(given, "event_id")?)?;
        let event = self.room(given)?.event(&event_id, None).await?;
        match event.raw().deserialize()? {
            AnySyncTimelineEvent::MessageLike(AnySyncMessageLikeEvent::RoomMessage(message)) => {
                let message = message.as_original().ok_or("it was redacted")?;
                Ok(json!({ "body": message.content.body() }))
            }
            other => Err(format!("{CANNOT_DECRYPT}: still {}", other.event_type()).into()),
        }
    }
}

/// What holds it together.
impl RustSdk {
    fn client(&self) -> Outcome<&Client> {
        self.client.as_ref().ok_or_else(|| "not logged in".into())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("no handler panics")
    }

    fn room(&self, given: &Value) -> Outcome<Room> {
        let room_id = RoomId::parse(text(given, "room_id")?)?;
        self.client()?.get_room(&room_id).ok_or_else(|| format!("{room_id} is unknown").into())
    }

    async fn until(&self, what: &str, look: impl AsyncFn(&Self) -> Outcome<bool>) -> Outcome<()> {
        let looked = found(async || match look(self).await {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        });
        looked.await.ok_or_else(|| format!("waited for {what}"))?
    }
}

async fn client_at(given: &Value) -> Outcome<Client> {
    // The demonstration names its public address, which has a certificate of its own authority.
    let client = Client::builder().respect_login_well_known(false);
    Ok(client.homeserver_url(text(given, "base_url")?).build().await?)
}

fn watch(client: &Client, seen: &Arc<Mutex<Seen>>) {
    let (heard, unsaid) = (seen.clone(), seen.clone());
    let (requested, started) = (seen.clone(), seen.clone());
    client.add_event_handler(
        async move |event: OriginalSyncRoomMessageEvent,
                    room: Room,
                    key: Option<EncryptionInfo>| {
            heard.lock().expect("no handler panics").messages.push(Message {
                room_id: room.room_id().to_owned(),
                event_id: event.event_id,
                sender: event.sender,
                content: event.content.msgtype,
                encrypted: key.is_some(),
            });
        },
    );
    client.add_event_handler(async move |event: SyncRoomRedactionEvent, room: Room| {
        if let SyncRoomRedactionEvent::Original(event) = event {
            let rules = room.clone_info().room_version_rules_or_default();
            let target = event.redacts(&rules.redaction).to_owned();
            unsaid.lock().expect("no handler panics").redacted.insert(target);
        }
    });
    client.add_event_handler(async move |event: ToDeviceKeyVerificationRequestEvent| {
        let flow = (event.sender, event.content.transaction_id.to_string());
        requested.lock().expect("no handler panics").flows.push(flow);
    });
    client.add_event_handler(async move |event: ToDeviceKeyVerificationStartEvent| {
        let flow = (event.sender, event.content.transaction_id.to_string());
        started.lock().expect("no handler panics").flows.push(flow);
    });
}

/// Syncs until aborted. A server that is away for a while is asked again with the old token.
async fn sync_for_ever(client: Client, seen: Arc<Mutex<Seen>>) {
    loop {
        let settings = SyncSettings::new().timeout(SYNC_WAIT);
        let ended = client
            .sync_with_callback(settings, |answer| {
                seen.lock().expect("no handler panics").next_batch = answer.next_batch;
                std::future::ready(LoopCtrl::Continue)
            })
            .await;
        if let Err(error) = ended {
            eprintln!("sync: {error}");
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn note_end(client: Client, seen: Arc<Mutex<Seen>>) {
    let mut changes = client.subscribe_to_session_changes();
    loop {
        match changes.recv().await {
            Ok(SessionChange::UnknownToken(how)) => {
                seen.lock().expect("no handler panics").ended = Some(how.soft_logout);
            }
            // It holds the newest one only: who asks fast is refused twice before this task runs.
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Makes the keys of somebody's identity, with the password where the server asks for it.
pub async fn first_identity(client: &Client, password: &str) -> Outcome<()> {
    // "... the homeserver MUST NOT require user-interactive authentication" for a first upload.
    let Err(refusal) = client.encryption().bootstrap_cross_signing(None).await else {
        return Ok(());
    };
    let stages = refusal.as_uiaa_response().ok_or_else(|| refusal.to_string())?;
    let user = client.user_id().ok_or("logged out")?.localpart().to_owned();
    let identifier = UserIdentifier::Matrix(MatrixUserIdentifier::new(user));
    let mut password = Password::new(identifier, password.to_owned());
    password.session = stages.session.clone();
    let auth = Some(AuthData::Password(password));
    client.encryption().bootstrap_cross_signing(auth).await?;
    Ok(())
}

fn source_of(content: &MessageType) -> Outcome<(MediaSource, String)> {
    let MessageType::Image(image) = content else { return Err("not a photo".into()) };
    let mxc = match &image.source {
        MediaSource::Plain(mxc) => mxc.to_string(),
        MediaSource::Encrypted(file) => file.url.to_string(),
    };
    Ok((image.source.clone(), mxc))
}

pub fn not_cancelled(
    cancelled: Option<matrix_sdk::encryption::verification::CancelInfo>,
) -> Outcome<()> {
    match cancelled {
        Some(info) => Err(format!("cancelled: {}", info.reason()).into()),
        None => Ok(()),
    }
}

fn text(given: &Value, name: &str) -> Outcome<String> {
    let text = given[name].as_str().ok_or_else(|| format!("the command lacks {name}"))?;
    Ok(text.to_owned())
}
