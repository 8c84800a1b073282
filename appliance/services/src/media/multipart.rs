//! `multipart/mixed` as servers send files to each other ([spec]): metadata first, then the file, which
//! is passed on while it comes.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediadownloadmediaid

use appliance_model::{Error, Kind};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::egress::{Failure, Pieces};

/// "Boundary delimiters must be no longer than 70 characters" (RFC 2046).
const BOUNDARY_BYTES_MAX: usize = 70;

/// Headers and metadata.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A body in parts.
pub(super) struct Multipart {
    body: Pieces,
    buffer: BytesMut,
    /// What ends a part: line break, two dashes, boundary.
    delimiter: Vec<u8>,
}

/// The part with the file.
pub(super) struct FilePart {
    pub headers: HeaderMap,
    pub body: Pieces,
}

fn malformed() -> Error {
    Error::new(Kind::RemoteUnavailable, "The other server's answer has the wrong form.")
}

impl Multipart {
    /// Of an answer with this `Content-Type`.
    ///
    /// # Errors
    ///
    /// [`Kind::RemoteUnavailable`] if it is not in parts.
    pub fn new(content_type: &str, body: Pieces) -> Result<Self, Error> {
        let (essence, parameters) = content_type.split_once(';').ok_or_else(malformed)?;
        if !essence.trim().eq_ignore_ascii_case("multipart/mixed") {
            return Err(malformed());
        }
        let boundary = parameters.split(';').find_map(|parameter| {
            let (name, value) = parameter.trim().split_once('=')?;
            name.eq_ignore_ascii_case("boundary").then(|| value.trim_matches('"'))
        });
        let fits = |boundary: &&str| (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len());
        let boundary = boundary.filter(fits).ok_or_else(malformed)?;
        // The first delimiter may stand at the very beginning.
        let buffer = BytesMut::from(b"\r\n".as_slice());
        Ok(Self { body, buffer, delimiter: format!("\r\n--{boundary}").into_bytes() })
    }

    /// Reads up to the second part, which is the file.
    ///
    /// # Errors
    ///
    /// [`Kind::RemoteUnavailable`] if there is none.
    pub async fn file(mut self) -> Result<FilePart, Error> {
        let delimiter = self.delimiter.clone();
        // The preamble, the headers of the metadata, the metadata.
        self.skip_to(&delimiter).await?;
        self.skip_to(b"\r\n\r\n").await?;
        self.buffer = join(b"\r\n", &self.buffer);
        self.skip_to(&delimiter).await?;
        let head = self.skip_to(b"\r\n\r\n").await?;
        self.buffer = join(b"\r\n", &self.buffer);
        let headers = headers(&head);
        let rest = Rest { multipart: self, is_first: true };
        let body = stream::try_unfold(Some(rest), |rest| async move {
            let Some(mut rest) = rest else { return Ok(None) };
            Ok(rest.next().await?.map(|(piece, is_last)| (piece, (!is_last).then_some(rest))))
        });
        Ok(FilePart { headers, body: Box::pin(body) })
    }

    /// Returns what comes before `mark`, and goes to behind it.
    async fn skip_to(&mut self, mark: &[u8]) -> Result<Bytes, Error> {
        let mut searched = 0;
        loop {
            if let Some(at) = find_from(&self.buffer, mark, searched) {
                let before = self.buffer.split_to(at + mark.len());
                return Ok(before.freeze().slice(..at));
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(malformed());
            }
            searched = self.buffer.len();
            let more = self.body.next().await.ok_or_else(malformed)?;
            self.buffer.extend_from_slice(&more?);
        }
    }
}

/// The file, behind the line break that was put before it: so an empty one is found too.
struct Rest {
    multipart: Multipart,
    is_first: bool,
}

impl Rest {
    /// The next bytes, and whether they are the last.
    async fn next(&mut self) -> Result<Option<(Bytes, bool)>, Failure> {
        let Multipart { body, buffer, delimiter } = &mut self.multipart;
        loop {
            if let Some(at) = find(buffer, delimiter) {
                let piece = buffer.split_to(at).freeze();
                return Ok(Some((self.without_break(piece), true)));
            }
            // The delimiter may have begun.
            if buffer.len() > delimiter.len() + 2 {
                let piece = buffer.split_to(buffer.len() - delimiter.len()).freeze();
                return Ok(Some((self.without_break(piece), false)));
            }
            let broken = || Failure::Unreachable("the file broke off".to_owned());
            let more = body.next().await.ok_or_else(broken)??;
            buffer.extend_from_slice(&more);
        }
    }

    fn without_break(&mut self, piece: Bytes) -> Bytes {
        if std::mem::take(&mut self.is_first) { piece.slice(2.min(piece.len())..) } else { piece }
    }
}

fn join(before: &[u8], after: &[u8]) -> BytesMut {
    let mut joined = BytesMut::with_capacity(before.len() + after.len());
    joined.extend_from_slice(before);
    joined.extend_from_slice(after);
    joined
}

fn find(text: &[u8], mark: &[u8]) -> Option<usize> {
    text.windows(mark.len()).position(|window| window == mark)
}

/// The same where it is known not to lie whole in the first `searched` bytes: a head that comes byte by
/// byte must not be searched from its beginning each time.
fn find_from(text: &[u8], mark: &[u8], searched: usize) -> Option<usize> {
    let start = (searched + 1).saturating_sub(mark.len());
    Some(start + find(text.get(start..)?, mark)?)
}

/// Lines of a head; those that are no headers are passed over.
fn headers(head: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text`, which comes in pieces of `size` bytes.
    async fn read(text: &[u8], size: usize) -> Result<(HeaderMap, Vec<u8>), String> {
        let pieces: Vec<_> =
            text.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let body = Box::pin(stream::iter(pieces));
        let multipart = Multipart::new("multipart/mixed; boundary=\"b1\"", body);
        let part = multipart.map_err(|error| error.to_string())?.file().await;
        let FilePart { headers, mut body } = part.map_err(|error| error.to_string())?;
        let mut file = Vec::new();
        while let Some(piece) = body.next().await {
            file.extend_from_slice(&piece.map_err(|error| error.to_string())?);
        }
        Ok((headers, file))
    }

    #[tokio::test]
    async fn a_file_is_found_however_it_is_cut() {
        let file = b"\r\n--b\r\nphoto\r\n\r\n-";
        for (before, meta) in
            [("", "Content-Type: application/json\r\n\r\n{}"), ("x\r\n", "\r\n{}"), ("", "\r\n")]
        {
            let mut text =
                format!("{before}--b1\r\n{meta}\r\n--b1\r\nContent-Type: image/png\r\n\r\n")
                    .into_bytes();
            text.extend_from_slice(file);
            text.extend_from_slice(b"\r\n--b1--\r\n");
            for size in 1..=text.len() {
                let (headers, found) = read(&text, size).await.unwrap();
                assert_eq!(found, file, "{before} {meta} {size}");
                assert_eq!(headers["content-type"], "image/png");
            }
        }
        let empty = b"--b1\r\n\r\n{}\r\n--b1\r\n\r\n\r\n--b1--";
        assert_eq!(read(empty, 3).await.unwrap().1, b"");
    }

    #[tokio::test]
    async fn what_is_no_file_is_none() {
        let cut = b"--b1\r\n\r\n{}\r\n--b1\r\n\r\nhalf a photo";
        assert!(read(cut, 5).await.is_err());
        assert!(read(b"nothing of that", 5).await.is_err());
        assert!(read(&[b'x'; HEAD_BYTES_MAX + 2], 1_000).await.is_err());
        for content_type in ["", "image/png", "multipart/mixed", "multipart/mixed; boundary="] {
            assert!(Multipart::new(content_type, Box::pin(stream::empty())).is_err());
        }
    }
}
