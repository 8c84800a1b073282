//! What operators and builders bring along: a tool of administration, a bridge, a push gateway.

mod bridge;
mod gateway;
mod synadm;
