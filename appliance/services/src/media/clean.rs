//! A picture without what its camera wrote beside it: place, time, device, owner, thumbnails of what
//! was cut off.
//!
//! Only what is needed to show the picture stays; what is not known goes. Nothing is encoded anew, so
//! that not a pixel changes, with one exception: a JPEG, PNG or WebP that lies on its side and says so
//! only beside the picture is turned upright first.
//!
//! The walkers are our own, since this is a promise of this server's: the crates that edit such files
//! keep what stands behind the picture (a second picture with a place of its own in those of many
//! phones) and between the scans of a JPEG.

use std::io::Cursor;

use appliance_model::{Error, Kind};
use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageEncoder, ImageFormat, ImageReader};

use super::thumbnail::{decoder_limits, format_of};

/// A wound is judged by its colours: a turned JPEG is encoded finer than thumbnails are.
const JPEG_QUALITY: u8 = 95;

/// The picture alone; none if it is so already.
///
/// # Errors
///
/// [`Kind::InvalidParam`] if it is none of JPEG, PNG, WebP and GIF, or a broken one.
pub(super) fn clean(source: &Bytes, pixels_max: u64) -> Result<Option<Bytes>, Error> {
    let format = format_of(source).map_err(|_| unreadable())?;
    let turned = turned(source, format, pixels_max)?;
    let picture = match &turned {
        Turned::Anew(picture) => picture,
        Turned::Not | Turned::TooLarge(_) => &source[..],
    };
    let stripped = match format {
        ImageFormat::Jpeg => jpeg(picture).map(|picture| match turned {
            Turned::TooLarge(orientation) => lying(&picture, orientation),
            _ => picture,
        }),
        _ if matches!(turned, Turned::TooLarge(_)) => {
            return Err(Error::too_large(
                "This picture lies on its side, and has more pixels than this server turns.",
            ));
        }
        ImageFormat::Png => png(picture),
        ImageFormat::WebP => webp(picture),
        _ => gif(picture),
    };
    let stripped = stripped.ok_or_else(unreadable)?;
    Ok((source[..] != stripped[..]).then(|| Bytes::from(stripped)))
}

pub(super) fn unreadable() -> Error {
    Error::new(
        Kind::InvalidParam,
        "This picture cannot be read, so that what the camera wrote beside it (place, time, device) \
         cannot be taken out. Send it as JPEG, PNG, WebP or GIF.",
    )
}

/// What became of a picture that may lie on its side.
enum Turned {
    /// It is upright.
    Not,
    /// Encoded anew, upright.
    Anew(Vec<u8>),
    /// More pixels than are decoded: it lies so.
    TooLarge(Orientation),
}

fn turned(source: &[u8], format: ImageFormat, pixels_max: u64) -> Result<Turned, Error> {
    if format == ImageFormat::Gif {
        return Ok(Turned::Not);
    }
    let mut reader = ImageReader::with_format(Cursor::new(source), format);
    reader.limits(decoder_limits(pixels_max));
    let mut decoder = reader.into_decoder().map_err(|_| unreadable())?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    if orientation == Orientation::NoTransforms {
        return Ok(Turned::Not);
    }
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > pixels_max {
        return Ok(Turned::TooLarge(orientation));
    }
    // The colours of a camera are its own: without the profile they would be others.
    let profile = decoder.icc_profile().ok().flatten();
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|_| unreadable())?;
    picture.apply_orientation(orientation);
    encode(&picture, format, profile).map(Turned::Anew)
}

/// A JPEG that says beside the picture how to hold it, and nothing else.
fn lying(jpeg: &[u8], orientation: Orientation) -> Vec<u8> {
    // APP1, 34 bytes, a TIFF with one entry: tag 0x0112, one SHORT.
    let head = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0";
    let (start, rest) = jpeg.split_at(2);
    [start, head, &[orientation.to_exif()], &[0; 6], rest].concat()
}

fn encode(
    picture: &DynamicImage,
    format: ImageFormat,
    profile: Option<Vec<u8>>,
) -> Result<Vec<u8>, Error> {
    fn write(
        picture: &DynamicImage,
        mut encoder: impl ImageEncoder,
        profile: Option<Vec<u8>>,
    ) -> Result<(), Error> {
        if let Some(profile) = profile {
            encoder.set_icc_profile(profile).map_err(Error::internal)?;
        }
        picture.write_with_encoder(encoder).map_err(Error::internal)
    }
    let mut out = Vec::new();
    match format {
        ImageFormat::Jpeg => {
            let encoder = JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY);
            write(&eight_bits(picture, false), encoder, profile)?;
        }
        ImageFormat::Png => write(picture, PngEncoder::new(&mut out), profile)?,
        _ => write(&eight_bits(picture, true), WebPEncoder::new_lossless(&mut out), profile)?,
    }
    Ok(out)
}

/// What every encoder takes. Grey stays grey.
fn eight_bits(picture: &DynamicImage, keep_alpha: bool) -> DynamicImage {
    match picture {
        DynamicImage::ImageLuma8(_) | DynamicImage::ImageRgb8(_) => picture.clone(),
        _ if keep_alpha && picture.color().has_alpha() => picture.to_rgba8().into(),
        _ => picture.to_rgb8().into(),
    }
}

/// JPEG (ITU-T T.81, annex B): the segments that a decoder needs, of the first picture.
fn jpeg(source: &[u8]) -> Option<Vec<u8>> {
    const SOI: u8 = 0xd8;
    const EOI: u8 = 0xd9;
    const SOS: u8 = 0xda;
    let mut out = Vec::with_capacity(source.len());
    let mut rest = source.strip_prefix(&[0xff, SOI])?;
    out.extend([0xff, SOI]);
    loop {
        rest = rest.strip_prefix(&[0xff])?;
        // "Any marker may optionally be preceded by any number of fill bytes."
        let filled = rest.iter().take_while(|byte| **byte == 0xff).count();
        let (marker, behind) = rest[filled..].split_first()?;
        if *marker == EOI {
            out.extend([0xff, EOI]);
            return Some(out);
        }
        let length = usize::from(u16::from_be_bytes(*behind.first_chunk()?));
        let (segment, behind) = behind.split_at_checked(length).filter(|_| length >= 2)?;
        if let Some(kept) = kept_of_jpeg(*marker, &segment[2..]) {
            out.extend([0xff, *marker]);
            out.extend(u16::try_from(kept.len() + 2).ok()?.to_be_bytes());
            out.extend_from_slice(&kept);
        }
        rest = behind;
        if *marker == SOS {
            let end = scan_bytes(rest);
            out.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
            if rest.is_empty() {
                // It breaks off: what there is can be shown.
                out.extend([0xff, EOI]);
                return Some(out);
            }
        }
    }
}

/// What a decoder needs of a segment: tables, frames and scans, the profile of colours, and in which
/// way they are stored.
fn kept_of_jpeg(marker: u8, payload: &[u8]) -> Option<std::borrow::Cow<'_, [u8]>> {
    /// Version, unit, density.
    const JFIF_BYTES: usize = 12;
    match marker {
        0xc0..=0xcf | 0xda..=0xdf => Some(payload.into()),
        0xe0 if payload.starts_with(b"JFIF\0") => {
            // Without the thumbnail: it may show what was cut off.
            let head = payload.get(..JFIF_BYTES)?;
            Some([head, &[0, 0]].concat().into())
        }
        0xe2 if payload.starts_with(b"ICC_PROFILE\0") => Some(payload.into()),
        0xee if payload.starts_with(b"Adobe") => Some(payload.into()),
        _ => None,
    }
}

/// The bytes of a scan: up to the next marker that is no part of it.
fn scan_bytes(scan: &[u8]) -> usize {
    // "FF00" stands for a byte FF, D0 to D7 restart.
    let is_part = |next: u8| next == 0 || (0xd0..=0xd7).contains(&next);
    scan.windows(2)
        .position(|pair| pair[0] == 0xff && pair[1] != 0xff && !is_part(pair[1]))
        .unwrap_or(scan.len())
}

/// PNG: the chunks that a decoder needs, up to the end.
fn png(source: &[u8]) -> Option<Vec<u8>> {
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
    const NEEDED: &[&[u8; 4]] = &[
        b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB",
        b"cICP", b"mDCV", b"cLLI", b"bKGD", b"hIST", b"pHYs", b"acTL", b"fcTL", b"fdAT",
    ];
    let mut out = Vec::with_capacity(source.len());
    let mut rest = source.strip_prefix(SIGNATURE)?;
    out.extend_from_slice(SIGNATURE);
    loop {
        let length = usize::try_from(u32::from_be_bytes(*rest.first_chunk()?)).ok()?;
        // Length, type, content, check sum.
        let (chunk, behind) = rest.split_at_checked(length.checked_add(12)?)?;
        let kind: &[u8; 4] = chunk[4..].first_chunk()?;
        if NEEDED.contains(&kind) {
            out.extend_from_slice(chunk);
        }
        if kind == b"IEND" {
            return Some(out);
        }
        rest = behind;
    }
}

/// WebP: a RIFF of the chunks that a decoder needs.
fn webp(source: &[u8]) -> Option<Vec<u8>> {
    let length = usize::try_from(u32::from_le_bytes(*source.strip_prefix(b"RIFF")?.first_chunk()?));
    let body = source.get(8..)?.get(..length.ok()?)?.strip_prefix(b"WEBP")?;
    let chunks = webp_chunks(body, true)?;
    let length = u32::try_from(chunks.len() + 4).ok()?;
    Some([b"RIFF", &length.to_le_bytes()[..], b"WEBP", &chunks].concat())
}

fn webp_chunks(mut rest: &[u8], is_outermost: bool) -> Option<Vec<u8>> {
    /// The flags of `VP8X` that promise EXIF and XMP data.
    const PROMISES: u8 = 0b0000_1100;
    /// Place, size and duration of a frame; its chunks follow.
    const FRAME_BYTES: usize = 16;
    let mut out = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let kind: &[u8; 4] = rest.first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*rest.get(4..)?.first_chunk()?)).ok()?;
        let content = rest.get(8..)?.get(..length)?;
        let content = match kind {
            b"VP8X" if is_outermost => {
                let (flags, others) = content.split_first()?;
                [&[flags & !PROMISES], others].concat()
            }
            b"ANMF" if is_outermost => {
                let (frame, chunks) = content.split_at_checked(FRAME_BYTES)?;
                [frame, &webp_chunks(chunks, false)?].concat()
            }
            b"VP8 " | b"VP8L" | b"ALPH" => content.to_vec(),
            b"ANIM" | b"ICCP" if is_outermost => content.to_vec(),
            _ => Vec::new(),
        };
        if !content.is_empty() {
            out.extend_from_slice(kind);
            out.extend(u32::try_from(content.len()).ok()?.to_le_bytes());
            out.extend_from_slice(&content);
            out.resize(out.len().next_multiple_of(2), 0);
        }
        // "If Chunk Size is odd, a single padding byte" follows; not every writer adds the last one.
        rest = rest.get(8 + length.checked_next_multiple_of(2)?..).unwrap_or_default();
    }
    Some(out)
}

/// GIF: pictures, their timing, and how often they repeat.
fn gif(source: &[u8]) -> Option<Vec<u8>> {
    const TRAILER: u8 = 0x3b;
    let table_bytes = |flags: u8| match flags & 0x80 {
        0 => 0,
        _ => 3 << (1 + (flags & 7)),
    };
    if !source.starts_with(b"GIF8") {
        return None;
    }
    let head = 13_usize.checked_add(table_bytes(*source.get(10)?))?;
    let mut out = source.get(..head)?.to_vec();
    let mut rest = &source[head..];
    loop {
        let (kind, fixed) = match *rest {
            [TRAILER, ..] => {
                out.push(TRAILER);
                return Some(out);
            }
            // An extension: its kind, then blocks.
            [0x21, kind, ..] => (Some(kind), 2),
            // A picture: place, size, its own table, the size of its codes, then blocks.
            [0x2c, _, _, _, _, _, _, _, _, flags, ..] => (None, 11 + table_bytes(flags)),
            _ => return None,
        };
        let blocks = rest.get(fixed..)?;
        let (block, behind) = rest.split_at(fixed + blocks_bytes(blocks)?);
        let is_needed = match kind {
            None | Some(0xf9) => true,
            Some(0xff) => {
                blocks.starts_with(b"\x0bNETSCAPE2.0\x03")
                    || blocks.starts_with(b"\x0bANIMEXTS1.0\x03")
            }
            Some(_) => false,
        };
        if is_needed {
            out.extend_from_slice(block);
        }
        rest = behind;
    }
}

/// Blocks, each after its length, up to the empty one.
fn blocks_bytes(blocks: &[u8]) -> Option<usize> {
    let mut at = 0_usize;
    loop {
        let length = usize::from(*blocks.get(at)?);
        at = at + 1 + length;
        if length == 0 {
            return (at <= blocks.len()).then_some(at);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::media::tests::crc32;

    const MARKER: &[u8] = b"GPS-MARKER-51.5074";
    const PIXELS_MAX: u64 = 40_000_000;

    /// The left half is red, the right half blue.
    pub fn picture(width: u32, height: u32) -> DynamicImage {
        let color = |x| if x < width / 2 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) };
        RgbImage::from_fn(width, height, |x, _| color(x)).into()
    }

    pub fn encoded(format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        picture(80, 40).write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    /// What a camera writes: a way to hold the picture, a place, a second picture behind it.
    fn tiff(orientation: u8) -> Vec<u8> {
        let mut tiff = b"II\x2a\x00\x08\x00\x00\x00\x01\x00".to_vec();
        tiff.extend([0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0, 0, 0, 0, 0]);
        tiff.extend_from_slice(MARKER);
        tiff
    }

    pub fn jpeg_with_place(orientation: u8) -> Vec<u8> {
        let segment = |marker: u8, payload: &[u8]| {
            let length = u16::try_from(payload.len() + 2).unwrap().to_be_bytes();
            [&[0xff, marker], &length[..], payload].concat()
        };
        let exif = segment(0xe1, &[b"Exif\0\0", &tiff(orientation)[..]].concat());
        let xmp = segment(0xe1, &[b"http://ns.adobe.com/xap/1.0/\0", MARKER].concat());
        let iptc = segment(0xed, &[b"Photoshop 3.0\0", MARKER].concat());
        let comment = segment(0xfe, MARKER);
        let plain = encoded(ImageFormat::Jpeg);
        let whole = [&plain[..2], &exif, &xmp, &iptc, &comment, &plain[2..]].concat();
        // As phones do that keep a film or a second lens behind the picture.
        [&whole[..], b"\xff\xd8", MARKER, b"\xff\xd9"].concat()
    }

    fn png_with_place() -> Vec<u8> {
        let plain = encoded(ImageFormat::Png);
        let chunk = |kind: &[u8; 4], content: &[u8]| {
            let length = u32::try_from(content.len()).unwrap().to_be_bytes();
            // Nobody reads the check sum of what is dropped, but the decoder does before.
            let crc = crc32(&[kind, content].concat()).to_be_bytes();
            [&length[..], kind, content, &crc].concat()
        };
        let text = chunk(b"tEXt", &[b"Location\0", MARKER].concat());
        let exif = chunk(b"eXIf", &tiff(1));
        [&plain[..33], &text, &exif, &plain[33..], MARKER].concat()
    }

    fn webp_with_place() -> Vec<u8> {
        let plain = encoded(ImageFormat::WebP);
        let chunk = |kind: &[u8; 4], content: &[u8]| {
            let length = u32::try_from(content.len()).unwrap().to_le_bytes();
            let pad = vec![0; content.len() % 2];
            [kind, &length[..], content, &pad].concat()
        };
        // 80 x 40, with EXIF and XMP.
        let head = chunk(b"VP8X", &[0b0000_1100, 0, 0, 0, 79, 0, 0, 39, 0, 0]);
        let (exif, xmp) = (chunk(b"EXIF", &tiff(1)), chunk(b"XMP ", MARKER));
        let chunks = [&head, &plain[12..], &exif, &xmp].concat();
        let length = u32::try_from(chunks.len() + 4).unwrap().to_le_bytes();
        [b"RIFF", &length[..], b"WEBP", &chunks, MARKER].concat()
    }

    fn gif_with_place() -> Vec<u8> {
        let plain = encoded(ImageFormat::Gif);
        let table = 13 + if plain[10] & 0x80 == 0 { 0 } else { 3 << (1 + (plain[10] & 7)) };
        let length = [u8::try_from(MARKER.len()).unwrap()];
        let comment = [b"\x21\xfe", &length[..], MARKER, b"\0"].concat();
        let xmp = [b"\x21\xff\x0bXMP DataXMP", &length[..], MARKER, b"\0"].concat();
        [&plain[..table], &comment, &xmp, &plain[table..], MARKER].concat()
    }

    pub fn has_marker(bytes: &[u8]) -> bool {
        bytes.windows(10).any(|part| part == &MARKER[..10])
    }

    #[test]
    fn the_place_is_gone_and_not_a_pixel_has_changed() {
        for source in [jpeg_with_place(1), png_with_place(), webp_with_place(), gif_with_place()] {
            assert!(has_marker(&source));
            let cleaned = clean(&source.clone().into(), PIXELS_MAX).unwrap().unwrap();
            assert!(!has_marker(&cleaned) && !cleaned.windows(4).any(|part| part == b"Exif"));
            let (was, is) = (image::load_from_memory(&source), image::load_from_memory(&cleaned));
            assert_eq!(was.unwrap(), is.unwrap());
            assert_eq!(clean(&cleaned, PIXELS_MAX).unwrap(), None, "once is enough");
        }
    }

    #[test]
    fn what_holds_nothing_stays_byte_by_byte() {
        use ImageFormat::{Gif, Jpeg, Png, WebP};
        for format in [Jpeg, Png, WebP, Gif] {
            assert_eq!(clean(&encoded(format).into(), PIXELS_MAX).unwrap(), None, "{format:?}");
        }
    }

    #[test]
    fn what_lies_on_its_side_is_turned_upright() {
        let cleaned = clean(&jpeg_with_place(6).into(), PIXELS_MAX).unwrap().unwrap();
        assert!(!has_marker(&cleaned));
        let upright = image::load_from_memory(&cleaned).unwrap().to_rgb8();
        assert_eq!((upright.width(), upright.height()), (40, 80));
        let (top, bottom) = (upright.get_pixel(20, 10), upright.get_pixel(20, 70));
        assert!(top[0] > 200 && bottom[2] > 200, "what was left is on top: {top:?} {bottom:?}");
        let large = clean(&jpeg_with_place(6).into(), 3_199).unwrap().unwrap();
        assert!(!has_marker(&large));
        let mut decoder = ImageReader::with_format(Cursor::new(&large), ImageFormat::Jpeg);
        decoder.no_limits();
        let mut decoder = decoder.into_decoder().unwrap();
        assert_eq!(decoder.orientation().unwrap(), Orientation::Rotate90, "apps turn it");
        assert_eq!(clean(&large, 3_199).unwrap(), None);
    }

    #[test]
    fn what_breaks_off_is_refused_and_never_passed_on_with_its_place() {
        for source in [jpeg_with_place(1), png_with_place(), webp_with_place(), gif_with_place()] {
            for end in 0..source.len() {
                let part = Bytes::copy_from_slice(&source[..end]);
                if let Ok(cleaned) = clean(&part, PIXELS_MAX) {
                    assert!(!has_marker(&cleaned.unwrap_or(part)), "{end}");
                }
            }
        }
        assert_eq!(clean(&Bytes::from_static(b"%PDF"), 1).unwrap_err().kind, Kind::InvalidParam);
    }
}
