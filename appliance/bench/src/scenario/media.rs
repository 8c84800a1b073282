//! Photos: up, down, and as a small picture.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::Method;
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::clock::{self, Stopwatch};
use crate::measure::{Operation, Row};
use crate::scenario::Sizes;
use crate::server::Server;
use crate::site::text;

const WIDTH: u32 = 1920;
const HEIGHT: u32 = 1280;
const QUALITY: u8 = 88;

pub(super) async fn measure(server: &Server, sizes: &Sizes) -> Result<Vec<Row>> {
    let site = &server.site;
    let user = &site.users(1).await?[0];
    let connection = site.connection();
    let first = clock::run_number();
    let photos: Vec<Bytes> =
        (0..sizes.photos as u64).map(|number| photo(first + number)).collect::<Result<_>>()?;
    let megabytes = photos.iter().map(Bytes::len).sum::<usize>() as f64 / 1e6;
    let note = format!("{:.1} MB each", megabytes / photos.len() as f64);

    let meter = site.meter();
    let mut operations = Vec::new();
    let mut names = Vec::new();
    for photo in &photos {
        let start = Stopwatch::start();
        let path = "/_matrix/media/v3/upload?filename=photo.jpg";
        let sent =
            connection.request(Method::POST, path, &user.token, "image/jpeg", photo.clone()).await;
        operations.push(Operation::ended(start, &sent));
        let uri = text(&sent?.check()?.json(), "content_uri")?;
        names.push(uri.strip_prefix("mxc://").context("not an mxc:// URI")?.to_owned());
    }
    let upload = meter.row("media", "media upload", &operations).noted(note);

    let meter = site.meter();
    let mut operations = Vec::new();
    for (name, photo) in names.iter().zip(&photos) {
        let start = Stopwatch::start();
        let path = format!("/_matrix/client/v1/media/download/{name}");
        let got = connection.get(&path, &user.token).await;
        operations.push(Operation::ended(start, &got));
        ensure!(got?.body == *photo, "a photo came back different");
    }
    let download = meter.row("media", "media download", &operations);

    let meter = site.meter();
    let mut operations = Vec::new();
    for name in &names {
        let start = Stopwatch::start();
        let size = "width=320&height=240&method=scale";
        let path = format!("/_matrix/client/v1/media/thumbnail/{name}?{size}");
        let got = connection.get(&path, &user.token).await;
        operations.push(Operation::ended(start, &got));
    }
    let thumbnail = meter.row("media", "media thumbnail", &operations);
    Ok(vec![upload, download, thumbnail])
}

/// A JPEG of a ward's camera size: noise, because noise does not compress away.
pub(super) fn photo(seed: u64) -> Result<Bytes> {
    let mut state = seed | 1;
    let noise = |at: u32| {
        // xorshift64: any noise will do, as long as each photo has its own.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (at / 977).to_le_bytes()[0].wrapping_add(state.to_le_bytes()[3] >> 2)
    };
    let pixels: Vec<u8> = (0..WIDTH * HEIGHT * 3).map(noise).collect();
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY).write_image(
        &pixels,
        WIDTH,
        HEIGHT,
        ExtendedColorType::Rgb8,
    )?;
    Ok(jpeg.into())
}
