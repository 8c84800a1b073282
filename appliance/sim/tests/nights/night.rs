//! One night of several hospitals: what people do, what breaks, and what must be so in the morning.

mod morning;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use appliance_model::ruma::api::client::message::send_message_event;
use appliance_model::ruma::api::client::room::create_room;
use appliance_model::ruma::api::client::state::send_state_event;
use appliance_model::ruma::api::client::to_device::send_event_to_device;
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::to_device::DeviceIdOrAllDevices;
use appliance_model::ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName,
};
use appliance_model::scenario::SeededDice;
use appliance_model::{Caller, Dice as _};
use appliance_services::Services;
use appliance_services::rooms::Removal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::hospital::{Hospital, Terms};
use crate::wire::{Weather, Wire};

/// Who is on nobody's list.
const STRANGER: &str = "stranger.example";
const NAMES: [&str; 7] =
    ["a.example", "b.example", "c.example", "d.example", "e.example", "f.example", "g.example"];
/// What happens in one night.
const STEPS: usize = 24;
const ROOMS: usize = 2;
/// Twenty-second looks at whether everything has arrived: an hour and a half.
const LOOKS_MAX: usize = 270;

/// Longer than somebody who did not come in has to try again before their join is taken back.
const JOINS_IN_DOUBT: Duration = Duration::from_secs(11 * 60);

/// What was answered, by room: each event, and which hospital answered.
type Acked = Arc<Mutex<BTreeMap<OwnedRoomId, BTreeMap<String, usize>>>>;

/// What was sent from device to device and answered: to whom, and what.
type Letters = Arc<Mutex<Vec<(OwnedUserId, String)>>>;

/// How much people quarrel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Nobody loses the right to speak but by leaving: in the morning everybody has the same timeline. Of those
    /// who left, what they said before may be soft-failed where it came after their leave.
    Calm,
    /// Power, kicks and bans. All have the same state and the same past. What the past allows and somebody's
    /// present does not is soft-failed there: what one shows, another may hold and not show.
    Quarrel,
}

/// The night.
struct Night {
    case: String,
    mood: Mood,
    dice: SeededDice,
    wire: Arc<Wire>,
    hospitals: Vec<Hospital>,
    stranger: Hospital,
    rooms: Vec<(OwnedRoomId, OwnedServerName)>,
    acked: Acked,
    letters: Letters,
    /// Who should be where: hospital, person, room.
    wanted: BTreeSet<(usize, usize, usize)>,
    /// Who has left which room, whether they came back or not.
    left: BTreeSet<(String, OwnedRoomId)>,
    acting: JoinSet<()>,
    /// What happened, for whoever looks at a night that ended badly.
    story: Vec<String>,
}

/// Plays a night. Returns a digest of how it ended: every event and every question, so that two nights
/// of one seed can be compared.
///
/// # Panics
///
/// If something is not as it must be, with the seed and what happened.
pub async fn play(seed: u64, mood: Mood) -> String {
    let mut night = Night::begin(seed, mood).await;
    for _ in 0..STEPS {
        night.step().await;
    }
    night.heal().await;
    night.check().await
}

/// One thing that somebody does.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Say,
    Topic,
    Bed(usize),
    Join,
    Leave,
    Redact,
    Power(i64),
    Kick,
    Ban,
    /// From device to device, outside all rooms.
    Letter,
    /// To have to do with the server off the list.
    Lure,
}

impl Night {
    async fn begin(seed: u64, mood: Mood) -> Self {
        let dice = SeededDice::new(seed);
        let wire = Arc::new(Wire::new(seed ^ 0x5eed));
        wire.clear_up();
        // Three to seven; few are as telling as many, and played sooner.
        let more = (dice.number() % 5).min(dice.number() % 5);
        let count = 3 + usize::try_from(more).unwrap();
        let versions = [RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12];
        let version = versions[usize::try_from(dice.number() % 3).unwrap()].clone();
        let terms = Terms { version, access_lists: seed % 3 == 1 };
        let case = format!("seed {seed}, {count} hospitals, {terms:?}, {mood:?}");
        let parse = |name: &str| ServerName::parse(name).unwrap();
        let mut hospitals = Vec::new();
        for (number, name) in (0_u64..).zip(&NAMES[..count]) {
            let peers = NAMES[..count].iter().filter(|peer| peer != &name).map(|peer| parse(peer));
            let origin = (seed.wrapping_mul(64) + number, terms.clone());
            let people = 1 + usize::from(number == 0);
            hospitals.push(Hospital::found(name, origin, peers.collect(), people, &wire).await);
        }
        let peers = NAMES[..count].iter().map(|name| parse(name)).collect();
        let origin = (seed.wrapping_mul(64) + 63, terms);
        let stranger = Hospital::found(STRANGER, origin, peers, 1, &wire).await;
        let mut night = Self {
            case,
            mood,
            dice,
            wire,
            hospitals,
            stranger,
            rooms: Vec::new(),
            acked: Acked::default(),
            letters: Letters::default(),
            wanted: BTreeSet::new(),
            left: BTreeSet::new(),
            acting: JoinSet::new(),
            story: Vec::new(),
        };
        for number in 0..ROOMS {
            night.open_room(number).await;
        }
        night
    }

    fn throw(&self, sides: usize) -> usize {
        usize::try_from(self.dice.number() % u64::try_from(sides).unwrap()).unwrap()
    }

    /// A room of one hospital, with people of some others.
    async fn open_room(&mut self, number: usize) {
        let home = self.throw(self.hospitals.len());
        let free = match self.mood {
            Mood::Calm => json!({ "state_default": 0, "events": {}, "redact": 0 }),
            Mood::Quarrel => json!({ "state_default": 0, "events": {}, "kick": 0, "ban": 0 }),
        };
        let body = json!({ "preset": "public_chat", "power_level_content_override": free });
        let services = self.hospitals[home].services.clone().unwrap();
        let creator = &self.hospitals[home].people[0];
        let made = services.rooms.create_room(creator, &create_request(&body)).await.unwrap();
        let name = self.hospitals[home].name.clone();
        self.rooms.push((made, name));
        self.wanted.insert((home, 0, number));
        for at in 0..self.hospitals.len() {
            if at != home && self.throw(3) > 0 {
                self.wanted.insert((at, 0, number));
                self.join(at, 0, number).await.unwrap();
            }
        }
    }

    async fn join(&self, at: usize, who: usize, room: usize) -> Result<(), String> {
        let services = self.hospitals[at].services.clone().ok_or("the power is off")?;
        let (room, home) = &self.rooms[room];
        let via: Vec<_> =
            [home.clone()].into_iter().filter(|via| *via != self.hospitals[at].name).collect();
        let person = &self.hospitals[at].people[who];
        services.rooms.join_via(person, room, &via, None).await.map_err(|error| error.to_string())
    }

    /// People act, something breaks or is mended, time passes.
    async fn step(&mut self) {
        for _ in 0..=self.throw(3) {
            self.somebody_acts();
        }
        match self.throw(12) {
            0 | 1 => self.cut(true),
            2 => self.cut(false),
            3 => self.lights_out().await,
            4 | 5 => self.lights_on().await,
            6 | 7 => {
                let weather = Weather {
                    lost: self.throw(30),
                    unanswered: self.throw(30),
                    twice: self.throw(40),
                    delay_ms: [5, 300, 9_000][self.throw(3)],
                };
                self.story.push(format!("{weather:?}"));
                self.wire.set_weather(weather);
            }
            8 => {
                let at = self.throw(self.hospitals.len());
                let skew_ms = i64::try_from(self.throw(7_200_000)).unwrap() - 3_600_000;
                self.story
                    .push(format!("{}'s clock is wrong by {skew_ms}", self.hospitals[at].name));
                self.hospitals[at].clock.set_skew_ms(skew_ms);
            }
            _ => {}
        }
        if self.throw(4) == 0 {
            self.look_after_losses();
        }
        let ms = [3, 200, 20_000, 90_000][self.throw(4)];
        tokio::time::sleep(Duration::from_millis(self.dice.number() % ms)).await;
    }

    /// The power of a hospital goes, wherever those are who do something there: a few steps into it, or
    /// while they wait for the disk or for others.
    async fn lights_out(&mut self) {
        let at = self.throw(self.hospitals.len());
        if !self.hospitals[at].is_on() {
            return;
        }
        for _ in 0..self.throw(3) {
            self.somebody_acts();
        }
        for _ in 0..self.throw(100) {
            tokio::task::yield_now().await;
        }
        if self.throw(2) == 0 {
            tokio::time::sleep(Duration::from_millis(self.dice.number() % 15)).await;
        }
        let kept = self.throw(3);
        self.story.push(format!("{} goes dark", self.hospitals[at].name));
        self.hospitals[at].power_off(kept);
    }

    fn cut(&mut self, is_cut: bool) {
        let (one, other) = (self.throw(self.hospitals.len()), self.throw(self.hospitals.len()));
        if one != other {
            let (one, other) = (&self.hospitals[one].name, &self.hospitals[other].name);
            self.story.push(format!("{one} - {other}: cut {is_cut}"));
            self.wire.cut(one, other, is_cut);
        }
    }

    async fn lights_on(&mut self) {
        for hospital in self.hospitals.iter_mut().filter(|hospital| !hospital.is_on()) {
            self.story.push(format!("{} is back", hospital.name));
            hospital.power_on().await;
        }
    }

    fn somebody_acts(&mut self) {
        let at = self.throw(self.hospitals.len());
        let who = self.throw(self.hospitals[at].people.len());
        let room = self.throw(self.rooms.len());
        let deed = match (self.throw(16), self.mood) {
            (0 | 1, _) => Deed::Topic,
            (2, _) => Deed::Bed(self.throw(3)),
            (3 | 4, _) => Deed::Join,
            (5, _) => Deed::Lure,
            (6, _) => Deed::Redact,
            // Whoever made the room stays: somebody must be able to let the others in again.
            (7, _) if self.hospitals[at].name != self.rooms[room].1 => Deed::Leave,
            (11, _) => Deed::Letter,
            (8, Mood::Quarrel) => Deed::Power([0, 50, 60][self.throw(3)]),
            (9, Mood::Quarrel) => Deed::Kick,
            (10, Mood::Quarrel) => Deed::Ban,
            _ => Deed::Say,
        };
        match deed {
            Deed::Join => drop(self.wanted.insert((at, who, room))),
            Deed::Leave => {
                self.wanted.remove(&(at, who, room));
                let user_id = self.hospitals[at].people[who].user_id.to_string();
                self.left.insert((user_id, self.rooms[room].0.clone()));
            }
            _ => {}
        }
        let other = self.throw(self.hospitals.len());
        let act = Act {
            at,
            target: self.hospitals[other].people[0].clone(),
            person: self.hospitals[at].people[who].clone(),
            room: self.rooms[room].0.clone(),
            via: self.rooms[room].1.clone(),
            txn: self.dice.letters(12),
            acked: self.acked.clone(),
            letters: self.letters.clone(),
        };
        self.story.push(format!("{} {deed:?} in {}", act.person.user_id, act.room));
        let Some(services) = self.hospitals[at].services.clone() else { return };
        let mut power = self.hospitals[at].power.clone();
        self.acting.spawn(async move {
            tokio::select! {
                biased;
                _ = power.wait_for(|is_on| !*is_on) => {}
                () = act.out(&services, deed) => {}
            }
        });
    }

    /// A job of every server that is on: joins whose answers were lost, events that could not be judged.
    fn look_after_losses(&mut self) {
        for hospital in self.hospitals.iter().filter(|hospital| hospital.is_on()) {
            let Some(services) = hospital.services.clone() else { continue };
            let mut power = hospital.power.clone();
            self.acting.spawn(async move {
                tokio::select! {
                    biased;
                    _ = power.wait_for(|is_on| !*is_on) => {}
                    () = async {
                        let _ = services.rooms.take_back_lost_joins().await;
                        let _ = services.rooms.ask_again().await;
                    } => {}
                }
            });
        }
    }

    /// The morning: everything is mended, what is owed arrives, and everybody says good morning.
    async fn heal(&mut self) {
        self.wire.clear_up();
        self.lights_on().await;
        self.story.push("morning".to_owned());
        while self.acting.join_next().await.is_some() {}
        if self.mood == Mood::Calm {
            for (at, who, room) in self.wanted.clone() {
                self.get_in(at, who, room).await;
            }
        }
        tokio::time::sleep(JOINS_IN_DOUBT).await;
        self.look_after_losses();
        while self.acting.join_next().await.is_some() {}
        self.until_quiet().await;
        // What follows ties loose ends together, and shows what is still missing.
        for round in 0..2 {
            for at in 0..self.hospitals.len() {
                for (room, _) in &self.rooms {
                    let services = self.hospitals[at].services.clone().unwrap();
                    for person in &self.hospitals[at].people {
                        let request = text(room, &format!("morning-{round}"), "good morning");
                        if let Ok(id) = services.rooms.send_event(person, &request).await {
                            note(&self.acked, room, id.as_str(), at);
                        }
                    }
                }
            }
            self.until_quiet().await;
        }
    }

    /// Joins, as patiently as people do: whose keys could not be had a moment ago is asked again after
    /// a minute.
    async fn get_in(&self, at: usize, who: usize, room: usize) {
        let mut last = String::new();
        for _ in 0..10 {
            match self.join(at, who, room).await {
                Ok(()) => return,
                Err(error) => last = error,
            }
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        self.fail(&format!("p{who} of {} cannot join {}: {last}", NAMES[at], self.rooms[room].0));
    }

    async fn until_quiet(&self) {
        let count = self.hospitals.len();
        let mut owing = 0;
        for _ in 0..LOOKS_MAX {
            tokio::time::sleep(Duration::from_secs(20)).await;
            // Whoever owed something at the last look is asked first; all are asked before it is over.
            let mut quiet = 0;
            while quiet < count && !self.owes(owing).await {
                (owing, quiet) = ((owing + 1) % count, quiet + 1);
            }
            if quiet == count {
                return;
            }
        }
        self.fail("something is still owed after an hour");
    }

    /// Whether a hospital has something left to send.
    async fn owes(&self, at: usize) -> bool {
        let peers = &self.hospitals[at].services.as_ref().unwrap().peers;
        for to in &self.hospitals {
            if peers.backlog(&to.name, 1).await.unwrap() != (0, 0) {
                return true;
            }
        }
        false
    }

    fn fail(&self, why: &str) -> ! {
        panic!("{}: {why}\n{}", self.case, self.story.join("\n"));
    }
}

fn note(acked: &Acked, room: &RoomId, id: &str, at: usize) {
    acked.lock().unwrap().entry(room.to_owned()).or_default().insert(id.to_owned(), at);
}

/// Somebody about to do something.
struct Act {
    at: usize,
    person: Caller,
    target: Caller,
    room: OwnedRoomId,
    via: OwnedServerName,
    txn: String,
    acked: Acked,
    letters: Letters,
}

impl Act {
    async fn out(self, services: &Services, deed: Deed) {
        let Self { at, person, target, room, via, txn, acked, letters } = &self;
        let rooms = &services.rooms;
        let set = async |kind: &str, key: &str, content: Value| {
            if let Ok(id) = rooms.send_state(person, &state(room, (kind, key), &content)).await {
                note(acked, room, id.as_str(), *at);
            }
        };
        match deed {
            Deed::Say => {
                if let Ok(id) = rooms.send_event(person, &text(room, txn, txn)).await {
                    note(acked, room, id.as_str(), *at);
                }
            }
            Deed::Topic => set("m.room.topic", "", json!({ "topic": txn })).await,
            Deed::Bed(bed) => set("example.bed", &bed.to_string(), json!({ "of": txn })).await,
            Deed::Join => {
                let _ = rooms.join_via(person, room, std::slice::from_ref(via), None).await;
            }
            Deed::Leave => drop(rooms.leave(person, room, None).await),
            Deed::Redact => {
                let said = rooms.send_event(person, &text(room, txn, "wrong")).await;
                let Ok(said) = said else { return };
                note(acked, room, said.as_str(), *at);
                set("example.redacted", &txn[..2], json!({ "was": said })).await;
            }
            Deed::Power(level) => {
                let number = services.house.ledger.room(room).await.unwrap();
                let Some(number) = number else { return };
                let kind = "m.room.power_levels".into();
                let Ok(root) = rooms.current_root(number).await else { return };
                let Ok(Some(levels)) = rooms.state_at(number, root, &kind, "").await else {
                    return;
                };
                let mut levels: Value = serde_json::from_str(levels.content()).unwrap();
                levels["users"][target.user_id.as_str()] = json!(level);
                set("m.room.power_levels", "", levels).await;
            }
            Deed::Kick if target.user_id != person.user_id => {
                let removal = (Removal::Kick, &*target.user_id);
                let _ = rooms.remove(person, room, removal, None).await;
            }
            Deed::Ban
                if target.user_id != person.user_id && *via != *target.user_id.server_name() =>
            {
                let removal = (Removal::Ban, &*target.user_id);
                let _ = rooms.remove(person, room, removal, None).await;
            }
            Deed::Kick | Deed::Ban => {}
            Deed::Letter => {
                if services.keys.send_to_device(person, &letter(target, txn)).await.is_ok() {
                    letters.lock().unwrap().push((target.user_id.clone(), txn.clone()));
                }
            }
            Deed::Lure => {
                let stranger = ServerName::parse(STRANGER).unwrap();
                let elsewhere = RoomId::parse(format!("!nowhere:{STRANGER}")).unwrap();
                let vias = std::slice::from_ref(&stranger);
                assert!(rooms.join_via(person, &elsewhere, vias, None).await.is_err());
                let guest =
                    appliance_model::ruma::UserId::parse(format!("@p0:{STRANGER}")).unwrap();
                assert!(rooms.invite(person, room, &guest, None).await.is_err());
            }
        }
    }
}

fn create_request(body: &Value) -> create_room::v3::Request {
    use appliance_model::ruma::api::IncomingRequestExt;
    let body = body.to_string();
    let request = http::Request::post("/").body(body.as_bytes()).unwrap();
    create_room::v3::Request::try_from_http_request(request, &[] as &[&str]).unwrap()
}

fn letter(to: &Caller, txn: &str) -> send_event_to_device::v3::Request {
    let content = Raw::from_json_string(json!({ "letter": txn }).to_string()).unwrap();
    let device = DeviceIdOrAllDevices::DeviceId(to.device_id.clone());
    let messages = BTreeMap::from([(to.user_id.clone(), BTreeMap::from([(device, content)]))]);
    send_event_to_device::v3::Request::new_raw("example.letter".into(), txn.into(), messages)
}

fn text(room: &RoomId, txn: &str, body: &str) -> send_message_event::v3::Request {
    let content = json!({ "msgtype": "m.text", "body": body });
    send_message_event::v3::Request::new_raw(
        room.to_owned(),
        txn.into(),
        "m.room.message".into(),
        Raw::from_json_string(content.to_string()).unwrap(),
    )
}

fn state(
    room: &RoomId,
    (kind, key): (&str, &str),
    content: &Value,
) -> send_state_event::v3::Request {
    send_state_event::v3::Request::new_raw(
        room.to_owned(),
        kind.into(),
        key.to_owned(),
        Raw::from_json_string(content.to_string()).unwrap(),
    )
}
