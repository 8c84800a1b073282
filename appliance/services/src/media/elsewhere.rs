//! Files of other servers: fetched for the person who asks and passed on as they come. Nothing of them
//! is kept here, so nothing of them can outlive its deadline here.

use std::time::Duration;

use appliance_model::ruma::ServerName;
use appliance_model::ruma::api::federation::authenticated_media::{
    get_content, get_content_thumbnail,
};
use appliance_model::ruma::media::Method;
use appliance_model::{Caller, Error};
use appliance_rules::policy;
use http::HeaderMap;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, LOCATION};

use super::multipart::{FilePart, Multipart};
use super::thumbnail::Wanted;
use super::{Media, no_such_media};
use crate::egress::{Limits, Pieces};

/// A file of 50 MB over a slow line.
const TOTAL: Duration = Duration::from_secs(600);

/// What goes around the file: boundaries, headers, metadata.
const WRAPPING_BYTES_MAX: u64 = 256 * 1024;

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
    /// * [`appliance_model::Kind::NotFound`]: it is not there, or this server exchanges no files with
    ///   that one.
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
        if !self.may_have_from_afar(caller) {
            return Err(Error::forbidden(
                "Your hospital's policy does not give files of other servers to this device.",
            ));
        }
        let uri = format!("mxc://{server}/{media_id}");
        let permit = policy::may_fetch(&caller.user_id, caller.device_id.as_str(), &uri);
        self.ledger().commit(self.ledger().begin(permit)).await?;
        let file_bytes_max = self.upload_bytes_max().saturating_add(WRAPPING_BYTES_MAX);
        let limits = Limits { total: TOTAL, answer_bytes_max: file_bytes_max };
        let wait = Duration::from_millis(wait_ms.min(super::serve::WAIT_MS_MAX));
        let house = &self.0.house;
        let opened = match wanted {
            None => {
                let mut request = get_content::v1::Request::new(media_id.to_owned());
                request.timeout_ms = wait;
                house.call_open(server, request, limits).await
            }
            Some(wanted) => {
                let (width, height) = (wanted.width.into(), wanted.height.into());
                let mut request =
                    get_content_thumbnail::v1::Request::new(media_id.to_owned(), width, height);
                request.timeout_ms = wait;
                request.animated = Some(wanted.animated);
                request.method = Some(if wanted.crop { Method::Crop } else { Method::Scale });
                house.call_open(server, request, limits).await
            }
        }?;
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
            body,
        })
    }
}
