//! The line between hospitals, with everything a line can do wrong: it loses requests and answers, brings
//! them twice or late, is slow, and is cut. It writes down whom anybody ever asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use appliance_model::Dice as _;
use appliance_model::ruma::{OwnedServerName, ServerName};
use appliance_model::scenario::SeededDice;
use appliance_services::egress::{Failure, Limits, Opened};
use appliance_services::peers::Remote;
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

/// How bad the line is now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Of a hundred requests, so many do not arrive.
    pub lost: usize,
    /// Of a hundred answers, so many do not.
    pub unanswered: usize,
    /// Of a hundred requests, so many come a second time, up to two minutes later.
    pub twice: usize,
    /// Each way takes up to this, in milliseconds.
    pub delay_ms: u64,
}

/// A hospital's door for servers, as long as its power is on.
#[derive(Clone)]
struct Door {
    router: Router,
    power: watch::Receiver<bool>,
}

/// All lines.
pub struct Wire {
    dice: SeededDice,
    doors: Mutex<BTreeMap<OwnedServerName, Door>>,
    cut: Mutex<BTreeSet<(OwnedServerName, OwnedServerName)>>,
    weather: Mutex<Weather>,
    asked: Mutex<BTreeMap<(OwnedServerName, OwnedServerName), usize>>,
    /// What comes a second time.
    late: Mutex<JoinSet<()>>,
}

/// One hospital's end.
pub struct End {
    pub own: OwnedServerName,
    pub wire: Arc<Wire>,
}

type Answer = (StatusCode, HeaderMap, Bytes);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Wire {
    /// Lines that fail as `seed` says.
    pub fn new(seed: u64) -> Self {
        Self {
            dice: SeededDice::new(seed),
            doors: Mutex::default(),
            cut: Mutex::default(),
            weather: Mutex::default(),
            asked: Mutex::default(),
            late: Mutex::default(),
        }
    }

    /// Opens a hospital's door until its power goes.
    pub fn open(&self, server: &ServerName, router: Router, power: watch::Receiver<bool>) {
        lock(&self.doors).insert(server.to_owned(), Door { router, power });
    }

    pub fn close(&self, server: &ServerName) {
        lock(&self.doors).remove(server);
    }

    /// Cuts or mends a line, both ways.
    pub fn cut(&self, one: &ServerName, other: &ServerName, is_cut: bool) {
        let mut cut = lock(&self.cut);
        for pair in [(one.to_owned(), other.to_owned()), (other.to_owned(), one.to_owned())] {
            match is_cut {
                true => cut.insert(pair),
                false => cut.remove(&pair),
            };
        }
    }

    pub fn set_weather(&self, weather: Weather) {
        *lock(&self.weather) = weather;
    }

    /// A morning: everything is mended, and what was still on its way is gone.
    pub fn clear_up(&self) {
        lock(&self.cut).clear();
        self.set_weather(Weather { delay_ms: 5, ..Weather::default() });
        *lock(&self.late) = JoinSet::new();
    }

    /// Who asked whom, and how often.
    pub fn asked(&self) -> BTreeMap<(OwnedServerName, OwnedServerName), usize> {
        lock(&self.asked).clone()
    }

    fn happens(&self, of_a_hundred: usize) -> bool {
        self.dice.number() % 100 < u64::try_from(of_a_hundred).unwrap()
    }

    async fn travel(&self, most_ms: u64) {
        let ms = self.dice.number() % (most_ms + 1);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    fn reaches(&self, from: &ServerName, to: &ServerName) -> bool {
        !lock(&self.cut).contains(&(from.to_owned(), to.to_owned()))
    }

    /// Rings at a door. What is being done behind it ends when the power does.
    async fn ring(door: Door, request: Request<Bytes>) -> Option<Answer> {
        let mut power = door.power;
        let answering = async {
            let answer = door.router.oneshot(request.map(Body::from)).await.unwrap();
            let (parts, body) = answer.into_parts();
            (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
        };
        tokio::select! {
            biased;
            _ = power.wait_for(|is_on| !*is_on) => None,
            answer = answering => Some(answer),
        }
    }

    fn door(&self, server: &ServerName) -> Option<Door> {
        lock(&self.doors).get(server).cloned()
    }

    fn send_again_later(&self, door: Door, request: Request<Bytes>) {
        let wait = Duration::from_millis(self.dice.number() % 120_000);
        lock(&self.late).spawn(async move {
            tokio::time::sleep(wait).await;
            Self::ring(door, request).await;
        });
    }

    async fn carry(
        &self,
        (from, to): (&ServerName, &ServerName),
        request: Request<Bytes>,
    ) -> Result<Answer, Failure> {
        let gone = || Failure::Unreachable("nobody is there".to_owned());
        let weather = *lock(&self.weather);
        self.travel(weather.delay_ms).await;
        if !self.reaches(from, to) || self.happens(weather.lost) {
            return std::future::pending().await;
        }
        let door = self.door(to).ok_or_else(gone)?;
        if self.happens(weather.twice) {
            self.send_again_later(door.clone(), request.clone());
        }
        let answer = Self::ring(door, request).await.ok_or_else(gone)?;
        self.travel(weather.delay_ms).await;
        if !self.reaches(from, to) || self.happens(weather.unanswered) {
            return std::future::pending().await;
        }
        Ok(answer)
    }
}

#[async_trait]
impl Remote for End {
    async fn send(
        &self,
        server: &ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Opened, Failure> {
        let pair = (self.own.clone(), server.to_owned());
        *lock(&self.wire.asked).entry(pair).or_default() += 1;
        let carried = self.wire.carry((&self.own, server), request);
        let carried = tokio::time::timeout(limits.total, carried).await;
        let (status, headers, body) = carried.unwrap_or(Err(Failure::TimedOut))?;
        Ok(Opened { status, headers, body: Box::pin(stream::iter([Ok(body)])) })
    }

    fn look_again(&self, _: &ServerName) {}
}
