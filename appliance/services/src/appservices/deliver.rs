//! Telling application services ([spec]): one transaction at a time, kept until it is taken.
//!
//! A transaction is written down with its ID before it is sent, and sent until it is taken, so that a
//! restart repeats the very same one: "Homeservers … MUST NOT alter (e.g. add more) events they were
//! going to send within that transaction ID on retries".
//!
//! [spec]: https://spec.matrix.org/v1.19/application-service-api/#pushing-events

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use appliance_ledger::keyspaces::{APPSERVICE_STREAMS, TO_DEVICE};
use appliance_ledger::rows::appservices::AppserviceStreamRow;
use appliance_model::{Error, Position};
use appliance_rules::Permit;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Method;

use super::ask::{Asked, path_segment};
use super::transaction::Since;
use super::{Appservices, Registered, Told};

/// The first wait after a failure; it doubles.
const RETRY_MS_MIN: u64 = 1_000;
/// A service that was down for a night is found within five minutes; it can ring earlier (`ping`).
const RETRY_MS_MAX: u64 = 5 * 60 * 1_000;
/// A service may work through its transaction before it answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Typing ends and presence changes without a commit; they wait no longer than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Positions that go by without news are written down now and then, so that a restart need not look
/// at them again.
const UNWRITTEN_MAX: u64 = 10_000;

impl Appservices {
    /// Tells all application services what concerns them, for ever. One that does not answer keeps
    /// no other waiting.
    pub async fn run(&self) {
        let (mut working, mut busy) = (FuturesUnordered::new(), BTreeSet::new());
        loop {
            // First the position: everything up to it is among what stirred.
            let known = self.house.ledger.position();
            let stirred = self.stir.take();
            let services = self.house.appservices.all();
            for one in services.iter() {
                let id = one.registration.id.clone();
                self.told(&id, |told| {
                    told.stirred.add(&stirred);
                    told.known = known;
                });
                if one.registration.url.is_some() && busy.insert(id.clone()) {
                    let one = one.clone();
                    working.push(async move {
                        self.tell_or_complain(one).await;
                        id
                    });
                }
            }
            // Until there are news again, only those at work are waited for.
            loop {
                tokio::select! {
                    Some(id) = working.next(), if !working.is_empty() => {
                        busy.remove(&id);
                        if self.lags(&id) {
                            break;
                        }
                    }
                    () = self.stir.stirred() => break,
                    () = tokio::time::sleep(LOOK_EVERY), if !services.is_empty() => break,
                }
            }
        }
    }

    /// Whether something happened since a service was last looked after.
    fn lags(&self, id: &str) -> bool {
        let now = self.house.ledger.position();
        self.told(id, |told| told.seen < now)
    }

    async fn tell_or_complain(&self, one: Arc<Registered>) {
        let id = one.registration.id.clone();
        if let Err(error) = self.tell(one).await {
            tracing::error!(kind = "appservice.failed", appservice = %id, %error,
                "an application service could not be told; it will be tried again");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Tells one service all there is. Returns when nothing is left.
    async fn tell(&self, one: Arc<Registered>) -> Result<(), Error> {
        let (service, ledger) = (&one.registration, &self.house.ledger);
        loop {
            // It may have been taken away while a transaction waited.
            let stays = self.house.appservices.by_id(&service.id);
            if !stays.is_some_and(|now| Arc::ptr_eq(&now, &one)) {
                return Ok(());
            }
            let row = ledger.get(&APPSERVICE_STREAMS, &service.id).await?.unwrap_or_default();
            if let Some(body) = &row.pending {
                self.send_until_taken(&one, &row, body).await;
            }
            let (seen, stirred) =
                self.told(&service.id, |told| (told.known, std::mem::take(&mut told.stirred)));
            let first = self.told(&service.id, |told| !std::mem::replace(&mut told.begun, true));
            let mut since = self.told(&service.id, |told| Since {
                position: Position(row.upto.max(told.position.0)),
                lists: Position(row.upto.max(told.lists.0)),
                serial: told.serial,
                stirred,
                upto: seen,
            });
            if first && service.encryption {
                since.stirred.devices.extend(self.waiting_devices(service).await?);
            }
            let parcel = match self.parcel(service, &since).await {
                Ok(parcel) => parcel,
                Err(error) => {
                    // What stirred is still to be told.
                    self.told(&service.id, |told| told.stirred.add(&since.stirred));
                    return Err(error);
                }
            };
            let next = parcel.body.is_some() || row.pending.is_some();
            if next || parcel.upto.0 > row.upto + UNWRITTEN_MAX {
                let sent = parcel.body.is_some();
                let next = AppserviceStreamRow {
                    upto: parcel.upto.0,
                    transactions: row.transactions + u64::from(sent),
                    pending: parcel.body,
                    pending_id: sent.then(|| self.txn_id(row.transactions)),
                };
                let mut commit = ledger.begin(Permit::housekeeping());
                commit.put(&APPSERVICE_STREAMS, &service.id, &next);
                for key in &parcel.delivered {
                    commit.delete(&TO_DEVICE, key);
                }
                ledger.commit(commit).await?;
                if sent {
                    self.note(service.id.as_str(), (parcel.upto, seen, parcel.serial));
                    if parcel.more {
                        // Queues that did not fit are looked at again.
                        let devices = since.stirred.devices;
                        self.told(&service.id, |told| told.stirred.devices.extend(devices));
                    }
                    continue;
                }
            }
            self.note(service.id.as_str(), (parcel.upto, seen, parcel.serial));
            if !parcel.more {
                return Ok(());
            }
        }
    }

    fn note(&self, id: &str, (position, seen, serial): (Position, Position, u64)) {
        self.told(id, |told| {
            told.position = position;
            told.lists = seen;
            told.seen = seen;
            told.serial = serial;
        });
    }

    /// Never the same again, also if a service with this ID was registered before.
    fn txn_id(&self, transactions: u64) -> String {
        format!("{}-{transactions}", self.house.clock.now_ms())
    }

    /// Sends a transaction until it is taken, or until the service is registered otherwise.
    async fn send_until_taken(&self, one: &Arc<Registered>, row: &AppserviceStreamRow, body: &str) {
        let service = &one.registration;
        let id = row.pending_id.as_deref().unwrap_or_default();
        let path = format!("/_matrix/app/v1/transactions/{}", path_segment(id));
        let mut wait_ms = RETRY_MS_MIN;
        loop {
            let asked = Asked {
                method: Method::PUT,
                path: path.clone(),
                body: body.to_owned().into(),
                timeout: ANSWER_TIMEOUT,
            };
            let why = match self.ask(service, asked).await {
                Ok(answer) if answer.status.is_success() => return,
                Ok(answer) => format!("status {}", answer.status.as_u16()),
                Err(failure) => failure.to_string(),
            };
            metrics::counter!("wardstone_appservice_failures_total").increment(1);
            tracing::warn!(kind = "appservice.refused", appservice = %service.id, txn = id, %why,
                wait_ms, "an application service did not take a transaction");
            let rung = self.told(&service.id, |told| told.rung.clone());
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
                () = rung.notified() => wait_ms = RETRY_MS_MIN,
            }
            wait_ms = wait_ms.saturating_mul(2).min(RETRY_MS_MAX);
            let stays = self.house.appservices.by_id(&service.id);
            if !stays.is_some_and(|now| Arc::ptr_eq(&now, one)) {
                return;
            }
        }
    }

    /// The service is there: what waits for it is sent now.
    pub(super) fn ring(&self, id: &str) {
        self.told(id, |told| told.rung.notify_one());
    }

    pub(super) fn told<T>(&self, id: &str, look: impl FnOnce(&mut Told) -> T) -> T {
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        look(all.entry(id.to_owned()).or_default())
    }
}
