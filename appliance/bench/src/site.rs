//! The people and rooms of a server under test, and the requests they make.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::clock::{self, Stopwatch};
use crate::http::{Answer, Connection, encode};
use crate::measure::{Meter, Operation};

/// Connections used while setting a scene.
pub(crate) const SETUP_CONNECTIONS: usize = 4;

/// What a phone asks of `/sync`, as far as it matters here.
pub(crate) const FILTER: &str = r#"{"room":{"timeline":{"limit":20},"state":{"lazy_load_members":true},"ephemeral":{"types":[]}},"presence":{"types":[]}}"#;

/// One account with one device.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) device: String,
    pub(crate) token: String,
}

impl User {
    /// What the server says of a new session.
    fn of(session: &Value) -> Result<Self> {
        Ok(Self {
            id: text(session, "user_id")?,
            device: text(session, "device_id")?,
            token: text(session, "access_token")?,
        })
    }
}

/// One server's address, process and accounts.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pid: AtomicI32,
    run: u64,
    next: AtomicU64,
    pool: Mutex<Vec<Arc<User>>>,
}

impl Site {
    /// Nobody is registered yet.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            pid: AtomicI32::new(0),
            run: clock::run_number(),
            next: AtomicU64::new(0),
            pool: Mutex::default(),
        }
    }

    /// The process to watch from now on.
    pub(crate) fn set_pid(&self, pid: i32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// The process to watch.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Starts measuring the server.
    pub(crate) fn meter(&self) -> Meter {
        Meter::start(self.pid())
    }

    /// A new client's connection.
    pub(crate) fn connection(&self) -> Connection {
        Connection::new(self.address)
    }

    /// Letters that no other call gets.
    pub(crate) fn unique(&self) -> String {
        format!("{:x}-{}", self.run, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The first `count` accounts, registered when first asked for.
    pub(crate) async fn users(self: &Arc<Self>, count: usize) -> Result<Vec<Arc<User>>> {
        let mut pool = self.pool.lock().await;
        let missing = count.saturating_sub(pool.len());
        pool.extend(self.new_users(missing).await?);
        Ok(pool[..count].to_vec())
    }

    /// Accounts that nothing else uses: in no room, with no history.
    pub(crate) async fn new_users(self: &Arc<Self>, count: usize) -> Result<Vec<Arc<User>>> {
        let site = Arc::clone(self);
        let made = parallel(self, count, SETUP_CONNECTIONS, move |_, connection| {
            let site = Arc::clone(&site);
            async move { site.register(&connection).await.map(Arc::new) }
        });
        made.await?.into_iter().collect()
    }

    async fn register(&self, connection: &Connection) -> Result<User> {
        let name = format!("u{}", self.unique());
        let mut body = json!({
            "username": name,
            "password": password_of(&name),
            "auth": {"type": "m.login.dummy"},
        });
        let path = "/_matrix/client/v3/register";
        let mut answer = connection.post(path, "", &body).await?;
        if answer.status == 401 {
            // "If no session ID is given, the server starts one and says so with a 401."
            body["auth"]["session"] = answer.json()["session"].take();
            answer = connection.post(path, "", &body).await?;
        }
        User::of(&answer.check().context("register")?.json())
    }

    /// The same person with a session of their own, of the class that the server gives now.
    pub(crate) async fn log_in(&self, connection: &Connection, user: &User) -> Result<User> {
        let name = user.id.trim_start_matches('@').split(':').next().unwrap_or_default();
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": user.id },
            "password": password_of(name),
        });
        let answer = connection.post("/_matrix/client/v3/login", "", &body).await?;
        User::of(&answer.check().context("login")?.json())
    }

    /// A room that anyone may join, with the keys of `extra` added to the request.
    pub(crate) async fn create_room(
        &self,
        connection: &Connection,
        user: &User,
        extra: Value,
    ) -> Result<String> {
        let mut body = json!({"preset": "public_chat", "room_version": "11"});
        if let (Some(body), Value::Object(extra)) = (body.as_object_mut(), extra) {
            body.extend(extra);
        }
        let path = "/_matrix/client/v3/createRoom";
        let json = connection.post(path, &user.token, &body).await?.check()?.json();
        Ok(json["room_id"].as_str().context("room_id")?.to_owned())
    }

    /// One person joins one room.
    pub(crate) async fn join(
        &self,
        connection: &Connection,
        user: &User,
        room: &str,
    ) -> Result<Answer> {
        let path = format!("/_matrix/client/v3/join/{}", encode(room));
        connection.post(&path, &user.token, &json!({})).await
    }

    /// All join, some at a time. Fails if one cannot.
    pub(crate) async fn join_all(
        self: &Arc<Self>,
        room: &str,
        users: &[Arc<User>],
        connections: usize,
    ) -> Result<Vec<Operation>> {
        let (site, room, people) = (Arc::clone(self), room.to_owned(), users.to_vec());
        let joined = parallel(self, users.len(), connections, move |at, connection| {
            let (site, room, user) = (Arc::clone(&site), room.clone(), Arc::clone(&people[at]));
            async move {
                let start = Stopwatch::start();
                let answer = site.join(&connection, &user, &room).await;
                let operation = Operation::ended(start, &answer);
                answer?.check().map(|_| operation).context("join")
            }
        });
        joined.await?.into_iter().collect()
    }

    /// One message event.
    pub(crate) async fn send(
        &self,
        connection: &Connection,
        user: &User,
        room: &str,
        content: &Value,
    ) -> Result<Answer> {
        let (room, transaction) = (encode(room), self.unique());
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{transaction}");
        connection.put(&path, &user.token, content).await
    }

    /// `count` messages, spread over rooms and people. Fails if one is refused.
    pub(crate) async fn send_many(
        self: &Arc<Self>,
        rooms: &[String],
        users: &[Arc<User>],
        count: usize,
        connections: usize,
    ) -> Result<Vec<Operation>> {
        let (site, rooms, people) = (Arc::clone(self), rooms.to_vec(), users.to_vec());
        let sent = parallel(self, count, connections, move |at, connection| {
            let site = Arc::clone(&site);
            let room = rooms[at % rooms.len()].clone();
            let user = Arc::clone(&people[(at / rooms.len()) % people.len()]);
            async move {
                let start = Stopwatch::start();
                let answer = site.send(&connection, &user, &room, &message("bulk", at)).await;
                let operation = Operation::ended(start, &answer);
                answer?.check().map(|_| operation).context("send")
            }
        });
        sent.await?.into_iter().collect()
    }

    /// `/sync` with `since`, waiting at most `timeout_ms`.
    pub(crate) async fn sync(
        &self,
        connection: &Connection,
        user: &User,
        since: Option<&str>,
        timeout_ms: u64,
        filter: &str,
    ) -> Result<Answer> {
        let since = since.map(|since| format!("&since={}", encode(since))).unwrap_or_default();
        let filter = encode(filter);
        let path = format!(
            "/_matrix/client/v3/sync?timeout={timeout_ms}&set_presence=offline&filter={filter}{since}"
        );
        connection.get(&path, &user.token).await
    }

    /// Each user's position after a first sync.
    pub(crate) async fn positions(self: &Arc<Self>, users: &[Arc<User>]) -> Result<Vec<String>> {
        let (site, people) = (Arc::clone(self), users.to_vec());
        let found = parallel(self, users.len(), SETUP_CONNECTIONS, move |at, connection| {
            let (site, user) = (Arc::clone(&site), Arc::clone(&people[at]));
            async move {
                let answer = site.sync(&connection, &user, None, 0, FILTER).await?.check()?;
                next_batch(&answer.body).context("no next_batch")
            }
        });
        found.await?.into_iter().collect()
    }
}

/// Runs `count` jobs over `connections` connections; results are in the order of the jobs.
pub(crate) async fn parallel<T, W>(
    site: &Site,
    count: usize,
    connections: usize,
    job: impl Fn(usize, Connection) -> W + Clone + Send + Sync + 'static,
) -> Result<Vec<T>>
where
    T: Send + 'static,
    W: Future<Output = T> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..connections.min(count) {
        let (next, job, connection) = (Arc::clone(&next), job.clone(), site.connection());
        workers.spawn(async move {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    return done;
                }
                done.push((at, job(at, connection.clone()).await));
            }
        });
    }
    let mut all: Vec<(usize, T)> = workers.join_all().await.into_iter().flatten().collect();
    all.sort_by_key(|(at, _)| *at);
    if all.len() != count {
        bail!("{} of {count} jobs ran", all.len());
    }
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

fn password_of(name: &str) -> String {
    format!("Pw-{name}-bench")
}

/// A message of ordinary length that carries a mark to look for.
pub(crate) fn message(mark: &str, number: usize) -> Value {
    let words = "Patient transferred to ward 4B, please confirm medication plan.";
    json!({"msgtype": "m.text", "body": format!("{mark}.{number}; {words}")})
}

/// The numbers of all marked messages in a body, without parsing it: the client must stay cheap.
pub(crate) fn marks(body: &[u8], mark: &str) -> Vec<usize> {
    let mark = format!("{mark}.");
    let mut found = Vec::new();
    let mut rest = body;
    while let Some(at) = rest.windows(mark.len()).position(|window| window == mark.as_bytes()) {
        rest = &rest[at + mark.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = std::str::from_utf8(&rest[..digits]).ok().and_then(|n| n.parse().ok());
        if let (Some(number), Some(b';')) = (number, rest.get(digits)) {
            found.push(number);
        }
    }
    found
}

/// The `next_batch` of a `/sync` body, without parsing the rest.
pub(crate) fn next_batch(body: &[u8]) -> Option<String> {
    let key = b"\"next_batch\"";
    let at = body.windows(key.len()).rposition(|window| window == key)?;
    let mut quoted = body[at + key.len()..].split(|byte| *byte == b'"');
    quoted.next()?;
    String::from_utf8(quoted.next()?.to_vec()).ok()
}

/// The string at `key`.
pub(crate) fn text(json: &Value, key: &str) -> Result<String> {
    json[key].as_str().map(str::to_owned).ok_or_else(|| anyhow!("the answer has no {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_in_any_body() {
        let body = br#"{"body":"fan.7; x"},{"body":"fan.12; y"},{"body":"fan.x; z"},"fan.3"#;
        assert_eq!(marks(body, "fan"), [7, 12]);
        assert_eq!(marks(b"", "fan"), [] as [usize; 0]);
    }

    #[test]
    fn the_position_is_read_wherever_it_stands() {
        assert_eq!(next_batch(br#"{"a":1, "next_batch" : "s1_2" }"#).as_deref(), Some("s1_2"));
        assert_eq!(next_batch(br#"{"next_batch":"17","rooms":{}}"#).as_deref(), Some("17"));
        assert_eq!(next_batch(b"{}"), None);
    }
}
