//! The door for other servers. Who is not on the list is turned away before anything it sent is read;
//! who is, is believed once the signature over the whole request is verified.

use std::time::Duration;

use appliance_model::ruma::OwnedServerName;
use appliance_model::{Error, Kind};
use appliance_services::Services;
use appliance_services::peers::{Load, PeerCertificate};
use axum::body::Body;
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use crate::route::Access;
use crate::{ClientAddr, json_body};

/// A transaction: 50 events of 64 KiB, and as much again for 100 messages between devices.
pub(crate) const BODY_BYTES_MAX: usize = 12 * 1024 * 1024;

/// All of a request's body: the largest comes in this time over a line of 2 Mbit/s.
const BODY_MAX: Duration = Duration::from_secs(60);

/// Whom a request is from, if servers are let in there; the request, whose body is in memory then; and
/// how much that is, which counts until it is answered.
pub(crate) type Admitted = (Option<OwnedServerName>, Request, Option<Load>);

/// Lets a server in where servers are let in.
///
/// # Errors
///
/// Of [`appliance_services::peers::Peers::recognize`] and
/// [`appliance_services::peers::Peers::authenticate`]; [`appliance_model::Kind::Limited`] if too much of
/// what this server has sent is in memory already.
pub(crate) async fn admit(
    services: &Services,
    access: Access,
    request: Request,
) -> Result<Admitted, Error> {
    if access != Access::Peer {
        return Ok((None, request, None));
    }
    let peers = &services.peers;
    let claim = peers.recognize(request.headers())?;
    peers.check_certificate(claim.origin(), request.extensions().get::<PeerCertificate>())?;
    let (parts, body) = request.into_parts();
    let address = parts.extensions.get::<ClientAddr>().map(|address| address.0);
    let mut load = peers.weigh(claim.origin(), address);
    let body = read_counted(body, &mut load).await;
    if body.as_ref().is_err_and(|error| matches!(error.kind, Kind::Limited { .. })) {
        peers.overloaded(claim.origin());
    }
    let body = body?;
    if !body.is_empty() {
        json_body::check(&body)?;
    }
    let origin = peers.authenticate(claim, &parts.method, &parts.uri, &body).await?;
    Ok((Some(origin), Request::from_parts(parts, Body::from(body)), Some(load)))
}

/// Reads a body piece by piece, each counted before the next is waited for.
async fn read_counted(body: Body, load: &mut Load) -> Result<Bytes, Error> {
    let broken = || Error::new(Kind::NotJson, "The request's body did not arrive whole.");
    let (mut body, mut read) = (body.into_data_stream(), BytesMut::new());
    let reading = async {
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|_| broken())?;
            if read.len() + piece.len() > BODY_BYTES_MAX {
                let large = format!("The request is larger than {BODY_BYTES_MAX} bytes.");
                return Err(Error::too_large(large));
            }
            load.add(piece.len())?;
            read.extend_from_slice(&piece);
        }
        Ok(())
    };
    tokio::time::timeout(BODY_MAX, reading).await.map_err(|_| broken())??;
    Ok(read.freeze())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use appliance_services::peers::{PeerChange, ShownCertificate};
    use futures_util::stream;
    use http::header::AUTHORIZATION;

    use super::*;
    use crate::town::Town;

    /// A body of so many megabytes, of which the last never comes.
    fn endless(megabytes: usize) -> Body {
        let piece = Bytes::from(vec![b' '; 1024 * 1024]);
        let pieces = (0..megabytes).map(move |_| Ok::<_, std::io::Error>(piece.clone()));
        Body::from_stream(stream::iter(pieces).chain(stream::pending()))
    }

    /// A certificate as a listener would hand it in.
    #[derive(Debug)]
    struct Card(u8);

    impl ShownCertificate for Card {
        fn key_sha256(&self) -> [u8; 32] {
            [self.0; 32]
        }

        fn comes_from(&self, _: &str) -> Result<(), String> {
            Err("of nobody".to_owned())
        }
    }

    #[tokio::test]
    async fn who_must_show_a_certificate_and_does_not_is_turned_away_before_the_body_is_read() {
        let town = Town::of(&["a.example", "b.example", "c.example"]).await;
        let b = appliance_model::ruma::server_name!("b.example");
        let peers = &town.desk(0).services.peers;
        let roll = &town.desk(0).services.house.roll;
        let ring = async |from: usize, card: Option<u8>, is_read: bool| {
            let path = "/_matrix/federation/v1/send/t";
            let body = r#"{"pdus":[],"edus":[]}"#;
            let mut request = town.signed(from, "a.example", "PUT", path, body);
            if let Some(key) = card {
                request.extensions_mut().insert(PeerCertificate(Arc::new(Card(key))));
            }
            if !is_read {
                request = request.map(|_| {
                    Body::from_stream(stream::once(async {
                        panic!("the body was read") as Result<&str, std::io::Error>
                    }))
                });
            }
            town.ring("a.example", request).await.0
        };
        assert!(!roll.asks_for_certificates());
        assert_eq!(ring(1, None, true).await, 200);
        let pins = Some(vec![format!("sha256:{}", "07".repeat(32))]);
        let change = PeerChange { client_pins: pins, ..PeerChange::default() };
        peers.describe(b, change, "uid 0").await.unwrap();
        assert!(roll.asks_for_certificates());
        for (from, card, status) in [
            (1, None, 401),
            (1, Some(8), 401),
            (1, Some(7), 200),
            // Of others none is wanted, and none is held against them.
            (2, None, 200),
            (2, Some(8), 200),
        ] {
            assert_eq!(ring(from, card, status == 200).await, status, "{from} {card:?}");
        }
        let authorities = Some("somebody".to_owned());
        let change = PeerChange { client_authorities: authorities, ..PeerChange::default() };
        peers.describe(b, change, "uid 0").await.unwrap();
        assert_eq!(ring(1, Some(7), false).await, 401, "both are wanted");
    }

    /// Somebody who knows the name of a peer has its transactions begin by the hundred: what is kept of
    /// them is bounded, they end, and the peer, which comes from elsewhere, is heard meanwhile.
    #[tokio::test(start_paused = true)]
    async fn bodies_in_a_borrowed_name_fill_no_memory() {
        let town = Town::of(&["a.example", "b.example"]).await;
        let borrowed = |address: u8, body: Body| {
            let path = "/_matrix/federation/v1/send/t";
            let mut request = town.signed(1, "a.example", "PUT", path, "{}").map(|_| body);
            let header = request.headers()[AUTHORIZATION].to_str().unwrap();
            let forged = header.replace("sig=\"", "sig=\"AAAA");
            request.headers_mut().insert(AUTHORIZATION, forged.parse().unwrap());
            request.extensions_mut().insert(ClientAddr([192, 0, 2, address].into()));
            town.ring("a.example", request)
        };
        let flood: Vec<_> = (0..100).map(|_| borrowed(66, endless(11))).collect();
        let flood = futures_util::future::join_all(flood);
        let honest = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let version = town.ask(
                1,
                "a.example",
                "PUT",
                "/send/u",
                serde_json::json!({
                    "origin": "b.example", "origin_server_ts": 1, "pdus": [],
                }),
            );
            version.await.0
        };
        let patience = BODY_MAX + Duration::from_secs(5);
        let all = async { tokio::join!(flood, honest) };
        let (answers, honest) = tokio::time::timeout(patience, all).await.expect("they end");
        assert_eq!(honest, 200);
        let too_many = answers.iter().filter(|(status, _)| *status == 429).count();
        assert_eq!(too_many, 98, "two at once are read");
        assert!(answers.iter().all(|(status, _)| matches!(status, 400 | 429)), "{answers:?}");
    }
}
