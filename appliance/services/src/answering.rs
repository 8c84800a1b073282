//! Somebody outside who answers in a test: remembers what was asked, and answers as told.

#![cfg(test)]

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;
use tokio::sync::Notify;

use crate::egress::{Destination, Egress, Failure, Opened, Outgoing, Purpose, ServiceRecord};

/// What was asked.
#[derive(Clone, Debug)]
pub struct Heard {
    /// What for.
    pub purpose: Purpose,
    /// Method and URL.
    pub line: String,
    /// The `Authorization` header.
    pub bearer: String,
    /// The body.
    pub json: Value,
}

type Answer = Box<dyn FnMut(&Heard) -> Result<(u16, Value), Failure> + Send>;

/// Answers everything.
pub struct Answering {
    answer: Mutex<Answer>,
    heard: Mutex<Vec<Heard>>,
    news: Notify,
}

impl Answering {
    /// Answers with status and JSON.
    pub fn with(
        answer: impl FnMut(&Heard) -> Result<(u16, Value), Failure> + Send + 'static,
    ) -> Arc<Self> {
        let answer: Answer = Box::new(answer);
        Arc::new(Self { answer: Mutex::new(answer), heard: Mutex::default(), news: Notify::new() })
    }

    /// Everything that was asked so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until what was asked satisfies `wanted`.
    pub async fn until(&self, wanted: impl Fn(&[Heard]) -> bool) -> Vec<Heard> {
        loop {
            let news = self.news.notified();
            let heard = self.heard();
            if wanted(&heard) {
                return heard;
            }
            news.await;
        }
    }
}

#[async_trait]
impl Egress for Answering {
    async fn open(&self, request: Outgoing) -> Result<Opened, Failure> {
        let bearer = request.headers.get(http::header::AUTHORIZATION);
        let heard = Heard {
            line: format!("{} {}", request.method, request.uri),
            purpose: request.purpose,
            bearer: bearer.map(|b| b.to_str().unwrap().to_owned()).unwrap_or_default(),
            json: serde_json::from_slice(&request.body).unwrap_or_default(),
        };
        let answer = (self.answer.lock().unwrap_or_else(PoisonError::into_inner))(&heard);
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(heard);
        self.news.notify_waiters();
        let (status, json) = answer?;
        let body = Bytes::from(json.to_string());
        Ok(Opened {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Box::pin(stream::iter([Ok(body)])),
        })
    }

    async fn find_services(&self, _: &Purpose, _: &str) -> Result<Vec<ServiceRecord>, Failure> {
        Ok(Vec::new())
    }

    fn allow_app_service(&self, _: &Uri) {}

    fn take_seen(&self) -> Vec<Destination> {
        Vec::new()
    }
}
