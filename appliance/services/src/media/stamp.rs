//! Pictures that this server makes: thumbnails with the reader's name in them, and the picture that
//! stands for one that a device does not get.

use std::io::Cursor;

use appliance_model::Error;
use bytes::Bytes;
use font8x8::UnicodeFonts;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use time::OffsetDateTime;

/// A letter of the font, in pixels.
const LETTER_PIXELS: u32 = 8;
/// Of the picture's width, a line of text takes this part at least.
const LETTERS_PER_LINE: u32 = 44;
const JPEG_QUALITY: u8 = 80;
/// What is written for a letter that the font does not have.
const UNKNOWN: char = '?';
/// Longer names are cut: a user ID has up to 255 bytes.
const TEXT_LETTERS_MAX: usize = 96;

/// Writes `lines` all over a picture, so that no part of it can be cut out without them.
pub(super) fn mark(picture: &[u8], lines: &[String]) -> Result<Bytes, Error> {
    let decoded = image::load_from_memory(picture).map_err(Error::internal)?;
    let mut canvas = on_white(decoded);
    let lines: Vec<String> = lines.iter().map(|line| cut(line)).collect();
    let scale = (canvas.width() / (LETTERS_PER_LINE * LETTER_PIXELS)).max(1);
    let line_pixels = LETTER_PIXELS * scale + scale * 2;
    let block_pixels = line_pixels * u32::try_from(lines.len()).unwrap_or(1).max(1);
    // Every third block's height; at least once, at the top.
    let step = (block_pixels * 3).max(1);
    let mut top = scale;
    let mut row = 0;
    loop {
        for (index, line) in lines.iter().enumerate() {
            let y = top + line_pixels * u32::try_from(index).unwrap_or_default();
            repeat(&mut canvas, line, (row % 2) * LETTER_PIXELS * 3 * scale, y, scale);
        }
        top += step;
        row += 1;
        if top >= canvas.height() {
            break;
        }
    }
    let mut out = Vec::new();
    canvas
        .write_with_encoder(JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY))
        .map_err(Error::internal)?;
    Ok(out.into())
}

/// A marked picture is a JPEG, which knows no transparency.
pub(super) fn on_white(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.to_rgb8();
    }
    let rgba = picture.to_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [red, green, blue, alpha] = rgba.get_pixel(x, y).0;
        Rgb([red, green, blue].map(|part| mix(part, 255, alpha)))
    })
}

/// `part` over `under`, as far as `alpha` (of 255) lets it cover.
fn mix(part: u8, under: u8, alpha: u8) -> u8 {
    let (part, under, alpha) = (u32::from(part), u32::from(under), u32::from(alpha));
    let mixed = (part * alpha + under * (255 - alpha)) / 255;
    u8::try_from(mixed).unwrap_or(u8::MAX)
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_LETTERS_MAX).collect()
}

fn repeat(canvas: &mut RgbImage, line: &str, from: u32, y: u32, scale: u32) {
    let letters = u32::try_from(line.chars().count()).unwrap_or(1).max(1);
    let step = (letters + 3) * LETTER_PIXELS * scale;
    let mut x = from;
    loop {
        write(canvas, line, (x, y), scale, [Rgb([255, 255, 255]), Rgb([0, 0, 0])], 150);
        x += step;
        if x >= canvas.width() {
            return;
        }
    }
}

/// Writes a line once: light letters with a dark edge, readable on everything.
fn write(
    canvas: &mut RgbImage,
    line: &str,
    (left, top): (u32, u32),
    scale: u32,
    [ink, edge]: [Rgb<u8>; 2],
    alpha: u8,
) {
    for (index, letter) in line.chars().enumerate() {
        let x = left + u32::try_from(index).unwrap_or_default() * LETTER_PIXELS * scale;
        if x >= canvas.width() {
            return;
        }
        let glyph = glyph(letter);
        for (colour, shift) in [(edge, scale), (ink, 0)] {
            for (dy, bits) in (0..LETTER_PIXELS).zip(glyph) {
                for dx in (0..LETTER_PIXELS).filter(|dx| bits >> dx & 1 == 1) {
                    let at = (x + dx * scale + shift, top + dy * scale + shift);
                    fill(canvas, at, scale, colour, alpha);
                }
            }
        }
    }
}

fn glyph(letter: char) -> [u8; 8] {
    font8x8::BASIC_FONTS
        .get(letter)
        .or_else(|| font8x8::LATIN_FONTS.get(letter))
        .or_else(|| font8x8::BASIC_FONTS.get(UNKNOWN))
        .unwrap_or_default()
}

fn fill(canvas: &mut RgbImage, (x, y): (u32, u32), side: u32, colour: Rgb<u8>, alpha: u8) {
    for y in y..(y + side).min(canvas.height()) {
        for x in x..(x + side).min(canvas.width()) {
            let pixel = canvas.get_pixel_mut(x, y);
            for (under, part) in pixel.0.iter_mut().zip(colour.0) {
                *under = mix(part, *under, alpha);
            }
        }
    }
}

/// The picture that stands for one that is not given to a device, as PNG.
pub(super) fn placeholder(lines: &[&str]) -> Result<Bytes, Error> {
    const WIDTH: u32 = 480;
    const HEIGHT: u32 = 270;
    const SCALE: u32 = 2;
    let mut canvas = RgbImage::from_pixel(WIDTH, HEIGHT, Rgb([27, 54, 75]));
    let line_pixels = LETTER_PIXELS * SCALE + 10;
    let height = line_pixels * u32::try_from(lines.len()).unwrap_or(1);
    let mut top = HEIGHT.saturating_sub(height) / 2;
    for line in lines {
        let width = u32::try_from(line.chars().count()).unwrap_or(1) * LETTER_PIXELS * SCALE;
        let left = WIDTH.saturating_sub(width) / 2;
        let ink = Rgb([255, 255, 255]);
        write(&mut canvas, line, (left, top), SCALE, [ink, Rgb([10, 20, 30])], 255);
        top += line_pixels;
    }
    let mut out = Vec::new();
    canvas.write_to(&mut Cursor::new(&mut out), ImageFormat::Png).map_err(Error::internal)?;
    Ok(out.into())
}

/// A moment in UTC as people write it: `2026-11-22 17:05 UTC`.
pub fn moment(now_ms: u64) -> String {
    let seconds = i64::try_from(now_ms / 1_000).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", time.hour(), time.minute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_people_write_it() {
        assert_eq!(moment(0), "1970-01-01 00:00 UTC");
        assert_eq!(moment(951_825_600_000), "2000-02-29 12:00 UTC");
        assert_eq!(moment(1_795_362_300_000), "2026-11-22 15:45 UTC");
        assert_eq!(moment(4_102_444_799_000), "2099-12-31 23:59 UTC");
    }

    #[test]
    fn the_mark_is_everywhere_and_differs_by_reader() {
        let plain = RgbImage::from_pixel(800, 600, Rgb([120, 60, 60]));
        let mut source = Vec::new();
        plain.write_to(&mut Cursor::new(&mut source), ImageFormat::Png).unwrap();
        let marked = |who: &str| {
            let lines = [who.to_owned(), moment(0)];
            image::load_from_memory(&mark(&source, &lines).unwrap()).unwrap().to_rgb8()
        };
        let (amara, ben) = (marked("@amara:h.example"), marked("@ben:h.example"));
        assert_eq!((amara.width(), amara.height()), (800, 600));
        // In every ninth of the picture something is written.
        for (left, top) in (0..3).flat_map(|x| (0..3).map(move |y| (x * 266, y * 200))) {
            let changed = (left..left + 266)
                .flat_map(|x| (top..top + 200).map(move |y| (x, y)))
                .filter(|(x, y)| amara.get_pixel(*x, *y)[1].abs_diff(60) > 40)
                .count();
            assert!(changed > 100, "{left} {top}: {changed}");
        }
        assert_ne!(amara, ben);
    }

    #[test]
    fn tiny_and_odd_pictures_are_marked_too() {
        for (width, height) in [(1, 1), (5, 300), (300, 5)] {
            let mut source = Vec::new();
            let plain = RgbImage::from_pixel(width, height, Rgb([9, 9, 9]));
            plain.write_to(&mut Cursor::new(&mut source), ImageFormat::Png).unwrap();
            let long = "\u{1f9b5}".repeat(500);
            let marked = mark(&source, &[long]).unwrap();
            let marked = image::load_from_memory(&marked).unwrap();
            assert_eq!((marked.width(), marked.height()), (width, height));
        }
        assert!(mark(b"no picture", &[]).is_err());
    }

    #[test]
    fn the_placeholder_says_something() {
        let picture = image::load_from_memory(&placeholder(&["Look elsewhere"]).unwrap()).unwrap();
        let picture = picture.to_rgb8();
        assert!(picture.pixels().filter(|pixel| pixel.0 == [255, 255, 255]).count() > 200);
    }
}
