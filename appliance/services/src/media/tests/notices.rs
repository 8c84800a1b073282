//! Scenes in which other servers are told that a file is erased.

use std::collections::BTreeMap;
use std::sync::Mutex;

use appliance_ledger::keyspaces::NOTICES_DUE;
use appliance_model::ruma::{ServerName, server_name};
use appliance_rules::Permit;
use async_trait::async_trait;
use http::{HeaderMap, Request, StatusCode};

use super::*;
use crate::egress::{Failure, Limits, Opened};
use crate::media::notice::note_given;
use crate::peers::{PeerChange, Remote, Roll};
use crate::scenario::the_power_goes;

const HOUR_MS: u64 = 3_600_000;

/// How a server takes a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Says(u16, &'static str),
    /// There is no answer.
    Away,
    /// It takes the request, and thinks for ever.
    Slow,
}

const CONFIRMS: Mood = Mood::Says(200, "{}");
const KNOWS_NOTHING_OF_IT: Mood = Mood::Says(404, r#"{"errcode":"M_UNRECOGNIZED"}"#);

/// The other servers: each confirms unless it is in another mood.
#[derive(Default)]
struct Others {
    moods: Mutex<BTreeMap<String, Mood>>,
    asked: Mutex<Vec<String>>,
}

impl Others {
    fn set(&self, server: &ServerName, mood: Mood) {
        self.moods.lock().unwrap().insert(server.to_string(), mood);
    }

    /// What was asked since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

#[async_trait]
impl Remote for Others {
    async fn send(
        &self,
        server: &ServerName,
        request: Request<Bytes>,
        _: Limits,
    ) -> Result<Opened, Failure> {
        let (method, path) = (request.method(), request.uri().path());
        self.asked.lock().unwrap().push(format!("{server} {method} {path}"));
        let mood = self.moods.lock().unwrap().get(server.as_str()).copied().unwrap_or(CONFIRMS);
        match mood {
            Mood::Says(status, said) => {
                let body = Box::pin(stream::iter([Ok(Bytes::from(said))]));
                let status = StatusCode::from_u16(status).unwrap();
                Ok(Opened { status, headers: HeaderMap::new(), body })
            }
            Mood::Away => Err(Failure::TimedOut),
            Mood::Slow => std::future::pending().await,
        }
    }

    fn look_again(&self, _: &ServerName) {}
}

fn b() -> &'static ServerName {
    server_name!("b.example")
}

fn c() -> &'static ServerName {
    server_name!("c.example")
}

/// A house with two others, and somebody who takes photos.
async fn scene() -> (Ward, Arc<Others>, Caller) {
    let others = Arc::new(Others::default());
    let roll = Roll::of([b().to_owned(), c().to_owned()]);
    let ward = Ward::with_peers(roll, others.clone()).await;
    let nurse = ward.member("nurse").await;
    (ward, others, nurse)
}

impl Ward {
    /// A photo that these servers were given.
    async fn given(&self, who: &Caller, servers: &[&ServerName]) -> String {
        let uri = self.upload(who, b"photo").await;
        self.give(&uri, servers).await;
        uri
    }

    async fn give(&self, uri: &str, servers: &[&ServerName]) {
        let house = &self.services.house;
        let (number, _) = row_of(house, id(uri)).await.unwrap().unwrap();
        let mut commit = house.ledger.begin(Permit::housekeeping());
        servers.iter().for_each(|server| note_given(house, server, number, &mut commit));
        house.ledger.commit(commit).await.unwrap();
    }

    async fn given_and_erased(&self, who: &Caller, servers: &[&ServerName]) -> String {
        let uri = self.given(who, servers).await;
        self.services.media.purge_now(SERVER, id(&uri)).await.unwrap();
        uri
    }

    async fn tell(&self, server: &ServerName) {
        self.services.media.tell_of_erased(server).await.unwrap();
    }

    /// Who has not confirmed what, and how often it was told.
    async fn unconfirmed(&self) -> Vec<String> {
        let (found, more) = self.services.media.unconfirmed().await.unwrap();
        assert!(!more);
        let line = |one: &crate::media::notice::Unconfirmed| {
            format!("{} {} {}", one.server_name, one.uri, one.times)
        };
        found.iter().map(line).collect()
    }

    /// Who is to be told now, and when the next one is.
    fn due(&self) -> (Vec<String>, Option<u64>) {
        let (due, later_ms) = self.services.house.outbox.notices().due(self.now_ms());
        (due.iter().map(ToString::to_string).collect(), later_ms)
    }

    fn now_ms(&self) -> u64 {
        self.services.house.clock.now_ms()
    }

    async fn confirmed(&self) -> usize {
        let said = self.audit().await;
        said.iter().filter(|line| line.starts_with("media.erasure_confirmed")).count()
    }
}

#[tokio::test]
async fn whoever_was_given_a_file_is_asked_to_redact_it_and_a_confirmation_is_on_record() {
    let (ward, others, nurse) = scene().await;
    let uri = ward.given_and_erased(&nurse, &[b(), c()]).await;
    ward.given_and_erased(&nurse, &[]).await;
    assert_eq!(ward.due().0, ["b.example", "c.example"], "at once");
    let waits = |server: &ServerName, times| format!("{server} {uri} {times}");
    let mut owed = ward.unconfirmed().await;
    owed.sort();
    assert_eq!(owed, [waits(b(), 0), waits(c(), 0)]);

    ward.tell(b()).await;
    let path = format!(
        "/_matrix/federation/unstable/uk.timedout.msc4322/media/redact/{SERVER}/{}",
        id(&uri)
    );
    assert_eq!(others.asked(), [format!("b.example POST {path}")]);
    assert_eq!(ward.unconfirmed().await, [waits(c(), 0)]);
    let on_record = ward.audit_objects().await;
    assert!(on_record.contains(&format!("media.erasure_confirmed {uri}")), "{on_record:?}");
    assert_eq!(ward.due(), (vec!["c.example".to_owned()], None));
    ward.tell(b()).await;
    assert!(others.asked().is_empty(), "once");
}

#[tokio::test]
async fn whoever_was_given_a_file_in_the_moment_in_which_it_was_condemned_is_told_too() {
    let (ward, _, nurse) = scene().await;
    let uri = ward.given(&nurse, &[b()]).await;
    ward.services.media.redact_file(&nurse, (SERVER, id(&uri)), None).await.unwrap();
    ward.give(&uri, &[c()]).await;
    assert_eq!(ward.due().0, ["b.example"]);
    ward.look().await;
    assert_eq!(ward.due().0, ["b.example", "c.example"]);
    assert_eq!(ward.unconfirmed().await.len(), 2);
}

#[tokio::test]
async fn whatever_else_is_answered_is_asked_again_for_a_day_and_listed() {
    for mood in [
        KNOWS_NOTHING_OF_IT,
        Mood::Says(403, r#"{"errcode":"M_FORBIDDEN"}"#),
        Mood::Says(200, "<html>Welcome</html>"),
        Mood::Says(200, "[]"),
        Mood::Says(204, ""),
        Mood::Says(302, ""),
    ] {
        let (ward, others, nurse) = scene().await;
        others.set(b(), mood);
        let began_ms = ward.now_ms();
        let uri = ward.given_and_erased(&nurse, &[b()]).await;
        let mut waits_ms = Vec::new();
        loop {
            ward.tell(b()).await;
            assert_eq!(others.asked().len(), 1, "{mood:?}");
            let (due, later_ms) = ward.due();
            assert!(due.is_empty(), "{mood:?}");
            let Some(later_ms) = later_ms else { break };
            waits_ms.push(later_ms - ward.now_ms());
            ward.clock.pass_ms(waits_ms.last().unwrap() - 1);
            ward.tell(b()).await;
            assert!(others.asked().is_empty(), "{mood:?}: not a millisecond before");
            ward.clock.pass_ms(1);
        }
        assert_eq!(waits_ms[..4], [2_000, 4_000, 8_000, 16_000], "{mood:?}");
        assert_eq!(waits_ms.last(), Some(&HOUR_MS), "{mood:?}");
        assert!((DAY_MS..DAY_MS + HOUR_MS).contains(&(ward.now_ms() - began_ms)), "{mood:?}");
        let listed = format!("b.example {uri} {}", waits_ms.len() + 1);
        assert_eq!(ward.unconfirmed().await, [listed], "{mood:?}");
        ward.services.house.outbox.heard_from(b());
        assert!(ward.due().0.is_empty(), "{mood:?}: it was there all the time");
        assert_eq!(ward.rows(&NOTICES_DUE).await, 0, "{mood:?}");
    }
}

#[tokio::test]
async fn whoever_was_away_hears_all_of_it_when_it_is_back_however_long_that_was() {
    for mood in [Mood::Away, Mood::Says(502, "bad gateway"), Mood::Says(429, "{}")] {
        let (ward, others, nurse) = scene().await;
        others.set(b(), mood);
        for _ in 0..5 {
            ward.given_and_erased(&nurse, &[b()]).await;
        }
        ward.tell(b()).await;
        assert_eq!(others.asked().len(), 1, "{mood:?}: one attempt for all of them");
        let mut attempts = 1;
        while let (_, Some(later_ms)) = ward.due() {
            ward.clock.pass_ms(later_ms - ward.now_ms());
            assert_eq!(ward.due().0, ["b.example"], "{mood:?}");
            ward.tell(b()).await;
            attempts += 1;
        }
        assert!((20..60).contains(&attempts), "{mood:?}: {attempts}");
        assert_eq!(others.asked().len(), attempts - 1, "{mood:?}");
        assert!(ward.due().0.is_empty(), "{mood:?}: left alone");
        ward.clock.pass_ms(30 * DAY_MS);
        assert_eq!(ward.unconfirmed().await.len(), 5, "{mood:?}");

        others.set(b(), CONFIRMS);
        ward.services.house.outbox.heard_from(b());
        assert_eq!(ward.due().0, ["b.example"], "{mood:?}: it is back");
        ward.tell(b()).await;
        assert_eq!((ward.unconfirmed().await.len(), ward.confirmed().await), (0, 5), "{mood:?}");
    }
}

#[tokio::test]
async fn one_that_is_slow_holds_up_nobody_and_erasures_are_told_as_they_happen() {
    let (ward, others, nurse) = scene().await;
    others.set(b(), Mood::Slow);
    let media = &ward.services.media;
    let mut positions = ward.services.house.ledger.positions();
    let playing = async {
        for round in 0..20 {
            let uri = ward.given_and_erased(&nurse, &[b(), c()]).await;
            let told = format!("c.example {uri}");
            // Every confirmation is a commit.
            while ward.unconfirmed().await.iter().any(|line| line.starts_with(&told)) {
                positions.changed().await.unwrap();
            }
            assert_eq!(ward.unconfirmed().await.len(), round + 1, "b has confirmed nothing");
        }
    };
    tokio::select! {
        () = media.tell_of_erasures() => panic!("it ends when it is dropped"),
        played = tokio::time::timeout(std::time::Duration::from_secs(30), playing) => {
            played.expect("c is told while b thinks");
        }
    }
    let of_b = others.asked().iter().filter(|line| line.starts_with("b.example")).count();
    assert_eq!(of_b, 1, "one request at a time to each");
}

#[tokio::test]
async fn a_suspended_peer_hears_it_when_it_is_resumed_and_one_that_was_removed_stays_listed() {
    let (ward, others, nurse) = scene().await;
    let peers = &ward.services.peers;
    let d = server_name!("d.example");
    let suspended = |is_so| PeerChange { suspended: Some(is_so), ..PeerChange::default() };
    for server in [b(), d] {
        peers.describe(server, suspended(server == b()), "uid 0").await.unwrap();
    }
    let uri = ward.given_and_erased(&nurse, &[b(), d]).await;
    peers.remove(d, "uid 0").await.unwrap();
    for server in [b(), d] {
        ward.tell(server).await;
    }
    assert!(others.asked().is_empty(), "nothing is exchanged with them");
    assert_eq!(ward.unconfirmed().await.len(), 2, "and that is to be seen");
    assert_eq!(ward.due(), (Vec::new(), None));

    ward.clock.pass_ms(3 * DAY_MS);
    peers.describe(b(), suspended(false), "uid 0").await.unwrap();
    assert_eq!(ward.due().0, ["b.example"]);
    ward.tell(b()).await;
    assert_eq!(ward.unconfirmed().await, [format!("d.example {uri} 0")]);
    peers.describe(d, suspended(false), "uid 0").await.unwrap();
    ward.tell(d).await;
    assert_eq!(ward.unconfirmed().await, Vec::<String>::new(), "it came back on the list");
}

/// The power goes at every commit of a notice's life: it is owed, the server is told, what it said is written
/// down.
#[tokio::test]
async fn whichever_commit_is_the_last_before_a_power_cut_a_notice_is_told_and_no_other_counts() {
    let mut commits_seen = 0;
    for mood in [CONFIRMS, KNOWS_NOTHING_OF_IT, Mood::Away] {
        for kept in [0, 1] {
            for commits in 0.. {
                let why = format!("{mood:?}, {kept} kept, after {commits} commits");
                let (ward, others, nurse) = scene().await;
                let uri = ward.given(&nurse, &[b()]).await;
                others.set(b(), mood);
                ward.engine().fail_commit_after(commits, the_power_goes());
                let media = &ward.services.media;
                let is_erased = media.purge_now(SERVER, id(&uri)).await.is_ok();
                let is_told = media.tell_of_erased(b()).await.is_ok();
                if is_erased && is_told {
                    commits_seen = commits_seen.max(commits);
                    break;
                }
                let has_confirmed = mood == CONFIRMS && !others.asked().is_empty();
                let ward = ward.power_cut_keeping_and_restart(kept).await;
                check_after_the_cut(&ward, (&others, &uri), (is_erased, has_confirmed), &why).await;
            }
        }
    }
    assert!(commits_seen >= 3, "condemned, forgotten and confirmed are commits of their own");
}

async fn check_after_the_cut(
    ward: &Ward,
    (others, uri): (&Others, &str),
    (is_erased, has_confirmed): (bool, bool),
    why: &str,
) {
    let media = &ward.services.media;
    let is_gone = kind_of(ward.find(uri).await) == Some(Kind::NotFound);
    assert!(is_gone || !is_erased, "{why}: what was answered holds");
    match ward.unconfirmed().await.len() {
        0 if is_gone => assert!(has_confirmed, "{why}: lost, or confirmed by nobody"),
        0 => {}
        _ => assert!(is_gone, "{why}: owed for a file that lives"),
    }
    // The next run, in which the server is there and knows what it is asked.
    others.set(b(), CONFIRMS);
    if !is_gone {
        media.purge_now(SERVER, id(uri)).await.unwrap();
    }
    ward.clock.pass_ms(HOUR_MS);
    media.find_those_owed().await.unwrap();
    assert_eq!(ward.due().0.is_empty(), ward.unconfirmed().await.is_empty(), "{why}: looked for");
    ward.tell(b()).await;
    ward.look().await;
    ward.tell(b()).await;
    assert_eq!(ward.unconfirmed().await, Vec::<String>::new(), "{why}");
    assert_eq!(ward.confirmed().await, 1, "{why}: on record, once");
    assert_eq!(ward.rows(&NOTICES_DUE).await, 0, "{why}");
}

fn kind_of<T>(found: Result<T, Error>) -> Option<Kind> {
    found.err().map(|error| error.kind)
}
