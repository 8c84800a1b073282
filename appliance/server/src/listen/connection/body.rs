//! Bodies that keep to their limits: requests that must keep coming, answers that are counted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::InFlight;

/// A request's body whose pieces must come within a time.
///
/// A piece that does not come ends the body with [`io::ErrorKind::TimedOut`].
pub struct TimedBody {
    body: Incoming,
    patience: Duration,
    /// Only while a piece is awaited: most bodies are there with their head.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl TimedBody {
    /// Gives each piece of `body` `patience` to arrive.
    pub fn new(body: Incoming, patience: Duration) -> Self {
        Self { body, patience, alarm: None }
    }
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.alarm = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)));
        }
        let patience = self.patience;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(alarm.as_mut().poll(cx));
        let error = io::Error::new(io::ErrorKind::TimedOut, "the request's body did not arrive");
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body that ends its request when it is gone.
pub struct CountedBody {
    body: Body,
    _in_flight: InFlight,
}

impl CountedBody {
    /// Ends `in_flight` when `body` was sent or given up.
    pub fn new(body: Body, in_flight: InFlight) -> Self {
        Self { body, _in_flight: in_flight }
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
