//! Files of other servers: fetched for the person who asks and passed on as they come. Nothing of them
//! is kept here, so nothing of them can outlive its deadline here. A hospital of our kind lends them look by
//! look ([`super::lease`]): it hears who looks on what kind of device, and the stricter of two policies holds.

use std::time::Duration;

use appliance_ledger::Digest;
use appliance_model::ruma::ServerName;
use appliance_model::ruma::api::federation::authenticated_media::{
    get_content, get_content_thumbnail,
};
use appliance_model::ruma::media::Method;
use appliance_model::{Caller, Error, Kind};
use appliance_rules::policy::{self, Mode, is_media_id};
use futures_util::{StreamExt, stream};
use http::HeaderMap;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, LOCATION};
use serde_json::json;

use super::link::afar_digest;
use super::multipart::{FilePart, Multipart};
use super::thumbnail::Wanted;
use super::{Media, no_such_media};
use crate::egress::{Failure, Limits, Opened, Pieces};
use crate::peers;

/// A file of 50 MB over a slow line.
const TOTAL: Duration = Duration::from_secs(600);

/// What goes around the file: boundaries, headers, metadata.
const WRAPPING_BYTES_MAX: u64 = 256 * 1024;

/// Where files are lent.
pub const LEASE_PATH: &str = "/_matrix/federation/unstable/io.wardstone/media/lease";
/// The parameter with which a lent file is fetched.
pub const LEASE_PARAM: &str = "io.wardstone.lease";
const MEDIA_PATH: &str = "/_matrix/federation/v1/media";

/// A file of another server.
#[derive(Clone, Copy)]
struct Afar<'a> {
    server: &'a ServerName,
    /// A media ID: it needs no escapes in a path.
    media_id: &'a str,
    uri: &'a str,
}

/// A file of another server on its way.
pub struct FromAfar {
    /// What that server says it is.
    pub content_type: Option<String>,
    /// What it is called there: the header `Content-Disposition`.
    pub disposition: Option<String>,
    /// The bytes.
    pub body: Pieces,
}

impl Media {
    /// Fetches a file, or a thumbnail of it, from its server. `wait_ms` is how long that server may wait
    /// for a file that is still to be uploaded there.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::NotFound`]: it is not there, is at its end ([`super::ended`]), or this server
    ///   exchanges no files with that one.
    /// * [`appliance_model::Kind::Forbidden`]: that server gives this one none.
    /// * [`appliance_model::Kind::RemoteUnavailable`]: no answer, or none that can be read.
    pub async fn fetch(
        &self,
        caller: &Caller,
        (server, media_id): (&ServerName, &str),
        wanted: Option<Wanted>,
        wait_ms: u64,
    ) -> Result<FromAfar, Error> {
        if !super::is_media_id(media_id) {
            return Err(no_such_media());
        }
        if !self.0.house.roll.allows_media(server) {
            return Err(no_such_media());
        }
        let mode = self.mode_from_afar(caller);
        let uri = format!("mxc://{server}/{media_id}");
        let digest = afar_digest(self.ledger(), &uri);
        if self.has_ended(&digest).await? {
            return Err(no_such_media());
        }
        let file = Afar { server, media_id, uri: &uri };
        let opened = match self.0.peers.promise_of(server).await?.lends {
            true => self.borrow(caller, file, wanted, mode).await?,
            false if mode != Mode::Original => return Err(not_for_this_device()),
            false => self.fetch_plain(caller, file, wanted, wait_ms).await?,
        };
        let text = |headers: &HeaderMap, name| {
            let value = headers.get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let content_type = text(&opened.headers, CONTENT_TYPE).unwrap_or_default();
        let FilePart { headers, body } = Multipart::new(&content_type, opened.body)?.file().await?;
        // "location … a URL to the file": somewhere that nobody has allowed.
        if headers.contains_key(LOCATION) {
            tracing::warn!(kind = "media.elsewhere", %server, "a file lies at a third place");
            return Err(no_such_media());
        }
        Ok(FromAfar {
            content_type: text(&headers, CONTENT_TYPE),
            disposition: text(&headers, CONTENT_DISPOSITION),
            body: self.until_it_ends(digest, body),
        })
    }

    /// The file as it comes, until its own server says that it is erased: judged before each piece is passed on.
    fn until_it_ends(&self, file: Digest, body: Pieces) -> Pieces {
        let pieces = stream::unfold(Some((self.clone(), body)), move |left| async move {
            let (media, mut body) = left?;
            let piece = body.next().await?;
            match media.has_ended(&file).await {
                Ok(false) => Some((piece, Some((media, body)))),
                Ok(true) => Some((Err(Failure::Refused("the file is erased".to_owned())), None)),
                Err(error) => Some((Err(Failure::Unreachable(error.to_string())), None)),
            }
        });
        Box::pin(pieces)
    }

    /// From a server that is not of our kind, by the specification's way.
    async fn fetch_plain(
        &self,
        caller: &Caller,
        file: Afar<'_>,
        wanted: Option<Wanted>,
        wait_ms: u64,
    ) -> Result<Opened, Error> {
        let permit = policy::may_fetch(&caller.user_id, caller.device_id.as_str(), file.uri);
        self.ledger().commit(self.ledger().begin(permit)).await?;
        let limits = self.limits_afar();
        let wait = Duration::from_millis(wait_ms.min(super::serve::WAIT_MS_MAX));
        let (house, media_id) = (&self.0.house, file.media_id.to_owned());
        let opened = match wanted {
            None => {
                let mut request = get_content::v1::Request::new(media_id);
                request.timeout_ms = wait;
                house.call_open(file.server, request, limits).await
            }
            Some(wanted) => {
                let (width, height) = (wanted.width.into(), wanted.height.into());
                let mut request = get_content_thumbnail::v1::Request::new(media_id, width, height);
                request.timeout_ms = wait;
                request.animated = Some(wanted.animated);
                request.method = Some(if wanted.crop { Method::Crop } else { Method::Scale });
                house.call_open(file.server, request, limits).await
            }
        };
        Ok(opened?)
    }

    /// From a hospital of our kind: it lends the file for this look of this person.
    async fn borrow(
        &self,
        caller: &Caller,
        file: Afar<'_>,
        wanted: Option<Wanted>,
        mode: Mode,
    ) -> Result<Opened, Error> {
        if mode == Mode::Deny {
            return Err(not_for_this_device());
        }
        let permit = policy::may_borrow(&caller.user_id, caller.device_id.as_str(), file.uri);
        self.ledger().commit(self.ledger().begin(permit)).await?;
        let house = &self.0.house;
        let wish = json!({
            "media_id": file.media_id,
            "user_id": caller.user_id,
            "device_class": caller.class.as_str(),
            "mode": mode.as_str(),
            "thumbnail": wanted.is_some(),
        });
        let asked = ("POST", LEASE_PATH);
        let lent = house.ask_json(file.server, asked, Some(&wish.to_string()), peers::ASK).await?;
        let lent: serde_json::Value = serde_json::from_slice(lent.body()).unwrap_or_default();
        let lease = lent["lease"].as_str().filter(|lease| is_media_id(lease));
        let lease = lease.ok_or_else(|| {
            Error::new(Kind::RemoteUnavailable, "The other server lends in no known way.")
        })?;
        let path = match wanted {
            None => format!("{MEDIA_PATH}/download/{}?{LEASE_PARAM}={lease}", file.media_id),
            Some(Wanted { width, height, crop, animated }) => format!(
                "{MEDIA_PATH}/thumbnail/{}?width={width}&height={height}&method={}\
                 &animated={animated}&{LEASE_PARAM}={lease}",
                file.media_id,
                if crop { "crop" } else { "scale" },
            ),
        };
        Ok(house.ask_open(file.server, ("GET", &path), None, self.limits_afar()).await?)
    }

    fn limits_afar(&self) -> Limits {
        let answer_bytes_max = self.upload_bytes_max().saturating_add(WRAPPING_BYTES_MAX);
        Limits { total: TOTAL, answer_bytes_max }
    }
}

fn not_for_this_device() -> Error {
    Error::forbidden("Your hospital's policy does not give files of other servers to this device.")
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::server_name;
    use bytes::Bytes;

    use super::*;
    use crate::scenario::Ward;

    #[tokio::test]
    async fn a_file_that_its_server_erases_stops_in_the_middle() {
        let ward = Ward::new().await;
        let media = &ward.services.media;
        let pieces = || -> Pieces {
            let pieces: Vec<_> = (0..3_u8).map(|n| Ok(Bytes::copy_from_slice(&[n]))).collect();
            Box::pin(stream::iter(pieces))
        };
        let [erased, other] = ["arm", "leg"].map(|id| {
            let file = afar_digest(media.ledger(), &format!("mxc://two.example/{id}"));
            media.until_it_ends(file, pieces())
        });
        let (mut erased, other) = (erased, other);
        assert_eq!(erased.next().await.unwrap().unwrap(), [0].as_slice());
        let two = server_name!("two.example");
        media.erased_there(two, (two.as_str(), "arm")).await.unwrap();
        assert!(erased.next().await.unwrap().is_err(), "it does not look whole");
        assert!(erased.next().await.is_none());
        assert_eq!(other.filter(|piece| std::future::ready(piece.is_ok())).count().await, 3);
    }
}
