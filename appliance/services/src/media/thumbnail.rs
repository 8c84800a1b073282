//! `GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}` ([spec]): smaller pictures of
//! pictures.
//!
//! A rendering is made once, in one of a few sizes, with the orientation of its EXIF baked in and
//! nothing of its metadata, and kept sealed beside its blob: it lives and dies with it. What is not one
//! of four image formats, judged by its bytes, has none.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#thumbnails

use std::io::Cursor;

use appliance_ledger::SecretKey;
use appliance_ledger::blobs::BlobName;
use appliance_model::{Caller, Error, Kind};
use appliance_rules::policy::{Action, Form, Obligations, watermark};
use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use tokio::sync::OwnedSemaphorePermit;

use super::animate::animated;
use super::renderings::Rendering;
use super::serve::{Found, Reader};
use super::{Media, no_such_media, stamp};

/// Decoding takes up to about 200 MB and a core for a second: more at once would let a few people
/// fill the memory.
pub(super) const RENDERINGS_AT_ONCE_MAX: usize = 2;
/// A larger original is not read into memory for a thumbnail.
const SOURCE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// An image with a longer side is refused whatever its number of pixels.
const SIDE_PIXELS_MAX: u32 = 32_768;
/// What a decoder may hold for one pixel: eight bytes (16 bits, four channels), and its own tables.
const DECODED_BYTES_PER_PIXEL: u64 = 8;
const DECODER_BYTES: u64 = 16 * 1024 * 1024;
/// No rendering is larger.
pub(super) const RENDERING_BYTES_MAX: u64 = 16 * 1024 * 1024;
const JPEG_QUALITY: u8 = 80;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Fill the size and cut off what stands over, instead of fitting into it.
    pub crop: bool,
    /// Moving, if the original moves.
    pub animated: bool,
}

impl Wanted {
    fn at_most(self, width: u32, height: u32) -> Self {
        Self { width: self.width.min(width), height: self.height.min(height), ..self }
    }
}

/// What the picture says that stands for one that a device does not get.
const PLACEHOLDER: &[&str] = &[
    "Clinical photo",
    "",
    "Not shown on this device.",
    "Open it on a device",
    "of your hospital.",
];

fn named(bytes: Bytes, is_ephemeral: bool) -> Thumbnail {
    let (content_type, extension) = match &bytes[..] {
        [b'\x89', b'P', b'N', b'G', ..] => ("image/png", "png"),
        [b'G', b'I', b'F', b'8', ..] => ("image/gif", "gif"),
        _ => ("image/jpeg", "jpg"),
    };
    Thumbnail { bytes, content_type, extension, is_ephemeral }
}

/// A rendering.
#[derive(Clone, Debug)]
pub struct Thumbnail {
    /// The picture.
    pub bytes: Bytes,
    /// `image/jpeg` or `image/png`, `image/gif` if it moves.
    pub content_type: &'static str,
    /// `jpg`, `png` or `gif`.
    pub extension: &'static str,
    /// To be passed on and not kept.
    pub is_ephemeral: bool,
}

/// A size that is made. "The server … SHOULD produce thumbnails with the following dimensions and
/// methods: 32x32 crop, 96x96 crop, 320x240 scale, 640x480 scale, 800x600 scale"; the others are for
/// the screens of today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub label: &'static str,
    /// What it is called where it moves; none: it is too large to move.
    pub moving: Option<&'static str>,
    pub width: u32,
    pub height: u32,
    pub crop: bool,
}

pub(super) const SIZES: [Size; 9] = [
    Size { label: "32x32c", moving: Some("32x32cm"), width: 32, height: 32, crop: true },
    Size { label: "96x96c", moving: Some("96x96cm"), width: 96, height: 96, crop: true },
    Size { label: "256x256c", moving: Some("256x256cm"), width: 256, height: 256, crop: true },
    Size { label: "512x512c", moving: Some("512x512cm"), width: 512, height: 512, crop: true },
    Size { label: "320x240s", moving: Some("320x240sm"), width: 320, height: 240, crop: false },
    Size { label: "640x480s", moving: Some("640x480sm"), width: 640, height: 480, crop: false },
    Size { label: "800x600s", moving: Some("800x600sm"), width: 800, height: 600, crop: false },
    Size { label: "1600x1200s", moving: None, width: 1_600, height: 1_200, crop: false },
    Size { label: "3200x2400s", moving: None, width: 3_200, height: 2_400, crop: false },
];

/// The labels of all renderings a blob can have.
pub(super) fn labels() -> Vec<&'static str> {
    SIZES.iter().flat_map(|size| [Some(size.label), size.moving]).flatten().collect()
}

/// "Servers MUST NOT return a smaller thumbnail than requested": the first size that is as large, else
/// the largest there is, which bounds the work.
fn size_for(wanted: Wanted) -> Size {
    let Wanted { width, height, crop, .. } = wanted;
    // Only squares are kept cropped: the number of renderings of a file must stay small.
    let square = crop && width == height;
    let covers = |size: &&Size| size.crop == square && size.width >= width && size.height >= height;
    SIZES
        .iter()
        .find(covers)
        .or_else(|| {
            SIZES.iter().find(|size| !size.crop && size.width >= width && size.height >= height)
        })
        .copied()
        .unwrap_or(SIZES[SIZES.len() - 1])
}

impl Media {
    /// A thumbnail, at least as large as asked where the original allows, never larger than the
    /// original.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: the deadline has come meanwhile.
    /// * [`Kind::CannotThumbnail`]: it is no JPEG, PNG, GIF or WebP, or a broken one; encrypted files
    ///   are none.
    /// * [`Kind::TooLarge`]: more bytes or pixels than are decoded.
    /// * [`Kind::InvalidParam`]: a size of zero.
    pub async fn thumbnail(
        &self,
        reader: impl Into<Reader<'_>>,
        found: &Found,
        wanted: Wanted,
    ) -> Result<Thumbnail, Error> {
        if wanted.width == 0 || wanted.height == 0 {
            return Err(Error::invalid_param("A thumbnail has at least one pixel."));
        }
        let reader = reader.into();
        let obligations = self.govern(reader, found.living(), Action::Thumbnail).await?;
        self.picture(reader, found, wanted, obligations).await
    }

    /// `POST /look/{serverName}/{mediaId}` of the photo page: one look, with the reader's name in it.
    ///
    /// # Errors
    ///
    /// As [`Media::thumbnail`], and [`Kind::Forbidden`] if it was opened as often as it may be.
    pub async fn look(&self, caller: &Caller, found: &Found) -> Result<Thumbnail, Error> {
        let obligations = self.govern(caller.into(), found.living(), Action::View).await?;
        let whole = Wanted { width: 1_600, height: 1_200, crop: false, animated: false };
        self.picture(caller.into(), found, whole, obligations).await
    }

    /// The picture that a judgement obliges to.
    pub(super) async fn picture(
        &self,
        reader: Reader<'_>,
        found: &Found,
        wanted: Wanted,
        obligations: Obligations,
    ) -> Result<Thumbnail, Error> {
        if obligations.form == Form::Placeholder {
            return Ok(named(self.placeholder()?, obligations.is_ephemeral));
        }
        // What a marked picture shows of the original is bounded; in the viewer it is more.
        let is_marked = obligations.form != Form::Thumbnail;
        let wanted = match obligations.form {
            Form::MarkedView => wanted.at_most(1_600, 1_200),
            _ if is_marked => wanted.at_most(800, 600),
            _ => wanted,
        };
        let size = size_for(wanted);
        let moving = size.moving.filter(|_| wanted.animated && !is_marked);
        let mut bytes = match moving {
            Some(label) => self.rendering(found, (size, label)).await?,
            None => self.rendering(found, (size, size.label)).await?,
        };
        if is_marked {
            bytes = self.stamped(reader, bytes, obligations.watermark).await?;
        }
        // Making it took time: the deadline may have come.
        self.living(found.living().number).await?.ok_or_else(no_such_media)?;
        Ok(named(bytes, obligations.is_ephemeral))
    }

    fn placeholder(&self) -> Result<Bytes, Error> {
        let url = self.0.house.options.photo_page_url.as_deref();
        let place = url.map(|url| url.split_once("://").map_or(url, |(_, place)| place));
        match place {
            Some(place) => stamp::placeholder(&[PLACEHOLDER[0], "", "Look at it here:", place]),
            None => stamp::placeholder(PLACEHOLDER),
        }
    }

    async fn stamped(
        &self,
        reader: Reader<'_>,
        picture: Bytes,
        marks: u64,
    ) -> Result<Bytes, Error> {
        let (user, device) = match reader {
            Reader::Person(caller) => (caller.user_id.to_string(), caller.device_id.to_string()),
            Reader::Server(server) => (server.to_string(), String::new()),
            Reader::Guest(user_id) => (user_id.to_string(), String::new()),
        };
        let mut lines = Vec::new();
        for (mark, line) in [
            (watermark::USER, user),
            (watermark::TIME, stamp::moment(self.now_ms())),
            (watermark::DEVICE, device),
        ] {
            if marks & mark != 0 {
                lines.push(line);
            }
        }
        self.in_the_pool(move || stamp::mark(&picture, &lines)).await
    }

    /// A rendering, kept under its label.
    async fn rendering(
        &self,
        found: &Found,
        (size, label): (Size, &'static str),
    ) -> Result<Bytes, Error> {
        let number = found.living().number;
        let row = &found.living().row;
        let (blob, key) = self.open_key(number, row).await?.ok_or_else(no_such_media)?;
        let kept = || self.blobs().read_rendering(&blob, label, &key, RENDERING_BYTES_MAX);
        if let Some(bytes) = kept().await? {
            self.note_rendering((blob, label), &bytes).await;
            return Ok(bytes);
        }
        // One makes it, the others wait and find it. A purge waits too, and then erases it.
        let door = self.0.doors.enter(number.0).await;
        if let Some(bytes) = kept().await? {
            return Ok(bytes);
        }
        self.living(number).await?.ok_or_else(no_such_media)?;
        if row.bytes > SOURCE_BYTES_MAX {
            return Err(too_large());
        }
        let moving = label != size.label;
        let made = self.render(&blob, &key, row.bytes, (size, moving)).await?;
        let mut writer = self.blobs().begin_rendering(&blob, label, &key).await?;
        writer.write(&made).await?;
        drop(writer.finish().await?.into_named());
        drop(door);
        self.note_rendering((blob, label), &made).await;
        Ok(made)
    }

    /// Reads the original into memory and renders it in the pool.
    async fn render(
        &self,
        blob: &BlobName,
        key: &SecretKey,
        bytes: u64,
        (size, moving): (Size, bool),
    ) -> Result<Bytes, Error> {
        let pixels_max = self.options().pixels_max;
        self.on_picture((blob, key, bytes), move |source| {
            // What does not move has its still picture under the name of the moving one, too.
            if moving && let Some(made) = animated(&source, size, pixels_max)? {
                return Ok(made);
            }
            render(&source, size, pixels_max)
        })
        .await
    }

    /// Reads a picture into memory and works on it in the pool.
    pub(super) async fn on_picture<T: Send + 'static>(
        &self,
        (blob, key, bytes): (&BlobName, &SecretKey, u64),
        work: impl FnOnce(Vec<u8>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        // The place is taken before the original is read, so that few originals are in memory at once.
        let place = self.place().await?;
        let opened = self.blobs().read(blob, key, bytes, (0, bytes)).await?;
        let mut reader = opened.ok_or_else(no_such_media)?;
        let mut source = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
        while let Some(chunk) = reader.next().await? {
            source.extend_from_slice(&chunk);
            if source.len() <= chunk.len() {
                // What is no image is not read further.
                format_of(&source)?;
            }
        }
        in_the_pool(place, move || work(source)).await
    }

    /// Notes that a rendering was asked for; those that take up too much room go, the oldest first.
    async fn note_rendering(&self, rendering: Rendering, bytes: &Bytes) {
        let bytes_max = self.options().renderings_bytes_max;
        for (blob, label) in self.0.renderings.used(rendering, bytes.len() as u64, bytes_max) {
            // Nobody writes it meanwhile. Who reads it meanwhile makes it again.
            let _door = self.0.doors.enter(blob.number()).await;
            if let Err(error) = self.blobs().erase_rendering(&blob, label).await {
                tracing::warn!(kind = "media.rendering_stuck", %error, "a rendering stays");
            }
        }
    }

    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, Error> {
        let stopping = |_| Error::new(Kind::Unavailable, "The server is shutting down.");
        self.0.rendering.clone().acquire_owned().await.map_err(stopping)
    }

    /// Runs work on a picture in the pool for decoding.
    pub(super) async fn in_the_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        in_the_pool(self.place().await?, work).await
    }
}

async fn in_the_pool<T: Send + 'static>(
    place: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let work = move || {
        let _place = place;
        work()
    };
    #[expect(clippy::disallowed_methods, reason = "the pool for decoding, bounded by `rendering`")]
    let rendered = tokio::task::spawn_blocking(work).await;
    // A decoder that panics on a strange file must not take the server along.
    rendered.map_err(|_| cannot_thumbnail())?
}

pub(super) fn format_of(source: &[u8]) -> Result<ImageFormat, Error> {
    use ImageFormat::{Gif, Jpeg, Png, WebP};
    // By its bytes, not by what the uploader says.
    match image::guess_format(source) {
        Ok(format @ (Jpeg | Png | Gif | WebP)) => Ok(format),
        _ => Err(cannot_thumbnail()),
    }
}

/// What a decoder may hold.
pub(super) fn decoder_limits(pixels_max: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(SIDE_PIXELS_MAX);
    limits.max_image_height = Some(SIDE_PIXELS_MAX);
    limits.max_alloc =
        Some(pixels_max.saturating_mul(DECODED_BYTES_PER_PIXEL).saturating_add(DECODER_BYTES));
    limits
}

/// Decodes, turns upright, makes smaller, encodes.
pub(super) fn render(source: &[u8], size: Size, pixels_max: u64) -> Result<Bytes, Error> {
    encode(&upright(source, (size.width, size.height, size.crop), pixels_max)?)
}

/// A picture as it was meant to be seen, within a size, and nothing of its metadata. The first picture
/// of an animation stands for it: "When not provided, the server SHOULD NOT return an animated
/// thumbnail."
pub(super) fn upright(
    source: &[u8],
    (width, height, crop): (u32, u32, bool),
    pixels_max: u64,
) -> Result<DynamicImage, Error> {
    let format = format_of(source)?;
    let mut reader = ImageReader::with_format(Cursor::new(source), format);
    reader.limits(decoder_limits(pixels_max));
    let mut decoder = reader.into_decoder().map_err(|error| refused(&error))?;
    let (is_width, is_height) = decoder.dimensions();
    // A small file may claim to be a huge picture: it is refused before anything is unpacked.
    if u64::from(is_width) * u64::from(is_height) > pixels_max
        || decoder.total_bytes() > pixels_max.saturating_mul(DECODED_BYTES_PER_PIXEL)
    {
        return Err(too_large());
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| refused(&error))?;
    // Smaller first, so that turning costs little; a turned picture has its sides swapped.
    let turned = matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    let (box_width, box_height) = if turned { (height, width) } else { (width, height) };
    picture = shrink(picture, box_width, box_height, crop);
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// "Servers MUST NOT upscale thumbnails under any circumstance."
pub(super) fn shrink(picture: DynamicImage, width: u32, height: u32, crop: bool) -> DynamicImage {
    let (is_width, is_height) = (picture.width(), picture.height());
    if crop {
        let side = width.min(is_width).min(is_height);
        return picture.resize_to_fill(side, side, FilterType::Triangle);
    }
    if is_width <= width && is_height <= height {
        return picture;
    }
    picture.resize(width, height, FilterType::Triangle)
}

fn encode(picture: &DynamicImage) -> Result<Bytes, Error> {
    let mut out = Vec::new();
    let encoded = if picture.color().has_alpha() {
        picture.to_rgba8().write_to(&mut Cursor::new(&mut out), ImageFormat::Png)
    } else {
        picture.to_rgb8().write_with_encoder(JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY))
    };
    encoded.map_err(Error::internal)?;
    Ok(out.into())
}

fn refused(error: &image::ImageError) -> Error {
    match error {
        image::ImageError::Limits(_) => too_large(),
        _ => cannot_thumbnail(),
    }
}

fn too_large() -> Error {
    Error::too_large("The content is too large for a thumbnail.")
}

fn cannot_thumbnail() -> Error {
    Error::new(Kind::CannotThumbnail, "There can be no thumbnail of that content.")
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage, Rgba, RgbaImage};

    use super::*;
    use crate::media::tests::crc32;

    fn jpeg(width: u32, height: u32) -> Vec<u8> {
        // The left half is red, the right half blue.
        let picture = RgbImage::from_fn(width, height, |x, _| {
            if x < width / 2 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) }
        });
        let mut out = Vec::new();
        picture.write_with_encoder(JpegEncoder::new_with_quality(&mut out, 95)).unwrap();
        out
    }

    /// The same picture with an EXIF orientation, and a marker where a camera writes the place.
    fn with_exif(jpeg: &[u8], orientation: u8) -> Vec<u8> {
        let mut tiff = b"II\x2a\x00\x08\x00\x00\x00\x01\x00".to_vec();
        tiff.extend([0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0, 0, 0, 0, 0]);
        tiff.extend_from_slice(b"GPS-MARKER");
        let mut out = jpeg[..2].to_vec();
        let length = u16::try_from(2 + 6 + tiff.len()).unwrap();
        out.extend([0xff, 0xe1]);
        out.extend(length.to_be_bytes());
        out.extend_from_slice(b"Exif\0\0");
        out.extend(tiff);
        out.extend_from_slice(&jpeg[2..]);
        out
    }

    fn size(label: &str) -> Size {
        SIZES.into_iter().find(|size| size.label == label).unwrap()
    }

    fn rendered(source: &[u8], label: &str) -> DynamicImage {
        let bytes = render(source, size(label), 40_000_000).unwrap();
        image::load_from_memory(&bytes).unwrap()
    }

    #[test]
    fn a_rendering_fits_or_fills_and_never_grows() {
        let wide = jpeg(1_000, 500);
        let scaled = rendered(&wide, "320x240s");
        assert_eq!((scaled.width(), scaled.height()), (320, 160));
        let cropped = rendered(&wide, "96x96c");
        assert_eq!((cropped.width(), cropped.height()), (96, 96));
        let small = rendered(&jpeg(20, 10), "320x240s");
        assert_eq!((small.width(), small.height()), (20, 10));
        let small = rendered(&jpeg(20, 10), "96x96c");
        assert_eq!((small.width(), small.height()), (10, 10));
    }

    #[test]
    fn the_orientation_is_baked_in_and_the_metadata_is_gone() {
        let source = with_exif(&jpeg(1_000, 500), 6);
        let bytes = render(&source, size("320x240s"), 40_000_000).unwrap();
        assert!(!bytes.windows(10).any(|window| window == b"GPS-MARKER"));
        assert!(!bytes.windows(4).any(|window| window == b"Exif"));
        let upright = image::load_from_memory(&bytes).unwrap().to_rgb8();
        assert_eq!((upright.width(), upright.height()), (120, 240), "turned, within the box");
        let (top, bottom) = (upright.get_pixel(60, 20), upright.get_pixel(60, 220));
        assert!(top[0] > 200 && top[2] < 60, "what was left is on top: {top:?}");
        assert!(bottom[2] > 200 && bottom[0] < 60, "{bottom:?}");
    }

    #[test]
    fn what_is_transparent_stays_so_as_png() {
        let picture = RgbaImage::from_pixel(400, 300, Rgba([0, 0, 0, 0]));
        for format in [ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP] {
            let mut source = Vec::new();
            picture.write_to(&mut Cursor::new(&mut source), format).unwrap();
            let bytes = render(&source, size("320x240s"), 40_000_000).unwrap();
            assert!(bytes.starts_with(b"\x89PNG"), "{format:?}");
            let alpha = image::load_from_memory(&bytes).unwrap().to_rgba8().get_pixel(5, 5)[3];
            assert_eq!(alpha, 0, "{format:?}");
        }
    }

    #[test]
    fn bombs_are_refused_before_they_are_unpacked() {
        // A PNG header that claims 30,000 x 30,000 pixels.
        let mut bomb = Vec::new();
        RgbImage::new(1, 1).write_to(&mut Cursor::new(&mut bomb), ImageFormat::Png).unwrap();
        bomb[16..20].copy_from_slice(&30_000_u32.to_be_bytes());
        bomb[20..24].copy_from_slice(&30_000_u32.to_be_bytes());
        let crc = crc32(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&crc.to_be_bytes());
        let error = render(&bomb, size("32x32c"), 40_000_000).unwrap_err();
        assert_eq!(error.kind, Kind::TooLarge);
        // A real picture above the operator's limit.
        let error = render(&jpeg(200, 200), size("32x32c"), 39_999).unwrap_err();
        assert_eq!(error.kind, Kind::TooLarge);
    }

    #[test]
    fn what_is_no_picture_has_no_thumbnail() {
        let whole = jpeg(100, 100);
        let broken = &whole[..40];
        for source in [b"%PDF-1.7".as_slice(), b"", b"\xff\xd8\xff", broken, b"<svg/>"] {
            let error = render(source, size("32x32c"), 40_000_000).unwrap_err();
            assert_eq!(error.kind, Kind::CannotThumbnail, "{source:?}");
        }
    }

    #[test]
    fn the_size_is_the_next_larger_one() {
        let of =
            |width, height, crop| size_for(Wanted { width, height, crop, animated: false }).label;
        assert_eq!(of(30, 30, true), "32x32c");
        assert_eq!(of(33, 33, true), "96x96c");
        assert_eq!(of(600, 600, true), "800x600s", "no square is as large");
        assert_eq!(of(100, 50, true), "320x240s", "no square has that shape");
        assert_eq!(of(320, 240, false), "320x240s");
        assert_eq!(of(321, 100, false), "640x480s");
        assert_eq!(of(9_999, 9_999, false), "3200x2400s");
    }
}
