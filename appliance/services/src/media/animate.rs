//! Thumbnails that move ([spec]): animated GIF, PNG and WebP become smaller animated GIFs, one picture
//! after the other, so that two pictures at most are in memory.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediathumbnailservernamemediaid

use std::io::Cursor;

use appliance_model::Error;
use bytes::Bytes;
use image::codecs::gif::{GifDecoder, GifEncoder, Repeat};
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, DynamicImage, Frame, Frames, ImageDecoder, ImageFormat};

use super::thumbnail::{RENDERING_BYTES_MAX, Size, decoder_limits, format_of, shrink};

/// Ten seconds of a lively picture.
const FRAMES_MAX: usize = 250;
/// All pictures together may have so many times the pixels of the largest single one: about two
/// seconds of decoding.
const PIXELS_FACTOR: u64 = 2;
/// Colours are chosen from every tenth pixel: nobody sees the difference in a thumbnail.
const COLOUR_SPEED: i32 = 10;

/// A smaller picture that moves; none if the source stands still, or is too long to be made here. Then
/// a still one stands for it.
///
/// # Errors
///
/// What is no picture.
pub(super) fn animated(source: &[u8], size: Size, pixels_max: u64) -> Result<Option<Bytes>, Error> {
    let format = format_of(source)?;
    let Some(((width, height), frames)) = frames(source, format, pixels_max) else {
        return Ok(None);
    };
    let of_each = u64::from(width) * u64::from(height);
    if of_each == 0 || of_each > pixels_max {
        return Ok(None);
    }
    let affordable = pixels_max.saturating_mul(PIXELS_FACTOR) / of_each;
    let frames_max = FRAMES_MAX.min(usize::try_from(affordable).unwrap_or(FRAMES_MAX));
    Ok(smaller(frames, size, frames_max))
}

type Moving<'a> = ((u32, u32), Frames<'a>);

fn frames(source: &[u8], format: ImageFormat, pixels_max: u64) -> Option<Moving<'_>> {
    let limits = decoder_limits(pixels_max);
    let source = Cursor::new(source);
    match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(source).ok()?;
            decoder.set_limits(limits).ok()?;
            Some((decoder.dimensions(), decoder.into_frames()))
        }
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(source, limits).ok()?;
            let dimensions = decoder.dimensions();
            decoder.is_apng().ok()?.then_some(())?;
            Some((dimensions, decoder.apng().ok()?.into_frames()))
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(source).ok()?;
            decoder.set_limits(limits).ok()?;
            decoder.has_animation().then_some(())?;
            Some((decoder.dimensions(), decoder.into_frames()))
        }
        _ => None,
    }
}

/// None for a single picture, too many, a broken one, or a result that is too large.
fn smaller(frames: Frames<'_>, size: Size, frames_max: usize) -> Option<Bytes> {
    let mut out = Vec::new();
    let mut count = 0;
    {
        let mut encoder = GifEncoder::new_with_speed(&mut out, COLOUR_SPEED);
        encoder.set_repeat(Repeat::Infinite).ok()?;
        for frame in frames {
            if count == frames_max {
                return None;
            }
            count += 1;
            let frame = frame.ok()?;
            let delay = frame.delay();
            let picture = DynamicImage::ImageRgba8(frame.into_buffer());
            let picture = shrink(picture, size.width, size.height, size.crop).into_rgba8();
            encoder.encode_frame(Frame::from_parts(picture, 0, 0, delay)).ok()?;
        }
    }
    let fits = u64::try_from(out.len()).is_ok_and(|bytes| bytes <= RENDERING_BYTES_MAX);
    (count > 1 && fits).then(|| out.into())
}

#[cfg(test)]
mod tests {
    use image::{Delay, Rgba, RgbaImage};

    use super::super::thumbnail::SIZES;
    use super::*;

    fn gif(frames: u8, side: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = GifEncoder::new_with_speed(&mut out, 30);
        for shade in 0..frames {
            let picture = RgbaImage::from_pixel(side, side, Rgba([shade, 0, 0, 255]));
            let delay = Delay::from_numer_denom_ms(100, 1);
            encoder.encode_frame(Frame::from_parts(picture, 0, 0, delay)).unwrap();
        }
        drop(encoder);
        out
    }

    fn size() -> Size {
        SIZES[1]
    }

    #[test]
    fn what_moves_still_moves_and_is_smaller() {
        let made = animated(&gif(3, 200), size(), 40_000_000).unwrap().unwrap();
        let decoder = GifDecoder::new(Cursor::new(&made[..])).unwrap();
        assert_eq!(decoder.dimensions(), (96, 96));
        let frames = decoder.into_frames().collect_frames().unwrap();
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[0].delay().numer_denom_ms(), (100, 1));
    }

    #[test]
    fn what_stands_still_or_goes_on_for_too_long_is_no_animation() {
        assert_eq!(animated(&gif(1, 20), size(), 40_000_000).unwrap(), None);
        let long = gif(10, 100);
        assert_eq!(animated(&long, size(), 40_000).unwrap(), None, "8 pictures are affordable");
        assert!(animated(&long, size(), 50_000).unwrap().is_some());
        assert_eq!(animated(&long, size(), 9_999).unwrap(), None, "one is too large");
        let mut still = Vec::new();
        let picture = RgbaImage::new(20, 20);
        picture.write_to(&mut Cursor::new(&mut still), ImageFormat::Png).unwrap();
        assert_eq!(animated(&still, size(), 40_000_000).unwrap(), None);
        assert_eq!(animated(&long[..long.len() / 2], size(), 40_000_000).unwrap(), None, "broken");
        assert!(animated(b"no picture", size(), 40_000_000).is_err());
    }
}
